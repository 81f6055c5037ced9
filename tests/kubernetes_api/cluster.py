"""What a test holds: a cluster to talk to through the unmodified `kubernetes` client.

Only the API is used here, tokens included, so that a real server can stand in the place of the stand-in; only faults need
the stand-in itself, which is `server`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kubernetes import client, utils

from tests.kubernetes_api.resources import Catalogue
from tests.kubernetes_api.server import ADMIN_TOKEN, StandIn, standing_in

Body = Mapping[str, Any]


class Cluster:
    """An API server, its administrator, and clients for whomever the test needs."""

    def __init__(self, server: StandIn) -> None:
        """Talk to `server`."""
        self.server = server
        self._clients: list[client.ApiClient] = []
        self.admin = self.client_with(ADMIN_TOKEN)

    def client_with(self, token: str, *, retries: int | None = None) -> client.ApiClient:
        """A client that shows a bearer token; `retries` are those of its connections, urllib3's own when None."""
        configuration = client.Configuration(host=self.server.url)
        configuration.retries = retries
        configuration.api_key = {"authorization": f"Bearer {token}"}
        made = client.ApiClient(configuration)
        self._clients.append(made)
        return made

    def a_namespace(self) -> str:
        """A new namespace."""
        metadata = client.V1ObjectMeta(generate_name="shipway-test-")
        made = client.CoreV1Api(self.admin).create_namespace(client.V1Namespace(metadata=metadata))
        name: str = made.metadata.name
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

    def an_account(self, namespace: str, name: str, rules: Iterable[Body]) -> client.ApiClient:
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
        return self.client_of(namespace, name)

    def close(self) -> None:
        for one in self._clients:
            one.rest_client.pool_manager.clear()


@contextmanager
def a_cluster(catalogue: Catalogue) -> Iterator[Cluster]:
    """A cluster of its own until the end of the block."""
    with standing_in(catalogue) as server:
        cluster = Cluster(server)
        try:
            yield cluster
        finally:
            cluster.close()
