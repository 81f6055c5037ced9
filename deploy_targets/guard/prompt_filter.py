"""Rules on the messages of a chat. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy_targets.guard.filtering import Refusal, Rule, filter_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFiltered:
    """A chat behind the rules."""

    document: dict[str, Any]
    """The same object where nothing was changed."""
    found: Mapping[str, int]
    """Findings by their rule."""
    refusal: Refusal | None


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says. Parts are joined as the engines join them, so that no pattern hides between two."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def filter_prompt(rules: Sequence[Rule], document: dict[str, Any]) -> PromptFiltered:
    """A chat whose findings are replaced. A changed message of several parts becomes one of a single text."""
    found: Counter[str] = Counter()
    messages: list[dict[str, Any]] = []
    for message in document["messages"]:
        text = text_of(message)
        done = filter_text(rules, text)
        found.update(done.found)
        if done.refusal is not None:
            return PromptFiltered(document=document, found=found, refusal=done.refusal)
        messages.append(message if done.text == text else {**message, "content": done.text})
    is_same = all(a is b for a, b in zip(messages, document["messages"], strict=True))
    changed = document if is_same else {**document, "messages": messages}
    return PromptFiltered(document=changed, found=found, refusal=None)
