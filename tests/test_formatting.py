"""The format, token for token: the ids below were worked out apart from the package from vocab.json and merges.txt."""

import copy
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartTokenizer, GPT2Config, LlamaConfig, T5Config

from angel_trl.formatting import EncodedMention, MentionFormat, MentionFormatter, truncate_context
from angel_trl.linked import parse_brackets
from angel_trl.scratch import train_tokenizer

START, END, IS = 33714, 34588, 16  # " START", " END", " is" in BART's vocabulary
A, B, C = 10, 741, 740  # " a", " b", " c"

# Passage with the mention in brackets, rule for the mention, encoder ids, decoder prefix.
LITERAL = [
    (
        "Famotidine-associated [delirium].",
        "genbioel",
        [0, 13403, 1242, 40314, 12, 38838, 33714, 2424, 853, 4031, 34588, 479, 2],
        [2, 2424, 853, 4031, 16],
    ),
    (
        "What [this is called] nobody knows.",
        "genbioel",
        [0, 99, 33714, 42, 16, 373, 34588, 5907, 2215, 4, 2],
        [2, 42, 16, 373, 16],
    ),
    ("[IS] it?", "genbioel", [0, 33714, 16, 34588, 24, 116, 2], [2, 16, 16]),
    (
        "Loss of [β-Thalassemia] carriers",
        "genbioel",
        [0, 872, 9, 33714, 47743, 3553, 337, 10627, 24238, 34588, 9816, 2],
        [2, 47743, 3553, 337, 10627, 24238, 16],
    ),
    (
        "Dry eyes in [Sjögren’s syndrome], often",
        "genbioel",
        [0, 3841, 2473, 11, 33714, 579, 267, 3671, 22470, 17, 27, 29, 14115, 34588, 2156, 747, 2],
        [2, 579, 267, 3671, 22470, 17, 27, 29, 14115, 16],
    ),
    (
        "[Sjögren's syndrome]",
        "genbioel",
        [0, 33714, 579, 267, 3671, 22470, 579, 14115, 34588, 2],
        [2, 579, 267, 3671, 22470, 579, 14115, 16],
    ),
    (
        "A naïve 患者 with [肝炎]!",
        "genbioel",
        [0, 10, 39300, 47416, 9264, 2469, 49337, 19, 33714, 47897, 9264, 46, 36714, 49974, 34588, 27785, 2],
        [2, 47897, 9264, 46, 36714, 49974, 16],
    ),
    (
        "a [non-small-cell (lung) carcinoma], stage II",
        "genbioel",
        [0, 10, 33714, 786, 650, 3551, 10665, 30708, 4982, 34588, 2156, 1289, 42661, 2],
        [2, 786, 650, 3551, 10665, 30708, 4982, 16],
    ),
    (
        "a [non-small-cell (lung) carcinoma], stage II",
        "lower",
        [0, 10, 33714, 786, 12, 23115, 12, 7841, 36, 462, 1545, 43, 30708, 4982, 34588, 2156, 1289, 42661, 2],
        [2, 786, 12, 23115, 12, 7841, 36, 462, 1545, 43, 30708, 4982, 16],
    ),
    ("The sign [+/-] was seen", "genbioel", [0, 5, 1203, 33714, 44832, 34588, 21, 450, 2], [2, 44832, 16]),
    ("[HIV] first", "genbioel", [0, 33714, 1368, 1879, 34588, 78, 2], [2, 1368, 1879, 16]),
    ("last [HIV]", "genbioel", [0, 94, 33714, 1368, 1879, 34588, 2], [2, 1368, 1879, 16]),
    ("anti[HIV]drug", "genbioel", [0, 1475, 33714, 1368, 1879, 34588, 1262, 2], [2, 1368, 1879, 16]),
    ("START of [AIDS] at the END", "genbioel", [0, 386, 9, 33714, 25842, 34588, 23, 5, 253, 2], [2, 25842, 16]),
    (
        "two  spaces and a\nline [breast   cancer]  here",
        "genbioel",
        [0, 80, 1437, 5938, 8, 10, 50118, 1902, 33714, 6181, 1668, 34588, 259, 2],
        [2, 6181, 1668, 16],
    ),
    (
        "[5-Fluorouracil] 500 mg/m2",
        "lower",
        [0, 33714, 195, 12, 33266, 368, 2126, 1043, 718, 34588, 1764, 17844, 73, 119, 176, 2],
        [2, 195, 12, 33266, 368, 2126, 1043, 718, 16],
    ),
    (
        "[5-Fluorouracil] 500 mg/m2",
        "genbioel",
        [0, 33714, 195, 39354, 2126, 1043, 718, 34588, 1764, 17844, 73, 119, 176, 2],
        [2, 195, 39354, 2126, 1043, 718, 16],
    ),
    (
        "Risk (45%) of [Type-2 Diabetes; NIDDM] = high",
        "genbioel",
        [0, 810, 36, 1898, 8871, 9, 33714, 1907, 132, 7704, 295, 6502, 119, 34588, 5457, 239, 2],
        [2, 1907, 132, 7704, 295, 6502, 119, 16],
    ),
    (
        "It's the patient's [A-T].",
        "genbioel",
        [0, 24, 18, 5, 3186, 18, 33714, 10, 326, 34588, 479, 2],
        [2, 10, 326, 16],
    ),
    (
        "[α₁-antitrypsin deficiency] & co",
        "genbioel",
        [0, 33714, 47188, 24987, 9264, 10172, 38000, 1506, 3275, 179, 30367, 34588, 359, 1029, 2],
        [2, 47188, 24987, 9264, 10172, 38000, 1506, 3275, 179, 30367, 16],
    ),
    (
        "“[Fever]” – 39 °C",
        "genbioel",
        [0, 44, 48, 33714, 11696, 34588, 44, 46, 126, 3191, 33397, 438, 2],
        [2, 11696, 16],
    ),
    ("[Breast Cancer]", "none", [0, 33714, 25182, 7568, 34588, 2], [2, 25182, 7568, 16]),
]

