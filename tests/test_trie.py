import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from angel_trl.formatting import MentionFormatter
from angel_trl.readers import read_knowledge_base
from angel_trl.targets import TargetNames
from angel_trl.trie import NameTrie

END = 2
# Four names, the end token last; [7] is a prefix of [7, 8] before it, so both end in END.
FOUR = [[7, 8, END], [5, END], [7, END], [5, 9, 9, END]]


def nodes(*values):
    return torch.tensor(values, dtype=torch.int64)


def paths(trie):
    """Every path from the root to a leaf with the name index there, by walking node by node."""
    found, todo = {}, [(0, ())]
    while todo:
        node, path = todo.pop()
        if trie.is_leaf(nodes(node)).item():
            found[path] = trie.name(nodes(node)).item()
            continue
        rows, children = trie.expand(nodes(node))
        assert rows.tolist() == [0] * len(children)
        todo += [(child, (*path, trie.token(nodes(child)).item())) for child in children.tolist()]
    return found


def test_nodes_stand_breadth_first_with_sorted_children():
    trie = NameTrie.build(FOUR)
    #          root                                       level 1: 5 (node 1), 7 (node 2)
    # level 2: 5-END (3), 5-9 (4), 7-END (5), 7-8 (6)     level 3: 5-9-9 (7), 7-8-END (8)     level 4: END (9)
    assert trie.token(torch.arange(1, 10)).tolist() == [5, 7, END, 9, END, 8, 9, END, END]
    assert trie.first_child.tolist() == [1, 3, 5, 7, 7, 8, 8, 9, 10, 10, 10]
    assert trie.leaf_name.tolist() == [1, 2, 0, 3]
    assert (trie.num_nodes, trie.num_names) == (10, 4)


def test_expand_returns_the_children_of_every_row():
    trie = NameTrie.build(FOUR)
    rows, children = trie.expand(nodes(2, 3, 0, 2))
    assert rows.tolist() == [0, 0, 2, 2, 3, 3]
    assert children.tolist() == [5, 6, 1, 2, 5, 6]
    assert rows.dtype == children.dtype == torch.int64


def test_expand_of_no_rows_is_empty():
    rows, children = NameTrie.build(FOUR).expand(nodes())
    assert rows.tolist() == children.tolist() == []


def test_leaves_and_their_names_keep_the_shape_asked():
    trie = NameTrie.build(FOUR)
    assert trie.is_leaf(nodes(0, 3, 4, 9)).tolist() == [False, True, False, True]
    assert trie.name(nodes(9, 3, 5, 8)).tolist() == [3, 1, 2, 0]
    assert trie.name(torch.tensor([[9, 3], [5, 8]])).tolist() == [[3, 1], [2, 0]]
    assert trie.name(nodes(3)).dtype == torch.int64


def test_names_are_numbered_as_told():
    assert paths(NameTrie.build([[5, END], [4, END]], names=[30, 10])) == {(5, END): 30, (4, END): 10}


def test_a_single_name_of_the_end_token_alone():
    trie = NameTrie.build([[END]])
    assert (trie.num_nodes, paths(trie)) == (2, {(END,): 0})


@pytest.mark.parametrize("token", [2**15 - 1, 2**15, 2**16 - 1, 2**16, 250_000])
def test_tokens_of_every_width_come_back(token):
    trie = NameTrie.build([[token, END], [3, END]])
    assert paths(trie) == {(token, END): 0, (3, END): 1}


@given(
    st.lists(
        st.lists(st.sampled_from([3, 4, 5, 40_000, 70_000]), max_size=5), min_size=1, max_size=40, unique_by=tuple
    )
)
@settings(max_examples=80, deadline=None)
def test_build_equals_a_dictionary_trie(names):
    sequences = [[*name, END] for name in names]
    naive = {}
    for sequence in sequences:
        level = naive
        for token in sequence:
            level = level.setdefault(token, {})

    def count(level):
        return 1 + sum(map(count, level.values()))

    trie = NameTrie.build(sequences)
    assert paths(trie) == {tuple(sequence): i for i, sequence in enumerate(sequences)}
    assert (trie.num_nodes, trie.num_names) == (count(naive), len(sequences))


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "needs at least one name"),
        ([[4, END], []], "Name 1 has no tokens"),
        ([[4, END], [5, END], [4, END]], "Names 0 and 2 have the same tokens"),
        ([[4, 5, END], [4]], "Name 1 is a prefix of another"),
    ],
)
def test_names_that_make_no_trie_are_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        NameTrie.build(sequences)


