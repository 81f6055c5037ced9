"""The CronJobs: what Kubernetes knows, restricted, and running the image as its Dockerfile means it."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.schedule.cronjob import IMAGE, NAMESPACE, SECRET, render, render_cronjob
from pipelines.schedule.declared import MAX_NAME, Schedule
from tests.kubernetes_api.core_kinds import model_schema
from tests.kubernetes_api.schema import faults, unknown_fields

ROOT = Path(__file__).parents[3]


def a_schedule(**changes) -> Schedule:
    given = {
        "name": "weekly",
        "cron": "0 3 * * MON",
        "entry_point": "retrain",
        "parameters": {"name": "chat", "data": "s3://data/chats"},
        **changes,
    }
    return Schedule.model_validate(given)


def pod(schedule: Schedule) -> Any:
    return render_cronjob(schedule)["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "schedule",
    [
        a_schedule(),
        a_schedule(overlap="replace", enabled=False, time_zone="Europe/Berlin"),
        a_schedule(name="a" * MAX_NAME, resources={"cpus": 0.5, "memory_gib": 0.3, "gpus": 1}),
    ],
)
def test_kubernetes_knows_every_field_and_takes_every_value(schedule) -> None:
    documents = list(yaml.safe_load_all(render([schedule])))
    for document in documents:
        schema = model_schema(f"V1{document['kind']}")
        assert list(unknown_fields(document, schema)) == []
        assert list(faults(document, schema)) == []
    assert [d["kind"] for d in documents] == ["ServiceAccount", "CronJob"]


def test_the_stand_in_sees_a_field_that_kubernetes_does_not_know() -> None:
    broken = render_cronjob(a_schedule())
    broken["spec"]["timezone"] = "UTC"
    assert list(unknown_fields(broken, model_schema("V1CronJob"))) == ["spec.timezone"]


@pytest.mark.parametrize(
    ("overlap", "policy"), [("forbid", "Forbid"), ("replace", "Replace"), ("allow", "Allow")]
)
def test_the_schedule_is_told_in_kubernetes_words(overlap, policy) -> None:
    spec = render_cronjob(
        a_schedule(overlap=overlap, time_zone="Europe/Berlin", starting_deadline_s=120)
    )["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 3 * * MON", "Europe/Berlin")
    assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == (policy, 120)
    assert spec["suspend"] is False
    assert render_cronjob(a_schedule(enabled=False))["spec"]["suspend"] is True


def test_the_longest_name_leaves_room_for_its_jobs() -> None:
    assert MAX_NAME + len("-29876543210"[:11]) <= 63


def test_the_image_is_told_what_mlflow_run_takes() -> None:
    dockerfile = (ROOT / "docker" / "pipeline.Dockerfile").read_text()
    [entry] = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, flags=re.MULTILINE)
    [container] = pod(a_schedule())["containers"]
    words = [*yaml.safe_load(entry), *container["args"]]
    assert shlex.join(words) == (
        "mlflow run . --env-manager local -e retrain -P name=chat -P data=s3://data/chats"
    )


def test_it_writes_where_the_image_and_its_volumes_let_it() -> None:
    dockerfile = (ROOT / "docker" / "pipeline.Dockerfile").read_text()
    [container] = pod(a_schedule())["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    given = {one["name"]: one["value"] for one in container["env"]}
    assert f"SHIPWAY_HOME={given['SHIPWAY_HOME']}" in dockerfile
    assert {given["SHIPWAY_HOME"], given["HOME"]} == mounted
    assert f"USER {pod(a_schedule())['securityContext']['runAsUser']}:" in dockerfile


def test_it_meets_the_restricted_pod_security_standard() -> None:
    spec = pod(a_schedule())
    [container] = spec["containers"]
    security = container["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {tuple(volume.keys() - {"name"}) for volume in spec["volumes"]} == {("emptyDir",)}
    assert spec["automountServiceAccountToken"] is False


def test_secrets_come_by_reference_and_no_pod_is_tried_twice() -> None:
    spec = pod(a_schedule())
    [container] = spec["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": SECRET}}]
    assert (container["image"], spec["restartPolicy"]) == (IMAGE, "Never")
    job = render_cronjob(a_schedule())["spec"]["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0


def test_everything_is_in_the_controllers_namespace_and_nothing_has_an_anchor() -> None:
    text = render([a_schedule(), a_schedule(name="other")])
    assert {d["metadata"]["namespace"] for d in yaml.safe_load_all(text)} == {NAMESPACE}
    assert "&" not in text


def test_resources_are_spelled_as_kubernetes_has_them() -> None:
    given = {"cpus": 0.5, "memory_gib": 0.3, "gpus": 1, "disk_gib": 7}
    spec = pod(a_schedule(resources=given))
    assert spec["containers"][0]["resources"]["limits"] == {
        "cpu": "500m",
        "memory": "308Mi",
        "nvidia.com/gpu": "1",
    }
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "7Gi"}
