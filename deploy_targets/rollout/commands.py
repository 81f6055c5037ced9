"""`shipway judge`, `simulate` and `plan-canary`: verdicts on files, without any server. Mounted by the CLI."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy_targets.command_line import AsJson
from registry.errors import BadInput

judging_app = typer.Typer()


@judging_app.command(
    epilog="Example: shipway judge --policy policy.yaml --observations obs.jsonl --json"
)
def judge(
    policy: Annotated[Path, typer.Option(help="The rules: YAML. See docs/guarantee.md.")],
    observations: Annotated[
        Path, typer.Option(help="Increments by version and interval: JSON lines; - reads stdin.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Give the verdict on recorded observations, by the code that judges a rollout. Needs no server."""
    from deploy_targets.rollout.judge_series import judge_series
    from deploy_targets.rollout.observations import parse_observations, parse_policy

    rules = parse_policy(_text(policy), origin=str(policy))
    lines = _text(observations).split("\n")
    series = parse_observations(lines, rules, origin=str(observations))
    for verdict in judge_series(series, rules):
        typer.echo(json.dumps(verdict.to_json()) if as_json else verdict.line())


@judging_app.command(
    epilog="Example: shipway simulate --scenario scenario.yaml --runs 2000 --seed 1 --json"
)
def simulate(
    scenario: Annotated[Path, typer.Option(help="Versions, traffic and policy: YAML.")],
    *,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rollouts to draw.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="The same one gives the same report.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Tell how a canary policy fares in a scenario: verdicts, requests, time, exposure. Needs no server."""
    from deploy_targets.rollout import simulate as simulation
    from deploy_targets.rollout.scenario import parse_scenario

    described = parse_scenario(_text(scenario), origin=str(scenario))
    report = simulation.simulate(described, runs=runs, seed=seed)
    typer.echo(json.dumps(report) if as_json else "\n".join(simulation.summary(report)))


@judging_app.command(
    epilog="Example: shipway plan-canary --scenario scenario.yaml --max-exposed 500"
)
def plan_canary(
    scenario: Annotated[Path, typer.Option(help="Versions, traffic and policy: YAML.")],
    *,
    max_exposed: Annotated[
        float | None, typer.Option(min=1, help="Requests that a worse challenger may get.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rollouts a share.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="The same one gives the same plan.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Tell which canary share finds a bad version soonest, and whether the policy can decide in its time."""
    from deploy_targets.rollout import canary_plan
    from deploy_targets.rollout.scenario import parse_scenario

    described = parse_scenario(_text(scenario), origin=str(scenario))
    plan = canary_plan.plan_canary(described, max_exposed=max_exposed, runs=runs, seed=seed)
    typer.echo(json.dumps(plan.to_json()) if as_json else "\n".join(plan.lines()))


def _text(file: Path) -> str:
    """What a file that the user names holds.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        # With a byte-order mark or without: a spreadsheet writes one.
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read ({error}). Name a readable file."
        raise BadInput(message) from error
