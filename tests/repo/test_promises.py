"""The page of promises says what the reports say, and nothing else."""

from pathlib import Path

import pytest

from tests.repo.promises import Row, page, rows

REPORT = """<testsuites><testsuite>
<testcase classname="tests.b" name="test_one_thing_is_lost[7]"><properties>
 <property name="promise" value="nobody notices"/><property name="about" value="hints"/>
 <property name="measured" value="0 failed"/></properties></testcase>
<testcase classname="tests.a" name="test_another_is_late[1]"><properties>
 <property name="promise" value="it waits"/><property name="about" value="parts"/></properties></testcase>
<testcase classname="tests.b" name="test_it_is_not_there"><properties>
 <property name="promise" value="it is skipped"/><property name="about" value="parts"/></properties><skipped message="no"/></testcase>
<testcase classname="tests.a" name="test_another_is_late[2]"><properties>
 <property name="promise" value="it waits"/><property name="about" value="parts"/></properties><failure message="no"/></testcase>
<testcase classname="tests.b" name="test_something_else"/>
</testsuite></testsuites>"""
OTHER = """<testsuites><testsuite>
<testcase classname="tests.c" name="test_a_disk_is_full"><properties>
 <property name="promise" value="it goes on"/><property name="about" value="{about}"/></properties></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    return report


def test_each_promise_is_a_row_with_what_was_measured_and_its_result(report: Path) -> None:
    assert list(rows(report)) == [
        ("parts", Row("another is late", "it waits", "", "held")),
        ("parts", Row("another is late (2)", "it waits", "", "**FAILED**")),
        ("hints", Row("one thing is lost (7)", "nobody notices", "0 failed", "held")),
        ("parts", Row("it is not there", "it is skipped", "", "not run")),
    ]


def test_the_page_puts_the_rows_of_all_reports_under_what_they_are_about(
    report: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.xml"
    other.write_text(OTHER.format(about="disks"))

    said = page([report, other])

    assert "3 of 5 held" in said
    assert [
        line for line in said.splitlines() if line.startswith(("## ", "| one", "| a disk"))
    ] == [
        "## A part is away, hangs, is slow, or answers errors and nonsense",
        "## Hints are lost, late, repeated or lies",
        "| one thing is lost (7) | nobody notices | 0 failed | held |",
        "## Disks are full",
        "| a disk is full | it goes on |  | held |",
    ]


def test_what_a_promise_is_about_must_have_a_heading(tmp_path: Path) -> None:
    other = tmp_path / "other.xml"
    other.write_text(OTHER.format(about="weather"))
    with pytest.raises(KeyError, match="weather"):
        page([other])
