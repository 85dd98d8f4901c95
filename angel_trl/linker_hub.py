"""A linker with its model card, as a folder and as a model repository of the Hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angel_trl.linker_files import LINKER_FILES, read_parts
from angel_trl.model_card import LinkerFacts, linker_card, public_results

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from angel_trl.hub import Published
    from angel_trl.linker import EntityLinker

__all__ = ["add_card", "push", "save"]

CARD, RESULTS, CURVE = "README.md", "results.json", "learning_curve.png"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PNG = b"\x89PNG\r\n\x1a\n"


def save(
    linker: EntityLinker,
    folder: str | Path,
    *,
    results: Mapping[str, Any] | None = None,
    curve: str | Path | None = None,
    **card: Any,
) -> None:
    """Write what `EntityLinker.save_pretrained` writes, and the card with what it shows.

    Nothing is written if the card cannot be made.

    Args:
        linker: the linker.
        folder: where to; made if it is not there.
        results: of its run, for the card; see `angel_trl.model_card.linker_card`. Written to `results.json` as
            `angel_trl.model_card.public_results` makes them: free of local paths and of text of the corpus.
        curve: a PNG of the learning curve, copied to `learning_curve.png`.
        card: what is said of it, fields of `angel_trl.model_card.Stated`: `repo_id`, `license`, `kb_license`, `kb_id`,
            `base_model`, `datasets`, `corpus`, `language`, `command`, `round`, `revision`.

    Raises:
        ValueError: for a model with adapters, results of another form, a curve that is no PNG, or as `Stated`.
        OSError: if the curve cannot be read.
        TypeError: for something said that is no field of `Stated`.
    """
    facts = LinkerFacts(
        kb=linker.kb,
        mention_format=linker.targets.formatter.format,
        calibration=linker.calibration,
        architecture=type(linker.model).__name__,
        # Weights that are tied are saved once.
        parameters=sum({p.data_ptr(): p.numel() for p in linker.model.state_dict().values()}.values()),
    )
    picture = _picture(curve)
    made = linker_card(facts, results=results, curve=picture is not None, **card)
    linker.save_pretrained(folder)
    _write(Path(folder), made, results, picture)


def add_card(
    folder: str | Path,
    *,
    results: Mapping[str, Any] | None = None,
    curve: str | Path | None = None,
    **card: Any,
) -> None:
    """Write the card of a linker that is saved already, and what it shows; the weights are not loaded.

    A `README.md`, `results.json` or `learning_curve.png` that is there is of an earlier card: it is replaced, and the
    last two are removed if there are none now.

    Args:
        folder: as `EntityLinker.save_pretrained` fills it.
        results: as in `save`.
        curve: as in `save`.
        card: as in `save`.

    Raises:
        ValueError: if the folder is not a linker, its parts do not belong together, or as `save`.
        OSError: if a file cannot be read.
        TypeError: as `save`.
    """
    folder = Path(folder)
    parts = read_parts(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = LinkerFacts(
        kb=parts.kb,
        mention_format=parts.mention_format,
        calibration=parts.calibration,
        architecture=str((config.get("architectures") or [config.get("model_type")])[0]),
        parameters=_parameters(folder),
    )
    picture = _picture(curve)
    _write(folder, linker_card(facts, results=results, curve=picture is not None, **card), results, picture)


def push(
    linker: EntityLinker,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    results: Mapping[str, Any] | None = None,
    curve: str | Path | None = None,
    **card: Any,
) -> Published:
    """Publish a linker and its card to the Hub, all files or none, through `angel_trl.hub.publish_folder`.

    Files of an earlier linker or model that would be loaded with this one, or in its place (weights in several parts,
    adapters, a tokenizer of another kind: `angel_trl.linker_files.LINKER_FILES`), are deleted in the same commit;
    other files stay.

    Args:
        linker: the linker.
        repo_id: the model repository, "user/name"; made if it is not there.
        private: whether only you, or your organization, may see a repository made here; None as your account says.
        revision: branch to publish to, or pull request as `refs/pr/1`; None is the main one.
        tag: a tag to set on what was published.
        token: of the Hub; None takes the one you are logged in with.
        results: as in `save`.
        curve: as in `save`.
        card: as in `save`, but for `repo_id` and `revision`: the card loads from here, the tag or else the branch.

    Returns:
        What was published; as a string, a line for people.

    Raises:
        ValueError: if `repo_id` does not say whose it is, which the card has to say; as `save` and `publish_folder`.
        OSError: if the curve cannot be read.
        TypeError: as `save`.
        PublishError: as `publish_folder`.
    """
    from angel_trl.hub import publish_folder

    if repo_id.count("/") != 1:
        raise ValueError(f"repo_id is {repo_id!r}; give 'user/name', which the card says where to load it from")
    place = tag or (revision if revision != "main" else None)
    with tempfile.TemporaryDirectory(prefix="angel_trl-linker-") as folder:
        save(linker, folder, results=results, curve=curve, repo_id=repo_id, revision=place, **card)
        return publish_folder(
            folder,
            repo_id,
            private=private,
            revision=revision,
            tag=tag,
            delete_others=LINKER_FILES,
            commit_message=f"Entity linker: {len(linker.kb)} concepts, {linker.kb.num_names} names",
            token=token,
        )


def _picture(curve: str | Path | None) -> bytes | None:
    if curve is None:
        return None
    content = Path(curve).read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{curve} is no PNG; give what angel_trl.report.plot_learning_curve wrote.")
    return content


def _write(folder: Path, card: ModelCard, results: Mapping[str, Any] | None, picture: bytes | None) -> None:
    told = None if results is None else (json.dumps(public_results(results), indent=2) + "\n").encode()
    for name, content in ((RESULTS, told), (CURVE, picture)):
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            (folder / name).write_bytes(content)
    card.save(folder / CARD)


def _parameters(folder: Path) -> int:
    """How many numbers the weights of a folder are, by the headers of their files."""
    from safetensors import safe_open

    names = {_WEIGHTS}
    if not (folder / _WEIGHTS).exists() and (folder / _INDEX).exists():
        names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    count = 0
    for name in names:
        with safe_open(folder / name, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                size = 1
                for length in file.get_slice(key).get_shape():
                    size *= length
                count += size
    return count
