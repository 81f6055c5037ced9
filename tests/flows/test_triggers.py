"""Every hand in a real MLflow registry, and what becomes of it: the table of docs/triggers.md, line by line.

The controller is the real one, too; platform, users and clock are fakes, so that a rollout takes a second.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest

from deploy_targets.endpoint import AliasRequest, StageRequest
from deploy_targets.rollout.nudge import HOOK_EVENTS, HOOK_PATH
from deploy_targets.routing.traffic import Traffic
from registry.promotion import AliasTrigger, MoveAlias, StageTrigger, Trigger
from registry.release import GATE_TAG
from tests.builders import a_version, an_endpoint
from tests.rollout.test_controller import World
from tests.servers import Receiver, Servers

pytestmark = [
    pytest.mark.real,
    # MLflow says so of each transition that Shipway makes; those of people are expected to warn below.
    pytest.mark.filterwarnings("ignore:.*transition_model_version_stage:FutureWarning"),
]

PRODUCTION = StageTrigger(stage="Production")


class Registry(World):
    """A world whose registry is a real one. Versions 1 to 4 have passed their gate, 5 has not; v1 serves."""

    def __init__(self, folder: Path, servers: Servers, trigger: Trigger) -> None:
        self.model = f"model-{uuid4().hex[:8]}"
        self.servers, self.client = servers, servers.client
        by = (
            AliasRequest()
            if isinstance(trigger, AliasTrigger)
            else StageRequest(stage="Production")
        )
        declared = an_endpoint().model_copy(update={"model": self.model, "promote": by})
        assert declared.trigger == trigger
        super().__init__(folder, declared)
        self.controller._registry = servers.registry
        for number in "12345":
            self.register(self.model, number, passed=number != "5")
        if isinstance(trigger, AliasTrigger):
            self.point("challenger", "1")
        else:
            self.move("1")
        self.settle()
        assert self.target.traffic == Traffic.all_to("1")
        assert self.aliases == {"champion": "1"}

    def register(self, model: str, number: str, *, passed: bool = True) -> None:
        version = a_version(number, passed=passed)
        self.servers.registry.register(model, source=version.source, run_id=None, tags=version.tags)

    def point(self, alias: str, version: str | None, model: str | None = None) -> None:
        """The click on an alias."""
        self.servers.registry.write(model or self.model, MoveAlias(alias=alias, version=version))

    def move(self, version: str, stage: str = "Production", *, archive: bool = False) -> None:
        """The click on a stage."""
        with pytest.warns(FutureWarning, match="stages"):
            self.client.transition_model_version_stage(
                self.model, version, stage, archive_existing_versions=archive
            )

    def start(self, version: str) -> None:
        """Until that version has some of the traffic."""
        for _ in range(10):
            self.tick()
            if self.target.traffic.percent(version):
                return
        raise AssertionError(self.state)

    def settle(self) -> None:
        """Until nothing is under way."""
        for _ in range(40):
            self.tick()
            if self.state.rollout is None and not self.state.idle_since:
                break
        self.tick(2)
        assert self.state.rollout is None

    @property
    def aliases(self) -> dict[str, str]:
        return dict(self.servers.registry.aliases(self.model))

    @property
    def stages(self) -> dict[str, str]:
        return {
            one.version: one.stage
            for one in self.servers.registry.versions(self.model)
            if one.stage != "None"
        }

    def answer(self, version: str) -> tuple[str, str]:
        tags = self.servers.registry.version(self.model, version).tags
        return tags.get("shipway.status", ""), tags.get("shipway.reason", "")

    @property
    def serves(self) -> str:
        """The one version that has all the traffic."""
        (version,) = self.target.traffic.weights
        return version


@pytest.fixture
def by_alias(tmp_path: Path, servers: Any) -> Registry:
    return Registry(tmp_path, servers, AliasTrigger())


@pytest.fixture
def by_stage(tmp_path: Path, servers: Any) -> Registry:
    return Registry(tmp_path, servers, PRODUCTION)


def test_an_alias_that_is_set_is_rolled_out_and_becomes_champion(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("2", {"champion": "2"})
    assert by_alias.answer("2")[0] == "promoted"


def test_an_alias_that_is_moved_starts_over_with_the_other_version(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    by_alias.point("challenger", "3")
    by_alias.tick()
    assert not by_alias.target.traffic.percent("2")
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("3", {"champion": "3"})
    assert by_alias.outcomes == ["promoted", "superseded", "promoted"]


def test_an_alias_that_is_deleted_withdraws_its_rollout(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    by_alias.point("challenger", None)
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("1", {"champion": "1"})
    assert by_alias.outcomes == ["promoted", "withdrawn"]


def test_a_champion_moved_by_hand_is_put_back_and_rolled_out(by_alias: Registry) -> None:
    by_alias.point("champion", "3")
    by_alias.tick()
    assert by_alias.aliases == {"champion": "1", "challenger": "3"}
    assert by_alias.serves == "1"
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("3", {"champion": "3"})


def test_a_champion_moved_to_what_may_not_be_served_is_put_back_and_told_why(
    by_alias: Registry,
) -> None:
    by_alias.point("champion", "5")
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("1", {"champion": "1"})
    assert "did not pass its gate" in by_alias.answer("5")[1]


def test_a_champion_that_is_deleted_by_hand_comes_back(by_alias: Registry) -> None:
    by_alias.point("champion", None)
    by_alias.tick()
    assert (by_alias.serves, by_alias.aliases) == ("1", {"champion": "1"})


def test_an_alias_that_flaps_ends_with_the_last_click(by_alias: Registry) -> None:
    for number in "2323232324":
        by_alias.point("challenger", number)
    by_alias.settle()
    assert by_alias.serves == "4"
    assert by_alias.outcomes == ["promoted", "promoted"]


def test_there_and_back_between_two_looks_is_nothing(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    before = by_alias.state.rollout
    for number in "32":
        by_alias.point("challenger", number)
    by_alias.tick()
    after = by_alias.state.rollout
    assert before is not None
    assert after is not None
    assert after.id == before.id


def test_a_stage_is_rolled_out_and_what_served_is_archived_when_it_has_passed(
    by_stage: Registry,
) -> None:
    by_stage.move("2")
    by_stage.start("2")
    assert by_stage.stages == {"1": "Production", "2": "Production"}
    by_stage.settle()
    assert (by_stage.serves, by_stage.stages) == ("2", {"1": "Archived", "2": "Production"})
    assert by_stage.aliases == {"champion": "2"}


def test_a_stage_that_archived_what_serves_keeps_it_serving_until_the_new_one_has_passed(
    by_stage: Registry,
) -> None:
    by_stage.move("2", archive=True)
    assert by_stage.stages == {"1": "Archived", "2": "Production"}
    by_stage.start("2")
    assert by_stage.target.traffic.percent("1") == 95
    by_stage.settle()
    assert (by_stage.serves, by_stage.stages) == ("2", {"1": "Archived", "2": "Production"})


def test_a_stage_that_is_rolled_back_gives_its_place_back_to_what_mlflow_had_archived(
    by_stage: Registry,
) -> None:
    by_stage.users.failure_rates["2"] = 0.5
    by_stage.move("2", "Staging")
    by_stage.tick()
    by_stage.move("2", archive=True)
    by_stage.settle()
    assert (by_stage.serves, by_stage.stages) == ("1", {"1": "Production", "2": "Staging"})
    assert by_stage.answer("2")[0] == "turned_down"


def test_of_two_versions_in_the_stage_the_one_put_there_last_is_asked_for(
    by_stage: Registry,
) -> None:
    by_stage.move("3")
    by_stage.move("2")
    by_stage.settle()
    assert by_stage.serves == "2"
    assert by_stage.stages == {"1": "Archived", "2": "Production", "3": "Archived"}


def test_a_version_taken_out_of_the_stage_withdraws_its_rollout(by_stage: Registry) -> None:
    by_stage.move("2")
    by_stage.start("2")
    by_stage.move("2", "Archived")
    by_stage.settle()
    assert (by_stage.serves, by_stage.stages) == ("1", {"1": "Production", "2": "Archived"})
    assert by_stage.outcomes == ["promoted", "withdrawn"]


def test_what_serves_taken_out_of_the_stage_by_hand_is_put_back(by_stage: Registry) -> None:
    by_stage.move("1", "Archived")
    by_stage.tick()
    assert (by_stage.serves, by_stage.stages) == ("1", {"1": "Production"})


def test_a_promote_model_copy_carries_digest_and_gate_of_its_origin(by_alias: Registry) -> None:
    """The origin's answers and names do not come along: they are of another model."""
    origin = f"{by_alias.model}-staging"
    for number in "678":
        by_alias.register(origin, number)
    by_alias.register(origin, "9", passed=False)
    by_alias.point("candidate", "3", model=origin)
    good = by_alias.client.copy_model_version(f"models:/{origin}/3", by_alias.model).version
    bad = by_alias.client.copy_model_version(f"models:/{origin}/4", by_alias.model).version

    by_alias.point("challenger", bad)
    by_alias.settle()
    assert by_alias.serves == "1"
    assert "did not pass its gate" in by_alias.answer(bad)[1]

    by_alias.point("challenger", good)
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == (good, {"champion": good})
    serving = by_alias.state.serving
    assert serving is not None
    assert (serving.model, serving.source) == (by_alias.model, "s3://shipway/models/8")


