"""Triton for real: the whole local stack around real tritonservers, from a first release to a rollback.

As in `test_the_stack`, one stack serves the module and its tests run in the order in which they stand.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from deploy_targets.local import stack
from deploy_targets.local.demo import _BUG
from deploy_targets.local.demo_traffic import talk
from deploy_targets.local.home import Home
from deploy_targets.local.triton_revision import SPEC_FILE, RevisionSpec
from registry.promotion import CHAMPION
from tests.flows.test_the_stack import Stack
from tests.local.platform import needs_triton

pytestmark = [pytest.mark.real, needs_triton]

ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: tiny
    target: local-triton
    engine: {max_context_tokens: 256}
    triton: {response_cache_bytes: 16777216}
    rollout:
      steps: [{weight: 25, dwell_s: 2, requests: 2}, {weight: 50, dwell_s: 1}]
      settle_s: 0
      promote: {by: exposure, requests: 30}
      drain_s: 1
    serving: {timeout_s: 30}
"""
FAILS_ON_SYSTEM_MESSAGES = "{%- if messages[0]['role'] == 'system' -%}" + _BUG + "{%- endif -%}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", "5")
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        folder = tmp_path_factory.mktemp("triton")
        try:
            yield Stack(folder, ENDPOINTS)
        finally:
            stack.down(Home(folder / "home"), announce=print)


@pytest.fixture(scope="module")
def first(running: Stack, model: Callable[..., Path]) -> str:
    """The first release, as champion."""
    version = running.register(model(1))
    running.point("challenger", version)
    running.until(lambda: running.aliases == {CHAMPION: version})
    return version


def cache_hits(running: Stack, version: str) -> int:
    """As Triton's own metrics count them."""
    folder = running.home.folder(f"endpoints/chat/triton/{version}")
    port = RevisionSpec.model_validate_json((folder / SPEC_FILE).read_text()).port
    url = httpx2.get(f"http://127.0.0.1:{port}/status").json()["metrics_url"]
    (line,) = [
        line
        for line in httpx2.get(url).text.splitlines()
        if line.startswith("nv_cache_num_hits_per_model{")
    ]
    return int(line.rpartition(" ")[2])


def test_a_first_release_becomes_champion_and_its_answers_are_cached(
    running: Stack, first: str
) -> None:
    assert "ray" not in running.info.alive()
    before = cache_hits(running, first)
    url = f"{running.info.url('chat', 'guard')}/v1/chat/completions"
    key = running.home.secrets().api_key
    whole, again, streamed = (
        talk(url, key, "chat", "hello", stream=one) for one in (False, False, True)
    )
    assert whole == again == streamed != ""
    assert cache_hits(running, first) == before + 2


def test_a_good_challenger_is_promoted_by_canary_and_no_client_fails(
    running: Stack, model: Callable[..., Path]
) -> None:
    champion, good = running.aliases[CHAMPION], running.register(model(2))

    with running.clients() as clients:
        clients.wait_for_answers(4)
        running.point("challenger", good)
        running.until(lambda: running.aliases == {CHAMPION: good})
        clients.wait_for_answers(clients.report.requests + 20)

    assert clients.report.failures == 0
    assert clients.report.versions[good].requests >= 30
    running.past(good, "promoted")
    running.until(lambda: set(running.observed().revisions) == {good})
    left = running.home.path / "endpoints/chat/triton" / champion
    running.until(lambda: not left.exists())


def test_a_bad_challenger_is_rolled_back_by_failures_that_triton_half_hides(
    running: Stack, model: Callable[..., Path]
) -> None:
    champion, bad = running.aliases[CHAMPION], running.register(model(3, FAILS_ON_SYSTEM_MESSAGES))

    with running.clients(system_share=0.5) as clients:
        clients.wait_for_answers(4)
        running.point("challenger", bad)
        running.until(lambda: running.answered(bad)[0] == "turned_down")
        running.until(lambda: running.status.traffic == {champion: 100})

    running.until(lambda: running.aliases == {CHAMPION: champion})
    assert "worse: e-value" in running.answered(bad)[1]
    own = clients.report.versions[bad].failures
    assert own > 0
    assert clients.report.failures == own


@pytest.mark.promise("what served serves again")
@pytest.mark.usefixtures("first")  # where it runs alone
def test_what_served_serves_again_after_the_whole_stack_was_down(running: Stack) -> None:
    champion = running.aliases[CHAMPION]
    stack.down(running.home, announce=running.said.append)
    assert running.processes() == []

    running.up()

    running.until(lambda: running.observed().is_ready(champion))
    assert running.status.traffic == {champion: 100}
    assert "ok   triton: installed" in running.cli("doctor")
