"""What a model answers to the golden prompts, greedily, and what the answers are worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluate.prompts import Question, repeated_share

MAX_ANSWER_TOKENS = 16
MAX_JSON_TOKENS = 32
"""Enough for a fact in a sentence, and for an object like the example's."""
_BATCH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One number between 0 and 1 for each question, in order."""

    golden: tuple[float, ...]
    """Whether the answer holds what was expected."""
    form: tuple[float, ...]
    """Whether the JSON that was asked for came."""
    repetition: tuple[float, ...]
    """Of each answer, the share of runs of three tokens that it says again."""


def measure_answers(
    model: Any, tokenizer: Any, questions: Sequence[Question], *, advance: Callable[[float], None]
) -> Answers:
    """The worth of the model's answers, which are short; questions of like length are asked together."""
    order = sorted(
        range(len(questions)), key=lambda at: (questions[at].is_format, len(questions[at].question))
    )
    given: dict[int, list[int]] = {}
    for is_format, limit in ((False, MAX_ANSWER_TOKENS), (True, MAX_JSON_TOKENS)):
        wanted = [at for at in order if questions[at].is_format is is_format]
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            asked = [questions[at].question for at in batch]
            given |= zip(batch, _generate(model, tokenizer, asked, limit), strict=True)
            advance(len(batch))
    golden: list[float] = []
    form: list[float] = []
    for at, question in enumerate(questions):
        text = tokenizer.decode(given[at], skip_special_tokens=True)
        (form if question.is_format else golden).append(float(question.is_answered_by(text)))
    repetition = tuple(repeated_share(given[at]) for at in range(len(questions)))
    return Answers(golden=tuple(golden), form=tuple(form), repetition=repetition)


def _generate(model: Any, tokenizer: Any, questions: Sequence[str], limit: int) -> list[list[int]]:
    """The tokens of each answer, up to its end or `limit`."""
    import torch

    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    asked = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    ).to(model.device)
    with torch.inference_mode():
        answered = model.generate(
            **asked,
            max_new_tokens=limit,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )[:, asked["input_ids"].shape[1] :]
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    answers: list[list[int]] = []
    for row in answered.tolist():
        end = next((at for at, token in enumerate(row) if token in ends), len(row))
        answers.append(row[:end])
    return answers
