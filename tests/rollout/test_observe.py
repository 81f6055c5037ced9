"""What `observe` makes of a metrics page, and of two of them."""

import math
from dataclasses import replace

import httpx2
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deploy_targets.engine.chat import Usage
from deploy_targets.guard.counters import Counters, Finished
from deploy_targets.metrics import DURATION, FIRST_TOKEN, PER_TOKEN
from deploy_targets.rollout.observe import GuardMetrics, combined, difference, parse_scrape
from deploy_targets.rollout.state import Counts, NoData, Observation, Scrape
from registry.errors import MetricsUnavailable
from tests.builders import NOON, FakeClock

PAGE = """
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
# TYPE llm_inference_requests counter
llm_inference_requests_total{endpoint="chat",version="6",route="chat"} 95.0
llm_inference_requests_total{endpoint="chat",version="6",route="pinned"} 3.0
llm_inference_requests_total{endpoint="other",version="6",route="chat"} 1000.0
llm_inference_requests_total{endpoint="chat",version="7",route="chat"} 5.0
# TYPE llm_inference_errors counter
llm_inference_errors_total{endpoint="chat",version="7",route="chat"} 2.0
# TYPE llm_inference_duration_seconds histogram
llm_inference_duration_seconds_bucket{endpoint="chat",version="7",route="chat",le="+Inf"} 5.0
llm_inference_duration_seconds_count{endpoint="chat",version="7",route="chat"} 5.0
llm_inference_duration_seconds_sum{endpoint="chat",version="7",route="chat"} 2.5
"""

BEFORE = Scrape(at=NOON, source="1", totals={"6": Counts(requests=90, errors=1)})


def test_a_page_gives_the_judged_route_of_this_endpoint_only() -> None:
    scrape = parse_scrape(PAGE, endpoint="chat", at=NOON)
    assert scrape.totals == {
        "6": Counts(requests=95),
        "7": Counts(requests=5, errors=2, duration_s=2.5),
    }


def a_page_with_buckets(*counts: int) -> str:
    lines = (
        f'llm_inference_duration_seconds_bucket{{endpoint="chat",version="7",route="chat",le="{bound}"}} {count}'
        for bound, count in zip(DURATION.buckets, counts, strict=True)
    )
    return PAGE.rstrip() + "\n" + "\n".join(lines) + "\n"


def test_the_histogram_is_read_where_the_page_has_the_declared_bounds() -> None:
    counts = range(1, len(DURATION.buckets) + 1)
    page = a_page_with_buckets(*counts)
    assert parse_scrape(page, endpoint="chat", at=NOON).totals["7"].within == tuple(counts)
    coarser = page.replace('le="1.0"', 'le="1.5"')
    assert parse_scrape(coarser, endpoint="chat", at=NOON).totals["7"].within == ()


def test_the_guards_own_page_has_tokens_times_and_costs() -> None:
    registry = CollectorRegistry()
    counters = Counters(registry, endpoint="chat")
    usage = Usage(prompt=3, completion=2)
    for route in ("chat", "pinned"):
        finished = Finished(
            seconds=1, usage=usage, cost_micros=23, first_token_s=0.3, per_token_s=0.004
        )
        counters.appear("7")
        counters.count("7", route=route, finished=finished)
        for is_bad in (True, False):
            counters.judged("7", route=route, is_bad=is_bad)
    page = generate_latest(registry).decode()
    seen = parse_scrape(page, endpoint="chat", at=NOON).totals["7"]
    assert (seen.requests, seen.cost_micros, seen.judged, seen.bad) == (1, 23, 2, 1)
    assert dict(zip((*FIRST_TOKEN.buckets, math.inf), seen.first_token, strict=True)) == {
        bound: int(bound >= 0.3) for bound in (*FIRST_TOKEN.buckets, math.inf)
    }
    assert seen.per_token == (1,) * (len(PER_TOKEN.buckets) + 1)
    assert combined([replace(BEFORE, source=one, totals={"7": seen}) for one in ("1", "2")]).totals[
        "7"
    ] == Counts(
        requests=2,
        duration_s=2,
        within=tuple(2 * one for one in seen.within),
        first_token=tuple(2 * one for one in seen.first_token),
        per_token=tuple(2 * one for one in seen.per_token),
        cost_micros=46,
        judged=4,
        bad=2,
    )
    doubled = replace(seen, requests=2, cost_micros=50, judged=5, bad=2)
    step = difference(replace(BEFORE, totals={"7": seen}), replace(BEFORE, totals={"7": doubled}))
    assert isinstance(step, Observation)
    seven = step.increments["7"]
    assert (seven.cost_micros, seven.judged, seven.bad) == (27, 3, 1)


