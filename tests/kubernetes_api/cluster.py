"""What a test holds: a cluster to talk to through the unmodified `kubernetes` client.

Only the API is used here, tokens included, so that a real server can stand in the place of the stand-in. What needs the
stand-in itself, faults above all, asks for `server` and is marked `stand_in`; `real_cluster` is the other one.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kubernetes import client, utils
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.resources import Catalogue
from tests.kubernetes_api.server import ADMIN_TOKEN, StandIn, standing_in

Body = Mapping[str, Any]

_NOT_SERVED, _IS_THERE = 404, 409
_GRANTED_S = 10.0


class Cluster:
    """An API server, its administrator, and clients for whomever the test needs."""

    def __init__(self, settings: client.Configuration, server: StandIn | None = None) -> None:
        """`settings` are the administrator's; `server` is None where it is a real one."""
        self._settings = settings
        self._server = server
        self._clients: list[client.ApiClient] = []
        self._namespaces: list[str] = []
        self.admin = self._client(settings)

    @property
    def server(self) -> StandIn:
        """The stand-in itself."""
        assert self._server is not None, (
            "a real server has no faults on demand: mark the test stand_in"
        )
        return self._server

    def client_with(self, token: str, *, retries: int | None = None) -> client.ApiClient:
        """A client that shows a bearer token; `retries` are those of its connections, urllib3's own when None."""
        settings = client.Configuration(host=self._settings.host)
        settings.ssl_ca_cert = self._settings.ssl_ca_cert
        settings.verify_ssl = self._settings.verify_ssl
        settings.retries = retries
        settings.api_key = {"authorization": f"Bearer {token}"}
        return self._client(settings)

    def _client(self, settings: client.Configuration) -> client.ApiClient:
        made = client.ApiClient(copy.copy(settings))
        self._clients.append(made)
        return made

    def a_namespace(self) -> str:
        """A new namespace, in which pods may be made."""
        metadata = client.V1ObjectMeta(generate_name="shipway-test-")
        made = client.CoreV1Api(self.admin).create_namespace(client.V1Namespace(metadata=metadata))
        name: str = made.metadata.name
        self._namespaces.append(name)
        try:
            # A controller makes it, where there is one; without it no pod is admitted.
            account = client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="default"))
            client.CoreV1Api(self.admin).create_namespaced_service_account(name, account)
        except ApiException as error:
            if error.status != _IS_THERE:
                raise
        return name

    def create(self, *manifests: Body) -> None:
        """Create Kubernetes' own kinds of objects, Roles and bindings above all, as the administrator."""
        for manifest in manifests:
            utils.create_from_dict(self.admin, dict(manifest))

    def client_of(self, namespace: str, account: str) -> client.ApiClient:
        """A client that is the service account, which must be there."""
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)
        )
        answer = client.CoreV1Api(self.admin).create_namespaced_service_account_token(
            account, namespace, request
        )
        return self.client_with(answer.status.token)

    def an_account(self, namespace: str, name: str, rules: Sequence[Body]) -> client.ApiClient:
        """A client of a new service account that may do what the rules say, in its namespace."""
        metadata = {"name": name, "namespace": namespace}
        group = "rbac.authorization.k8s.io"
        self.create(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [*rules]},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", **metadata}],
            },
        )
        if self._server is None:
            self._await_grants(namespace, name, rules)
        return self.client_of(namespace, name)

    def _await_grants(self, namespace: str, name: str, rules: Sequence[Body]) -> None:
        """A real server takes a moment to learn of a Role."""
        user = f"system:serviceaccount:{namespace}:{name}"
        reviews = client.AuthorizationV1Api(self.admin)
        for rule in rules:
            asked = client.V1ResourceAttributes(
                namespace=namespace,
                group=rule["apiGroups"][0],
                resource=rule["resources"][0],
                verb=rule["verbs"][0],
            )
            spec = client.V1SubjectAccessReviewSpec(user=user, resource_attributes=asked)
            review = client.V1SubjectAccessReview(spec=spec)
            deadline = time.monotonic() + _GRANTED_S
            try:
                while not reviews.create_subject_access_review(review).status.allowed:
                    assert time.monotonic() < deadline, f"{user} was never granted {rule}"
                    time.sleep(0.05)
            except ApiException as error:
                if error.status != _NOT_SERVED:
                    raise
                return  # the stand-in as a process of its own, which grants at once

    def close(self) -> None:
        """Delete the namespaces, with all that is in them, and end the connections."""
        for name in self._namespaces if self._server is None else ():
            client.CoreV1Api(self.admin).delete_namespace(name)
        for one in self._clients:
            one.rest_client.pool_manager.clear()


@contextmanager
def a_cluster(catalogue: Catalogue) -> Iterator[Cluster]:
    """A cluster of its own until the end of the block."""
    with standing_in(catalogue) as server:
        settings = client.Configuration(host=server.url)
        settings.api_key = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        cluster = Cluster(settings, server)
        try:
            yield cluster
        finally:
            cluster.close()
