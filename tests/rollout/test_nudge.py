"""Hints wake the loop only when they are MLflow's, fresh and new."""

import base64
import hashlib
import hmac
import re

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from deploy_targets.rollout.nudge import HOOK_PATH, HintCheck, nudge_app
from registry.hints import HINT_PATH, Deed, Touch, hinted_model, plugin_secret, sign_hint
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
        self.models: list[str | None] = []
        app = nudge_app(
            HintCheck(secret, self.clock),
            wake=self._wake,
            is_alive=lambda: True,
            is_ready=lambda: False,
            numbers=CollectorRegistry(),
        )
        self.client = TestClient(app)

    def _wake(self, model: str | None) -> None:
        self.woken += 1
        self.models.append(model)

    def post(self, headers: dict[str, str], body: bytes = BODY, path: str = HOOK_PATH) -> int:
        return self.client.post(path, content=body, headers=headers).status_code

    def counted(self) -> dict[str, int]:
        """Sender and result, of what was counted at all."""
        page = self.client.get("/metrics").text
        lines = re.findall(
            r'^shipway_hints_total\{result="(\w+)",sender="(\w+)"\} (\d+)', page, flags=re.MULTILINE
        )
        assert len(lines) == 2 * 7
        return {f"{sender} {result}": int(n) for result, sender, n in lines if n != "0"}


def test_a_signed_hint_wakes_the_loop() -> None:
    receiver = Receiver()
    assert receiver.post(signed(receiver.clock)) == 200
    assert receiver.woken == 1


@pytest.mark.promise("a forged hint wakes nobody", about="hints")
@pytest.mark.parametrize("change", ["forged", "stale", "beyond all time", "altered", "unsigned"])
def test_a_hint_that_cannot_be_trusted_is_refused(change: str) -> None:
    receiver = Receiver()
    headers, body = signed(receiver.clock), BODY
    if change == "forged":
        headers = signed(receiver.clock, secret="guess")
    elif change == "stale":
        headers = signed(receiver.clock, age_s=301)
    elif change == "beyond all time":
        headers = signed(receiver.clock, age_s=-(10**400))
    elif change == "altered":
        body = BODY + b" "
    else:
        headers = {}
    assert receiver.post(headers, body) == 401
    assert receiver.woken == 0


@pytest.mark.promise("a hint sent again does nothing", about="hints")
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


TOUCH = Touch(
    deed=Deed.ALIAS_SET, model="m", version="7", name="challenger", user="alice", at=FakeClock().now
)


def told(clock: FakeClock, body: bytes, *, key: str) -> dict[str, str]:
    stamp = str(int(clock.now.timestamp()))
    signature = sign_hint(key, delivery="d1", stamp=stamp, body=body)
    return {
        "X-MLflow-Delivery-Id": "d1",
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": signature,
    }


def test_a_hint_of_shipways_mlflow_app_wakes_the_loop_and_tells_who() -> None:
    receiver = Receiver()
    body = TOUCH.to_json().encode()

    with capture_logs() as lines:
        code = receiver.post(
            told(receiver.clock, body, key=plugin_secret("s3cret")), body, HINT_PATH
        )

    assert (code, receiver.models) == (200, ["m"])
    assert [(one["event"], one["sender"], one["user"], one["name"]) for one in lines] == [
        ("hint.accepted", "plugin", "alice", "challenger")
    ]


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (
            b'{"entity": "model_version_alias", "data": {"name": "qwen", "alias": "challenger"}}',
            "qwen",
        ),
        (BODY, None),
        (b"", None),
        (b"[1]", None),
        (b'{"data": {"name": 7}}', None),
        (b'{"data": ["name"]}', None),
        (b"\xff\xfe", None),
    ],
)
def test_the_model_that_mlflow_names_goes_first_and_a_body_without_one_wakes_all(
    body: bytes, model: str | None
) -> None:
    receiver = Receiver()
    assert receiver.post(told(receiver.clock, body, key="s3cret"), body) == 200
    assert receiver.models == [model]


@pytest.mark.parametrize("text", [b"[" * 5000, b'{"data": ' * 5000, b"\xff", b"1e999"])
def test_a_body_that_cannot_be_read_names_no_model(text: bytes) -> None:
    assert hinted_model(text) is None


def test_neither_sender_can_pass_for_the_other() -> None:
    receiver = Receiver()
    body = TOUCH.to_json().encode()

    assert receiver.post(told(receiver.clock, body, key="s3cret"), body, HINT_PATH) == 401
    headers = told(receiver.clock, body, key=plugin_secret("s3cret"))
    assert receiver.post(headers, body, HOOK_PATH) == 401
    assert receiver.woken == 0


def test_every_delivery_is_counted_by_sender_and_result() -> None:
    receiver = Receiver()
    headers, touch = signed(receiver.clock), TOUCH.to_json().encode()
    receiver.post(headers)
    receiver.post(headers)
    receiver.post({})
    receiver.post(signed(receiver.clock, delivery="d2", age_s=301))
    receiver.post({}, b"x" * (2 << 20))
    receiver.post({}, path=HINT_PATH)
    key = plugin_secret("s3cret")
    receiver.post(told(receiver.clock, touch, key=key), touch, HINT_PATH)
    receiver.clock.advance(1)
    odd = {**told(receiver.clock, BODY, key=key)}
    odd |= {"X-MLflow-Delivery-Id": "d3"}
    odd["X-MLflow-Signature"] = sign_hint(
        key, delivery="d3", stamp=odd["X-MLflow-Timestamp"], body=BODY
    )
    receiver.post(odd, BODY, HINT_PATH)

    assert receiver.counted() == {
        "mlflow accepted": 1,
        "mlflow replayed": 1,
        "mlflow forged": 1,
        "mlflow stale": 1,
        "mlflow too_large": 1,
        "plugin forged": 1,
        "plugin accepted": 1,
        "plugin unreadable": 1,
    }
    assert receiver.woken == 2


def test_a_signature_that_is_not_even_text_is_a_forged_one() -> None:
    receiver = Receiver()
    headers = {**signed(receiver.clock), "X-MLflow-Signature": "v1,\xe4".encode("latin-1")}
    assert receiver.post(headers) == 401
