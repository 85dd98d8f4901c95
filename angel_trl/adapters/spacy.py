"""Entity linking as a spaCy component (extra `spacy`).

    import angel_trl.adapters.spacy
    nlp.add_pipe("angel_linker", config={"linker": "path/or/hub-id"})  # after the component that finds entities

Each entity of a document gets the id of its concept, `ent.kb_id_` ("NIL" where the linker abstains or has no answer),
and `ent._.linked`: `Linked.as_dict`, with offsets in the document's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import minibatch

from angel_trl.linker import EntityLinker

# spaCy's own linker says so too.
NIL = "NIL"

if not Span.has_extension("linked"):
    Span.set_extension("linked", default=None)


class AngelLinker:
    """The component: sets `ent.kb_id_` and `ent._.linked` of a document's entities.

    Args:
        linker: what links them.
        settings: of `EntityLinker.link_batch`.
    """

    def __init__(self, linker: EntityLinker, settings: dict[str, Any]) -> None:
        self.linker = linker
        self._settings = settings

    def __call__(self, doc: Doc) -> Doc:
        """Link the entities of a document."""
        return self._link([doc])[0]

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 32) -> Iterator[Doc]:
        """Link the entities of documents, those of `batch_size` documents together."""
        for docs in minibatch(stream, batch_size):
            yield from self._link(docs)

    def _link(self, docs: Sequence[Doc]) -> Sequence[Doc]:
        entities = [entity for doc in docs for entity in doc.ents]
        rows = [{"text": e.doc.text, "start": e.start_char, "end": e.end_char} for e in entities]
        for entity, linked in zip(entities, self.linker.link_batch(rows, **self._settings), strict=True):
            for token in entity:
                token.ent_kb_id_ = linked.id or NIL
            entity._.linked = linked.as_dict()
        return docs


@Language.factory(
    "angel_linker",
    assigns=["doc.ents", "token.ent_kb_id", "span._.linked"],
    requires=["doc.ents"],
    default_config={
        "types": None,
        "candidates": None,
        "top_k": 5,
        "num_beams": 10,
        "exact": False,
        "nil_threshold": None,
    },
)
def make_linker(
    nlp: Language,
    name: str,
    linker: str,
    types: list[str] | None,
    candidates: list[str] | None,
    top_k: int,
    num_beams: int,
    exact: bool,
    nil_threshold: float | None,
) -> AngelLinker:
    """The factory `angel_linker`.

    Args:
        nlp: the pipeline it becomes part of.
        name: of the component.
        linker: folder or Hub id.
        types: as in `EntityLinker.link`, like the rest.
        candidates: names or ids.
        top_k: candidates of an entity.
        num_beams: beams of the search.
        exact: widen the search until the candidates are provably the likeliest.
        nil_threshold: no answer below this confidence.
    """
    settings = {"types": types, "candidates": candidates, "top_k": top_k, "num_beams": num_beams}
    return AngelLinker(
        EntityLinker.from_pretrained(linker), {**settings, "exact": exact, "nil_threshold": nil_threshold}
    )
