"""Does the challenger itself answer? Golden prompts, pinned to it through the gateway, before it gets any traffic."""

from http import HTTPStatus

import httpx2

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.plan import SmokeResult
from deploy_targets.routing.traffic import VERSION_HEADER

_MAX_TOKENS = 16
_NO_ROUTE = 404


class SmokeTest:
    """The smoke test of one endpoint."""

    def __init__(self, client: httpx2.Client, gateway_url: str, endpoint: Endpoint) -> None:
        """`gateway_url` is that of the split, behind the guard, so that no client's numbers are touched."""
        self._client = client
        self._url = f"{gateway_url}/v1/chat/completions"
        self._endpoint = endpoint

    def run(self, version: str) -> SmokeResult | None:
        """What `version` answered to every prompt; None while the gateway has no way to it yet."""
        for prompt in self._endpoint.rollout.smoke_prompts:
            body = {
                "model": self._endpoint.name,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": _MAX_TOKENS,
                "temperature": 0,
            }
            try:
                response = self._client.post(
                    self._url,
                    json=body,
                    headers={VERSION_HEADER: version},
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
            fault = _fault(response, version)
            if fault:
                return SmokeResult(version=version, passed=False, reason=f"{fault} to {prompt!r}")
        return SmokeResult(version=version, passed=True, reason="it answered every smoke prompt")


def _fault(response: httpx2.Response, version: str) -> str:
    """What is wrong with the answer; empty when nothing is."""
    if response.status_code != HTTPStatus.OK:
        return f"status {response.status_code} ({response.text[:200]})"
    answered = response.headers.get(VERSION_HEADER)
    if answered != version:
        return f"an answer of version {answered}, not {version},"
    try:
        text = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return f"no chat completion ({response.text[:200]})"
    return "" if str(text).strip() else "an empty answer"
