"""One revision on the local Triton, as a process: its tritonserver, watched over. Requests go to that one directly.

`python -m deploy_targets.local.triton_revision FOLDER`, started by `triton_adapter`. It puts the model repository into S3,
starts tritonserver on it, starts it again when it or its model's process dies, and says on /status how it stands. One
process and one tritonserver for each revision: what happens to one version cannot touch another.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import psutil
import structlog
import uvicorn
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.home import write_json
from deploy_targets.local.process import free_port
from deploy_targets.local.triton_server import (
    EXIT_S,
    STUB,
    TritonEnvironment,
    repository_address,
    triton_environment,
)
from deploy_targets.process_log import log_to
from deploy_targets.target import Readiness
from deploy_targets.triton.repository import put_repository
from registry.artifact_store import ArtifactStore, connect_store
from registry.errors import EngineDied, ModelNotLoaded, ShipwayError, Unavailable
from registry.events import Event
from registry.release import Release
from registry.settings import RegistrySettings

SPEC_FILE, COUNT_FILE = "revision.json", "readied.json"
_LOOK_S = 0.1
_STUB_LOOK_S = 0.5
_PAUSE_S = 2.0
_MAX_BARREN_STARTS = 3
"""Starts in a row without ever becoming ready after which a revision is given up: the next ones would end likewise."""
_log = structlog.get_logger()


class RevisionSpec(BaseModel):
    """What `SPEC_FILE` holds: what is served, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: Endpoint
    release: Release
    port: int
    """Of GET /status."""
    triton_port: int
    """Of Triton itself, where the split sends requests; every start of it gets the same."""


class RevisionStatus(BaseModel):
    """What GET /status answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    readiness: Readiness = Readiness.STARTING
    reason: str = "its process has started"
    restarts: int = 0
    repository: str = ""
    """Where in S3 the model repository lies, once it does."""
    metrics_url: str = ""
    """Triton's own metrics, while it runs."""


