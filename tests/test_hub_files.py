"""The files of a folder that is published."""

import os
from pathlib import Path

import pytest

from angel_trl.hub_files import local_files


def write(folder, files):
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Path(folder)


def test_an_empty_folder(tmp_path):
    (tmp_path / ".git").mkdir()
    write(tmp_path, {".git/config": b"c", "__pycache__/a.pyc": b"p", ".gitattributes": b"*.bin filter=lfs"})
    with pytest.raises(ValueError, match="There is no file to publish in"):
        local_files(tmp_path)


def test_version_control_and_caches_are_left_out(tmp_path):
    names = ["a.txt", ".git/b", "sub/.cache/c", "sub/d.txt", "sub/.gitattributes", ".gitattributes", ".hidden"]
    write(tmp_path, dict.fromkeys(names, b"x"))
    assert list(local_files(tmp_path)) == [".hidden", "a.txt", "sub/.gitattributes", "sub/d.txt"]


def test_the_hashes_are_those_of_git_and_lfs(tmp_path):
    write(tmp_path, {"a.txt": b"hello\n"})
    file = local_files(tmp_path, "in/side")["in/side/a.txt"]
    # `git hash-object` and `sha256sum` of the same.
    assert file.blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert file.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


def test_links(tmp_path):
    inside = write(tmp_path / "in", {"a.txt": b"a"})
    write(tmp_path / "out", {"b.txt": b"b"})
    (inside / "again.txt").symlink_to("a.txt")
    assert list(local_files(inside)) == ["a.txt", "again.txt"]
    for target in (tmp_path / "out" / "b.txt", tmp_path / "out", tmp_path / "none"):
        (inside / "link").symlink_to(target)
        with pytest.raises(ValueError, match=r"link is a link to .*cp -rL"):
            local_files(inside)
        (inside / "link").unlink()


def test_what_is_no_file_or_has_a_bad_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file nor a folder"):
        local_files(tmp_path)
    (tmp_path / "pipe").unlink()
    write(tmp_path, {"line\nbreak": b"x"})
    with pytest.raises(ValueError, match="signs in its name that the Hub does not take"):
        local_files(tmp_path)


@pytest.mark.parametrize("name", ["file.txt", "closed"])
def test_what_cannot_be_read(tmp_path, monkeypatch, name):
    write(tmp_path, {"file.txt": b"x", "closed/a.txt": b"x"})

    def refuse(path, *args, real, **kwargs):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    # As root, whom permissions do not stop, may run this.
    for module, function in ((Path, "open"), (os, "scandir")):
        real = getattr(module, function)
        monkeypatch.setattr(module, function, lambda path, *a, real=real, **k: refuse(path, *a, real=real, **k))
    with pytest.raises(PermissionError, match=name):
        local_files(tmp_path)