def test_a_copy_whose_origin_is_deleted_in_mid_rollout_goes_on(by_alias: Registry) -> None:
    origin = f"{by_alias.model}-staging"
    by_alias.register(origin, "6")
    copy = by_alias.client.copy_model_version(f"models:/{origin}/1", by_alias.model).version
    by_alias.point("challenger", copy)
    by_alias.start(copy)
    by_alias.client.delete_registered_model(origin)
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == (copy, {"champion": copy})


def test_a_challenger_that_is_deleted_is_withdrawn_at_once(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    by_alias.client.delete_model_version(by_alias.model, "2")
    by_alias.tick()
    assert by_alias.serves == "1"
    by_alias.settle()
    assert by_alias.aliases == {"champion": "1"}
    assert by_alias.outcomes == ["promoted", "withdrawn"]


def test_what_serves_is_served_on_when_its_version_is_deleted(by_alias: Registry) -> None:
    """Its bytes are known by digest and lie in S3: taking answers from clients is nothing a registry's click may do."""
    by_alias.client.delete_model_version(by_alias.model, "1")
    by_alias.settle()
    assert by_alias.serves == "1"
    by_alias.point("challenger", "2")
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("2", {"champion": "2"})


def test_a_model_deleted_in_mid_rollout_withdraws_it_and_leaves_what_serves(
    by_alias: Registry,
) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    by_alias.client.delete_registered_model(by_alias.model)
    by_alias.settle()
    assert by_alias.serves == "1"
    assert by_alias.outcomes == ["promoted", "withdrawn"]


def test_a_renamed_model_is_a_deleted_one_until_it_has_its_name_again(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    other = f"{by_alias.model}-renamed"
    by_alias.client.rename_registered_model(by_alias.model, other)
    by_alias.settle()
    assert by_alias.serves == "1"
    by_alias.client.rename_registered_model(other, by_alias.model)
    by_alias.settle()
    assert (by_alias.serves, by_alias.aliases) == ("2", {"champion": "2"})


def test_a_gate_taken_away_in_mid_rollout_is_too_late(by_alias: Registry) -> None:
    by_alias.point("challenger", "2")
    by_alias.start("2")
    failed = json.dumps({"passed": False, "reasons": ["on second thoughts"]})
    by_alias.client.set_model_version_tag(by_alias.model, "2", GATE_TAG, failed)
    by_alias.settle()
    assert by_alias.serves == "2"


def test_mlflow_tells_of_aliases_and_its_app_of_stages_too(
    by_stage: Registry, servers: Any
) -> None:
    secret, port = servers.webhook_secret, servers.controller_port
    url = f"http://127.0.0.1:{port}{HOOK_PATH}"
    with ExitStack() as kept:
        receiver = kept.enter_context(Receiver(port, secret))
        hints = kept.enter_context(receiver.hints())
        # One that stayed would keep this MLflow's deliveries busy with an address where nobody listens.
        kept.callback(servers.registry.remove_webhook, "triggers")
        servers.registry.ensure_webhook(name="triggers", url=url, secret=secret, events=HOOK_EVENTS)
        began, clicks = monotonic(), 0
        # MLflow is deaf to a new webhook until it reads its list of them again.
        while not hints("mlflow", 0):
            assert monotonic() - began < 240
            by_stage.point("note", "2")
            clicks += 1
            sleep(0.2)  # a flood of clicks is delivered late
        by_stage.move("2", archive=True)
        told = hints("plugin", clicks + 1)

    assert {(one["deed"], one["name"]) for one in told[:-1]} == {("alias_set", "note")}
    assert (told[-1]["deed"], told[-1]["name"]) == ("stage_moved", "Production")
