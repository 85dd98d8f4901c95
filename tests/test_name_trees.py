"""The layout of training: which tokens are run, what each sees, and which states predict what."""

import pytest
import torch

from angel_trl.formatting import EncodedMention
from angel_trl.name_trees import NameTrees, pack, pad

PAD = 1
MENTIONS = [
    EncodedMention(source=(0, 40, 41, 42, 2), prefix=(2, 50, 51)),
    EncodedMention(source=(0, 45, 2), prefix=(2, 52)),
]
NAMES = [[[60, 2], [61, 62, 63, 2], [2]], [[60, 64, 2]]]
VISIBLE = [
    [
        [1, 0, 0, 0, 0, 0, 0],  # the prefix sees itself,
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],  # a name the prefix and itself,
        [1, 1, 1, 0, 1, 0, 0],  # and not the name before it.
        [1, 1, 1, 0, 1, 1, 0],
        [1, 1, 1, 0, 1, 1, 1],
    ],
    [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],  # Padding sees the first token, and nothing sees padding.
        [1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
    ],
]


# --- packing ---------------------------------------------------------------------------------------------------------


def test_pad_fills_on_the_right():
    padded = pad([[5, 6], [7], []], 9)
    assert padded.tolist() == [[5, 6], [7, 9], [9, 9]]
    assert padded.dtype == "int64"


def test_names_of_a_mention_follow_its_prefix_without_their_last_tokens():
    batch = pack(MENTIONS, NAMES, PAD)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "tree_ids": [2, 50, 51, 60, 61, 62, 63, 2, 52, 60, 64],
        "tree_cells": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        "tree_positions": [[0, 1, 2, 3, 3, 4, 5], [0, 1, 2, 3, 0, 0, 0]],
        "tree_names": [[-1, -1, -1, 0, 1, 1, 1], [-1, -1, 0, 0, -1, -1, -1]],
        "name_states": [2, 3, 2, 4, 5, 6, 2, 8, 9, 10],
        "name_labels": [60, 2, 61, 62, 63, 2, 2, 60, 64, 2],
        "mention_input_ids": [[0, 40, 41, 42, 2], [0, 45, 2, 1, 1]],
        "mention_attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_places_count_the_tokens_of_all_mentions_before():
    batch = pack([MENTIONS[1], MENTIONS[0], MENTIONS[1]], [NAMES[1], NAMES[0], [[65, 2]]], PAD)
    assert batch["tree_positions"].shape == (3, 7)
    # Trees of 4, 7 and 3 tokens, in a table of 7 a mention.
    assert batch["tree_cells"].tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert batch["name_states"].tolist() == [1, 2, 3, 6, 7, 6, 8, 9, 10, 6, 12, 13]
    assert batch["tree_ids"][batch["name_states"]].tolist() == [52, 60, 64, 51, 60, 51, 61, 62, 63, 51, 52, 65]
    assert batch["name_labels"].tolist() == [60, 64, 2, 60, 2, 61, 62, 63, 2, 2, 65, 2]


def test_a_name_of_one_token_needs_no_token_of_its_own():
    batch = pack([EncodedMention((), (0, 50))], [[[2], [60]]], PAD)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "tree_ids": [0, 50],
        "tree_cells": [0, 1],
        "tree_positions": [[0, 1]],
        "tree_names": [[-1, -1]],
        "name_states": [1, 1],
        "name_labels": [2, 60],
    }


def test_without_an_encoder_there_is_no_source():
    mentions = [EncodedMention((), (0, 50)), EncodedMention((), (0, 51, 52))]
    batch = pack(mentions, [[[60, 2]], [[61, 2]]], PAD)
    assert not {"mention_input_ids", "mention_attention_mask"} & set(batch)
    assert NameTrees.of(batch).source is None


