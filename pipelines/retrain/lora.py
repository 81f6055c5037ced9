"""LoRA by peft: an adapter is trained on the base in float32, merged, and written as a checkpoint of the base's own type.

Every step depends on the step's number, the recipe and the weights alone, so that a run which died goes on from its last
saved step and ends with the same bytes. What is saved are safetensors: torch's own way would be a pickle.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoint import read_config
from pipelines.loading import has_gpu, load_model
from pipelines.retrain.examples import Tokens
from pipelines.retrain.recipe import AdapterRecipe
from registry.errors import StageFailed

_SAVE_EVERY = 20
"""Steps. Half a minute of a small model on a CPU, and the adapter is small."""
_WARM_UP = 0.05
_MAX_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What came of it: nats per learned token of the held-out examples, and each step's loss."""

    holdout_before: float
    holdout_after: float
    """Of the checkpoint as written, rounded to the base's own type."""
    losses: tuple[float, ...]
    trained_parameters: int


def fit(  # noqa: PLR0913 - one call a stage
    base: Path,
    out: Path,
    *,
    train: Sequence[Tokens],
    holdout: Sequence[Tokens],
    recipe: AdapterRecipe,
    saved: Path,
    on_step: Callable[[int, float], None],
) -> Fit:
    """Writes `out/model` (merged) and `out/adapter`; goes on from the file `saved` where there is one.

    `on_step` is told the number and the loss of each step, those that were made earlier included.

    Raises:
        StageFailed: the loss is no number any more.
    """
    import peft
    import torch

    device = "cuda:0" if has_gpu() else "cpu"
    model = load_model(base, dtype=torch.float32, device_map=device)
    before = _mean_loss(model, holdout)
    _seed(recipe.seed)
    library: Any = peft
    config = library.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        task_type="CAUSAL_LM",
    )
    adapted = library.get_peft_model(model, config)
    training = _Training(adapted, recipe, saved)
    losses = training.run(train, on_step)
    adapted.eval()
    # Where it was trained is nobody's business, and the same inputs are to give the same bytes.
    adapted.peft_config["default"].base_model_name_or_path = ""
    adapted.save_pretrained(out / "adapter", save_embedding_layers=False)
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    merged = adapted.merge_and_unload(safe_merge=True)
    merged.to(_type_of(base)).save_pretrained(out / "model")
    del merged, adapted, model
    after = _mean_loss(load_model(out / "model", dtype=torch.float32, device_map=device), holdout)
    saved.unlink(missing_ok=True)
    return Fit(
        holdout_before=before,
        holdout_after=after,
        losses=losses,
        trained_parameters=training.size,
    )


