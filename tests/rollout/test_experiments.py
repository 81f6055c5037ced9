"""Experiments on fakes and a fake clock: what users meet, what is found, what ends them, what waits for them."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.endpoint import Endpoint
from deploy_targets.guard_policy import GuardPolicy, StickyPolicy
from deploy_targets.rollout.experiment import INTERVAL_S, rules_for
from deploy_targets.rollout.experiment_state import Experiment, ExperimentPhase, Finding
from deploy_targets.rollout.state import Hold
from deploy_targets.routing.traffic import Traffic
from registry.errors import StateConflict
from tests.builders import NOON, a_release, an_endpoint
from tests.rollout.test_controller import World


def a_sticky_endpoint(**rollout: Any) -> Endpoint:
    policy = GuardPolicy(sticky=StickyPolicy())
    return an_endpoint(**rollout).model_copy(update={"guard": policy})


def an_experiment(
    *versions: str, endpoint: Endpoint | None = None, share: int = 50, **changes: Any
) -> Experiment:
    arms = versions or ("7",)
    rules = rules_for(endpoint or a_sticky_endpoint(), "errors", arms=len(arms))
    known: dict[str, Any] = {
        "id": "chat-e-1",
        "name": "e",
        "champion": "6",
        "arms": tuple(map(a_release, arms)),
        "share": share,
        "goal": "errors",
        "rules": rules,
        "by": "ada",
        "asked": NOON,
        "phase_since": NOON,
        **changes,
    }
    return Experiment(**known)


class Lab(World):
    """A world whose endpoint has sticky users; v6 serves."""

    def begin(self, experiment: Experiment) -> None:
        saved = self.store.load("chat")
        started = replace(experiment, phase_since=self.clock())
        state = replace(saved.state, experiment=started)
        self.store.save(state, expected=saved.revision)

    def change(self, **changes: Any) -> None:
        saved = self.store.load("chat")
        assert saved.state.experiment is not None
        state = replace(saved.state, experiment=replace(saved.state.experiment, **changes))
        self.store.save(state, expected=saved.revision)

    def minutes(self, count: int, *, users: int = 600) -> None:
        """So many, six looks each; `users` come in each minute."""
        self.tick(count * 6, requests=users // 6)

    @property
    def last(self) -> Experiment:
        assert self.state.experiment is None
        return self.state.past_experiments[-1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path, a_sticky_endpoint(drain_s=30))
    lab.release("6")
    lab.target.shifts.clear()
    return lab


def test_arms_are_made_ready_and_asked_before_any_user_meets_them(lab: Lab) -> None:
    lab.begin(an_experiment("7", "8", share=50))
    lab.tick()
    assert (lab.target.traffic, lab.target.shifts) == (Traffic.all_to("6"), [])
    lab.tick(6)
    assert lab.target.traffic == Traffic(weights={"6": 50, "7": 25, "8": 25})
    assert lab.state.experiment is not None
    assert set(lab.state.experiment.smoked) == {"7", "8"}


def test_what_is_better_wins_and_everything_goes_back_by_one_write(lab: Lab) -> None:
    lab.users.failure_rates = {"6": 0.10, "7": 0.01}
    lab.begin(an_experiment())
    lab.minutes(40)
    assert lab.last.findings == {"7": Finding.WINNER}
    assert lab.last.outcome == "decided"
    assert lab.target.shifts == [Traffic.split("6", "7", 50), Traffic.all_to("6")]
    assert set(lab.target.revisions) == {"6"}
    assert lab.registry.aliases == {"champion": "6"}


def test_what_is_worse_loses_and_ends_it_even_where_another_arm_is_undecided(lab: Lab) -> None:
    lab.users.failure_rates = {"6": 0.01, "7": 0.01, "8": 0.15}
    lab.begin(an_experiment("7", "8", share=60))
    lab.minutes(30)
    assert lab.last.findings == {"7": Finding.UNDECIDED, "8": Finding.LOSER}
    assert lab.last.outcome == "decided"
    assert "worse in errors" in lab.last.reasons["8"]


def test_what_is_alike_within_the_tolerance_is_no_difference(lab: Lab) -> None:
    lab.users.failure_rates = {"6": 0.01, "7": 0.01}
    lab.begin(an_experiment())
    lab.minutes(60)
    assert lab.last.findings == {"7": Finding.ALIKE}
    users = lab.last.counted
    assert users["6"][0] + users["7"][0] == lab.last.compared


def test_the_e_values_that_decide_are_at_the_arms_part_of_the_rate() -> None:
    rules = rules_for(a_sticky_endpoint(), "errors", arms=2)
    assert rules.false_rollback_rate == pytest.approx(0.01 / 4)
    assert rules.false_promotion_rate == pytest.approx(0.05 / 2)


def test_errors_are_watched_whatever_the_goal_is() -> None:
    endpoint = a_sticky_endpoint(metrics={"errors": {}, "latency": {"slo_s": 1.0}})
    assert set(rules_for(endpoint, "latency", arms=1).metrics.given()) == {"errors", "latency"}


def test_a_promotion_waits_for_its_end_and_says_so(lab: Lab) -> None:
    from deploy_targets.rollout.status import summarise

    lab.begin(an_experiment())
    lab.tick(3, requests=1)
    lab.registry.aliases["challenger"] = "8"
    lab.tick(12, requests=1)
    assert lab.state.rollout is None
    told = "\n".join(summarise(lab.endpoint, lab.state, None).lines())
    assert "v8 is asked for and waits for its end" in told
    assert not lab.watcher.unserved
    lab.change(stop="operator ada: enough")
    lab.tick(30)
    assert lab.registry.aliases == {"champion": "8"}


def test_stopping_it_is_one_write(lab: Lab) -> None:
    lab.begin(an_experiment("7", "8"))
    lab.minutes(2)
    lab.target.shifts.clear()
    lab.change(stop="operator ada: enough")
    lab.tick()
    assert lab.target.shifts == [Traffic.all_to("6")]
    assert (lab.last.outcome, lab.last.reason) == ("stopped", "operator ada: enough")


def test_a_rollback_ends_it(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(2)
    lab.go_back(to=None)
    lab.tick()
    assert lab.last.outcome == "stopped"
    assert lab.target.traffic == Traffic.all_to("6")


def test_going_back_to_another_version_ends_it_too(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(2)
    lab.go_back(to=a_release("5"))
    lab.tick(6)
    assert lab.last.outcome == "stopped"
    assert lab.target.traffic == Traffic.all_to("5")


def test_an_arm_that_never_gets_ready_meets_nobody(lab: Lab) -> None:
    lab.target.fail("7", "out of memory")
    lab.begin(an_experiment())
    lab.tick(4)
    assert "v7 cannot take part: its platform gave up on it: out of memory" in lab.last.reason
    assert lab.target.shifts == []


def test_an_arm_that_fails_its_smoke_test_meets_nobody(lab: Lab) -> None:
    lab.smoke.failing.add("7")
    lab.begin(an_experiment())
    lab.tick(4)
    assert "it failed its smoke test: status 500" in lab.last.reason
    assert lab.target.shifts == []


def test_an_arm_that_stops_being_ready_ends_it_at_once(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(1)
    lab.target.crash("7")
    lab.target.never_ready.add("7")
    lab.tick(2)
    assert lab.last.reason == "v7 stopped being ready: a replica died"
    assert lab.target.traffic == Traffic.all_to("6")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"until": NOON + timedelta(hours=1)}, "its time ended at 2026-11-24 13:00 UTC"),
        ({"users": 100}, "users were compared, 100 were asked for"),
    ],
)
def test_it_ends_undecided_when_its_time_or_its_users_are_used_up(
    lab: Lab, limit: dict[str, Any], said: str
) -> None:
    lab.users.failure_rates = {"6": 0.3, "7": 0.3}
    lab.begin(an_experiment(**limit))
    lab.minutes(60, users=6)
    assert lab.last.outcome == "undecided"
    assert said in lab.last.reason
    assert lab.target.traffic == Traffic.all_to("6")


def test_while_it_is_held_no_user_meets_an_arm(lab: Lab) -> None:
    saved = lab.store.load("chat")
    held = replace(saved.state, hold=Hold(reason="fair", by="ada"))
    lab.store.save(held, expected=saved.revision)
    lab.begin(an_experiment())
    lab.minutes(30)
    assert lab.target.shifts == []
    saved = lab.store.load("chat")
    lab.store.save(replace(saved.state, hold=None), expected=saved.revision)
    lab.tick(4)
    assert lab.target.traffic == Traffic.split("6", "7", 50)


def test_the_time_to_get_ready_does_not_go_on_while_it_is_held(lab: Lab) -> None:
    lab.target.never_ready.add("7")
    saved = lab.store.load("chat")
    held = replace(saved.state, hold=Hold(reason="fair", by="ada"))
    lab.store.save(held, expected=saved.revision)
    lab.begin(an_experiment())
    looks = round(lab.endpoint.rollout.warm_limit_s / 10)
    lab.tick(looks + 6)
    saved = lab.store.load("chat")
    lab.store.save(replace(saved.state, hold=None), expected=saved.revision)
    lab.tick(looks - 3)
    assert lab.state.experiment is not None
    lab.tick(6)
    assert "it was not ready within" in lab.last.reason


def test_metrics_that_are_away_for_too_long_end_it(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(2)
    lab.users.is_away = True
    lab.minutes(16)
    assert "its metrics could not be read" in lab.last.reason


@pytest.mark.promise("waits begin anew, none gets longer by the jump", about="clocks")
def test_a_clock_that_was_set_back_does_not_stretch_its_waits(lab: Lab) -> None:
    lab.target.never_ready.add("7")
    lab.begin(an_experiment())
    lab.tick()
    lab.change(phase_since=lab.clock() + timedelta(days=1))
    limit_s = lab.endpoint.rollout.warm_limit_s
    lab.tick(round(limit_s / 10) + 3)
    assert "it was not ready within" in lab.last.reason


def test_it_learns_once_a_minute_and_saves_nothing_in_between(lab: Lab) -> None:
    lab.users.failure_rates = {"6": 0.3, "7": 0.3}
    lab.begin(an_experiment(users=10**6))
    lab.tick(8)
    before = lab.state.experiment
    assert before is not None
    saves = int(lab.store.load("chat").revision)
    lab.tick(60, requests=6)
    after = lab.state.experiment
    assert after is not None
    assert after.intervals - before.intervals == 600 / INTERVAL_S
    assert int(lab.store.load("chat").revision) - saves <= 2 * 10 + 2


def test_what_others_do_to_the_weights_is_not_learned_from_and_is_undone(lab: Lab) -> None:
    lab.begin(an_experiment(users=10**6))
    lab.minutes(2)
    before = lab.state.experiment
    assert before is not None
    for _ in range(30):
        lab.target.traffic = Traffic.all_to("7")
        lab.tick(1)
    after = lab.state.experiment
    assert after is not None
    assert after.intervals == before.intervals
    lab.tick(1)
    assert lab.target.traffic == Traffic.split("6", "7", 50)


@pytest.mark.promise("the same winner, and a whole record", about="kills")
@pytest.mark.parametrize("at", range(1, 60, 7))
def test_a_controller_that_dies_anywhere_is_followed_by_one_that_finds_the_same(
    tmp_path: Path, at: int
) -> None:
    lab = Lab(tmp_path, a_sticky_endpoint(drain_s=30))
    lab.release("6")
    lab.users.failure_rates = {"6": 0.01, "7": 0.2}
    lab.begin(an_experiment())
    left = at
    shift, save = lab.target.shift, lab.store.save

    def dying(act: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left % 5 == 0:
                raise StateConflict
            done = act(*args, **more)
            if left % 7 == 0:
                raise StateConflict
            return done

        return wrapped

    lab.target.shift = dying(shift)  # type: ignore[method-assign]
    lab.store.save = dying(save)  # type: ignore[method-assign]
    for _ in range(200):
        try:
            lab.tick()
        except StateConflict:
            lab.restart()
    lab.target.shift, lab.store.save = shift, save  # type: ignore[method-assign]
    lab.tick(6)
    assert lab.last.findings == {"7": Finding.LOSER}
    assert [one.id for one in lab.state.past_experiments] == ["chat-e-1"]
    assert lab.target.traffic == Traffic.all_to("6")


def test_what_ended_is_told_even_where_mlflow_was_away_at_its_end(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(1)
    lab.record.is_away = True
    lab.change(stop="enough")
    lab.tick(2)
    assert not lab.last.is_told
    lab.record.is_away = False
    lab.tick(2)
    assert lab.last.is_told


def test_an_endpoint_that_is_taken_out_of_the_file_ends_it(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(1)
    lab.unit = replace(lab.unit, is_removed=True)
    lab.restart()
    lab.tick()
    assert lab.last.reason == "its endpoint was removed from the endpoint file"


def test_users_who_are_not_sticky_any_more_end_it(lab: Lab) -> None:
    lab.begin(an_experiment())
    lab.minutes(1)
    lab.unit = replace(lab.unit, endpoint=an_endpoint())
    lab.restart()
    lab.tick()
    assert lab.last.reason.startswith("users are not sticky any more")
    assert lab.target.traffic == Traffic.all_to("6")


@pytest.mark.parametrize(("arms", "share"), [(1, 50), (2, 33), (3, 50), (4, 80)])
def test_the_shares_are_whole_percents_that_add_up(arms: int, share: int) -> None:
    versions = tuple(str(7 + n) for n in range(arms))
    weights = an_experiment(*versions, share=share).traffic.weights
    assert sum(weights.values()) == 100
    others = [weight for version, weight in weights.items() if version != "6"]
    assert sum(others) == share
    assert max(others) - min(others) <= 1


def test_it_begins_warming() -> None:
    assert an_experiment().phase is ExperimentPhase.WARMING
