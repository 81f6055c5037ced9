"""Every part is told to listen on loopback only, on the ports it was given, and shows no secret on its command line."""

import itertools
import json
from pathlib import Path

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import parts
from deploy_targets.local.envoy import render_bootstrap
from deploy_targets.local.home import Home
from deploy_targets.local.split import write_first_configuration
from deploy_targets.local.stack import _ENDPOINT_PORTS, _USUAL_PORTS
from tests.builders import an_endpoint

PORTS = dict(zip((*_USUAL_PORTS, *_ENDPOINT_PORTS), itertools.count(20_000)))
ENVOY = ("envoy", "envoy_admin")
USED_BY = {
    "s3": ("s3", "s3_grpc", "weed_master", "weed_master_grpc", "weed_volume", "weed_volume_grpc",
           "weed_filer", "weed_filer_grpc"),
    "mlflow": ("mlflow", "s3", "controller"),
    "ray": tuple(name for name in _USUAL_PORTS if name.startswith("ray_") and name != "ray_serve"),
    "guard": ("guard", "guard_admin", "envoy"),
    "controller": ("controller", "mlflow"),
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def started(home: Home) -> dict[str, parts.Part]:
    secrets, folder = home.secrets(), home.endpoint("chat")
    bootstrap = write_first_configuration(
        folder, port=PORTS["envoy"], admin_port=PORTS["envoy_admin"]
    )
    return {
        "s3": parts.seaweedfs(home, secrets, PORTS),
        "mlflow": parts.mlflow_server(home, secrets, PORTS),
        "ray": parts.ray_head(home, secrets, PORTS),
        "envoy": parts.envoy_proxy(folder, bootstrap),
        "guard": parts.guard(
            an_endpoint(),
            folder=folder,
            port=PORTS["guard"],
            admin_port=PORTS["guard_admin"],
            envoy_port=PORTS["envoy"],
        ),
        "controller": parts.controller(home, secrets, PORTS, Path("endpoints.yaml")),
    }


@pytest.mark.parametrize(("part", "names"), USED_BY.items())
def test_a_part_gets_the_ports_that_were_chosen_for_it(
    started: dict[str, parts.Part], part: str, names: tuple[str, ...]
) -> None:
    told = " ".join((*started[part].command, *started[part].environment.values()))
    assert [name for name in names if str(PORTS[name]) not in told] == []


@pytest.mark.parametrize(
    ("part", "flags"),
    [
        ("s3", ("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.peers=none")),
        ("mlflow", ("--host=127.0.0.1", "--workers=1")),
        ("ray", ("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1")),
    ],
)
def test_a_part_listens_on_loopback(
    started: dict[str, parts.Part], part: str, flags: tuple[str, ...]
) -> None:
    assert set(flags) <= set(started[part].command)


def test_envoy_listens_on_loopback() -> None:
    text = json.dumps(render_bootstrap(folder="/f", port=1, admin_port=2))
    addresses = [piece.split('"')[1] for piece in text.split('"address": ') if piece[0] == '"']
    assert addresses == ["127.0.0.1", "127.0.0.1"]


def test_ray_keeps_its_workers_on_loopback_and_asks_for_a_token(
    started: dict[str, parts.Part], home: Home
) -> None:
    environment = started["ray"].environment
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN"] == home.secrets().ray_token


def test_no_secret_is_on_a_command_line(started: dict[str, parts.Part], home: Home) -> None:
    secrets = home.secrets().model_dump().values()
    shown = [word for part in started.values() for word in part.command]
    assert [word for word in shown if any(secret in word for secret in secrets)] == []


def test_the_guard_gets_no_secret_at_all(started: dict[str, parts.Part], home: Home) -> None:
    told = " ".join(started["guard"].environment.values())
    assert not any(secret in told for secret in home.secrets().model_dump().values())


def test_the_files_with_keys_are_their_owners_alone(
    started: dict[str, parts.Part], home: Home
) -> None:
    files = [home.path / "s3" / name for name in ("identities.json", "security.toml")]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    assert json.loads(files[0].read_text())["identities"][0]["name"] == "shipway"


def test_no_part_reports_to_its_maker(started: dict[str, parts.Part]) -> None:
    assert "-master.telemetry=false" in started["s3"].command
    assert "--disable-usage-stats" in started["ray"].command
    assert started["mlflow"].environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_envoy_gives_up_before_the_guard_does(started: dict[str, parts.Part]) -> None:
    limit = float(started["guard"].environment["SHIPWAY_GUARD_TIMEOUT_S"])
    assert limit > an_endpoint().serving.timeout_s


@pytest.mark.parametrize("target", ["local", "local-triton"])
def test_the_guard_speaks_what_its_revisions_speak(home: Home, target: str) -> None:
    endpoint = Endpoint.model_validate({"name": "chat", "model": "smollm2", "target": target})
    part = parts.guard(
        endpoint,
        folder=home.path,
        port=1,
        admin_port=2,
        envoy_port=3,
    )
    assert part.environment["SHIPWAY_GUARD_PROTOCOL"] == (
        "triton" if target == "local-triton" else "openai"
    )
