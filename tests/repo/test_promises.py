"""The page of promises says what the report says, and nothing else."""

from pathlib import Path

from tests.repo.promises import Row, page, rows

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_one_thing_is_lost[7]"><properties>
 <property name="promise" value="nobody notices"/><property name="measured" value="0 failed"/></properties></testcase>
<testcase classname="tests.a" name="test_another_is_late[1]"><properties>
 <property name="promise" value="it waits"/></properties></testcase>
<testcase classname="tests.a" name="test_another_is_late[2]"><properties>
 <property name="promise" value="it waits"/></properties><failure message="no"/></testcase>
<testcase classname="tests.a" name="test_it_is_not_there"><properties>
 <property name="promise" value="it is skipped"/></properties><skipped message="no"/></testcase>
<testcase classname="tests.a" name="test_something_else"/>
</testsuite></testsuites>"""


def test_each_promise_is_a_row_with_what_was_measured_and_its_result(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)

    assert list(rows(report)) == [
        Row("one thing is lost (7)", "nobody notices", "0 failed", "held"),
        Row("another is late", "it waits", "", "held"),
        Row("another is late (2)", "it waits", "", "**FAILED**"),
        Row("it is not there", "it is skipped", "", "not run"),
    ]
    assert "| one thing is lost (7) | nobody notices | 0 failed | held |" in page(report)
