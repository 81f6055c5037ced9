"""Each line of a policy's input and output, seen to act through a real guard in front of both kinds of engine."""

import json
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from deploy_targets.guard.errors import PolicyUnusable
from deploy_targets.guard.steps import steps_of
from deploy_targets.guard_policy import GuardPolicy
from tests.guard.filter_rules import AWS_KEY as AWS
from tests.guard.stub import DONE, KEY, a_chat
from tests.guard.world import World

CARD = "4111 1111 1111 1111"
PII = {"name": "pii", "kind": "personal_data", "action": "redact"}
NO_KEYS = {"name": "no-keys", "kind": "secrets", "action": "refuse"}

Start = Callable[..., World]


@pytest.fixture(params=["openai", "triton"])
def start(request: pytest.FixtureRequest, start_world: Start) -> Callable[..., World]:
    def started(**policy: Any) -> World:
        steps = steps_of(GuardPolicy.model_validate(policy))
        return start_world(steps=steps, protocol=request.param)

    return started


def prompt_seen(world: World) -> str:
    body = json.loads(world.stub.bodies[0])
    messages = body["messages"] if "messages" in body else json.loads(body["text_input"])
    return messages[-1]["content"]


def streamed_text(body: str) -> tuple[str, str | None]:
    """(text, finish reason) of a stream."""
    text, finish = "", None
    for line in body.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                said = choice["delta"] if "delta" in choice else {"content": choice["text"]}
                text += said.get("content") or ""
                finish = choice["finish_reason"] or finish
    return text, finish


def test_a_prompts_personal_data_do_not_reach_the_model(start: Start) -> None:
    world = start(input={"rules": [PII]})
    assert world.post(a_chat(f"say card {CARD}, mail a@b.de")).status_code == 200
    assert prompt_seen(world) == "say card [card], mail [email]"
    assert world.line()["redactions"] == 2


def test_a_prompt_that_no_rule_touches_goes_on_byte_for_byte(start_world: Start) -> None:
    world = start_world(steps=steps_of(GuardPolicy.model_validate({"input": {"rules": [PII]}})))
    sent = json.dumps(a_chat(seed=3, unknown={"a": [1, None]})).encode() + b"  \n"
    world.sent()
    assert world.http.post("/v1/chat/completions", content=sent).status_code == 200
    assert json.loads(world.stub.bodies[0]) == json.loads(sent)


def test_a_secret_split_over_parts_of_a_message_is_found(start: Start) -> None:
    world = start(input={"rules": [NO_KEYS]})
    parts = [{"type": "text", "text": AWS[:9]}, {"type": "text", "text": AWS[9:]}]
    response = world.post(a_chat(messages=[{"role": "user", "content": parts}]))
    assert response.status_code == 400
    assert world.stub.bodies == []


def test_a_refusal_of_a_prompt_names_its_rule_and_repeats_nothing(start: Start) -> None:
    world = start(input={"rules": [NO_KEYS]})
    response = world.post(a_chat(f"say {AWS}"))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "content_filter")
    assert "'no-keys'" in error["message"]
    assert AWS not in response.text
    line = world.line()
    assert (line["rule"], line["outcome"]) == ("no-keys", "refused")
    assert world.counted() is None


def test_what_rules_do_is_counted_by_their_names_and_at_zero_before(start: Start) -> None:
    world = start(input={"rules": [PII, NO_KEYS]}, output={"rules": [{**NO_KEYS, "name": "out"}]})

    def counted() -> dict[tuple[str, str], float]:
        page = httpx2.get(f"{world.admin_url}/metrics").text
        return {
            (sample.labels["rule"], sample.labels["action"]): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "llm_guard_rules_total"
        }

    before = counted()
    assert before["pii", "redacted"] == before["no-keys", "refused"] == 0
    world.post(a_chat(f"say {CARD} {CARD}"))
    world.post(a_chat(f"say {AWS}"))
    world.line()
    world.line()
    after = counted()
    assert (after["pii", "redacted"], after["no-keys", "refused"]) == (2, 1)
    assert (before["out", "refused"], after["out", "refused"]) == (0, 0)


