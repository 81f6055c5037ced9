"""Where revisions run in a Kubernetes cluster, as a user declares it: the parts `kubernetes`, `ray_serve`, `triton`.

What contradicts itself inside one part is refused here; what does not fit the endpoint's target or engine is refused by
`endpoint`. How the parts become objects is the business of `ray_serve.manifest` and `triton.manifest`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from deploy_targets.declared import Declared

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Hostname = Annotated[
    str,
    Field(
        max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    ),
]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_RAYS_OWN = frozenset({"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"})
_REFUSED_BY_KUBERAY = frozenset({"RAY_REDIS_ADDRESS", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"})
"""KubeRay 1.7 takes a RayService with one of these and never begins it; no schema says so."""


class Gateway(Declared):
    """The Gateway (Gateway API) that the endpoint's HTTPRoute joins."""

    name: Name
    """The Gateway object's name."""
    namespace: Name
    """The Gateway object's namespace."""
    hostname: Hostname
    """The Host header by which the guard reaches this endpoint; one endpoint alone may use it."""
    proxies_namespace: Name | None = None
    """Where the Gateway's proxies run, which alone may send requests; the Gateway's own namespace by default."""


class Git(Declared):
    """Where manifests are written as commits, for Argo CD or Flux to apply."""

    repository: Annotated[str, Field(min_length=1, pattern=r"^[^-]")]
    """Its address, as git takes it; without credentials, which git has of its own."""
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]*$")] = "main"
    """The branch that is pushed to; it must be there."""
    path: Annotated[str, Field(pattern=r"^([\w-][\w.-]*(/[\w-][\w.-]*)*)?$")] = ""
    """The folder in it; inside, each namespace has a folder of its own."""


class Kubernetes(Declared):
    """What every pod of a revision gets, and the way in."""

    namespace: Name = "default"
    """Where every object of the endpoint lives."""
    image: Annotated[str, Field(min_length=1)] | None = None
    """The engine's image; its USER must be a number other than 0. Triton's runtime brings its own."""
    env: Mapping[VariableName, str] = {}
    """Environment variables. Anybody who may read the objects sees them: no secrets."""
    service_account: Name | None = None
    """The pods' ServiceAccount: how they may read the artifact."""
    storage_secret: Name | None = None
    """A Secret of `AWS_…` variables for the artifact's storage, on Ray only: KServe takes them from a ServiceAccount."""
    gateway: Gateway | None = None
    git: Git | None = None

    @model_validator(mode="after")
    def _authentication_stays_on(self) -> Self:
        if taken := sorted(_RAYS_OWN & self.env.keys()):
            message = (
                f"env sets {', '.join(taken)}, which would undo the authentication of Ray's dashboard; leave it out, "
                "and name the token's Secret in ray_serve.auth_secret"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _kuberay_begins_it(self) -> Self:
        if refused := sorted(_REFUSED_BY_KUBERAY & self.env.keys()):
            message = (
                f"env sets {', '.join(refused)}, with which KubeRay would never begin the revision: Redis and the autoscaler "
                "have fields of their own in a RayService, which Shipway does not render; leave it out"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _git_has_weights_to_write(self) -> Self:
        if self.git is not None and self.gateway is None:
            message = "git is for endpoints whose weights are on a route of Shipway's; name a gateway, or leave git out"
            raise ValueError(message)
        return self


class Autoscaling(Declared):
    """A number of replicas that follows the load."""

    min: Annotated[int, Field(ge=1)] = 1
    """Never fewer: a model takes too long to load to start from none."""
    max: Annotated[int, Field(ge=1)]
    """Never more."""
    target_ongoing_requests: Annotated[int, Field(ge=1)]
    """Requests under way at one replica that the number is steered to."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.max <= self.min:
            message = (
                f"replicas: max is {self.max} and min {self.min}, so nothing could scale; raise max, or give the number "
                f"alone: `replicas: {self.min}`"
            )
            raise ValueError(message)
        return self


def _way_to_scale(value: object) -> str:
    return "number" if isinstance(value, int) else "scaling"


Replicas = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[Autoscaling, Tag("scaling")],
    Discriminator(_way_to_scale),
]
"""A number, or how it follows the load. Told apart by hand, so that a fault is named in the user's own words."""


class HeadResources(Declared):
    """What the Ray head asks for; no model runs there."""

    cpus: Annotated[float, Field(gt=0)] = 2
    """Cores."""
    memory_gib: Annotated[float, Field(gt=0)] = 4
    """For the GCS, the dashboard and the Serve controller."""


class Upgrade(Declared):
    """How KubeRay itself moves the requests to a changed RayService: by time, and unjudged."""

    gateway_class: Annotated[str, Field(min_length=1)]
    """The GatewayClass of the Gateway that KubeRay makes."""
    step_percent: Annotated[int, Field(ge=1, le=100)] = 5
    """Percent of the requests moved at each interval."""
    interval_s: Annotated[int, Field(ge=1)] = 300
    """Seconds between two moves."""
    max_surge_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """How much of the new cluster may exist beside the old one."""


class RayServe(Declared):
    """What is peculiar to target ray-serve."""

    rollout: Literal["shipway", "operator-driven"] = "shipway"
    """Who moves the requests: Shipway, judging; or KubeRay's incremental upgrade, which goes by time alone."""
    upgrade: Upgrade | None = None
    """Required when KubeRay moves the requests, refused otherwise."""
    auth_secret: Name | None = None
    """A Secret whose `auth_token` Ray's dashboard asks for; KubeRay makes one for each revision by default."""
    head: HeadResources = HeadResources()
    service_unhealthy_s: Annotated[int, Field(ge=1)] | None = None
    """serviceUnhealthySecondThreshold. Written out for readers: KubeRay takes it and has gone by probes since 1.1."""
    deployment_unhealthy_s: Annotated[int, Field(ge=1)] | None = None
    """deploymentUnhealthySecondThreshold, likewise. What acts: rollout.warm_limit_s and rollout.max_setbacks."""

    @model_validator(mode="after")
    def _one_mover(self) -> Self:
        if self.rollout == "operator-driven" and self.upgrade is None:
            message = (
                "rollout: operator-driven needs `upgrade` with a gateway_class: KubeRay moves the requests on a Gateway "
                "of its own"
            )
            raise ValueError(message)
        if self.rollout == "shipway" and self.upgrade is not None:
            message = (
                "upgrade is KubeRay's plan, but Shipway moves the requests; leave it out, or say so with "
                "`rollout: operator-driven`"
            )
            raise ValueError(message)
        return self


class Triton(Declared):
    """What is peculiar to Triton: target triton, which KServe runs, and local-triton."""

    mode: Literal["Standard", "Knative"] = "Standard"
    """KServe's deployment mode in this cluster: it decides how a canary is made."""
    container_concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests that one container works on at once: the limit of Knative's queue proxy, and of Triton's batches."""
    response_cache_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Memory for Triton's response cache, which drops what was used least recently; no cache by default."""
