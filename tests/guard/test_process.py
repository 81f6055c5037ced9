"""The guard as a process: what it refuses to start with, and how it stops."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from deploy_targets.guard_policy import GuardPolicy
from deploy_targets.local.process import free_port
from tests.guard.stub import KEY, SAY, a_chat
from tests.guard.two_versions import until
from tests.guard.world import World

Start = Callable[..., subprocess.Popen[str]]


def free_ports(count: int) -> list[int]:
    taken: set[int] = set()
    return [free_port(0, taken) for _ in range(count)]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(**settings: object) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            **{f"SHIPWAY_GUARD_{name.upper()}": str(value) for name, value in settings.items()},
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy_targets.guard"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until_started(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "guard.started":
            return
    message = f"the guard did not start: {process.communicate()}"
    raise AssertionError(message)


def refusal(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complaint = process.communicate(timeout=60)
    return process.returncode, complaint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_it_has_and_lets_nobody_else_in(
    start: Start, world: World, keys_file: Path, number: signal.Signals
) -> None:
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url=world.stub_url,
        port=port,
        admin_port=admin_port,
        keys_file=keys_file,
    )
    until_started(process)
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx2.get(f"http://127.0.0.1:{admin_port}/readyz").status_code == 200
    with ThreadPoolExecutor(1) as pool, httpx2.Client(headers=headers, timeout=30) as client:
        answer = pool.submit(client.post, f"{url}/v1/chat/completions", json=a_chat("slow"))
        assert world.stub.begun.acquire(timeout=20)
        process.send_signal(number)
        while True:  # until the door is shut
            try:
                socket.create_connection(("127.0.0.1", port), timeout=20).close()
            except ConnectionResetError:
                continue  # the door was closing
            except ConnectionRefusedError:
                break
        world.stub.go_on.set()
        assert answer.result().status_code == 200
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    events = [json.loads(line) for line in out.splitlines()]
    served = [one for one in events if one["event"] == "request.served"]
    assert [(one["outcome"], one["status"]) for one in served] == [("answered", 200)]
    assert events[-1]["event"] == "guard.stopped"


def test_a_gateway_is_asked_under_the_endpoints_own_hostname(start: Start, world: World) -> None:
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url=world.stub_url,
        upstream_host="chat.example.com",
        port=port,
        admin_port=admin_port,
        auth="none",
    )
    until_started(process)

    answer = httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=a_chat())

    assert answer.status_code == 200
    assert world.stub.headers[-1]["host"] == "chat.example.com"


def test_it_judges_by_its_policy_takes_feedback_and_ends_with_answers_still_waiting(
    start: Start, world: World, tmp_path: Path
) -> None:
    policy = GuardPolicy.model_validate({"quality": {"bad": ["refusal"], "feedback_wait_s": 3}})
    (tmp_path / "policy.json").write_text(policy.document())
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url=world.stub_url,
        port=port,
        admin_port=admin_port,
        auth="none",
        policy_file=tmp_path / "policy.json",
    )
    until_started(process)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for said in (SAY + "I cannot help with that.", SAY + "Paris.", SAY + "London."):
            answer = client.post("/v1/chat/completions", json=a_chat(said))
        asked = answer.headers["x-request-id"]
        told = client.post("/v1/feedback", json={"request_id": asked, "score": "bad"})
        assert told.status_code == 200
        labels = '{endpoint="chat",route="chat",version="7"}'
        end = time.monotonic() + 30
        while f"llm_quality_judged_total{labels} 3.0" not in (
            page := httpx2.get(f"http://127.0.0.1:{admin_port}/metrics").text
        ):
            assert time.monotonic() < end, page
            time.sleep(0.05)
        assert f"llm_quality_bad_total{labels} 2.0" in page
        client.post("/v1/chat/completions", json=a_chat())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_stopping_is_bounded(start: Start, world: World) -> None:
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url=world.stub_url,
        port=port,
        admin_port=admin_port,
        auth="none",
        drain_s=0,
    )
    until_started(process)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, url, json=a_chat("hang"), timeout=30)
        assert world.stub.begun.acquire(timeout=20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert answer.result().json()["error"]["code"] == "shutting_down"
        assert answer.result().status_code == 503


def test_without_its_settings_it_says_which(start: Start) -> None:
    code, complaint = refusal(start(upstream_url="nonsense", port=1, admin_port=2))
    assert code == 2
    assert "SHIPWAY_GUARD_ENDPOINT: Field required" in complaint
    assert "SHIPWAY_GUARD_UPSTREAM_URL" in complaint
    assert "Traceback" not in complaint


def test_an_open_door_must_be_asked_for(start: Start) -> None:
    code, complaint = refusal(
        start(endpoint="chat", upstream_url="http://127.0.0.1:1", port=1, admin_port=2)
    )
    assert code == 2
    assert "SHIPWAY_GUARD_KEYS_FILE" in complaint


@pytest.mark.parametrize("text", [None, "{", '{"keys": [{"name": "a", "sha256": "sk-clear"}]}'])
def test_without_keys_that_can_be_read_it_does_not_start(
    start: Start, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "keys.json"
    if text is not None:
        path.write_text(text)
    code, complaint = refusal(
        start(
            endpoint="chat",
            upstream_url="http://127.0.0.1:1",
            port=1,
            admin_port=2,
            keys_file=path,
        )
    )
    assert code == 2
    assert str(path) in complaint
    assert "sk-clear" not in complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize("folder", [None, "keys.json/spool"])
def test_a_policy_that_records_needs_a_folder(
    start: Start, tmp_path: Path, keys_file: Path, folder: str | None
) -> None:
    (tmp_path / "policy.json").write_text('{"record": {}}')
    given = {} if folder is None else {"spool_folder": tmp_path / folder}
    code, complaint = refusal(
        start(
            endpoint="chat",
            upstream_url="http://127.0.0.1:1",
            port=1,
            admin_port=2,
            keys_file=keys_file,
            policy_file=tmp_path / "policy.json",
            **given,
        )
    )
    assert code == 2
    assert "spool" in complaint.lower()
    assert "Traceback" not in complaint


def test_what_is_recorded_is_sealed_when_it_stops(
    start: Start, world: World, tmp_path: Path
) -> None:
    (tmp_path / "policy.json").write_text('{"record": {"sample": 1}, "shadow": {}}')
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url=world.stub_url,
        port=port,
        admin_port=admin_port,
        auth="none",
        policy_file=tmp_path / "policy.json",
        spool_folder=tmp_path / "spool",
    )
    until_started(process)
    url = f"http://127.0.0.1:{admin_port}"
    word = {"version": "8", "for_s": 5}
    assert httpx2.put(f"{url}/shadow", json=word).status_code == 204
    answer = httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=a_chat())
    assert answer.status_code == 200
    until(lambda: 'result="written"} 1.0' in httpx2.get(f"{url}/metrics").text)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    (sealed,) = (tmp_path / "spool").iterdir()
    assert json.loads(gzip.decompress(sealed.read_bytes()))["answer"] == "Paris."


def test_a_port_that_is_taken_is_named(start: Start, keys_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, complaint = refusal(
            start(
                endpoint="chat",
                upstream_url="http://127.0.0.1:1",
                port=port,
                admin_port=free_ports(1)[0],
                keys_file=keys_file,
            )
        )
    assert code == 1
    assert str(port) in complaint
    assert "Traceback" not in complaint


def test_it_carries_nothing_of_the_control_plane() -> None:
    heavy = ("registry", "pipelines", "mlflow", "boto3", "kubernetes", "ray", "torch", "yaml")
    code = f"import sys, deploy_targets.guard.__main__; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_gives_answers_again_where_its_policy_says_so(
    start: Start, world: World, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"cache": {}}')
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url=world.stub_url,
        port=port,
        admin_port=admin_port,
        auth="none",
        policy_file=policy,
    )
    until_started(process)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    answers = [httpx2.post(url, json=a_chat(temperature=0), timeout=20) for _ in range(2)]
    assert [one.headers["x-shipway-cache"] for one in answers] == ["miss", "hit"]
    assert len(world.stub.bodies) == 1


def test_it_does_not_keep_answers_in_a_redis_that_nobody_has_named(
    start: Start, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"cache": {"store": "redis"}}')
    port, admin_port = free_ports(2)
    process = start(
        endpoint="chat",
        upstream_url="http://127.0.0.1:9",
        port=port,
        admin_port=admin_port,
        auth="none",
        policy_file=policy,
    )
    code, complaint = refusal(process)
    assert code == 2
    assert "SHIPWAY_GUARD_REDIS_URL" in complaint
