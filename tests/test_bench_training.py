"""The training benchmark: the plain way is DPO, both sides compute the same, and a difference does not pass unseen."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from angel_trl.collator import MentionPairs
from angel_trl.formatting import EncodedMention
from angel_trl.linker import EntityLinker

BENCH = Path(__file__).resolve().parents[1] / "recipes" / "bench"
TINY = {
    "width": 32,
    "layers": 1,
    "vocabulary": 600,
    "source_tokens": 12,
    "target_tokens": 6,
    "prefix_tokens": 3,
    "mentions": 4,
}
# Literal token ids: two mentions with sources and names of unlike lengths.
ITEMS = [
    MentionPairs(EncodedMention((0, 10, 11, 12, 2), (2, 20)), (((30, 31, 2), (32, 2), 0.0, 0.0),)),
    MentionPairs(
        EncodedMention((0, 13, 2), (2, 21, 22)),
        (((33, 2), (34, 35, 36, 2), 0.0, 0.0), ((33, 2), (37, 2), 0.0, 0.0)),
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _bench_on_path():
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


@pytest.fixture
def plain_training():
    import plain_training

    return plain_training


@pytest.fixture
def training():
    import training

    return training


@pytest.fixture
def sides(training, plain_training, tmp_path):
    """Both sides with equal weights, and the batch; the weights are large, so that no gradient is next to nothing."""
    shape = plain_training.Shape(**TINY)
    policy, reference = (plain_training.make_model(shape, seed) for seed in (0, 1))
    with torch.no_grad():
        for parameter in [*policy.parameters(), *reference.parameters()]:
            if parameter.ndim == 2:
                parameter.mul_(4)
    items = plain_training.make_items(shape)
    ours = training.OurTraining(training.copy.deepcopy(policy), items, str(tmp_path))
    return ours, plain_training.PlainTraining(policy, reference, items), items


def log_prob_by_token(model, mention, name):
    """The sum over the tokens of a name, one forward each and no padding."""
    total = 0.0
    for place, token in enumerate(name):
        decoder = torch.tensor([[*mention.prefix, *name[:place]]])
        logits = model(input_ids=torch.tensor([mention.source]), decoder_input_ids=decoder).logits[0, -1]
        total += logits.log_softmax(0)[token].item()
    return total


def test_dpo_loss_of_two_pairs_by_hand(plain_training):
    # Margins of the two pairs: (-1 + 2) - (-5 + 4) = 2 and (-3 + 2) - (-1 + 4) = -4, times 0.1.
    policy, reference = torch.tensor([-1.0, -3.0, -5.0, -1.0]), torch.tensor([-2.0, -2.0, -4.0, -4.0])
    # (log(1 + exp(-0.2)) + log(1 + exp(0.4))) / 2
    assert plain_training.dpo_loss(policy, reference).item() == pytest.approx((0.5981389 + 0.9130153) / 2)


def test_plain_log_probabilities_are_those_of_the_names_token_by_token(plain_training, make_model):
    model = make_model(seed=3)
    rows = plain_training.pair_rows(ITEMS)
    assert [name for _, name in rows] == [(30, 31, 2), (33, 2), (33, 2), (32, 2), (34, 35, 36, 2), (37, 2)]
    found = plain_training.log_probs(model, plain_training.PlainBatch.of(ITEMS))
    assert found.tolist() == pytest.approx([log_prob_by_token(model, *row) for row in rows], rel=1e-5)


def test_the_batch_has_the_shape_it_is_said_to_have(plain_training):
    items = plain_training.make_items(plain_training.Shape())
    assert len(items) == 8
    assert {len(item.mention.source) for item in items} == {128}
    assert {
        len(item.mention.prefix[1:]) + len(name) for item in items for pair in item.pairs for name in pair[:2]
    } == {16}
    assert all(len(item.pairs) == 2 and item.pairs[0][0] == item.pairs[1][0] for item in items)
    assert len({pair[1] for item in items for pair in item.pairs}) == 16
    assert items == plain_training.make_items(plain_training.Shape())


def test_ragged_batches_need_padding_and_keep_within_the_shape(plain_training):
    items = plain_training.make_items(plain_training.Shape(), ragged=True)
    assert len({len(item.mention.source) for item in items}) > 1
    assert max(len(item.mention.source) for item in items) <= 128
    assert [len(item.pairs) for item in items] == [1, 2, 3, 1, 2, 3, 1, 2]


@pytest.mark.parametrize("batch", ["full", "literal"])
def test_both_sides_compute_the_same(training, sides, batch):
    ours, plain, items = sides
    found = training.differences(ours, plain, items if batch == "full" else ITEMS)
    assert found["loss"] < 1e-5
    assert found["gradient"] < 1e-5
    assert not any(
        p.grad is not None and p.grad.any() for p in [*ours.policy.parameters(), *plain.policy.parameters()]
    )


def test_another_weight_is_seen(training, sides):
    ours, plain, items = sides
    with torch.no_grad():
        ours.policy.get_decoder().layers[0].fc2.weight.mul_(1.01)
    found = training.differences(ours, plain, items)
    assert found["loss"] > 1e-5
    assert found["gradient"] > 1e-5


def test_another_reference_is_seen(training, sides, monkeypatch):
    ours, plain, items = sides
    monkeypatch.setattr(training, "with_reference", lambda reference, given: given)
    found = training.differences(ours, plain, items)
    assert found["loss"] > 1e-5


def test_one_gradient_of_many_that_differs_is_seen(training):
    ours, plain = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    for model in (ours, plain):
        model.weight.grad, model.bias.grad = torch.full((2, 3), 4.0), torch.tensor([1.0, 2.0])
    assert training.gradient_difference(ours, plain) == 0
    ours.bias.grad[0] += 0.5
    assert training.gradient_difference(ours, plain) == 0.25
    # Noise in place of zero is held against the largest gradient, 4.
    for model, noise in ((ours, 1e-7), (plain, -1e-7)):
        model.bias.grad = torch.full((2,), noise)
    assert training.gradient_difference(ours, plain) == pytest.approx(5e-8)


def test_differences_end_the_program_with_a_reason(training):
    report = {"max_relative_loss_difference": 2e-5, "max_relative_gradient_difference": 1e-6}
    assert training.check(report) == ["max_relative_loss_difference is 2.0e-05, more than 1e-05"]
    assert len(training.check({key: float("nan") for key in report})) == 2
    assert training.check(dict.fromkeys(report, 1e-5)) == []


def test_the_quick_benchmark_ends_with_every_number(training, monkeypatch, capsys, tmp_path):
    # The processes that measure memory take seconds to start; what they run is tested below.
    monkeypatch.setattr(training, "start_part", lambda part, *args, **kwargs: part)
    monkeypatch.setattr(training, "result_of", lambda what, part: {"ours": 500, "plain": 1000}[part])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {**TINY, "repeats": 2, "cpu_threads": 1, "output": tmp_path / "bench.json"}
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["training.py", "--quick", *given])
    training.main()
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report == json.loads((tmp_path / "bench.json").read_text())
    assert report["step_speedup_vs_plain"] > 0
    assert report["peak_memory_ratio_vs_plain"] == 0.5
    assert report["step_speedup_vs_trl_0_9"] is None
    assert 0 <= report["max_relative_loss_difference"] < 1e-5
    assert 0 <= report["max_relative_gradient_difference"] < 1e-5
    assert report["round"] is None
    assert {"date", "hardware", "versions", "shape", "ms_per_step", "spread", "settings"} <= set(report)
    assert sum(line.startswith("| plain |") for line in table) == 1
    assert "left out by --quick" in "\n".join(table)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_of_the_plain_way_holds_two_models_and_the_optimizer(training):
    # 5 copies of 12.8M parameters: policy, reference, gradients and two moments.
    shape = {**TINY, "vocabulary": 400_000}
    args = training.BenchmarkArguments(**shape, part="plain")
    assert training.memory_of_steps(args) > 4.5 * 4 * 400_000 * 32


def test_help_names_the_options(training, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training.py", "--help"])
    with pytest.raises(SystemExit) as end:
        training.main()
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("quick", "old_environment", "linker", "corpus", "kb", "output"))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"quick": True}, "left out by --quick"),
        ({"linker": "somewhere"}, "no --linker to start from and --corpus to mine"),
        ({"linker": "no/linker", "corpus": str(BENCH)}, "not there: no/linker"),
    ],
)
def test_rounds_are_left_out_for_a_reason(training, given, reason):
    assert training.rounds_or_reason(training.BenchmarkArguments(**given)) == reason


def test_rounds_are_timed(small_kb, small_mentions, tokenizer, make_model, capsys):
    from our_training import time_rounds

    linker = EntityLinker(make_model(seed=3), tokenizer, small_kb)
    found = time_rounds(linker, small_mentions.select(range(16)), rounds=2)
    assert (found["rounds"], found["mentions"], found["names"]) == (2, 16, small_kb.num_names)
    assert found["pairs"] > 0
    assert found["mining_seconds"]["min"] > 0
    assert found["training_seconds"]["min"] > 0
    assert found["mining_share"] + found["training_share"] == pytest.approx(1)
    assert capsys.readouterr().out == ""


def test_the_old_script_refuses_another_environment(tmp_path):
    command = [sys.executable, "-I", BENCH / "trl_0_9.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("This environment has trl 1.")
    assert "recipes/bench/training.py" in done.stderr


def test_what_the_old_trainer_reads(plain_training, make_model, tmp_path):
    from old_environment import write_inputs

    model = make_model()
    write_inputs(tmp_path, model, model, ITEMS)
    assert json.loads((tmp_path / "pairs.json").read_text()) == {
        "prompt": [[0, 10, 11, 12, 2], [0, 13, 2], [0, 13, 2]],
        "chosen": [[20, 30, 31, 2], [21, 22, 33, 2], [21, 22, 33, 2]],
        "rejected": [[20, 32, 2], [21, 22, 34, 35, 36, 2], [21, 22, 37, 2]],
    }
    assert (tmp_path / "policy" / "model.safetensors").exists()
    assert (tmp_path / "reference" / "config.json").exists()


def test_an_environment_that_is_there_is_taken(monkeypatch, tmp_path):
    import old_environment

    monkeypatch.setattr(old_environment.subprocess, "run", lambda *args, **kwargs: pytest.fail("it built another"))
    (tmp_path / "angel_trl_pins.json").write_text(json.dumps(list(old_environment.PINS)))
    assert old_environment.build_environment(tmp_path) == old_environment.python_of(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    from old_environment import build_environment

    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SystemExit, match="holds something else"):
        build_environment(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_environment_that_cannot_be_built_says_so_and_is_tried_again(monkeypatch, tmp_path, capsys):
    import old_environment

    commands = []

    def fail(command, **kwargs):
        commands.append(command)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(old_environment.subprocess, "run", fail)
    for _ in range(2):
        with pytest.raises(SystemExit, match="could not be built"):
            old_environment.build_environment(tmp_path / "new")
    assert len(commands) == 2
    assert commands[0][1:3] == ["-m", "venv"]


def test_the_old_process_is_asked_for_steps(monkeypatch, tmp_path):
    import old_environment

    script = tmp_path / "answers.py"
    script.write_text(
        "import json, sys\n"
        "print(json.dumps({'ready': True, 'versions': {'trl': '0'}, 'threads': sys.argv[3]}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    assert line == 'step\\n'\n"
        "    print(json.dumps({'loss': 0.5, 'seconds': 1.0, 'peak_bytes': 7}), flush=True)\n"
    )
    monkeypatch.setattr(old_environment, "SCRIPT", script)
    with old_environment.OldTraining(Path(sys.executable), tmp_path, 3) as old:
        assert (old.versions, old.last["threads"]) == ({"trl": "0"}, "3")
        assert (old.step(), old.step()) == (0.5, 0.5)
        assert old.last["peak_bytes"] == 7
    script.write_text("")
    with pytest.raises(SystemExit, match="ended with status 0"):
        old_environment.OldTraining(Path(sys.executable), tmp_path, 1)
