"""The frame around one answer's text: whole or as server-sent events, with usage and the reason why it ended."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import structlog

from deploy_targets.engine import chat
from registry.events import Event

_log = structlog.get_logger()


class Answer:
    """The frame around one answer's text: its id, time, usage and finish reason."""

    def __init__(self, *, model: str, prompt_tokens: int) -> None:
        """`completion_tokens` and `finish` are kept up to date by whoever generates."""
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.finish = "stop"

    @property
    def _usage(self) -> chat.Usage:
        return chat.Usage(prompt=self._prompt_tokens, completion=self.completion_tokens)

    def whole(self, text: str) -> dict[str, Any]:
        """The answer as one `chat.completion`."""
        return chat.completion(
            request_id=self._id,
            created=self._created,
            model=self._model,
            text=text,
            finish=self.finish,
            usage=self._usage,
        )

    async def events(
        self, deltas: AsyncGenerator[str], *, include_usage: bool
    ) -> AsyncIterator[bytes]:
        """The answer as server-sent events; a failure under way is sent as an error, without the end mark."""
        frame: dict[str, Any] = {
            "request_id": self._id,
            "created": self._created,
            "model": self._model,
        }
        try:
            yield chat.chunk(**frame, delta={"role": "assistant", "content": ""})
            async for delta in deltas:
                yield chat.chunk(**frame, delta={"content": delta})
        except Exception as error:  # noqa: BLE001 - the stream's top: the status is sent already, so this is the only way to tell
            _log.exception(Event.STREAM_FAILED)
            yield chat.event(chat.envelope(f"Generation failed: {error}", kind="server_error"))
            return
        finally:
            await deltas.aclose()
        yield chat.chunk(**frame, delta={}, finish=self.finish)
        if include_usage:
            yield chat.usage_chunk(**frame, usage=self._usage)
        yield chat.DONE
