"""What a cluster is asked: the words of the job, and nothing secret in what Ray shows."""

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.backend.request import (
    Request,
    choose_address,
    choose_tracking_uri,
    job_id_of,
    parse_config,
    plan_submission,
)
from registry.errors import BadInput

HERE = {
    "SHIPWAY_BUCKET": "models",
    "AWS_ENDPOINT_URL_S3": "http://s3:8333",
    "AWS_ACCESS_KEY_ID": "the id",
    "AWS_SECRET_ACCESS_KEY": "the secret",
    "MLFLOW_TRACKING_PASSWORD": "the password",
    "HF_TOKEN": "the token",
    "RAY_AUTH_TOKEN": "rays token",
    "PATH": "/usr/bin",
}


def a_request(**changes) -> Request:
    values = {
        "entry_point": "retrain",
        "parameters": {"name": "chat", "data": "s3://data/chats"},
        "package_digest": "00",
        "address": "http://ray:8265",
        "tracking_uri": "http://mlflow:5000",
        **changes,
    }
    return Request(**values)


def a_submission(config=None, request=None, here=HERE):
    return plan_submission(
        request or a_request(),
        parse_config(config or {}),
        run_id="7f",
        package=Path("p.zip"),
        here=here,
    )


def test_the_job_is_mlflow_run_that_goes_on_with_the_run() -> None:
    job = a_submission()
    assert job.command == (
        "mlflow run . --env-manager local --run-id 7f -e retrain -P name=chat -P data=s3://data/chats"
    )
    assert (job.job_id, job.metadata["mlflow.run_id"]) == (job_id_of("7f"), "7f")


def test_of_the_environment_only_what_is_named_goes_along_and_no_credential() -> None:
    assert a_submission().environment == {
        "SHIPWAY_BUCKET": "models",
        "AWS_ENDPOINT_URL_S3": "http://s3:8333",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }


def test_resources_folders_and_names_are_told_as_ray_wants_them() -> None:
    job = a_submission(
        {
            "cpus": 4,
            "gpus": 1,
            "memory_gib": 1.5,
            "home": "/state",
            "bin": "/opt/bin",
            "env": ["X"],
        },
        here={"X": "1", "SHIPWAY_BUCKET": "models"},
    )
    assert (job.cpus, job.gpus, job.memory_bytes) == (4, 1, 3 << 29)
    assert job.environment["SHIPWAY_HOME"] == "/state"
    assert job.environment["PATH"] == "/opt/bin:${PATH}"
    assert job.environment["X"] == "1"
    assert "SHIPWAY_BUCKET" not in job.environment


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4)
)
def test_a_parameter_cannot_leave_its_word(parameters) -> None:
    words = shlex.split(a_submission(request=a_request(parameters=parameters)).command)
    assert words[9:] == [w for n, v in parameters.items() for w in ("-P", f"{n}={v}")]


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "HF_TOKEN", "OPENAI_APIKEY",
     "MLFLOW_TRACKING_PASSWORD", "db_password", "PGPASSWORD", "GITHUB_PAT", "ACCESSKEY", "RAY_AUTH_TOKEN",
     "SHIPWAY_SIGNING_KEY_FILE"],
)  # fmt: skip
def test_a_variable_that_may_be_secret_is_refused(name) -> None:
    with pytest.raises(BadInput, match=f"{name}.*dashboard"):
        parse_config({"env": [name]})


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "SHIPWAY_BUCKET", "MONKEY", "AUTHOR"])
def test_a_variable_that_only_looks_like_it_is_not(name) -> None:
    assert parse_config({"env": [name]}).env == (name,)


def test_a_password_in_an_address_that_is_passed_on_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput, match="AWS_ENDPOINT_URL_S3 has a password") as refused:
        a_submission(here={"AWS_ENDPOINT_URL_S3": "http://me:hush@s3"})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"adress": "x"}, "adress: Extra inputs"),
        ({"cpus": -1}, "cpus:"),
        ({"max_package_mib": 501}, "max_package_mib:"),
        ({"env": ["A=1"]}, "'A=1'"),
        ({"memory_gib": 0, "gpus": "many"}, "gpus:"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told_with_its_place(given, told) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        parse_config(given)


def test_the_address_comes_from_the_configuration_or_the_environment_and_never_from_both() -> None:
    given = parse_config({"address": "http://ray:8265/"})
    assert choose_address(given, None) == "http://ray:8265"
    assert choose_address(parse_config({}), "https://ray") == "https://ray"
    assert choose_address(given, "http://ray:8265/") == "http://ray:8265"
    with pytest.raises(BadInput, match="obeys the environment"):
        choose_address(given, "http://other:8265")
    with pytest.raises(BadInput, match="Where is Ray"):
        choose_address(parse_config({}), None)


@pytest.mark.parametrize(
    "address", ["auto", "ray://head:10001", "head:6379", "http://", "http://me:hush@head", "http://[::", "http://h/'"]
)  # fmt: skip
def test_an_address_that_is_no_dashboards_is_refused_without_repeating_a_password(address) -> None:
    with pytest.raises(BadInput, match="dashboard") as refused:
        choose_address(parse_config({"address": address}), None)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "/tmp/mlruns", "http://me:hush@mlflow"])
def test_an_mlflow_that_a_cluster_cannot_reach_is_refused(uri) -> None:
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_PASSWORD") as refused:
        choose_tracking_uri(parse_config({}), uri)
    assert "hush" not in str(refused.value)
    told = parse_config({"tracking_uri": "http://mlflow.svc"})
    assert choose_tracking_uri(told, uri) == "http://mlflow.svc"


def test_two_of_the_same_command_have_one_digest_and_any_other_another() -> None:
    same = a_request(parameters={"data": "s3://data/chats", "name": "chat"})
    assert same.digest == a_request().digest
    others = [
        a_request(entry_point="release"),
        a_request(parameters={"name": "chat"}),
        a_request(package_digest="01"),
        a_request(address="http://other:8265"),
        a_request(tracking_uri="http://other:5000"),
    ]
    assert len({one.digest for one in (same, *others)}) == 6
