"""What a training step is compared with: each side of each pair through the whole model, a reference model beside it.

Written from the description of DPO (Rafailov et al., 2023), with transformers' BART as it comes. Nothing of a step is
shared: a mention with two pairs is encoded four times by the policy and four times by the reference. What both sides
get to do stands here too: random token ids in the format of the linker.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel

from angel_trl.collator import MentionPairs
from angel_trl.formatting import EncodedMention

BOS, PAD, END, SPECIAL = 0, 1, 2, 5
BETA = 0.1


@dataclasses.dataclass
class Shape:
    """Size of the model and of a batch.

    Args:
        width: of the model; a head is 64 wide (or as wide as the model), feed-forward layers 4 times the width.
        layers: of the encoder, and as many of the decoder.
        vocabulary: token ids.
        source_tokens: of a mention, all of them filled.
        target_tokens: the decoder's labels: words before the name, then the name with its end token.
        prefix_tokens: what the decoder is given before the name: its start token and the words before the name.
        mentions: in a batch.
        pairs: of a mention, all with the same right name, as mining makes them.
    """

    width: int = 512
    layers: int = 6
    vocabulary: int = 50_265
    source_tokens: int = 128
    target_tokens: int = 16
    prefix_tokens: int = 4
    mentions: int = 8
    pairs: int = 2

    @property
    def name_tokens(self) -> int:
        """Tokens of a name with its end token; the start token is no label."""
        return self.target_tokens - self.prefix_tokens + 1


def make_model(shape: Shape, seed: int) -> BartForConditionalGeneration:
    """A BART with random weights and without dropout, which would make policy and reference differ by noise."""
    heads = max(1, shape.width // 64)
    config = BartConfig(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BartForConditionalGeneration(config)


def make_items(shape: Shape, *, ragged: bool = False) -> list[MentionPairs]:
    """One batch of mentions with random tokens, the same in every process; reference log-probabilities are 0.

    With `ragged`, sources and names have lengths of their own, half of the shape's or more, and mentions one pair more
    or less: what padding must not change.
    """
    draw = torch.Generator().manual_seed(1)

    def length(most: int) -> int:
        return int(torch.randint(max(1, most // 2), most + 1, (), generator=draw)) if ragged else most

    def words(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(SPECIAL, shape.vocabulary, (count,), generator=draw).tolist())

    def name() -> tuple[int, ...]:
        return (*words(length(shape.name_tokens - 1)), END)

    items = []
    for place in range(shape.mentions):
        source = (BOS, *words(length(shape.source_tokens - 2)), END)
        chosen = name()
        pairs = max(1, shape.pairs + place % 3 - 1) if ragged else shape.pairs
        items.append(
            MentionPairs(
                EncodedMention(source, (END, *words(shape.prefix_tokens - 1))),
                tuple((chosen, name(), 0.0, 0.0) for _ in range(pairs)),
            )
        )
    return items


def pair_rows(items: Sequence[MentionPairs]) -> list[tuple[EncodedMention, Sequence[int]]]:
    """Mention and name of every row: the right name of each pair, then the wrong name of each pair."""
    return [(item.mention, pair[side]) for side in (0, 1) for item in items for pair in item.pairs]


@dataclasses.dataclass(frozen=True)
class PlainBatch:
    """Rows for an encoder-decoder model: the right name of each pair, then the wrong name of each pair.

    Args:
        source: int64 `[rows, source tokens]`, padded on the right, and its mask.
        decoder: int64 `[rows, time]`, what the decoder reads.
        labels: int64 `[rows, time]`, what it should say; -100 where nothing is scored.
    """

    source: torch.Tensor
    mask: torch.Tensor
    decoder: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, items: Sequence[MentionPairs], device: torch.device | str = "cpu") -> "PlainBatch":
        """The rows of a batch of mentions."""
        rows = pair_rows(items)

        def pad(sequences: list[Sequence[int]], value: int) -> torch.Tensor:
            tensors = [torch.tensor(ids) for ids in sequences]
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value).to(device)

        source = pad([mention.source for mention, _ in rows], PAD)
        return cls(
            source,
            pad([[1] * len(mention.source) for mention, _ in rows], 0),
            pad([(*mention.prefix, *name[:-1]) for mention, name in rows], PAD),
            pad([(*[-100] * (len(mention.prefix) - 1), *name) for mention, name in rows], -100),
        )


def log_probs(model: PreTrainedModel, batch: PlainBatch) -> torch.Tensor:
    """Log-probability of the name of every row, float32 `[rows]`."""
    logits = model(
        input_ids=batch.source, attention_mask=batch.mask, decoder_input_ids=batch.decoder, use_cache=False
    ).logits
    losses = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100, reduction="none")
    return -losses.view_as(batch.labels).sum(1)


def dpo_loss(policy: torch.Tensor, reference: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """DPO's loss, a mean over pairs, of the log-probabilities of chosen rows followed by rejected rows."""
    chosen, rejected = (policy - reference).chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


class PlainTraining:
    """Training steps the plain way.

    Args:
        policy: trained, by the AdamW that `AngelTrainer` uses.
        reference: stays as it is.
        items: the batch.
    """

    def __init__(self, policy: PreTrainedModel, reference: PreTrainedModel, items: Sequence[MentionPairs]) -> None:
        self.policy = policy.train()
        self.reference = reference.eval().requires_grad_(False)
        self.items = items
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)

    def backward(self) -> float:
        """Loss of the batch; gradients are left in the policy."""
        batch = PlainBatch.of(self.items, self.policy.device)
        with torch.no_grad():
            reference = log_probs(self.reference, batch)
        loss = dpo_loss(log_probs(self.policy, batch), reference)
        loss.backward()
        return loss.item()

    def step(self) -> float:
        """One step; returns the loss before it."""
        loss = self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss
