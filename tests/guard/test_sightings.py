"""Which version a guard believes to serve, by what it has seen alone."""

from hypothesis import given
from hypothesis import strategies as st

from deploy_targets.guard.sightings import SETTLE_S, Server, Sightings

SIX, SEVEN = Server("6"), Server("7")
BELIEVED_S = 30.0


def sightings(*seen: tuple[Server, float]) -> Sightings:
    made = Sightings(believed_s=BELIEVED_S)
    for server, sent_at in seen:
        made.saw(server, sent_at=sent_at)
    return made


def test_nobody_serves_before_anybody_was_seen() -> None:
    assert sightings().serving(0) is None


def test_a_version_is_believed_for_a_while_from_when_its_request_was_sent() -> None:
    seen = sightings((SIX, 100))
    assert seen.serving(100 + BELIEVED_S - 1) == SIX
    assert seen.serving(100 + BELIEVED_S) is None


def test_a_new_sighting_is_due_when_half_of_that_time_is_over() -> None:
    seen = sightings((SIX, 100))
    assert not seen.is_due(114)
    assert seen.is_due(115)


def test_two_versions_in_turn_are_not_believed_until_one_was_seen_alone_for_long() -> None:
    seen = sightings((SIX, 100), (SEVEN, 110), (SIX, 120), (SIX, 179))
    assert seen.is_mixed(179)
    assert seen.serving(179) is None
    assert seen.serving(120 + SETTLE_S) == SIX


def test_the_same_version_with_other_files_is_another() -> None:
    seen = sightings((Server("6", "sha256:a"), 100), (Server("6", "sha256:b"), 101))
    assert seen.is_mixed(102)


def test_who_does_not_say_which_files_is_no_other_version_and_is_believed_no_longer_for_it() -> (
    None
):
    named, nameless = Server("6", "sha256:a"), Server("6")
    for seen in ([named, nameless, named], [nameless, named, nameless]):
        told = sightings(*((one, 100.0 + at) for at, one in enumerate(seen)))
        assert told.serving(103) == named
    assert sightings((named, 100), (nameless, 120)).serving(100 + BELIEVED_S) is None
    assert sightings((named, 100), (nameless, 101), (Server("6", "sha256:b"), 102)).is_mixed(103)


def test_a_long_answer_of_the_version_before_does_not_bring_it_back() -> None:
    """It was chosen before the other one was, though it is told afterwards."""
    seen = sightings((SEVEN, 100), (SIX, 90))
    for sent_at in range(100, 200, 10):
        seen.saw(SEVEN, sent_at=sent_at)
    assert seen.serving(100 + SETTLE_S) == SEVEN


TURNS = st.lists(
    st.tuples(st.sampled_from([SIX, SEVEN]), st.floats(0, 200)), min_size=1, max_size=12
)


@given(TURNS, st.floats(0, 300))
def test_no_version_is_believed_for_longer_after_it_was_last_chosen(
    seen: list[tuple[Server, float]], now: float
) -> None:
    """Whatever was seen, in whichever order it was told: what may be given again is fresh, and nobody's else."""
    serving = sightings(*seen).serving(now)
    if serving is None:
        return
    last = max(sent_at for server, sent_at in seen if server == serving)
    assert now - last < BELIEVED_S
    assert all(sent_at <= last for _, sent_at in seen)
