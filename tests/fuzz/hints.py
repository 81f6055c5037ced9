"""Deliveries to the controller's hooks: none without a signature is believed, and none twice."""

import base64
import hmac
from hashlib import sha256

from deploy_targets.rollout.nudge import HintCheck, HintResult, Sender
from registry.hints import Touch, hinted_model, plugin_secret
from tests.builders import NOON
from tests.fuzz.claims import claim

_SECRET = "a secret of the tests"
_SECRETS = {Sender.MLFLOW: _SECRET, Sender.PLUGIN: plugin_secret(_SECRET)}
_FRESH = str(int(NOON.timestamp()))


def delivery(data: bytes) -> bool:
    """The id, the time and the signature of a delivery, each ended by a NUL, and its body: as it is, and then signed."""
    *words, body = data.split(b"\0", 3)
    name, stamp, signature = ([one.decode("latin-1") for one in words] + [""] * 3)[:3]
    for sender, other in ((Sender.MLFLOW, Sender.PLUGIN), (Sender.PLUGIN, Sender.MLFLOW)):
        good = _signed(_SECRETS[sender], name, stamp, body)
        others = _signed(_SECRETS[other], name, stamp, body)
        for given in (signature, others, good.lower(), good[:-1], ""):
            told = _judged(_a_check(), sender, name, stamp, given, body)
            claim(told is HintResult.FORGED or given == good, "a forgery is believed", given)
        told = _judged(_a_check(), sender, name, stamp, good, body)
        is_stale = not stamp.isdecimal() or abs(int(stamp) - int(_FRESH)) > 300
        claim(told is (HintResult.STALE if is_stale else HintResult.ACCEPTED), told, stamp)
        check, fresh = _a_check(), _signed(_SECRETS[sender], name, _FRESH, body)
        for expected in (HintResult.ACCEPTED, HintResult.REPLAYED):
            told = _judged(check, sender, name, _FRESH, fresh, body)
            claim(told is expected, told)
    unset = _judged(HintCheck(None, lambda: NOON), Sender.MLFLOW, name, stamp, signature, body)
    claim(unset is HintResult.NO_SECRET, "believed without a secret")
    return _is_read(body)


def _a_check() -> HintCheck:
    return HintCheck(_SECRET, lambda: NOON)


def _is_read(body: bytes) -> bool:
    """As `nudge_app` reads what was accepted."""
    model = hinted_model(body)
    claim(model is None or isinstance(model, str), model)
    try:
        touch = Touch.from_json(body)
    except ValueError as error:
        claim(str(error), "says nothing")
        return False
    claim(Touch.from_json(touch.to_json()) == touch, "another touch", touch)
    return True


def _signed(secret: str, name: str, stamp: str, body: bytes) -> str:
    """By MLflow's own description of its webhooks."""
    content = f"{name}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), content, sha256)).decode()


def _judged(
    check: HintCheck, sender: Sender, name: str, stamp: str, signature: str, body: bytes
) -> HintResult:
    headers = {
        "x-mlflow-delivery-id": name,
        "x-mlflow-timestamp": stamp,
        "x-mlflow-signature": signature,
    }
    return check.judge(sender, headers, body)
