"""What is trained on: JSON Lines of chats or texts, read strictly, divided once, and cut into sequences of tokens.

A chat is `{"messages": [{"role": ..., "content": ...}, ...]}`, and only what the assistant says in it is learned; a text
is `{"text": ...}`, and all of it is.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from registry.errors import BadInput

IGNORED = -100
"""The label of a token that is read and not learned; torch's own convention."""


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class Example(BaseModel):
    """One line: a chat or a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[Message, ...] = ()
    text: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Example":
        if bool(self.messages) == bool(self.text.strip()):
            message = "it needs either messages or a text that is not empty"
            raise ValueError(message)
        if self.messages and all(one.role != "assistant" for one in self.messages):
            message = "no message is the assistant's, so there is nothing to learn"
            raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of one example; `labels` are the same, or IGNORED."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def read_content(file: Path) -> bytes:
    """What is in `file`: read once, so that its digest is that of the examples, whoever goes on writing there.

    Raises:
        BadInput: it is not there, or cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        message = (
            f"The training data {file} cannot be read ({error.strerror}). Give a JSON Lines file."
        )
        raise BadInput(message) from error


def parse_examples(content: bytes, *, where: str) -> tuple[Example, ...]:
    """The examples in `content`, each only once, in its order; `where` is what the user calls it.

    Raises:
        BadInput: it is not UTF-8, has a line that is no example, or fewer than two examples.
    """
    found: dict[Example, None] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found[Example.model_validate_json(line.decode("utf-8"))] = None
        except UnicodeDecodeError as error:
            message = f"Line {number} of {where} is not UTF-8 (byte {error.start + 1} of the line). Convert the file."
            raise BadInput(message) from error
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in fault["loc"])
            why = f"{place}: {fault['msg']}" if place else fault["msg"]
            message = (
                f'Line {number} of {where} is neither {{"messages": [{{"role": ..., "content": ...}}, ...]}} '
                f'nor {{"text": ...}} ({why}).'
            )
            raise BadInput(message) from error
    if len(found) < 2:  # noqa: PLR2004 - one to train on, one to measure by
        message = (
            f"{where} holds {len(found) or 'no'} example{'s' * (len(found) != 1)}, each counted once. At least two are "
            "needed: one to train on, and one that is held out to measure by."
        )
        raise BadInput(message)
    return tuple(found)


def divide(
    examples: Sequence[Example], *, holdout_percent: int, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples to train on and those held out, at least one of each; at least two are given.

    No example is in both, for `parse_examples` gives each once.
    """
    order = list(examples)
    random.Random(seed).shuffle(order)  # noqa: S311 - to be repeatable
    count = min(max(1, round(len(order) * holdout_percent / 100)), len(order) - 1)
    return tuple(order[count:]), tuple(order[:count])


def tokenize(tokenizer: Any, examples: Sequence[Example], *, length: int) -> list[Tokens]:
    """Sequences of at most `length` tokens, at least two, each with something to learn.

    A text makes as many as it needs; of a chat the beginning is kept, and none where the assistant does not come to word in it.

    Raises:
        BadInput: a chat cannot be told by the model's chat template.
    """
    made: list[Tokens] = []
    for example in examples:
        if example.messages:
            made.append(_chat(tokenizer, example, length))
        else:
            ids = tokenizer(example.text, add_special_tokens=False)["input_ids"]
            ids += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            pieces = [tuple(ids[at : at + length]) for at in range(0, len(ids), length)]
            made += [Tokens(ids=piece, labels=piece) for piece in pieces]
    return [one for one in made if any(label != IGNORED for label in one.labels[1:])]


def _chat(tokenizer: Any, example: Example, length: int) -> Tokens:
    """The rendered chat, labelled where the assistant speaks: found by rendering it up to and with each such turn."""
    turns = [{"role": one.role, "content": one.content} for one in example.messages]
    whole = _render(tokenizer, turns)
    spans: list[tuple[int, int]] = []
    for at, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = _render(tokenizer, turns[:at], add_generation_prompt=True)
        after = _render(tokenizer, turns[: at + 1])
        if not (after.startswith(before) and whole.startswith(after)):
            message = (
                f"The model's chat template rewrites earlier turns of a chat of {len(turns)}, so what the assistant says "
                "cannot be found in it. Give one answer a chat, or texts."
            )
            raise BadInput(message)
        spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"][:length]
    labels = [
        token if any(start <= first and last <= end for start, end in spans) else IGNORED
        for token, (first, last) in zip(ids, encoded["offset_mapping"], strict=False)
    ]
    return Tokens(ids=tuple(ids), labels=tuple(labels))


def _render(tokenizer: Any, turns: list[dict[str, str]], **options: Any) -> str:
    from jinja2 import TemplateError

    if not turns and not options:
        return ""
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except (TemplateError, ValueError, IndexError, TypeError) as error:
        message = f"The model's chat template cannot tell a chat of the training data ({error}). Change its roles or their order."
        raise BadInput(message) from error