class _Training:
    """The adapter's weights, their optimizer, and both on disk."""

    def __init__(self, model: Any, recipe: AdapterRecipe, saved: Path) -> None:
        import torch

        self._model, self._recipe, self._saved = model, recipe, saved
        self._weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._optimizer: Any = torch.optim.AdamW(
            self._weights.values(), lr=recipe.learning_rate, weight_decay=0.0
        )
        self.size = sum(int(weight.numel()) for weight in self._weights.values())

    def run(
        self, train: Sequence[Tokens], on_step: Callable[[int, float], None]
    ) -> tuple[float, ...]:
        """All steps that are not made yet; the loss of each step ever made."""
        losses = self._load()
        for step, loss in enumerate(losses):
            on_step(step, loss)
        self._model.train()
        total = self._recipe.steps(len(train))
        for step, batch in enumerate(batches(len(train), self._recipe)):
            if step < len(losses):
                continue
            # For dropout: the same as if nothing had ever been interrupted.
            _seed(self._recipe.seed + step)
            loss = self._step([train[at] for at in batch], learning_rate(step, total, self._recipe))
            if not math.isfinite(loss):
                message = (
                    f"The loss is {loss} at step {step} of {total}. Lower learning_rate in the adapter's recipe "
                    f"({self._recipe.learning_rate:g}), or look for broken examples."
                )
                raise StageFailed(message)
            losses.append(loss)
            on_step(step, loss)
            if len(losses) % _SAVE_EVERY == 0 and len(losses) < total:
                self._save(losses)
        return tuple(losses)

    def _step(self, batch: Sequence[Tokens], rate: float) -> float:
        """One step of the optimizer; sequences pass one by one, so that memory is that of one."""
        import torch

        clip: Any = torch.nn.utils.clip_grad_norm_
        learned = sum(_learned(tokens) for tokens in batch)
        total = 0.0
        for tokens in batch:
            loss = _loss(self._model, tokens) / learned
            loss.backward()
            total += float(loss.detach())
        clip(self._weights.values(), _MAX_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    def _save(self, losses: Sequence[float]) -> None:
        from safetensors import torch as files

        tensors: dict[str, Any] = {}
        for name, weight in self._weights.items():
            state = self._optimizer.state[weight]
            tensors[f"weight {name}"] = weight.detach().cpu().contiguous()
            tensors |= {f"{m} {name}": state[m].cpu().contiguous() for m in _MOMENTS}
        self._saved.parent.mkdir(parents=True, exist_ok=True)
        partial = self._saved.with_suffix(".partial")
        library: Any = files
        library.save_file(tensors, partial, metadata={"losses": json.dumps(list(losses))})
        partial.replace(self._saved)

    def _load(self) -> list[float]:
        """The losses of the steps that are made, whose outcome is put in place; none where nothing was saved."""
        import torch
        from safetensors import SafetensorError, safe_open

        if not self._saved.is_file():
            return []
        try:
            opened: Any = safe_open(self._saved, framework="pt")
            with opened as file:
                losses = [float(loss) for loss in json.loads(file.metadata()["losses"])]
                for name, weight in self._weights.items():
                    weight.data.copy_(file.get_tensor(f"weight {name}"))
                    moments = {m: file.get_tensor(f"{m} {name}").to(weight) for m in _MOMENTS}
                    step = torch.tensor(float(len(losses)))
                    self._optimizer.state[weight] = {"step": step, **moments}
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            message = f"The saved training {self._saved} cannot be read ({error}). Delete it, and run again."
            raise StageFailed(message) from error
        return losses


def batches(examples: int, recipe: AdapterRecipe) -> Iterator[tuple[int, ...]]:
    """The examples of each step by their place: every one once an epoch, in an order that only the seed decides."""
    left = recipe.steps(examples)
    for epoch in range(recipe.epochs):
        order = list(range(examples))
        random.Random(f"{recipe.seed} {epoch}").shuffle(order)  # noqa: S311 - to be repeatable
        for at in range(0, examples, recipe.batch):
            if left == 0:
                return
            left -= 1
            yield tuple(order[at : at + recipe.batch])


def learning_rate(step: int, total: int, recipe: AdapterRecipe) -> float:
    """Of the step with that number, from 0: it rises to the recipe's, then falls, and is above zero throughout."""
    rising = max(1, round(total * _WARM_UP))
    if step < rising:
        return recipe.learning_rate * ((step + 1) / rising)
    return recipe.learning_rate * ((total - step) / (total - rising + 1))


def _seed(number: int) -> None:
    import torch

    library: Any = torch
    library.manual_seed(number)


def _learned(tokens: Tokens) -> int:
    """How many tokens are predicted and learned; the first has nothing before it."""
    return sum(label >= 0 for label in tokens.labels[1:])


def _loss(model: Any, tokens: Tokens) -> Any:
    """The sum of the negative log-likelihoods, in nats, of what is learned of one sequence."""
    import torch

    entropy: Any = torch.nn.functional.cross_entropy
    ids = torch.tensor([tokens.ids], device=model.device)  # (1, T)
    labels = torch.tensor(tokens.labels[1:], device=model.device)  # (T - 1,)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]  # (T - 1, V)
    return entropy(logits.float(), labels, reduction="sum")


def _mean_loss(model: Any, sequences: Sequence[Tokens]) -> float:
    import torch

    model.eval()
    with torch.inference_mode():
        total = sum(float(_loss(model, one)) for one in sequences)
    return total / sum(_learned(one) for one in sequences)


def _type_of(base: Path) -> Any:
    """The type of the base's weights, as its configuration says."""
    import torch

    config = read_config(base, where=str(base))
    found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return found if isinstance(found, torch.dtype) else torch.float32
