"""Margins from a file: what it leaves out is the default, and what cannot be is told."""

from pathlib import Path

import pytest

from pipelines.evaluate.margins import read_margins
from registry.errors import BadInput
from registry.gate import Margins
from tests.repo.reference import ROOT


def test_without_a_file_and_for_what_it_leaves_out_the_defaults_hold(tmp_path: Path) -> None:
    file = tmp_path / "margins.yaml"
    file.write_text("perplexity_ratio: 1.1")
    assert read_margins("") == Margins()
    assert read_margins(str(file)) == Margins(perplexity_ratio=1.1)


def test_the_example_names_every_margin() -> None:
    margins = read_margins(str(ROOT / "examples" / "margins.yaml"))
    assert margins.perplexity_ratio == 1.1
    assert all(getattr(margins, name) != getattr(Margins(), name) for name in Margins.__slots__)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("perplexity_ratio: 0.9", "perplexity_ratio: Input should be greater than or equal to 1"),
        ("golden_drop: 2", "golden_drop: Input should be less than or equal to 1"),
        ("divergence: .nan", "divergence: Input should be a finite number"),
        ("perplexity: 2", "perplexity: Unexpected keyword argument"),
        ("- 1", "cannot be used"),
        ("{", "is not YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "margins.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"See examples/margins\.yaml") as refused:
        read_margins(str(file))
    assert says in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "margins.yaml"
    with pytest.raises(BadInput, match="cannot be read"):
        read_margins(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="cannot be read"):
        read_margins(str(file))
