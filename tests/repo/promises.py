"""docs/promises.md, from what a run of the fault suites measured: `python -m tests.repo.promises REPORT`.

REPORT is pytest's JUnit XML. A test that bears the mark `promise` is a row: what happens is its name, what is promised the
mark's words, what was measured its property `measured`. `make test-faults` runs them all and writes the page.
"""

import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

PAGE = Path(__file__).parents[2] / "docs" / "promises.md"
_TOP = """# Promises, and what became of them

Written by `make test-faults` from its last whole run: {at}, {cores} cores, Python {python}. Each row is a test that breaks
something on purpose. What always holds besides is in [invariants](invariants.md), what attackers try in the attack suite.

| What happens | What is promised | What was measured | |
|---|---|---|---|
"""
_FAILED = "**FAILED**"


class Row(NamedTuple):
    """One test, or one case of a test that measures each of its cases."""

    what: str
    promise: str
    measured: str
    result: str


def rows(report: Path) -> Iterator[Row]:
    """In the order of the run; only of tests that promise something. Cases of which nothing was measured are one row."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        told = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        if "promise" not in told:
            continue
        name, _, parameters = case.get("name", "").partition("[")
        what = _sentence(case.get("classname", "") if name in {"runTest", "test"} else name)
        result = _result(case)
        if parameters and (told.get("measured") or result == _FAILED):
            what += f" ({parameters.removesuffix(']')})"
        cases = found.setdefault((what, told["promise"]), [])
        cases.append((told.get("measured", ""), result))
    for (what, promise), cases in found.items():
        results = {result for _, result in cases}
        result = " and ".join(sorted(results))
        measured = cases[0][0] or (f"{len(cases)} cases" if len(cases) > 1 else "")
        yield Row(what, promise, measured, result)


def _sentence(name: str) -> str:
    return name.rpartition(".")[2].removeprefix("test_").replace("_", " ")


def _result(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return _FAILED
    return "held" if case.find("skipped") is None else "not run"


def page(report: Path) -> str:
    """The whole page, in Markdown."""
    at, cores = f"{datetime.now(UTC):%Y-%m-%d}", len(os.sched_getaffinity(0))
    top = _TOP.format(at=at, cores=cores, python=platform.python_version())
    return top + "".join(f"| {' | '.join(row)} |\n" for row in rows(report))


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1])))
