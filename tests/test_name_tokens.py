import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from angel_trl import name_tokens
from angel_trl.name_tokens import NameTokens, repeated

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=12)


def made(sequences):
    return NameTokens.of(
        [str(place) for place in range(len(sequences))], lambda names: [sequences[int(n)] for n in names]
    )


@given(SEQUENCES, st.integers(1, 5))
def test_it_is_the_sequence_of_lists_it_was_made_of_however_it_is_cut(sequences, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name_tokens, "_CHUNK", chunk)
        tokens = made(sequences)
    assert tokens == sequences
    assert list(tokens) == sequences
    assert [tokens[-1 - place] for place in range(len(tokens))] == sequences[::-1]
    assert tokens[1:3] == sequences[1:3]
    assert tokens != [*sequences, [1]]
    assert tokens.tokens.dtype == np.int32


def test_beyond_the_end_there_is_none():
    with pytest.raises(IndexError):
        made([[1], [2]])[2]


@given(SEQUENCES, st.data())
def test_some_of_them_are_taken_in_order(sequences, data):
    places = sorted(data.draw(st.sets(st.integers(0, max(0, len(sequences) - 1)))) if sequences else [])
    tokens, lengths = made(sequences).take(np.array(places, dtype=np.int64))
    assert tokens.tolist() == [token for place in places for token in sequences[place]]
    assert lengths.tolist() == [len(sequences[place]) for place in places]


@given(SEQUENCES, st.sets(st.integers(0, 11)))
def test_repeated_are_those_that_stood_before(sequences, leave_out):
    seen, expected = [], []
    for place, ids in enumerate(sequences):
        if place not in leave_out:
            if ids in seen:
                expected.append(place)
            seen.append(ids)
    assert repeated(made(sequences), leave_out) == expected
