"""The RayCronJobs: what KubeRay's schema and its operator take, and nothing that would not be obeyed."""

import re
import shlex

import pytest
import yaml

from pipelines.backend.request import STOP_WAIT_S
from pipelines.schedule import rayjob
from pipelines.schedule.cronjob import NAMESPACE, SECRET
from pipelines.schedule.rayjob import IMAGE, MAX_NAME, PROJECT, RAY_VERSION, render
from registry.errors import BadInput, ManifestInvalid
from tests.contracts.custom_resources import object_faults
from tests.kubernetes_api.core_kinds import model_schema
from tests.kubernetes_api.schema import faults, unknown_fields
from tests.pipelines.schedule.test_cronjob import ROOT, a_schedule

DOCKERFILE = (ROOT / "docker" / "ray.Dockerfile").read_text()


def a_ray_schedule(**changes):
    return a_schedule(**{"overlap": "allow", **changes})


def rendered(schedule, **more):
    documents = list(yaml.safe_load_all(render([schedule], **more)))
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("cluster", [None, "gpus"])
@pytest.mark.parametrize(
    "schedule",
    [
        a_ray_schedule(),
        a_ray_schedule(enabled=False, time_zone="Europe/Berlin"),
        a_ray_schedule(name="a" * MAX_NAME, resources={"cpus": 0.5, "memory_gib": 0.3, "gpus": 1}),
    ],
)
def test_kuberay_and_kubernetes_know_every_field_and_take_every_value(schedule, cluster) -> None:
    documents = rendered(schedule, cluster=cluster)
    assert object_faults(documents.pop("RayCronJob")) == []
    for kind, document in documents.items():
        schema = model_schema(f"V1{kind}")
        assert [*unknown_fields(document, schema), *faults(document, schema)] == []


def test_the_schema_sees_a_field_that_kuberay_does_not_know() -> None:
    broken = rendered(a_ray_schedule())["RayCronJob"]
    broken["spec"]["concurrencyPolicy"] = "Forbid"
    assert object_faults(broken) == ["spec.concurrencyPolicy is unknown"]


def test_the_job_is_the_same_mlflow_run_as_everywhere_in_the_images_project() -> None:
    job = rendered(a_ray_schedule())["RayCronJob"]["spec"]["jobTemplate"]
    assert job["entrypoint"] == (
        f"mlflow run {PROJECT} --env-manager local -e retrain -P name=chat -P data=s3://data/chats"
    )
    assert f"\nWORKDIR {PROJECT}\n" in DOCKERFILE
    assert job["backoffLimit"] == 0
    given = yaml.safe_load(job["runtimeEnvYAML"])["env_vars"]
    assert given["MLFLOW_EXPERIMENT_NAME"] == "shipway/schedules/weekly"
    assert given["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_WAIT_S)


def test_a_parameter_cannot_leave_its_word() -> None:
    nasty = {"name": "chat; touch /tmp/x $(id) 'q'", "data": "s3://data"}
    job = rendered(a_ray_schedule(parameters=nasty))["RayCronJob"]["spec"]["jobTemplate"]
    assert f"name={nasty['name']}" in shlex.split(job["entrypoint"])


def test_a_cluster_of_its_own_ends_with_the_job_and_wants_a_token() -> None:
    given = {"cpus": 2, "memory_gib": 8, "gpus": 1, "disk_gib": 7}
    documents = rendered(a_ray_schedule(resources=given))
    job = documents["RayCronJob"]["spec"]["jobTemplate"]
    assert job["shutdownAfterJobFinishes"] is True
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pod = cluster["headGroupSpec"]["template"]["spec"]
    [container] = pod["containers"]
    assert (container["image"], container["envFrom"]) == (IMAGE, [{"secretRef": {"name": SECRET}}])
    assert container["resources"]["limits"] == {
        "cpu": "2000m",
        "memory": "8Gi",
        "nvidia.com/gpu": "1",
    }
    assert (job["entrypointNumCpus"], job["entrypointNumGpus"]) == (2, 1)
    assert pod["automountServiceAccountToken"] is False
    [rule] = documents["NetworkPolicy"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert {d["metadata"]["namespace"] for d in documents.values()} == {NAMESPACE}


def test_a_cluster_that_is_there_is_named_and_nothing_else_is_made() -> None:
    documents = rendered(a_ray_schedule(), cluster="gpus")
    assert documents.keys() == {"RayCronJob"}
    job = documents["RayCronJob"]["spec"]["jobTemplate"]
    assert job["clusterSelector"] == {"ray.io/cluster": "gpus"}
    # KubeRay refuses both at once, and a life-time for a cluster that is not its own.
    assert not job.keys() & {
        "rayClusterSpec",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
    }


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"overlap": "forbid"}, BadInput, "overlap: allow"),
        ({"overlap": "replace"}, BadInput, "can replace"),
        ({"starting_deadline_s": 3600}, BadInput, "starting_deadline_s"),
        ({"name": "a" * (MAX_NAME + 1)}, ManifestInvalid, "36 characters"),
        ({"name": "7days"}, ManifestInvalid, "begin with a letter"),
    ],
)
def test_what_kuberay_would_not_obey_is_refused(changes, error, told) -> None:
    with pytest.raises(error, match=re.escape(told)):
        render([a_ray_schedule(**changes)])


def test_the_image_has_the_ray_that_kuberay_is_told_of() -> None:
    assert f"ray=={RAY_VERSION}\n" in (ROOT / "constraints.txt").read_text()
    assert '".[ray]"' in DOCKERFILE
    assert f"SHIPWAY_HOME={rayjob.STATE}" in DOCKERFILE
