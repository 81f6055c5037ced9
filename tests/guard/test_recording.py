"""What is kept of prompts and answers, through a real guard: never without a policy, always redacted, never waited for."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.guard.steps import steps_of
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.filter_rules import AWS_KEY
from tests.guard.stub import KEY, a_chat
from tests.guard.two_versions import until
from tests.guard.world import World

CARD = "4111 1111 1111 1111"
Start = Callable[..., World]


@pytest.fixture
def start(start_world: Start, tmp_path: Path) -> Start:
    def started(**policy: Any) -> World:
        given = {"record": {"sample": 1}, **policy}
        parsed = GuardPolicy.model_validate(given)
        return start_world(policy=parsed, steps=steps_of(parsed), spool_folder=tmp_path / "spool")

    return started


def counted(world: World) -> dict[str, float]:
    page = httpx2.get(f"{world.admin_url}/metrics").text
    return {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "llm_guard_records_total"
    }


def kept(world: World, folder: Path) -> list[dict[str, Any]]:
    """What is there once the guard has ended."""
    world.stop()
    files = sorted((folder / "spool").glob("*.jsonl.gz"))
    assert [one.name for one in (folder / "spool").iterdir()] == [one.name for one in files]
    return [json.loads(line) for one in files for line in gzip.open(one, "rt", encoding="utf-8")]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_prompt_and_answer_are_kept_without_secrets_and_personal_data(
    start: Start, tmp_path: Path, *, is_streamed: bool
) -> None:
    world = start()
    told = f"say card {CARD}, key {AWS_KEY}, mail a@b.de"
    response = world.post(a_chat(told, stream=is_streamed, seed=3, user="jo@b.de"))
    assert CARD in response.text or is_streamed  # the client's own answer is untouched
    until(lambda: counted(world)["written"] == 1)
    (record,) = kept(world, tmp_path)
    redacted = "card [card], key [aws_key], mail [email]"
    assert record["messages"] == [{"role": "user", "content": f"say {redacted}"}]
    assert record["answer"] == redacted
    assert record["parameters"] == {"max_tokens": 8, "seed": 3}
    assert (record["version"], record["endpoint"]) == ("7", "chat")
    assert record["request_id"] == response.headers["x-request-id"]
    written = json.dumps(record)
    assert KEY not in written
    assert "jo@b.de" not in written
    assert "owner" not in written


def test_what_an_own_rule_allows_is_redacted_all_the_same_and_what_it_finds_as_well(
    start: Start, tmp_path: Path
) -> None:
    rules = [
        {"name": "ours", "kind": "regex", "pattern": r"a@b\.de", "action": "allow"},
        {"name": "project", "kind": "words", "words": ["bluebird"], "action": "redact"},
    ]
    world = start(output={"rules": rules})
    world.post(a_chat("say Bluebird asks a@b.de"))
    until(lambda: counted(world)["written"] == 1)
    (record,) = kept(world, tmp_path)
    assert record["answer"] == "[project] asks [email]"
    assert record["messages"][0]["content"] == "say [project] asks [email]"


def test_neither_log_nor_metrics_hold_a_word_of_it(
    start: Start, lines: Any, tmp_path: Path
) -> None:
    world = start()
    world.post(a_chat("say xyzzy"))
    until(lambda: counted(world)["written"] == 1)
    page = httpx2.get(f"{world.admin_url}/metrics").text
    assert "xyzzy" not in page + json.dumps(world.line(), default=str)
    assert "xyzzy" in json.dumps(kept(world, tmp_path))


def test_a_full_spool_drops_and_counts_and_delays_nobody(start: Start, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "20261126T000000Z-a.jsonl.gz").write_bytes(b"x" * (1 << 16))
    world = start()
    assert world.post().status_code == 200
    until(lambda: counted(world) == {"written": 0, "dropped": 1})


def test_what_is_over_the_minutes_number_is_dropped(start: Start) -> None:
    world = start(record={"sample": 1, "requests_per_minute": 1})
    for _ in range(5):
        assert world.post().status_code == 200
    until(lambda: sum(counted(world).values()) == 5)
    assert counted(world)["dropped"] >= 3  # the minute of the clock may turn once


@pytest.mark.promise("answers go out", about="disks")
def test_a_folder_that_went_away_drops_and_is_told_once(start: Start, tmp_path: Path) -> None:
    world = start()
    shutil.rmtree(tmp_path / "spool")
    for number in range(2):
        assert world.post().status_code == 200
        until(lambda number=number: counted(world)["dropped"] == number + 1)
    assert world.told("guard.spool_failed") == 1


def test_pinned_requests_failures_and_refusals_are_not_kept(start: Start, tmp_path: Path) -> None:
    never = {"name": "no", "kind": "words", "words": ["never"], "action": "refuse"}
    world = start(output={"rules": [never]})
    world.post(**{"x-shipway-version": "7"})
    world.post(a_chat("500"))
    world.post(a_chat("say never"))
    world.post(a_chat("say yes"))
    until(lambda: counted(world)["written"] == 1)
    assert [one["answer"] for one in kept(world, tmp_path)] == ["yes"]


def test_without_the_policy_nothing_is_written(start_world: Start, tmp_path: Path) -> None:
    world = start_world(spool_folder=tmp_path / "spool")
    world.post()
    assert counted(world) == {}
    world.stop()
    assert not (tmp_path / "spool").exists()
