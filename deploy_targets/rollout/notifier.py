"""Tells people in their chat, by a webhook that takes Slack's JSON. Never in a look's way: see `registry.outbox`.

A text is tried a few times and then dropped, which is counted and logged. The webhook's address is a secret, for whoever
knows it may write there: it is in no log line and in no message of ours, and libraries that log addresses are not used.
"""

import ipaddress
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import structlog

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.audit import Changes
from deploy_targets.rollout.notice import compose_notice
from deploy_targets.rollout.settings import NotifySettings
from deploy_targets.rollout.state import EndpointState
from registry.errors import BadInput
from registry.events import Event
from registry.outbox import Outbox

_CAPACITY = 100
_MOST_A_MINUTE, _MINUTE_S = 5, 60.0
"""Texts about one endpoint. A rollout has two or three in all, and Slack takes one a second for the whole channel."""
_TIMEOUT_S = 5.0
"""For connecting, and for each wait for bytes."""
_PAUSES_S = (1.0, 5.0)
"""Between attempts; their number is one more."""
_log = structlog.get_logger()


class _StayHere(HTTPRedirectHandler):
    """A webhook that moves somewhere else is none that was configured."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Refused; the answer counts as it is."""


class _Failed(Exception):
    """An attempt that failed."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Notifier:
    """Sends to one webhook."""

    def __init__(
        self,
        url: str,
        settings: NotifySettings,
        *,
        mlflow_url: str,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is contacted yet; `mlflow_url` is where people open MLflow, or empty.

        Raises:
            BadInput: the address is not https, and not on this machine.
        """
        self._url = url
        self._opener = _opener_for(url)
        self._wanted = frozenset(settings.events)
        self._mlflow_url = mlflow_url
        self._pause = pause
        self._clock = clock
        self._told = defaultdict[str, deque[float]](lambda: deque(maxlen=_MOST_A_MINUTE))
        """When the latest texts of each endpoint were handed over."""
        self._held_back: Counter[str] = Counter()
        """Texts of each endpoint since then for which there was no room."""
        self._outbox: Outbox[tuple[str, str]] = Outbox(self._carry, capacity=_CAPACITY)
        self.dropped = 0
        """Texts that did not arrive, since the start."""

    def notify(
        self,
        endpoint: Endpoint,
        before: EndpointState,
        after: EndpointState,
        *,
        happened: Changes,
        pages: Mapping[str, str],
    ) -> None:
        """Hands over what happened, if anything of it is wanted. Takes no time and never raises.

        An endpoint that flaps does not flood the chat: beyond five texts in a minute they are counted, and the next one says
        how many there were.
        """
        try:
            text = compose_notice(
                endpoint,
                before,
                after,
                happened=happened,
                wanted=self._wanted,
                pages=pages,
                mlflow_url=self._mlflow_url,
            )
        except Exception as error:  # noqa: BLE001 - a rollout does not fail because of what is said of it
            self._drop(endpoint.name, f"it could not be put in words: {error!r}")
            return
        if not text:
            return
        if not self._has_room(endpoint.name):
            self._held_back[endpoint.name] += 1
            self._drop(endpoint.name, f"{_MOST_A_MINUTE} were told within a minute")
            return
        if held_back := self._held_back.pop(endpoint.name, 0):
            text += f"\nBefore this, {held_back} more went untold: see `shipway history {endpoint.name}`."
        if not self._outbox.put((endpoint.name, text)):
            self._drop(endpoint.name, "the queue is full")

    def _has_room(self, endpoint: str) -> bool:
        """Whether another text about it may be told now; if so, it counts."""
        told, now = self._told[endpoint], self._clock()
        if len(told) == _MOST_A_MINUTE and now - told[0] < _MINUTE_S:
            return False
        told.append(now)
        return True

    def finish(self, patience_s: float) -> bool:
        """Waits for so long until all was sent or dropped; whether it was."""
        return self._outbox.settle(patience_s)

    def _carry(self, batch: list[tuple[str, str]]) -> None:
        for endpoint, text in batch:
            try:
                self._send(endpoint, text)
            except Exception as error:  # noqa: BLE001 - the top of the thread: nothing of ours may end it
                self._drop(endpoint, type(error).__name__)

    def _send(self, endpoint: str, text: str) -> None:
        for pause_s in (*_PAUSES_S, None):
            try:
                self._post(text)
            except _Failed as error:
                if error.is_final or pause_s is None:
                    self._drop(endpoint, str(error))
                    return
                self._pause(pause_s)
            else:
                return

    def _post(self, text: str) -> None:
        body = json.dumps({"text": text}).encode()
        request = Request(self._url, body, {"content-type": "application/json"})  # noqa: S310 - `_opener_for` looked
        try:
            self._opener.open(request, timeout=_TIMEOUT_S).close()
        except HTTPError as error:
            error.close()
            again = error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
            again |= error.code == HTTPStatus.TOO_MANY_REQUESTS
            raise _Failed(f"status {error.code}", is_final=not again) from None
        except (OSError, HTTPException) as error:
            # By its kind alone: some of them say the address.
            cause = error.reason if isinstance(error, URLError) else error
            raise _Failed(type(cause).__name__, is_final=False) from None

    def _drop(self, endpoint: str, reason: str) -> None:
        self.dropped += 1
        _log.warning(
            Event.NOTIFICATION_DROPPED, endpoint=endpoint, reason=reason, dropped=self.dropped
        )


def open_notifier(settings: NotifySettings, *, mlflow_url: str) -> Notifier | None:
    """The notifier that the environment asks for; None where it asks for none.

    Raises:
        BadInput: the address is not https, and not on this machine.
    """
    if settings.url is None:
        return None
    shown = settings.mlflow_url or (mlflow_url if mlflow_url.startswith("http") else "")
    return Notifier(settings.url.get_secret_value(), settings, mlflow_url=shown)


def _opener_for(url: str) -> OpenerDirector:
    """A way to that address: without redirects, and for this machine without the environment's proxy."""
    message = (
        "SHIPWAY_NOTIFY_URL must be an https:// address; http:// will do on this machine alone, since whoever reads the "
        "address on its way may write there."
    )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise BadInput(message) from None
    is_local = _is_loopback(host)
    if not host or (parts.scheme != "https" and not (parts.scheme == "http" and is_local)):
        raise BadInput(message)
    return build_opener(_StayHere, *([ProxyHandler({})] if is_local else []))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
