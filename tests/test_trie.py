import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def assert_same(trie, other):
    for array in ("_tokens", "first_child", "leaf_name", "leaves_before"):
        one, two = getattr(trie, array), getattr(other, array)
        assert one.dtype == two.dtype, array
        assert one.tolist() == two.tolist(), array


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


def test_a_trie_built_of_flat_arrays_is_the_same():
    flat, lengths = [token for sequence in FOUR for token in sequence], [len(sequence) for sequence in FOUR]
    for dtype in (np.int32, np.uint16):
        trie = NameTrie.build_flat(np.array(flat, dtype=dtype), np.array(lengths, dtype=np.int32), fingerprint="abc")
        assert_same(trie, NameTrie.build(FOUR))
        assert trie.fingerprint == "abc"


def test_names_that_differ_only_after_many_tokens_are_sorted():
    trie = NameTrie.build([[7] * 300 + [9, END], [7] * 300 + [8, END], [7] * 299 + [END]])
    assert trie.num_nodes == 1 + 300 + 1 + 4
    assert trie.leaf_name.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "needs at least one name"),
        ([[4, END], []], "Name 1 has no tokens"),
        ([[4, END], [5, END], [4, END]], "Names 0 and 2 have the same tokens"),
        ([[4, END], [5, END], [3, END], [5, END], [4, END]], "Names 0 and 4 have the same tokens"),
        ([[4, 5, END], [4]], "Name 1 is a prefix of another"),
        ([[0, 0, END], [0]], "Name 1 is a prefix of another"),
        ([[9, 5, END], [9], [4, 5], [4, 5, 5, END]], "Name 1 is a prefix of another"),
        ([[4, END], [-1, END]], "Name 1 has a negative token"),
        ([[4, END], [5] * 2**15], "Name 1 has more than 32,767 tokens"),
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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([1], "2 sequences but 1 name indices"),
        ([5, 5], "Name index 5 is given twice"),
        ([-1, 0], "from -1 to 0"),
        ([0, 2**31], "from 0 to 2147483648"),
    ],
)
def test_name_indices_that_cannot_be_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        NameTrie.build([[4, END], [3, END]], names=names)


def test_flat_arrays_that_make_no_sequences_are_refused():
    with pytest.raises(ValueError, match="lengths add up to 3, but there are 2 tokens"):
        NameTrie.build_flat(np.array([4, END], dtype=np.int32), np.array([3]))
    with pytest.raises(TypeError, match="must be int32 or uint16, not int64"):
        NameTrie.build_flat(np.array([4, END]), np.array([2]))


