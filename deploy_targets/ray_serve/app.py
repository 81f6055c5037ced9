"""The Serve application: fetch exactly the bytes that were evaluated, load them, answer chat completions.

One deployment, no second hop. Requests of all clients are batched; each gets its own tokens as they come, whether it
streams or not. A replica whose artifact does not have its promised digest never becomes ready.
"""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import structlog
from jinja2.exceptions import TemplateError
from pydantic import BaseModel, ConfigDict
from ray import serve
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)

from deploy_targets.engine import chat
from deploy_targets.engine.generation import Generator, Row
from deploy_targets.ray_serve.batcher import Batcher
from deploy_targets.ray_serve.listener import listen_on_the_nodes_address_only
from deploy_targets.ray_serve.serve_config import DEPLOYMENT
from deploy_targets.ray_serve.settings import EngineSettings
from deploy_targets.routing.traffic import DIGEST_HEADER
from registry.artifact_store import connect_store
from registry.events import Event
from registry.release import Digest
from registry.settings import RegistrySettings

_log = structlog.get_logger()


class EngineArgs(BaseModel):
    """The arguments that `serve_config` renders; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_name: str
    version: str
    source: str
    digest: str
    max_context_tokens: int
    threads: int
    max_batch_size: int
    batch_wait_s: float


class Engine:
    """One replica."""

    def __init__(self, args: EngineArgs) -> None:
        """Fetches, verifies and loads the artifact."""
        listen_on_the_nodes_address_only()
        store = connect_store(RegistrySettings())
        copies = EngineSettings().home / "models"
        folder = store.fetch(args.source, Digest(args.digest), into=copies)
        self._args = args
        self._generator = Generator(
            folder, threads=args.threads, max_context_tokens=args.max_context_tokens
        )
        self._batcher = Batcher(
            self._generator.generate,
            max_size=args.max_batch_size,
            max_delay_s=args.batch_wait_s,
        )

    async def __call__(self, request: Request) -> Response:
        """POST …/v1/chat/completions and GET …/health. Whatever fails here is answered in OpenAI's envelope."""
        try:
            response = await self._respond(request)
        except Exception as error:  # noqa: BLE001 - the request's top: Ray would answer a traceback
            _log.exception(Event.REQUEST_FAILED, version=self._args.version)
            body = chat.envelope(f"The engine failed: {error}", kind="server_error")
            response = JSONResponse(body, status_code=500)
        response.headers[DIGEST_HEADER] = self._args.digest
        return response

    async def _respond(self, request: Request) -> Response:
        path = request.url.path
        if path.endswith("/health"):
            return PlainTextResponse("ok")
        if not path.endswith("/v1/chat/completions") or request.method != "POST":
            body = chat.envelope(f"There is no {request.method} {path}.", kind="not_found_error")
            return JSONResponse(body, status_code=404)
        try:
            asked = chat.parse_chat(await request.body())
            row = self._generator.row(asked)
        except chat.BadRequest as error:
            body = chat.envelope(str(error), kind="invalid_request_error", param=error.param)
            return JSONResponse(body, status_code=400)
        except TemplateError as error:
            _log.error(Event.TEMPLATE_BROKEN, version=self._args.version, error=str(error))
            body = chat.envelope(f"The model's chat template failed: {error}", kind="server_error")
            return JSONResponse(body, status_code=500)
        frame = chat.Frame(
            request_id=uuid.uuid4().hex,
            created=int(time.time()),
            model=self._args.model_name,
            include_usage=asked.include_usage,
        )
        pieces = self._pieces(asked, row)
        if asked.stream:
            return StreamingResponse(_events(frame, pieces), media_type="text/event-stream")
        return JSONResponse(frame.whole([piece async for piece in pieces]))

    async def _pieces(self, asked: chat.ChatRequest, row: Row) -> AsyncGenerator[chat.Piece]:
        """The answer piece by piece. When the client leaves, its row ends with the next token."""
        text = chat.AnswerText(stop=asked.stop)
        steps = self._batcher.follow(row)
        try:
            async for is_last in steps:
                delta = text.grow(self._generator.text(row), is_last=is_last)
                finish = text.finish or (row.finish if is_last else "")
                if delta or finish:
                    usage = chat.Usage(prompt=len(row.prompt), completion=len(row.tokens))
                    yield chat.Piece(text=delta, finish=finish, usage=usage)
                if finish:
                    break
        finally:
            await steps.aclose()


async def _events(frame: chat.Frame, pieces: AsyncGenerator[chat.Piece]) -> AsyncIterator[bytes]:
    """The answer as server-sent events; a failure under way is sent as an error, without the end mark."""
    try:
        yield frame.opening()
        async for piece in pieces:
            yield frame.events(piece)
    except Exception as error:  # noqa: BLE001 - the stream's top: the status is sent already, so this is the only way to tell
        _log.exception(Event.STREAM_FAILED)
        yield chat.event(chat.envelope(f"Generation failed: {error}", kind="server_error"))
    finally:
        await pieces.aclose()


def build(args: dict[str, Any]) -> serve.Application:
    """What `import_path` names: the application for these arguments."""
    api: Any = serve  # Ray leaves its options untyped
    return api.deployment(Engine, name=DEPLOYMENT).bind(EngineArgs.model_validate(args))
