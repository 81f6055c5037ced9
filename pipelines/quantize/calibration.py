"""The texts that show a quantizer what a model's activations look like: read, tokenized, cut into windows."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.quantize.recipes import GptqRecipe
from registry.errors import RecipeInvalid

_MIN_TEXTS = 2


def read_texts(file: Path) -> tuple[str, ...]:
    """The texts of a JSON Lines file, the field `text` of each line.

    Raises:
        RecipeInvalid: the file is not there, or a line has no text.
    """
    texts: list[str] = []
    try:
        # Line by line, not splitlines(): that also cuts at characters which JSON may hold as they are.
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                texts.append(str(json.loads(line)["text"]))  # noqa: PERF401 - the count names a bad line
    except OSError as error:
        message = (
            f"The calibration texts {file} cannot be read ({error.strerror}). "
            "Make some with `python -m pipelines.datasets`."
        )
        raise RecipeInvalid(message) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f'Line {len(texts) + 1} of {file} is not {{"text": ...}} ({error}).'
        raise RecipeInvalid(message) from error
    return tuple(texts)


def cut_windows(
    tokenizer: Any, texts: Sequence[str], recipe: GptqRecipe
) -> list[dict[str, list[list[int]]]]:
    """`recipe.samples` windows of exactly `recipe.sequence_length` tokens, picked by the recipe's seed.

    Each is `{"input_ids": (1, T), "attention_mask": (1, T)}`, as lists.

    Raises:
        RecipeInvalid: the texts do not hold that many tokens, or are all the same.
    """
    if len({text for text in texts if text.strip()}) < _MIN_TEXTS:
        message = (
            "The calibration set is one text only, which would show the quantizer one subject. Give several, each on a line "
            "of its own; cut a long one into pieces."
        )
        raise RecipeInvalid(message)
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    length = recipe.sequence_length
    windows = [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
    if len(windows) < recipe.samples:
        message = (
            f"The calibration texts hold {len(ids)} tokens, but {recipe.samples} windows of {length} need "
            f"{recipe.samples * length}. Give more text, or lower samples or sequence_length in the recipe."
        )
        raise RecipeInvalid(message)
    picked = random.Random(recipe.seed).sample(windows, recipe.samples)  # noqa: S311 - to be repeatable
    return [{"input_ids": [w], "attention_mask": [[1] * length]} for w in picked]
