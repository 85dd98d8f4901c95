"""A folder that a recipe writes whole or not at all, and writes again only where it is the recipe's own."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPORT = "report.json"
_PARTIAL = ".partial"


class OwnFolder:
    """Collects files in a hidden folder inside `path`, then puts them in place; a context manager.

    `report.json` says which files are the recipe's, with their SHA-256.

    Args:
        path: The folder; made if it is not there.
        made_by: What stands in the report, and tells the recipe's own folders from others.
        parts: Names of the subfolders that the recipe writes; anything else in `path` is left alone.

    Raises:
        SystemExit: If `path` holds files and no report of this recipe, or `parts` hold files that the report does not
            list, or that were changed since.
    """

    def __init__(self, path: Path, made_by: str, parts: Sequence[str]) -> None:
        self.path, self.made_by, self.parts = path, made_by, parts
        self.partial = path / _PARTIAL
        self._refuse_others()

    def __enter__(self) -> "OwnFolder":
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def finish(self, report: dict[str, Any]) -> dict[str, Any]:
        """Put what was collected in place of what an earlier run wrote; returns the report as written."""
        files = {path.relative_to(self.partial).as_posix(): _sha256(path) for path in _files(self.partial)}
        report = {"made_by": self.made_by, **report, "files": files}
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        (self.partial / REPORT).write_text(text, encoding="utf-8")
        for part in self.parts:
            if (self.path / part).exists():
                shutil.rmtree(self.path / part)
        # Before the files it lists: were we stopped in between, they would still be known as ours.
        (self.partial / REPORT).replace(self.path / REPORT)
        for part in self.parts:
            if (self.partial / part).exists():
                (self.partial / part).rename(self.path / part)
        return report

    def _refuse_others(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise SystemExit(f"{self.path} is a file; --output_dir must be a folder.")
        if {path.name for path in self.path.iterdir()} <= {_PARTIAL}:
            return
        try:
            report = json.loads((self.path / REPORT).read_text(encoding="utf-8"))
            written = report["files"] if report["made_by"] == self.made_by else None
        except (OSError, ValueError, KeyError, TypeError):
            written = None
        if not isinstance(written, dict):
            raise SystemExit(f"{self.path} holds files that this recipe did not write. Choose another --output_dir.")
        for part in self.parts:
            for path in _files(self.path / part):
                if written.get(path.relative_to(self.path).as_posix()) != _sha256(path):
                    raise SystemExit(
                        f"{path} was put there or changed since this recipe wrote {self.path}. Move it away, or "
                        "choose another --output_dir."
                    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
