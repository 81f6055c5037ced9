"""What is refused before anything is deployed, and why."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.admission import Inspection, admit
from deploy_targets.rollout.inspector import ReleaseInspector
from deploy_targets.rollout.state import Phase
from deploy_targets.routing.traffic import Traffic
from registry.asked_by import Actor, name_tag
from registry.engines import ENGINES_TAG, FORMAT_TAG
from registry.errors import ArtifactStoreUnavailable, IntegrityError
from registry.hints import Deed, Touch
from registry.promotion import RegistryFacts
from registry.release import APPROVAL_TAG, ArtifactManifest, Refused, Release
from registry.signing import SigningKey, make_private_key
from tests.builders import NOON, a_release, a_version, an_endpoint
from tests.rollout.test_controller import World, serving, world  # noqa: F401 - fixtures

ADA, BOB = Actor(user="ada", at=NOON), Actor(user="bob", at=NOON + timedelta(minutes=1))
SECRET = "the servers' own"


def endpoint_with(approval: str) -> Endpoint:
    return an_endpoint().model_copy(
        update={"promote": an_endpoint().promote.model_copy(update={"approval": approval})}
    )


def admitted(
    approval: str,
    *,
    is_tagged: bool = True,
    passed: bool = True,
    waited_s: float = 60.0,
    engines: str | None = None,
    **found: Any,
) -> Release | Refused | None:
    tags = {APPROVAL_TAG: "yes"} if is_tagged else {}
    if engines is not None:
        tags |= {ENGINES_TAG: engines, FORMAT_TAG: "torchao-int8"}
    version = a_version("7", passed=passed, tags=tags)
    facts = RegistryFacts(model="smollm2", versions={"7": version})
    inspection = Inspection(version="7", **found)
    return admit(endpoint_with(approval), facts, "7", inspection, waited_s=waited_s)


@pytest.mark.parametrize(
    ("approval", "found"),
    [
        ("none", {"is_tagged": False}),
        ("none", {"asked_by": ADA, "approved_by": ADA}),
        ("tag", {}),
        ("tag", {"approved_by": BOB}),
        ("tag", {"asked_by": ADA, "approved_by": BOB}),
        ("named", {"asked_by": ADA, "approved_by": BOB}),
    ],
)
def test_what_is_approved_as_the_endpoint_asks_is_admitted(
    approval: str, found: dict[str, Any]
) -> None:
    assert admitted(approval, **found) == a_release("7")


@pytest.mark.parametrize(
    ("approval", "found", "said"),
    [
        ("tag", {"is_tagged": False}, "is not approved"),
        ("named", {"is_tagged": False}, "is not approved"),
        ("tag", {"asked_by": ADA, "approved_by": ADA}, "approved by ada, who also asks"),
        ("named", {"asked_by": ADA, "approved_by": ADA}, "approved by ada, who also asks"),
        # Somebody wrote the tag past the server that knows its users, or forged the name.
        ("tag", {"asked_by": ADA}, "not known who approved"),
        ("named", {"asked_by": ADA}, "not known who approved"),
        ("named", {"approved_by": BOB}, "not known who asks for"),
        ("none", {"artifact_fault": "other bytes"}, "other bytes"),
        ("tag", {"artifact_fault": "other bytes", "is_tagged": False}, "other bytes.*not approved"),
    ],
)
def test_what_is_not_is_refused_with_the_reason(
    approval: str, found: dict[str, Any], said: str
) -> None:
    refused = admitted(approval, **found)
    assert isinstance(refused, Refused)
    assert re.search(said, " ".join(refused.reasons))


def test_what_could_not_be_inspected_is_neither_admitted_nor_refused_unless_its_gate_says_no() -> (
    None
):
    facts = RegistryFacts(model="smollm2", versions={"7": a_version("7")})
    assert admit(endpoint_with("none"), facts, "7", None, waited_s=60) is None
    assert admit(endpoint_with("none"), facts, "7", Inspection(version="6"), waited_s=60) is None
    failed = RegistryFacts(model="smollm2", versions={"7": a_version("7", passed=False)})
    assert isinstance(admit(endpoint_with("none"), failed, "7", None, waited_s=0), Refused)
    assert isinstance(admit(endpoint_with("none"), facts, "8", None, waited_s=0), Refused)


@pytest.mark.parametrize("approval", ["tag", "named"])
def test_a_name_may_come_some_moments_after_the_request(approval: str) -> None:
    early = {"waited_s": 1.0, "may_be_named": True, "approved_by": ADA}
    assert admitted(approval, **early) is None
    assert isinstance(admitted(approval, **early, asked_by=ADA), Refused)
    assert admitted(approval, **early, asked_by=BOB) == a_release("7")
    late = admitted(approval, **{**early, "waited_s": 5.0})
    assert late == a_release("7") if approval == "tag" else isinstance(late, Refused)


class FakeArtifacts:
    """A store in which one thing is wrong, or nothing."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def check(self, source: str, digest: str) -> None:
        if self.error is not None:
            raise self.error


