"""One request through the guard: what the client sees, what is counted, what is logged."""

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from deploy_targets.guard import relay
from deploy_targets.guard.outcome import Outcome
from deploy_targets.metrics import ROUTES
from deploy_targets.rollout.observe import parse_scrape
from tests.builders import NOON
from tests.guard.stub import COMPLETION, DONE, KEY, a_chat, chunk, keys_json
from tests.guard.world import World

AT_THE_START = {("unattributed", route): 0 for route in ROUTES}


def error_of(response: httpx2.Response) -> dict[str, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_an_answer_comes_back_byte_for_byte_with_its_version_and_a_request_id(
    world: World,
) -> None:
    response = world.post()
    assert response.status_code == 200
    assert response.json() == COMPLETION
    assert response.headers["x-shipway-version"] == "7"
    line = world.line()
    assert response.headers["x-request-id"] == line["request_id"]
    assert world.counted() == (1, 0)
    assert world.samples("llm_inference_duration_seconds_count")["7", "chat"] == 1


def test_the_clients_own_bytes_go_on_but_not_its_key(world: World) -> None:
    sent = json.dumps(a_chat(seed=3, unknown={"a": [1, None]})).encode() + b"  \n"
    world.http.post("/v1/chat/completions", content=sent)
    assert world.stub.bodies == [sent]
    assert KEY not in str(world.stub.headers)
    assert world.stub.headers[0]["x-request-id"] == world.line()["request_id"]


def test_a_stream_comes_back_byte_for_byte(world: World) -> None:
    response = world.post(a_chat(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content == chunk("Par") + chunk("is.") + DONE
    line = world.line()
    assert (line["outcome"], line["is_streamed"], line["version"]) == ("answered", True, "7")
    assert world.counted() == (1, 0)


def test_a_stream_is_passed_on_while_it_goes_on(world: World) -> None:
    with world.http.stream(
        "POST", "/v1/chat/completions", json=a_chat("break", stream=True)
    ) as response:
        first = next(response.iter_raw())
    assert first == chunk("Par")


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        ("500", 500),
        ("text 503", 503),
        ("error in 200", 502),
        ("garbage", 502),
        ("redirect", 502),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_is_none_is_an_error_of_its_version(
    world: World, behaviour: str, status: int, *, is_streamed: bool
) -> None:
    response = world.post(a_chat(behaviour, stream=is_streamed))
    assert response.status_code == status
    assert error_of(response)["type"] == "server_error"
    assert response.headers["x-shipway-version"] == "7"
    assert world.line()["outcome"] == "failed"
    assert world.counted() == (1, 1)


def test_the_engines_own_words_reach_the_client(world: World) -> None:
    assert error_of(world.post(a_chat("error in 200")))["message"] == "out of memory"


def test_a_whole_answer_to_a_request_for_a_stream_is_an_error(world: World) -> None:
    world.stub.go_on.set()
    response = world.post(a_chat("slow", stream=True))
    assert (response.status_code, error_of(response)["code"]) == (502, "error_in_answer")
    assert world.counted() == (1, 1)


@pytest.mark.parametrize("behaviour", ["break", "truncate", "truncate in a line"])
def test_a_stream_broken_off_ends_with_an_error_event_and_no_end_mark(
    world: World, behaviour: str
) -> None:
    world.stub.go_on.set()
    response = world.post(a_chat(behaviour, stream=True))
    events = [line for line in response.text.splitlines() if line]
    assert events[0].encode() == chunk("Par").strip()
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "upstream_broken"
    assert len(events) == 2
    assert world.line()["outcome"] == "failed"
    assert world.counted() == (1, 1)


def test_a_stream_that_breaks_before_its_first_event_is_a_plain_502(world: World) -> None:
    response = world.post(a_chat("break at once", stream=True))
    assert (response.status_code, error_of(response)["code"]) == (502, "upstream_broken")
    assert response.headers["x-shipway-version"] == "7"
    assert world.counted() == (1, 1)


def test_an_error_in_a_stream_is_passed_on_once_and_counted(world: World) -> None:
    response = world.post(a_chat("error chunk", stream=True))
    assert response.text.count("error") == 2  # its key and its type, `server_error`
    assert "[DONE]" not in response.text
    line = world.line()
    assert (line["outcome"], line["error"]) == ("failed", "error_in_stream")
    assert world.counted() == (1, 1)


def test_a_connection_lost_before_the_answer_is_a_502_without_a_version(
    start_world: Callable[..., World],
) -> None:
    def hang_up_on_one() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        world = start_world(upstream_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        server = threading.Thread(target=hang_up_on_one)
        server.start()
        response = world.post()
        server.join(20)
    assert (response.status_code, error_of(response)["code"]) == (502, "upstream_broken")
    assert "x-shipway-version" not in response.headers
    assert world.counted("unattributed") == (1, 1)


def test_no_connection_is_a_502_without_a_version(start_world: Callable[..., World]) -> None:
    world = start_world(upstream_url="http://127.0.0.1:1")
    response = world.post()
    assert (response.status_code, error_of(response)["code"]) == (502, "upstream_unreachable")
    assert world.counted("unattributed") == (1, 1)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_no_answer_in_time_is_a_504_and_ends_the_work_behind(
    start_world: Callable[..., World], *, is_streamed: bool
) -> None:
    world = start_world(timeout_s=1)
    response = world.post(a_chat("hang", stream=is_streamed))
    assert (response.status_code, error_of(response)["code"]) == (504, "upstream_timeout")
    assert world.stub.ended.wait(10)
    assert world.counted("unattributed") == (1, 1)


def test_a_stream_past_its_time_ends_with_an_error_of_its_version(
    start_world: Callable[..., World],
) -> None:
    world = start_world(timeout_s=2)
    response = world.post(a_chat("hang in stream", stream=True))
    assert response.text.splitlines()[-2].startswith('data: {"error"')
    assert world.line()["error"] == "upstream_timeout"
    assert world.stub.ended.wait(10)
    assert world.counted() == (1, 1)


@pytest.mark.parametrize(("behaviour", "status"), [("429", 429), ("404", 404)])
def test_a_4xx_is_an_answer_not_an_error(world: World, behaviour: str, status: int) -> None:
    response = world.post(a_chat(behaviour))
    assert response.status_code == status
    assert error_of(response)
    line = world.line()
    assert line["outcome"] == "answered"
    version = "7" if behaviour == "429" else "unattributed"
    assert world.counted(version) == (1, 0)
    assert response.headers.get("retry-after") == ("7" if behaviour == "429" else None)


def hang_up(world: World, body: dict[str, object], *, after: bytes = b"") -> None:
    """Sends a request by hand, and closes the connection once the answer holds `after`."""
    world.sent()
    payload = json.dumps(body).encode()
    host, port = world.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(head.encode() + payload)
        assert world.stub.begun.acquire(timeout=20)
        seen = b""
        while after not in seen:
            seen += client.recv(65536)


def test_a_client_that_hangs_up_while_it_waits_ends_the_work_and_counts_as_nothing(
    world: World,
) -> None:
    hang_up(world, a_chat("hang"))
    line = world.line()
    assert (line["outcome"], line["status"]) == ("cancelled", None)
    assert world.stub.ended.wait(10)
    assert world.counted("unattributed") == (0, 0)


def test_a_client_that_hangs_up_in_mid_stream_ends_the_work_and_counts_as_nothing(
    world: World,
) -> None:
    hang_up(world, a_chat("drip", stream=True), after=b"Par")
    assert world.line()["outcome"] == "cancelled"
    assert world.stub.ended.wait(10)
    assert world.counted() == (0, 0)  # seen, and born at zero


def test_a_client_that_hangs_up_on_an_error_does_not_hide_it(world: World) -> None:
    hang_up(world, a_chat("error chunk", stream=True), after=b'"error"')
    assert world.line()["outcome"] == "failed"
    assert world.counted() == (1, 1)


def test_a_client_that_does_not_read_is_not_held_against_the_version(
    start_world: Callable[..., World],
) -> None:
    world = start_world(timeout_s=3)
    with world.http.stream("POST", "/v1/chat/completions", json=a_chat("long", stream=True)):
        line = world.line()
    assert (line["outcome"], line["version"]) == ("cancelled", "7")
    assert world.counted() == (0, 0)


def test_pinned_requests_go_on_with_their_pin_and_are_counted_apart(world: World) -> None:
    world.post(**{"x-shipway-version": "7"})
    assert world.stub.headers[0]["x-shipway-version"] == "7"
    assert world.line()["route"] == "pinned"
    assert world.counted() == (0, 0)
    assert world.counted(route="pinned") == (1, 0)


def test_a_failure_that_no_version_can_be_named_for_is_counted_from_a_zero_that_was_there(
    world: World,
) -> None:
    for name in ("requests_total", "errors_total", "duration_seconds_count"):
        assert world.samples(f"llm_inference_{name}") == AT_THE_START


def test_a_version_that_is_seen_on_one_route_appears_at_zero_on_the_other(world: World) -> None:
    world.post(a_chat("500"))
    assert world.counted() == (1, 1)
    assert world.counted(route="pinned") == (0, 0)


def test_the_rollout_can_read_the_metrics_page(world: World) -> None:
    world.post()
    world.post(a_chat("500"))
    world.post(a_chat("500"), **{"x-shipway-version": "7"})
    page = httpx2.get(f"{world.admin_url}/metrics").text
    scrape = parse_scrape(page, endpoint="chat", at=NOON)
    counts = scrape.totals["7"]
    assert (counts.requests, counts.errors) == (2, 1)
    assert float(scrape.source) > 1e9


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer sk-wrong", "Basic abc", KEY])
def test_without_a_good_key_nobody_comes_in(world: World, authorization: str) -> None:
    for response in (
        world.post(Authorization=authorization),
        world.http.get("/v1/models", headers={"Authorization": authorization}),
    ):
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert world.line()["outcome"] == "refused"
    assert not world.stub.bodies
    assert world.samples("llm_inference_requests_total") == AT_THE_START


def test_a_key_taken_out_of_the_file_is_refused_at_once(world: World, keys_file: Path) -> None:
    assert world.post().status_code == 200
    keys_file.write_text(keys_json(other="sk-other"))
    assert world.post().status_code == 401
    assert world.post(Authorization="Bearer sk-other").status_code == 200


@pytest.mark.promise("it fails closed", about="bytes")
def test_while_the_key_file_cannot_be_read_nobody_comes_in(world: World, keys_file: Path) -> None:
    good = keys_file.read_text()
    for bad in ("{", '{"keys": [{"name": "x", "key": "clear"}]}', None):
        if bad is None:
            keys_file.unlink()
        else:
            keys_file.write_text(bad)
        response = world.post()
        assert (response.status_code, error_of(response)["code"]) == (503, "keys_unavailable")
        assert str(keys_file) not in response.text
        assert httpx2.get(f"{world.admin_url}/readyz").status_code == 503
        assert httpx2.get(f"{world.admin_url}/healthz").status_code == 200
    keys_file.write_text(good)
    assert world.post().status_code == 200
    assert httpx2.get(f"{world.admin_url}/readyz").status_code == 200
    assert world.counted() == (1, 0)


def test_without_access_control_anybody_comes_in(start_world: Callable[..., World]) -> None:
    world = start_world(auth=False)
    assert httpx2.post(f"{world.url}/v1/chat/completions", json=a_chat()).status_code == 200
    assert world.line()["caller"] == "anybody"


def test_another_model_is_not_found(world: World) -> None:
    response = world.post(a_chat(model="gpt-4"))
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (
        404,
        "model_not_found",
        "model",
    )
    assert world.line()["outcome"] == "refused"


def test_a_bad_body_is_a_clear_400_and_goes_nowhere(world: World) -> None:
    response = world.post(a_chat(temperature=9))
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "temperature")
    assert not world.stub.bodies
    assert world.samples("llm_inference_requests_total") == AT_THE_START


def test_a_body_past_a_mebibyte_is_a_413(world: World) -> None:
    response = world.post(a_chat("x" * (1 << 20)))
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert not world.stub.bodies


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("GET", "/metrics", 404), ("POST", "/x", 404)],
)
def test_what_is_not_served_is_said_in_the_envelope(
    world: World, method: str, path: str, status: int
) -> None:
    response = world.http.request(method, path)
    assert response.status_code == status
    assert error_of(response)["code"] == "not_found"


def test_no_prompt_answer_or_key_is_logged(world: World) -> None:
    world.post(a_chat("my secret prompt"))
    world.post(a_chat("my secret prompt", temperature="my secret"))
    lines = f"{world.line()} {world.line()}"
    for secret in ("secret", "Paris", KEY):
        assert secret not in lines


def test_a_hundred_requests_at_once_are_all_answered_and_all_counted(world: World) -> None:
    with ThreadPoolExecutor(16) as pool:
        statuses = list(
            pool.map(lambda i: world.post(a_chat(stream=i % 2 == 0)).status_code, range(100))
        )
    assert statuses == [200] * 100
    for _ in range(100):
        world.line()
    assert world.counted() == (100, 0)


def test_a_bug_of_ours_is_a_500_in_the_envelope_and_no_versions_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Outcome:
        raise ZeroDivisionError

    monkeypatch.setattr(relay, "whole_outcome", broken)
    response = world.post()
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert world.line()["outcome"] == "failed"
    assert world.counted() == (0, 0)
    assert world.counted("unattributed") == (1, 1)
