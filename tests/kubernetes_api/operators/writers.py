"""The operators at work: each round they look at every object and write its status through the API.

A test steps them by hand (`step`) or lets a thread do it (`working`). How each behaves is set by kind and name; without
a word everything is ready at once. What is settled is left alone until it or its behaviour changes. A conflict, a missing
CRD or a server that is away costs them a round, no more.
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

from tests.kubernetes_api.operators.behaviour import AT_ONCE, Behaviour, Look
from tests.kubernetes_api.operators.http_route import http_route_status
from tests.kubernetes_api.operators.inference_service import (
    deployment_of,
    deployment_status,
    is_knative,
    knative_status,
    standard_status,
)
from tests.kubernetes_api.operators.ray_service import ray_service_status

Body = Mapping[str, Any]

KINDS = {
    "RayService": ("ray.io", "v1", "rayservices"),
    "InferenceService": ("serving.kserve.io", "v1beta1", "inferenceservices"),
    "HTTPRoute": ("gateway.networking.k8s.io", "v1", "httproutes"),
}
_MISSED = (404, 409)
"""Somebody was faster, or it is not there: the next round sees how it is."""
_ROUND_S = 0.02
_APPLY = "application/apply-patch+yaml"
_MANAGER = "simulated-operator"


@dataclass(frozen=True, slots=True)
class _Known:
    """What an operator remembers of an object."""

    generation: int
    round_number: int
    revision: int
    template: str
    """What its pods are made of; another one is another revision."""


class Operators:
    """KubeRay, KServe and a Gateway's controller, simulated."""

    def __init__(self, api: client.ApiClient, now: Callable[[], str]) -> None:
        """Write through `api`, at the times of `now`."""
        self._objects = client.CustomObjectsApi(api)
        self._apps = client.AppsV1Api(api)
        self._now = now
        self._behaviours: dict[tuple[str, str], Behaviour] = {}
        self._known: dict[tuple[str, str, str], _Known] = {}
        """By kind, name and uid."""
        self._settled: dict[str, tuple[str, Look]] = {}
        """By uid, the version and the look at which there was nothing to write, and so is not again."""
        self._lock = threading.Lock()

    def behave(self, kind: str, name: str, behaviour: Behaviour) -> None:
        """From the next round on, begin to treat the object so."""
        with self._lock:
            self._behaviours[kind, name] = behaviour
            for key, one in self._known.items():
                if key[:2] == (kind, name):
                    self._known[key] = replace(one, round_number=0)

    def step(self, rounds: int = 1) -> None:
        """Look at everything, so many times."""
        for _ in range(rounds):
            for kind, place in KINDS.items():
                for body in self._list(place):
                    self._look(kind, place, body)

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

    def _list(self, place: tuple[str, str, str]) -> list[Body]:
        found: list[Body] = []

        def read() -> None:
            found.extend(self._objects.list_cluster_custom_object(*place)["items"])

        _try(read)
        return found

    def _look(self, kind: str, place: tuple[str, str, str], body: Body) -> None:
        look, revision = self._next_look(kind, body)
        uid, stamp = body["metadata"]["uid"], (body["metadata"]["resourceVersion"], look)
        if self._settled.get(uid) == stamp:
            return

        def write() -> None:
            if not self._write(kind, place, body, look, revision):
                self._settled[uid] = stamp

        _try(write)

    def _next_look(self, kind: str, body: Body) -> tuple[Look, int]:
        metadata = body["metadata"]
        key, generation = (kind, metadata["name"], metadata["uid"]), metadata["generation"]
        template = _template(body)
        with self._lock:
            known = self._known.get(key)
            if known is None:
                known = _Known(generation, 0, 1, template)
            elif known.generation != generation:
                revision = known.revision + (known.template != template)
                known = _Known(generation, 0, revision, template)
            self._known[key] = replace(known, round_number=known.round_number + 1)
            behaviour = self._behaviours.get((kind, metadata["name"]), AT_ONCE)
        return behaviour.at(known.round_number), known.revision

    def _write(
        self, kind: str, place: tuple[str, str, str], body: Body, look: Look, revision: int
    ) -> bool:
        """Write what is new; False when nothing was."""
        now = self._now()
        status: Body | None
        if kind == "RayService":
            status = ray_service_status(body, look, now)
        elif kind == "HTTPRoute":
            status = http_route_status(body, look, now)
        elif is_knative(body):
            status = knative_status(body, look, now, revision=revision)
        else:
            generation = self._write_deployment(body, look, now)
            status = standard_status(body, look, now, deployment_generation=generation)
        if status is None or status == body.get("status"):
            return False
        metadata = body["metadata"]
        self._objects.replace_namespaced_custom_object_status(
            *place[:2],
            metadata["namespace"],
            place[2],
            metadata["name"],
            {**body, "status": status},
        )
        return True

    def _write_deployment(self, body: Body, look: Look, now: str) -> int:
        """Make the Deployment as the spec wants it, and its status as the look says; returns its generation."""
        wanted = deployment_of(body)
        name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
        if not look.is_stale:
            self._apps.patch_namespaced_deployment(
                name,
                namespace,
                wanted,
                field_manager=_MANAGER,
                force=True,
                _content_type=_APPLY,
            )
        answer = self._apps.read_namespaced_deployment(name, namespace, _preload_content=False)
        stands: dict[str, Any] = json.loads(answer.data)
        status = deployment_status(stands, look, now)
        if status != stands.get("status"):
            self._apps.replace_namespaced_deployment_status(
                name, namespace, {**stands, "status": status}
            )
        generation: int = stands["metadata"]["generation"]
        return generation


def _template(body: Body) -> str:
    """What the pods are made of: everything but how many there are and who is sent to them."""
    predictor = body["spec"].get("predictor", body["spec"])
    aside = ("canaryTrafficPercent", "minReplicas", "maxReplicas")
    return json.dumps(
        {key: one for key, one in predictor.items() if key not in aside}, sort_keys=True
    )


def _try(call: Callable[[], None]) -> None:
    try:
        call()
    except ApiException as error:
        is_theirs = error.status is not None and error.status >= 500
        if error.status not in (*_MISSED, 429) and not is_theirs:
            raise
    except urllib3.exceptions.HTTPError:
        return
