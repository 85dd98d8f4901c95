"""What must hold for millions of names, on 200,000: memory, files, and the right answers for a sample of them."""

import tracemalloc

import numpy as np
import pytest
import torch

from angel_trl.trie import NameTrie

NAMES = 200_000
END = 2


def synthetic_names(seed=0):
    """About NAMES distinct sequences of 8 tokens on average, of Zipf-distributed tokens, as flat arrays."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.poisson(5.5, size=NAMES) + 3, 3, 30)
    tokens = (np.minimum(rng.zipf(1.25, size=lengths.sum()), 49_990) + 5).astype(np.int32)
    ends = np.cumsum(lengths) - 1
    # A number in the tokens before the end makes the names distinct, wherever its tokens stand among the others'.
    tokens[ends - 1], tokens[ends - 2] = 50_000 + np.arange(NAMES) % 500, 50_000 + np.arange(NAMES) // 500
    tokens[ends] = END
    return tokens, lengths


@pytest.fixture(scope="module")
def flat():
    return synthetic_names()


@pytest.fixture(scope="module")
def trie(flat):
    return NameTrie.build_flat(*flat)


def sample(flat, rows):
    tokens, lengths = flat
    ends = np.cumsum(lengths)
    return [tokens[end - length : end].tolist() for end, length in zip(ends[rows], lengths[rows], strict=True)]


def test_a_node_takes_at_most_six_and_a_half_bytes_in_memory_and_on_disk(trie, tmp_path):
    assert trie.num_nodes > 5 * NAMES
    assert trie.nbytes / trie.num_nodes <= 6.5
    assert trie.index_nbytes == 4 * NAMES
    trie.save(tmp_path / "trie")
    assert (tmp_path / "trie").stat().st_size <= trie.nbytes + trie.index_nbytes + 1000


def test_a_node_of_a_wide_vocabulary_takes_at_most_eight_and_a_half_bytes(flat):
    tokens, lengths = flat
    trie = NameTrie.build_flat(tokens + 200_000, lengths)
    assert trie.nbytes / trie.num_nodes <= 8.5


def test_building_takes_a_few_times_the_memory_of_the_names(flat):
    tokens, lengths = flat
    # A table of names by tokens would take 4 GB because of the last name.
    tokens, lengths = np.append(tokens, np.full(5_000, 7, dtype=np.int32)), np.append(lengths, 5_000)
    tracemalloc.start()
    try:
        NameTrie.build_flat(tokens, lengths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 8 * tokens.nbytes


def test_names_and_leaves_are_found_from_each_other(flat, trie):
    rows = np.random.default_rng(1).integers(NAMES, size=2_000)
    leaves = trie.find(sample(flat, rows))
    assert trie.is_leaf(leaves).all()
    assert trie.name(leaves).tolist() == rows.tolist()
    assert trie.leaf(torch.from_numpy(rows)).tolist() == leaves.tolist()
    assert trie.depth(leaves).tolist() == flat[1][rows].tolist()


def test_a_path_upwards_spells_the_name_backwards(flat, trie):
    rows = np.random.default_rng(2).integers(NAMES, size=50)
    for leaf, sequence in zip(trie.leaf(torch.from_numpy(rows)), sample(flat, rows), strict=True):
        path = trie.ancestors(leaf[None])
        assert trie.token(path[1:]).tolist() == sequence
        assert trie.parent(path).tolist() == [-1, *path[:-1].tolist()]


def test_every_name_lies_below_the_root(flat, trie):
    assert trie.longest()[0] == flat[1].max()
    words = torch.zeros(NAMES, 1, dtype=torch.int64)
    words[-1], words[0] = 4, -(2**63)
    assert trie.union_bits(words)[0].tolist() == [4 - 2**63]
    everything = trie.name(torch.arange(trie.num_nodes)[trie.is_leaf(torch.arange(trie.num_nodes))])
    assert torch.equal(everything, trie.leaf_name.long())


def test_extending_equals_building(flat, trie):
    tokens, lengths = flat
    begin = int(lengths[:-100].sum())
    old = NameTrie.build_flat(tokens[:begin], lengths[:-100])
    extended = old.extend(sample(flat, np.arange(NAMES - 100, NAMES)), names=range(NAMES - 100, NAMES), fingerprint="")
    for array in ("_tokens", "first_child", "leaf_name", "leaves_before"):
        assert torch.equal(getattr(extended, array), getattr(trie, array)), array
