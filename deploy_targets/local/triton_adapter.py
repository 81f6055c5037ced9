"""`Target` on this machine with Triton: each revision is a process of its own (`triton_revision`), Envoy is the split.

A revision's folder holds what it was started with and which process it is; how it stands says the process itself. One
whose process is gone is not deployed any more, as after a restart of the machine: it is started by applying it again.
"""

import shutil
import sys
from collections.abc import Mapping

import httpx2
from pydantic import ValidationError

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import envoy
from deploy_targets.local.home import Home, write_private
from deploy_targets.local.process import ProcessRecord, end_all, find_marked, free_port, spawn
from deploy_targets.local.split import Split
from deploy_targets.local.triton_revision import SPEC_FILE, RevisionSpec, RevisionStatus
from deploy_targets.local.triton_server import EXIT_S
from deploy_targets.manifest import Manifest, revision_name
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from deploy_targets.triton.model_config import CONFIG_FILE, render_model_config
from registry.release import Release

_PROCESS_FILE = "process.json"
_RENDERED_PORT = 8000
"""What a rendering says; the port is chosen when a revision is applied."""


class LocalTritonTarget:
    """One endpoint on local Tritons and its own Envoy."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        split: Split,
        http: httpx2.Client,
        home: Home,
        environment: Mapping[str, str],
    ) -> None:
        """`http` is for the revisions' status; `environment` is all that a revision's process gets."""
        self._endpoint = endpoint
        self._split = split
        self._http = http
        self._home = home
        self._folder = home.folder(f"endpoints/{endpoint.name}/triton")
        self._environment = environment

    def close(self) -> None:
        """Closes the connections that it was given."""
        self._http.close()
        self._split.close()

    def render(self, release: Release) -> tuple[Manifest, ...]:
        """The configuration in the model repository, and Envoy's routes with this version alone."""
        routes = envoy.render_routes(
            {release.version: _backend(_RENDERED_PORT)},
            Traffic.all_to(release.version),
            timeout_s=self._endpoint.serving.timeout_s,
        )
        name = revision_name(self._endpoint.name, release.version)
        text = render_model_config(self._endpoint, release)
        return (
            Manifest(name=name, body={CONFIG_FILE: text}),
            Manifest(name=envoy.ROUTES_FILE, body=routes),
        )

    def apply(self, release: Release) -> None:
        """Starts the revision's process, unless it runs as it should, and gives it a pinned route at weight 0."""
        traffic = self._split.traffic()
        version = release.version
        deployed = self._deployed()
        spec = deployed.get(version)
        if spec is None or not self._is_as_wanted(spec, release):
            self._end(version)
            deployed[version] = self._start(release)
        self._write_split(deployed, traffic)

    def observe(self) -> Observed:
        """Revisions as their processes tell, traffic as Envoy runs it."""
        revisions = {version: self._revision(spec) for version, spec in self._deployed().items()}
        return Observed(revisions=revisions, traffic=self._split.traffic())

    def shift(self, traffic: Traffic) -> None:
        """Rewrites Envoy's routes and returns when it runs them; requests in flight finish."""
        self._split.shift(_backends(self._deployed()), traffic)

    def retire(self, version: str) -> None:
        """Takes the pinned route away, then ends the process and removes its folder."""
        traffic = self._split.traffic_without(version)
        deployed = self._deployed()
        deployed.pop(version, None)
        self._write_split(deployed, traffic)
        self._end(version)
        shutil.rmtree(self._folder / version, ignore_errors=True)

    def _is_as_wanted(self, spec: RevisionSpec, release: Release) -> bool:
        if (spec.release, spec.endpoint) != (release, self._endpoint):
            return False
        return self._revision(spec).readiness is not Readiness.FAILED

    def _start(self, release: Release) -> RevisionSpec:
        version = release.version
        folder = self._folder / version
        folder.mkdir(parents=True, exist_ok=True)
        taken: set[int] = set()
        spec = RevisionSpec(
            endpoint=self._endpoint,
            release=release,
            port=free_port(0, taken),
            triton_port=free_port(0, taken),
        )
        # What the user left out stays out: a default that is spelled out may not fit this target.
        text = spec.model_dump_json(indent=1, exclude_unset=True)
        write_private(folder / SPEC_FILE, text)
        record = spawn(
            (sys.executable, "-m", "deploy_targets.local.triton_revision", folder.resolve()),
            log=self._home.log(self._part(version)),
            environment=self._environment,
            folder=folder,
            mark=self._home.mark(self._part(version)),
        )
        write_private(folder / _PROCESS_FILE, record.model_dump_json())
        return spec

    def _end(self, version: str) -> None:
        end_all(find_marked(self._home.mark(self._part(version))), patience_s=EXIT_S + 2)

    def _part(self, version: str) -> str:
        return f"{self._endpoint.name}.triton-v{version}"

    def _deployed(self) -> dict[str, RevisionSpec]:
        """What was started and still runs, by version."""
        found: dict[str, RevisionSpec] = {}
        for folder in sorted(self._folder.glob("*")):
            try:
                record = ProcessRecord.model_validate_json((folder / _PROCESS_FILE).read_bytes())
                spec = RevisionSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
            except (OSError, ValidationError):
                continue  # it is only just being started or retired, or another version of Shipway wrote it
            if record.find() is not None:
                found[spec.release.version] = spec
        return found

    def _revision(self, spec: RevisionSpec) -> Revision:
        version = spec.release.version
        try:
            answer = self._http.get(f"http://127.0.0.1:{spec.port}/status")
            status = RevisionStatus.model_validate_json(answer.content)
        except (httpx2.HTTPError, ValidationError):
            status = RevisionStatus(reason="its process does not answer yet")
        return Revision(
            version=version,
            readiness=status.readiness,
            reason=status.reason[-500:],
            restarts=status.restarts,
        )

    def _write_split(self, deployed: Mapping[str, RevisionSpec], traffic: Traffic) -> None:
        """A version that has traffic keeps its route even where its process is gone, until it is shifted."""
        lost = {
            version: _backend(_NOBODY) for version in traffic.weights if version not in deployed
        }
        self._split.write({**lost, **_backends(deployed)}, traffic)


_NOBODY = 1
"""A port on which nobody listens: what is sent there fails by name."""


def _backends(deployed: Mapping[str, RevisionSpec]) -> dict[str, envoy.Backend]:
    return {version: _backend(spec.triton_port) for version, spec in deployed.items()}


def _backend(port: int) -> envoy.Backend:
    return envoy.Backend(host="127.0.0.1", port=port, prefix="/")
