import pytest
from datasets import Dataset

from angel_trl.mentions import MENTION_FEATURES, validate_mentions

ROW = {
    "id": "1:0-3",
    "document_id": "1",
    "text": "FAP is rare.",
    "start": 0,
    "end": 3,
    "mention": "FAP",
    "types": ["Disease"],
    "concept_ids": [["D011125", "OMIM:175100"]],
    "split": "train",
}


def _dataset(*changes):
    return Dataset.from_list([{**ROW, **change} for change in changes], features=MENTION_FEATURES)


def test_a_good_dataset_passes():
    validate_mentions(_dataset({}, {"id": "1:7-11", "start": 7, "end": 11, "mention": "rare", "concept_ids": []}))


def test_extra_columns_are_allowed():
    validate_mentions(_dataset({}).add_column("expanded", ["familial adenomatous polyposis"]))


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"missing: \['mention', 'split'\]"):
        validate_mentions(_dataset({}).remove_columns(["mention", "split"]))


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 3), (3, 2), (0, 13)])
def test_offsets_outside_the_text(start, end):
    with pytest.raises(ValueError, match=rf"row 1 \(id 'b'\): start {start} and end {end} .* 12 characters"):
        validate_mentions(_dataset({}, {"id": "b", "start": start, "end": end}))


def test_mention_that_is_not_at_its_offsets():
    with pytest.raises(ValueError, match=r"row 0 \(id '1:0-3'\): mention 'FAB' is not text\[0:3\], which is 'FAP'"):
        validate_mentions(_dataset({"mention": "FAB"}))


def test_repeated_id():
    with pytest.raises(ValueError, match=r"row 1 \(id '1:0-3'\): the id stands in row 0 already"):
        validate_mentions(_dataset({}, {}))


def test_null_value():
    with pytest.raises(ValueError, match=r"row 0 .*null in \['start'\]"):
        validate_mentions(_dataset({"start": None}))


@pytest.mark.parametrize("concept_ids", [["D011125"], [[]], [[""]]])
def test_concept_ids_must_be_nested_lists_of_ids(concept_ids):
    dataset = Dataset.from_list([{**ROW, "concept_ids": concept_ids}])
    with pytest.raises(ValueError, match="row 0 .*concept_ids .* must be a list"):
        validate_mentions(dataset)