class RevisionKeeper:
    """Keeps one tritonserver running."""

    def __init__(
        self,
        spec: RevisionSpec,
        *,
        folder: Path,
        store: ArtifactStore,
        s3_endpoint_url: str | None,
        triton: TritonEnvironment,
    ) -> None:
        """`folder` is the revision's own."""
        self._spec = spec
        self._folder = folder
        self._store = store
        self._s3_endpoint_url = s3_endpoint_url
        self._triton = triton
        self._child: asyncio.subprocess.Process | None = None
        self._barren_starts = 0
        self.status = RevisionStatus(restarts=max(0, self._times_ready() - 1))

    async def keep(self, session: aiohttp.ClientSession) -> None:
        """Runs until it is cancelled, or until the revision has failed for good; then tritonserver is ended."""
        try:
            repository = await self._put_repository()
            while True:
                try:
                    await self._run_once(session, repository)
                except EngineDied as error:
                    self._barren_starts += 1
                    if self._barren_starts >= _MAX_BARREN_STARTS:
                        raise
                    self._say(Readiness.STARTING, f"{error} It is started again.")
                finally:
                    await self._end_child()
        except ShipwayError as error:
            self._say(Readiness.FAILED, str(error))

    async def _put_repository(self) -> str:
        """S3 may be away for a while; whatever else is wrong with the artifact stays wrong."""
        self._triton.check()
        while True:
            try:
                stored = await asyncio.to_thread(
                    put_repository, self._store, self._spec.endpoint, self._spec.release
                )
            except Unavailable as error:
                self._say(Readiness.STARTING, str(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                self.status = self.status.model_copy(update={"repository": stored.source})
                return repository_address(stored.source, self._s3_endpoint_url)

    async def _run_once(self, session: aiohttp.ClientSession, repository: str) -> None:
        """One life of tritonserver.

        Raises:
            EngineDied: always, in the end.
            ModelNotLoaded: it could not load the model.
        """
        metrics_port = free_port(0, {self._spec.port, self._spec.triton_port})
        part = self._triton.server(
            self._spec.endpoint,
            repository=repository,
            folder=self._folder,
            port=self._spec.triton_port,
            metrics_port=metrics_port,
            environment=os.environ,
        )
        child = await asyncio.create_subprocess_exec(
            *part.command,
            cwd=part.folder,
            env=dict(part.environment),
            stdin=asyncio.subprocess.DEVNULL,
        )
        self._child = child
        loading = asyncio.create_task(self._await_loaded(session))
        ended = asyncio.create_task(child.wait())
        await asyncio.wait((loading, ended), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            self._become_ready(f"http://127.0.0.1:{metrics_port}/metrics")
            await self._await_death(ended, child.pid)
        loading.cancel()
        message = f"tritonserver ended ({child.returncode}); its log is the revision's."
        raise EngineDied(message)

    async def _await_loaded(self, session: aiohttp.ClientSession) -> None:
        """It answers HTTP only once it has tried to load everything."""
        name, version = self._spec.endpoint.name, self._spec.release.version
        url = f"http://127.0.0.1:{self._spec.triton_port}/v2/repository/index"
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.post(url, timeout=aiohttp.ClientTimeout(total=5)) as response:
                    index = cast("list[dict[str, Any]]", await response.json(content_type=None))
                for model in index:
                    if (model["name"], model.get("version", version)) != (name, version):
                        continue
                    if model.get("state") == "READY":
                        return
                    if model.get("state") == "UNAVAILABLE":
                        raise ModelNotLoaded(str(model.get("reason") or "Triton gives no reason"))
            await asyncio.sleep(_LOOK_S)

    async def _await_death(self, ended: asyncio.Task[int], pid: int) -> None:
        """Until tritonserver ends, or one of its model processes: Triton would restart that one unseen, and uncounted."""
        stubs = _stubs_of(pid)
        while _stubs_of(pid) >= stubs:
            done, _ = await asyncio.wait((ended,), timeout=_STUB_LOOK_S)
            if done:
                return
        message = "The process in which Triton runs the model ended."
        raise EngineDied(message)

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        with suppress(ProcessLookupError):
            child.terminate()
            try:
                await asyncio.wait_for(child.wait(), EXIT_S + 1)
            except TimeoutError:
                child.kill()
                await child.wait()

    def _become_ready(self, metrics_url: str) -> None:
        times = self._times_ready() + 1
        write_json(self._folder / COUNT_FILE, times)
        self._barren_starts = 0
        self.status = self.status.model_copy(
            update={"restarts": times - 1, "metrics_url": metrics_url}
        )
        self._say(Readiness.READY, "")

    def _times_ready(self) -> int:
        """Kept in a file, so that a restart is counted though this process, too, was a new one."""
        file = self._folder / COUNT_FILE
        return int(file.read_text()) if file.exists() else 0

    def _say(self, readiness: Readiness, reason: str) -> None:
        self.status = self.status.model_copy(update={"readiness": readiness, "reason": reason})
        _log.info(
            Event.REVISION_CHANGED,
            version=self._spec.release.version,
            readiness=readiness.value,
            reason=reason,
        )


def _stubs_of(pid: int) -> set[tuple[int, float]]:
    """The model processes that live below a tritonserver."""
    found: set[tuple[int, float]] = set()
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                if child.name().startswith(STUB[:15]) and child.status() != psutil.STATUS_ZOMBIE:
                    found.add((child.pid, child.create_time()))
    return found


async def serve(folder: Path) -> None:
    """Serves the revision that `folder` describes until SIGTERM or SIGINT."""
    spec = RevisionSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    settings = RegistrySettings()
    keeper = RevisionKeeper(
        spec,
        folder=folder,
        store=connect_store(settings),
        s3_endpoint_url=settings.s3_endpoint_url,
        triton=triton_environment(),
    )

    async def status(_: Request) -> JSONResponse:
        return JSONResponse(keeper.status.model_dump(mode="json"))

    async with aiohttp.ClientSession() as session:
        server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=[Route("/status", status)]),
                host="127.0.0.1",
                port=spec.port,
                access_log=False,
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        keeping = asyncio.create_task(keeper.keep(session))
        try:
            await server.serve()
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping


def main() -> None:
    """The process."""
    # What a killed process has said must be in its log.
    log_to(sys.stderr)
    asyncio.run(serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
