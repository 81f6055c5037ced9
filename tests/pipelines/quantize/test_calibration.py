"""Calibration windows: whole, of the right length, and the same every time."""

import json

import pytest

from pipelines.quantize.calibration import cut_windows, read_texts
from pipelines.quantize.recipes import GptqRecipe, Method
from registry.errors import RecipeInvalid


def letters(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
    """A tokenizer with one token for each letter."""
    assert not add_special_tokens
    return {"input_ids": [ord(letter) for letter in text]}


def a_recipe(**values: int) -> GptqRecipe:
    return GptqRecipe(method=Method.GPTQ, **{"samples": 3, "sequence_length": 16, **values})


TEXTS = tuple(chr(97 + number) * 20 for number in range(10))


def test_windows_have_the_length_and_the_number_that_were_asked_for() -> None:
    windows = cut_windows(letters, TEXTS, a_recipe())
    assert len(windows) == 3
    for window in windows:
        assert len(window["input_ids"][0]) == 16
        assert window["attention_mask"] == [[1] * 16]


def test_no_window_is_picked_twice() -> None:
    windows = cut_windows(letters, TEXTS, a_recipe(samples=12))
    assert len({tuple(window["input_ids"][0]) for window in windows}) == 12


def test_the_seed_alone_decides_which_windows_are_picked() -> None:
    first = cut_windows(letters, TEXTS, a_recipe())
    assert first == cut_windows(letters, TEXTS, a_recipe())
    assert first != cut_windows(letters, TEXTS, a_recipe(seed=1))


def test_too_little_text_is_refused_with_what_is_needed() -> None:
    with pytest.raises(RecipeInvalid, match="200 tokens, but 13 windows of 16 need 208"):
        cut_windows(letters, TEXTS, a_recipe(samples=13))


@pytest.mark.parametrize("texts", [("a" * 500,), ("a" * 500, " "), ("a" * 500,) * 2, ()])
def test_a_set_of_one_text_is_refused_however_long_it_is(texts) -> None:
    with pytest.raises(RecipeInvalid, match="one text only"):
        cut_windows(letters, texts, a_recipe())


def test_texts_are_read_in_order_whatever_is_in_them(tmp_path) -> None:
    texts = ("one", "two\nlines", "dreißig \u2028 vier", "")
    file = tmp_path / "c.jsonl"
    file.write_text("".join(f"{json.dumps({'text': t}, ensure_ascii=False)}\n" for t in texts))
    assert read_texts(file) == texts


@pytest.mark.parametrize("line", ["{", "{}", "[]", "5", ""])
def test_a_bad_line_is_named_by_its_number(tmp_path, line) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(f'{{"text": "good"}}\n{line}\n{{"text": "good"}}\n')
    with pytest.raises(RecipeInvalid, match="Line 2 of"):
        read_texts(file)


def test_a_file_that_is_not_there_is_refused_with_a_way_out(tmp_path) -> None:
    with pytest.raises(RecipeInvalid, match=r"Make some with `python -m pipelines.datasets"):
        read_texts(tmp_path / "none.jsonl")
