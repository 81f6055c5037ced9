"""Hints wake the loop only when they are MLflow's, fresh and new."""

import base64
import hashlib
import hmac

import pytest
from starlette.testclient import TestClient

from deploy_targets.rollout.nudge import HOOK_PATH, HintCheck, nudge_app
from tests.builders import FakeClock

BODY = b'{"entity": "model_version_alias", "action": "created"}'


def signed(
    clock: FakeClock, *, delivery: str = "d1", secret: str = "s3cret", age_s: int = 0
) -> dict[str, str]:
    stamp = str(int(clock.now.timestamp()) - age_s)
    mac = hmac.new(secret.encode(), f"{delivery}.{stamp}.".encode() + BODY, hashlib.sha256)
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": "v1," + base64.b64encode(mac.digest()).decode(),
    }


class Receiver:
    def __init__(self, secret: str | None = "s3cret") -> None:
        self.clock = FakeClock()
        self.woken = 0
        app = nudge_app(
            HintCheck(secret, self.clock),
            wake=self._wake,
            is_alive=lambda: True,
            is_ready=lambda: False,
        )
        self.client = TestClient(app)

    def _wake(self) -> None:
        self.woken += 1

    def post(self, headers: dict[str, str], body: bytes = BODY) -> int:
        return self.client.post(HOOK_PATH, content=body, headers=headers).status_code


def test_a_signed_hint_wakes_the_loop() -> None:
    receiver = Receiver()
    assert receiver.post(signed(receiver.clock)) == 200
    assert receiver.woken == 1


@pytest.mark.parametrize("change", ["forged", "stale", "altered", "unsigned"])
def test_a_hint_that_cannot_be_trusted_is_refused(change: str) -> None:
    receiver = Receiver()
    headers, body = signed(receiver.clock), BODY
    if change == "forged":
        headers = signed(receiver.clock, secret="guess")
    elif change == "stale":
        headers = signed(receiver.clock, age_s=301)
    elif change == "altered":
        body = BODY + b" "
    else:
        headers = {}
    assert receiver.post(headers, body) == 401
    assert receiver.woken == 0


def test_a_replayed_hint_counts_once() -> None:
    receiver = Receiver()
    headers = signed(receiver.clock)
    assert [receiver.post(headers), receiver.post(headers)] == [200, 401]
    assert receiver.woken == 1


def test_without_a_secret_every_hint_is_refused() -> None:
    receiver = Receiver(secret=None)
    assert receiver.post(signed(receiver.clock)) == 401


def test_a_huge_body_is_refused() -> None:
    receiver = Receiver()
    assert receiver.post({}, b"x" * (2 << 20)) == 401
