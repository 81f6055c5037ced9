"""The claims of `registry.promotion`: who is admitted, what is asked for, what the registry must say."""

import pytest

from registry.promotion import (
    CHAMPION,
    AliasTrigger,
    MoveAlias,
    RegistryFacts,
    StageTrigger,
    Standing,
    TagVersion,
    TransitionStage,
    check_gate,
    plan_registry,
    read_request,
    withdrawn,
)
from registry.release import (
    DIGEST_TAG,
    GATE_TAG,
    SCORECARD_TAG,
    ModelVersion,
    Refused,
    Release,
)
from tests.builders import a_scorecard, a_version, gate_tags

ALIAS, STAGE = AliasTrigger(), StageTrigger(stage="Production")


def facts(*versions: ModelVersion, **aliases: str) -> RegistryFacts:
    known = {version.version: version for version in versions}
    for version in aliases.values():
        known.setdefault(version, a_version(version))
    return RegistryFacts(model="smollm2", aliases=aliases, versions=known)


def aliases_after(before: RegistryFacts, standing: Standing) -> dict[str, str | None]:
    moved: dict[str, str | None] = dict(before.aliases)
    for change in plan_registry(before, ALIAS, standing):
        if isinstance(change, MoveAlias):
            moved[change.alias] = change.version
    return {alias: version for alias, version in moved.items() if version}


def stages_after(before: RegistryFacts, standing: Standing) -> dict[str, str]:
    stages = {version.version: version.stage for version in before.versions.values()}
    for change in plan_registry(before, STAGE, standing):
        if isinstance(change, TransitionStage):
            stages[change.version] = change.stage
    return stages


def test_a_version_with_digest_and_passed_gate_is_a_release() -> None:
    assert check_gate(a_version("7")) == Release(
        model="smollm2",
        version="7",
        source="s3://shipway/models/7",
        digest=a_version("7").tags[DIGEST_TAG],  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({DIGEST_TAG: "sha256:7"}, "not a digest"),
        ({GATE_TAG: "yes"}, "cannot be read"),
        ({GATE_TAG: '{"passed": false, "reasons": ["perplexity 90 > 45"]}'}, "perplexity 90 > 45"),
        ({GATE_TAG: '{"passed": "true", "reasons": []}'}, "did not pass"),
    ],
)
def test_a_version_that_cannot_be_trusted_is_refused_with_the_reason(
    tags: dict[str, str], said: str
) -> None:
    refused = check_gate(a_version("7", tags=tags))
    assert isinstance(refused, Refused)
    assert said in " ".join(refused.reasons)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (
            {GATE_TAG: '{"passed": true, "reasons": []}'},
            "that cannot be checked: The gate's answer",
        ),
        ({SCORECARD_TAG: "?"}, "that cannot be checked: v7 has no scores"),
        ({SCORECARD_TAG: "[" * 5000}, "that cannot be checked: v7 has no scores"),
        ({SCORECARD_TAG: "{}"}, "that cannot be checked: The scorecard cannot be read"),
        (gate_tags(a_scorecard(loss=9)), "says passed, but its scores do not: perplexity is"),
        ({SCORECARD_TAG: a_scorecard(loss=9).to_json()}, "its scores do not: perplexity is"),
    ],
)
def test_a_gate_that_says_passed_is_not_believed(tags: dict[str, str], said: str) -> None:
    refused = check_gate(a_version("7", tags=tags))
    assert isinstance(refused, Refused)
    assert said in refused.reasons[0]


def test_what_is_much_worse_than_what_serves_by_now_is_refused() -> None:
    serving = a_version("6", tags={SCORECARD_TAG: a_scorecard(loss=1).to_json()})
    refused = check_gate(a_version("7"), serving=serving)
    assert isinstance(refused, Refused)
    assert "compared with no champion, but v6 serves now: perplexity is" in refused.reasons[0]
    assert isinstance(check_gate(a_version("7"), serving=a_version("6")), Release)
    assert isinstance(check_gate(a_version("7")), Release)


@pytest.mark.parametrize("tag", ["", "{}", a_scorecard(evaluation="old").to_json()])
def test_what_cannot_be_compared_with_what_serves_is_refused(tag: str) -> None:
    refused = check_gate(a_version("7"), serving=a_version("6", tags={SCORECARD_TAG: tag}))
    assert isinstance(refused, Refused)
    assert "v6 serves now, which was measured on other texts" in refused.reasons[0]


def test_a_version_without_tags_is_refused_for_every_reason_at_once() -> None:
    refused = check_gate(ModelVersion(model="smollm2", version="7", source="runs:/1/model"))
    assert isinstance(refused, Refused)
    assert len(refused.reasons) == 3


def test_the_alias_asks_unless_it_is_answered_already() -> None:
    asked = facts(champion="6", challenger="7")
    assert read_request(asked, ALIAS, Standing(serving="6", settled_champion="6")) == "7"
    assert read_request(asked, ALIAS, Standing(serving="7", settled_champion="6")) is None
    turned_down = Standing(serving="6", settled_champion="6", rejected={"7": "rolled back"})
    assert read_request(asked, ALIAS, turned_down) is None


def test_a_champion_moved_by_hand_is_put_back_and_becomes_the_request() -> None:
    moved = facts(champion="7")
    standing = Standing(serving="6", settled_champion="6")
    assert read_request(moved, ALIAS, standing) == "7"
    begun = Standing(serving="6", settled_champion="6", in_rollout="7")
    assert aliases_after(moved, begun) == {CHAMPION: "6", "challenger": "7"}


