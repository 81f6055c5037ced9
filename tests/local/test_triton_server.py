"""How tritonserver is started: on loopback, from its own environment, with nothing that is not asked for."""

from pathlib import Path

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.doctor import examine
from deploy_targets.local.parts import Part
from deploy_targets.local.triton_server import TritonEnvironment, repository_address
from registry.errors import ComponentNotReady

ENVIRONMENT = {
    "PATH": "/usr/bin",
    "AWS_ACCESS_KEY_ID": "key",
    "PYTHONPATH": "/ours",
    "MLFLOW_TRACKING_URI": "http://mlflow",
    "SHIPWAY_PART": "mark",
}


def a_part(tmp_path: Path, **changes: object) -> Part:
    values = {"name": "chat", "model": "smollm2", "target": "local-triton", **changes}
    return TritonEnvironment(tmp_path / "triton").server(
        Endpoint.model_validate(values),
        repository="s3://http://127.0.0.1:8333/shipway/derived",
        folder=tmp_path,
        port=1111,
        metrics_port=2222,
        environment=ENVIRONMENT,
    )


def test_it_listens_on_loopback_alone_and_speaks_http_alone(tmp_path: Path) -> None:
    flags = set(a_part(tmp_path).command)
    assert {"--http-address=127.0.0.1", "--http-port=1111"} <= flags
    assert {"--metrics-address=127.0.0.1", "--metrics-port=2222"} <= flags
    assert "--allow-grpc=false" in flags


def test_it_caches_only_where_the_endpoint_says_so(tmp_path: Path) -> None:
    cached = a_part(tmp_path, triton={"response_cache_bytes": 1 << 24})
    assert "--cache-config=local,size=16777216" in cached.command
    assert "--cache-config" not in " ".join(a_part(tmp_path).command)


def test_it_gets_s3_and_its_own_python_and_nothing_of_ours(tmp_path: Path) -> None:
    environment = a_part(tmp_path, engine={"threads": 2}, resources={"cpus": 2}).environment
    assert environment["PATH"] == f"{tmp_path / 'triton/bin'}:/usr/bin"
    assert environment["AWS_ACCESS_KEY_ID"] == "key"
    assert environment["SHIPWAY_PART"] == "mark"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert not {"PYTHONPATH", "MLFLOW_TRACKING_URI"} & environment.keys()


def test_no_secret_is_on_its_command_line(tmp_path: Path) -> None:
    assert not [word for word in a_part(tmp_path).command if "key" in word]


def test_the_server_of_s3_is_part_of_the_address_where_it_is_not_aws_own() -> None:
    assert repository_address("s3://b/f", "http://127.0.0.1:1") == "s3://http://127.0.0.1:1/b/f"
    assert repository_address("s3://b/f", None) == "s3://b/f"


def test_a_missing_environment_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ComponentNotReady, match="make setup-triton"):
        TritonEnvironment(tmp_path).check()


@pytest.mark.parametrize(("target", "asked"), [("local", False), ("local-triton", True)])
def test_doctor_asks_for_it_only_where_an_endpoint_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, asked
) -> None:
    monkeypatch.setenv("SHIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "deploy_targets.local.doctor.triton_environment", lambda: TritonEnvironment(tmp_path)
    )
    file = tmp_path / "endpoints.yaml"
    file.write_text(
        f"apiVersion: shipway/v1\nendpoints: [{{name: chat, model: m, target: {target}}}]\n"
    )

    lines = [finding.line() for finding in examine(file) if finding.what == "triton"]

    assert [line.split(".")[0] for line in lines] == (
        ["FAIL triton: chat needs it"] if asked else []
    )
