"""The rights that the installation gives the controller: those that it uses, and no other."""

import pytest

from deploy_targets.cluster import Cluster, Kind
from registry.errors import TargetRefused
from tests.install import rights

RIGHTS = [(way, right) for way in rights.WAYS for right in rights.rights_in(rights.committed(way))]


@pytest.mark.parametrize("way", rights.WAYS)
def test_the_rights_are_those_of_the_calls_that_are_made(way, cluster) -> None:
    del cluster  # skips where there are no CRD files
    written = (rights.folder_of(way) / "rbac.yaml").read_text()

    assert written == rights.text_of(way), "run `make docs` and commit the result"


@pytest.mark.parametrize("way", rights.WAYS)
def test_a_controller_with_these_rights_walks_all_the_way(way, cluster) -> None:
    namespace = cluster.a_namespace()
    api = rights.controller_client(cluster, namespace, rights.committed(way))

    rights.walk(way, namespace, api, cluster)


@pytest.mark.parametrize(
    ("way", "right"), RIGHTS, ids=[f"{way}-{kind}-{verb}" for way, (_, kind, verb) in RIGHTS]
)
def test_without_any_one_of_them_it_is_refused(way, right, cluster) -> None:
    namespace = cluster.a_namespace()
    fewer = rights.without(rights.committed(way), right)
    api = rights.controller_client(cluster, namespace, fewer)

    with pytest.raises(TargetRefused) as refusal:
        rights.walk(way, namespace, api, cluster)

    group, kind, verb = right
    assert f'cannot {verb} resource "{kind}"' in str(refusal.value)
    assert f"API group {group!r}".replace("'", '"') in str(refusal.value)


@pytest.mark.parametrize("way", rights.WAYS)
def test_they_hold_in_no_other_namespace(way, cluster) -> None:
    here, elsewhere = cluster.a_namespace(), cluster.a_namespace()
    api = rights.controller_client(cluster, here, rights.committed(way))

    with pytest.raises(TargetRefused):
        rights.walk(way, elsewhere, api, cluster)


def test_of_leases_it_may_touch_its_own_alone(cluster) -> None:
    namespace = cluster.a_namespace()
    api = rights.controller_client(cluster, namespace, rights.committed(rights.HOME))
    lease = Kind("coordination.k8s.io/v1", "Lease", "leases")

    with pytest.raises(TargetRefused, match="cannot get resource"):
        Cluster(api, sleep=lambda _: None, jitter=lambda: 0.0).get(lease, namespace, "another")


def test_where_somebody_else_applies_it_may_only_read() -> None:
    verbs = {verb for way, (_, _, verb) in RIGHTS if way.endswith(rights.BY_GIT)}

    assert verbs == {"get", "list", "watch"}


def test_there_is_no_wildcard() -> None:
    assert [right for _, right in RIGHTS if "*" in right] == []