def named_version(*deeds: tuple[Deed, str, str]):
    tags = {APPROVAL_TAG: "yes"}
    for deed, name, user in deeds:
        touch = Touch(deed=deed, model="smollm2", version="7", name=name, user=user, at=NOON)
        tags |= dict([name_tag(touch, SECRET) or ("", "")])
    return a_version("7", tags=tags)


def inspected(version: Any, *, secret: str | None = SECRET, error: Exception | None = None):
    inspector = ReleaseInspector(FakeArtifacts(error), an_endpoint(), secret=secret, trusted=None)  # type: ignore[arg-type]
    return inspector.inspect(version, a_release("7"))


def test_the_names_are_those_that_mlflows_server_signed() -> None:
    version = named_version(
        (Deed.ALIAS_SET, "challenger", "ada"), (Deed.TAG_SET, APPROVAL_TAG, "bob")
    )
    found = inspected(version)
    assert found.asked_by is not None
    assert found.approved_by is not None
    assert (found.asked_by.user, found.approved_by.user) == ("ada", "bob")
    assert inspected(version, secret="another").asked_by is None
    assert inspected(version, secret=None).approved_by is None


def test_other_bytes_are_a_fault_and_a_silent_s3_is_none() -> None:
    assert (
        inspected(a_version("7"), error=IntegrityError("other bytes")).artifact_fault
        == "other bytes"
    )
    with pytest.raises(ArtifactStoreUnavailable):
        inspected(a_version("7"), error=ArtifactStoreUnavailable("away"))


# Whole rollouts


class SignedArtifacts(FakeArtifacts):
    """Artifacts that are whole, with the signatures that were laid beside them."""

    def __init__(self, manifest: ArtifactManifest, signature: bytes | None) -> None:
        super().__init__()
        self.manifest, self.laid = manifest, signature

    def check(self, source: str, digest: str) -> ArtifactManifest:
        return self.manifest

    def signature(self, source: str) -> bytes | None:
        return self.laid


@pytest.mark.parametrize(
    ("laid", "said"),
    [("none", "is not signed"), ("foreign", "not trusted"), ("broken", "cannot be read")],
)
def test_a_version_that_is_not_signed_by_a_trusted_key_is_never_deployed_and_told_why(
    serving: World,  # noqa: F811
    tmp_path: Path,
    laid: str,
    said: str,
) -> None:
    keys = []
    for name in ("ours", "foreign"):
        (tmp_path / name).write_text(make_private_key())
        keys.append(SigningKey.read(tmp_path / name))
    ours, foreign = keys
    manifest = ArtifactManifest(files=())
    signatures = {"none": None, "foreign": foreign.sign(manifest), "broken": b"{"}
    artifacts = SignedArtifacts(manifest, signatures[laid])
    inspector = ReleaseInspector(artifacts, an_endpoint(), secret=None, trusted=ours.trusted)  # type: ignore[arg-type]
    serving.unit = replace(serving.unit, inspector=inspector)
    serving.restart()
    serving.registry.aliases["challenger"] = "7"
    serving.tick(5)
    assert set(serving.target.revisions) == {"6"}
    assert serving.registry.aliases == {"champion": "6"}
    assert said in serving.registry.versions["7"].tags["shipway.reason"]

    # Signed and asked for anew, it goes its way.
    artifacts.laid = ours.sign(manifest)
    serving.registry.aliases["challenger"] = "7"
    serving.tick(30)
    assert serving.target.traffic == Traffic.all_to("7")