def test_a_champion_moved_by_hand_on_an_empty_endpoint_is_a_first_release() -> None:
    moved = facts(champion="7")
    assert read_request(moved, ALIAS, Standing(serving=None)) == "7"
    assert aliases_after(moved, Standing(serving=None, in_rollout="7")) == {"challenger": "7"}


def test_a_champion_moved_by_hand_that_is_refused_is_not_asked_for_again() -> None:
    moved = facts(champion="7")
    refused = Standing(serving="6", settled_champion="6", rejected={"7": "refused"})
    assert read_request(moved, ALIAS, refused) is None
    assert aliases_after(moved, refused) == {CHAMPION: "6"}


def test_the_old_champion_is_no_hand_move_until_the_promotion_has_settled() -> None:
    lagging = facts(champion="6", challenger="7")
    promoted = Standing(serving="7", settled_champion="6")
    assert read_request(lagging, ALIAS, promoted) is None
    assert aliases_after(lagging, promoted) == {CHAMPION: "7"}


def test_a_deleted_champion_is_restored_and_asks_for_nothing() -> None:
    deleted = facts()
    standing = Standing(serving="6", settled_champion="6")
    assert read_request(deleted, ALIAS, standing) is None
    assert aliases_after(deleted, standing) == {CHAMPION: "6"}


def test_a_turned_down_challenger_loses_its_alias_and_learns_why() -> None:
    changes = plan_registry(
        facts(champion="6", challenger="7"),
        ALIAS,
        Standing(serving="6", settled_champion="6", rejected={"7": "31 errors in 612"}),
    )
    assert MoveAlias(alias="challenger", version=None, was="7") in changes
    told = [c for c in changes if isinstance(c, TagVersion) and c.version == "7"]
    assert "31 errors in 612" in told[0].tags.values()


def test_the_answer_is_written_before_the_request_is_cleared_else_a_crash_would_lose_it() -> None:
    standing = Standing(serving="6", settled_champion="6", rejected={"7": "31 errors in 612"})
    for before, trigger in (
        (facts(champion="6", challenger="7"), ALIAS),
        (facts(a_version("7", stage="Production", updated_ms=3), champion="6"), STAGE),
    ):
        changes = plan_registry(before, trigger, standing)
        kinds = [type(one) for one in changes if getattr(one, "version", None) in {"7", None}]
        assert kinds[0] is TagVersion
        assert len(kinds) == 2


def test_a_rejection_is_forgotten_only_when_the_request_is_gone() -> None:
    rejected = {"7": "rolled back"}
    assert withdrawn(facts(champion="6", challenger="7"), ALIAS, rejected) == frozenset()
    assert withdrawn(facts(champion="7"), ALIAS, rejected) == frozenset()
    assert withdrawn(facts(champion="6", challenger="8"), ALIAS, rejected) == {"7"}


def test_a_stage_asks_for_the_version_put_there_after_the_one_that_serves() -> None:
    old = a_version("5", stage="Production", updated_ms=1)
    serving = a_version("6", stage="Production", updated_ms=2)
    new = a_version("7", stage="Production", updated_ms=3)
    standing = Standing(serving="6", settled_champion="6")
    assert read_request(facts(old, serving, new, champion="6"), STAGE, standing) == "7"
    assert read_request(facts(old, serving, champion="6"), STAGE, standing) is None


def test_a_stage_transition_that_archived_what_serves_still_asks() -> None:
    serving = a_version("6", stage="Archived", updated_ms=9)
    new = a_version("7", stage="Production", updated_ms=8)
    standing = Standing(serving="6", settled_champion="6")
    assert read_request(facts(serving, new, champion="6"), STAGE, standing) == "7"


def test_after_a_promotion_by_stage_the_version_that_served_is_archived() -> None:
    serving = a_version("7", stage="Production", updated_ms=2)
    before = a_version("6", stage="Production", updated_ms=1)
    after = stages_after(facts(serving, before, champion="7"), Standing(serving="7"))
    assert after == {"7": "Production", "6": "Archived"}


def test_after_a_rollback_by_stage_the_new_version_goes_back_where_it_came_from() -> None:
    serving = a_version("6", stage="Archived", updated_ms=3)
    bad = a_version("7", stage="Production", updated_ms=2)
    standing = Standing(
        serving="6", settled_champion="6", rejected={"7": "bad"}, stage_before={"7": "Staging"}
    )
    assert stages_after(facts(serving, bad, champion="6"), standing) == {
        "6": "Production",
        "7": "Staging",
    }


def test_what_serves_keeps_its_stage_during_a_rollout_so_that_the_request_stands() -> None:
    serving = a_version("6", stage="Archived", updated_ms=2)
    new = a_version("7", stage="Production", updated_ms=3)
    before = facts(serving, new, champion="6")
    standing = Standing(serving="6", settled_champion="6", in_rollout="7")
    assert stages_after(before, standing) == {"6": "Archived", "7": "Production"}
    assert read_request(before, STAGE, standing) == "7"


@pytest.mark.parametrize("trigger", [ALIAS, STAGE])
def test_when_the_registry_says_what_is_nothing_is_written(
    trigger: AliasTrigger | StageTrigger,
) -> None:
    serving = a_version(
        "6",
        stage="Production",
        tags={"shipway.status": "promoted", "shipway.reason": "no harm in 150 requests"},
    )
    standing = Standing(serving="6", settled_champion="6", serving_reason="no harm in 150 requests")
    assert plan_registry(facts(serving, champion="6"), trigger, standing) == ()
