"""One model and trie searched by many threads: what waits for its turn is searched together.

The search is safe in several threads at once: it changes nothing that they share. But its steps are short, and Python
runs one thread at a time, so that threads side by side are no faster than one after the other; a batch is. Requests of
up to a batch therefore take turns, and whoever has the turn searches for the others that wait with the same settings.
A larger request fills its batches itself and runs beside them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from angel_trl.decoding import Candidates, search
from angel_trl.formatting import EncodedMention
from angel_trl.restrictions import Restriction
from angel_trl.trie import NameTrie


class _Request:
    """A search that a thread waits for."""

    def __init__(
        self,
        mentions: Sequence[EncodedMention | None],
        restrictions: Sequence[Restriction | None],
        settings: dict[str, Any],
    ) -> None:
        self.mentions = mentions
        self.restrictions = restrictions
        self.settings = settings
        self.found: Candidates | None = None
        self.alone = False


class SharedSearch:
    """`search` for any number of threads.

    Args:
        model: in evaluation mode while it is searched.
        trie: the names.
    """

    def __init__(self, model: PreTrainedModel, trie: NameTrie) -> None:
        self._model = model
        self._trie = trie
        self._turn = threading.Lock()
        self._entering = threading.Lock()
        self._waiting: list[_Request] = []

    def __reduce__(self) -> tuple[Any, ...]:
        # Locks can be neither copied nor pickled, and a copy needs its own.
        return SharedSearch, (self._model, self._trie)

    def search(
        self,
        mentions: Sequence[EncodedMention | None],
        *,
        batch_size: int,
        restrictions: Sequence[Restriction | None] | None = None,
        progress: str | None = None,
        **settings: Any,
    ) -> Candidates:
        """Search as `decoding.search` does, perhaps together with requests of other threads.

        Args:
            mentions: encoded mentions.
            batch_size: mentions searched together.
            restrictions: one a mention, or None.
            progress: text of a progress bar, None for none.
            settings: the other settings of `decoding.search`.

        Raises:
            RuntimeError: if the model is in training mode, or its weights changed during the search.
            ValueError: as `decoding.search`.
        """
        settings["batch_size"] = batch_size
        if progress is not None or len(mentions) > batch_size:
            with untrained(self._model):
                return search(
                    self._model, self._trie, mentions, restrictions=restrictions, progress=progress, **settings
                )
        request = _Request(mentions, restrictions or [None] * len(mentions), settings)
        with self._entering:
            self._waiting.append(request)
        try:
            with self._turn:
                if request.found is None:
                    self._answer(request)
        finally:
            with self._entering:
                if request in self._waiting:
                    self._waiting.remove(request)
        assert request.found is not None
        return request.found

    def _answer(self, request: _Request) -> None:
        """Search for a request and those that wait with its settings, as many as make a batch."""
        group, size = [request], len(request.mentions)
        with self._entering:
            others = [] if request.alone else [other for other in self._waiting if other is not request]
        for other in others:
            alike = other.found is None and not other.alone and other.settings == request.settings
            if alike and size + len(other.mentions) <= request.settings["batch_size"]:
                group.append(other)
                size += len(other.mentions)
        try:
            self._run(group)
        except (RuntimeError, TypeError, ValueError):
            if len(group) == 1:
                raise
            # Whose fault it is shows when each is searched alone.
            for other in group:
                other.alone = True
            self._run([request])

    def _run(self, group: Sequence[_Request]) -> None:
        mentions = [mention for request in group for mention in request.mentions]
        restrictions = [restriction for request in group for restriction in request.restrictions]
        with untrained(self._model):
            found = search(self._model, self._trie, mentions, restrictions=restrictions, **group[0].settings)
        begin = 0
        for request in group:
            rows = np.arange(begin, begin + len(request.mentions))
            request.found = found.take(rows)
            begin += len(rows)


@contextlib.contextmanager
def untrained(model: PreTrainedModel) -> Iterator[None]:
    """Make sure that a model is not being trained, in another thread, while it is searched.

    Raises:
        RuntimeError: if the model is in training mode; or, afterwards, if its mode or its weights have changed.
    """
    if any(module.training for module in model.modules()):
        raise RuntimeError(
            "The linker's model is in training mode: it is being trained, or was. Call linker.model.eval() when that "
            "is over; until then, link with a saved copy."
        )
    before = _versions(model)
    yield
    if _versions(model) != before or any(module.training for module in model.modules()):
        raise RuntimeError(
            "The linker's model was trained while it was searched, so that its answers are those of no one "
            "model. Link when training is over, or with a saved copy."
        )


def _versions(model: PreTrainedModel) -> int:
    """A number that changes when any weight is written to."""
    return sum(weight._version for weight in model.parameters() if not weight.is_inference())
