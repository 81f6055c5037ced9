"""One endpoint's running Envoy: its weights read from its admin page, its routes written to the files that it watches.

What an adapter of this machine needs of it, whichever server runs the revisions. What the files say is in `envoy`.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httpx2

from deploy_targets.endpoint import Endpoint
from deploy_targets.local import envoy
from deploy_targets.local.home import write_json
from deploy_targets.routing.traffic import Traffic
from registry.errors import TargetChanged, TargetUnavailable

_SHIFT_LIMIT_S, _SHIFT_LOOK_S = 5.0, 0.005


class Split:
    """The way to the revisions of one endpoint."""

    def __init__(self, endpoint: Endpoint, *, admin: httpx2.Client, folder: Path) -> None:
        """`admin` is a client of Envoy's admin page; `folder` holds Envoy's files."""
        self._endpoint = endpoint
        self._admin = admin
        self._folder = folder

    def close(self) -> None:
        """Closes the connection that it was given."""
        self._admin.close()

    def traffic(self) -> Traffic:
        """The weights that Envoy runs.

        Raises:
            TargetUnavailable: it does not answer.
        """
        document = ask(self._admin, "GET", "/config_dump?resource=dynamic_route_configs")
        for entry in document.get("configs", ()):
            configuration = entry.get("route_config", {})
            if configuration.get("virtual_hosts"):
                return envoy.parse_routes(configuration)
        return Traffic()

    def write(self, backends: Mapping[str, envoy.Backend], traffic: Traffic) -> None:
        """Clusters before routes when a version comes, after them when it goes: no route ever lacks its cluster."""
        routes = envoy.render_routes(
            backends,
            traffic,
            timeout_s=self._endpoint.serving.timeout_s,
            is_sticky=self._endpoint.guard.sticky is not None,
        )
        clusters_file = self._folder / envoy.CLUSTERS_FILE
        clusters = envoy.render_clusters(backends)
        known: dict[str, Any] = {"resources": []}
        if clusters_file.exists():
            known = json.loads(clusters_file.read_text())
        kept: dict[str, Any] = {one["name"]: one for one in known["resources"]}
        union = {**kept, **{one["name"]: one for one in clusters["resources"]}}
        write_json(clusters_file, {"resources": list(union.values())})
        write_json(self._folder / envoy.ROUTES_FILE, routes)
        write_json(clusters_file, clusters)

    def shift(self, backends: Mapping[str, envoy.Backend], traffic: Traffic) -> None:
        """Writes the weights and returns when Envoy runs them, within milliseconds; requests in flight finish.

        Returning earlier would let the next act read the old weights back and write them again.

        Raises:
            TargetChanged: a weight for a version without a backend; nothing is changed.
            TargetUnavailable: Envoy does not take them.
        """
        name = self._endpoint.name
        if missing := sorted(traffic.weights.keys() - backends.keys()):
            message = (
                f"{name} has no revision {', '.join(missing)} to send requests to; apply it first."
            )
            raise TargetChanged(message)
        self.write(backends, traffic)
        deadline = time.monotonic() + _SHIFT_LIMIT_S
        while (running := self.traffic()) != traffic:
            if time.monotonic() > deadline:
                message = (
                    f"Envoy of {name} did not take {dict(traffic.weights)} within {_SHIFT_LIMIT_S:.0f} s "
                    f"and runs {dict(running.weights)}. Its log says why."
                )
                raise TargetUnavailable(message)
            time.sleep(_SHIFT_LOOK_S)

    def traffic_without(self, version: str) -> Traffic:
        """The weights that Envoy runs, where `version` has none and may be retired.

        Raises:
            TargetChanged: it has some.
        """
        traffic = self.traffic()
        if weight := traffic.percent(version):
            message = f"v{version} of {self._endpoint.name} still has {weight} % of the requests; shift them first."
            raise TargetChanged(message)
        return traffic


def ask(client: httpx2.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    """The JSON object that a part of the local stack answers; an empty one for an empty answer.

    Raises:
        TargetUnavailable: it does not answer, or with an error.
    """
    try:
        response = client.request(method, path, **more)
        if response.is_error:
            message = (
                f"{client.base_url} answered {response.status_code} to {method} {path}: {response.text[-500:]!r}. "
                "`shipway status` shows the parts; their logs are in the state folder."
            )
            raise TargetUnavailable(message)
        return _object(response.json()) if response.content else {}
    except (httpx2.HTTPError, ValueError) as error:
        message = (
            f"{client.base_url} did not answer {method} {path}: {error}. "
            "`shipway status` shows the parts; their logs are in the state folder."
        )
        raise TargetUnavailable(message) from error


def _object(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        message = f"it says {document!r}"
        raise ValueError(message)  # noqa: TRY004 - as JSON that is none
    return cast("dict[str, Any]", document)


def write_first_configuration(folder: Path, *, port: int, admin_port: int) -> Path:
    """Envoy's files for an endpoint without revisions, where there are none yet; returns the bootstrap's path."""
    bootstrap = folder / "bootstrap.json"
    write_json(
        bootstrap,
        envoy.render_bootstrap(folder=str(folder.resolve()), port=port, admin_port=admin_port),
    )
    if not (folder / envoy.CLUSTERS_FILE).exists():
        write_json(folder / envoy.CLUSTERS_FILE, envoy.render_clusters({}))
    if not (folder / envoy.ROUTES_FILE).exists():
        empty = envoy.render_routes({}, Traffic(), timeout_s=1)
        write_json(folder / envoy.ROUTES_FILE, empty)
    return bootstrap
