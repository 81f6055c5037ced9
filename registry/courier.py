"""Carries touches out of MLflow's server: the name onto the version, the hint to the controller. Never in a request's way.

Handing over takes microseconds (`outbox`). Names come first, for they are what cannot be had again; the first hint that
fails lets go of those that wait behind it, since one slow controller must not hold up names. What was lost is counted and
logged.
"""

import contextvars
import uuid
from collections.abc import Callable
from datetime import datetime

import requests
import structlog

from registry.events import Event
from registry.hints import HINT_PATH, Touch, plugin_secret, sign_hint
from registry.outbox import Outbox

_CAPACITY = 1000
_TIMEOUT_S = 2.0
_log = structlog.get_logger()


class Courier:
    """Whatever becomes of a touch, who hands it over goes on at once."""

    def __init__(
        self,
        note: Callable[[Touch], None],
        tell: Callable[[Touch], None],
        *,
        capacity: int = _CAPACITY,
    ) -> None:
        """`note` writes the name down, `tell` sends the hint; both may raise and may block for a while."""
        self._note = note
        self._tell = tell
        self._outbox = Outbox(self._carry, capacity=capacity)
        self.dropped = 0
        """Names or hints that did not arrive, since the start."""

    def hand_over(self, touch: Touch) -> None:
        """Takes `touch` along, with the caller's context: MLflow keeps the request's workspace there."""
        if not self._outbox.put((contextvars.copy_context(), touch)):
            self._drop(touch, "the queue is full")

    def _carry(self, batch: list[tuple[contextvars.Context, Touch]]) -> None:
        for context, touch in batch:
            self._try(touch, lambda c=context, t=touch: c.run(self._note, t))
        is_heard = True
        for _, touch in batch:
            if is_heard:
                is_heard = self._try(touch, lambda t=touch: self._tell(t))
            else:
                self._drop(touch, "the hint before it failed")

    def _try(self, touch: Touch, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the top of the thread: nothing of ours may end it
            self._drop(touch, f"{type(error).__name__}: {error}"[:300])
            return False
        return True

    def _drop(self, touch: Touch, reason: str) -> None:
        self.dropped += 1
        _log.warning(
            Event.HINT_DROPPED,
            deed=touch.deed,
            model=touch.model,
            reason=reason,
            dropped=self.dropped,
        )


class HintSender:
    """Posts hints to one controller, signed."""

    def __init__(self, controller_url: str, secret: str, clock: Callable[[], datetime]) -> None:
        """Nothing is contacted yet."""
        self._url = controller_url.rstrip("/") + HINT_PATH
        self._key = plugin_secret(secret)
        self._clock = clock
        self._http = requests.Session()
        # As for MLflow's own webhooks: a proxy of the server's environment is not meant for the controller.
        self._http.trust_env = False

    def send(self, touch: Touch) -> None:
        """One attempt.

        Raises:
            requests.RequestException: it did not arrive, or was refused.
        """
        delivery, stamp = uuid.uuid4().hex, str(int(self._clock().timestamp()))
        body = touch.to_json().encode()
        headers = {
            "content-type": "application/json",
            "x-mlflow-delivery-id": delivery,
            "x-mlflow-timestamp": stamp,
            "x-mlflow-signature": sign_hint(self._key, delivery=delivery, stamp=stamp, body=body),
        }
        self._http.post(
            self._url, data=body, headers=headers, timeout=_TIMEOUT_S, allow_redirects=False
        ).raise_for_status()