def test_an_older_completions_prompt_is_looked_at_as_well(start: Start) -> None:
    world = start(input={"rules": [PII]}, output={"rules": [{**NO_KEYS, "action": "redact"}]})
    body = {"model": "chat", "prompt": f"say {CARD} {AWS}", "max_tokens": 8}
    world.sent()
    response = world.http.post("/v1/completions", json=body)
    assert response.json()["choices"][0]["text"] == "[card] [aws_key]"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_finding_in_an_answer_is_redacted(start: Start, *, is_streamed: bool) -> None:
    world = start(
        output={
            "rules": [
                PII,
                {"name": "x", "kind": "words", "words": ["project x"], "action": "redact"},
            ]
        }
    )
    response = world.post(a_chat(f"say pay {CARD} for Project\u200b X now", stream=is_streamed))
    if is_streamed:
        assert response.content.endswith(DONE)
        text, finish = streamed_text(response.text)
    else:
        choice = response.json()["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    assert (text, finish) == ("pay [card] for [x] now", "stop")
    assert world.line()["redactions"] == 2


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_refused_answer_ends_before_the_finding(start: Start, *, is_streamed: bool) -> None:
    world = start(output={"rules": [NO_KEYS]})
    response = world.post(a_chat(f"say the key is {AWS} keep it", stream=is_streamed))
    assert response.status_code == 200
    if is_streamed:
        text, finish = streamed_text(response.text)
        assert response.content.endswith(DONE)
    else:
        choice = response.json()["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    assert (text, finish) == ("the key is ", "content_filter")
    assert "keep" not in response.text
    line = world.line()
    assert (line["rule"], line["outcome"]) == ("no-keys", "answered")
    assert world.counted() == (1, 0)


def test_a_refused_stream_ends_the_work_behind_it(start: Start) -> None:
    world = start(
        output={"rules": [{"name": "x", "kind": "regex", "pattern": "x{9}", "action": "refuse"}]}
    )
    response = world.post(a_chat("drip", stream=True))
    assert streamed_text(response.text)[1] == "content_filter"
    assert response.content.endswith(DONE)
    assert world.stub.ended.wait(10)
    assert world.counted() == (1, 0)


def test_a_version_that_breaks_off_under_a_filter_is_still_at_fault(start: Start) -> None:
    world = start(output={"rules": [PII]})
    world.stub.go_on.set()
    response = world.post(a_chat("break", stream=True))
    assert "error" in response.text
    assert world.counted() == (1, 1)


SCHEMA_ASKED = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object", "required": ["a"]}},
    }
}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_is_not_the_json_asked_for_is_refused(
    start: Start, *, is_streamed: bool
) -> None:
    world = start(output={"json_answers": "refuse"})
    good = world.post(a_chat('say {"a": 1}', stream=is_streamed, **SCHEMA_ASKED))
    assert good.status_code == 200
    assert "answer_unfit" not in good.text
    world.line()
    bad = world.post(a_chat('say {"b": 1}', stream=is_streamed, **SCHEMA_ASKED))
    # A stream of which nothing went out yet is still a status.
    assert bad.status_code in ({200, 502} if is_streamed else {502})
    assert "answer_unfit" in bad.text
    assert "[DONE]" not in bad.text
    line = world.line()
    assert (line["rule"], line["outcome"]) == ("json_answers", "answered")
    assert world.counted() == (2, 0)  # judged as quality, not as an error


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_is_not_the_json_asked_for_is_marked(
    start: Start, *, is_streamed: bool
) -> None:
    world = start(output={"json_answers": "mark"})
    bad = world.post(a_chat("say Sure!", stream=is_streamed, **SCHEMA_ASKED))
    assert bad.status_code == 200
    assert '"content_filter_rule": "json_answers"' in bad.text
    assert world.line()["rule"] == "json_answers"


