"""The commands against a controller in a cluster, and that controller as a process: nothing local but a kubeconfig."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets.cli import app
from deploy_targets.in_cluster import compose, lease
from deploy_targets.in_cluster.lease import LeaseLeadership
from deploy_targets.in_cluster.state_store import ConfigMapStore
from registry.errors import BadInput, TargetUnavailable
from tests.builders import a_release, a_state, an_exposed_rollout
from tests.in_cluster.outside import Outside, Processes
from tests.in_cluster.worlds import TERMS, Steady, speaking_as


@pytest.fixture
def renewing(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> LeaseLeadership:
    """A leader that renews whenever somebody waits for it; `looks` counts what woke it."""
    steady = Steady()
    leader = LeaseLeadership(
        speaking_as(outside.server.admin, attempts=1),
        namespace=outside.namespace,
        identity="a",
        terms=TERMS,
        clock=steady.clock,
        steady=steady,
    )
    leader.attempt()

    def wait(seconds: float) -> None:
        steady.advance(seconds)
        leader.attempt()

    # Not of the module `time`: a thread that some other test left would renew with each of its own pauses.
    monkeypatch.setattr(compose, "time", SimpleNamespace(sleep=wait))
    return leader


def test_a_rollback_is_saved_in_the_cluster_and_wakes_the_leader(
    outside: Outside, renewing: LeaseLeadership
) -> None:
    outside.store.save(
        replace(a_state("7"), served=(a_release("6"),), rollout=an_exposed_rollout()), expected=""
    )
    looks: list[str] = []
    renewing._look = lambda _: looks.append("now")

    done = outside.run("rollback", "chat", "--reason", "it talks nonsense")

    assert done.exit_code == 0, done.output
    assert "the rollout of v7 ends" in done.output
    override = outside.store.load("chat").state.override
    assert override is not None
    assert "it talks nonsense" in override.reason
    assert looks == ["now"]


def test_where_no_controller_renews_the_command_says_so(
    outside: Outside, renewing: LeaseLeadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        compose, "time", SimpleNamespace(sleep=lambda _: None)
    )  # the leader is dead by now
    outside.store.save(replace(a_state("7"), served=(a_release("6"),)), expected="")

    done = outside.run("rollback", "chat")

    assert done.exit_code == 1
    assert "No controller renews its Lease" in done.output
    assert outside.store.load("chat").state.override is not None


def test_a_rollback_that_somebody_else_was_faster_than_is_given_again_and_not_saved_over_it(
    outside: Outside, renewing: LeaseLeadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.store.save(replace(a_state("7"), served=(a_release("6"),)), expected="")
    load = ConfigMapStore.load

    def overtaken(store: ConfigMapStore, endpoint: str) -> Any:
        saved = load(store, endpoint)
        monkeypatch.setattr(ConfigMapStore, "load", load)
        outside.store.save(replace(saved.state, rejected={"8": "bad"}), expected=saved.revision)
        return saved

    monkeypatch.setattr(ConfigMapStore, "load", overtaken)
    done = outside.run("rollback", "chat")
    assert done.exit_code == 0, done.output
    state = outside.store.load("chat").state
    assert state.rejected == {"8": "bad"}
    assert state.override is not None


def test_status_and_watch_tell_what_stands_in_the_cluster(
    outside: Outside, renewing: LeaseLeadership
) -> None:
    outside.store.save(a_state(), expected="")

    done = outside.run("status", "--json")

    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["parts"] == {"controller": True}
    assert told["endpoints"][0]["serving"] == "6"
    assert told["endpoints"][0]["traffic"] == {}
    renewing.end()
    assert outside.run("status").exit_code == 1
    assert "v6 serves" in outside.run("watch", "chat", "--looks", "1").output


@pytest.mark.parametrize("command", ["up", "down", "env", "load", "doctor", "demo"])
def test_what_is_about_the_local_stack_is_refused_in_one_sentence(
    outside: Outside, command: str
) -> None:
    rest = ["chat"] if command == "load" else []
    done = CliRunner().invoke(app, [command, *rest])
    assert isinstance(done.exception, BadInput)
    assert f"`shipway {command}` is about the local stack" in str(done.exception)


def test_outside_a_cluster_its_context_has_to_be_named(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHIPWAY_KUBE_CONTEXT")
    assert "Set SHIPWAY_KUBE_CONTEXT" in str(outside.run("status").exception)


def test_an_endpoint_of_a_local_stack_is_refused(outside: Outside) -> None:
    outside.file.write_text("apiVersion: shipway/v1\nendpoints: [{name: here, model: m}]\n")
    assert "a controller in a cluster cannot reach" in str(outside.run("status").exception)


def test_an_api_server_that_is_away_is_told(outside: Outside) -> None:
    outside.server.server.go_away()
    found = compose.ClusterComposition.of_environment(outside.file)
    with pytest.raises(TargetUnavailable):
        lease.hint_leader(
            replace(found, cluster=speaking_as(outside.server.admin)).cluster,
            namespace=outside.namespace,
            terms=TERMS,
            sleep=lambda _: None,
        )


@pytest.mark.timeout(600)  # two start, each with everything that it imports
def test_of_two_real_controllers_one_leads_and_on_sigterm_the_other_follows_at_once(
    outside: Outside, processes: Processes
) -> None:
    """Without the release it would take the Lease's 15 s."""
    ports = [processes.start(), processes.start()]
    for port in ports:
        processes.until(lambda port=port: processes.says(port, "/readyz") == 200)
        assert processes.says(port, "/healthz") == 200
    (first,) = (port for port in ports if "leadership.gained" in processes.log(port))
    (second,) = (port for port in ports if port != first)
    holder = outside.holder
    assert holder

    assert processes.end(first) == 0
    ended = time.monotonic()
    assert outside.holder != holder  # given back, so that nobody has to wait until it runs out
    processes.until(lambda: outside.holder not in {"", holder})
    took_s = time.monotonic() - ended

    assert took_s < 15, took_s
    assert processes.end(second) == 0
    assert outside.holder == ""
