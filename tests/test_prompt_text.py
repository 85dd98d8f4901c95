"""Prompts as text, for datasets: a tokenizer makes of them the ids that the model was given."""

import copy

import pytest
from test_formatting import decoder_only_formatter, encode, formatter_of
from tokenizers.processors import TemplateProcessing


def adds_its_beginning_token(tokenizer):
    beginning = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[beginning])


def leaves_it_out(tokenizer):
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


def has_none(tokenizer):
    tokenizer.bos_token = None


@pytest.mark.parametrize(
    ("change", "begin"), [(adds_its_beginning_token, " "), (leaves_it_out, "<s> "), (has_none, " ")]
)
def test_the_tokenizer_makes_of_a_prompt_s_text_the_same_ids_again(tokenizer, small_mentions, change, begin):
    tokenizer = copy.deepcopy(tokenizer)
    change(tokenizer)
    formatter = decoder_only_formatter(tokenizer)
    gout = encode(formatter, "Acute [Gout] here.")
    assert formatter.prompt_text(gout) == f"{begin}acute START gout END here. gout is"
    marked = ["a [β-thalassemia] , b .", "it 's [n't] ' s", "[x]  (y) !"]
    for mention in [*formatter.encode(small_mentions), *(encode(formatter, text) for text in marked)]:
        assert tuple(tokenizer(formatter.prompt_text(mention))["input_ids"]) == mention.prefix


def test_the_prompt_s_text_for_an_encoder_is_source_and_prefix_without_special_tokens(tokenizer):
    formatter = formatter_of(tokenizer)
    mention = encode(formatter, "Acute [Gout] here.")
    assert formatter.prompt_text(mention) == " acute START gout END here. gout is"
