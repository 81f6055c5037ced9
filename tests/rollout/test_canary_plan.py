"""`shipway plan-canary`: the same policy at several shares, the best of them, and what a policy cannot do."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets.cli import app
from deploy_targets.rollout.canary_plan import CanaryPlan, plan_canary
from deploy_targets.rollout.scenario import Scenario
from registry.errors import BadInput


def a_plan(*, max_exposed: float | None = None, runs: int = 100, **changes: Any) -> CanaryPlan:
    values = {"challenger": {"errors": 0.05}, "policy": {"time_limit_s": 3600}, **changes}
    return plan_canary(Scenario.model_validate(values), max_exposed=max_exposed, runs=runs, seed=1)


def test_a_larger_share_finds_it_sooner_and_more_users_meet_it() -> None:
    plan = a_plan()
    small, large = plan.shares[2], plan.shares[-1]
    assert (small.share, large.share) == (5, 50)
    assert small.seconds is not None
    assert large.seconds is not None
    assert small.seconds > large.seconds
    assert small.exposed < large.exposed
    assert plan.best == 50
    assert plan.warnings == (
        "at 1, 2 % a good challenger is not promoted in time; let the steps rise beyond that",
    )


def test_an_exposure_limit_asks_for_a_smaller_share() -> None:
    free = a_plan()
    limit = free.shares[-1].exposed_p95 - 1
    limited = a_plan(max_exposed=limit)
    assert limited.best is not None
    assert limited.best < 50
    assert next(one for one in limited.shares if one.share == limited.best).exposed_p95 <= limit


def test_a_limit_that_no_share_can_keep_is_said() -> None:
    plan = a_plan(max_exposed=1)
    assert plan.best is None
    assert "lets more than 1 requests meet it" in plan.warnings[0]
    assert "no share will do" in "\n".join(plan.lines())


def test_a_policy_that_cannot_decide_in_its_time_is_warned_of() -> None:
    plan = a_plan(requests_per_s=0.1, challenger={"errors": 0.02})
    assert plan.best is None
    assert "does not find such a challenger within 3,600 s at any share" in plan.warnings[0]
    assert "does not promote a good challenger" in plan.warnings[1]


def test_shares_that_find_but_never_promote_are_named() -> None:
    plan = a_plan(policy={"time_limit_s": 1200}, challenger={"errors": 0.2})
    assert any("let the steps rise beyond that" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"champion": None, "policy": {"champion": None}}, "there is no share to plan"),
        ({"challenger": {"errors": 0.01}}, "Say how bad a version must be found"),
    ],
)
def test_there_must_be_something_to_plan(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        a_plan(**changes)


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("{challenger: {errors: 0.05}, policy: {time_limit_s: 3600}}")
    arguments = ["plan-canary", "--scenario", str(file), "--runs", "40"]
    assert "best share: 50 %" in CliRunner().invoke(app, arguments).stdout
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert told["best"] == 50
    assert [one["share"] for one in told["shares"]] == [1, 2, 5, 10, 25, 50]
