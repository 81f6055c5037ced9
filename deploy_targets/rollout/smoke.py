"""Does the challenger itself answer? Golden prompts, pinned to it through the gateway, before it gets any traffic."""

import json
from http import HTTPStatus

import httpx2

from deploy_targets.endpoint import Endpoint
from deploy_targets.engine import chat
from deploy_targets.engine.generate_stream import generate_body, generate_path, read_pieces
from deploy_targets.engine.tensors import AnswerFailed
from deploy_targets.rollout.situation import SmokeResult
from deploy_targets.routing.traffic import VERSION_HEADER

_MAX_TOKENS = 16
_NO_ROUTE = 404


class SmokeTest:
    """The smoke test of one endpoint."""

    def __init__(self, client: httpx2.Client, gateway_url: str, endpoint: Endpoint) -> None:
        """`gateway_url` is that of the split, behind the guard, so that no client's numbers are touched.

        There the revisions' own protocol is spoken.
        """
        self._client = client
        self._is_triton = endpoint.target.protocol == "triton"
        path = generate_path(endpoint.name) if self._is_triton else "/v1/chat/completions"
        self._url = f"{gateway_url}{path}"
        self._endpoint = endpoint

    def run(self, version: str) -> SmokeResult | None:
        """What `version` answered to every prompt; None while the gateway has no way to it yet."""
        for prompt in self._endpoint.rollout.smoke_prompts:
            try:
                response = self._client.post(
                    self._url,
                    content=self._body(prompt),
                    headers={VERSION_HEADER: version, "content-type": "application/json"},
                    timeout=self._endpoint.serving.timeout_s,
                )
            except httpx2.TimeoutException:
                limit = self._endpoint.serving.timeout_s
                reason = f"no answer to {prompt!r} in {limit:.0f} s"
                return SmokeResult(version=version, passed=False, reason=reason)
            except httpx2.TransportError:
                return None
            if response.status_code == _NO_ROUTE:
                return None
            fault = self._fault(response, version)
            if fault:
                return SmokeResult(version=version, passed=False, reason=f"{fault} to {prompt!r}")
        return SmokeResult(version=version, passed=True, reason="it answered every smoke prompt")

    def _body(self, prompt: str) -> bytes:
        body = json.dumps(
            {
                "model": self._endpoint.name,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": _MAX_TOKENS,
                "temperature": 0,
            }
        ).encode()
        return generate_body(chat.parse_chat(body), draw="") if self._is_triton else body

    def _fault(self, response: httpx2.Response, version: str) -> str:
        """What is wrong with the answer; empty when nothing is."""
        if response.status_code != HTTPStatus.OK:
            return f"status {response.status_code} ({response.text[:200]})"
        answered = response.headers.get(VERSION_HEADER)
        if answered != version:
            return f"an answer of version {answered}, not {version},"
        try:
            text = self._text(response)
        except (AnswerFailed, chat.BadRequest) as error:
            return f"no answer ({error})"
        except (ValueError, KeyError, IndexError, TypeError):
            return f"no chat completion ({response.text[:200]})"
        return "" if text.strip() else "an empty answer"

    def _text(self, response: httpx2.Response) -> str:
        if not self._is_triton:
            content = response.json()["choices"][0]["message"]["content"]
            if not isinstance(content, str):
                raise TypeError(content)
            return content
        pieces, _ = read_pieces(response.content)
        return "".join(piece.text for piece in pieces)
