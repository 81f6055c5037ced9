"""Builds the clients of a running local stack and hands them to whoever needs them. The only place that does.

An address in the environment (MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL_S3) does not count here: a command about the local
stack speaks to the local stack.
"""

import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2

from deploy_targets.backends import Backends
from deploy_targets.control_plane import read_endpoint_file, utc_now
from deploy_targets.endpoint import Endpoint, EndpointFile, TargetKind
from deploy_targets.gateway_split import GatewayTarget
from deploy_targets.kubernetes_targets import (
    ClusterSettings,
    check_triton,
    cluster_counters,
    cluster_guard,
    cluster_smoke,
    cluster_target,
    open_cluster,
)
from deploy_targets.local.adapter import LocalTarget
from deploy_targets.local.file_lock import FileLeadership
from deploy_targets.local.home import Home, HomeSettings
from deploy_targets.local.parts import BUCKET, SPOOL_FOLDER, client_environment, s3_environment
from deploy_targets.local.split import Split
from deploy_targets.local.stack import StackInfo, inherited_environment, load_stack
from deploy_targets.local.triton_adapter import LocalTritonTarget
from deploy_targets.rollout.nudge import HOOK_PATH, sign_hint
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.settings import ControllerSettings
from deploy_targets.rollout.smoke import SmokeTest
from deploy_targets.rollout.status import Status, summarise
from deploy_targets.rollout.store import SqliteStore
from deploy_targets.rollout.webhook import HookAddress
from deploy_targets.target import Observed
from deploy_targets.triton.knative import KnativeTarget
from deploy_targets.triton.repository import repository_of
from registry.errors import BadInput, ComponentNotReady, TargetUnavailable
from registry.settings import RegistrySettings
from registry.signing import TrustedKeys

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Composition(Backends):
    """A running stack and its endpoint file."""

    home: Home
    info: StackInfo
    file: EndpointFile

    @classmethod
    def of_running_stack(cls, file: Path) -> "Composition":
        """The stack of this home, with the endpoints that `file` declares.

        Raises:
            ComponentNotReady: no stack was started here.
            BadInput: the file declares endpoints that the stack was not started with.
        """
        home = Home(HomeSettings().home)
        info = load_stack(home)
        if info is None:
            message = "No stack was started here. Run `shipway up` first."
            raise ComponentNotReady(message)
        declared = read_endpoint_file(file)
        for endpoint in declared.endpoints:
            if not endpoint.target.is_local:
                _check_cluster(endpoint)
                continue
            if f"{endpoint.name}.guard" not in info.ports:
                message = f"Endpoint {endpoint.name} is new in {file}. Run `shipway up` to start its parts."
                raise BadInput(message)
        return cls(home, info, declared)

    def registry_settings(self) -> RegistrySettings:
        """Where this stack's MLflow and S3 are."""
        return RegistrySettings(
            tracking_uri=self.info.mlflow_url,
            s3_endpoint_url=f"http://127.0.0.1:{self.info.ports['s3']}",
        )

    def client_environment(self) -> dict[str, str]:
        """What pipelines and clients of this stack need, the guard's key and where the signing key lies included."""
        return {
            **client_environment(self.home, self.home.secrets(), self.info.ports),
            "SHIPWAY_API_KEY": self.home.secrets().api_key,
            "SHIPWAY_SIGNING_KEY_FILE": str(self.home.signing().key_file.resolve()),
        }

    def s3_keys(self) -> tuple[str, str]:
        """Those of this stack's own S3."""
        secrets = self.home.secrets()
        return secrets.s3_access_key, secrets.s3_secret_key

    def webhook_secret(self) -> str:
        """The stack's own."""
        return self.home.secrets().webhook_secret

    def trusted_keys(self) -> TrustedKeys:
        """The stack's own public key, and whatever else was laid beside it."""
        return TrustedKeys.read(self.home.signing().trusted)

    def store(self) -> SqliteStore:
        """The rollouts' states."""
        return SqliteStore(self.home.state_file)

    def leadership(self, settings: ControllerSettings) -> FileLeadership:  # noqa: ARG002 - a lock has no durations
        """A lock in the home: of two controllers one waits."""
        return FileLeadership(self.home.folder("controller") / "leader.lock")

    def parts(self) -> Mapping[str, bool]:
        """The processes of the stack."""
        return self.info.alive()

    def target(
        self, endpoint: Endpoint
    ) -> LocalTarget | LocalTritonTarget | GatewayTarget | KnativeTarget:
        """The target of one endpoint: on this machine, or on the cluster of the kube context that is set."""
        if not endpoint.target.is_local:
            cluster = open_cluster(ClusterSettings().kube_context)
            repository = repository_of(self.artifacts(), endpoint)
            return cluster_target(endpoint, cluster, repository=repository)
        admin = self.info.url(endpoint.name, "envoy_admin")
        folder = self.home.folder(f"endpoints/{endpoint.name}/envoy")
        split = Split(
            endpoint,
            admin=httpx2.Client(base_url=admin, timeout=_TIMEOUT_S, verify=self.trust),
            folder=folder,
        )
        if endpoint.target is TargetKind.LOCAL_TRITON:
            return LocalTritonTarget(
                endpoint,
                split=split,
                http=httpx2.Client(timeout=_TIMEOUT_S, verify=self.trust),
                home=self.home,
                environment=self._revision_environment(),
            )
        token = self.home.secrets().ray_token
        ray = httpx2.Client(
            base_url=self.info.ray_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
            verify=self.trust,
        )
        return LocalTarget(
            endpoint,
            ray=ray,
            split=split,
            serve_port=self.info.ports["ray_serve"],
            folder=folder,
            lock_file=self.home.folder("ray") / "applications.lock",
        )

    def _revision_environment(self) -> dict[str, str]:
        """The controller's own settings and secrets are not for those whom it starts."""
        inherited = inherited_environment()
        kept = {name: inherited[name] for name in inherited if not name.startswith("SHIPWAY_")}
        s3 = s3_environment(self.home.secrets(), port=self.info.ports["s3"])
        return {**kept, **s3, "SHIPWAY_BUCKET": BUCKET}

    def smoke(self, endpoint: Endpoint) -> SmokeTest:
        """Asks one version of the endpoint through its Envoy, or its Gateway."""
        if not endpoint.target.is_local:
            return cluster_smoke(endpoint, ClusterSettings(), trust=self.trust)
        http = httpx2.Client(timeout=_TIMEOUT_S, verify=self.trust)
        return SmokeTest(http, self.info.url(endpoint.name, "envoy"), endpoint)

    def guard_counts(self, endpoint: Endpoint) -> GuardMetrics:
        """What the guards in front of the endpoint count."""
        if not endpoint.target.is_local:
            return cluster_counters(endpoint, ClusterSettings(), clock=utc_now, trust=self.trust)
        http = httpx2.Client(timeout=_TIMEOUT_S, verify=self.trust)
        url = f"{self.info.url(endpoint.name, 'guard_admin')}/metrics"
        return GuardMetrics(http, url, endpoint=endpoint.name, clock=utc_now)

    def spools(self) -> Mapping[str, tuple[Path, int]]:
        """Where guards keep what they record until it is shipped, by endpoint; and for how many days it is kept then."""
        return {
            endpoint.name: (
                self.home.endpoint(endpoint.name) / SPOOL_FOLDER,
                endpoint.guard.record.lifetime_days,
            )
            for endpoint in self.file.endpoints
            if endpoint.guard.record is not None
        }

    def hook_address(self) -> HookAddress:
        """Where MLflow reaches the controller."""
        return HookAddress(
            controller_url=f"http://127.0.0.1:{self.info.ports['controller']}",
            secret=self.webhook_secret(),
        )

    def guard_url(self, endpoint: Endpoint) -> str:
        """Where clients call the endpoint, without /v1."""
        if endpoint.target.is_local:
            return self.info.url(endpoint.name, "guard")
        return cluster_guard(endpoint, ClusterSettings())

    def wake_controller(self) -> str:
        """Has the controller look now instead of at the end of its pause; what to do where it did not hear."""
        delivery, stamp = uuid.uuid4().hex, str(int(utc_now().timestamp()))
        secret = self.webhook_secret()
        headers = {
            "x-mlflow-delivery-id": delivery,
            "x-mlflow-timestamp": stamp,
            "x-mlflow-signature": sign_hint(secret, delivery=delivery, stamp=stamp, body=b""),
        }
        url = f"http://127.0.0.1:{self.info.ports['controller']}{HOOK_PATH}"
        try:
            answer = httpx2.post(url, headers=headers, timeout=_TIMEOUT_S)
        except httpx2.HTTPError:
            return "The controller does not answer, so nothing happens yet. `shipway up` starts it."
        if answer.is_success:
            return ""
        return f"The controller refused the hint ({answer.status_code}), so it looks when its pause is over."

    def status(self, endpoint: Endpoint) -> Status:
        """Where the endpoint stands now."""
        observed: Observed | None
        try:
            with closing(self.target(endpoint)) as target:
                observed = target.observe()
        except TargetUnavailable:
            observed = None
        return summarise(endpoint, self.store().load(endpoint.name).state, observed)


def _check_cluster(endpoint: Endpoint) -> None:
    """Refuses an endpoint on a cluster that this controller could not drive."""
    if endpoint.target is TargetKind.TRITON:
        check_triton(endpoint)
    if ClusterSettings().kube_context is None:
        message = (
            f"Endpoint {endpoint.name} names target {endpoint.target}, and no cluster was named. Set SHIPWAY_KUBE_CONTEXT "
            "to a context of KUBECONFIG."
        )
        raise BadInput(message)
