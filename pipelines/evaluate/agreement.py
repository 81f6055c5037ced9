"""How far a model's next-token distributions are from the unquantized base's, on fixed prompts.

The base's are written once, to a file that the work folder keeps, and each candidate is compared with them prompt by
prompt: two models are never in memory together, and never the logits of more than one prompt. Of each position the
file keeps the base's likeliest tokens and the mass of all others together, 8 kB rather than the 200 kB to 1 MB of a whole
vocabulary. Merging tokens can only lower a divergence; on SmolLM2 at 4 bits it takes 2 % off (0.386 for 0.394).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import BadInput, SourceInvalid

KEPT_TOKENS = 1024
MAX_PROMPT_TOKENS = 128


class OtherTokens(SourceInvalid):
    """The model cuts text into other tokens than the base, or knows fewer: nothing can be compared token by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of each prompt, the mean over its predicted tokens; tokens of one prompt are not independent, prompts are."""

    divergence: tuple[float, ...]
    """KL(base || model), nats per token."""
    top1: tuple[float, ...]
    """The share of positions where both like the same token best."""


def write_reference(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    file: Path,
    *,
    advance: Callable[[float], None],
) -> Agreement:
    """Writes what the base predicts after each token of each text, and its agreement with itself: 0 and 1.

    Raises:
        BadInput: a text has fewer than two tokens.
    """
    import safetensors.torch
    import torch

    tensors: dict[str, Any] = {}
    with torch.inference_mode():
        for number, text in enumerate(texts):
            ids = _ids(tokenizer, text)
            logs = _log_probabilities(model, ids)  # (T - 1, V)
            kept = logs.topk(
                min(KEPT_TOKENS, logs.shape[-1]), dim=-1
            )  # (T - 1, K), likeliest first
            tensors[f"{number}.ids"] = ids.to(torch.int32)
            tensors[f"{number}.tokens"] = kept.indices.to(torch.int32).cpu()
            tensors[f"{number}.logs"] = kept.values.cpu()
            advance(1)
    library: Any = safetensors.torch
    library.save_file(tensors, file)
    return Agreement(divergence=(0.0,) * len(texts), top1=(1.0,) * len(texts))


def measure_agreement(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    file: Path,
    *,
    advance: Callable[[float], None],
) -> Agreement:
    """How well `model` agrees with the base that wrote `file` for the same `texts`.

    Raises:
        OtherTokens: nothing can be compared.
    """
    import torch
    from safetensors import safe_open

    divergence: list[float] = []
    top1: list[float] = []
    opened: Any = safe_open(file, framework="pt")
    with torch.inference_mode(), opened as reference:
        for number, text in enumerate(texts):
            ids = _ids(tokenizer, text)
            if not torch.equal(reference.get_tensor(f"{number}.ids"), ids.to(torch.int32)):
                message = (
                    "The model's tokenizer cuts text into other tokens than its base's does, so that their predictions "
                    "cannot be compared. Give the base that this model was made from."
                )
                raise OtherTokens(message)
            logs = _log_probabilities(model, ids)  # (T - 1, V)
            tokens = reference.get_tensor(f"{number}.tokens").long().to(logs.device)  # (T - 1, K)
            if int(tokens.max()) >= logs.shape[-1]:
                message = f"The model knows {logs.shape[-1]} tokens, fewer than its base. Give the base that it was made from."
                raise OtherTokens(message)
            base = reference.get_tensor(f"{number}.logs").to(logs.device)
            divergence.append(float(_divergence(base, logs.gather(-1, tokens)).mean()))
            top1.append(float((logs.argmax(-1) == tokens[:, 0]).double().mean()))
            advance(1)
    return Agreement(divergence=tuple(divergence), top1=tuple(top1))


def _divergence(base: Any, model: Any) -> Any:
    """KL(base || model) at each position, from the logarithms of the kept tokens' probabilities; the rest is one token."""
    base, model = base.double(), model.double()
    rest_of_base, rest = (
        (1 - logs.exp().sum(-1)).clamp_min(1e-12) for logs in (base, model)
    )  # (T - 1)
    kept = (base.exp() * (base - model)).sum(-1)
    return kept + rest_of_base * (rest_of_base / rest).log()


def _ids(tokenizer: Any, text: str) -> Any:
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    if len(ids) < 2:  # noqa: PLR2004 - the first is given, and one is predicted
        message = f"A prompt has {len(ids)} tokens, and needs two: {text[:80]!r}."
        raise BadInput(message)
    return ids[:MAX_PROMPT_TOKENS]  # (T)


def _log_probabilities(model: Any, ids: Any) -> Any:
    """After each token but the last, the logarithm of each next token's probability: (T - 1, V), float32."""
    logits = model(input_ids=ids[None].to(model.device)).logits[0, :-1]
    return logits.float().log_softmax(-1)