# Name, and what the trie holds of it after the last token of the prefix.
LITERAL_NAMES = [
    ("breast cancer", [16, 6181, 1668, 2]),
    ("a t", [16, 10, 326, 2]),
    ("β thalassemia", [16, 47743, 3553, 337, 10627, 24238, 2]),
    ("5 fluorouracil", [16, 195, 39354, 2126, 1043, 718, 2]),
    ("sjögren s syndrome", [16, 579, 267, 3671, 22470, 579, 14115, 2]),
    ("delirium", [16, 2424, 853, 4031, 2]),
    ("this is called", [16, 42, 16, 373, 2]),
    ("患者", [16, 47416, 9264, 2469, 49337, 2]),
]


@pytest.fixture(scope="module")
def bart(shared):
    folder = shared / "data/bart_tokenizer"
    return BartTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def formatter_of(tokenizer, window=1024, **choices):
    config = BartConfig(decoder_start_token_id=2, max_position_embeddings=window)
    return MentionFormatter(tokenizer, config, MentionFormat(**choices))


def encode(formatter, marked):
    text, [(start, end)] = parse_brackets(marked)
    return formatter.encode([{"text": text, "start": start, "end": end}])[0]


# --- BART's tokenizer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("marked", "rule", "source", "prefix"), LITERAL, ids=[str(i) for i in range(len(LITERAL))])
def test_bart_ids(bart, marked, rule, source, prefix):
    assert encode(formatter_of(bart, mention_normalization=rule), marked) == EncodedMention(
        tuple(source), tuple(prefix)
    )


@pytest.mark.parametrize(("name", "entry"), LITERAL_NAMES, ids=[name for name, _ in LITERAL_NAMES])
def test_bart_names(bart, name, entry):
    formatter = formatter_of(bart)
    [tokens] = formatter.names([name])
    prefix = encode(formatter, "seen in [gout].").prefix
    assert prefix == (2, 821, 995, IS)
    assert [prefix[-1], *tokens] == entry
    # What training scores after the prefix, with the labels of the prefix masked, is that same sequence.
    assert [*prefix, *tokens] == [2, 821, 995, *entry]


def test_a_document_of_384_words_is_whole(bart):
    mention = encode(formatter_of(bart), "a " * 183 + "[c]" + " b" * 200)
    assert mention.source == (0, *[A] * 183, START, C, END, *[B] * 200, 2)


def test_a_long_document_loses_its_right_end_where_the_left_is_short(bart):
    mention = encode(formatter_of(bart), "a " * 100 + "[c]" + " b" * 400)
    assert mention.source == (0, *[A] * 100, START, C, END, *[B] * 284, 2)


def test_a_long_document_loses_its_left_end_where_the_right_is_short(bart):
    mention = encode(formatter_of(bart), "b" + " a" * 399 + " [c]" + " b" * 92 + " a" * 100)
    assert mention.source == (0, *[A] * 192, START, C, END, *[B] * 92, *[A] * 100, 2)


def test_a_long_document_keeps_half_on_each_side_where_both_are_long(bart):
    mention = encode(formatter_of(bart), "b " * 300 + "a " * 192 + "[c]" + " a" * 192 + " b" * 300)
    assert mention.source == (0, *[A] * 192, START, C, END, *[A] * 192, 2)


