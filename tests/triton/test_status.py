"""What an InferenceService's status means, in both of KServe's modes."""

from typing import Any

import pytest

from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness
from deploy_targets.triton.manifest import render_inference_service
from deploy_targets.triton.status import REVISION_LABEL, Knative, read_standard
from tests.builders import a_knative_endpoint, a_release

READY, STARTING, FAILED = Readiness.READY, Readiness.STARTING, Readiness.FAILED
VERSION = "app.kubernetes.io/version"
OLD, NEW, NEWER = "chat-predictor-00001", "chat-predictor-00002", "chat-predictor-00003"


def a_service(**status: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True"}
    whole = {
        "conditions": [ready],
        "deploymentMode": "Standard",
        "modelStatus": {"transitionStatus": "UpToDate"},
        **status,
    }
    return {"metadata": {"name": "chat-v7", "labels": {VERSION: "7"}}, "status": whole}


def a_deployment(
    version: str = "7", available: int = 1, *, revision: str = "", **status: Any
) -> dict[str, Any]:
    labels = {VERSION: version, **({REVISION_LABEL: revision} if revision else {})}
    return {
        "metadata": {"name": revision or "chat-v7-predictor", "generation": 1, "labels": labels},
        "spec": {"replicas": 1},
        "status": {
            "observedGeneration": 1,
            "updatedReplicas": available,
            "availableReplicas": available,
            **status,
        },
    }


def model(transition: str, **failure: str) -> dict[str, Any]:
    return {"modelStatus": {"transitionStatus": transition, "lastFailureInfo": failure}}


@pytest.mark.parametrize(
    ("service", "deployment", "readiness", "reason"),
    [
        (a_service(), a_deployment(), READY, ""),
        (a_service(deploymentMode="RawDeployment"), a_deployment(), READY, ""),
        (a_service(), a_deployment(available=0), STARTING, "0 of 1 replicas answer"),
        (a_service(), a_deployment(observedGeneration=0), STARTING, "1 of 1 replicas"),
        (a_service(), a_deployment(updatedReplicas=0), STARTING, "0 of 1 replicas answer"),
        (a_service(**model("InProgress")), a_deployment(), STARTING, "InProgress"),
        ({"metadata": a_service()["metadata"]}, a_deployment(), STARTING, "is it running?"),
        (
            a_service(**model("BlockedByFailedLoad", message="no such tensor")),
            a_deployment(),
            FAILED,
            "BlockedByFailedLoad: no such tensor",
        ),
        (a_service(**model("InvalidSpec")), a_deployment(), FAILED, "InvalidSpec"),
        (a_service(deploymentMode="Serverless"), a_deployment(), FAILED, "in Serverless mode"),
        (a_service(deploymentMode="Knative"), a_deployment(), FAILED, "Set triton.mode"),
    ],
)
def test_a_state_has_one_meaning_though_ready_is_true_in_all_of_them(
    service: dict[str, Any], deployment: dict[str, Any], readiness: Readiness, reason: str
) -> None:
    revision = read_standard(service, [deployment], [], fewest=1)

    assert (revision.version, revision.readiness) == ("7", readiness)
    assert reason in revision.reason
    assert bool(revision.reason) == bool(reason)


def test_without_its_deployment_it_does_not_answer() -> None:
    assert read_standard(a_service(), [], [], fewest=1).readiness is STARTING


def test_fewer_replicas_than_declared_are_not_ready() -> None:
    deployment = a_deployment(available=2)

    assert read_standard(a_service(), [deployment], [], fewest=2).readiness is READY
    assert read_standard(a_service(), [deployment], [], fewest=3).readiness is STARTING


def knative(
    version: str,
    percent: int,
    *deployments: dict[str, Any],
    beside: str | None = None,
    retiring: str | None = None,
    created: str,
    ready: str,
    rolled_out: str,
    traffic: dict[str, int],
    transition: str = "UpToDate",
) -> Knative:
    rendered = render_inference_service(
        a_knative_endpoint(),
        a_release(version),
        repository="s3://m",
        canary_percent=percent,
        beside=None if beside is None else a_release(beside),
        retiring=retiring,
    )
    predictor = {
        "latestCreatedRevision": created,
        "latestReadyRevision": ready,
        "latestRolledoutRevision": rolled_out,
        "traffic": [{"revisionName": name, "percent": share} for name, share in traffic.items()],
    }
    status = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "deploymentMode": "Knative",
        "modelStatus": {"transitionStatus": transition},
        "components": {"predictor": predictor},
    }
    return Knative(service={**rendered.body, "status": status}, deployments=deployments)


