"""What the trainers of both stages see before they begin: whether there is room for what they will write."""

import errno
from types import SimpleNamespace

import pytest

from angel_trl import searching_trainer


@pytest.fixture
def disk(monkeypatch):
    """A disk with `disk.free` bytes left; `disk.asked` has the folders that were asked about."""
    disk = SimpleNamespace(free=0, asked=[])
    usage = SimpleNamespace(disk_usage=lambda path: disk.asked.append(path) or SimpleNamespace(free=disk.free))
    monkeypatch.setattr(searching_trainer, "shutil", usage)
    return disk


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        # The linker; beside it a checkpoint's weights, and Adam's two moments.
        ({"save_strategy": "no"}, 1),
        ({"save_strategy": "epoch", "save_only_model": True}, 2),
        ({"save_strategy": "epoch", "optim": "sgd"}, 2),
        ({"save_strategy": "epoch"}, 4),
    ],
)
def test_a_disk_that_is_too_small_is_said_before_training(make_trainer, disk, tmp_path, settings, times):
    # The rounds need their checkpoints for the best model, unless told that the last is to be kept.
    trainer = make_trainer(output_dir=tmp_path / "not" / "yet", load_best_model_at_end=False, **settings)
    needed = times * sum(4 * weight.numel() for weight in trainer.model.parameters())
    disk.free = needed - 1
    with pytest.raises(OSError, match=r"has \S+B left, and a checkpoint and the linker take \S+B or more") as error:
        trainer.train()
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "not" / "yet")
    assert disk.asked[-1] == next(path for path in (tmp_path / "not" / "yet", *tmp_path.parents) if path.exists())
    assert trainer.state.global_step == 0
    assert not list(tmp_path.rglob("*.parquet")), "mined before it looked"
    disk.free = needed
    trainer._check_room()


def test_the_recipe_says_it_in_one_line_with_the_way_on(tmp_path):
    import stages

    from angel_trl import AngelConfig

    run = stages.Stages(AngelConfig(str(tmp_path), use_cpu=True, report_to="none"), resume=False, cpu_threads=1)

    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoint-5/optimizer.pt")

    with pytest.raises(SystemExit, match=r"(?s)No space left.*optimizer.pt.*with --resume goes on in") as end:
        run.run(tmp_path, tmp_path, full)
    assert str(tmp_path) in end.value.code

    def other():
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        run.run(tmp_path, tmp_path, other)
