"""What may be done in a minute, in a day and at once."""

from deploy_targets.guard.allowance import Allowance


class Clock:
    def __init__(self) -> None:
        self.now = 86_400.0 * 20_000

    def __call__(self) -> float:
        return self.now


def test_a_place_is_free_again_once_it_is_given_back() -> None:
    allowance = Allowance(concurrent=1, requests_per_minute=99, clock=Clock())
    assert allowance.take()
    assert not allowance.take()
    allowance.settle()
    assert allowance.take()


def test_a_new_minute_has_its_requests_anew() -> None:
    clock = Clock()
    allowance = Allowance(concurrent=99, requests_per_minute=2, clock=clock)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    clock.now += 60
    assert allowance.take()


def test_money_is_reserved_then_settled_and_anew_each_day() -> None:
    clock = Clock()
    allowance = Allowance(concurrent=99, requests_per_minute=99, micros_per_day=10, clock=clock)
    assert allowance.take(8)
    assert not allowance.take(8)
    allowance.settle(8, 2)
    assert allowance.take(8)
    assert not allowance.take(1)
    clock.now += 86_400
    assert allowance.take(10)
