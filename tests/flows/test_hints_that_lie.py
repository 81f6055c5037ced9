"""Hints to the controller of a real local stack that are forged, altered, stale, repeated, out of order, or never come.

A hint is worth a look at the registry and nothing else. So whatever is sent, by whoever knows the secret or does not: nobody
is served anything else for it, and a rollout under way ends as it would have. docs/promises.md is written from here.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import httpx2
import pytest

from deploy_targets.local.process import end_all
from deploy_targets.rollout.nudge import HOOK_PATH
from registry.hints import sign_hint
from registry.promotion import CHAMPION
from tests.flows.failing_stack import FailingStack, a_failing_stack, fails_in_mid_rollout
from tests.flows.other_controller import OtherController, OwnPage
from tests.flows.test_the_stack import ENDPOINTS

pytestmark = [pytest.mark.real, pytest.mark.faults, pytest.mark.timeout(600)]

POLL_S = 20
MANY = 1_000
Hint = tuple[bytes, Mapping[str, str]]


class Liar:
    """Knocks at the receiver of a stack's controller."""

    def __init__(self, running: FailingStack) -> None:
        port = running.info.ports["controller"]
        self.page = OwnPage(port)
        self._secret = running.home.secrets().webhook_secret
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self.answers: Counter[int] = Counter()

    def tell(self, hint: Hint) -> None:
        body, headers = hint
        answer = self.http.post(HOOK_PATH, content=body, headers=headers)
        self.answers[answer.status_code] += 1

    def hint(
        self, model: str = "tiny", *, action: str = "created", secret: str = "", age_s: int = 0
    ) -> Hint:
        """As MLflow sends it, where it has the stack's own secret."""
        data = {"name": model, "alias": "challenger", "version": "1"}
        body = json.dumps(
            {"entity": "model_version_alias", "action": action, "data": data}
        ).encode()
        delivery, stamp = secrets.token_hex(8), str(int(time.time()) - age_s)
        signature = sign_hint(secret or self._secret, delivery=delivery, stamp=stamp, body=body)
        return body, {
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": stamp,
            "X-MLflow-Signature": signature,
        }

    def altered(self) -> Hint:
        body, headers = self.hint()
        return body.replace(b"tiny", b"evil"), headers

    def stretched(self) -> Hint:
        """A stale one that was given a new date."""
        body, headers = self.hint(age_s=3600)
        return body, {**headers, "X-MLflow-Timestamp": str(int(time.time()))}

    def lies(self) -> dict[str, Callable[[], Hint]]:
        """Each kind of which no look may come."""
        return {
            "forged": lambda: self.hint(secret="guessed"),
            "altered": self.altered,
            "stale": lambda: self.hint(age_s=301),
            "of the future": lambda: self.hint(age_s=-360),
            "given a new date": self.stretched,
            "unsigned": lambda: (self.hint()[0], {}),
            "of megabytes": lambda: (b"x" * (2 << 20), {}),
        }

    def said(self) -> str:
        told = ", ".join(f"{count} answered {code}" for code, count in sorted(self.answers.items()))
        return told or "none answered"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingStack]:
    folder = tmp_path_factory.mktemp("hinted")
    with a_failing_stack(folder, ENDPOINTS, poll_s=POLL_S) as running:
        yield running


@pytest.fixture
def liar(running: FailingStack) -> Iterator[Liar]:
    liar = Liar(running)
    with liar.http:
        yield liar


def at_rest(running: FailingStack, page: OwnPage) -> None:
    """Returns when the looks of what was under way are over."""
    seen, since = page.looks(), time.monotonic()

    def is_still() -> bool:
        nonlocal seen, since
        now = page.looks()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 2

    running.until(is_still)


