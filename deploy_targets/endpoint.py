"""What a user declares: the endpoint file, `apiVersion: shipway/v1`.

The models are frozen values without I/O, so the core takes them as they are; unknown keys are refused. Reading the
file is `parse_endpoints`; the JSON Schema for editors is `endpoint_schema`. A field is here only once it acts.
"""

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from deploy_targets.batching import BatchPolicy
from deploy_targets.declared import AS_DUMPED, Declared, faults_of
from deploy_targets.guard_policy import GuardPolicy
from deploy_targets.placement import Autoscaling, Kubernetes, RayServe, Replicas, Triton
from deploy_targets.rollout_policy import RolloutPolicy
from registry.engines import ServingEngine
from registry.errors import EndpointFileInvalid, ManifestInvalid, NotFound
from registry.plain_yaml import load_yaml
from registry.promotion import CHAMPION, AliasTrigger, StageTrigger, Trigger


class Request(Declared):
    """What makes a version be rolled out."""

    approval: Literal["none", "tag", "named"] = "none"
    """Whose word it needs besides. `tag`: the version's tag `shipway.approved` is set, by somebody else than who asks where
    MLflow's server knows their names (`--app-name shipway-basic-auth`). `named`: and the names must be known."""


class AliasRequest(Request):
    """A version is asked for by setting an alias."""

    alias: Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")] = "challenger"
    """The alias that a person, the UI or `shipway promote` sets."""

    @model_validator(mode="after")
    def _not_champion(self) -> Self:
        if self.alias == CHAMPION:
            message = "champion always names what serves; name another alias for the request"
            raise ValueError(message)
        return self


class StageRequest(Request):
    """A version is asked for by moving it to a legacy stage."""

    stage: Literal["Staging", "Production"]
    """The stage that a version is moved to."""


class TargetKind(StrEnum):
    """Where revisions run."""

    LOCAL = "local"
    """Ray Serve on this machine."""
    LOCAL_TRITON = "local-triton"
    """Triton on this machine, on the repository that KServe would load."""
    RAY_SERVE = "ray-serve"
    TRITON = "triton"

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self in {TargetKind.LOCAL, TargetKind.LOCAL_TRITON}

    @property
    def protocol(self) -> Literal["openai", "triton"]:
        """What its revisions speak."""
        return "triton" if self in {TargetKind.TRITON, TargetKind.LOCAL_TRITON} else "openai"


class Engine(Declared):
    """What loads the model and generates."""

    kind: Literal["transformers", "vllm"] = "transformers"
    """transformers loads every checkpoint that the pipeline writes; vllm is the faster one, for clusters."""
    max_context_tokens: Annotated[int, Field(ge=16)] = 2048
    """Prompt and answer together."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads for one replica (OMP_NUM_THREADS), no more than its cores. More than one collapses on a small box."""