def test_a_left_side_of_exactly_half_stays_whole(bart):
    mention = encode(formatter_of(bart), "a " * 192 + "[c]" + " b" * 193)
    assert mention.source == (0, *[A] * 192, START, C, END, *[B] * 192, 2)


# --- the same rules with any tokenizer -------------------------------------------------------------------------------


def test_the_format_with_a_tokenizer_of_ones_own():
    tokenizer = train_tokenizer(["gout"] * 9, 300)
    ids = tokenizer.get_vocab()
    space = [ids["Ġ"]]

    def letters(word):
        return [*space, *(ids[letter] for letter in word)]

    formatter = formatter_of(tokenizer)
    mention = encode(formatter, "A [Gout] b.")
    assert mention.source == (0, *letters("a"), ids["ĠSTART"], ids["Ġgout"], ids["ĠEND"], *letters("b"), ids["."], 2)
    assert mention.prefix == (2, ids["Ġgout"], ids["Ġis"])
    assert formatter.names(["gout", "xy"]) == [[ids["Ġgout"], 2], [*letters("xy"), 2]]


@given(
    st.text("aB is-(éβ.", max_size=12),
    st.text("aB is-(éβ.", min_size=1, max_size=8).filter(str.strip),
    st.text("aB is-(éβ.", max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_prefix_and_name_are_never_cut_differently_together(own_tokenizer, left, mention, right):
    formatter = formatter_of(own_tokenizer)
    row = {"text": left + mention + right, "start": len(left), "end": len(left) + len(mention)}
    [encoded] = formatter.encode([row])
    [name] = formatter.names(["b ai is"])
    said = formatter.mention_text(mention)
    together = own_tokenizer.encode(f" {said} is b ai is", add_special_tokens=False)
    assert [*encoded.prefix, *name] == [2, *together, 2]
    assert (encoded.source[0], encoded.source[-1], encoded.prefix[0]) == (0, 2, 2)


@pytest.fixture(scope="module")
def own_tokenizer():
    return train_tokenizer(["gout is an arthritis", "a b is"] * 5, 320)


def test_encode_keeps_order_and_is_the_same_one_by_one(tokenizer, small_mentions):
    formatter = formatter_of(tokenizer)
    together = formatter.encode(small_mentions)
    assert together == [formatter.encode([row])[0] for row in small_mentions]
    assert formatter.encode([]) == []


def test_nothing_to_tokenise_is_an_empty_list(tokenizer):
    assert formatter_of(tokenizer).names([]) == []


def decoder_only_formatter(tokenizer, window=1024, **choices):
    return MentionFormatter(tokenizer, GPT2Config(n_positions=window), MentionFormat(**choices))


def test_a_decoder_only_model_gets_passage_and_prefix_as_one_prompt(tokenizer, small_mentions):
    prompts = decoder_only_formatter(tokenizer).encode(small_mentions)
    for prompt, mention in zip(prompts, formatter_of(tokenizer).encode(small_mentions), strict=True):
        # The source without its end token, then the prefix without the decoder's start token.
        assert prompt == EncodedMention((), (*mention.source[:-1], *mention.prefix[1:]))


def test_a_prompt_in_words(tokenizer):
    prompt = encode(decoder_only_formatter(tokenizer), "Acute [Gout] here.")
    assert prompt.source == ()
    assert tokenizer.decode(prompt.prefix) == "<s> acute START gout END here. gout is"


def test_a_prompt_of_a_tokenizer_without_a_beginning_token(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = None
    assert tokenizer.decode(encode(decoder_only_formatter(tokenizer), "[gout]").prefix) == " START gout END gout is"


def test_a_prompt_is_cut_to_half_of_the_window(caplog):
    tokenizer = train_tokenizer(["gout"] * 9, 300)  # other words cost a token a letter
    with caplog.at_level(logging.INFO, "angel_trl.formatting"):
        prompt = encode(decoder_only_formatter(tokenizer, window=32), "yyyyyyyy x [gout] x yyyyyyyy")
    assert tokenizer.decode(prompt.prefix) == "<s> x START gout END x gout is"
    assert len(prompt.prefix) <= 16
    assert "1 passages were cut further to fit the model's window of 32 tokens" in caplog.text


def test_a_prompt_longer_than_half_of_the_window_is_none():
    tokenizer = train_tokenizer(["gout"] * 9, 300)
    formatter = decoder_only_formatter(tokenizer, window=32)
    # Beginning token, "START", " ", letters, "END", " ", letters and "is": 6 and twice the letters.
    assert len(encode(formatter, "x [yyyyy] x").prefix) == 16
    assert encode(formatter, "x [yyyyyy] x") is None


def test_a_decoder_only_model_needs_no_decoder_start(tokenizer):
    formatter = MentionFormatter(tokenizer, LlamaConfig(max_position_embeddings=512))
    assert (formatter.has_encoder, formatter.decoder_start, formatter.max_tokens) == (False, [], 512)
    assert formatter.names(["gout"]) == formatter_of(tokenizer).names(["gout"])
    assert formatter.fingerprint("abc") == formatter_of(tokenizer).fingerprint("abc")


# --- words and windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "max_words", "expected"),
    [
        ("l1 l2 l3", "r1 r2 r3", 8, ("l1 l2 l3", "r1 r2 r3")),
        ("l1 l2", "r1 r2 r3", 4, ("l1 l2", "r1 r2")),
        ("l1 l2 l3", "r1", 4, ("l1 l2 l3", "r1")),
        ("l1 l2 l3 l4", "r1", 4, ("l2 l3 l4", "r1")),
        ("l1 l2 l3", "r1 r2 r3", 4, ("l2 l3", "r1 r2")),
        ("l1 l2 l3", "r1 r2 r3", 3, ("l3", "r1")),
        ("l1 l2 l3", "r1 r2 r3", 1, ("", "")),
        ("l1 l2 l3", "r1 r2 r3", 0, ("", "")),
        ("l1 l2 l3", "", 0, ("", "")),
        ("", "r1 r2 r3", 2, ("", "r1 r2")),
        (" l1 \n", "  r1 ", 8, ("l1", "r1")),
    ],
)
def test_context_is_cut_by_words(left, right, max_words, expected):
    assert truncate_context(left, "m", right, max_words) == expected


def test_a_passage_of_long_words_is_cut_until_it_fits_the_window(caplog):
    tokenizer = train_tokenizer(["gout"] * 9, 300)  # other words cost a token a letter
    formatter = formatter_of(tokenizer, window=32)
    with caplog.at_level(logging.INFO, "angel_trl.formatting"):
        mention = encode(formatter, "yyyyyyyy xxxx [gout] xxxx yyyyyyyy")
    assert tokenizer.decode(mention.source[1:-1]) == " xxxx START gout END xxxx"
    assert "1 passages were cut further" in caplog.text


def test_context_is_given_up_before_the_mention_is():
    tokenizer = train_tokenizer(["gout"] * 9, 300)
    mention = encode(formatter_of(tokenizer, window=16), f"{'y' * 20} [gout] {'z' * 20}")
    assert tokenizer.decode(mention.source[1:-1]) == " START gout END"


def test_a_mention_longer_than_the_window_is_none():
    tokenizer = train_tokenizer(["gout"] * 9, 300)
    formatter = formatter_of(tokenizer, window=16)
    assert encode(formatter, f"[{'y' * 20}]") is None
    # Half of the decoder's window belongs to the name: start, " ", 5 letters and " is" are 8, one letter more is 9.
    assert len(encode(formatter, "[yyyyy]").prefix) == 8
    assert encode(formatter, "[yyyyyy]") is None


def test_a_model_without_a_window_takes_any_length(tokenizer):
    formatter = MentionFormatter(tokenizer, T5Config(decoder_start_token_id=0))
    assert formatter.max_tokens is None
    assert len(encode(formatter, f"[{'y' * 3000}]").source) > 1000


# --- errors and identity ---------------------------------------------------------------------------------------------


def test_a_mention_that_normalises_to_nothing_keeps_its_characters(tokenizer):
    formatter = formatter_of(tokenizer)
    assert formatter.mention_text("(+)") == "(+)"
    assert formatter.source_text("the (+) sign", 4, 7) == "the START (+) END sign"
    assert formatter.prefix_text("(+)") == "(+) is"


def test_choices_are_checked():
    with pytest.raises(ValueError, match="max_words is 1"):
        MentionFormat(max_words=1)
    with pytest.raises(ValueError, match="mention_normalization is 'upper'; choose one of genbioel, lower, none"):
        MentionFormat(mention_normalization="upper")


def test_a_model_without_decoder_start_is_refused(tokenizer):
    config = BartConfig()
    config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="'bart' model has no decoder_start_token_id"):
        MentionFormatter(tokenizer, config)


def test_a_tokenizer_without_end_token_is_refused():
    tokenizer = train_tokenizer(["gout"], 300)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        formatter_of(tokenizer)


def test_fingerprint_tells_names_and_tokenizers_apart(tokenizer):
    one = formatter_of(tokenizer).fingerprint("abc")
    assert one == formatter_of(tokenizer, max_words=20).fingerprint("abc")
    others = [formatter_of(tokenizer).fingerprint("abd"), formatter_of(train_tokenizer(["a"], 300)).fingerprint("abc")]
    assert len({one, *others}) == 3
