"""POST /v1/completions, OpenAI's older API, in the words of a chat and back. Pure.

The engines here answer chats, so a prompt is put to the model as what a user says: one prompt, one answer. What has no
counterpart in a chat is refused by name, never left out unseen.
"""

import json
from collections.abc import Mapping
from typing import Any

from deploy_targets.guard.errors import RequestInvalid
from deploy_targets.guard.wire import Asked, parse_chat, parse_fields

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "logprobs": (None,),
}
"""The values that ask for nothing of what a chat does not have."""


def parse_completion(body: bytes) -> Asked:
    """What the body of POST /v1/completions asks for.

    Raises:
        RequestInvalid: as for a chat; or it asks for what a chat does not have.
    """
    fields = parse_fields(body)
    prompt = fields.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:  # pyright: ignore[reportUnknownArgumentType]
        prompt = prompt[0]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(prompt, str):
        message = "prompt: must be one string; token ids and several prompts are not served here."
        raise RequestInvalid(message, param="prompt")
    for name in _NEUTRAL:
        if fields.pop(name, None) not in _NEUTRAL[name]:
            message = f"{name}: is not served here. Leave it out."
            raise RequestInvalid(message, param=name)
    fields["messages"] = [{"role": "user", "content": prompt}]
    return parse_chat(json.dumps(fields, ensure_ascii=False).encode(), is_completion=True)


class CompletionWords:
    """The last filter of an answer that was asked for at /v1/completions."""

    is_over = False

    def whole(self, document: dict[str, Any]) -> dict[str, Any]:
        """A `text_completion` of a `chat.completion`."""
        return self._worded(document, "message")

    def event(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """A chunk of text; those that bring none, as the opening one, are left out."""
        worded = self._worded(event, "delta")
        choices = worded["choices"]
        is_empty = choices and not any(one["text"] or one["finish_reason"] for one in choices)
        return [] if is_empty else [worded]

    def end(self) -> list[dict[str, Any]]:
        """Nothing is held back."""
        return []

    def _worded(self, document: dict[str, Any], part: str) -> dict[str, Any]:
        said: list[dict[str, Any]] = document.get("choices") or []
        choices: list[dict[str, Any]] = [
            {
                "index": choice.get("index", 0),
                "text": _text(choice.get(part)),
                "logprobs": None,
                "finish_reason": choice.get("finish_reason"),
            }
            for choice in said
        ]
        return {**document, "object": "text_completion", "choices": choices}


def _text(part: dict[str, Any] | None) -> str:
    return (part or {}).get("content") or ""
