"""Local Ray Serve for longer, `make test-engines`: a full promotion over 2,000 requests, which prints its numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from registry.promotion import CHAMPION
from tests.engines.test_triton import REQUESTS, a_stack, report

__all__ = ["report"]
pytestmark = [pytest.mark.real, pytest.mark.engines, pytest.mark.timeout(1800)]

ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: tiny
    resources: {cpus: 0.1, memory_gib: 0.1}
    engine: {max_context_tokens: 512}
    rollout:
      steps: [{weight: 5, dwell_s: 5, requests: 20}, {weight: 25, dwell_s: 5}, {weight: 50, dwell_s: 5}]
      settle_s: 2
      promote: {by: exposure, requests: 300}
      drain_s: 2
    serving: {timeout_s: 60}
"""


def test_no_client_fails_through_a_full_promotion_over_2000_requests(
    tmp_path: Path, report: Callable[[str, object], None]
) -> None:
    from tests.tiny_model import write_tiny_model

    models = [write_tiny_model(tmp_path / f"tiny{seed}", seed=seed) for seed in (1, 2)]
    with a_stack(tmp_path, ENDPOINTS) as running:
        first, good = map(running.register, models)
        running.point("challenger", first)
        running.until(lambda: running.aliases == {CHAMPION: first})

        with running.clients(clients=8) as clients:
            clients.wait_for_answers(100)
            running.point("challenger", good)
            running.until(lambda: running.aliases == {CHAMPION: good})
            running.until(lambda: set(running.observed().revisions) == {good})
            running.until(lambda: clients.report.requests >= REQUESTS)

    report("a full promotion on local Ray Serve", clients.report.to_json())
    assert clients.report.requests >= REQUESTS
    assert (clients.report.failures, dict(clients.report.faults)) == (0, {})
    assert clients.report.versions[good].requests >= 300