def test_the_histograms_increment_is_the_difference_and_may_not_go_backwards() -> None:
    before = replace(BEFORE, totals={"6": Counts(requests=5, within=(1, 5))})
    after = replace(BEFORE, totals={"6": Counts(requests=9, within=(3, 9))})
    seen = difference(before, after)
    assert isinstance(seen, Observation)
    assert seen.increments["6"].within == (2, 4)
    shrunk = replace(BEFORE, totals={"6": Counts(requests=9, within=(0, 9))})
    assert isinstance(difference(before, shrunk), NoData)
    without = replace(BEFORE, totals={"6": Counts(requests=9)})
    lost = difference(before, without)
    assert isinstance(lost, Observation)
    assert lost.increments["6"].within == ()


def test_increments_are_the_difference_and_a_new_version_began_at_zero() -> None:
    after = replace(
        BEFORE,
        totals={"6": Counts(requests=100, errors=1), "7": Counts(requests=4, errors=2)},
    )
    assert difference(BEFORE, after) == Observation(
        seconds=0, increments={"6": Counts(requests=10), "7": Counts(requests=4, errors=2)}
    )


@pytest.mark.promise("no data is no verdict")
@pytest.mark.parametrize(
    "after",
    [
        replace(BEFORE, source="2"),
        replace(BEFORE, totals={"6": Counts(requests=89, errors=1)}),
        replace(BEFORE, totals={"6": Counts(requests=91, errors=9)}),
        replace(BEFORE, totals={"6": Counts(requests=91, errors=1, judged=1, bad=2)}),
    ],
)
def test_restarts_resets_and_nonsense_are_gaps(after: Scrape) -> None:
    assert isinstance(difference(BEFORE, after), NoData)


def test_the_first_reading_is_a_gap() -> None:
    assert isinstance(difference(None, BEFORE), NoData)


@pytest.mark.promise("no data is no verdict")
@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(500),
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, text="requests 1\n"),
        httpx2.Response(200, text="{}"),
        httpx2.Response(200, text=PAGE.replace('version="7"', 'verison="7"')),
        httpx2.Response(200, text=PAGE.replace(" 95.0", " +Inf")),
        httpx2.Response(200, text=PAGE.replace(" 95.0", " NaN")),
    ],
)
def test_a_guard_that_answers_rubbish_is_unavailable_not_zero(answer: httpx2.Response) -> None:
    client = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
    counters = GuardMetrics(client, "http://guard/metrics", endpoint="chat", clock=FakeClock())
    with pytest.raises(MetricsUnavailable):
        counters.scrape()


def a_guards_page(started: str, requests: int) -> str:
    return PAGE.replace("1.7e+09", started).replace("95.0", str(requests))


