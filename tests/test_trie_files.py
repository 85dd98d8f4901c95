import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from angel_trl import trie_files
from angel_trl.trie import NameTrie

END = 2
FOUR = [[7, 8, END], [5, END], [7, END], [5, 9, 9, END]]
NAMES = [40, 10, 20, 30]
BOTH = pytest.mark.parametrize("verify", [True, False])


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "trie.safetensors"
    NameTrie.build(FOUR, names=NAMES, fingerprint="abc").save(path)
    return path


@BOTH
def test_save_and_load_give_the_same_trie(saved, verify):
    trie = NameTrie.load(saved, fingerprint="abc", verify=verify)
    assert trie.name(trie.find(FOUR)).tolist() == NAMES
    assert trie.token(torch.arange(1, 10)).tolist() == [5, 7, END, 9, END, 8, 9, END, END]
    assert trie.fingerprint == "abc"


def test_a_trie_of_wide_tokens_comes_back(tmp_path):
    NameTrie.build([[70_000, END], [3, END]]).save(tmp_path / "trie")
    assert NameTrie.load(tmp_path / "trie").find([[3, END], [70_000, END], [4_464, END]]).tolist() == [3, 4, -1]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list mapped files")
def test_a_loaded_trie_is_the_file_mapped_into_memory(saved):
    trie = NameTrie.load(saved, verify=False)
    ranges = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if saved.name in line
    ]
    for array in (trie._tokens, trie.first_child, trie.leaf_name, trie.leaves_before):
        assert any(int(begin, 16) <= array.data_ptr() < int(end, 16) for begin, end in ranges)


def test_a_trie_can_be_saved_over_the_file_it_is_mapped_from(saved):
    trie = NameTrie.load(saved)
    trie.extend([[6, END]], names=[50], fingerprint="new").save(saved)
    assert trie.name(trie.find(FOUR)).tolist() == NAMES
    assert trie.find([[6, END]]).tolist() == [-1]
    assert NameTrie.load(saved, fingerprint="new").num_names == 5


def test_a_save_that_fails_leaves_the_old_file_alone(saved, monkeypatch):
    content = saved.read_bytes()

    def disk_full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(trie_files, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        NameTrie.build([[END]]).save(saved)
    assert [path.read_bytes() for path in saved.parent.iterdir()] == [content]


@BOTH
def test_a_trie_of_other_names_is_refused(saved, verify):
    with pytest.raises(ValueError, match="other names or another tokenizer"):
        NameTrie.load(saved, fingerprint="abd", verify=verify)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No trie at .*nowhere"):
        NameTrie.load(tmp_path / "nowhere")


@BOTH
@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(saved, kept, verify):
    content = saved.read_bytes()
    saved.write_bytes(content[:kept])
    with pytest.raises(ValueError, match="not a readable trie file"):
        NameTrie.load(saved, verify=verify)


def test_any_altered_byte_is_refused(saved):
    content = saved.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    for at in range(8 + header, len(content)):
        altered = bytearray(content)
        altered[at] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(ValueError, match="was altered"):
            NameTrie.load(saved)


def test_an_altered_header_is_refused(saved):
    header = {"format": "angel_trl.trie/2", "fingerprint": "abc", "digest": "0" * 64}
    save_file(load_file(saved), saved, metadata={"angel_trl": json.dumps(header)})
    with pytest.raises(ValueError, match="was altered"):
        NameTrie.load(saved)


@pytest.mark.parametrize(
    ("array", "at", "value", "message"),
    [
        ("first_child", 0, 2, "arrays do not belong together"),
        ("first_child", -1, 9, "arrays do not belong together"),
        ("leaves_before", 0, 1, "arrays do not belong together"),
        ("leaves_before", -1, 3, "3 leaves but names for 4"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused_unread(saved, array, at, value, message):
    tensors = load_file(saved)
    tensors[array][at] = value
    save_file(tensors, saved, metadata={"angel_trl": '{"format": "angel_trl.trie/2", "fingerprint": "abc"}'})
    with pytest.raises(ValueError, match=message):
        NameTrie.load(saved, fingerprint="abc", verify=False)


def test_levels_of_an_altered_file_end(saved):
    tensors = load_file(saved)
    tensors["first_child"][1] = 1
    save_file(tensors, saved, metadata={"angel_trl": '{"format": "angel_trl.trie/2", "fingerprint": "abc"}'})
    trie = NameTrie.load(saved, verify=False)
    with pytest.raises(ValueError, match="nodes are not in order"):
        trie.depth(torch.tensor([3]))


@BOTH
@pytest.mark.parametrize("wrong", ["missing", "too many", "dtype", "shape"])
def test_other_arrays_are_refused(saved, wrong, verify):
    tensors = load_file(saved)
    if wrong == "missing":
        del tensors["leaf_name"]
    elif wrong == "too many":
        tensors["weight"] = torch.zeros(3)
    elif wrong == "dtype":
        tensors["leaf_name"] = tensors["leaf_name"].long()
    else:
        tensors["leaf_name"] = tensors["leaf_name"][None]
    save_file(tensors, saved, metadata={"angel_trl": '{"format": "angel_trl.trie/2"}'})
    with pytest.raises(ValueError, match="does not hold the arrays of a trie"):
        NameTrie.load(saved, verify=verify)


@BOTH
def test_a_file_of_the_first_version_is_refused(tmp_path, verify):
    path = tmp_path / "trie.safetensors"
    tensors = {"tokens": torch.zeros(2), "first_child": torch.zeros(3), "leaf_name": torch.zeros(1)}
    save_file(tensors, path, metadata={"angel_trl": '{"format": "angel_trl.trie/1", "fingerprint": "abc"}'})
    with pytest.raises(ValueError, match=r"version \(angel_trl.trie/2\), but 'angel_trl.trie/1'. Build it again"):
        NameTrie.load(path, fingerprint="abc", verify=verify)


@pytest.mark.parametrize(
    "metadata",
    [None, {"angel_trl": '{"format": "angel_trl.trie/0"}'}, {"angel_trl": "[1]"}, {"angel_trl": "no JSON"}],
)
@BOTH
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata, verify):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="not a (readable )?trie"):
        NameTrie.load(path, verify=verify)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    path = tmp_path / "trie.pkl"
    path.write_bytes(b"\x80\x04." * 20)
    with pytest.raises(ValueError, match="not a readable trie file"):
        NameTrie.load(path)
