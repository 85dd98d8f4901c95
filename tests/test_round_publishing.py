"""What is said and kept of a run that is to be published, without the Hub."""

import ast
import inspect
import json
import re

import pytest
import transformers.trainer
import trl.trainer.base_trainer
import trl.trainer.dpo_trainer

from angel_trl.hub import PublishError
from angel_trl.publishing import Destination, Outcome, hub_id
from angel_trl.round_publishing import RoundPublisher, round_name
from angel_trl.searching_trainer import SearchingTrainer


def test_a_destination_says_who_may_see_the_pairs():
    assert [Destination("a/b", "a/c", private).pairs_private for private in (None, True, False)] == [True, True, False]
    assert "hf_secret" not in repr(Destination("a/b", token="hf_secret"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model",), "'model' is no id of a Hub repository: give 'user/name'"),
        (("a/b", "pairs"), "'pairs' is no id"),
        (("a/b", None, None, "rounds", True), "hub_revision is 'rounds', where the linkers of rounds go"),
    ],
)
def test_a_destination_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Destination(*arguments)


def test_what_is_a_repository_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "kb").mkdir(parents=True)
    sources = ["facebook/bart-large", "data/kb", "a/b/c", "/a/b", "https://x.org/a", "gpt2", "", None, "hf://a/b"]
    assert [hub_id(source) for source in sources] == ["facebook/bart-large", *8 * [None]]


def test_rounds_are_numbered_from_one_and_kept_in_order(tmp_path):
    publisher = RoundPublisher(tmp_path, "tester/model")
    for number in (2, 100, 1, 11):
        (tmp_path / "rounds" / round_name(number)).mkdir(parents=True)
    (tmp_path / "rounds" / "round-03.partial").mkdir()
    assert publisher.kept == ["round-01", "round-02", "round-11", "round-100"]


def test_a_linker_without_room_is_not_kept(tmp_path, caplog):
    publisher = RoundPublisher(tmp_path, "tester/model")
    assert publisher.room(1000) > 1000
    assert not publisher.keep(1, 10**18, lambda folder: folder.mkdir())
    assert "The linker of round-01 was not kept and will not be published: the disk of" in caplog.text
    assert publisher.kept == []


def test_a_linker_that_could_not_be_written_leaves_nothing(tmp_path, caplog):
    def write(folder):
        folder.mkdir()
        (folder / "half").write_text("x")
        raise OSError("No space left on device")

    assert not RoundPublisher(tmp_path, "tester/model").keep(1, 1, write)
    assert "No space left on device" in caplog.text
    assert list((tmp_path / "rounds").iterdir()) == []


def test_a_linker_that_cannot_be_published_is_kept(tmp_path):
    publisher = RoundPublisher(tmp_path, "tester/model")
    assert publisher.keep(1, 1, lambda folder: folder.mkdir())
    # Tests are offline.
    assert "cannot be published offline: unset HF_HUB_OFFLINE" in publisher.finish()["round-01"]
    assert publisher.known == {"round-01"}


def test_what_was_published_elsewhere_is_not_known(tmp_path):
    (tmp_path / "rounds").mkdir()
    record = {"repo_id": "tester/model", "rounds": {"round-01": "https://huggingface.co/tester/model/tree/round-01"}}
    (tmp_path / "rounds" / "published.json").write_text(json.dumps(record))
    assert RoundPublisher(tmp_path, "tester/model").known == {"round-01"}
    assert RoundPublisher(tmp_path, "tester/other").known == set()


def test_an_outcome_says_what_is_where():
    outcome = Outcome(rounds={"round-01": "url/round-01", "round-02": "url/round-02"})
    outcome.failures["pairs"] = "the Hub answered 500."
    outcome.not_kept.append("round-03")
    assert str(outcome).splitlines() == [
        "Published: the linkers of rounds, with the tags round-01, round-02: url/round-02",
        "Not kept, so not published: the linkers of round-03.",
        "NOT published, pairs: the Hub answered 500.",
    ]
    assert outcome.to_dict() == {"rounds": outcome.rounds, "failed": {"pairs": "the Hub answered 500."}}


def test_transformers_and_trl_write_to_the_hub_only_where_we_step_in():
    found = set()
    for module in (transformers.trainer, trl.trainer.base_trainer, trl.trainer.dpo_trainer):
        tree = ast.parse(inspect.getsource(module))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            calls = {ast.unparse(call.func) for call in ast.walk(function) if isinstance(call, ast.Call)}
            if any(re.search(r"hf_api|HfApi|upload_|create_repo|create_commit|push_to_hub", call) for call in calls):
                found.add(function.name)
    # `save_model` calls `push_to_hub`, which is ours.
    assert found == {"init_hf_repo", "push_to_hub", "_push_from_checkpoint", "save_model"}
    assert found - {"save_model"} <= vars(SearchingTrainer).keys()


def test_offline_nothing_is_trained_that_is_to_be_published(make_trainer, tmp_path):
    with pytest.raises(PublishError, match="cannot be published offline: unset HF_HUB_OFFLINE"):
        make_trainer(push_to_hub=True, hub_model_id="tester/model")
