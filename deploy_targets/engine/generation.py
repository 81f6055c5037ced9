"""The model itself: load a verified artifact, and generate for a batch of rows at once, token by token.

One `generate` call of transformers serves the whole batch; each row has its own temperature, top-p, length and end.
Tokens are handed out as they come, so that streamed and whole answers share one path.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jinja2.exceptions import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from deploy_targets.engine.chat import BadRequest, ChatRequest
from registry.errors import SourceInvalid

_GREEDY_BELOW = 1e-5
"""A temperature under which logits divided by it leave the floating-point range; vLLM draws the line here, too."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One answer under way."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    tokens: list[int] = field(default_factory=list[int])
    """What was generated so far, without the end token."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set by whoever knows first that no more is wanted: the length, a stop string, a client that left."""

    @property
    def finish(self) -> str:
        """Why it ended, where no stop string did it: OpenAI's word."""
        return "length" if len(self.tokens) >= self.max_tokens else "stop"


class Generator:
    """A causal language model and its tokenizer."""

    def __init__(self, folder: Path, *, threads: int, max_context_tokens: int) -> None:
        """Loads from `folder` alone: safetensors only, no code from the artifact, nothing from the network.

        Raises:
            SourceInvalid: the artifact has no chat template.
        """
        torch.set_num_threads(threads)
        self._max_context_tokens = max_context_tokens
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        auto: Any = AutoTokenizer
        self._tokenizer: Any = auto.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
        if not self._tokenizer.chat_template:
            message = "The artifact has no chat template, so it cannot answer chats. Add one and run the pipeline again."
            raise SourceInvalid(message)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        model: Any = AutoModelForCausalLM
        self._model: Any = model.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            device_map=self._device,
        ).eval()
        ends: Any = self._model.generation_config.eos_token_id
        several = cast("list[int]", ends if isinstance(ends, list) else [ends])
        self._ends: frozenset[int] = frozenset({*several, self._tokenizer.eos_token_id} - {None})

    def row(self, request: ChatRequest) -> Row:
        """The request as tokens.

        Raises:
            BadRequest: prompt and answer do not fit into the context, or the chat template itself refuses the messages.
            TemplateError: the chat template is broken: the artifact's fault, not the client's.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                list(request.messages), tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            # A template says "no" by raise_exception, which is this very class; its subclasses are its own mistakes.
            if type(error) is TemplateError:
                message = f"The model's chat template refuses these messages: {error}"
                raise BadRequest(message, param="messages") from error
            raise
        prompt = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(prompt) + request.max_tokens > self._max_context_tokens:
            message = (
                f"The prompt has {len(prompt)} tokens and {request.max_tokens} more were asked for, but the context "
                f"is {self._max_context_tokens} tokens. Shorten the messages or lower max_tokens."
            )
            raise BadRequest(message, param="messages")
        return Row(
            prompt=prompt,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
        )

    def text(self, row: Row) -> str:
        """The answer so far; it may end in the replacement mark while a character is incomplete."""
        return self._tokenizer.decode(row.tokens, skip_special_tokens=True)

    def generate(self, rows: Sequence[Row], on_step: Callable[[], object]) -> None:
        """Fills `tokens` of every row and sets its `ended`; calls `on_step` after each token. Blocks; use a thread."""
        batch = self._tokenizer.pad(
            {"input_ids": [list(row.prompt) for row in rows]}, return_tensors="pt"
        )
        with torch.inference_mode():
            self._model.generate(
                **batch.to(self._device),
                max_new_tokens=max(row.max_tokens for row in rows),
                do_sample=True,
                # What the artifact's generation_config says of these would be applied once more to every row.
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                pad_token_id=self._tokenizer.pad_token_id,
                eos_token_id=sorted(self._ends),
                logits_processor=LogitsProcessorList([_RowSampling(rows)]),
                stopping_criteria=StoppingCriteriaList([_RowsEnded(rows)]),
                streamer=cast("Any", _Collector(rows, self._ends, on_step)),
            )
        for row in rows:
            row.ended.set()
        on_step()


class _RowSampling(LogitsProcessor):
    """Temperature and top-p of each row on logits (B, V); a greedy row keeps its best token only."""

    def __init__(self, rows: Sequence[Row]) -> None:
        temperature = torch.tensor([row.temperature for row in rows])[:, None]  # (B, 1)
        self._greedy = temperature < _GREEDY_BELOW
        self._temperature = temperature.masked_fill(self._greedy, 1.0)
        self._top_p = torch.tensor([row.top_p for row in rows])[:, None]
        self._all_greedy = bool(self._greedy.all())
        self._cuts = bool((self._top_p < 1).any())

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002 - as transformers calls it
        device = scores.device
        best = scores.argmax(dim=-1, keepdim=True)  # (B, 1)
        only_best = torch.full_like(scores, -torch.inf).scatter(1, best, 0.0)
        if self._all_greedy:
            return only_best
        warm = scores / self._temperature.to(device, scores.dtype)
        if self._cuts:
            ordered, order = warm.sort(descending=True, dim=-1)  # (B, V)
            before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
            cut = before >= self._top_p.to(device)
            warm = warm.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), -torch.inf)
        return torch.where(self._greedy.to(device), only_best, warm)


class _RowsEnded(StoppingCriteria):
    """Which rows want no more tokens, (B,)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._steps = 0

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - as transformers calls it
        self._steps += 1
        ended = [row.ended.is_set() or self._steps >= row.max_tokens for row in self._rows]
        return torch.tensor(ended, device=input_ids.device)


class _Collector(BaseStreamer):
    """Takes (B,) new tokens a step from transformers and gives each row its own."""

    def __init__(
        self, rows: Sequence[Row], ends: frozenset[int], on_step: Callable[[], object]
    ) -> None:
        self._rows = rows
        self._ends = ends
        self._on_step = on_step

    def put(self, value: Any) -> None:
        if value.ndim != 1:
            return  # the prompts, (B, T), come first
        for row, token in zip(self._rows, value.tolist(), strict=True):
            if row.ended.is_set():
                continue
            if token in self._ends:
                row.ended.set()
                continue
            row.tokens.append(token)
            if len(row.tokens) >= row.max_tokens:
                row.ended.set()
        self._on_step()

    def end(self) -> None:
        """Nothing is held back here."""
