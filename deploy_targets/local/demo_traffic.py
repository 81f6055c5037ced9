"""The demo's clients: a load that runs beside the walk in a thread of its own, and one question asked by hand."""

import asyncio
import json
import threading
import time
from http import HTTPStatus
from types import TracebackType
from typing import Self

import httpx2

from deploy_targets.load import LoadPlan, LoadReport, generate_load
from registry.errors import DemoFailed

_POLL_S = 0.1
_FIRST_ANSWERS_S = 120


class Clients:
    """They send from `with` to its end; `report` grows meanwhile."""

    def __init__(self, plan: LoadPlan) -> None:
        """Nothing is sent yet."""
        self.report = LoadReport()
        self._plan = plan
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> Self:
        """Starts the clients."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lets every client finish its request, then ends."""
        self._ended.set()
        self._thread.join()

    def wait_for_answers(self, count: int) -> None:
        """Returns when so many answers have come."""
        deadline = time.monotonic() + _FIRST_ANSWERS_S
        while self.report.requests < count:
            self.check()
            if time.monotonic() > deadline:
                message = f"There were not {count} answers within {_FIRST_ANSWERS_S} s. See the guard's log."
                raise DemoFailed(message)
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raises what ended the clients, if they ended by themselves."""
        if self._failure is not None:
            message = f"The load generator failed: {self._failure}"
            raise DemoFailed(message) from self._failure

    def _run(self) -> None:
        def keep(report: LoadReport) -> None:
            self.report = report

        try:
            self.report = asyncio.run(
                generate_load(self._plan, stop=self._ended.is_set, on_result=keep)
            )
        except Exception as error:  # noqa: BLE001 - told to the main thread by `check`
            self._failure = error


def talk(url: str, api_key: str, model: str, question: str, *, stream: bool) -> str:
    """The answer to one question, whole or put together from its stream."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 16,
        "temperature": 0,
        "stream": stream,
    }
    headers = {"Authorization": f"Bearer {api_key}"}
    response = httpx2.post(url, json=body, headers=headers, timeout=60)
    if response.status_code != HTTPStatus.OK:
        message = f"The endpoint answered {response.status_code}: {response.text[:300]}"
        raise DemoFailed(message)
    if not stream:
        return str(response.json()["choices"][0]["message"]["content"])
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    deltas = [json.loads(event)["choices"] for event in events if event != "[DONE]"]
    return "".join(one[0]["delta"].get("content", "") for one in deltas if one)