def guards(pages: dict[str, str], clock: FakeClock) -> GuardMetrics:
    """Guards by their address; `pages` may change."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["host"] == "chat-counts.shipway:9090"
        page = pages[request.url.host]
        return httpx2.Response(200 if page else 503, text=page)

    return GuardMetrics(
        httpx2.Client(transport=httpx2.MockTransport(answer)),
        "http://chat-counts.shipway:9090/metrics",
        endpoint="chat",
        clock=clock,
        addresses=lambda url: [url.copy_with(host=host) for host in pages],
    )


def test_the_counts_of_several_guards_are_added_up() -> None:
    pages = {"10.0.0.1": a_guards_page("1", 95), "10.0.0.2": a_guards_page("2", 40)}
    counters = guards(pages, FakeClock())

    before = counters.scrape()
    pages |= {"10.0.0.1": a_guards_page("1", 100), "10.0.0.2": a_guards_page("2", 50)}
    seen = difference(before, counters.scrape())

    assert before.totals["6"].requests == 135
    assert before.totals["7"] == Counts(requests=10, errors=4, duration_s=5.0)
    assert isinstance(seen, Observation)
    assert seen.increments["6"].requests == 15


def test_a_guard_that_comes_goes_or_was_restarted_is_a_gap_and_then_it_goes_on() -> None:
    one, two = {"10.0.0.1": a_guards_page("1", 95)}, {"10.0.0.2": a_guards_page("2", 40)}
    clock = FakeClock()
    alone, both = guards(one, clock).scrape(), guards(one | two, clock).scrape()

    assert isinstance(difference(alone, both), NoData)
    assert isinstance(difference(both, alone), NoData)
    assert isinstance(difference(both, both), Observation)


def test_a_guard_that_is_there_and_does_not_answer_is_a_gap_not_fewer_requests() -> None:
    with pytest.raises(MetricsUnavailable):
        guards({"10.0.0.1": a_guards_page("1", 95), "10.0.0.2": ""}, FakeClock()).scrape()
    with pytest.raises(MetricsUnavailable, match="there is no guard"):
        guards({}, FakeClock()).scrape()


def test_one_guard_under_two_addresses_counts_once() -> None:
    page = a_guards_page("1", 95)

    assert guards({"10.0.0.1": page, "::1": page}, FakeClock()).scrape().totals["6"].requests == 95


def test_where_one_guard_is_too_old_to_tell_times_none_are_told() -> None:
    new = Scrape(at=NOON, source="1", totals={"6": Counts(requests=9, within=(1, 2))})
    old = Scrape(at=NOON, source="2", totals={"6": Counts(requests=1)})

    assert combined([new, old]).totals["6"] == Counts(requests=10)
    assert combined([new]).totals == new.totals


def test_mirrored_requests_are_counted_apart_over_all_guards() -> None:
    line = 'llm_inference_requests_total{{endpoint="{}",version="7",route="shadow"}} {}\n'
    page = PAGE + line.format("chat", 4) + line.format("other", 9)
    other = page.replace("1.7e+09", "1.8e+09")
    one, two = (parse_scrape(text, endpoint="chat", at=NOON) for text in (page, other))
    both = combined([one, two])
    assert (one.mirrored, both.mirrored) == ({"7": 4}, {"7": 8})
    assert one.totals["7"].requests == 5
    before = replace(both, mirrored={"7": 5})
    observed = difference(before, both)
    assert isinstance(observed, Observation)
    assert observed.mirrored == {"7": 3}
    assert isinstance(difference(replace(both, mirrored={"7": 9}), both), NoData)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('version="7",', ""),
        (',le="+Inf"', ""),
        ("5.0", "+Inf"),
        ("5.0", "NaN"),
        ("5.0", "many"),
        ("5.0", "1e308"),
        ("5.0", "-1"),
        # A state that held one of these could be saved, and never be read again.
        ("2.5", "NaN"),
        ("2.5", "+Inf"),
    ],
)
def test_a_page_that_is_none_of_a_guards_is_a_gap_and_no_surprise(right: str, wrong: str) -> None:
    page = PAGE.replace(right, wrong)
    with pytest.raises(MetricsUnavailable):
        guards({"10.0.0.1": page}, FakeClock()).scrape()
