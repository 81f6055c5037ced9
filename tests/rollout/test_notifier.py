"""The chat hears of what happened, and whatever becomes of that, no look is slower for it."""

import json
import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from time import monotonic

import pytest
from structlog.testing import capture_logs

from deploy_targets.rollout.audit import changes
from deploy_targets.rollout.controller import Controller
from deploy_targets.rollout.notifier import Notifier, open_notifier
from deploy_targets.rollout.settings import NotifySettings
from deploy_targets.rollout.state import EndpointState
from registry.errors import BadInput, StateConflict
from tests.builders import a_state, an_endpoint
from tests.fakes import FakeWatcher
from tests.rollout.chat import SECRET, Chat, a_chat_room
from tests.rollout.test_controller import World

MLFLOW = "https://mlflow.example.com"


class Told(World):
    """A world of which a chat is told, each time in another minute; the pauses between attempts are only noted."""

    def __init__(self, folder: Path, chat: Chat) -> None:
        self.pauses: list[float] = []
        minutes = count(0.0, 60.0)
        self.notifier = Notifier(
            chat.url,
            NotifySettings(),
            mlflow_url=MLFLOW,
            pause=self.pauses.append,
            clock=lambda: next(minutes),
        )
        super().__init__(folder)

    def restart(self) -> None:
        super().restart()
        self.controller._notifier = self.notifier


@pytest.fixture
def chat() -> Iterator[Chat]:
    with a_chat_room() as room:
        yield room


@pytest.fixture
def world(tmp_path: Path, chat: Chat) -> Told:
    return Told(tmp_path, chat)


def a_refusal(version: str) -> tuple[EndpointState, EndpointState]:
    before = a_state("6")
    return before, EndpointState(endpoint="chat", rejected={version: "refused: worse"})


def say(notifier: Notifier, version: str = "8") -> None:
    before, after = a_refusal(version)
    notifier.notify(an_endpoint(), before, after, happened=changes(before, after), pages={})


def test_a_rollout_is_told_from_its_start_to_its_end(world: Told, chat: Chat) -> None:
    world.release("6")
    world.record.pages = {}
    world.users.failure_rates["7"] = 0.9
    world.release("7")
    texts = chat.until(4)
    assert [text.splitlines()[0] for text in texts] == [
        "chat (smollm2): v6 is being rolled out, nothing serves",
        "chat (smollm2): v6 has passed, v6 serves",
        "chat (smollm2): v7 is being rolled out, v6 serves",
        "chat (smollm2): v7 was rolled back, v6 serves",
    ]
    assert "error" in texts[3]
    assert all(text.splitlines()[-1].startswith(f"{MLFLOW}/#/") for text in texts)


@pytest.mark.promise("no look waits for it")
def test_a_hanging_chat_delays_no_look_and_fills_no_memory(world: Told, chat: Chat) -> None:
    chat.hangs = True
    began = monotonic()
    world.release("6")
    assert monotonic() - began < 10, "each attempt in a look would take 5 s"
    chat.until(1)
    with capture_logs() as lines:
        for number in range(300):
            say(world.notifier, str(number))
    assert monotonic() - began < 15
    assert world.notifier.dropped >= 300 - 100 - 2
    assert {line["reason"] for line in lines} == {"the queue is full"}
    assert not world.notifier.finish(0.1)
    # What still waits must not be dropped, and logged, in the midst of the next test.
    chat.hangs = False
    chat.released.set()
    assert world.notifier.finish(60)


