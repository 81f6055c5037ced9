"""docs/promises.md, from what the runs of the fault suites measured: `python -m tests.repo.promises REPORT…`.

A report is pytest's JUnit XML. A test that bears the mark `promise` is a row: what happens is its name, what is promised the
mark's words, what was measured its property `measured`; `about` chooses its heading. `make test-faults` runs them all and
writes the page.
"""

import os
import platform
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

PAGE = Path(__file__).parents[2] / "docs" / "promises.md"
_TOP = """# Promises, and what became of them

Written by `make test-faults` from its last whole run: {at}, {cores} cores, Python {python}. Each row is a test that breaks
something on purpose: {held} of {rows} held. What always holds besides is in [invariants](invariants.md), what attackers try
in the attack suite.
"""
_TABLE = """
## {heading}

| What happens | What is promised | What was measured | |
|---|---|---|---|
"""
_HEADINGS = {
    "anything": "Anything, at random and in any order",
    "kills": "A process of ours is killed, wherever it is",
    "parts": "A part is away, hangs, is slow, or answers errors and nonsense",
    "controllers": "Two controllers",
    "hints": "Hints are lost, late, repeated or lies",
    "clocks": "Clocks jump",
    "disks": "Disks are full",
    "bytes": "Bytes and requests are broken",
}
"""By what the mark says that it is about, in the order of the page."""
_FAILED = "**FAILED**"


class Row(NamedTuple):
    """One test, or one case of a test that measures each of its cases."""

    what: str
    promise: str
    measured: str
    result: str


def rows(report: Path) -> Iterator[tuple[str, Row]]:
    """With what each is about, by module; only of tests that promise something. Cases of which nothing was measured are one row."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    # Several workers end theirs in any order.
    cases = sorted(
        ET.parse(report).getroot().iter("testcase"), key=lambda one: one.get("classname", "")
    )
    for case in cases:
        told = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        if "promise" not in told:
            continue
        name, _, parameters = case.get("name", "").partition("[")
        what = _sentence(case.get("classname", "") if name in {"runTest", "test"} else name)
        result = _result(case)
        if parameters and (told.get("measured") or result == _FAILED):
            what += f" ({parameters.removesuffix(']')})"
        same = found.setdefault((told["about"], what, told["promise"]), [])
        same.append((told.get("measured", ""), result))
    for (about, what, promise), ended in found.items():
        result = " and ".join(sorted({result for _, result in ended}))
        measured = ended[0][0] or (f"{len(ended)} cases" if len(ended) > 1 else "")
        yield about, Row(what, promise, measured, result)


def _sentence(name: str) -> str:
    return name.rpartition(".")[2].removeprefix("test_").replace("_", " ")


def _result(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return _FAILED
    return "held" if case.find("skipped") is None else "not run"


def page(reports: Iterable[Path]) -> str:
    """The whole page, in Markdown.

    Raises:
        KeyError: a mark is about what has no heading.
    """
    tables: dict[str, list[Row]] = {about: [] for about in _HEADINGS}
    for about, row in chain.from_iterable(rows(report) for report in reports):
        tables[about].append(row)
    every = [row for table in tables.values() for row in table]
    top = _TOP.format(
        at=f"{datetime.now(UTC):%Y-%m-%d}",
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        held=sum(row.result == "held" for row in every),
        rows=len(every),
    )
    return top + "".join(
        _TABLE.format(heading=_HEADINGS[about])
        + "".join(f"| {' | '.join(row)} |\n" for row in table)
        for about, table in tables.items()
        if table
    )


if __name__ == "__main__":
    PAGE.write_text(page([Path(word) for word in sys.argv[1:]]))
