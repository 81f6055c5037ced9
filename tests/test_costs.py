"""What a guard has counted, as a bill."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deploy_targets.costs import CostLine, cost_lines
from deploy_targets.engine.chat import Usage
from deploy_targets.guard.counters import Counters, Finished


def a_page(cost: int = 23) -> str:
    registry = CollectorRegistry()
    counters, usage = Counters(registry, endpoint="chat"), Usage(prompt=3, completion=2)
    counters.appear("7")
    for key in ("anna", "ben"):
        finished = Finished(seconds=1, usage=usage, cost_micros=cost)
        counters.count("7", route="chat", finished=finished)
        counters.charge("7", key=key, usage=usage, cost_micros=cost)
    counters.charge(None, key="ben", usage=Usage(prompt=3, completion=0), cost_micros=1)
    return generate_latest(registry).decode()


def test_several_guards_are_one_bill_by_version_and_key() -> None:
    lines = cost_lines([a_page(), a_page(7)], endpoint="chat")

    assert CostLine(version="7", key=None, requests=4, tokens=20, micros=60) in lines
    assert CostLine(version="7", key="anna", requests=2, tokens=10, micros=30) in lines
    assert CostLine(version="unattributed", key="ben", requests=2, tokens=6, micros=2) in lines
    assert [(one.version, one.key) for one in lines] == [
        ("7", None), ("7", "anna"), ("7", "ben"), ("unattributed", None), ("unattributed", "ben"),
    ]  # fmt: skip


def test_another_endpoints_series_are_not_on_it() -> None:
    assert cost_lines([a_page()], endpoint="other") == ()


def test_a_line_says_what_a_request_costs() -> None:
    line = CostLine(version="7", key="anna", requests=2, tokens=10, micros=1_500_000)
    assert "1.500000 EUR, 750000.0 micros a request" in line.line("EUR")


@pytest.mark.parametrize("label", ['endpoint="chat",', 'version="7"'])
def test_a_page_that_is_none_of_a_guards_is_named(label: str) -> None:
    page = a_page().replace(label, "")
    with pytest.raises(ValueError, match="none of a guard's"):
        cost_lines([page], endpoint="chat")
