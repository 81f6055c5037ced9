"""What keeps Shipway from working here? One finding for each thing that must hold, with what to do where it does not."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx2

from deploy_targets.control_plane import read_endpoint_file
from deploy_targets.endpoint import TargetKind
from deploy_targets.local.home import Home, HomeSettings
from deploy_targets.local.parts import BIN
from deploy_targets.local.stack import StackInfo, load_stack
from deploy_targets.local.triton_server import triton_environment
from registry.errors import ShipwayError
from registry.settings import RegistrySettings

_NEEDED_GIB = 6
"""Environment, one small model in three shapes, and room to work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    is_fine: bool
    said: str
    """What was found; where it is not fine, what to do."""

    def line(self) -> str:
        """For people."""
        return f"{'ok  ' if self.is_fine else 'FAIL'} {self.what}: {self.said}"


def examine(file: Path) -> tuple[Finding, ...]:
    """Looks at the installation, the endpoint file, the disk and, where a stack was started, at each part of it."""
    home = Home(HomeSettings().home)
    return (
        _python(),
        *(_binary(name) for name in ("weed", "envoy", "mlflow", "ray")),
        _disk(home),
        *_endpoints(file),
        *_stack(home),
    )


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    is_fine = sys.version_info[:2] == (3, 11)
    said = found if is_fine else f"{found}; the pinned packages are proven on 3.11, use that one"
    return Finding(what="python", is_fine=is_fine, said=said)


def _binary(name: str) -> Finding:
    path = BIN / name
    if path.exists():
        return Finding(what=name, is_fine=True, said="installed")
    return Finding(what=name, is_fine=False, said="not installed; run `make setup`")


def _disk(home: Home) -> Finding:
    free_gib = shutil.disk_usage(home.folder("")).free / 2**30
    said = f"{free_gib:.0f} GiB free"
    if free_gib < _NEEDED_GIB:
        return Finding(what="disk", is_fine=False, said=f"{said}; make room for {_NEEDED_GIB} GiB")
    return Finding(what="disk", is_fine=True, said=said)


def _endpoints(file: Path) -> Iterator[Finding]:
    try:
        endpoints = read_endpoint_file(file).endpoints
    except ShipwayError as error:
        yield Finding(what="endpoint file", is_fine=False, said=str(error))
        return
    names = ", ".join(endpoint.name for endpoint in endpoints)
    yield Finding(what="endpoint file", is_fine=True, said=names)
    on_triton = [one.name for one in endpoints if one.target is TargetKind.LOCAL_TRITON]
    if on_triton:
        yield _triton(", ".join(on_triton))


def _triton(users: str) -> Finding:
    """Asked of those alone who need it: it is a gigabyte."""
    try:
        triton_environment().check()
    except ShipwayError as error:
        return Finding(what="triton", is_fine=False, said=f"{users} needs it. {error}")
    return Finding(what="triton", is_fine=True, said="installed")


def _stack(home: Home) -> tuple[Finding, ...]:
    info = load_stack(home)
    if info is None or not info.processes:
        return (Finding(what="stack", is_fine=True, said="not started; `shipway up` starts it"),)
    findings = [
        Finding(
            what=name,
            is_fine=runs,
            said="runs" if runs else f"it ended; see {home.log(name)}, then run `shipway up`",
        )
        for name, runs in info.alive().items()
    ]
    return (*findings, *_mlflow(home, info))


def _mlflow(home: Home, info: StackInfo) -> Iterator[Finding]:
    try:
        healthy = httpx2.get(f"{info.mlflow_url}/health", timeout=5).status_code == HTTPStatus.OK
    except httpx2.HTTPError:
        healthy = False
    said = "answers" if healthy else f"{info.mlflow_url} does not answer; see {home.log('mlflow')}"
    yield Finding(what="MLflow", is_fine=healthy, said=said)
    if healthy and info.alive().get("controller"):
        from deploy_targets.rollout.webhook import check_hook
        from registry.mlflow_registry import MlflowRegistry
        from registry.tracking import connect_mlflow

        registry = MlflowRegistry(connect_mlflow(RegistrySettings(tracking_uri=info.mlflow_url)))
        hook = check_hook(registry)
        yield Finding(what="webhook", is_fine=hook.arrives, said=hook.said)