def test_an_endpoint_that_flaps_floods_no_chat_and_the_next_text_says_how_many_there_were(
    chat: Chat,
) -> None:
    now = 0.0
    notifier = Notifier(chat.url, NotifySettings(), mlflow_url=MLFLOW, clock=lambda: now)
    with capture_logs() as lines:
        for number in range(12):
            say(notifier, str(number))
    assert notifier.finish(20)
    assert len(chat.until(5)) == 5
    assert [line["reason"] for line in lines] == ["5 were told within a minute"] * 7

    now = 60.0
    say(notifier, "12")
    say(notifier, "13")
    assert notifier.finish(20)
    texts = chat.until(7)
    assert len(texts) == 7
    assert "Before this, 7 more went untold" in texts[5]
    assert "untold" not in texts[6]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_three_times_and_then_dropped(
    world: Told, chat: Chat, status: int
) -> None:
    chat.answers = [status] * 3
    with capture_logs() as lines:
        say(world.notifier)
        say(world.notifier, "9")
        assert world.notifier.finish(20)
    assert ["v8" in text for text in chat.until(4)] == [True, True, True, False]
    assert world.pauses == [1, 5]
    assert [line["reason"] for line in lines] == [f"status {status}"]
    assert (lines[0]["event"], lines[0]["dropped"]) == ("notification.dropped", 1)


@pytest.mark.parametrize("status", [302, 307, 400, 404])
def test_what_will_not_pass_is_not_tried_again_and_a_redirect_is_not_followed(
    world: Told, chat: Chat, status: int
) -> None:
    chat.answers = [status]
    with capture_logs() as lines:
        say(world.notifier)
        assert world.notifier.finish(20)
    assert len(chat.bodies) == 1
    assert [line["reason"] for line in lines] == [f"status {status}"]


def test_the_address_is_in_no_log_whatever_goes_wrong(
    world: Told, chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chat.answers = [500, 404]
    gone = Notifier(
        f"http://127.0.0.1:1/{SECRET}", NotifySettings(), mlflow_url="", pause=world.pauses.append
    )
    broken = Notifier(
        f"http://127.0.0.1:1/{SECRET} x\x00", NotifySettings(), mlflow_url="", pause=print
    )
    with capture_logs() as lines:
        for notifier in (world.notifier, gone, broken):
            say(notifier)
            assert notifier.finish(20)
    assert [line["reason"] for line in lines] == [
        "status 404",
        "ConnectionRefusedError",
        "InvalidURL",
    ]
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith("uvicorn")]
    assert SECRET not in json.dumps(lines) + "\n".join(ours)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/T0K3N",
        "http://10.0.0.1/T0K3N",
        "file:///etc/T0K3N",
        "T0K3N",
        "https://[T0K3N",
        "https://hooks.example.com:99999/T0K3N",
        "http://localhost.example.com/T0K3N",
    ],
)
def test_an_address_that_others_could_read_on_its_way_is_refused_unseen(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIPWAY_NOTIFY_URL", url)
    with pytest.raises(BadInput) as raised:
        open_notifier(NotifySettings(), mlflow_url=MLFLOW)
    assert "T0K3N" not in str(raised.value)
    assert "T0K3N" not in repr(NotifySettings())


def test_without_an_address_nobody_is_told() -> None:
    assert open_notifier(NotifySettings(), mlflow_url=MLFLOW) is None


@pytest.mark.promise("of two controllers one acts", about="controllers")
def test_of_two_controllers_only_the_one_that_saved_tells(world: Told, chat: Chat) -> None:
    world.registry.aliases["challenger"] = "6"
    other = Controller(
        (world.unit,),
        registry=world.registry,
        store=world.store,
        clock=world.clock,
        leads=lambda: True,
        watcher=FakeWatcher(),
        notifier=world.notifier,
    )
    load = world.store.load
    overtaken = []

    def load_and_be_overtaken(name: str):
        saved = load(name)
        if not overtaken:
            overtaken.append(name)
            other.tick(name)
        return saved

    world.store.load = load_and_be_overtaken  # type: ignore[method-assign]
    with pytest.raises(StateConflict):
        world.tick()
    world.tick()
    assert world.notifier.finish(20)
    assert len(chat.bodies) == 1


def test_a_notice_that_cannot_be_put_in_words_fails_no_look(world: Told) -> None:
    world.notifier._wanted = None  # type: ignore[assignment]
    with capture_logs() as lines:
        world.release("6")
    assert world.outcomes == ["promoted"]
    assert "it could not be put in words" in [
        line["reason"][:28] for line in lines if line["event"] == "notification.dropped"
    ]