def test_a_pad_token_within_a_name_or_source_is_not_padding():
    batch = pack([EncodedMention((0, PAD, 2), (2, PAD))], [[[PAD, 2]]], PAD)
    assert batch["mention_attention_mask"].tolist() == [[1, 1, 1]]
    assert batch["tree_ids"].tolist() == [2, PAD, PAD]
    assert NameTrees.of(batch).visible[0, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_mention_without_names_is_refused():
    with pytest.raises(ValueError, match="A mention without names cannot be laid out; leave it out of the batch"):
        pack(MENTIONS, [[[60, 2]], []], PAD)


# --- attention -------------------------------------------------------------------------------------------------------


def test_names_see_the_prefix_and_themselves_but_not_each_other():
    trees = NameTrees.of(pack(MENTIONS, NAMES, PAD))
    assert trees.visible.dtype == torch.bool
    assert trees.visible.shape == (2, 1, 7, 7)
    assert trees.visible[:, 0].long().tolist() == VISIBLE
    assert trees.shape == (2, 7)
    assert trees.bias is None


def test_the_source_is_seen_where_it_is_not_padding():
    trees = NameTrees.of(pack(MENTIONS, NAMES, PAD))
    assert trees.source.dtype == torch.bool
    assert trees.source.shape == (2, 1, 1, 5)
    assert trees.source[:, 0, 0].long().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_distances_are_between_places_in_a_text():
    trees = NameTrees.of(pack([EncodedMention((), (0, 50))], [[[60, 61, 2], [62, 2]]], PAD))
    # Positions 0 1 | 2 3 | 2: both names begin behind the prefix.
    assert trees.distance.tolist() == [
        [[0, 1, 2, 3, 2], [-1, 0, 1, 2, 1], [-2, -1, 0, 1, 0], [-3, -2, -1, 0, -1], [-2, -1, 0, 1, 0]]
    ]


def test_cells_are_left_out_where_they_are_the_tokens_themselves():
    full = pack(MENTIONS[:1] * 2, [NAMES[0]] * 2, PAD)
    assert NameTrees.of(full).cells is None
    batch = pack(MENTIONS, NAMES, PAD)
    assert NameTrees.of(batch).cells is batch["tree_cells"]


def by_hand(query, keys, values, scaling, bias=0.0):
    """Attention of one query of one head over the keys that it sees."""
    return torch.softmax(keys @ query * scaling + bias, 0) @ values


def self_attention(causal=True):
    module = torch.nn.Module()
    module.is_causal = causal
    return module


@pytest.mark.parametrize("biased", [False, True], ids=["", "with a bias"])
def test_each_token_attends_to_what_it_sees_with_shared_heads_of_keys(biased):
    batch = pack(MENTIONS, NAMES, PAD)
    trees = NameTrees.of(batch)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, requires_grad=True)  # noqa: E731
    query, key, value = draw(1, 4, 11, 3), draw(1, 2, 11, 3), draw(1, 2, 11, 3)
    bias = torch.zeros(2, 4, 7, 7)
    if biased:
        bias = draw(2, 4, 7, 7)
        trees = NameTrees(trees.cells, trees.shape, trees.visible, trees.source, trees.distance, bias)
    options = {"scaling": 0.7, "dropout": 0.0, "sliding_window": None}
    found = trees.attend(self_attention(), query, key, value, **options)
    assert found.shape == (1, 11, 4, 3)
    begins = [0, 7]
    for token, cell in enumerate(batch["tree_cells"].tolist()):
        mention, place = divmod(cell, 7)
        seen = [i for i in range(7) if VISIBLE[mention][place][i]]
        tokens = [begins[mention] + i for i in seen]
        for head in range(4):
            keys, values = key[0, head // 2, tokens], value[0, head // 2, tokens]
            expected = by_hand(query[0, head, token], keys, values, 0.7, bias[mention, head, place, seen])
            torch.testing.assert_close(found[0, token, head], expected)
    found.sum().backward()
    assert all(part.grad.isfinite().all() for part in (query, key, value))


def test_each_token_attends_to_the_source_of_its_mention():
    batch = pack(MENTIONS, NAMES, PAD)
    generator = torch.Generator().manual_seed(0)
    query, source = torch.randn(1, 2, 11, 3, generator=generator), torch.randn(2, 2, 5, 3, generator=generator)
    options = {"scaling": 1.0, "dropout": 0.0, "sliding_window": None}
    found = NameTrees.of(batch).attend(self_attention(causal=False), query, source, 2 * source, **options)
    for token, cell in enumerate(batch["tree_cells"].tolist()):
        mention = cell // 7
        for head in range(2):
            own = source[mention, head, : len(MENTIONS[mention].source)]
            torch.testing.assert_close(found[0, token, head], by_hand(query[0, head, token], own, 2 * own, 1.0))


@pytest.mark.parametrize(("window", "refused"), [(5, True), (6, False), (None, False)])
def test_a_text_longer_than_a_sliding_window_is_refused(window, refused):
    # The longest text: 3 tokens of prefix and 3 of a name; 7 tokens are in its tree.
    trees = NameTrees.of(pack(MENTIONS, NAMES, PAD))
    states = torch.zeros(1, 1, 11, 2)
    options = {"scaling": 1.0, "dropout": 0.0, "sliding_window": window}
    if refused:
        message = r"A text of 6 tokens is longer than the model's sliding window of 5.*fewer words of context"
        with pytest.raises(ValueError, match=message):
            trees.attend(self_attention(), states, states, states, **options)
    else:
        assert trees.attend(self_attention(), states, states, states, **options).shape == (1, 11, 1, 2)
