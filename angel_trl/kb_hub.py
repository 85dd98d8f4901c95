"""A knowledge base as a folder, and as a dataset repository of the Hub: `kb.parquet` and the card."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from angel_trl.kb import KnowledgeBase

if TYPE_CHECKING:
    from angel_trl.hub import Published

__all__ = ["KB_FILE", "load", "push", "save"]

KB_FILE = "kb.parquet"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def save(kb: KnowledgeBase, folder: str | Path, **card: str | None) -> None:
    """Write `kb.parquet` and `README.md`.

    Args:
        kb: The knowledge base.
        folder: Where to; made if it is not there.
        card: As of `angel_trl.cards.knowledge_base_card`: `license`, `source`, `command`, `language`, `repo_id`.
    """
    from angel_trl.cards import knowledge_base_card

    written = knowledge_base_card(kb, **card)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kb.to_parquet(folder / KB_FILE)
    written.save(folder / "README.md")


def load(id_or_path: str | Path, revision: str | None = None) -> KnowledgeBase:
    """Load what `save` or `push` wrote.

    Args:
        id_or_path: The folder, its `kb.parquet`, or a Hub dataset (`"user/name"`), fetched once; offline, what
            is in the Hub's cache is used. A path that exists is never taken for a Hub dataset.
        revision: A branch, tag or commit of a Hub dataset.

    Raises:
        FileNotFoundError: If there is no such folder, dataset or revision, or no `kb.parquet` in it.
        OSError: As `angel_trl.readers.sources.local_path`.
        ValueError: As `KnowledgeBase.from_parquet`.
    """
    path = Path(id_or_path)
    if not path.exists():
        path = _fetched(str(id_or_path), revision)
    elif path.is_dir():
        path = path / KB_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{id_or_path}: a folder without {KB_FILE}, so not what save_pretrained wrote; read other formats with "
            "KnowledgeBase.from_file"
        )
    return KnowledgeBase.from_parquet(path)


def _fetched(repo_id: str, revision: str | None) -> Path:
    from angel_trl.readers.sources import local_path

    if not _HUB_ID.fullmatch(repo_id):
        raise FileNotFoundError(f"no folder {repo_id} here, and that is not the id of a Hub dataset (user/name)")
    try:
        return local_path(f"hf://datasets/{repo_id}/{KB_FILE}", revision=revision)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no folder {repo_id} here, and not from the Hub: {error}") from error


def push(
    kb: KnowledgeBase,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    **card: str | None,
) -> Published:
    """Publish a knowledge base as a Hub dataset: what `save` writes, through `angel_trl.hub.publish_folder`.

    What a dataset of that name has is replaced, the card too; its history keeps what was there.

    Args:
        kb: The knowledge base.
        repo_id: The dataset, `"user/name"`; made if it is not there.
        private: Whether only you, or your organization, may see a dataset made here; `None` as your account says.
        revision: Branch to publish to; `None` is the main one.
        tag: A tag to set on what was published.
        token: Of the Hub; `None` takes the one you are logged in with.
        card: Arguments of `angel_trl.cards.knowledge_base_card`: `license`, `source`, `command`, `language`.

    Returns:
        What was published; as a string, a line for people.

    Raises:
        ValueError: If `repo_id` does not say whose it is, which the card has to say; and as `publish_folder`.
        PublishError: As `publish_folder`.
    """
    from angel_trl.hub import publish_folder

    if "/" not in repo_id:
        raise ValueError(f"repo_id is {repo_id!r}; give 'user/name', which the card says where to load it from")
    with tempfile.TemporaryDirectory(prefix="angel_trl-kb-") as folder:
        save(kb, folder, **{"repo_id": repo_id, **card})
        return publish_folder(
            folder,
            repo_id,
            repo_type="dataset",
            private=private,
            revision=revision,
            tag=tag,
            commit_message=f"Knowledge base: {len(kb)} concepts, {kb.num_names} names",
            token=token,
        )
