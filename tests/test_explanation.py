"""The tree of a search: its numbers against every name scored by the stock forward, its names against the linker's."""

import numpy as np
import pytest
import torch
from brute_force import brute_force
from transformers import LlamaConfig, LlamaForCausalLM

from angel_trl.explanation import OUTCOMES, explain, notable
from angel_trl.formatting import MentionFormat
from angel_trl.kb import Concept, KnowledgeBase
from angel_trl.linker import EntityLinker

TEXT = "Metformin is given in [diabetes] of the old."


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(), tokenizer, small_kb, MentionFormat(max_words=100))


@pytest.fixture(scope="module")
def encoded(linker):
    plain = TEXT.replace("[", "").replace("]", "")
    return linker.targets.formatter.encode([{"text": plain, "start": 22, "end": 30}])


@pytest.fixture(scope="module")
def true_scores(linker, encoded):
    """Every name's log-probability, by name."""
    sequences = linker.targets.sequences
    return dict(zip(linker.kb.names, brute_force(linker.model, encoded, sequences)[0].tolist(), strict=True))


def prefixes(branch, tokens=0):
    """Every branch below the root with the number of tokens up to its end."""
    for below in branch.branches:
        yield below, tokens + below.tokens
        yield from prefixes(below, tokens + below.tokens)


@pytest.mark.parametrize("ranking", ["sum", "mean"])
def test_names_and_scores_are_those_of_the_linkers_candidates(linker, ranking):
    explained = explain(linker, TEXT, ranking=ranking)
    (linked,) = linker.link(TEXT, ranking=ranking)
    assert [name.name for name in explained.names] == [c.matched_name for c in linked.candidates]
    assert [name.ids for name in explained.names] == [c.ids for c in linked.candidates]
    np.testing.assert_allclose(
        [name.score for name in explained.names], [c.score for c in linked.candidates], atol=1e-5
    )
    assert explained.exact == linked.exact
    assert (explained.mention, explained.start, explained.end) == ("diabetes", 22, 30)


def test_every_whole_name_has_its_true_log_probability(linker, true_scores):
    explained = explain(linker, TEXT, num_beams=50, top_k=100)
    found = {branch.name: branch.score for branch in explained.root.walk() if branch.outcome == "name"}
    assert found.keys() == true_scores.keys()  # nothing is given up where all names are asked for
    for name, score in found.items():
        assert score == pytest.approx(true_scores[name], abs=1e-4)


def test_every_prefix_has_its_true_log_probability(linker, encoded):
    explained = explain(linker, TEXT)
    paths = {}
    for ids in linker.targets.sequences:
        for length in range(1, len(ids) + 1):
            text = linker.tokenizer.decode(ids[:length], skip_special_tokens=True).lstrip().rstrip("\ufffd")
            paths.setdefault((length, text), set()).add(tuple(ids[:length]))
    branches = [(branch, paths[length, branch.prefix]) for branch, length in prefixes(explained.root)]
    checked = [(branch, *found) for branch, found in branches if len(found) == 1]  # not the first bytes of β and ö
    scores = brute_force(linker.model, encoded, [path for _, path in checked])[0]
    np.testing.assert_allclose([branch.score for branch, _ in checked], scores, atol=1e-4)
    assert len(checked) > 40


def test_scores_are_sums_along_the_path(linker):
    explained = explain(linker, TEXT)
    for branch in explained.root.walk():
        for below in branch.branches:
            assert below.score == pytest.approx(branch.score + below.log_prob, abs=1e-6)
            assert below.prefix.startswith(branch.prefix)
            assert below.prefix == branch.prefix + below.text


def test_the_path_leads_to_the_best_name(linker):
    explained = explain(linker, TEXT)
    assert explained.path[-1] is explained.names[0]
    assert sum(branch.log_prob for branch in explained.path) == pytest.approx(explained.names[0].score, abs=1e-6)
    assert "".join(branch.text for branch in explained.path) == explained.names[0].name


@pytest.mark.parametrize("ranking", ["sum", "mean"])
@pytest.mark.parametrize("num_beams", [1, 4, 10])
def test_what_was_outscored_could_not_have_entered_the_list(linker, true_scores, num_beams, ranking):
    explained = explain(linker, TEXT, num_beams=num_beams, top_k=1, ranking=ranking)
    lengths = dict(zip(linker.kb.names, map(len, linker.targets.sequences), strict=True))
    worth = {n: score / (lengths[n] if ranking == "mean" else 1) for n, score in true_scores.items()}
    given_up = [branch.prefix for branch in explained.root.walk() if branch.outcome == "outscored"]
    below = [worth[name] for prefix in given_up for name in worth if name.startswith(prefix)]
    assert below
    assert max(below) <= worth[explained.names[0].name] + 1e-4


def test_a_list_that_is_not_exact_has_a_branch_outside_the_beam_and_an_exact_one_none(linker):
    outcomes = {}
    for num_beams in (4, 1000):
        explained = explain(linker, TEXT, num_beams=num_beams, top_k=3)
        outcomes[explained.exact] = {branch.outcome for branch in explained.root.walk()}
    assert outcomes[False] == {"name", "extended", "outscored", "beam"}
    assert outcomes[True] == {"name", "extended", "outscored"}
    assert set(OUTCOMES) == outcomes[False]


