"""What users really hold: OpenAI's client, curl and a browser's page, against SmolLM2 on both local engines.

Each asks the same question, whole and streamed, through the guard and the split; the answer is the same each time.
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai
import pytest

from registry.promotion import CHAMPION
from tests.engines.test_triton import QUESTION, a_stack, report, smollm2
from tests.flows.mlflow_ui import CHROMIUM, a_browser
from tests.local.platform import needs_triton

__all__ = ["report"]
pytestmark = [pytest.mark.real, pytest.mark.engines, pytest.mark.timeout(1800)]

MESSAGES = [{"role": "user", "content": QUESTION}]
ENDPOINTS = """
apiVersion: shipway/v1
endpoints:
  - name: chat
    model: tiny
    target: %s
    engine: {max_context_tokens: 512}
    guard: {cors_origins: ["%s"]}
    rollout: {steps: [{weight: 50, dwell_s: 1}], settle_s: 0, promote: {by: exposure, requests: 30}, drain_s: 1}
    serving: {timeout_s: 60}
"""
FETCH = """
async ({url, key, body, stream}) => {
  const answer = await fetch(url, {
    method: "POST",
    headers: {"content-type": "application/json", "authorization": `Bearer ${key}`},
    body: JSON.stringify({...body, stream}),
  });
  const version = answer.headers.get("x-shipway-version");
  if (!stream) return [answer.status, version, (await answer.json()).choices[0].message.content, 1];
  const words = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let seen = "", pieces = 0;
  for (;;) {
    const {done, value} = await words.read();
    if (done) break;
    seen += value;
    pieces += 1;
  }
  const events = seen.split("\\n").filter(line => line.startsWith("data: ")).map(line => line.slice(6));
  if (events.pop() !== "[DONE]") throw new Error("no end mark");
  const said = events.map(one => JSON.parse(one).choices[0]?.delta?.content ?? "").join("");
  return [answer.status, version, said, pieces];
}
"""


def a_body(*, stream: bool) -> dict[str, object]:
    return {
        "model": "chat",
        "messages": MESSAGES,
        "max_tokens": 16,
        "temperature": 0,
        "stream": stream,
    }


@contextmanager
def a_page(folder: Path) -> Iterator[str]:
    """The origin of an empty page, which is not the guard's."""
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>a page</title>")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def by_openai(url: str, key: str) -> tuple[str, str]:
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60) as client:
        ask = partial(
            client.chat.completions.create,
            model="chat",
            messages=MESSAGES,
            max_tokens=16,
            temperature=0,
        )
        whole = ask().choices[0].message.content
        chunks = [one for one in ask(stream=True) if one.choices]
    assert len(chunks) > 2
    return whole, "".join(one.choices[0].delta.content or "" for one in chunks)


def by_curl(url: str, key: str) -> tuple[str, str]:
    curl = shutil.which("curl")
    assert curl is not None

    def ask(*, stream: bool) -> str:
        command = [curl, "--silent", "--show-error", "--fail-with-body", "--no-buffer"]
        command += ["--max-time", "60", f"{url}/chat/completions", "--json", "@-"]
        command += ["--header", f"Authorization: Bearer {key}"]
        body = json.dumps(a_body(stream=stream))
        return subprocess.run(
            command, input=body, capture_output=True, text=True, check=True
        ).stdout

    whole = json.loads(ask(stream=False))["choices"][0]["message"]["content"]
    events = [line[6:] for line in ask(stream=True).splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"] for event in events]
    return whole, "".join(one[0]["delta"].get("content") or "" for one in deltas if one)


def by_browser(url: str, key: str, page_url: str, version: str) -> tuple[str, str]:
    said: list[str] = []
    with a_browser(width=1280, height=800) as page:
        page.goto(page_url)
        for stream in (False, True):
            told = {"url": f"{url}/chat/completions", "key": key, "stream": stream}
            status, named, text, pieces = page.evaluate(
                FETCH, {**told, "body": a_body(stream=stream)}
            )
            assert (status, named) == (200, version)
            assert not stream or pieces > 2
            said.append(text)
    return said[0], said[1]


@pytest.mark.skipif(CHROMIUM is None, reason="`apt-get install chromium` brings the browser")
@pytest.mark.parametrize("target", ["local", pytest.param("local-triton", marks=needs_triton)])
def test_openais_client_curl_and_a_browsers_page_get_smollm2s_answer(
    tmp_path: Path, target: str, report: Callable[[str, object], None]
) -> None:
    model = smollm2(tmp_path / "model")
    with (
        a_page(tmp_path / "page") as origin,
        a_stack(tmp_path, ENDPOINTS % (target, origin)) as running,
    ):
        version = running.register(model)
        running.point("challenger", version)
        running.until(lambda: running.aliases == {CHAMPION: version})
        url = f"{running.info.url('chat', 'guard')}/v1"
        key = running.home.secrets().api_key

        answers = {
            "openai": by_openai(url, key),
            "curl": by_curl(url, key),
            "browser": by_browser(url, key, origin, version),
        }

    report(f"the clients on {target}", answers)
    said = {text for pair in answers.values() for text in pair}
    assert len(said) == 1
    assert "Paris" in said.pop()
