"""A bi-encoder for entity linking on sentence-transformers: mention and name as vectors, the nearest name the answer.

Trained on what ANGEL is trained on: pairs of names of a concept, noised, and training mentions with their nearest gold
names; multiple negatives ranking, where the other names of a batch are the wrong ones unless they share a concept.
"""

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray
from reporting import Curve, dev_curve
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import pre_tokenizers
from torch.nn import functional
from transformers import BertConfig, BertModel
from whole_file import whole_file

from angel_trl import KnowledgeBase
from angel_trl.formatting import END, START, truncate_context
from angel_trl.kb_mentions import KBMentions
from angel_trl.normalization import normalize
from angel_trl.scratch import SCRATCH_PRESETS, train_tokenizer
from angel_trl.searching_trainer import last_checkpoint
from angel_trl.targets import NearestNames

logger = logging.getLogger("recipes.bi_encoder")

PAIR_FEATURES = Features({"anchor": Value("string"), "positive": Value("string"), "label": List(Value("int64"))})


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderSize:
    """Size of an encoder from scratch; vocabulary and window are those of the preset of the same name."""

    width: int
    layers: int
    heads: int
    feed_forward: int


ENCODER_SIZES = {"scratch-tiny": EncoderSize(64, 3, 2, 256), "scratch-small": EncoderSize(256, 4, 4, 768)}
"""By preset: 0.3 and 4.3 million parameters, about as many as the BART of the same name."""


def query_text(text: str, start: int, end: int, max_words: int, normalization: str) -> str:
    """What is encoded of the mention `text[start:end]`: itself, normalised as the names, in `max_words` of context."""
    mention = normalize(text[start:end], normalization) or text[start:end].lower().strip()
    if not max_words:
        return mention
    left, right = truncate_context(text[:start].lower(), mention, text[end:].lower(), max_words)
    return " ".join(part for part in (left, START, mention, END, right) if part)


def queries(mentions: Iterable[Mapping[str, Any]], max_words: int, normalization: str) -> list[str]:
    """`query_text` of each mention."""
    return [query_text(row["text"], row["start"], row["end"], max_words, normalization) for row in mentions]


def gold_concepts(kb: KnowledgeBase, mention: Mapping[str, Any]) -> list[int]:
    """Concept indices of all parts and alternatives of a mention's gold, ascending."""
    return sorted({c for part in mention["concept_ids"] for i in part for c in kb.resolve(i)})


def _pairs(kb: KnowledgeBase, rows: Iterable[tuple[str, int, Iterable[int]]]) -> Dataset:
    """Pairs from (anchor, name index, concepts of the anchor); `label` holds all their concepts, -1 where fewer."""
    anchors, names, concepts = zip(*rows, strict=True)
    all_concepts = [
        sorted({*own, *kb.concepts_of_name(name).tolist()}) for own, name in zip(concepts, names, strict=True)
    ]
    width = max(map(len, all_concepts))
    columns = {
        "anchor": list(anchors),
        "positive": [kb.names[name] for name in names],
        "label": [own + [-1] * (width - len(own)) for own in all_concepts],
    }
    return Dataset.from_dict(columns, features=PAIR_FEATURES)


def kb_pairs(kb: KnowledgeBase, count: int, *, seed: int, noise: float) -> Dataset:
    """Pairs of a name, noised as in `KBExamples`, and another name of its concepts, or itself if there is none."""
    mentions = KBMentions(kb, count, seed=seed, noise=noise)

    def pair(place: int) -> tuple[str, int, list[int]]:
        name, made, rng = mentions.sentence(place)
        concepts = kb.concepts_of_name(name).tolist()
        own = dict.fromkeys(n for c in concepts for n in kb.names_of_concept(c).tolist())
        told = made.text[made.start : made.end]
        others = [n for n in own if n not in made.shown and kb.names[n] != told]
        return (
            query_text(made.text, made.start, made.end, 0, kb.normalization),
            rng.choice(others or [name]),
            concepts,
        )

    return _pairs(kb, map(pair, range(count)))


