"""The operators at work in one namespace: each round they look at every object and write its status through the API.

A test steps them by hand (`step`) or lets a thread do it (`working`). How each behaves is set by kind and name, or for all
that runs a version; without a word it is as `workloads` says, and routes are taken at once. They make Deployments and pods
too, and take away those whose owner is gone, as the garbage collector of a whole cluster would. A conflict, a missing CRD
or a server that is away costs them a round, no more.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.objects import APPLY, MERGE
from tests.kubernetes_api.operators.behaviour import AT_ONCE, Behaviour, Look, Stage
from tests.kubernetes_api.operators.http_route import http_route_status
from tests.kubernetes_api.operators.inference_service import knative_status, standard_status
from tests.kubernetes_api.operators.ray_service import ray_service_status
from tests.kubernetes_api.operators.workloads import (
    REVISION_LABEL,
    deployment_status,
    head_pod,
    pod_of,
    revision_deployment,
    standard_deployment,
)

Body = Mapping[str, Any]

KINDS = {
    "RayService": ("ray.io", "v1", "rayservices"),
    "InferenceService": ("serving.kserve.io", "v1beta1", "inferenceservices"),
    "HTTPRoute": ("gateway.networking.k8s.io", "v1", "httproutes"),
}
VERSION_LABEL = "app.kubernetes.io/version"
NOW = "2026-11-24T12:00:00Z"
_MODE = "serving.kserve.io/deploymentMode"
_MISSED = (404, 409)
"""Somebody was faster, or it is not there: the next round sees how it is."""
_ROUND_S = 0.02
_MANAGER = "simulated-operator"


@dataclass(frozen=True, slots=True)
class _Known:
    """What an operator remembers of an object."""

    version: str
    round_number: int
    revision: int
    template: str
    """What its pods are made of; another one is another revision."""


class Operators:
    """KubeRay, KServe and a Gateway's controller, simulated."""

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        *,
        now: Callable[[], str] = lambda: NOW,
        workloads: Behaviour = AT_ONCE,
    ) -> None:
        """Write through `api`, at the times of `now`."""
        self._objects = client.CustomObjectsApi(api)
        self._apps = client.AppsV1Api(api)
        self._core = client.CoreV1Api(api)
        self._namespace = namespace
        self._now = now
        self._workloads = workloads
        self.mode: str | None = None
        """How KServe runs everything, whatever it is asked; as asked by default."""
        self.absent: set[str] = set()
        """Kinds of which the operator does not run."""
        self._behaviours: dict[tuple[str, str], Behaviour] = {}
        self._versions: dict[str, Behaviour] = {}
        self._known: dict[tuple[str, str, str], _Known] = {}
        """By kind, name and uid."""
        self._lock = threading.Lock()

    def behave(self, kind: str, name: str, behaviour: Behaviour) -> None:
        """From the next round on, begin to treat the object so."""
        with self._lock:
            self._behaviours[kind, name] = behaviour
            self._begin_anew(lambda key, _: key[:2] == (kind, name))

    def behave_to(self, version: str, behaviour: Behaviour) -> None:
        """From the next round on, begin to treat whatever runs that version so."""
        with self._lock:
            self._versions[version] = behaviour
            self._begin_anew(lambda _, known: known.version == version)

    def step(self, rounds: int = 1) -> None:
        """Look at everything, so many times."""
        for _ in range(rounds):
            found = {kind: self._list(place) for kind, place in KINDS.items()}
            self._collect({one["metadata"]["uid"] for some in found.values() for one in some})
            for kind, some in found.items():
                for body in some if kind not in self.absent else ():
                    self._look(kind, body)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let them work by themselves until the end of the block."""
        stop = threading.Event()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                while not stop.wait(_ROUND_S):
                    self.step()
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            stop.set()
            worker.join()
        assert failures == []

    def kill_pods(self, version: str) -> None:
        """A container of each pod of the version has ended and was started again."""
        for pod in self._pods(version):
            told = pod.status.container_statuses if pod.status else None
            container = pod.spec.containers[0]
            status = {
                "name": container.name,
                "image": container.image,
                "imageID": "",
                "ready": True,
                "restartCount": 1 + sum(one.restart_count for one in told or ()),
                "state": {"running": {}},
            }
            self._say_pod(pod, {"containerStatuses": [status]})

    def pods_say(self, version: str, status: Body) -> None:
        """Every pod of the version gets this status."""
        for pod in self._pods(version):
            self._say_pod(pod, status)

    def _pods(self, version: str) -> list[Any]:
        selector = f"{VERSION_LABEL}={version}"
        found = self._core.list_namespaced_pod(self._namespace, label_selector=selector).items
        assert found, f"v{version} has no pods"
        return found

    def _say_pod(self, pod: Any, status: Body) -> None:
        self._core.patch_namespaced_pod_status(
            pod.metadata.name, self._namespace, {"status": status}, _content_type=MERGE
        )

    def _begin_anew(self, concerns: Callable[[tuple[str, str, str], _Known], bool]) -> None:
        for key, known in self._known.items():
            if concerns(key, known):
                self._known[key] = replace(known, round_number=0)

    def _list(self, place: tuple[str, str, str]) -> list[Body]:
        found: list[Body] = []
        group, version, plural = place

        def read() -> None:
            answer = self._objects.list_namespaced_custom_object(
                group, version, self._namespace, plural
            )
            found.extend(answer["items"])

        _try(read)
        return found

    def _collect(self, owners: set[str]) -> None:
        """Delete the Deployments and pods of which the owner is gone."""

        def collect() -> None:
            for kind, some in (
                ("deployment", self._apps.list_namespaced_deployment(self._namespace).items),
                ("pod", self._core.list_namespaced_pod(self._namespace).items),
            ):
                api = self._apps if kind == "deployment" else self._core
                for one in some:
                    if one.metadata.owner_references[0].uid not in owners:
                        delete = getattr(api, f"delete_namespaced_{kind}")
                        _try(lambda d=delete, m=one.metadata: d(m.name, self._namespace))

        _try(collect)

    def _look(self, kind: str, body: Body) -> None:
        look, revision = self._next_look(kind, body)
        _try(lambda: self._write(kind, body, look, revision))

    def _next_look(self, kind: str, body: Body) -> tuple[Look, int]:
        metadata = body["metadata"]
        key = (kind, metadata["name"], metadata["uid"])
        version = metadata.get("labels", {}).get(VERSION_LABEL, "")
        template = _template(body)
        with self._lock:
            known = self._known.get(key)
            if known is None:
                known = _Known(version, 0, 1, template)
            elif known.template != template:
                known = _Known(version, 0, known.revision + 1, template)
            self._known[key] = replace(known, round_number=known.round_number + 1)
            default = AT_ONCE if kind == "HTTPRoute" else self._workloads
            behaviour = self._behaviours.get(
                (kind, metadata["name"]), self._versions.get(version, default)
            )
        return behaviour.at(known.round_number), known.revision

    def _write(self, kind: str, body: Body, look: Look, revision: int) -> None:
        now = self._now()
        if kind == "RayService":
            if not look.is_stale and not look.refused:
                self._make_pod(head_pod(body))
            status = ray_service_status(body, look, now)
        elif kind == "HTTPRoute":
            status = http_route_status(body, look, now)
        elif (self.mode or body["metadata"].get("annotations", {}).get(_MODE)) == "Knative":
            status = knative_status(body, look, now, revision=revision)
            if status is not None:
                self._write_revisions(body, look, status["components"]["predictor"])
        else:
            made = self._write_deployment(standard_deployment(body), look)
            generation = made["metadata"]["generation"]
            status = standard_status(body, look, now, deployment_generation=generation)
        if status is None or status == body.get("status"):
            return
        group, version, plural = KINDS[kind]
        self._objects.replace_namespaced_custom_object_status(
            group,
            version,
            self._namespace,
            plural,
            body["metadata"]["name"],
            {**body, "status": status},
        )

    def _write_revisions(self, body: Body, look: Look, component: Body) -> None:
        """The newest revision as the look says; an older one has pods while requests go to it."""
        newest = component["latestCreatedRevision"]
        if not look.is_stale:
            self._write_deployment(revision_deployment(body, newest), look)
        routed = {newest, *(one["revisionName"] for one in component.get("traffic", ()))}
        for one in self._apps.list_namespaced_deployment(self._namespace).items:
            revision = one.metadata.labels.get(REVISION_LABEL)
            wanted = int(revision in routed)
            is_own = one.metadata.owner_references[0].uid == body["metadata"]["uid"]
            if is_own and revision != newest and one.spec.replicas != wanted:
                self._scale(one.metadata.name, wanted)

    def _write_deployment(self, wanted: Body, look: Look) -> Body:
        """Make the Deployment as the spec wants it, and its status as the look says; returns it."""
        name = wanted["metadata"]["name"]
        if not look.is_stale:
            self._apps.patch_namespaced_deployment(
                name,
                self._namespace,
                dict(wanted),
                field_manager=_MANAGER,
                force=True,
                _content_type=APPLY,
            )
            if not look.refused:
                self._make_pod(pod_of(wanted))
        return self._say_deployment(name, look)

    def _scale(self, name: str, replicas: int) -> None:
        patch = {"spec": {"replicas": replicas}}
        self._apps.patch_namespaced_deployment(name, self._namespace, patch, _content_type=MERGE)
        self._say_deployment(name, Look(stage=Stage.READY))

    def _say_deployment(self, name: str, look: Look) -> Body:
        answer = self._apps.read_namespaced_deployment(
            name, self._namespace, _preload_content=False
        )
        stands: dict[str, Any] = json.loads(answer.data)
        status = deployment_status(stands, look, self._now())
        if status != stands.get("status"):
            self._apps.replace_namespaced_deployment_status(
                name, self._namespace, {**stands, "status": status}
            )
        return stands

    def _make_pod(self, body: Body) -> None:
        """Unless there is one of that name."""
        _try(lambda: self._core.create_namespaced_pod(self._namespace, dict(body)))


def _template(body: Body) -> str:
    """What the pods are made of: everything but how many there are and who is sent to them."""
    metadata, spec = body["metadata"], body["spec"]
    aside = ("canaryTrafficPercent", "minReplicas", "maxReplicas")
    predictor = spec.get("predictor", {})
    kept = {
        **spec,
        "predictor": {key: one for key, one in predictor.items() if key not in aside},
        "handed down": [metadata.get("labels"), metadata.get("annotations")],
    }
    return json.dumps(kept, sort_keys=True)


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except ApiException as error:
        is_theirs = error.status is not None and error.status >= 500
        if error.status not in (*_MISSED, 429) and not is_theirs:
            raise
    except urllib3.exceptions.HTTPError:
        return
