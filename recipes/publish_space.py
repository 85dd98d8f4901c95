"""Publish a Space for a linker that is on the Hub: the demo, or the metric for `evaluate.load`.

    python recipes/publish_space.py --linker user/name --space user/space
    python recipes/publish_space.py --linker user/name --positive user/positive --pairs user/pairs --space user/space
    python recipes/publish_space.py --source entity-linking-metric --space user/entity-linking-metric

The Hub builds a Space from its files and `requirements.txt`, so everything goes there that it needs to run by itself:

    app.py, ...                        the folder in `spaces/`; a metric's module is named after its Space
    angel_trl/                         the package, where app.py finds it
    pyproject.toml, LICENSE            with them `pip install git+https://huggingface.co/spaces/user/space` works too
    requirements.txt                   its dependencies with the versions of pyproject.toml; Gradio is the Hub's part
    settings.json                      which models to show; variables of the Space win over it
    README.md                          with the models and datasets in its metadata

All of it is one commit: the Space is as it was before or shows what was asked for. What the repository held besides is
deleted, unless this command did not make it: then nothing is done. Secrets, variables and hardware stay as they are.

The last line printed is one JSON object.
"""

import argparse
import json
import logging
import re
import runpy
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import SpaceCard

from angel_trl.hub import PublishError, check_publishable, publish_folder
from angel_trl.hub_remote import FAILURES, Remote

