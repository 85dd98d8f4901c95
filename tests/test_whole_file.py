"""A file that is written whole or not at all."""

import pytest
from whole_file import whole_file


@pytest.fixture
def before(tmp_path):
    """A file that is there before."""
    path = tmp_path / "x.txt"
    path.write_text("before")
    return path


def test_a_file_takes_the_place_of_another_once_all_is_written(before):
    with whole_file(before) as partial:
        partial.write_text("all")
        assert before.read_text() == "before"
    assert before.read_text() == "all"
    assert list(before.parent.iterdir()) == [before]


def test_writing_that_fails_leaves_what_was_there(before):
    def write_half():
        with whole_file(before) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert before.read_text() == "before"
    assert list(before.parent.iterdir()) == [before]
