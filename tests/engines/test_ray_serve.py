"""Local Ray Serve for longer, `make test-engines`: a full promotion over 2,000 requests, which prints its numbers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.engines.test_triton import check_a_promotion_under_load, report

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
    told = partial(report, "a full promotion on local Ray Serve")
    check_a_promotion_under_load(tmp_path, ENDPOINTS, told)