V6 = a_deployment("6", revision=OLD)
V7 = a_deployment("7", revision=NEW)


def said(seen: Observed) -> dict[str, Readiness]:
    return {version: one.readiness for version, one in seen.revisions.items()}


def test_a_first_release_has_no_traffic_until_it_is_rolled_out() -> None:
    """Though Knative gives it everything: there is nobody else."""
    names = {"created": OLD, "ready": OLD, "rolled_out": OLD, "traffic": {OLD: 100}}

    seen = knative("6", 0, V6, **names).observe()
    after = knative("6", 100, V6, **names).observe()

    assert (said(seen), seen.traffic) == ({"6": READY}, Traffic())
    assert (said(after), after.traffic) == ({"6": READY}, Traffic.all_to("6"))


@pytest.mark.parametrize("percent", [0, 5, 50])
def test_two_versions_share_as_the_status_says_and_not_as_the_spec_asks(percent: int) -> None:
    look = knative(
        "7",
        25,
        V6,
        V7,
        beside="6",
        created=NEW,
        ready=NEW,
        rolled_out=OLD,
        traffic={NEW: percent, OLD: 100 - percent},
    )

    seen = look.observe()

    assert said(seen) == {"6": READY, "7": READY}
    assert seen.traffic == Traffic.split("6", "7", percent)


def test_a_challenger_is_not_ready_by_the_revision_before_it() -> None:
    """Ready is True, the model up to date and a revision ready: the champion's."""
    names = {"rolled_out": OLD, "traffic": {OLD: 100}}
    not_taken_up = knative("7", 0, V6, beside="6", created=OLD, ready=OLD, **names)
    loading = knative(
        "7",
        0,
        V6,
        a_deployment("7", 0, revision=NEW),
        beside="6",
        created=NEW,
        ready=OLD,
        **names,
    )

    for look in (not_taken_up, loading):
        assert not look.newest_is_ready
        assert said(look.observe()) == {"6": READY, "7": STARTING}
        assert look.observe().traffic == Traffic.all_to("6")


def test_a_challenger_that_took_anothers_place_is_not_ready_by_the_one_before() -> None:
    look = knative(
        "8",
        0,
        V6,
        V7,
        beside="6",
        created=NEW,
        ready=NEW,
        rolled_out=OLD,
        traffic={NEW: 0, OLD: 100},
    )

    assert said(look.observe()) == {"6": READY, "8": STARTING}


def test_the_champion_that_is_loaded_again_serves_all_the_while() -> None:
    names = {"beside": "6", "retiring": "7", "rolled_out": OLD, "created": NEWER}
    again = a_deployment("6", 0, revision=NEWER)
    loading = knative("6", 0, V6, V7, again, ready=NEW, traffic={NEW: 0, OLD: 100}, **names)
    loaded = knative(
        "6",
        0,
        V6,
        V7,
        a_deployment("6", revision=NEWER),
        ready=NEWER,
        traffic={NEWER: 0, OLD: 100},
        **names,
    )

    assert said(loading.observe()) == {"6": READY}
    assert said(loaded.observe()) == {"6": READY, "7": FAILED}
    for look in (loading, loaded):
        assert look.reloads
        assert look.observe().traffic == Traffic.all_to("6")


def test_what_was_rolled_out_a_moment_ago_is_not_settled_until_kserve_says_so() -> None:
    names = {"beside": "6", "created": NEW, "ready": NEW}

    before = knative("7", 100, V6, V7, rolled_out=OLD, traffic={NEW: 50, OLD: 50}, **names)
    after = knative("7", 100, V6, V7, rolled_out=NEW, traffic={NEW: 100}, **names)

    assert (before.is_settled, after.is_settled) == (False, True)
    assert before.observe().traffic == Traffic.split("6", "7", 50)
    assert said(after.observe()) == {"7": READY}


def test_shares_of_revisions_that_nobody_knows_are_no_traffic() -> None:
    look = knative(
        "7", 100, V7, created=NEW, ready=NEW, rolled_out=NEW, traffic={"gone": 50, NEW: 50}
    )

    assert look.observe().traffic == Traffic()


def test_without_the_object_there_is_nothing() -> None:
    assert Knative(service=None).observe() == Observed()
