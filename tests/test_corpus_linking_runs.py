"""A run of linking that was stopped goes on; what belongs to another run, or has changed, is refused."""

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from angel_trl import Concept, EntityLinker
from angel_trl.corpus_linking import LinkingSettings, link_corpus
from angel_trl.corpus_linking.files import find_files
from angel_trl.corpus_linking.identity import linker_fingerprint
from angel_trl.corpus_linking.pieces import piece_sizes, read_pieces


@pytest.fixture(scope="module")
def linker(make_model, tokenizer, small_kb):
    return EntityLinker(make_model(seed=1), tokenizer, small_kb)


@pytest.fixture
def corpus(tmp_path, small_mentions):
    """Two files: `sub/a.jsonl` with 24 mentions, `b.txt` with 24 documents of a mention."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    lines = [{key: row[key] for key in ("text", "start", "end")} for row in small_mentions]
    (folder / "sub" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents = [
        f"{number}|t|{row['text']}\n{number}\t{row['start']}\t{row['end']}\t{row['mention']}\tDisease\tD1\n\n"
        for number, row in enumerate(small_mentions, 1)
    ]
    (folder / "b.txt").write_text("".join(documents))
    return folder


SETTINGS = LinkingSettings(shard_mentions=5, batch_size=4, num_beams=3)


def link(linker, source, output, **changes):
    return link_corpus(linker, source, output, LinkingSettings(**{**vars(SETTINGS), **changes}))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_all_there_does_nothing(linker, corpus, tmp_path):
    first = link(linker, corpus, tmp_path / "out")
    assert (first.linked, first.shards) == (48, 10)
    before = content(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "links").rglob("*.parquet")}
    again = link(linker, corpus, tmp_path / "out")
    assert (again.linked, again.shards) == (0, 0)
    assert again.report == first.report
    assert content(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_what_is_missing_or_broken_is_made_again_with_the_same_bytes(linker, corpus, tmp_path, caplog):
    output = tmp_path / "out"
    link(linker, corpus, output)
    before = content(output)
    (output / "links" / "b.txt-000003.parquet").unlink()
    (output / "links" / "sub" / "a.jsonl-000000.parquet").unlink()
    cut = output / "links" / "b.txt-000001.parquet"
    cut.write_bytes(cut.read_bytes()[:-5])
    (output / "links" / ".b.txt-000003.parquet.partial").write_bytes(b"half")
    (output / "report.json").unlink()
    with caplog.at_level(logging.WARNING):
        again = link(linker, corpus, output)
    assert (again.linked, again.shards) == (15, 3)
    assert "b.txt-000001.parquet is broken" in caplog.text
    assert content(output) == before


def test_a_shard_of_pubtator_that_is_gone_is_made_again(linker, corpus, tmp_path):
    output = tmp_path / "out"
    link(linker, corpus / "b.txt", output, format="pubtator")
    before = content(output)
    (output / "pubtator" / "b.txt-000002.txt").unlink()
    assert link(linker, corpus / "b.txt", output, format="pubtator").shards == 1
    assert content(output) == before


def test_another_run_is_refused_with_what_differs(linker, corpus, tmp_path, make_model, tokenizer, small_kb):
    output = tmp_path / "out"
    link(linker, corpus, output)
    before = content(output)
    with pytest.raises(ValueError, match=r"settings.num_beams was 3, is 4; settings.top_k was 5, is 2\. Choose"):
        link(linker, corpus, output, num_beams=4, top_k=2)
    other = EntityLinker(make_model(seed=2), tokenizer, small_kb)
    with pytest.raises(ValueError, match="another run linked: linker was '.*', is '.*'. Choose"):
        link(other, corpus, output)
    with pytest.raises(ValueError, match="knowledge_base was"):
        link(linker.extended([Concept("L1", ("new name",))]), corpus, output)
    assert content(output) == before


def test_a_file_that_changed_is_refused_until_its_shards_are_deleted(linker, corpus, tmp_path):
    output = tmp_path / "out"
    link(linker, corpus, output)
    with (corpus / "b.txt").open("a") as file:
        file.write("25|t|Gout.\n25\t0\t4\tGout\tDisease\n")
    with pytest.raises(ValueError, match=r"b.txt is not the same since .*out got 5 shards of it.*b.txt-000000"):
        link(linker, corpus, output)
    for path in (output / "links").glob("b.txt-*"):
        path.unlink()
    assert link(linker, corpus, output).linked == 25
    (corpus / "sub" / "a.jsonl").unlink()
    with pytest.raises(ValueError, match="sub/a.jsonl is gone since"):
        link(linker, corpus, output)


def test_files_that_are_added_are_linked_and_the_others_stay(linker, corpus, tmp_path):
    output = tmp_path / "out"
    link(linker, corpus, output)
    before = content(output / "links")
    (corpus / "a new.txt").write_text("1|t|Gout.\n1\t0\t4\tGout\tDisease\n")
    added = link(linker, corpus, output)
    assert (added.linked, added.report["counts"]["mentions"], added.report["counts"]["shards"]) == (1, 49, 11)
    after = content(output / "links")
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"a new.txt-000000.parquet"}


def test_a_shard_of_another_run_is_refused(linker, corpus, tmp_path):
    link(linker, corpus, tmp_path / "a")
    link(linker, corpus, tmp_path / "b", top_k=2)
    (tmp_path / "a/links/b.txt-000000.parquet").write_bytes((tmp_path / "b/links/b.txt-000000.parquet").read_bytes())
    with pytest.raises(ValueError, match="b.txt-000000.parquet is of another run: settings.top_k was 2, is 5"):
        link(linker, corpus, tmp_path / "a")


@pytest.mark.parametrize("kind", ["file", "folder", "inside"])
def test_an_output_that_is_something_else_is_refused_and_left_alone(linker, corpus, tmp_path, kind):
    output = {"file": tmp_path / "file", "folder": tmp_path / "folder", "inside": corpus / "out"}[kind]
    message = {"file": "is a file", "folder": "of no run that was started here", "inside": "lies in the input"}[kind]
    if kind == "file":
        output.write_text("mine")
    if kind == "folder":
        output.mkdir()
        (output / "mine").write_text("mine")
    with pytest.raises(ValueError, match=message):
        link(linker, corpus, output)
    assert output.exists() is (kind != "inside")
    if kind == "folder":
        assert content(output) == {"mine": b"mine"}


def test_other_hardware_or_versions_are_kept_and_told(linker, corpus, tmp_path, caplog):
    output = tmp_path / "out"
    link(linker, corpus / "b.txt", output)
    stored = json.loads((output / "run.json").read_text())
    stored["environments"][0]["torch"] = "1.0"
    (output / "run.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        link(linker, corpus / "b.txt", output)
    assert "last digits of scores may differ" in caplog.text
    assert "torch was '1.0'" in caplog.text
    versions = [one["torch"] for one in json.loads((output / "run.json").read_text())["environments"]]
    assert versions[0] == "1.0"
    assert len(versions) == 2


def test_a_linker_is_known_by_what_it_computes(linker, make_model, tokenizer, small_kb, tmp_path):
    linker.save_pretrained(tmp_path)
    assert linker_fingerprint(EntityLinker.from_pretrained(tmp_path)) == linker_fingerprint(linker)
    assert linker_fingerprint(EntityLinker(make_model(seed=2), tokenizer, small_kb)) != linker_fingerprint(linker)


def test_files_are_told_by_their_content_and_others_are_named(tmp_path):
    (tmp_path / "x").write_text("1|t|Gout\n")
    (tmp_path / "y").write_text('{"text": "Gout", "start": 0, "end": 4}\n')
    (tmp_path / "deep").mkdir()
    pq.write_table(pa.table({"text": ["Gout"], "start": [0], "end": [4]}), tmp_path / "deep" / "z")
    pq.write_table(pa.table({"words": ["Gout"]}), tmp_path / "p")
    (tmp_path / "README.md").write_text("Dear reader\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / ".hidden").write_text("1|t|Gout\n")
    files, others = find_files(tmp_path)
    assert [(file.name, file.format) for file in files] == [("deep/z", "parquet"), ("x", "pubtator"), ("y", "jsonl")]
    assert others == {
        "README.md": "starts with 'Dear reader'",
        "empty": "is empty",
        "p": "is parquet with the columns words",
    }
    with pytest.raises(ValueError, match="README.md: nothing that can be linked .*Dear reader.* Known: PubTator"):
        find_files(tmp_path / "README.md")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        find_files(tmp_path / "nothing")


@pytest.mark.parametrize("most", [1, 3, 5, 24, 100])
def test_the_pieces_of_a_file_hold_it_once_and_can_be_read_alone(corpus, tmp_path, most):
    files, _ = find_files(corpus)
    table = pa.table({"text": ["Gout"] * 24, "start": [0] * 24, "end": [4] * 24, "id": list(range(24))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    for file in [*files, *find_files(tmp_path / "t.parquet")[0]]:
        sizes = piece_sizes(file, most)
        assert sizes == [min(most, 24 - at) for at in range(0, 24, most)]
        pieces = list(read_pieces(file, most, range(len(sizes))))
        assert [piece.number for piece in pieces] == list(range(len(sizes)))
        records = [record for piece in pieces for record in piece.records]
        assert [number for number, _ in records] == list(range(1, len(records) + 1))
        assert len(records) == {"pubtator": 72, "jsonl": 24, "parquet": 24}[file.format]
        for wanted in ([0], [len(sizes) - 1], list(range(0, len(sizes), 2))):
            assert list(read_pieces(file, most, wanted)) == [pieces[number] for number in wanted]


def test_a_piece_ends_after_so_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("angel_trl.corpus_linking.pieces._MOST_BYTES", 100)
    (tmp_path / "x").write_text("".join(f"{number}|t|{'word ' * 10}\n" for number in range(10)))
    ((file,), _) = find_files(tmp_path / "x")
    assert piece_sizes(file, 100) == [0, 0, 0, 0, 0]
    assert [len(piece.records) for piece in read_pieces(file, 100, range(5))] == [2, 2, 2, 2, 2]


def test_a_broken_file_is_an_error_before_anything_is_linked(linker, corpus, tmp_path):
    import gzip

    packed = gzip.compress((corpus / "b.txt").read_bytes() * 50)
    (corpus / "c.txt.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"c.txt.gz.*broken gzip stream.*fetch the file again"):
        link(linker, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_on_the_hub_is_fetched_and_named(linker, corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("angel_trl.corpus_linking.linking.local_path", lambda source: asked.append(source) or corpus)
    assert link(linker, "user/name@v1", tmp_path / "out").linked == 48
    assert set(asked) == {"user/name@v1"}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["description"]["input"] == "user/name@v1"


def test_pubtator_out_needs_pubtator_in(linker, corpus, tmp_path):
    with pytest.raises(ValueError, match="sub/a.jsonl is jsonl: no PubTator to put ids in"):
        link(linker, corpus, tmp_path / "out", format="pubtator")
