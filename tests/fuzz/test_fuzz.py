"""What is kept in the corpus, and new inputs near to it; the same ones in each run. `make fuzz` is the long one."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.claims import MOST_BYTES
from tests.fuzz.mutations import inputs
from tests.fuzz.targets import CORPUS, TARGETS, corpus_of

_EXAMPLES = 800
"""For each target: all of them together take half a minute."""
_MOST_FILES = 40
KEPT = [(name, file) for name in TARGETS for file in corpus_of(name)]


@pytest.mark.parametrize(("name", "file"), KEPT)
def test_every_input_that_is_kept_is_read_or_refused_as_promised(name, file) -> None:
    TARGETS[name].run(corpus_of(name)[file])


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_near_to_those_are_too(name) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=_EXAMPLES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=inputs(tuple(corpus_of(name).values()), target.words, target.form))
    def ask(data: bytes) -> None:
        target.run(data)

    ask()


@pytest.mark.parametrize("name", TARGETS)
def test_of_each_target_something_is_kept_that_is_taken_and_something_that_is_not(name) -> None:
    """Otherwise its claims on what was read, or on how it is refused, would be proven on nothing."""
    assert {TARGETS[name].run(data) for data in corpus_of(name).values()} == {True, False}


def test_the_corpus_stays_small_and_has_no_orphans() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == set(TARGETS)
    assert max(path.stat().st_size for path in files) <= MOST_BYTES
    assert max(len(corpus_of(name)) for name in TARGETS) <= _MOST_FILES