ROOT = Path(__file__).resolve().parents[1]
SPACES = ROOT / "spaces"
MODELS = ("linker", "positive", "ner")
_ATTEMPTS = 5
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NEEDED = {
    "linker": ("angel.json", "kb.parquet", "config.json"),
    "positive": ("angel.json", "kb.parquet", "config.json"),
    "ner": ("config.json",),
    "pairs": (".parquet",),
}
"""Files that a repository must have to be what it is given for; those with a dot in front are endings."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line, and see that its parts fit each other."""
    sources = sorted(path.parent.name for path in SPACES.glob("*/README.md"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--space", required=True, help="user/name of the Space; it is created if there is none")
    parser.add_argument(
        "--source", choices=sources, default="entity-linking", help="which of spaces/ (default: %(default)s)"
    )
    parser.add_argument("--linker", help="user/name of the linker to show")
    parser.add_argument("--positive", help="user/name of its positive-only stage, for “Before and after”")
    parser.add_argument("--pairs", help="user/name of a dataset of the pairs its rounds mined")
    parser.add_argument("--ner", help="user/name of a token-classification model that marks mentions")
    parser.add_argument(
        "--kb_url", help="page of a concept, such as https://kb.org/{id}; else told by what ids look like"
    )
    parser.add_argument("--examples", type=Path, help="text file with one passage a line, mentions in [brackets]")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make a private Space; else as your account says"
    )
    args = parser.parse_args(argv)
    for name in ("space", *_NEEDED):
        value = getattr(args, name)
        if value is not None and not _HUB_ID.fullmatch(value):
            raise SystemExit(
                f"--{name} {value} is no id on the Hub: give user/name. A Space shows nothing of this machine; "
                "`EntityLinker.push_to_hub` puts a linker on the Hub."
            )
    shows_models = (SPACES / args.source / "settings.py").exists()
    if shows_models and args.linker is None:
        raise SystemExit(f"The Space {args.source} shows a linker: give --linker user/name.")
    given = [name for name in (*_NEEDED, "kb_url", "examples") if getattr(args, name) is not None]
    if given and not shows_models:
        raise SystemExit(f"The Space {args.source} shows no model: leave out --{given[0]}.")
    if is_metric(args.source) and "." in args.space.split("/")[1]:
        raise SystemExit(f"--space {args.space}: `evaluate` cannot load a metric with a dot in its name.")
    if args.examples is not None and not args.examples.is_file():
        raise SystemExit(f"--examples {args.examples} is no file.")
    return args


def is_metric(source: str) -> bool:
    """Whether a Space holds a module of `evaluate`, which is named after its folder."""
    return (SPACES / source / f"{source}.py").exists()


def look_up(repo_id: str, name: str) -> bool:
    """See that what is to be shown is on the Hub, and is what it is given for; tells whether it is private."""
    remote = Remote(repo_id, "dataset" if name == "pairs" else "model", None, _ATTEMPTS)
    try:
        private = remote.is_private()
        commit = remote.head("main") if private is not None else None
        files = list(remote.tree(commit)) if commit is not None else []
    except FAILURES as error:
        raise SystemExit(f"--{name}: it is not known whether there is a {remote}: {remote.explain(error)}") from error
    if private is None:
        raise SystemExit(f"--{name}: there is no {remote} on the Hub, or your token may not know of it.")
    known = {*files, *(Path(file).suffix for file in files)}
    missing = [needed for needed in _NEEDED[name] if needed not in known]
    if missing:
        what = {"pairs": "holds no pairs", "ner": "is no model"}.get(name, "is no linker")
        push = " `EntityLinker.push_to_hub` puts one there." if what == "is no linker" else ""
        raise SystemExit(f"--{name}: the {remote} {what}: it has no {missing[0]}.{push}")
    return private


def check_replaceable(space: str) -> None:
    """See that a Space of that name, if there is one, is one of ours or as empty as the Hub makes them."""
    remote = Remote(space, "space", None, _ATTEMPTS)
    try:
        commit = remote.head("main") if remote.is_private() is not None else None
        files = set(remote.tree(commit)) if commit is not None else set()
    except FAILURES as error:
        raise SystemExit(f"Nothing was published: {remote} could not be read: {remote.explain(error)}") from error
    others = sorted(files - {".gitattributes", "README.md"})
    if others and "angel_trl/__init__.py" not in files:
        raise SystemExit(
            f"Nothing was published: {remote} holds files that this command did not put there, and would delete "
            f"({', '.join(others[:3])}). Choose another --space, or delete them first."
        )


def write_space(folder: Path, args: argparse.Namespace) -> None:
    """Write everything that the Space needs into a new folder.

    Raises:
        ValueError: for settings that the Space would refuse, or a requirement that pyproject.toml does not have.
    """
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(SPACES / args.source, folder, ignore=ignored)
    shutil.copytree(ROOT / "angel_trl", folder / "angel_trl", ignore=ignored)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = (SPACES / args.source / "requirements.txt").read_text(encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(listed, project["dependencies"]), encoding="utf-8")
    if args.linker is not None:
        write_settings(folder, args)
    if is_metric(args.source):
        name_metric(folder, args.source, args.space)
    card = SpaceCard.load(folder / "README.md")
    card.data.models = list(dict.fromkeys(filter(None, (getattr(args, name) for name in MODELS)))) or None
    card.data.datasets = [args.pairs] if args.pairs else None
    card.save(folder / "README.md")


def requirements(listed: str, dependencies: Sequence[str]) -> str:
    """The `requirements.txt` of a Space.

    Args:
        listed: what it needs, a name a line; `angel_trl` stands for all dependencies of the package.
        dependencies: of the package, with the versions allowed.

    Raises:
        ValueError: for a name that is none of the dependencies.
    """
    versions = {re.split(r"[^\w.-]", dependency)[0]: dependency for dependency in dependencies}
    names = [line.strip() for line in listed.splitlines() if line.strip() and not line.startswith("#")]
    if unknown := [name for name in names if name not in versions and name != "angel_trl"]:
        raise ValueError(
            f"requirements.txt names {unknown[0]}, which is not among the dependencies in pyproject.toml."
        )
    needed = [versions[name] for name in (versions if "angel_trl" in names else names)]
    return "\n".join(
        ["# The package itself is beside app.py, and Gradio comes from sdk_version in README.md.", *needed, ""]
    )


def write_settings(folder: Path, args: argparse.Namespace) -> None:
    """Write which models to show, and see that the Space will read it."""
    settings = {"model": args.linker, **{name: getattr(args, name) for name in ("positive", "pairs", "ner", "kb_url")}}
    if args.examples is not None:
        if not re.search(rb"\[.+\]", args.examples.read_bytes()):
            raise ValueError(f"--examples {args.examples}: no line of it has a [mention] in brackets.")
        shutil.copyfile(args.examples, folder / "examples.txt")
        settings["examples"] = "examples.txt"
    text = json.dumps({name: value for name, value in settings.items() if value is not None}, indent=1)
    (folder / "settings.json").write_text(text + "\n", encoding="utf-8")
    runpy.run_path(str(folder / "settings.py"))["Settings"].from_environment({})


def name_metric(folder: Path, source: str, space: str) -> None:
    """Name a metric's module after its Space, as `evaluate.load` wants it, and say so in its card.

    Raises:
        ValueError: if the Space has another file of that name.
    """
    module = folder / f"{space.split('/')[1]}.py"
    if module.exists() and module.stem != source:
        raise ValueError(
            f"--space {space}: the Space has a file {module.name} besides the metric. Choose another name."
        )
    (folder / f"{source}.py").rename(module)
    url = Remote(space, "space", None, _ATTEMPTS).url
    for path in (module, folder / "README.md"):
        text = path.read_text(encoding="utf-8")
        text = text.replace(f"user/{source}", space).replace("pip install -e .", f"pip install git+{url}")
        path.write_text(text.replace("# From: -e .", f"# From: git+{url}"), encoding="utf-8")


def main() -> None:
    """Look everything up, write the Space, publish it, and say what is where."""
    begin = time.time()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    args = parse_arguments(sys.argv[1:])
    shown = {name: getattr(args, name) for name in _NEEDED if getattr(args, name) is not None}
    try:
        check_publishable(args.space, repo_type="space")
        private = [repo_id for name, repo_id in shown.items() if look_up(repo_id, name)]
        check_replaceable(args.space)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent, args.source)
            write_space(folder, args)
            # What an earlier version had and this one lacks must not be imported any more.
            done = publish_folder(folder, args.space, repo_type="space", private=args.private, delete_others=True)
    except (ValueError, OSError, PublishError) as error:
        raise SystemExit(str(error)) from error
    page = done.url.partition("/tree/")[0]
    print(done)
    print(f"Once the Hub has built it, which takes minutes, it is at {page}")
    if is_metric(args.source):
        print(f'evaluate.load("{args.space}") needs `pip install git+{page}`')
    if private:
        print(
            f"Not public: {', '.join(private)}. The Space needs a secret HF_TOKEN that may read there "
            f"({page}/settings), and shows what is in them to all who see it."
        )
    result = {"space": args.space, "url": page, "commit": done.commit, "files": done.files, **shown}
    print(json.dumps(result | {"seconds": round(time.time() - begin, 1)}), flush=True)


if __name__ == "__main__":
    main()
