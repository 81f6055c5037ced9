"""What `kubectl apply -k` would apply: whole, valid to the letter, and with no more privilege than it needs."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from deploy_targets.endpoint import parse_endpoints
from deploy_targets.install.guard import NAMESPACE, REDIS, keys_secret, render_guards
from deploy_targets.manifest import canonical_yaml
from deploy_targets.monitoring.manifests import controller_pod_monitor, pod_monitor
from tests.contracts.custom_resources import object_faults
from tests.install import rights
from tests.install.kustomize import apply_strictly, build, need_kubectl, objects_in
from tests.repo.reference import ROOT

EXAMPLE = rights.INSTALL / "example"
ENDPOINTS = parse_endpoints(
    (EXAMPLE / "endpoints.yaml").read_text(), origin="endpoints.yaml"
).endpoints


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> list[Any]:
    return build("example", tmp_path_factory.mktemp("kustomize"))


def of(kind: str, objects: list[Any]) -> list[Any]:
    return [one for one in objects if one["kind"] == kind]


def pods(objects: list[Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The Deployment's name, the labels of its pods, their spec."""
    for one in of("Deployment", objects):
        template = one["spec"]["template"]
        yield one["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def test_it_is_all_there(built) -> None:
    def name(one: Any) -> str:
        hashed = one["kind"] == "ConfigMap" and one["metadata"]["name"] != "chat-policy"
        found: str = one["metadata"]["name"]
        return found.rpartition("-")[0] if hashed else found

    kinds = sorted((one["kind"], name(one)) for one in built)

    assert kinds == sorted(
        [
            ("ConfigMap", "chat-policy"),
            ("ConfigMap", "shipway-endpoints"),
            ("ConfigMap", "shipway-settings"),
            ("Deployment", "chat-guard"),
            ("Deployment", "shipway-controller"),
            ("Namespace", "shipway"),
            ("NetworkPolicy", "chat-guard"),
            ("NetworkPolicy", "shipway-controller"),
            ("NetworkPolicy", "shipway-controller-destinations"),
            ("PodDisruptionBudget", "chat-guard"),
            ("PodDisruptionBudget", "shipway-controller"),
            ("Role", "shipway-controller"),
            ("Role", "shipway-ray-serve"),
            ("RoleBinding", "shipway-controller"),
            ("RoleBinding", "shipway-ray-serve"),
            ("Service", "chat-counts"),
            ("Service", "chat-guard"),
            ("Service", "shipway-controller"),
            ("ServiceAccount", "shipway-controller"),
        ]
    )


def test_an_api_server_takes_it_under_strict_validation_and_it_settles(built, cluster) -> None:
    names = {one["metadata"].get("namespace") for one in built} - {None, "shipway"}
    for name in names:
        apply_strictly(
            cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
    for one in sorted(built, key=lambda body: body["kind"] != "Namespace"):
        first = apply_strictly(cluster, one)

        assert (
            apply_strictly(cluster, one)["metadata"]["resourceVersion"]
            == (first["metadata"]["resourceVersion"])
        )


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Role"])
def test_a_slip_in_it_would_be_seen(built, cluster, kind) -> None:
    for name in ("shipway", "llm"):
        apply_strictly(
            cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
    body = copy.deepcopy(of(kind, built)[0])
    place = body["rules"][0] if kind == "Role" else body["spec"]
    place["slip"] = True

    with pytest.raises(Exception, match="slip"):
        apply_strictly(cluster, body)


def test_the_rights_that_are_built_are_those_that_were_proven(built) -> None:
    roles = {one["metadata"]["name"]: one for one in of("Role", built)}
    proven = {way: rights.committed(way)[0]["rules"] for way in ("controller", "ray-serve")}

    assert {name: one["rules"] for name, one in roles.items()} == {
        f"shipway-{way}": rules for way, rules in proven.items()
    }
    assert {one["metadata"]["namespace"] for one in roles.values()} == {"shipway", "llm"}
    for binding in of("RoleBinding", built):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "shipway-controller", "namespace": "shipway"}
        ]


def test_every_image_has_a_place_and_a_tag(built) -> None:
    images = [one["image"] for _, _, pod in pods(built) for one in pod["containers"]]

    assert sorted(images) == [
        "registry.example.com/shipway-controller:0.1.0",
        "registry.example.com/shipway-guard:0.1.0",
    ]


def references(node: Any) -> Iterator[tuple[str, str]]:
    """Every ConfigMap and Secret that a pod names."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("configMapKeyRef", "configMap", "configMapRef"):
                yield "ConfigMap", value["name"]
            elif key in ("secretRef", "secretKeyRef"):
                yield "Secret", value["name"]
            elif key == "secretName":
                yield "Secret", value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for one in node:
            yield from references(one)


def test_what_the_pods_read_is_built_too_but_the_secrets_that_are_documented(built) -> None:
    there = {("ConfigMap", one["metadata"]["name"]) for one in of("ConfigMap", built)}
    read = {one for _, _, pod in pods(built) for one in references(pod)}
    page = (ROOT / "docs" / "install-kubernetes.md").read_text()

    secrets = {name for kind, name in read - there if kind == "Secret"}
    assert read - there == {("Secret", name) for name in secrets}
    assert secrets == {"shipway-controller", "shipway-signing-keys", REDIS, keys_secret("chat")}
    assert [name for name in secrets if f"create secret generic {name}" not in page] == []


def test_the_endpoints_that_are_built_have_the_guards_that_are_built(built) -> None:
    (declared,) = (one for one in of("ConfigMap", built) if "endpoints.yaml" in one["data"])

    assert declared["data"]["endpoints.yaml"] == (EXAMPLE / "endpoints.yaml").read_text()
    assert (EXAMPLE / "guards.yaml").read_text() == canonical_yaml(render_guards(ENDPOINTS)), (
        "run `shipway endpoints guards -f endpoints.yaml > guards.yaml` in the example"
    )


def test_no_pod_has_more_privilege_than_it_needs(built) -> None:
    for name, _, pod in pods(built):
        security = pod["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is (name == "shipway-controller")
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for volume in pod["volumes"]:
            assert volume.keys() <= {"name", "emptyDir", "configMap", "secret"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container.keys() >= {"livenessProbe", "readinessProbe", "startupProbe"}
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_every_pod_is_named_by_one_budget_and_by_policies_for_both_directions(built) -> None:
    for name, labels, pod in pods(built):
        budgets = [
            one
            for one in of("PodDisruptionBudget", built)
            if one["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        policies = [one for one in of("NetworkPolicy", built) if selects(one, labels)]
        spread = pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]

        assert [one["metadata"]["name"] for one in budgets] == [name]
        assert {way for one in policies for way in one["spec"]["policyTypes"]} == {
            "Ingress",
            "Egress",
        }
        assert spread.items() <= labels.items()


def test_the_probes_and_services_meet_a_port_of_the_pod(built) -> None:
    for _, labels, pod in pods(built):
        (container,) = pod["containers"]
        named = {one["name"] for one in container["ports"]}
        probes = [value for key, value in container.items() if key.endswith("Probe")]
        services = [
            one for one in of("Service", built) if one["spec"]["selector"].items() <= labels.items()
        ]

        assert {probe["httpGet"]["port"] for probe in probes} <= named
        assert {port["targetPort"] for one in services for port in one["spec"]["ports"]} <= named


def test_prometheus_finds_the_guards(built) -> None:
    spec = pod_monitor().body["spec"]
    (guard,) = (one for one in pods(built) if one[0] == "chat-guard")
    ports = {one["name"] for one in guard[2]["containers"][0]["ports"]}

    assert spec["selector"]["matchLabels"].items() <= guard[1].items()
    assert spec["podMetricsEndpoints"][0]["port"] in ports


def test_prometheus_finds_the_controller_and_is_let_in(built) -> None:
    (page,) = controller_pod_monitor().body["spec"]["podMetricsEndpoints"]
    (found,) = (one for one in pods(built) if one[0] == "shipway-controller")
    (port,) = (
        one["containerPort"]
        for one in found[2]["containers"][0]["ports"]
        if one["name"] == page["port"]
    )
    (policy,) = (
        one for one in of("NetworkPolicy", built) if one["metadata"]["name"] == "shipway-controller"
    )
    (rule,) = policy["spec"]["ingress"]

    selector = controller_pod_monitor().body["spec"]["selector"]["matchLabels"]
    assert selector.items() <= found[1].items()
    assert [one["port"] for one in rule["ports"]] == [port]
    assert rule["from"] == [
        {
            "namespaceSelector": {},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        }
    ]


def test_what_watches_the_guards_is_put_where_they_are() -> None:
    need_kubectl()

    found = objects_in(ROOT / "deploy_targets" / "monitoring" / "generated")

    assert sorted(one["kind"] for one in found) == ["PodMonitor", "PodMonitor", "PrometheusRule"]
    assert {one["metadata"]["namespace"] for one in found} == {NAMESPACE}
    assert [fault for one in found for fault in object_faults(one)] == []


@pytest.mark.parametrize("part", ["controller", "guard"])
def test_the_pods_run_as_the_images_are_built(built, part) -> None:
    text = (ROOT / "docker" / f"{part}.Dockerfile").read_text()
    (pod,) = (spec for name, _, spec in pods(built) if name.endswith(part))
    (container,) = pod["containers"]
    security = pod["securityContext"]
    exposed = re.findall(r"^EXPOSE (.*)$", text, flags=re.MULTILINE)[0].split()

    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in text
    assert [str(one["containerPort"]) for one in container["ports"]] == exposed
    assert "command" not in container  # the image's own entry point


def test_the_controller_reads_the_endpoints_where_they_are_mounted(built) -> None:
    text = (ROOT / "docker" / "controller.Dockerfile").read_text()
    (pod,) = (spec for name, _, spec in pods(built) if name == "shipway-controller")
    mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}

    assert f'"-f", "{mounts["endpoints"]}/endpoints.yaml"' in text


# Who may reach whom, as NetworkPolicies say it.


def selects(policy: Any, labels: Mapping[str, str], namespace: str = "shipway") -> bool:
    wanted = policy["spec"]["podSelector"].get("matchLabels", {})
    return policy["metadata"]["namespace"] == namespace and wanted.items() <= labels.items()


def is_peer(peer: Any, labels: Mapping[str, str], namespace: str, own: str) -> bool:
    """Whether a peer of a rule is that pod."""
    spaces = {"kubernetes.io/metadata.name": namespace}
    in_space = (
        peer["namespaceSelector"].get("matchLabels", {}).items() <= spaces.items()
        if "namespaceSelector" in peer
        else namespace == own
    )
    return in_space and peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()


def allows(
    objects: list[Any],
    direction: str,
    own: Mapping[str, str],
    other: tuple[Mapping[str, str], str],
    port: int,
) -> bool:
    """Whether a pod of ours may be reached by the other, or reach it, at the port."""
    side = "from" if direction == "ingress" else "to"
    rules = [
        rule
        for policy in of("NetworkPolicy", objects)
        if selects(policy, own)
        for rule in policy["spec"].get(direction, ())
    ]
    return any(
        (side not in rule or any(is_peer(peer, *other, "shipway") for peer in rule[side]))
        and ("ports" not in rule or port in [one["port"] for one in rule["ports"]])
        for rule in rules
    )


GUARD = {
    "app.kubernetes.io/part-of": "shipway",
    "app.kubernetes.io/component": "guard",
    "app.kubernetes.io/instance": "chat",
}
CONTROLLER = {"app.kubernetes.io/part-of": "shipway", "app.kubernetes.io/component": "controller"}
PROXY = ({"app": "envoy"}, "gateways")
CLIENT = ({"app": "web"}, "shop")
PROMETHEUS = ({"app.kubernetes.io/name": "prometheus"}, "monitoring")
DNS = ({"k8s-app": "kube-dns"}, "kube-system")
MLFLOW = ({"app": "mlflow"}, "mlflow")
ENGINE = ({"app": "engine"}, "llm")


@pytest.mark.parametrize(
    ("direction", "own", "other", "port", "allowed"),
    [
        ("ingress", GUARD, CLIENT, 8080, True),
        ("ingress", GUARD, CLIENT, 9090, False),
        ("ingress", GUARD, PROMETHEUS, 9090, True),
        ("ingress", GUARD, (CONTROLLER, "shipway"), 9090, True),
        ("ingress", GUARD, (CONTROLLER, "elsewhere"), 9090, False),
        ("egress", GUARD, PROXY, 10080, True),
        ("egress", GUARD, DNS, 53, True),
        ("egress", GUARD, ENGINE, 8000, False),
        ("egress", GUARD, CLIENT, 443, False),
        ("ingress", CONTROLLER, CLIENT, 8090, False),
        ("ingress", CONTROLLER, MLFLOW, 8090, True),
        ("ingress", CONTROLLER, PROMETHEUS, 8090, True),
        ("ingress", CONTROLLER, PROMETHEUS, 9090, False),
        ("egress", CONTROLLER, (GUARD, "shipway"), 9090, True),
        ("egress", CONTROLLER, (GUARD, "shipway"), 8080, False),
        ("egress", CONTROLLER, CLIENT, 6443, True),
        ("egress", CONTROLLER, PROXY, 10080, True),
        ("egress", CONTROLLER, MLFLOW, 5000, True),
        ("egress", CONTROLLER, ({"app": "s3"}, "storage"), 8333, True),
        ("egress", CONTROLLER, ({"app": "s3"}, "storage"), 9333, False),
        ("egress", CONTROLLER, ENGINE, 8000, False),
        ("egress", CONTROLLER, DNS, 53, True),
    ],
)
def test_who_reaches_whom(built, direction, own, other, port, allowed) -> None:
    assert allows(built, direction, own, other, port) is allowed