class Resources(Declared):
    """What one replica asks its platform for."""

    cpus: Annotated[float, Field(gt=0)] = 1
    """Cores."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """Devices; a fraction shares one."""
    memory_gib: Annotated[float, Field(gt=0)] = 2
    """For the model, its caches and the process."""


class ServingPolicy(Declared):
    """How requests are let in."""

    auth: Literal["api-key", "none"] = "api-key"
    """`none` lets anybody in."""
    timeout_s: Annotated[float, Field(gt=0)] = 60
    """For a whole answer, streamed or not. Past it the request counts as failed by its version."""


class Endpoint(Declared):
    """One address that clients call, and the registered model that answers there."""

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """A DNS label of at most 40 characters, so that `<name>-v<version>` fits everywhere."""
    model: Annotated[str, Field(min_length=1)]
    """The registered model's name in MLflow."""
    promote: AliasRequest | StageRequest = AliasRequest()
    """What counts as the request to promote a version."""
    target: TargetKind = TargetKind.LOCAL
    """Where revisions run."""
    engine: Engine = Engine()
    resources: Resources = Resources()
    replicas: Replicas = 1
    """Of each revision."""
    batching: BatchPolicy = BatchPolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    serving: ServingPolicy = ServingPolicy()
    guard: GuardPolicy = GuardPolicy()
    kubernetes: Kubernetes | None = None
    ray_serve: RayServe | None = None
    triton: Triton | None = None

    @model_validator(mode="after")
    def _fits_its_target(self, info: ValidationInfo) -> Self:
        if info.context is not AS_DUMPED and (faults := tuple(_misfits(self))):
            raise ValueError("; ".join(faults))
        return self

    @property
    def cluster(self) -> Kubernetes:
        """The part kubernetes, which the endpoint of every target but local has.

        Raises:
            ManifestInvalid: this one has none.
        """
        if self.kubernetes is None:
            message = f"{self.name} is for target {self.target}, so there is nothing to render for Kubernetes."
            raise ManifestInvalid(message)
        return self.kubernetes

    @property
    def serving_engine(self) -> ServingEngine:
        """What loads its versions, in the registry's words."""
        if self.engine.kind == "vllm":
            return ServingEngine.VLLM
        is_triton = self.target.protocol == "triton"
        return ServingEngine.TRITON_PYTHON if is_triton else ServingEngine.TRANSFORMERS

    @property
    def max_replicas(self) -> int:
        """Replicas of one revision, at the most."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.max

    @property
    def trigger(self) -> Trigger:
        """The request in the registry's own terms."""
        if isinstance(self.promote, AliasRequest):
            return AliasTrigger(alias=self.promote.alias)
        return StageTrigger(stage=self.promote.stage)


def _misfits(endpoint: Endpoint) -> Iterator[str]:
    """What is declared and would not act, or could not work, on the endpoint's target; with the way out."""
    target, kubernetes = endpoint.target, endpoint.kubernetes
    tritons = (TargetKind.TRITON, TargetKind.LOCAL_TRITON)
    for part, owners in (("ray_serve", (TargetKind.RAY_SERVE,)), ("triton", tritons)):
        if getattr(endpoint, part) is not None and target not in owners:
            named = " or ".join(owners)
            yield f"{part} is for target {named}, not {target}; leave it out or change the target"
    yield from _misfits_of_the_rollout(endpoint)
    sticky = endpoint.guard.sticky
    if sticky is not None and sticky.by == "key" and endpoint.serving.auth == "none":
        yield "guard.sticky.by is key, and without keys everybody is the same one; use serving.auth api-key, or by: user"
    if endpoint.engine.kind == "vllm" and "max_delay_ms" in endpoint.batching.model_fields_set:
        yield "batching.max_delay_ms: vLLM takes requests up as they come and waits for none; leave it out"
    threads, cpus = endpoint.engine.threads, endpoint.resources.cpus
    if threads > max(math.ceil(cpus), 1):
        yield (
            f"engine.threads is {threads}, but resources.cpus gives a replica {cpus:g}: threads that wait for each other's "
            "core are slower than one; lower the one or raise the other"
        )
    if target in tritons:
        yield from _misfits_of_a_triton_server(endpoint)
    if target.is_local:
        yield from _misfits_of_this_machine(endpoint)
    elif kubernetes is None:
        yield f"target {target} needs the part kubernetes: the namespace, the image, the gateway"
    else:
        yield from _misfits_of_pods(endpoint)
        yield from _misfits_of_devices(endpoint)
        if target is TargetKind.RAY_SERVE:
            yield from _misfits_of_ray(endpoint, kubernetes)
        else:
            yield from _misfits_of_triton(endpoint, kubernetes)


def _misfits_of_the_rollout(endpoint: Endpoint) -> Iterator[str]:
    if endpoint.rollout.metrics.cost is not None and not endpoint.guard.prices.are_set:
        yield "rollout.metrics.cost judges by what requests cost, and nothing has a price; give guard.prices, or leave it out"
    yield from _misfits_of_quality(endpoint)
    if endpoint.rollout.steps[0].weight == 0 and endpoint.guard.shadow is None:
        yield "rollout.steps begins at weight 0, where only mirrored requests are seen; give guard.shadow, or begin above 0"