def test_a_schema_that_cannot_be_used_is_refused_before_anything_is_sent_on(start: Start) -> None:
    world = start(input={}, output={"json_answers": "mark"})
    form = {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:9/"}}}
    response = world.post(a_chat(response_format=form))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"
    assert world.stub.bodies == []


@pytest.mark.parametrize(
    ("limits", "fields", "param"),
    [
        ({"max_messages": 1}, {"messages": [{"role": "user", "content": "a"}] * 2}, "messages"),
        ({"max_prompt_chars": 1}, {}, "messages"),
        ({"max_answer_tokens": 7}, {}, "max_tokens"),
        ({"roles": ["user"]}, {"messages": [{"role": "system", "content": "a"}]}, "messages.0.role"),
        ({"is_order_checked": True}, {"messages": [{"role": "assistant", "content": "a"}]}, "messages.0.role"),
        ({}, {"n": 2}, "n"),
    ],
)  # fmt: skip
def test_each_limit_acts(
    start: Start, limits: dict[str, Any], fields: dict[str, Any], param: str
) -> None:
    world = start(input={"limits": limits})
    response = world.post(a_chat(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert world.stub.bodies == []


def test_a_prompt_that_cannot_fit_is_refused_by_the_models_own_count(
    start: Start, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    world = start(input={"context": {"tokens": 20, "tokenizer": str(path)}})
    assert world.post(a_chat("say " + "long-winded " * 3)).status_code == 200
    response = world.post(a_chat("say " + "word " * 12))
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert len(world.stub.bodies) == 1


def test_a_body_that_could_be_read_in_two_ways_is_refused(start: Start) -> None:
    world = start(input={})
    body = json.dumps(a_chat())[:-1] + ', "model": "chat", "x": 1}'
    response = world.http.post("/v1/chat/completions", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def test_a_long_prompt_is_looked_at_whole(start: Start) -> None:
    world = start(input={"rules": [NO_KEYS]})
    assert world.post(a_chat("word " * 60_000 + AWS)).status_code == 400
    assert world.stub.bodies == []


def test_a_rule_that_cannot_be_checked_in_time_refuses(start: Start) -> None:
    slow = {"name": "slow", "kind": "regex", "pattern": "(?:a|a){1,40}$", "action": "redact"}
    world = start(input={"rules": [slow]})
    response = world.post(a_chat("say " + "a" * 40 + "b"))
    assert response.status_code == 400
    assert "in time" in response.json()["error"]["message"]


def test_the_official_client_understands_both_refusals(start: Start) -> None:
    world = start(input={"rules": [PII | {"action": "refuse"}]}, output={"rules": [NO_KEYS]})
    with OpenAI(base_url=f"{world.url}/v1", api_key=KEY, max_retries=0) as client:

        def ask(text: str) -> Any:
            return client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": text}], stream=True
            )

        with pytest.raises(BadRequestError) as refused:
            ask(f"say {CARD}")
        assert refused.value.code == "content_filter"
        *_, last = ask(f"say {AWS}")
        assert last.choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_neither_prompts_nor_answers_nor_findings_are_in_the_log(
    start: Start, lines: "queue.Queue[dict[str, Any]]", *, is_streamed: bool
) -> None:
    world = start(input={"rules": [PII]}, output={"rules": [PII, NO_KEYS]})
    secret = "topsecretword"
    for text in (f"say {secret} {CARD}", f"say {secret} {AWS}"):
        world.post(a_chat(text, stream=is_streamed))
    told: list[dict[str, Any]] = []
    while sum(line["event"] == "request.served" for line in told) < 2:
        told.append(lines.get(timeout=20))
    assert all(word not in str(told) for word in (secret, CARD, AWS))


RUBBISH = [
    [1], "x", {"a": 1}, [{"index": 0, "message": 1, "delta": 1}], [[]], [None],
    [{"message": {"content": {"a": 1}}, "delta": {"content": {"a": 1}}}], [{"message": {"content": [1]}, "delta": {"content": [1]}}],
]  # fmt: skip


@pytest.mark.parametrize("choices", RUBBISH, ids=str)
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_answer_that_is_none_is_its_versions_error_and_never_ours(
    start_world: Start, choices: Any, path: str, *, is_streamed: bool
) -> None:
    steps = steps_of(GuardPolicy.model_validate({"output": {"rules": [PII]}}))
    world = start_world(steps=steps)
    said = json.dumps({"id": "c", "choices": choices})
    world.sent()
    response = world.http.post(
        path,
        json={**a_chat(f"raw {said}", stream=is_streamed), "prompt": f"raw {said}"},
    )
    assert "internal_error" not in response.text
    if not is_streamed:
        assert response.status_code == 502
    assert world.line()["outcome"] == "failed"
    assert world.counted() == (1, 1)


ODD = [
    [{"index": {}, "message": {"content": "a"}, "delta": {}}], [{}], [{"index": "1", "delta": {"content": None}, "message": {"role": 5}}],
    [{"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}, "finish_reason": {}, "logprobs": 5}],
]  # fmt: skip


@pytest.mark.parametrize("choices", ODD, ids=str)
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_odd_answer_never_becomes_an_error_of_ours(
    start_world: Start, choices: Any, path: str, *, is_streamed: bool
) -> None:
    steps = steps_of(GuardPolicy.model_validate({"output": {"rules": [PII]}}))
    world = start_world(steps=steps)
    said = json.dumps({"id": "c", "choices": choices})
    response = world.http.post(
        path,
        json={**a_chat(f"raw {said}", stream=is_streamed), "prompt": f"raw {said}"},
    )
    assert response.status_code in {200, 502}
    assert "internal_error" not in response.text


def test_rules_see_all_names_that_can_be_counted() -> None:
    policy = GuardPolicy.model_validate(
        {
            "input": {"rules": [PII, {**PII, "name": "ok", "action": "allow"}]},
            "output": {"rules": [NO_KEYS, PII], "json_answers": "mark"},
        }
    )
    assert steps_of(policy).rules == ("pii", "no-keys", "json_answers")


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"rules": [PII, PII]}, "two rules are called 'pii'"),
        ({"rules": [{**PII, "kind": "magic"}]}, "kind"),
        ({"rules": [{**PII, "name": "No Keys"}]}, "name"),
        ({"rules": [{"name": "r", "kind": "regex", "pattern": "(", "action": "redact"}]}, "the pattern of rule 'r' cannot be used"),
        ({"rulez": []}, "rulez"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("section", ["input", "output"])
def test_a_policy_that_contradicts_itself_is_told_in_one_error(
    section: str, part: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match="1 validation error") as told:
        GuardPolicy.model_validate({section: part})
    assert says in str(told.value)


def test_a_tokenizer_that_is_not_there_keeps_the_guard_from_starting(tmp_path: Path) -> None:
    context = {"tokens": 8, "tokenizer": str(tmp_path / "none.json")}
    with pytest.raises(PolicyUnusable, match=r"guard\.input\.context\.tokenizer"):
        steps_of(GuardPolicy.model_validate({"input": {"context": context}}))


def test_a_policy_survives_its_file() -> None:
    policy = GuardPolicy.model_validate({"input": {"rules": [PII]}, "output": {"rules": [NO_KEYS]}})
    assert GuardPolicy.model_validate_json(policy.document()) == policy


@pytest.mark.parametrize(
    "told",
    [
        {"choices": [{"index": 0, "delta": {"content": [{"type": "text", "text": AWS}]}}]},
        {"error": {"message": "no"}, "choices": [{"delta": {"content": [AWS]}}]},
        [{"choices": [{"delta": {"content": AWS}}]}],
    ],
)
def test_what_filters_cannot_read_of_a_stream_is_not_passed_on(
    start_world: Start, told: object
) -> None:
    steps = steps_of(GuardPolicy.model_validate({"output": {"rules": [NO_KEYS]}}))
    world = start_world(steps=steps)
    response = world.post(a_chat(f"raw {json.dumps(told)}", stream=True))
    assert AWS not in response.text
    assert response.json()["error"]["code"] == "upstream_broken"
    assert world.counted() == (1, 1)
