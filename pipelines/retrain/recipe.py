"""How a version is trained on: an adapter's recipe, and whether it can work for a given model. Pure.

With the same base, data and libraries, on the same kind of machine, a recipe gives the same bytes.
"""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.declared import parse_declared
from registry.errors import RecipeInvalid

_Layer = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class AdapterRecipe(BaseModel):
    """LoRA by peft."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["lora"]
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Columns of each low-rank matrix."""
    alpha: Annotated[float, Field(gt=0, le=10_000)] = 16
    """The adapter counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    targets: Annotated[tuple[_Layer, ...], Field(min_length=1)] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Last names of the linear layers that get an adapter."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """At its highest; it rises over the first twentieth of the steps and falls to zero."""
    epochs: Annotated[int, Field(ge=1, le=100)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """An end before that of the last epoch."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    """Sequences in a step. They pass one by one, so it costs no memory."""
    sequence_length: Annotated[int, Field(ge=16, le=32768)] = 256
    """Tokens at most; what memory is needed beyond the weights grows with it."""
    holdout_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Of the examples: never trained on, to measure by."""
    seed: Annotated[int, Field(ge=0)] = 0

    def __str__(self) -> str:
        return (
            f"lora, rank {self.rank}, alpha {self.alpha:g}, {self.epochs} x {self.sequence_length} tokens, "
            f"seed {self.seed}"
        )

    def steps(self, examples: int) -> int:
        """How many steps are made with that many examples."""
        whole = self.epochs * -(-examples // self.batch)
        return whole if self.max_steps is None else min(whole, self.max_steps)


def parse_adapter(text: str, *, where: str) -> AdapterRecipe:
    """The recipe that the YAML `text` spells; `where` is what the user calls it.

    Raises:
        RecipeInvalid: it is no YAML, or has an unknown word, a missing or an impossible value.
    """
    return parse_declared(
        text,
        AdapterRecipe.model_validate,
        what=f"The recipe {where}",
        see="recipes/adapters/ for examples",
        refused=RecipeInvalid,
    )


def check_targets(recipe: AdapterRecipe, layers: Collection[str], *, where: str) -> None:
    """Refuses a recipe with a target that no linear layer of the model has as its last name.

    Raises:
        RecipeInvalid: there is one.
    """
    known = {name.rpartition(".")[2] for name in layers}
    missing = [target for target in recipe.targets if target not in known]
    if missing:
        message = (
            f"The recipe's targets {', '.join(missing)} are no linear layers of {where}, which has "
            f"{', '.join(sorted(known)) or 'none'}. Name some of those."
        )
        raise RecipeInvalid(message)
