"""Two answers side by side."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.comparison import compare, likeness


@pytest.mark.parametrize(
    ("first", "other", "result"),
    [
        ("Paris.", " Paris.\n", "same"),
        ("", "", "same"),
        ("Paris is the capital.", "paris  is the capital", "similar"),
        ("It is Paris, the capital of France.", "It is Paris, capital of France.", "similar"),
        ("Paris", "Rome", "different"),
        ("Paris", "", "different"),
        ("", "Paris", "different"),
        ("ha " * 10, "ha " * 21, "different"),
        ("東京は日本の首都です。", "東京は日本の首都である。", "different"),
    ],
)
def test_answers_are_the_same_similar_or_different(first: str, other: str, result: str) -> None:
    assert compare(first, other, similar_from=0.8).result == result


@given(st.text(), st.text())
def test_likeness_is_symmetric_and_between_nothing_and_one(first: str, other: str) -> None:
    assert 0 <= likeness(first, other) <= 1
    assert likeness(first, other) == likeness(other, first)
    assert likeness(first, first) == 1


def test_likeness_of_the_longest_texts_takes_no_more_than_that_of_their_beginning() -> None:
    text = "".join(chr(97 + (at * 7) % 26) for at in range(1_000_000))
    started = time.thread_time()
    likeness(text, text[::-1])
    assert time.thread_time() - started < 0.2
