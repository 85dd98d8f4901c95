"""Entity linking as a transformers pipeline.

Importing this module registers the task, so that no code of a repository is run and `trust_remote_code` stays off:

    import angel_trl.adapters.pipeline
    linking = transformers.pipeline("entity-linking", model="path/or/hub-id")
    linking("Famotidine-associated [delirium].")
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, Pipeline, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY

from angel_trl.linked import Linked, find_mentions
from angel_trl.linker import EntityLinker
from angel_trl.linker_files import find_folder, read_parts

TASK = "entity-linking"
# What a call may set, beside `ner`: the settings of a request.
_SETTINGS = frozenset(inspect.signature(EntityLinker.link_batch).parameters) - {"self", "mentions", "progress"}


class EntityLinkingPipeline(Pipeline):
    """Links the mentions of texts.

    `pipeline(inputs, **settings)` takes a text with `[bracketed]` mentions; a mapping with `text` and `spans`, the
    offsets `(start, end)` of its mentions; or a list of these, whose mentions are searched together. With `ner`, a
    token-classification pipeline or another function as in `EntityLinker.link`, texts are plain and it finds the
    mentions. It gives a list of dictionaries a text, one a mention in order: `Linked.as_dict`. Settings, in the call
    or the constructor, are `ner` and those of `EntityLinker.link_batch`.

    Args:
        model: a linker; or its model alone, as `transformers.pipeline` loads it, which must remember where it was
            loaded from: the knowledge base lies there.
        tokenizer: the linker's; taken from there if not given.
        options: settings, and arguments of `transformers.Pipeline`.

    Raises:
        ValueError: if the folder or repository of the model is not a linker.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = True

    def __init__(self, model: EntityLinker | PreTrainedModel, tokenizer: Any = None, **options: Any) -> None:
        options.setdefault("task", TASK)
        if isinstance(model, EntityLinker):
            super().__init__(model.model, model.tokenizer, device=model.model.device, **options)
            self.linker = model
            return
        super().__init__(model, tokenizer, **options)
        commit = getattr(model.config, "_commit_hash", None)
        self.linker = EntityLinker.from_parts(
            self.model, self.tokenizer, read_parts(find_folder(model.name_or_path, commit))
        )

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """Link one text, or many at once; a generator or dataset is gone through one text at a time."""
        if not isinstance(inputs, list):
            # What transformers puts together in a batch are tensors of equal shape, not texts.
            return super().__call__(inputs, **{**settings, "batch_size": 1})
        settings.setdefault("batch_size", self._batch_size or 32)
        finding, linking, _ = self._sanitize_parameters(**settings)
        texts = [self.preprocess(one, **{**self._preprocess_params, **finding}) for one in inputs]
        rows = [row for mentions in texts for row in mentions]
        linked = iter(self._forward(rows, **{**self._forward_params, **linking}))
        return [self.postprocess([next(linked) for _ in mentions]) for mentions in texts]

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Save the linker; transformers would add code to the folder, to be run by `trust_remote_code`."""
        self.linker.save_pretrained(save_directory)

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(settings) - _SETTINGS - {"ner"})
        if unknown:
            raise ValueError(f"Unknown settings {', '.join(unknown)}; there are ner, {', '.join(sorted(_SETTINGS))}.")
        finding = {"ner": settings.pop("ner")} if "ner" in settings else {}
        return finding, settings, {}

    def preprocess(self, inputs: str | Mapping[str, Any], ner: Any = None) -> list[dict[str, Any]]:
        """The mentions of a text, as rows of `EntityLinker.link_batch`."""
        if isinstance(inputs, Mapping):
            unknown = set(inputs) - {"text", "spans"}
            if unknown or "text" not in inputs:
                raise ValueError(f"An input has {', '.join(map(repr, inputs))}; it needs text, and may have spans.")
        text, spans = (inputs, None) if isinstance(inputs, str) else (inputs["text"], inputs.get("spans"))
        text, found = find_mentions(text, spans, ner)
        return [{"text": text, "start": start, "end": end} for start, end in found]

    def _forward(self, rows: list[dict[str, Any]], **settings: Any) -> list[Linked]:
        return self.linker.link_batch(rows, **settings)

    def postprocess(self, linked: Sequence[Linked]) -> list[dict[str, Any]]:
        """Answers as dictionaries."""
        return [one.as_dict() for one in linked]


PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=EntityLinkingPipeline,
    pt_model=(AutoModelForSeq2SeqLM, AutoModelForCausalLM),
    type="text",
)