def test_an_exact_search_ends_without_a_branch_outside_the_beam(linker, true_scores):
    explained = explain(linker, TEXT, num_beams=1, exact=True)
    assert explained.exact
    assert [name.name for name in explained.names] == sorted(true_scores, key=lambda n: -true_scores[n])[:5]


def test_names_below_are_counted(linker, small_kb):
    explained = explain(linker, TEXT)
    assert explained.names_allowed == explained.root.names_below == small_kb.num_names
    assert sum(branch.names_below for branch in explained.root.branches) == small_kb.num_names
    for branch in explained.root.walk():
        begins = sum(name.startswith(branch.prefix) for name in small_kb.names)
        assert 1 <= branch.names_below <= begins


def test_a_name_that_others_go_on_from_ends_in_a_branch_without_text(linker):
    explained = explain(linker, TEXT, num_beams=50, top_k=100)
    (end,) = [branch for branch in explained.root.walk() if branch.name == "cancer"]
    assert (end.text, end.prefix, end.names_below, end.tokens) == ("", "cancer", 1, 1)


def test_a_restriction_leaves_only_what_it_allows(linker):
    restriction = linker.restrict(names=["Asthma", "Gout", "MS"], ids=["C03", "C19", "C30"])
    explained = explain(linker, TEXT, restriction=restriction)
    assert {name.name: name.ids for name in explained.names} == {"asthma": ("C19",), "gout": ("C30",), "ms": ("C03",)}
    assert explained.names_allowed == 3


def test_candidates_and_types_restrict_as_in_link(linker):
    explained = explain(linker, TEXT, candidates=["Asthma", "C30"])
    (linked,) = linker.link(TEXT, candidates=["Asthma", "C30"])
    assert [name.name for name in explained.names] == [c.matched_name for c in linked.candidates]
    assert explained.names_allowed == 3
    with pytest.raises(ValueError, match="beside a restriction"):
        explain(linker, TEXT, candidates=["Asthma"], restriction=linker.restrict(ids=["C30"]))


def test_a_decoder_only_model_is_explained_alike(tokenizer, small_kb):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.3, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    linker = EntityLinker(LlamaForCausalLM(config), tokenizer, small_kb)
    explained = explain(linker, TEXT)
    (linked,) = linker.link(TEXT)
    np.testing.assert_allclose([b.score for b in explained.names], [c.score for c in linked.candidates], atol=1e-5)


def test_characters_of_several_tokens_are_read_whole(make_model, tokenizer):
    kb = KnowledgeBase([Concept("1", ("日本",)), Concept("2", ("日光",)), Concept("3", ("月",))])
    explained = explain(EntityLinker(make_model(), tokenizer, kb), "[sun]")
    assert {name.prefix for name in explained.names} == {"日本", "日光", "月"}


def test_the_text_shows_each_name_of_the_list_and_counts_what_it_leaves_out(linker):
    explained = explain(linker, TEXT, top_k=2)
    text = explained.to_text(most=0)
    assert text.startswith("diabetes is ... (")
    for place, name in enumerate(explained.names):
        assert f"#{place + 1} {name.name} [{', '.join(name.ids)}]" in text
    assert f"{len(explained.root.branches) - len({n.prefix[0] for n in explained.names}):,} more, none above" in text


def test_the_notable_branches_of_a_fork_are_those_that_lead_to_the_list_and_the_likeliest(linker):
    root = explain(linker, TEXT, top_k=1).root
    shown, others = notable(root.branches, 2)
    assert len(shown) == 3
    assert others == [branch for branch in root.branches if branch not in shown]
    with pytest.raises(ValueError, match="most is -1"):
        explain(linker, TEXT).to_text(most=-1)


def test_a_span_marks_a_mention_in_a_text_with_brackets_of_its_own(linker):
    explained = explain(linker, "Old [1] diabetes", (8, 16))
    assert (explained.mention, explained.start, explained.end) == ("diabetes", 8, 16)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[a] and [b]", {}, "2 mentions are marked"),
        ("none", {}, r"no \[mention\]"),
        ("short", {"span": (3, 9)}, "span: offsets 3-9 do not lie in a text of 5 characters"),
        ("a  b", {"span": (1, 3)}, "span: offsets 1-3 mark nothing but blanks"),
        ("[a]", {"num_beams": 0}, r"num_beams \(0\)"),
        ("[a]", {"ranking": "best"}, "ranking is 'best'; choose one of sum, mean"),
        ("[" + "word " * 200 + "]", {}, "longer than the model's window"),
    ],
)
def test_what_cannot_be_explained_is_said(linker, text, options, message):
    with pytest.raises(ValueError, match=message):
        explain(linker, text, **options)


def test_a_restriction_of_other_names_is_refused(linker, make_model, tokenizer):
    other = EntityLinker(make_model(), tokenizer, KnowledgeBase([Concept("1", ("a",))]))
    with pytest.raises(ValueError, match="made for other names"):
        explain(linker, TEXT, restriction=other.restrict(names=["a"]))