def test_errors_speak_of_the_caller_s_name_indices():
    with pytest.raises(ValueError, match="Names 10 and 30 have the same tokens"):
        NameTrie.build([[4, END], [3, END], [4, END]], names=[30, 20, 10])
    with pytest.raises(ValueError, match="Name 20 is a prefix of another"):
        NameTrie.build([[3, 4, END], [3]], names=[10, 20])


def test_arrays_of_different_tries_are_refused():
    trie = NameTrie.build(FOUR)
    with pytest.raises(ValueError, match="has 4 leaves but names for 3"):
        NameTrie(trie._tokens, trie.first_child, trie.leaf_name[:3])


def test_a_node_takes_at_most_six_and_a_half_bytes():
    rng = np.random.default_rng(0)
    names = {tuple(rng.integers(3, 500, size=rng.integers(1, 8)).tolist()) for _ in range(2000)}
    trie = NameTrie.build([[*name, END] for name in names])
    assert trie.nbytes / trie.num_nodes <= 6.5


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "trie.safetensors"
    NameTrie.build(FOUR, names=[40, 10, 20, 30], fingerprint="abc").save(path)
    return path


def test_save_and_load_give_the_same_trie(saved):
    trie = NameTrie.load(saved, fingerprint="abc")
    assert paths(trie) == {(7, 8, END): 40, (5, END): 10, (7, END): 20, (5, 9, 9, END): 30}
    assert trie.fingerprint == "abc"


def test_a_trie_of_other_names_is_refused(saved):
    with pytest.raises(ValueError, match="other names or another tokenizer"):
        NameTrie.load(saved, fingerprint="abd")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No trie at .*nowhere"):
        NameTrie.load(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[:kept])
    with pytest.raises(ValueError, match="not a readable trie file"):
        NameTrie.load(saved)


def test_any_altered_byte_is_refused(saved):
    content = saved.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    for at in range(8 + header, len(content)):
        altered = bytearray(content)
        altered[at] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(ValueError, match="was altered"):
            NameTrie.load(saved)


def test_an_altered_header_is_refused(saved):
    header = {"format": "angel_trl.trie/1", "fingerprint": "abc", "digest": "0" * 64}
    save_file(load_file(saved), saved, metadata={"angel_trl": json.dumps(header)})
    with pytest.raises(ValueError, match="was altered"):
        NameTrie.load(saved)


@pytest.mark.parametrize(
    "metadata",
    [None, {"angel_trl": '{"format": "angel_trl.trie/0"}'}, {"angel_trl": "[1]"}, {"angel_trl": "no JSON"}],
)
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="not a (readable )?trie"):
        NameTrie.load(path)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    path = tmp_path / "trie.pkl"
    path.write_bytes(b"\x80\x04." * 20)
    with pytest.raises(ValueError, match="not a readable trie file"):
        NameTrie.load(path)


# --- a real dictionary -----------------------------------------------------------------------------------------------


def test_medic_with_the_tokenizer_of_bart(shared):
    from transformers import BartConfig, BartTokenizer

    folder = shared / "data/bart_tokenizer"
    bart = BartTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    kb = read_knowledge_base(shared / "data/medic/medic_06Jul2012.txt", "genbioel")
    trie = TargetNames(kb, MentionFormatter(bart, BartConfig(decoder_start_token_id=2))).trie
    assert trie.num_names == 71_930
    assert trie.num_nodes == 302_041 + 1  # the root
    assert trie.nbytes / trie.num_nodes <= 6.5
