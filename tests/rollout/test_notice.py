"""What is said in the chat, word by word."""

from dataclasses import replace

import pytest

from deploy_targets.rollout.audit import changes
from deploy_targets.rollout.notice import TELLABLE, compose_notice
from deploy_targets.rollout.settings import NotifySettings
from deploy_targets.rollout.state import EndedRollout, EndpointState, Outcome, Override
from registry.events import Event
from tests.builders import NOON, a_state, an_endpoint, an_exposed_rollout

MLFLOW = "https://mlflow.example.com/"
ROLLOUT = an_exposed_rollout()
UNDER_WAY = replace(a_state("6"), rollout=ROLLOUT)


def told(before: EndpointState, after: EndpointState, *, page: str = "", **more: object) -> str:
    values = {
        "wanted": NotifySettings().events,
        "pages": {ROLLOUT.id: page} if page else {},
        "mlflow_url": MLFLOW,
        **more,
    }
    return compose_notice(an_endpoint(), before, after, happened=changes(before, after), **values)


def ended(outcome: Outcome, reason: str, serving: str) -> EndpointState:
    over = EndedRollout(rollout=ROLLOUT, outcome=outcome, reason=reason, ended=NOON)
    return replace(a_state(serving), unreported=(over,))


def test_a_start_names_the_versions_who_asked_and_the_version_s_page() -> None:
    after = replace(UNDER_WAY, rollout=replace(ROLLOUT, asked_by="alice"))
    assert told(a_state("6"), after) == (
        "chat (smollm2): v7 is being rolled out, asked for by alice, v6 serves\n"
        "https://mlflow.example.com/#/models/smollm2/versions/7"
    )


def test_an_end_says_why_and_leads_to_the_run() -> None:
    page = "#/experiments/3/runs/0a1b"
    after = ended(Outcome.ROLLED_BACK, "error rate 9 % > 1 %", "6")
    assert told(UNDER_WAY, after, page=page) == (
        "chat (smollm2): v7 was rolled back, v6 serves\n"
        "error rate 9 % &gt; 1 %\n"
        "https://mlflow.example.com/#/experiments/3/runs/0a1b"
    )
    after = ended(Outcome.PROMOTED, "no harm was found", "7")
    assert told(UNDER_WAY, after).startswith("chat (smollm2): v7 has passed, v7 serves\nno harm")


def test_a_refusal_names_the_version_that_was_refused() -> None:
    after = replace(a_state("6"), rejected={"8": "refused: its gate says worse"})
    assert told(a_state("6"), after) == (
        "chat (smollm2): v8 was refused, v6 serves\n"
        "refused: its gate says worse\n"
        "https://mlflow.example.com/#/models/smollm2/versions/8"
    )


def test_a_wait_is_told_when_it_begins_and_not_at_each_new_reason() -> None:
    blind = replace(UNDER_WAY, rollout=replace(ROLLOUT, waiting="no metrics: for 5 s"))
    longer = replace(UNDER_WAY, rollout=replace(ROLLOUT, waiting="no metrics: for 10 s"))
    assert "v7 waits at 5 %, v6 serves\nno metrics: for 5 s" in told(UNDER_WAY, blind)
    assert told(blind, longer) == ""


def test_an_override_and_what_it_ended_are_one_text() -> None:
    before = replace(UNDER_WAY, override=Override(to=None, reason="operator bob: nonsense"))
    after = ended(Outcome.ROLLED_BACK, "operator bob: nonsense", "6")
    lines = told(before, after).splitlines()
    assert lines[0] == "chat (smollm2): v7 was rolled back, v6 serves"
    assert lines[2] == "an operator's word was carried out"


def test_what_is_not_wanted_is_not_told() -> None:
    further = replace(UNDER_WAY, rollout=replace(ROLLOUT, step=1))
    assert told(UNDER_WAY, further) == ""
    assert told(a_state("6"), a_state("6")) == ""
    wanted = (Event.ROLLOUT_STEP_ADVANCED,)
    assert "v7 goes on at 25 %" in told(UNDER_WAY, further, wanted=wanted)


def test_nobody_s_words_call_a_channel_or_fill_it() -> None:
    after = replace(a_state("6"), rejected={"8": f"refused: <!channel> {'x' * 5_000}"})
    text = told(a_state("6"), after)
    assert "&lt;!channel&gt;" in text
    assert len(text) < 1_300


def test_without_an_address_of_mlflow_there_is_no_link() -> None:
    assert told(a_state("6"), UNDER_WAY, mlflow_url="").splitlines() == [
        "chat (smollm2): v7 is being rolled out, v6 serves"
    ]


@pytest.mark.parametrize("event", TELLABLE)
def test_whatever_can_be_told_can_be_asked_for(
    event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPWAY_NOTIFY_EVENTS", f"rollout.promoted, {event}")
    assert event in NotifySettings().events


def test_an_event_that_nobody_is_told_of_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHIPWAY_NOTIFY_EVENTS", "tick.failed")
    with pytest.raises(ValueError, match="nobody can be told of tick"):
        NotifySettings()
