"""One model loaded once and measured in every way; on the CPU in float32, which every CPU is fast at."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.datasets import DataFolder
from pipelines.evaluate.agreement import Agreement, OtherTokens, measure_agreement, write_reference
from pipelines.evaluate.answers import measure_answers
from pipelines.evaluate.perplexity import MAX_WINDOWS, WINDOW_TOKENS, measure_perplexity
from pipelines.evaluate.prompts import Prompts
from pipelines.evaluate.speed import Performance, forget_peak, measure_speed
from pipelines.evaluate.tasks import Task, measure_tasks
from pipelines.finite import check_numbers
from pipelines.loading import has_gpu, load_model, load_tokenizer
from pipelines.progress import Announcer, hushed_library
from registry.errors import SourceInvalid
from registry.scorecard import Kind, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What a model is measured with."""

    data: DataFolder
    tasks: tuple[Task, ...]
    prompts: Prompts


def measure(  # noqa: PLR0913 - each is a fact of the model or its base
    folder: Path,
    measures: Measures,
    announcer: Announcer,
    *,
    who: str,
    reference: Path,
    is_base: bool,
    is_of_base: bool = True,
) -> tuple[dict[str, Score], Performance]:
    """Every score of the model in `folder`, and its speed here.

    `reference` holds the base's predictions; a model that is the base writes it. One that is not of it may cut text into
    other tokens: then neither its agreement nor its perplexity, which is per token, can be compared, and both are left out.

    Raises:
        BadInput: texts or prompts cannot be used.
        SourceInvalid: the model contradicts itself, or its base.
        StageFailed: it cannot be loaded or run.
    """
    prompts = measures.prompts
    steps = MAX_WINDOWS + len(prompts.texts) + len(prompts.golden) + 1
    with (
        hushed_library(f"{folder} could not be measured"),
        announcer.bar(f"measuring {who}", total=steps) as advance,
    ):
        forget_peak()
        loaded, tokenizer = load(folder)
        ticks = [time.perf_counter()]

        def on_window(amount: float) -> None:
            ticks.append(time.perf_counter())
            advance(amount)

        text = measures.data.perplexity.read_text(encoding="utf-8")
        losses = measure_perplexity(loaded, tokenizer, text, on_window=on_window)
        agree = write_reference if is_base else measure_agreement
        try:
            agreement = agree(loaded, tokenizer, prompts.texts, reference, advance=advance)
        except OtherTokens:
            if is_of_base:
                raise
            losses, agreement = (), Agreement(divergence=(), top1=())
        answers = measure_answers(loaded, tokenizer, prompts.golden, advance=advance)
        tasks = measure_tasks(loaded, tokenizer, measures.tasks)
        window_s = [after - before for before, after in itertools.pairwise(ticks)]
        performance = measure_speed(
            loaded, tokenizer, folder=folder, window_s=window_s, window_tokens=WINDOW_TOKENS
        )
        advance(1)
    samples = {
        "perplexity": (Kind.PERPLEXITY, losses),
        "divergence": (Kind.DIVERGENCE, agreement.divergence),
        "top1_agreement": (Kind.AGREEMENT, agreement.top1),
        "golden": (Kind.GOLDEN, answers.golden),
        "format": (Kind.FORMAT, answers.form),
        "repetition": (Kind.REPETITION, answers.repetition),
        **{task: (Kind.ACCURACY, rows) for task, rows in tasks.items()},
    }
    scores = {
        name: Score.of(kind, measured) for name, (kind, measured) in samples.items() if measured
    }
    return scores, performance


def load(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer, which fit each other, and whose weights are all numbers.

    Raises:
        SourceInvalid: they do not fit, or some are not.
    """
    import torch

    check_numbers(folder, where=str(folder))
    tokenizer = load_tokenizer(folder)
    model = load_model(
        folder,
        dtype="auto" if has_gpu() else torch.float32,
        device_map="cuda:0" if has_gpu() else "cpu",
    ).eval()
    rows = int(model.get_input_embeddings().weight.shape[0])
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        message = (
            f"The tokenizer in {folder} knows tokens up to {highest}, and the model has embeddings for {rows}: they do not "
            "belong together. Give the tokenizer that the model was trained with."
        )
        raise SourceInvalid(message)
    return model, tokenizer