@pytest.mark.promise("not one look, and no client notices", about="hints")
def test_hints_that_cannot_be_trusted_reach_a_stack_at_rest(
    running: FailingStack, liar: Liar, record_property
) -> None:
    hint, kinds = liar.hint(), liar.lies()
    with running.clients(clients=2) as clients:
        clients.wait_for_answers(4)
        at_rest(running, liar.page)
        before = liar.page.looks()
        liar.tell(hint)
        running.until(lambda: liar.page.looks() > before)
        at_rest(running, liar.page)
        looks, began = liar.page.looks(), time.monotonic()
        # The next look is nearly a poll period away.
        sent = 0
        while sent < MANY and time.monotonic() - began < 0.5 * POLL_S:
            for lie in (hint, *(make() for make in kinds.values())):
                liar.tell(lie)
                sent += 1
        took_s = time.monotonic() - began
        after = liar.page.looks()
    assert took_s < 0.7 * POLL_S
    assert liar.answers == {200: 1, 401: sent}
    assert after == looks
    assert sent > 100
    assert clients.report.failures == 0
    record_property(
        "measured",
        f"{sent} in {took_s:.0f} s, {', '.join(kinds)} and replayed: all answered 401; 0 looks of them; "
        f"{clients.report.failures} of {clients.report.requests} requests failed",
    )


@pytest.mark.promise("the rollout ends as without them, and no client notices", about="hints")
@pytest.mark.parametrize(
    "kind", ["untrustworthy", "replayed", "out of order", "of models that do not exist", "a flood"]
)
def test_hints_reach_it_in_mid_rollout(
    running: FailingStack,
    next_version: str,
    liar: Liar,
    kind: str,
    record_property,
) -> None:
    def hints() -> Iterator[Hint]:
        match kind:
            case "untrustworthy":
                for make in liar.lies().values():
                    yield from (make() for _ in range(50))
            case "replayed":
                yield from [liar.hint()] * 200
            case "out of order":
                # By their dates, the click was made and taken back, in this order.
                told = [liar.hint(age_s=20 - n, action="created") for n in range(10)]
                told += [liar.hint(age_s=10 - n, action="deleted") for n in range(10)]
                yield from reversed(told)
            case "of models that do not exist":
                yield from (liar.hint(f"no-model-{n}") for n in range(200))
            case _:
                yield from (liar.hint() for _ in range(MANY))

    caused = 0

    def fail() -> None:
        nonlocal caused
        before = liar.page.looks()
        for one in hints():
            liar.tell(one)
        caused = liar.page.looks() - before

    def tell(name: str, words: str) -> None:
        record_property(name, f"{liar.said()}; {caused} looks meanwhile; {words}")

    assert fails_in_mid_rollout(running, next_version, fail, tell) == 0
    assert running.aliases[CHAMPION] == next_version
    sent = sum(liar.answers.values())
    right = {"untrustworthy": 0, "replayed": 1}.get(kind, sent)
    assert (liar.answers[200], liar.answers[401]) == (right, sent - right)
    # Many hints are one look, not many.
    assert caused < max(20, sent / 4)


@pytest.mark.promise("the poll alone does it, and no client notices", about="hints")
def test_every_hint_is_lost(
    running: FailingStack,
    next_version: str,
    record_property,
) -> None:
    end_all(running.of_part("controller"), patience_s=10)
    deaf = OtherController(running, "deaf", knocked_at=running.info.ports["controller"])
    try:
        running.until(lambda: deaf.page.leads)
        at_rest(running, deaf.page)
        began = time.monotonic()
        began_after_s = 0.0

        def note() -> None:
            nonlocal began_after_s
            began_after_s = time.monotonic() - began

        def tell(name: str, words: str) -> None:
            record_property(
                name,
                f"clicked and in mid-rollout within {began_after_s:.0f} s, looking each {POLL_S} s; {words}",
            )

        assert fails_in_mid_rollout(running, next_version, note, tell) == 0
        assert running.aliases[CHAMPION] == next_version
        assert deaf.page.hints() == 0
    finally:
        deaf.end()
        running.up()
