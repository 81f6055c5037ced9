"""The schedule file: every fault is named with its place, and nothing is taken that Kubernetes would read otherwise."""

from pathlib import Path

import pytest

from pipelines.schedule.declared import check_entry_points, parse_schedules
from registry.errors import BadInput

PROJECT = (Path(__file__).parents[3] / "MLproject").read_text()


def parse(**changes):
    given = {"name": "nightly", "cron": "0 3 * * *", "entry_point": "release", **changes}
    fields = "".join(f"  {key}: {value}\n" for key, value in given.items())
    return parse_schedules(f"schedules:\n- {fields.lstrip()}", where="s.yaml")


def test_what_is_not_said_has_a_sensible_value() -> None:
    [schedule] = parse()
    assert (schedule.time_zone, schedule.overlap, schedule.enabled) == ("UTC", "forbid", True)


def test_a_run_is_told_its_entry_point_and_its_parameters() -> None:
    [schedule] = parse(parameters="{name: chat, fresh: true, max_perplexity_ratio: 1.2}")
    assert schedule.words() == (
        "-e", "release", "-P", "name=chat", "-P", "fresh=true", "-P", "max_perplexity_ratio=1.2",
    )  # fmt: skip


@pytest.mark.parametrize(
    "cron",
    ["* * * * *", "*/5 * * * *", "0 0-6/2 1,15 JAN-mar MON-FRI", "59 23 31 12 0", " 0  3 * *  * "],
)
def test_what_both_understand_is_taken(cron) -> None:
    [schedule] = parse(cron=f'"{cron}"')
    assert schedule.cron == " ".join(cron.split())


@pytest.mark.parametrize(
    "cron",
    [
        "", "@daily", "0 3 * *", "0 0 3 * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
        "* * * * 7", "* * * * FRI-MON", "5-1 * * * *", "*/0 * * * *", "*/60 * * * *", "5/15 * * * *",
        "L * * * *", "* * L * *", "* * ? * *", "* * * * MON#1", "H * * * *", "a * * * *", "1,,2 * * * *",
        "1-2-3 * * * *", "-1 * * * *", "* * * * * UTC", "TZ=UTC 0 3 * *", "\u0661 * * * *", "0 0 30 2 *",
    ],
)  # fmt: skip
def test_anything_else_is_refused(cron) -> None:
    with pytest.raises(BadInput, match=r"schedules\.0\.cron: "):
        parse(cron=f'"{cron}"')


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Nightly"}, r"schedules\.0\.name: 'Nightly' must be lower-case"),
        ({"name": "a" * 53}, "52 characters at most"),
        ({"name": "-a"}, "a letter or digit at both ends"),
        ({"time_zone": "Berlin"}, r"schedules\.0\.time_zone: there is no time zone 'Berlin'"),
        ({"time_zone": "../etc/passwd"}, "there is no time zone"),
        ({"time_zone": "Local"}, "there is no time zone"),
        ({"entry_point": "'; rm'"}, "is no entry point"),
        ({"overlap": "Forbid"}, r"schedules\.0\.overlap"),
        ({"starting_deadline_s": 5}, r"schedules\.0\.starting_deadline_s"),
        ({"enabled": "perhaps"}, r"schedules\.0\.enabled"),
        ({"parameters": "{'a b': 1}"}, "'a b' cannot name a parameter"),
        ({"parameters": "{a: [1]}"}, r"schedules\.0\.parameters\.a"),
        ({"corn": "x"}, r"schedules\.0\.corn: Extra inputs"),
        ({"resources": "{cpus: 0}"}, r"schedules\.0\.resources\.cpus"),
    ],
)
def test_a_fault_is_named_with_its_place(changes, says) -> None:
    with pytest.raises(BadInput, match=says):
        parse(**changes)


def test_of_very_many_faults_the_first_are_told_and_how_many_there_are() -> None:
    text = "a: &a {k: 1, l: 2}\nschedules: [" + ", ".join(["*a"] * 1000) + "]\n"
    with pytest.raises(BadInput, match="and 4952 more faults") as told:
        parse_schedules(text, where="s.yaml")
    assert len(str(told.value)) < 6000


@pytest.mark.parametrize("text", ["", "[]", "schedules: []", "schedules: {a: b}", "{"])
def test_a_file_without_schedules_is_refused(text) -> None:
    with pytest.raises(BadInput, match=r"s\.yaml"):
        parse_schedules(text, where="s.yaml")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BadInput, match=r"(?s)name: .*cron: "):
        parse(name="A", cron="x")


def test_a_name_stands_once() -> None:
    one = "- {name: a, cron: '* * * * *', entry_point: release}\n"
    with pytest.raises(BadInput, match="a is declared twice"):
        parse_schedules(f"schedules:\n{one}{one}", where="s.yaml")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entry_point": "rerelease"}, "nightly: there is no entry point 'rerelease'"),
        ({"parameters": "{nmae: x}"}, "nightly: release has no parameter nmae"),
        ({"parameters": "{name: x}"}, "nightly: release needs the parameter source"),
    ],
)
def test_what_the_project_could_not_run_is_refused(changes, says) -> None:
    with pytest.raises(BadInput, match=says):
        check_entry_points(parse(**changes), PROJECT, where="s.yaml")


@pytest.mark.parametrize(
    "project", ["[", "", "name: x", "entry_points: 3", "entry_points: {release: {parameters: 3}}"]
)
def test_an_mlproject_that_is_none_is_refused(project: str) -> None:
    with pytest.raises(BadInput, match="The MLproject"):
        check_entry_points(parse(), project, where="s.yaml")


def test_what_it_can_run_is_taken() -> None:
    check_entry_points(parse(parameters="{name: x, source: y}"), PROJECT, where="s.yaml")
