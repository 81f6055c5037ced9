"""The one way to the split: sends a request on, hands its answer back as it comes, ends it when the guard lets go.

aiohttp is imported here alone, and its errors become the guard's. What is said is in `protocol`, what an answer means
in `outcome`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus

import aiohttp

from deploy_targets.guard.errors import (
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from deploy_targets.routing.buckets import BUCKET_HEADER, SPLIT_HEADER
from deploy_targets.routing.traffic import DIGEST_HEADER, VERSION_HEADER

REQUEST_ID_HEADER = "x-request-id"
MAX_ANSWER_BYTES = 16 << 20
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer whose headers are there and whose body is yet to come."""

    status: int
    version: str | None
    """None when whoever answered does not say; the split's own errors do."""
    split: str
    """The versions among which the request was shared out, where users are sticky; empty where it was not."""
    content_type: str
    retry_after: str | None
    digest: str
    """Of the model's files; empty when whoever answered does not say."""
    body: AsyncIterator[bytes]
    """In the pieces in which it arrives."""

    @property
    def is_stream(self) -> bool:
        """Whether events follow."""
        return self.status == HTTPStatus.OK and self.content_type.startswith("text/event-stream")

    async def whole(self) -> bytes:
        """The whole body.

        Raises:
            UpstreamBroken: it is larger than any answer could be.
        """
        read = bytearray()
        async for piece in self.body:
            read += piece
            if len(read) > MAX_ANSWER_BYTES:
                message = f"The answer is larger than {MAX_ANSWER_BYTES} bytes."
                raise UpstreamBroken(message)
        return bytes(read)

    def again(self, body: bytes) -> "Answer":
        """The same answer, whose body was read: to be read once more, or another in its place."""
        return replace(self, body=_once(body))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


class Upstream:
    """The split of one endpoint."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timeout_s: float) -> None:
        """`timeout_s` is for a whole answer, sending it on to the client included."""
        self._session = session
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def ask(
        self,
        path: str,
        body: bytes,
        *,
        pin: str | None,
        request_id: str,
        bucket: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Answer]:
        """The answer to `body` at `path`, from the version `pin` where one is named, else from the `bucket`'s.

        `timeout_s` is given where less is left than usual.
        When the block is left before the body was read, by an error or by cancellation, the connection is closed, and
        with it the work behind it. What goes wrong inside the block while the body is read is translated as well.

        Raises:
            UpstreamUnreachable: no connection.
            UpstreamBroken: the connection was lost before the end of the answer.
            UpstreamTimeout: the time was over before the end of the block.
        """
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            REQUEST_ID_HEADER: request_id,
        }
        if pin:
            headers[VERSION_HEADER] = pin
        elif bucket is not None:
            headers[BUCKET_HEADER] = bucket
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session.post(
                    self._url + path, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                yield Answer(
                    status=response.status,
                    version=response.headers.get(VERSION_HEADER) or None,
                    split=response.headers.get(SPLIT_HEADER, ""),
                    content_type=response.headers.get("content-type", ""),
                    retry_after=response.headers.get("retry-after"),
                    digest=response.headers.get(DIGEST_HEADER, ""),
                    body=response.content.iter_any(),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            message = "The model cannot be reached. Try again later."
            raise UpstreamUnreachable(message) from error
        except TimeoutError as error:
            message = f"The model did not answer within {self._timeout_s:g} s. Try again, or ask for fewer tokens."
            raise UpstreamTimeout(message) from error
        except aiohttp.ClientError as error:
            message = (
                "The connection to the model was lost before its answer was complete. Try again."
            )
            raise UpstreamBroken(message) from error


def upstream_session(host: str = "", *, token: str = "") -> aiohttp.ClientSession:
    """A session for `Upstream`; to be closed by the caller, and made inside the running loop.

    Every request carries `host` as its Host header and `token` as its bearer's, where one is given.

    Connections are not limited here, so that a request never waits unseen. Idle ones are closed after 15 s, long
    before Envoy would (an hour): a connection that the other side is closing must not be picked for a POST.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            **({"host": host} if host else {}),
            **({"authorization": f"Bearer {token}"} if token else {}),
        },
    )
