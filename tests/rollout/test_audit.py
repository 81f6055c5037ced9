"""The audit record: complete, chained, and enough to decide again."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from deploy_targets.rollout import audit
from deploy_targets.rollout.audit import Entry, read_chain
from deploy_targets.rollout.replay import entries_of, replay, story
from deploy_targets.rollout.state import EndpointState, Hold, Override
from deploy_targets.rollout_policy import RolloutPolicy
from registry.errors import IntegrityError, NotFound
from tests.builders import a_release, a_version, an_endpoint
from tests.rollout.test_controller import World, serving, world  # noqa: F401


def entries(world: World) -> tuple[Entry, ...]:  # noqa: F811
    return read_chain(world.trail.lines, endpoint="chat", tail=world.state.audit)


def events(world: World) -> list[str]:  # noqa: F811
    return [event["event"] for entry in entries(world) for event in entry.events]


def replayed(world: World, rollout: str):  # noqa: F811
    return replay(entries_of(entries(world), rollout))


def test_a_rollout_is_told_from_its_request_to_its_end(serving: World) -> None:  # noqa: F811
    serving.trail.lines.clear()
    first = serving.state.audit.length
    serving.release("7")
    lines = [json.loads(line) for line in serving.trail.lines]
    assert [line["number"] for line in lines] == list(range(first + 1, first + 1 + len(lines)))
    told = [event["event"] for line in lines for event in line["events"]]
    assert told == ["rollout.started", *["rollout.step_advanced"] * 4, "rollout.promoted"]
    acts = [action.split(" ")[0] for line in lines for action in line["actions"]]
    assert acts[0] == "ApplyRevision"
    assert "ShiftTraffic" in acts
    assert "MoveAlias" in acts
    assert "RetireRevision" in acts
    assert not serving.state.audit.pending


def test_at_rest_nothing_is_told(serving: World) -> None:  # noqa: F811
    serving.tick(3)
    length = serving.state.audit.length
    serving.tick(10)
    assert serving.state.audit.length == length


def test_the_verdict_and_the_numbers_behind_it_are_in_the_record(serving: World) -> None:  # noqa: F811
    serving.users.failure_rates["7"] = 0.4
    serving.release("7")
    (ended,) = [
        event
        for entry in entries(serving)
        for event in entry.events
        if event["event"] == "rollout.rolled_back"
    ]
    assert "e-value" in ended["reason"]
    observed = [
        entry.document["inputs"]["observation"]["increments"]["7"]["errors"]
        for entry in entries(serving)
        if "increments" in entry.document["inputs"]["observation"]
        and "7" in entry.document["inputs"]["observation"]["increments"]
    ]
    assert sum(observed) > 0


@pytest.mark.parametrize("failure_rate", [0.0, 0.4])
def test_todays_code_decides_as_it_did(serving: World, failure_rate: float) -> None:  # noqa: F811
    serving.users.failure_rates["7"] = failure_rate
    serving.release("7")
    done = replayed(serving, "chat-v7")
    assert done.difference is None
    assert done.looks >= 5


def test_todays_code_decides_as_it_did_after_an_operator_came_in_between(
    serving: World,  # noqa: F811
) -> None:
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4)
    for hold in (Hold(reason="the fair is on", by="ada"), None):
        saved = serving.store.load("chat")
        serving.store.save(replace(saved.state, hold=hold), expected=saved.revision)
        serving.tick(3)
    saved = serving.store.load("chat")
    override = Override(to=a_release("5"), reason="operator ada: no", by="ada")
    serving.store.save(replace(saved.state, override=override), expected=saved.revision)
    serving.tick(10)
    assert replayed(serving, "chat-v7").difference is None
    assert {"rollout.waits", "rollout.goes_on", "override.applied"} <= set(events(serving))


def test_where_the_code_is_another_by_now_the_first_other_decision_is_named(
    serving: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving.release("7")
    monkeypatch.setattr(RolloutPolicy, "is_frozen", lambda *_: True)
    difference = replayed(serving, "chat-v7").difference
    assert difference is not None
    assert "rollout.step_advanced" in difference.recorded
    assert "rollout.step_advanced" not in difference.today


@pytest.mark.promise("the audit record is whole afterwards")
@pytest.mark.parametrize("part", ["trail", "record"])
def test_nothing_is_lost_while_it_cannot_be_written_out(serving: World, part: str) -> None:  # noqa: F811
    getattr(serving, part).is_away = True
    serving.release("7")
    getattr(serving, part).is_away = False
    serving.tick(2)
    assert events(serving).count("rollout.promoted") == 2
    assert replayed(serving, "chat-v7").difference is None


def test_a_bucket_that_is_missing_fails_no_look_and_nothing_is_lost(
    serving: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: tuple[str, ...]) -> None:
        message = "S3 does not have the record"
        raise NotFound(message)

    with monkeypatch.context() as patched:
        patched.setattr(serving.trail, "append", refuse)
        serving.release("7")
    assert serving.state.serving == a_release("7")
    serving.tick()
    assert replayed(serving, "chat-v7").difference is None


def test_a_long_outage_is_told_as_such_and_the_decisions_still_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_QUIET_BYTES", 10_000)
    busy = World(tmp_path, an_endpoint(promote={"by": "exposure", "requests": 10_000}))
    busy.release("6")
    busy.trail.is_away = True
    busy.registry.aliases["challenger"] = "7"
    busy.tick(40)
    for hold in (Hold(reason="the fair is on", by="ada"), None):
        saved = busy.store.load("chat")
        busy.store.save(replace(saved.state, hold=hold), expected=saved.revision)
        busy.tick(3)
    busy.users.failure_rates["7"] = 0.6
    busy.tick(40)
    assert len(busy.state.audit.pending) < 25
    told = [json.loads(line) for line in busy.state.audit.pending]
    (held,) = (one for one in told if one["missed"] and "rollout.waits" in str(one["events"]))
    assert "before" in held
    assert "declared" not in held
    assert "facts" not in held["inputs"], "what was told before the gap still holds"
    busy.trail.is_away = False
    busy.tick(2)
    done = replayed(busy, "chat-v7")
    assert done.missed > 0
    assert done.difference is None
    assert "rollout.rolled_back" in events(busy)


def test_beyond_its_room_the_record_never_keeps_the_state_from_being_saved(
    serving: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "MAX_QUIET_BYTES", 12_000)
    monkeypatch.setattr(audit, "MAX_PENDING_BYTES", 24_000)
    serving.trail.is_away = True
    serving.release("7")
    assert sum(map(len, serving.state.audit.pending)) <= 24_000
    serving.trail.is_away = False
    serving.release("8")
    assert sum(entry.missed for entry in entries(serving)) > 0
    assert replayed(serving, "chat-v8").difference is None


def test_while_mlflow_refuses_the_copy_s3_gets_each_line_once(serving: World) -> None:  # noqa: F811
    serving.trail.is_copy_refused = True
    for version in ("7", "8"):
        serving.release(version)
    serving.restart()
    serving.tick(3)
    assert len(serving.trail.lines) == len(set(serving.trail.lines)) == serving.state.audit.length
    assert serving.state.audit.pending
    serving.trail.is_copy_refused = False
    serving.tick()
    assert not serving.state.audit.pending
    assert serving.trail.copied == serving.trail.lines


def test_a_line_that_only_mlflow_lacks_is_still_written_where_s3_fails_after_it(
    serving: World,  # noqa: F811
) -> None:
    serving.trail.is_copy_refused = True
    serving.release("7")
    serving.trail.is_away = True
    serving.release("8")
    serving.trail.is_away = serving.trail.is_copy_refused = False
    serving.tick()
    assert serving.trail.copied == serving.trail.lines
    assert len(set(serving.trail.lines)) == len(serving.trail.lines) == serving.state.audit.length
    assert replayed(serving, "chat-v8").difference is None


@pytest.mark.parametrize(
    ("tampered", "said"),
    [
        (lambda lines: [*lines[:3], *lines[4:]], "lacks its line 4"),
        (
            lambda lines: [*lines[:3], lines[3].replace('"missed":0', '"missed":2'), *lines[4:]],
            "line [45]",
        ),
        (lambda lines: lines[:-1], "ends at line"),
        (lambda lines: [*lines, lines[2].replace('"missed":0', '"missed":1')], "in two ways"),
        (lambda lines: [*lines, "rubbish"], "a line that is none"),
        (lambda lines: [*lines, "[]"], "a line that is none"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"previous"', '"next"')], "that is none"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"missed":0', '"missed":1e999')], "is none"),
        (
            lambda lines: [*lines, re.sub('"chain":"[^"]*"', '"chain":[]', lines[2])],
            "lacks its line 1",
        ),
        (lambda lines: [*lines[1:], lines[0].replace('"chat"', '"char"')], "another endpoint"),
    ],
)
def test_a_record_that_was_tampered_with_is_found_out(serving: World, tampered, said: str) -> None:  # noqa: F811
    lines, tail = serving.trail.lines, serving.state.audit
    assert read_chain(lines, endpoint="chat", tail=tail)
    with pytest.raises(IntegrityError, match=said):
        read_chain(tampered(lines), endpoint="chat", tail=tail)


def test_lines_that_were_written_while_the_record_was_read_are_no_tampering(serving: World) -> None:  # noqa: F811
    tail = serving.state.audit
    serving.release("7")
    lines, length = serving.trail.lines, serving.state.audit.length
    told = read_chain(lines, endpoint="chat", tail=tail, grown_to=length)
    assert len(told) == length > tail.length
    with pytest.raises(IntegrityError, match="added to"):
        read_chain(lines, endpoint="chat", tail=tail, grown_to=length - 1)
    with pytest.raises(IntegrityError, match="ends at line"):
        read_chain(lines[: tail.length - 1], endpoint="chat", tail=tail, grown_to=length)


def test_pieces_that_overlap_are_one_record(serving: World) -> None:  # noqa: F811
    lines, tail = serving.trail.lines, serving.state.audit
    whole = read_chain(lines, endpoint="chat", tail=tail)
    assert read_chain([*lines[2:], *lines], endpoint="chat", tail=tail) == whole


def test_the_story_tells_people_what_happened(serving: World) -> None:  # noqa: F811
    serving.release("7")
    told = "\n".join(story(entries_of(entries(serving), "chat-v7")))
    assert "rollout.started" in told
    assert "rollout.promoted" in told
    assert 'then: ShiftTraffic {"traffic":{"weights":{"6":95,"7":5}}}' in told
    assert "looks that decided nothing" in told


def test_a_superseded_rollouts_story_tells_its_end(serving: World) -> None:  # noqa: F811
    serving.registry.aliases["challenger"] = "7"
    serving.tick(4, requests=10)
    serving.release("8")
    told = [
        event["event"] for one in entries_of(entries(serving), "chat-v7") for event in one.events
    ]
    assert told[0] == "rollout.started"
    assert "rollout.superseded" in told
    for rollout in ("chat-v7", "chat-v8"):
        assert replayed(serving, rollout).difference is None


def test_a_version_is_not_another_one_that_begins_alike(serving: World) -> None:  # noqa: F811
    serving.registry.versions["71"] = a_version("71")
    serving.release("7")
    serving.release("71")
    found = {entry.rollout for entry in entries_of(entries(serving), "chat-v7")}
    assert len(found) == 1
    assert str(found.pop()).startswith("chat-v7-")


def test_a_rollout_that_is_not_in_the_record_is_named_with_those_that_are(serving: World) -> None:  # noqa: F811
    with pytest.raises(NotFound, match=r"no rollout 'chat-v9'.*chat-v6-"):
        entries_of(entries(serving), "chat-v9")


def test_a_refusal_is_a_decision_too(serving: World) -> None:  # noqa: F811
    serving.registry.versions["7"] = a_version("7", passed=False, reasons=("perplexity",))
    serving.registry.aliases["challenger"] = "7"
    serving.tick(3)
    assert "promotion.refused" in events(serving)
    assert not serving.state.audit.pending


def test_when_the_state_is_lost_another_chain_begins_and_the_old_one_still_holds(
    serving: World,  # noqa: F811
) -> None:
    saved = serving.store.load("chat")
    serving.store.save(EndpointState(endpoint="chat"), expected=saved.revision)
    serving.release("7")
    told = entries(serving)
    assert len({entry.chain for entry in told}) == 2
    assert next(entry.number for entry in told if entry.chain == told[-1].chain) == 1
    assert replayed(serving, "chat-v7").difference is None