def mention_pairs(kb: KnowledgeBase, mentions: Iterable[Mapping[str, Any]], max_words: int, names: int) -> Dataset:
    """Pairs of each training mention with the `names` nearest names of its gold concepts, if it has any."""
    rows = list(mentions)
    gold = [gold_concepts(kb, row) for row in rows]
    nearest = NearestNames(kb).nearest(queries(rows, 0, kb.normalization), gold, names)
    texts = queries(rows, max_words, kb.normalization)
    return _pairs(kb, ((t, n, g) for t, near, g in zip(texts, nearest, gold, strict=True) for n in near[:names]))


def joined(*parts: Dataset) -> Dataset:
    """The pairs of all parts."""
    columns = {name: [value for part in parts for value in part[name]] for name in PAIR_FEATURES}
    width = max(map(len, columns["label"]))
    columns["label"] = [own + [-1] * (width - len(own)) for own in columns["label"]]
    return Dataset.from_dict(columns, features=PAIR_FEATURES)


class DistinctConceptsLoss(MultipleNegativesRankingLoss):
    """Multiple negatives ranking in which a name that shares a concept with the anchor is no negative of it.

    Frequent concepts stand in every batch: a batch without repeated texts, as the sampler `no_duplicates` makes, would
    still push names of one concept apart, and one without repeated concepts could hold few of a corpus' mentions.
    """

    def compute_loss_from_embeddings(self, embeddings: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the batch; `labels` int64 `[batch, n]` are concepts, -1 for none."""
        anchors, names = embeddings
        scores = self.similarity_fct(anchors, names) * self.scale
        concepts, place = labels.unique(return_inverse=True)
        bears = torch.zeros(len(labels), len(concepts), device=scores.device)
        bears.scatter_(1, place, (labels >= 0).float())
        shared = (bears @ bears.T > 0).fill_diagonal_(False)
        return functional.cross_entropy(
            scores.masked_fill(shared, -torch.inf), torch.arange(len(scores), device=scores.device)
        )


def first_encoder(model: str, texts: Iterable[str], folder: Path, seed: int, max_tokens: int) -> SentenceTransformer:
    """A preset with random weights, made in `folder`, or what a folder or a Hub repository holds.

    Raises:
        SystemExit: if the model cannot be loaded.
    """
    if model in ENCODER_SIZES:
        size = ENCODER_SIZES[model]
        tokenizer = train_tokenizer(texts, SCRATCH_PRESETS[model].vocabulary)
        # The tokens are those of words behind a space, and texts come without one in front.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=size.feed_forward,
            max_position_embeddings=SCRATCH_PRESETS[model].window,
            hidden_dropout_prob=SCRATCH_PRESETS[model].dropout,
            attention_probs_dropout_prob=0.0,
            type_vocab_size=1,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            # With its pooler, which the mean over tokens leaves unused: without, loading makes another, unseeded.
            BertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        encoder = Transformer(str(folder), max_seq_length=max_tokens)
        pooling = Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")
        return SentenceTransformer(modules=[encoder, pooling], device="cpu")
    try:
        loaded = SentenceTransformer(model, device="cpu", model_kwargs={"use_safetensors": True})
    except OSError as error:
        presets = ", ".join(ENCODER_SIZES)
        raise SystemExit(f"Cannot load the encoder {model!r} (presets without the Hub: {presets}): {error}") from error
    loaded.max_seq_length = min(max_tokens, loaded.max_seq_length or max_tokens)
    return loaded


@dataclasses.dataclass(frozen=True, slots=True)
class Encoder:
    """Vectors of texts, of length 1.

    Args:
        model: the sentence encoder.
        bf16: encode under bfloat16 autocast, as it was trained.
        batch_size: texts encoded together.
    """

    model: SentenceTransformer
    bf16: bool = False
    batch_size: int = 256

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Float32 `[texts, width]`, on the CPU; equal texts are encoded once."""
        distinct, place = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            vectors = self.model.encode(
                distinct.tolist(),
                batch_size=self.batch_size,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        vectors = functional.normalize(vectors.float().cpu(), dim=1)
        return vectors if len(distinct) == len(texts) and (np.diff(place) == 1).all() else vectors[place]


def nearest_vectors(
    names: torch.Tensor, mentions: torch.Tensor, count: int, at_once: int = 20_000_000
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest names of each mention, exactly, by dot product.

    Args:
        names: float32 `[names, width]`.
        mentions: float32 `[mentions, width]`.
        count: how many names of each mention.
        at_once: most products kept in memory.

    Returns:
        Name indices int64 `[mentions, count]`, nearest first, and their products float32 `[mentions, count]`; fewer
        columns where there are fewer names.
    """
    found, products = [], []
    for part in mentions.split(max(1, at_once // len(names))):
        best = (part @ names.T).topk(min(count, len(names)), dim=1)
        found.append(best.indices.numpy())
        products.append(best.values.numpy())
    return np.concatenate(found), np.concatenate(products)


class DevAccuracy(SentenceEvaluator):
    """Dev Acc@1, any-id, over all names of the knowledge base: what chooses the epoch.

    Args:
        kb: the knowledge base.
        mentions: the dev mentions.
        texts: what is encoded of each.
        bf16: as of `Encoder`.
    """

    def __init__(
        self, kb: KnowledgeBase, mentions: Iterable[Mapping[str, Any]], texts: Sequence[str], bf16: bool
    ) -> None:
        super().__init__()
        self.primary_metric = "acc@1"
        self._kb, self._texts, self._bf16 = kb, texts, bf16
        self._gold = [set(gold_concepts(kb, row)) for row in mentions]

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        encode = Encoder(model, self._bf16)
        names, _ = nearest_vectors(encode(self._kb.names), encode(self._texts), 1)
        right = [
            not own.isdisjoint(self._kb.concepts_of_name(name).tolist())
            for own, name in zip(self._gold, names[:, 0].tolist(), strict=True)
        ]
        return {"acc@1": 100 * sum(right) / len(right)}


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """Settings of one stage of training.

    Args:
        epochs: passes over the pairs.
        learning_rate: peak learning rate.
        batch_size: pairs in a batch, all of whose names are negatives of all others.
        scale: factor of the cosines.
        seed: of the order.
        bf16: train under bfloat16 autocast.
        use_cpu: not on the accelerator, should there be one.
        quiet: without progress bars.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    scale: float
    seed: int
    bf16: bool
    use_cpu: bool
    quiet: bool


def train_stage(
    model: SentenceTransformer,
    pairs: Dataset,
    settings: Training,
    folder: Path,
    resume: bool,
    dev: DevAccuracy | None = None,
) -> tuple[SentenceTransformer, Curve, int]:
    """Train on pairs in `folder`, or go on there; a stage that is done is loaded.

    Args:
        model: to start from.
        pairs: what to train on, as of `kb_pairs` and `mention_pairs`.
        settings: of the stage.
        folder: of its checkpoints and its result, `model`.
        resume: go on with what is in the folder.
        dev: chooses the epoch to keep; without it the last one is kept.

    Returns:
        The model, its dev curve, and the steps taken.
    """
    marker = folder / "curve.json"
    if resume and marker.exists():
        logger.info("%s is done: going on with what follows", folder)
        done = json.loads(marker.read_text(encoding="utf-8"))
        return SentenceTransformer(str(folder / "model"), device="cpu"), done["curve"], done["steps"]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        adam_beta2=0.98,
        bf16=settings.bf16,
        use_cpu=settings.use_cpu,
        seed=settings.seed,
        eval_strategy="no" if dev is None else "epoch",
        save_strategy="steps" if dev is None else "epoch",
        save_steps=500,
        save_total_limit=1,
        load_best_model_at_end=dev is not None,
        metric_for_best_model=None if dev is None else "eval_acc@1",
        logging_steps=50,
        report_to="none",
        disable_tqdm=settings.quiet,
        dataloader_pin_memory=False,
    )
    loss = DistinctConceptsLoss(model, scale=settings.scale)
    trainer = SentenceTransformerTrainer(model, arguments, pairs, loss=loss, evaluator=dev)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)
    curve = dev_curve(trainer.state)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    with whole_file(marker) as partial:
        partial.write_text(json.dumps({"curve": curve, "steps": trainer.state.global_step}), encoding="utf-8")
    return model, curve, trainer.state.global_step
