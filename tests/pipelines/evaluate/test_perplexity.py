"""Perplexity, window by window."""

import pytest
import torch

from pipelines.evaluate.perplexity import MAX_WINDOWS, WINDOW_TOKENS, measure_perplexity
from registry.errors import BadInput

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def loaded(tiny_model):
    from pipelines.loading import load_model, load_tokenizer

    return load_model(tiny_model, dtype=torch.float32).eval(), load_tokenizer(tiny_model)


def measured(loaded, text: str) -> tuple[float, ...]:
    return measure_perplexity(*loaded, text, on_window=lambda _: None)


def test_a_window_costs_the_mean_of_what_its_tokens_cost(loaded) -> None:
    model, tokenizer = loaded
    text = "".join(chr(97 + number * number % 26) for number in range(3 * WINDOW_TOKENS))
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    [*losses] = measured(loaded, text)
    assert len(losses) == len(ids) // WINDOW_TOKENS
    window = ids[WINDOW_TOKENS : 2 * WINDOW_TOKENS]
    with torch.inference_mode():
        logits = model(window[None]).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, window[1:])
    assert losses[1] == pytest.approx(float(expected), rel=1e-5)


def test_a_long_text_is_measured_up_to_a_bound_and_each_window_is_told(loaded) -> None:
    told: list[float] = []
    text = "0123456789" * WINDOW_TOKENS * 2
    losses = measure_perplexity(*loaded, text, on_window=told.append)
    assert len(losses) == MAX_WINDOWS
    assert told == [1] * MAX_WINDOWS


def test_a_text_shorter_than_a_window_is_refused(loaded) -> None:
    with pytest.raises(BadInput, match=f"one window has {WINDOW_TOKENS}"):
        measured(loaded, "short")