def _misfits_of_quality(endpoint: Endpoint) -> Iterator[str]:
    if endpoint.rollout.metrics.quality is None:
        return
    quality, judge, settle_s = (
        endpoint.guard.quality,
        endpoint.guard.judge,
        endpoint.rollout.settle_s,
    )
    if quality is None and judge is None:
        yield (
            "rollout.metrics.quality judges by bad answers, and the guard is not told which are bad; write "
            "`guard: {quality: {}}` for its defaults or give guard.judge, or leave it out"
        )
    late_s = max(
        (quality and quality.feedback_wait_s) or 0.0, 0.0 if judge is None else judge.timeout_s
    )
    if late_s > settle_s:
        yield (
            f"rollout.settle_s is {settle_s:g}, but answers are judged up to {late_s:g} s after they have ended "
            "(guard.quality.feedback_wait_s or guard.judge.timeout_s), so those of other weights would be learned from; "
            "raise the one or lower the other"
        )


def _misfits_of_pods(endpoint: Endpoint) -> Iterator[str]:
    if endpoint.guard.record is not None:
        yield (
            "guard.record: a guard's pod has no folder that the controller could ship from, so its records would be lost; "
            "leave it out, or record on a local target"
        )


def _misfits_of_devices(endpoint: Endpoint) -> Iterator[str]:
    gpus = endpoint.resources.gpus
    if gpus % 1:
        yield f"resources.gpus is {gpus:g}: a pod gets whole devices; give a whole number"
    if endpoint.engine.kind == "transformers" and gpus > 1:
        yield "resources.gpus: engine kind transformers uses one device; give 1, or use vllm, which shares a model out"


def _misfits_of_ray(endpoint: Endpoint, kubernetes: Kubernetes) -> Iterator[str]:
    if kubernetes.image is None:
        yield "kubernetes.image is missing: Ray's pods run the engine's image"
    if endpoint.ray_serve is None or endpoint.ray_serve.rollout == "shipway":
        if kubernetes.gateway is None:
            yield "kubernetes.gateway is missing: the canary's weights live on a route of that Gateway"
        return
    if kubernetes.gateway is not None:
        yield "kubernetes.gateway would not be used: an operator-driven rollout runs on KubeRay's Gateway; leave it out"
    if endpoint.guard.sticky is not None:
        yield "guard.sticky would not be used: KubeRay shares requests out by chance; leave it out"
    if endpoint.guard.shadow is not None:
        yield "guard.shadow would not be used: nothing is judged in an operator-driven rollout; leave it out"
    if "rollout" in endpoint.model_fields_set:
        yield "rollout would not be used: an operator-driven rollout goes by time and is not judged; leave it out"


def _misfits_of_triton(endpoint: Endpoint, kubernetes: Kubernetes) -> Iterator[str]:
    triton = endpoint.triton or Triton()
    standard, is_vllm = triton.mode == "Standard", endpoint.engine.kind == "vllm"
    if standard and kubernetes.gateway is None:
        yield "kubernetes.gateway is missing: in KServe's Standard mode the weights live on a route of that Gateway"
    if not standard and kubernetes.gateway is not None:
        yield "kubernetes.gateway would not be used: in Knative mode KServe splits the requests; leave it out"
    if not standard and endpoint.guard.sticky is not None:
        yield (
            "guard.sticky: in Knative mode KServe shares requests out by chance and knows no users; leave it out, or run "
            "KServe in Standard mode"
        )
    if not standard and endpoint.guard.shadow is not None:
        yield "guard.shadow: in Knative mode no version can be pinned; leave it out, or run KServe in Standard mode"
    if standard and isinstance(endpoint.replicas, Autoscaling):
        yield (
            "replicas: KServe's Standard mode does not scale by requests; give a number, or run KServe in Knative mode"
        )
    if kubernetes.storage_secret is not None:
        yield (
            "kubernetes.storage_secret: KServe reads S3 with a ServiceAccount's secrets; attach the Secret to one and "
            "name it in kubernetes.service_account"
        )
    if is_vllm and endpoint.resources.gpus == 0:
        yield "Triton's vLLM backend needs a GPU; give resources.gpus, or use engine kind transformers"