def test_a_version_whose_bytes_are_others_is_never_deployed_and_told_why(serving: World) -> None:  # noqa: F811
    serving.inspector.faults["7"] = "s3://b/7 holds other bytes"
    serving.registry.aliases["challenger"] = "7"
    serving.tick(5)
    assert set(serving.target.revisions) == {"6"}
    assert serving.registry.aliases == {"champion": "6"}
    assert "other bytes" in serving.registry.versions["7"].tags["shipway.reason"]


def test_while_s3_is_silent_a_version_waits_and_its_request_stands(serving: World) -> None:  # noqa: F811
    serving.inspector.is_away = True
    serving.registry.aliases["challenger"] = "7"
    serving.tick(5)
    assert serving.state.rollout is None
    assert serving.registry.aliases["challenger"] == "7"
    assert set(serving.target.revisions) == {"6"}
    assert serving.state.asked is not None
    assert serving.clock.now - serving.state.asked.since == timedelta(seconds=40)
    serving.inspector.is_away = False
    serving.tick(30)
    assert serving.target.traffic == Traffic.all_to("7")


def test_a_rollout_that_is_superseded_ends_even_while_the_next_one_waits(serving: World) -> None:  # noqa: F811
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4)
    assert serving.state.rollout is not None
    assert serving.state.rollout.phase is Phase.STEPPING
    serving.inspector.is_away = True
    serving.registry.aliases["challenger"] = "8"
    serving.tick(1)
    assert serving.state.rollout is None
    assert serving.target.traffic == Traffic.all_to("6")


def test_who_asked_before_the_last_answer_did_not_ask_now() -> None:
    """Ada asked and was refused; Bob approves, and asks himself before his own name is written."""
    found = Inspection(version="7", asked_by=ADA, approved_by=BOB, may_be_named=True)
    assert found.named_after(None).asked_by == ADA
    assert found.named_after(NOON - timedelta(seconds=1)).asked_by == ADA
    assert found.named_after(NOON).asked_by is None


def test_a_version_of_any_make_that_is_asked_for_does_not_keep_a_bad_one_under_way(
    serving: World,  # noqa: F811
) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(3)
    serving.users.failure_rates["7"] = 0.6
    serving.registry.versions["8"] = a_version("8", tags={"shipway.gate": "[" * 5000})
    serving.registry.aliases["challenger"] = "8"
    serving.tick(6)
    assert serving.target.traffic == Traffic.all_to("6")
    assert "cannot be read" in serving.registry.versions["8"].tags["shipway.reason"]


@pytest.mark.parametrize("engines", [None, "transformers", "transformers,triton-python"])
def test_a_version_that_the_endpoint_s_engine_can_serve_is_admitted(engines: str | None) -> None:
    assert isinstance(admitted("none", engines=engines), Release)


@pytest.mark.parametrize("engines", ["triton-python,vllm", "", "transformers-2"])
def test_a_version_that_the_endpoint_s_engine_cannot_serve_is_refused(engines: str) -> None:
    refused = admitted("none", engines=engines)
    assert isinstance(refused, Refused)
    assert "engine transformers cannot serve its weights (torchao-int8)" in refused.reasons[0]
