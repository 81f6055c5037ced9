"""Inputs for hypothesis: what is kept, changed here and there, and what is no file of anybody's."""

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.fuzz.claims import MOST_BYTES

_MOST_CHANGES = 4
_LONGEST_CUT = 64


@st.composite
def _mutated(draw: st.DrawFn, kept: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    data = draw(st.sampled_from(kept))
    for _ in range(draw(st.integers(1, _MOST_CHANGES))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + _LONGEST_CUT)))
        other = draw(st.sampled_from(kept))
        cut = draw(st.integers(0, len(other)))
        put = draw(
            st.sampled_from(words)
            | st.just(data[start:end] * 2)
            | st.just(other[cut : cut + _LONGEST_CUT])
            | st.binary(max_size=3)
        )
        data = data[:start] + put + data[end:]
    return data[:MOST_BYTES]


def inputs(kept: Sequence[bytes], words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Most of them near to what is kept, where a parser's depths are."""
    near = _mutated(kept, words)
    return st.one_of(
        near,
        near,
        near,
        st.binary(max_size=256),
        st.text(st.characters(codec="utf-8"), max_size=128).map(str.encode),
    )