def _misfits_of_this_machine(endpoint: Endpoint) -> Iterator[str]:
    target = endpoint.target
    if endpoint.kubernetes is not None:
        yield f"kubernetes is not for target {target}; leave it out or change the target"
    if endpoint.engine.kind == "vllm":
        yield f"target {target} has no vLLM; use engine kind transformers, or a target in a cluster"
    if target is not TargetKind.LOCAL_TRITON:
        return
    if endpoint.replicas != 1:
        yield "replicas: this machine runs one Triton for each revision; leave it out"
    if endpoint.triton is not None and "mode" in endpoint.triton.model_fields_set:
        yield "triton.mode is KServe's, which does not run here; leave it out"


def _misfits_of_a_triton_server(endpoint: Endpoint) -> Iterator[str]:
    triton, is_vllm = endpoint.triton or Triton(), endpoint.engine.kind == "vllm"
    cache = triton.response_cache_bytes
    if is_vllm and cache is not None:
        yield (
            "triton.response_cache_bytes: Triton caches no streamed answers, and its vLLM backend streams all of them; "
            "leave it out, or use engine kind transformers"
        )
    if cache is not None and cache >= endpoint.resources.memory_gib * 2**30:
        yield (
            f"triton.response_cache_bytes takes all of the container's {endpoint.resources.memory_gib:g} GiB; lower it, "
            "or raise resources.memory_gib"
        )
    at_once, batch = triton.container_concurrency, endpoint.batching
    if at_once is not None and "max_size" in batch.model_fields_set and batch.max_size > at_once:
        yield (
            f"batching.max_size is {batch.max_size}, but triton.container_concurrency lets {at_once} requests in, so a "
            "batch could never fill; lower the one or raise the other"
        )


class EndpointFile(Declared):
    """The whole file."""

    api_version: Annotated[Literal["shipway/v1"], Field(alias="apiVersion")]
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for field in ("name", "model"):
            values = [getattr(endpoint, field) for endpoint in self.endpoints]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                message = (
                    f"each endpoint needs a {field} of its own; used twice: {', '.join(twice)}"
                )
                raise ValueError(message)
        gateways = [
            endpoint.kubernetes.gateway
            for endpoint in self.endpoints
            if endpoint.kubernetes is not None and endpoint.kubernetes.gateway is not None
        ]
        hosts = [(gateway.namespace, gateway.name, gateway.hostname) for gateway in gateways]
        if shared := sorted({host[-1] for host in hosts if hosts.count(host) > 1}):
            message = (
                "endpoints that share a Gateway and a hostname would take each other's requests; each needs a hostname "
                f"of its own; used twice: {', '.join(shared)}"
            )
            raise ValueError(message)
        return self

    def named(self, name: str) -> Endpoint:
        """The endpoint of that name.

        Raises:
            NotFound: there is none.
        """
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        known = ", ".join(endpoint.name for endpoint in self.endpoints)
        message = f"There is no endpoint {name!r} in the endpoint file. It declares: {known}."
        raise NotFound(message)


def parse_endpoints(text: str, *, origin: str) -> EndpointFile:
    """The endpoints that the YAML `text` declares; `origin` is named in errors.

    Raises:
        EndpointFileInvalid: not YAML, an unknown key, a value out of range; one line for each fault, with its place.
    """
    try:
        document = load_yaml(text)
    except yaml.YAMLError as error:
        message = f"{origin} is not valid YAML: {error}. Mend it and try again."
        raise EndpointFileInvalid(message) from error
    try:
        return EndpointFile.model_validate(document)
    except ValidationError as error:
        message = (
            f"{origin} is not a valid endpoint file:\n{faults_of(error)}\n"
            "Mend it and run `shipway endpoints validate`; `shipway endpoints schema` prints what is allowed."
        )
        raise EndpointFileInvalid(message) from error


def endpoint_schema() -> dict[str, Any]:
    """The JSON Schema of the endpoint file, for editors."""
    return EndpointFile.model_json_schema(by_alias=True)
