"""Of several checkpoints the smallest within the budget is kept, and each other one is told why not."""

import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.quantize.budget import Budget, Candidate, choose, effort, render_csv, render_table
from pipelines.quantize.recipes import parse_recipe
from pipelines.quantize.search import draw, is_search, read_candidates
from registry.errors import RecipeInvalid

BUDGET = Budget(max_quality_loss=0.02)


def one(name: str, size: int | None, loss: float | None, noise: float = 0.0, **more) -> Candidate:
    upper = None if loss is None else loss + noise
    return Candidate(name=name, recipe=name, size_bytes=size, loss=loss, loss_upper=upper, **more)


PLAIN, INT8, GPTQ = one("none", 270, 0.0), one("int8", 167, 0.01), one("gptq", 117, 0.2)


def test_the_smallest_that_loses_little_enough_is_kept() -> None:
    choice = choose([GPTQ, PLAIN, INT8], BUDGET)
    assert choice.kept == "int8"
    assert {row.candidate.name: row.verdict for row in choice.rows} == {
        "gptq": "may lose 20.0%, 2.0% allowed",
        "int8": "kept",
        "none": "within the budget, but larger",
    }


def test_a_loss_within_the_budget_by_luck_alone_is_not_within_it() -> None:
    assert choose([one("lucky", 1, 0.01, noise=0.02), PLAIN], BUDGET).kept == "none"


def test_a_limit_of_bytes_can_leave_nothing_and_says_why() -> None:
    choice = choose([GPTQ, PLAIN, INT8], Budget(max_quality_loss=0.02, max_bytes=120))
    assert choice.kept is None
    assert "167 bytes, 120 allowed" in render_table(choice)


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_what_was_not_measured_is_never_kept(loss) -> None:
    assert choose([one("x", 1, loss)], Budget(max_quality_loss=math.inf)).kept is None


def test_what_could_not_be_tried_stands_in_the_table_with_its_reason() -> None:
    choice = choose([one("nf4", None, None, not_tried="vllm cannot serve it"), PLAIN], BUDGET)
    assert choice.kept == "none"
    assert choice.rows[-1].verdict == "not tried: vllm cannot serve it"


def test_of_equal_sizes_the_better_is_kept() -> None:
    assert choose([one("a", 5, 0.02), one("b", 5, 0.01)], BUDGET).kept == "b"


def test_the_table_for_programs_holds_every_candidate() -> None:
    untried = one("nf4", None, None, not_tried="no, because")
    rows = list(csv.DictReader(render_csv(choose([GPTQ, PLAIN, untried], BUDGET)).splitlines()))
    assert [row["name"] for row in rows] == ["gptq", "none", "nf4"]
    assert rows[2]["loss"] == ""
    assert rows[0]["loss"] == "0.2"


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=6
    ),
    st.floats(0, 1),
    st.none() | st.integers(0, 9),
)
def test_nothing_smaller_within_the_budget_is_passed_over(found, loss, size) -> None:
    candidates = [one(str(n), s, value, noise) for n, (s, value, noise) in enumerate(found)]
    budget = Budget(max_quality_loss=loss, max_bytes=size)
    fitting = [
        c for c in candidates
        if c.loss_upper <= loss and (size is None or c.size_bytes <= size)
    ]  # fmt: skip
    kept = choose(candidates, budget).kept
    if kept is None:
        assert not fitting
    else:
        [chosen] = [c for c in candidates if c.name == kept]
        assert chosen in fitting
        assert chosen.size_bytes == min(c.size_bytes for c in fitting)


def test_recipes_are_tried_cheapest_first() -> None:
    assert [recipe.method.value for recipe in read_candidates("auto").values()] == [
        "none", "int8", "nf4", "gptq-optimum", "gptq",
    ]  # fmt: skip


def test_more_calibration_costs_more() -> None:
    less, more = (parse_recipe(f"{{method: gptq, samples: {n}}}", where="r") for n in (4, 8))
    assert effort(less) < effort(more)


def test_a_file_is_one_recipe_and_a_folder_is_several(tmp_path) -> None:
    file = tmp_path / "int8.yaml"
    file.write_text("method: int8")
    assert is_search("auto")
    assert is_search(str(tmp_path))
    assert not is_search(str(file))
    assert list(read_candidates(str(tmp_path))) == ["int8"]


def test_a_folder_without_recipes_is_refused(tmp_path) -> None:
    with pytest.raises(RecipeInvalid, match="no recipes"):
        read_candidates(str(tmp_path))


def test_the_picture_is_a_picture_even_of_nothing_kept() -> None:
    choice = choose([GPTQ, one("nf4", None, None, not_tried="no")], BUDGET)
    assert draw(choice, Budget(max_quality_loss=0.02, max_bytes=7)).startswith(b"\x89PNG")


def test_what_could_not_be_promoted_is_not_kept() -> None:
    choice = choose([one("small", 1, 0.0, refused="golden is worse"), one("big", 2, 0.0)], BUDGET)
    assert choice.kept == "big"
    assert choice.rows[0].verdict == "its gate failed: golden is worse"
