"""`Target` on this machine: revisions are Ray Serve applications, the split is the endpoint's Envoy.

Ray's REST API takes the whole list of applications and deletes what is left out, so each change reads the list, changes
one element and puts it back, under a file lock that all endpoints of this machine share. What is observed comes from
Ray and from Envoy's admin page, never from the files that were written for them.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from pydantic import BaseModel, ConfigDict, TypeAdapter

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import envoy
from deploy_targets.local.file_lock import locked
from deploy_targets.local.home import write_json
from deploy_targets.local.split import Split, ask
from deploy_targets.manifest import Manifest, revision_name
from deploy_targets.ray_serve.serve_config import render_application
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness, Revision
from registry.errors import TargetUnavailable
from registry.release import Release

_APPLICATIONS = "/api/serve/applications/"
_PUT_LIMIT_S = 60
"""The first application of a Ray starts its proxy and controller, which takes seconds on a busy machine."""
_GONE_LIMIT_S, _GONE_LOOK_S = 10.0, 0.1
_SEEN_FILE = "replicas.json"


class Replicas(BaseModel):
    """The replicas of a version when it was last seen ready, and how many had been replaced by then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: frozenset[str]
    restarts: int = 0


_SEEN = TypeAdapter(dict[str, Replicas])


class LocalTarget:
    """One endpoint on the local Ray and its own Envoy."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        ray: httpx2.Client,
        split: Split,
        serve_port: int,
        folder: Path,
        lock_file: Path,
    ) -> None:
        """`ray` is a client of the dashboard that carries its token; `folder` keeps what was seen."""
        self._endpoint = endpoint
        self._ray = ray
        self._split = split
        self._serve_port = serve_port
        self._folder = folder
        self._lock_file = lock_file

    def close(self) -> None:
        """Closes the connections that it was given."""
        self._ray.close()
        self._split.close()

    def render(self, release: Release) -> tuple[Manifest, ...]:
        """The Serve application, and Envoy's routes with this version alone."""
        application = render_application(self._endpoint, release)
        routes = envoy.render_routes(
            self._backends([release.version]),
            Traffic.all_to(release.version),
            timeout_s=self._endpoint.serving.timeout_s,
        )
        return (
            Manifest(name=application["name"], body=application),
            Manifest(name=envoy.ROUTES_FILE, body=routes),
        )

    def apply(self, release: Release) -> None:
        """Deploys the application beside the others and gives it a pinned route at weight 0.

        Ray does not try one again that failed, however often it is put: it is taken away first.
        """
        application = render_application(self._endpoint, release)
        name = application["name"]
        with locked(self._lock_file):
            details = self._applications()
            others = [config for key, config in _deployed(details).items() if key != name]
            if name in details and _readiness(details[name]) is Readiness.FAILED:
                self._put(others)
                self._await_gone(name)
            self._put([*others, application])
        self._write_split({*self._versions(), release.version}, self._split.traffic())

    def observe(self) -> Observed:
        """Revisions as Ray tells them, traffic as Envoy runs it."""
        details = self._applications()
        revisions = {
            version: self._revision(version, details[name])
            for name, version in self._own(details).items()
        }
        return Observed(revisions=revisions, traffic=self._split.traffic())

    def shift(self, traffic: Traffic) -> None:
        """Rewrites Envoy's routes and returns when it runs them; requests in flight finish."""
        self._split.shift(self._backends(self._versions()), traffic)

    def retire(self, version: str) -> None:
        """Takes the pinned route away, then the application."""
        traffic = self._split.traffic_without(version)
        self._write_split(set(self._versions()) - {version}, traffic)
        name = revision_name(self._endpoint.name, version)
        with locked(self._lock_file):
            deployed = _deployed(self._applications())
            if name in deployed:
                self._put([config for key, config in deployed.items() if key != name])
        self._remember({key: seen for key, seen in self._seen().items() if key != version})

    def _write_split(self, versions: set[str], traffic: Traffic) -> None:
        """A version that has traffic keeps its route even where Ray has lost it, as after a crash, until it is shifted."""
        self._split.write(self._backends({*versions, *traffic.weights}), traffic)

    def _versions(self) -> list[str]:
        return list(self._own(self._applications()).values())

    def _own(self, applications: Mapping[str, Any]) -> dict[str, str]:
        """Application name to version, for the applications of this endpoint."""
        prefix = revision_name(self._endpoint.name, "")
        own = {name: name.removeprefix(prefix) for name in applications if name.startswith(prefix)}
        return {name: version for name, version in own.items() if version.isdigit()}

    def _applications(self) -> dict[str, Any]:
        """Ray Serve's details of every application that is not being deleted."""
        return {name: one for name, one in self._told().items() if one.get("status") != "DELETING"}

    def _told(self) -> dict[str, Any]:
        """Every application. To take another answer for none would delete, with the next change, all that there are."""
        document = ask(self._ray, "GET", _APPLICATIONS)
        if "applications" not in document:
            message = f"{self._ray.base_url} does not answer as Ray's dashboard does. Its log may say why; nothing was changed."
            raise TargetUnavailable(message)
        return document["applications"]

    def _await_gone(self, name: str) -> None:
        """Ray takes a failed application up again as it was, failure and all, while traces of it are left."""
        deadline = time.monotonic() + _GONE_LIMIT_S
        while name in self._told():
            if time.monotonic() > deadline:
                message = f"Ray did not let go of {name} within {_GONE_LIMIT_S:.0f} s. See its log; the next look tries again."
                raise TargetUnavailable(message)
            time.sleep(_GONE_LOOK_S)

    def _put(self, applications: list[dict[str, Any]]) -> None:
        document = {
            "proxy_location": "HeadOnly",
            "http_options": {
                "host": "127.0.0.1",
                "port": self._serve_port,
                # Envoy gives an idle connection up first, so it never sends a request into a closing one.
                "keep_alive_timeout_s": 2 * envoy.IDLE_S,
            },
            "applications": applications,
        }
        ask(self._ray, "PUT", _APPLICATIONS, json=document, timeout=_PUT_LIMIT_S)

    def _revision(self, version: str, details: Mapping[str, Any]) -> Revision:
        deployments: dict[str, Any] = details.get("deployments") or {}
        readiness = _readiness(details)
        # The application only says which deployment failed; that one's message ends with what its constructor raised.
        told = [one.get("message") for one in (*deployments.values(), details)]
        message = next((str(one) for one in told if one), str(details.get("status")))
        return Revision(
            version=version,
            readiness=readiness,
            reason="" if readiness is Readiness.READY else message[-500:],
            restarts=self._count_restarts(version, deployments, readiness),
        )

    def _count_restarts(
        self, version: str, deployments: Mapping[str, Any], readiness: Readiness
    ) -> int:
        """How often a replica was replaced since the version was first seen ready.

        Ray does not count them. What was seen is kept in a file, so that a replica that was replaced while the
        controller was down is not overlooked.
        """
        seen = self._seen()
        before = seen.get(version)
        if readiness is not Readiness.READY:
            return 0 if before is None else before.restarts
        replicas = frozenset(
            str(replica.get("replica_id"))
            for one in deployments.values()
            for replica in one.get("replicas", ())
        )
        now = Replicas(ids=replicas)
        if before is not None:
            now = Replicas(ids=replicas, restarts=before.restarts + len(before.ids - replicas))
        if now != before:
            self._remember({**seen, version: now})
        return now.restarts

    def _seen(self) -> dict[str, Replicas]:
        file = self._folder / _SEEN_FILE
        return _SEEN.validate_json(file.read_bytes()) if file.exists() else {}

    def _remember(self, seen: Mapping[str, Replicas]) -> None:
        write_json(self._folder / _SEEN_FILE, _SEEN.dump_python(dict(seen), mode="json"))

    def _backends(self, versions: Any) -> dict[str, envoy.Backend]:
        return {
            version: envoy.Backend(
                host="127.0.0.1",
                port=self._serve_port,
                prefix=f"/{revision_name(self._endpoint.name, version)}/",
            )
            for version in versions
        }


def _deployed(applications: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of every application, as it was put."""
    return {
        name: details["deployed_app_config"]
        for name, details in applications.items()
        if details.get("deployed_app_config")
    }


def _readiness(details: Mapping[str, Any]) -> Readiness:
    """By the deployments: the application itself is called DEPLOYING for a moment whenever any other one is put."""
    deployments: dict[str, Any] = details.get("deployments") or {}
    said = {str(one.get("status")) for one in deployments.values()}
    if said == {"HEALTHY"}:
        return Readiness.READY
    failed = "DEPLOY_FAILED" in {*said, details.get("status")}
    return Readiness.FAILED if failed else Readiness.STARTING
