"""Pages of other origins: a browser lets them ask the guard only where its answers name their origin.

None may by default. What a page may do is no more than any client: it needs a key, and no cookie is read or allowed.
"""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from deploy_targets.guard.upstream import REQUEST_ID_HEADER
from deploy_targets.routing.traffic import VERSION_HEADER

_PREFLIGHT_S = 600
_TOLD = tuple(
    f"x-ratelimit-{figure}-{what}"
    for what in ("requests", "tokens")
    for figure in ("limit", "remaining", "reset")
)


def for_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app for these pages too; `*` is every page. A browser's question beforehand is answered here, and is no request.

    Any header may be sent, for OpenAI's client sends a dozen of its own.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=(REQUEST_ID_HEADER, VERSION_HEADER, "retry-after", *_TOLD),
        max_age=_PREFLIGHT_S,
    )
