"""Builds the clients of a controller that lives in a cluster: for its own process there, and for people outside.

The environment says where all is: MLflow's and AWS' own variables, SHIPWAY_NAMESPACE, and for people the context of their
KUBECONFIG in SHIPWAY_KUBE_CONTEXT. The same commands as on one machine work on it.
"""

import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy_targets.backends import Backends
from deploy_targets.cluster import LEASE, Cluster
from deploy_targets.control_plane import read_endpoint_file, utc_now
from deploy_targets.endpoint import Endpoint, EndpointFile, TargetKind
from deploy_targets.gateway_split import GatewayTarget
from deploy_targets.in_cluster.election import Terms
from deploy_targets.in_cluster.lease import LEASE_NAME, LeaseLeadership, hint_leader, is_renewed
from deploy_targets.in_cluster.state_store import ConfigMapStore
from deploy_targets.kubernetes_targets import (
    ClusterSettings,
    check_triton,
    cluster_counters,
    cluster_guard,
    cluster_smoke,
    cluster_target,
    open_cluster,
)
from deploy_targets.rollout.observe import GuardMetrics
from deploy_targets.rollout.settings import ControllerSettings
from deploy_targets.rollout.smoke import SmokeTest
from deploy_targets.rollout.status import Status, summarise
from deploy_targets.rollout.webhook import HookAddress
from deploy_targets.target import Observed
from deploy_targets.triton.knative import KnativeTarget
from deploy_targets.triton.repository import repository_of
from registry.errors import BadInput, TargetUnavailable
from registry.settings import RegistrySettings, SigningSettings
from registry.signing import TrustedKeys


@dataclass(frozen=True)
class ClusterComposition(Backends):
    """A cluster, the endpoints that are rolled out there, and where the rest is."""

    file: EndpointFile
    cluster: Cluster
    settings: ClusterSettings
    mlflow_and_s3: RegistrySettings

    @classmethod
    def of_environment(cls, file: Path) -> "ClusterComposition":
        """What the environment names, with the endpoints that `file` declares. Nothing is contacted.

        Raises:
            BadInput: no cluster is named, or an endpoint is not for one.
        """
        settings = ClusterSettings()
        if settings.kube_context is None and settings.pod_api_host is None:
            message = (
                "SHIPWAY_CONTROL_PLANE is kubernetes, and no cluster was named. Set SHIPWAY_KUBE_CONTEXT to a context of "
                "KUBECONFIG."
            )
            raise BadInput(message)
        declared = read_endpoint_file(file)
        for endpoint in declared.endpoints:
            if endpoint.target.is_local:
                message = (
                    f"Endpoint {endpoint.name} is for target {endpoint.target}, which a controller in a cluster cannot "
                    "reach. Move it into the endpoint file of a local stack."
                )
                raise BadInput(message)
            if endpoint.target is TargetKind.TRITON:
                check_triton(endpoint)
        return cls(declared, open_cluster(settings.kube_context), settings, RegistrySettings())

    def registry_settings(self) -> RegistrySettings:
        """What the environment says."""
        return self.mlflow_and_s3

    def s3_keys(self) -> None:
        """AWS' own chain has them."""

    def webhook_secret(self) -> str | None:
        """What the environment says."""
        secret = ControllerSettings().webhook_secret
        return None if secret is None else secret.get_secret_value()

    def trusted_keys(self) -> TrustedKeys | None:
        """Those of SHIPWAY_SIGNING_KEYS.

        Raises:
            BadInput: it names no keys.
        """
        path = SigningSettings().signing_keys
        return None if path is None else TrustedKeys.read(path)

    def store(self) -> ConfigMapStore:
        """The rollouts' states."""
        return ConfigMapStore(self.cluster, namespace=self.settings.namespace)

    def target(self, endpoint: Endpoint) -> GatewayTarget | KnativeTarget:
        """The target of one endpoint."""
        return cluster_target(
            endpoint, self.cluster, repository=repository_of(self.artifacts(), endpoint)
        )

    def smoke(self, endpoint: Endpoint) -> SmokeTest:
        """Asks one version of the endpoint through its Gateway.

        Raises:
            BadInput: SHIPWAY_GATEWAY_URL is not set.
        """
        return cluster_smoke(endpoint, self.settings, trust=self.trust)

    def guard_counts(self, endpoint: Endpoint) -> GuardMetrics:
        """What the guards in front of the endpoint count.

        Raises:
            BadInput: SHIPWAY_GUARD_METRICS_URL is not set.
        """
        return cluster_counters(endpoint, self.settings, clock=utc_now, trust=self.trust)

    def spools(self) -> None:
        """None here: what a pod records is nowhere that the controller could read."""

    def leadership(self, settings: ControllerSettings) -> LeaseLeadership:
        """The Lease, on connections of its own: it asks once, and must know within half its deadline."""
        terms = _terms(settings)
        return LeaseLeadership(
            open_cluster(self.settings.kube_context, once_within_s=terms.renew_deadline_s / 2),
            namespace=self.settings.namespace,
            identity=f"{socket.gethostname()}_{uuid.uuid4().hex}",
            terms=terms,
            clock=utc_now,
        )

    def hook_address(self) -> HookAddress:
        """Where MLflow reaches the controller.

        Raises:
            BadInput: SHIPWAY_CONTROLLER_URL or SHIPWAY_WEBHOOK_SECRET is not set.
        """
        settings = ControllerSettings()
        if settings.controller_url is None or settings.webhook_secret is None:
            message = (
                "Set SHIPWAY_CONTROLLER_URL to where MLflow reaches the controller, and SHIPWAY_WEBHOOK_SECRET to the secret "
                "that the controller has."
            )
            raise BadInput(message)
        return HookAddress(
            controller_url=settings.controller_url,
            secret=settings.webhook_secret.get_secret_value(),
        )

    def guard_url(self, endpoint: Endpoint) -> str:
        """Where clients call the endpoint, without /v1.

        Raises:
            BadInput: SHIPWAY_GUARD_URL is not set.
        """
        return cluster_guard(endpoint, self.settings)

    def wake_controller(self) -> str:
        """Leaves a hint on the Lease; its holder finds it at the next renewal."""
        heard = hint_leader(
            self.cluster,
            namespace=self.settings.namespace,
            terms=_terms(ControllerSettings()),
            sleep=time.sleep,
        )
        return "" if heard else self._not_running()

    def status(self, endpoint: Endpoint) -> Status:
        """Where the endpoint stands now."""
        observed: Observed | None
        try:
            observed = self.target(endpoint).observe()
        except TargetUnavailable:
            observed = None
        return summarise(endpoint, self.store().load(endpoint.name).state, observed)

    def parts(self) -> Mapping[str, bool]:
        """The controller: whether its Lease is being renewed. That takes a few seconds to see."""
        namespace = self.settings.namespace
        lease = self.cluster.get(LEASE, namespace, LEASE_NAME)
        terms = _terms(ControllerSettings())
        runs = lease is not None and is_renewed(
            self.cluster, lease, namespace=namespace, terms=terms, sleep=time.sleep
        )
        return {"controller": runs}

    def _not_running(self) -> str:
        return (
            "No controller renews its Lease, so nothing happens yet. `kubectl get pods -n "
            f"{self.settings.namespace}` says whether one runs."
        )


def _terms(settings: ControllerSettings) -> Terms:
    return Terms(
        duration_s=settings.lease_duration_s,
        renew_deadline_s=settings.lease_renew_deadline_s,
        retry_s=settings.lease_retry_s,
    )
