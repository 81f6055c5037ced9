"""`shipway judge`: recorded observations in, one verdict for each series out."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets.cli import app, main
from deploy_targets.rollout.judge_series import SeriesVerdict, judge_series
from deploy_targets.rollout.observations import PolicyFile, parse_observations
from deploy_targets.rollout.state import Decision

EXPOSURE = {"by": "exposure", "requests": 200}


def a_policy(**changes: Any) -> PolicyFile:
    return PolicyFile.model_validate({"champion": "6", "challenger": "7", **changes})


def lines(
    count: int, *, old: tuple[int, int] = (90, 1), new: tuple[int, int] = (10, 0), start: int = 0
) -> Iterable[str]:
    """So many intervals with the same requests and errors of both."""
    for interval in range(start, start + count):
        for version, (requests, errors) in (("6", old), ("7", new)):
            yield json.dumps(
                {
                    "series": "a",
                    "interval": interval,
                    "seconds": 10,
                    "version": version,
                    "requests": requests,
                    "errors": errors,
                }
            )


def judged(text: Iterable[str], policy: PolicyFile) -> SeriesVerdict:
    (verdict,) = judge_series(parse_observations(text, policy, origin="obs"), policy)
    return verdict


def test_a_bad_challenger_is_rolled_back_at_its_first_verdict() -> None:
    verdict = judged(lines(40, new=(10, 3)), a_policy())
    assert verdict.verdict is Decision.ROLL_BACK
    assert verdict.metric == "errors"
    assert verdict.interval is not None
    assert verdict.interval < 10
    assert verdict.requests == {
        "6": 90 * (verdict.interval + 1),
        "7": 10 * (verdict.interval + 1),
    }


def test_a_good_challenger_is_promoted_by_exposure_or_by_claim() -> None:
    verdict = judged(lines(40), a_policy(promote=EXPOSURE))
    assert (verdict.verdict, verdict.interval) == (Decision.PROMOTE, 19)
    verdict = judged(lines(300), a_policy())
    assert verdict.verdict is Decision.PROMOTE
    assert "errors worse by less than 2 points" in verdict.evidence


def test_too_little_data_holds() -> None:
    verdict = judged(lines(3), a_policy())
    assert (verdict.verdict, verdict.interval) == (Decision.HOLD, 2)
    assert "not shown yet" in verdict.evidence


def test_at_the_time_limit_the_verdict_is_inconclusive_and_a_policy_may_wait_on() -> None:
    limited = {"time_limit_s": 100, "promote": EXPOSURE}
    verdict = judged(lines(40), a_policy(**limited))
    assert (verdict.verdict, verdict.interval) == (Decision.INCONCLUSIVE, 9)
    waiting = a_policy(**limited, on_inconclusive="wait")
    assert judged(lines(15), waiting).verdict is Decision.INCONCLUSIVE
    assert judged(lines(40), waiting).verdict is Decision.PROMOTE


def test_a_gap_counts_for_the_time_but_not_for_the_evidence() -> None:
    text = [*lines(5), *lines(5, start=100)]
    verdict = judged(text, a_policy(time_limit_s=1_000, promote=EXPOSURE))
    assert (verdict.verdict, verdict.interval) == (Decision.INCONCLUSIVE, 100)
    assert verdict.requests == {"6": 540, "7": 60}


def test_a_held_interval_is_named_and_never_counted() -> None:
    text = list(lines(5))
    verdict = judged([*text, text[3]], a_policy())
    assert [one.interval for one in verdict.held] == [1]
    assert verdict.requests == {"6": 360, "7": 40}
    assert "held: interval 1, version 7: it is there twice" in verdict.line()


def test_a_first_release_is_judged_by_its_limit() -> None:
    policy = a_policy(champion=None, metrics={"errors": {"limit": 0.05}})
    bad = judged(lines(40, new=(10, 3)), policy)
    assert (bad.verdict, bad.requests.keys()) == (Decision.ROLL_BACK, {"7"})
    assert judged(lines(40), policy).verdict is Decision.PROMOTE


def test_a_series_without_the_policys_versions_holds() -> None:
    policy = a_policy(champion="1", challenger="2")
    verdict = judged(lines(3), policy)
    assert (verdict.verdict, verdict.interval) == (Decision.HOLD, None)
    assert verdict.requests == {"1": 0, "2": 0}


def test_many_series_are_judged_each_by_itself() -> None:
    policy = a_policy(promote=EXPOSURE)
    short, long, bad = list(lines(5)), list(lines(40)), list(lines(40, new=(10, 3)))
    whole = [
        json.dumps({**json.loads(line), "series": name})
        for name, text in (("short", short), ("long", long), ("bad", bad))
        for line in text
    ]
    verdicts = judge_series(parse_observations(whole, policy, origin="obs"), policy)
    for verdict, text in zip(verdicts, (short, long, bad), strict=True):
        alone = judged(text, policy)
        assert (verdict.verdict, verdict.interval) == (alone.verdict, alone.interval)
        assert verdict.evidence == alone.evidence


def test_a_verdict_tells_quantiles_of_both_versions() -> None:
    policy = a_policy(metrics={"errors": None, "latency": {"slo_s": 1.0, "quantiles": [0.7]}})
    text = [
        json.dumps({**json.loads(line), "latency_s": {"0.5": 8, "1.0": 9, "+Inf": 10}})
        for line in lines(300)
    ]
    verdict = judged(text, policy)
    assert {one.is_challengers for one in verdict.quantiles} == {True, False}
    assert "p70 below 0.5 s, champion below 0.5 s" in verdict.evidence


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    policy, observations = tmp_path / "policy.yaml", tmp_path / "obs.jsonl"
    policy.write_text('{champion: "6", challenger: "7"}')
    observations.write_text("\n".join(lines(40, new=(10, 3))))
    return policy, observations


def test_the_command_prints_one_json_line_for_each_series(files: tuple[Path, Path]) -> None:
    policy, observations = files
    arguments = ["judge", "--policy", str(policy), "--observations", str(observations)]
    ran = CliRunner().invoke(app, [*arguments, "--json"])
    told = json.loads(ran.stdout)
    wanted = {"series", "verdict", "interval", "requests", "metric", "evidence"}
    assert wanted <= told.keys()
    assert (told["series"], told["verdict"], told["metric"]) == ("a", "roll_back", "errors")
    plain = CliRunner().invoke(app, arguments)
    assert plain.stdout.startswith("a: roll_back at interval ")


def test_observations_are_read_from_standard_input_too(files: tuple[Path, Path]) -> None:
    policy, observations = files
    arguments = ["judge", "--policy", str(policy), "--observations", "-", "--json"]
    ran = CliRunner().invoke(app, arguments, input=observations.read_text())
    assert json.loads(ran.stdout)["verdict"] == "roll_back"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("observations", "obs.jsonl, line 1 cannot be read"),
        ("policy", "is not a valid policy"),
        ("missing", "cannot be read"),
    ],
)
def test_what_cannot_be_read_ends_with_code_2(
    files: tuple[Path, Path],
    spoil: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy, observations = files
    if spoil == "observations":
        observations.write_text("{")
    elif spoil == "policy":
        policy.write_text("{champion: 6}")
    else:
        observations.unlink()
    command = ["shipway", "judge", "--policy", str(policy), "--observations", str(observations)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
