"""What the project says about itself is what its code does."""

import re

import pytest

from deploy_targets.endpoint import parse_endpoints
from tests.repo.reference import PACKAGES, ROOT, stale, unexplained

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)


def test_the_generated_documents_are_those_of_the_code() -> None:
    assert not stale(), "run `make docs` and commit the result"


def test_every_command_setting_and_field_is_explained() -> None:
    assert not unexplained()


def test_the_demo_endpoint_file_is_valid() -> None:
    file = ROOT / "endpoints.yaml"

    declared = parse_endpoints(file.read_text(), origin=file.name)

    assert [endpoint.name for endpoint in declared.endpoints] == ["chat"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_what_the_finder_names_is_there() -> None:
    finder = (
        (ROOT / "README.md").read_text().split("## Find it in ten seconds")[1].split("\n## ")[0]
    )
    paths = re.findall(
        r"`((?:deploy_targets|pipelines|registry|tests|docs|recipes)/[^`]*)`", finder
    )

    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_architecture_names_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \|", page.split("## Packages")[1], re.MULTILINE)
    packages = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for file in (ROOT / package).rglob("__init__.py")
    }

    assert sorted(rows) == sorted(packages)


@pytest.mark.parametrize("page", ["invariants.md", "threat-model.md", "triggers.md"])
def test_each_outcome_that_is_promised_names_its_test(page: str) -> None:
    """Rows of the tables with a column `test`; each test that is named is there."""
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", code))
    tables = [
        [row for row in table.splitlines() if row.startswith("|")]
        for table in (ROOT / "docs" / page).read_text().split("\n\n")
        if "| test |\n|---" in table
    ]
    rows = [row for table in tables for row in table[2:]]
    named = {row: re.findall(r"`(test_\w+)`", row) for row in rows}

    assert rows
    assert [row for row, tests in named.items() if not tests] == []
    assert {test for tests in named.values() for test in tests} - defined == set()