def test_arrays_of_different_tries_are_refused():
    trie = NameTrie.build(FOUR)
    with pytest.raises(ValueError, match="has 4 leaves but names for 3"):
        NameTrie(trie._tokens, trie.first_child, trie.leaf_name[:3])
    with pytest.raises(ValueError, match="tokens for 9 nodes but `first_child` for 10"):
        NameTrie(trie._tokens[:-1], trie.first_child, trie.leaf_name)
    counts = torch.tensor([0, 1, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match="10 nodes but leaves counted for 2 blocks"):
        NameTrie(trie._tokens, trie.first_child, trie.leaf_name, leaves_before=counts)


# --- navigation ------------------------------------------------------------------------------------------------------


def test_children_are_counted_and_found_by_token():
    trie = NameTrie.build(FOUR)
    assert trie.num_children(nodes(0, 1, 4, 9)).tolist() == [2, 2, 1, 0]
    assert trie.child(nodes(0, 0, 0, 2, 9, -1), nodes(5, 7, 8, END, END, 5)).tolist() == [1, 2, -1, 5, -1, -1]
    assert trie.child(nodes(0, 0), nodes(-1, 2**16 + 5)).tolist() == [-1, -1]
    assert trie.child(nodes(), nodes()).tolist() == []


def test_sequences_are_found_only_whole():
    trie = NameTrie.build(FOUR)
    assert trie.find([[5, 9, 9, END], [7, END], [7], [7, END, END], [], [8, END]]).tolist() == [9, 5, -1, -1, -1, -1]
    assert trie.find([]).tolist() == []


def test_names_lead_to_their_leaves():
    trie = NameTrie.build(FOUR, names=[40, 10, 20, 30])
    assert trie.leaf(nodes(40, 10, 20, 30)).tolist() == [8, 3, 5, 9]
    assert trie.leaf(torch.tensor([[41, -1], [0, 30]])).tolist() == [[-1, -1], [-1, 9]]


def test_parents_and_depths():
    trie = NameTrie.build(FOUR)
    assert trie.parent(torch.arange(10)).tolist() == [-1, 0, 0, 1, 1, 2, 2, 4, 6, 7]
    assert trie.depth(torch.arange(10)).tolist() == [0, 1, 1, 2, 2, 2, 2, 3, 3, 4]
    assert trie.level_offsets.tolist() == [0, 1, 3, 7, 9, 10]


def test_ancestors_are_the_nodes_on_the_paths():
    trie = NameTrie.build(FOUR)
    assert trie.ancestors(nodes(9, 5)).tolist() == [0, 1, 2, 4, 5, 7, 9]
    assert trie.ancestors(nodes(3, 3)).tolist() == [0, 1, 3]
    assert trie.ancestors(nodes()).tolist() == []


def test_longest_is_the_depth_of_the_deepest_leaf_below():
    longest = NameTrie.build(FOUR).longest()
    assert longest.tolist() == [4, 4, 3, 2, 4, 2, 3, 4, 3, 4]
    assert longest.dtype == torch.int16


def test_union_bits_are_those_of_all_leaves_below():
    trie = NameTrie.build(FOUR)  # leaves 3 5 8 9
    bits = trie.union_bits(torch.tensor([[1, 0], [2, -(2**63)], [2, 1], [4, 0]]))
    assert bits[:, 0].tolist() == [7, 5, 2, 1, 4, 2, 2, 4, 2, 4]
    assert bits[[0, 2, 5], 1].tolist() == [1 - 2**63, 1 - 2**63, -(2**63)]
    with pytest.raises(ValueError, match=r"\[4, words\].* not \[3, 2\]"):
        trie.union_bits(torch.zeros(3, 2, dtype=torch.int64))


WORDS = st.lists(st.sampled_from([0, 3, 4, 5, 40_000, 2**16 - 1]), max_size=6).map(lambda word: (*word, END))
SEQUENCES = st.lists(WORDS, min_size=1, max_size=60, unique=True)


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_build_and_navigation_equal_a_dictionary_of_prefixes(sequences):
    trie = NameTrie.build(sequences)
    prefixes = {sequence[:length] for sequence in sequences for length in range(len(sequence) + 1)}
    order = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    node = {prefix: i for i, prefix in enumerate(order)}
    everything = torch.arange(len(order))
    below = [[i for i, name in enumerate(sequences) if name[: len(prefix)] == prefix] for prefix in order]
    assert trie.num_nodes == len(order)
    assert trie.token(everything[1:]).tolist() == [prefix[-1] for prefix in order[1:]]
    assert trie.parent(everything).tolist() == [-1] + [node[prefix[:-1]] for prefix in order[1:]]
    assert trie.depth(everything).tolist() == [len(prefix) for prefix in order]
    assert trie.num_children(everything).tolist() == [
        sum(other[:-1] == prefix for other in order if other) for prefix in order
    ]
    assert paths(trie) == {name: i for i, name in enumerate(sequences)}
    leaves = trie.find(sequences)
    assert leaves.tolist() == trie.leaf(torch.arange(len(sequences))).tolist() == [node[name] for name in sequences]
    assert trie.longest().tolist() == [max(len(sequences[i]) for i in names) for names in below]
    bits = trie.union_bits(1 << trie.leaf_name.long()[:, None])
    assert bits[:, 0].tolist() == [sum(1 << i for i in names) for names in below]
    half = {name[:length] for name in sequences[::2] for length in range(len(name) + 1)}
    assert trie.ancestors(leaves[::2]).tolist() == sorted(node[prefix] for prefix in half)
    asked = [(i, token) for i in range(len(order)) for token in (0, 3, 5, END, 40_000, 2**16 - 1, 2**16 + 3, -1)]
    assert trie.child(*torch.tensor(asked).T).tolist() == [node.get((*order[i], token), -1) for i, token in asked]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_trie_on_the_gpu_answers_like_one_in_memory():
    rng = np.random.default_rng(0)
    trie = NameTrie.build([[*rng.integers(3, 9, size=rng.integers(1, 9)).tolist(), 10 + i, END] for i in range(500)])
    trie.longest()
    moved = trie.to("cuda")
    leaves, everything = trie.leaf(torch.arange(500)), torch.arange(trie.num_nodes)
    bits = torch.from_numpy(rng.integers(2**63, size=(500, 2)))
    assert torch.equal(moved.leaf(torch.arange(500, device="cuda")).cpu(), leaves)
    assert torch.equal(moved.name(leaves.cuda()).cpu(), torch.arange(500))
    for method in ("token", "num_children", "parent", "depth", "is_leaf", "ancestors"):
        assert torch.equal(getattr(moved, method)(everything.cuda()).cpu(), getattr(trie, method)(everything)), method
    for one, other in zip(moved.expand(everything.cuda()), trie.expand(everything), strict=True):
        assert torch.equal(one.cpu(), other)
    tokens = trie.token(everything)
    assert torch.equal(moved.child(trie.parent(everything).cuda(), tokens.cuda()).cpu()[1:], everything[1:])
    assert torch.equal(moved.find([[3, END], [3]]).cpu(), trie.find([[3, END], [3]]))
    assert torch.equal(moved.longest().cpu(), trie.longest())
    assert torch.equal(moved.union_bits(bits.cuda()).cpu(), trie.union_bits(bits))
    more = [[3, END], [40, END]]
    extended = moved.extend(more, names=[500, 501], fingerprint="")
    assert extended.first_child.is_cuda
    assert_same(extended.to("cpu"), trie.extend(more, names=[500, 501], fingerprint=""))


# --- extension -------------------------------------------------------------------------------------------------------


@given(SEQUENCES, st.data())
@settings(max_examples=80, deadline=None)
def test_an_extended_trie_is_the_one_built_of_all_names(sequences, data):
    if data.draw(st.booleans(), label="a wide token"):
        sequences.append((3, 70_000, END))
    old = data.draw(st.integers(1, len(sequences)), label="old names")
    numbers = np.array(data.draw(st.permutations(range(len(sequences)))))
    for trie, renumber in (
        (NameTrie.build(sequences[:old], names=numbers[:old]), None),
        (NameTrie.build(sequences[:old]), numbers[:old]),
    ):
        extended = trie.extend(sequences[old:], names=numbers[old:], fingerprint="new", renumber=renumber)
        assert_same(extended, NameTrie.build(sequences, names=numbers))
        assert extended.fingerprint == "new"


def test_extending_leaves_the_old_trie_as_it_was():
    trie = NameTrie.build(FOUR, fingerprint="abc")
    trie.extend([[5, 8, END], [70_000, END]], names=[4, 5], fingerprint="new", renumber=np.array([9, 8, 7, 6]))
    assert_same(trie, NameTrie.build(FOUR))
    assert trie.fingerprint == "abc"


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([[6, END], [5, END]], "Names 10 and 101 have the same tokens"),
        ([[6, END], [6, END]], "Names 100 and 101 have the same tokens"),
        ([[6, END], [5, 9]], "Name 101 is a prefix of another"),
        ([[6, END], [6]], "Name 101 is a prefix of another"),
        ([[6, END], [7, END, END]], "Name 20 is a prefix of another"),
        ([[6, END], []], "Name 101 has no tokens"),
    ],
)
def test_sequences_that_do_not_fit_the_trie_are_refused(sequences, message):
    trie = NameTrie.build(FOUR, names=[40, 10, 20, 30])
    with pytest.raises(ValueError, match=message):
        trie.extend(sequences, names=[100, 101], fingerprint="")


@pytest.mark.parametrize(
    ("renumber", "message"),
    [
        (None, "Name index 2 is given twice"),
        ([0, 1, 3], "renumber has 3 entries, but the trie holds name 3"),
        ([0, -1, 3, -1], "renumber gives name 1 of the trie no new index"),
        ([0, 1, 3, 3], "Name index 3 is given twice"),
    ],
)
def test_numbers_that_do_not_fit_the_trie_are_refused(renumber, message):
    with pytest.raises(ValueError, match=message):
        NameTrie.build(FOUR).extend([[6, END]], names=[2], fingerprint="", renumber=renumber and np.array(renumber))


# --- a real dictionary -----------------------------------------------------------------------------------------------


def test_medic_with_the_tokenizer_of_bart(shared):
    from transformers import BartConfig, BartTokenizer

    folder = shared / "data/bart_tokenizer"
    bart = BartTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    kb = read_knowledge_base(shared / "data/medic/medic_06Jul2012.txt", "genbioel")
    trie = TargetNames(kb, MentionFormatter(bart, BartConfig(decoder_start_token_id=2))).trie
    assert trie.num_names == 71_884
    assert trie.num_nodes == 299_234
    assert trie.nbytes / trie.num_nodes <= 6.5
