"""Saving and restoring: everything comes back, nothing is lost to a full disk or a damaged file."""

import resource

import numpy as np
import pytest
import tensorflow as tf

from tests.runs.support import TinyTask, refusal, save_steps
from tf_simclr.runs import checkpoint
from tf_simclr.runs.checkpoint import Checkpoints, wait_for_checkpoint

pytestmark = pytest.mark.stack


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_save_keeps_the_newest_and_restores_everything(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), TinyTask())
    assert (checkpoints.latest, checkpoints.restore()) == (None, 0)
    save_steps(tmp_path, 3, 6, 9, keep=2)
    files = [f"ckpt-{step}.{suffix}" for step in (6, 9) for suffix in ("index", "data-00000-of-00001")]
    assert names(tmp_path) == {"checkpoint", *files}
    fresh = TinyTask()
    again = Checkpoints(str(tmp_path), fresh)
    assert (again.restore(), again.latest) == (9, f"{tmp_path}/ckpt-9")
    assert (float(fresh.weight), float(fresh.optimizer.slot)) == (9, -9)
    assert again.restore_network(f"{tmp_path}/ckpt-6") == 6


def test_save_of_a_weight_that_is_not_finite_is_refused(tmp_path):
    task = TinyTask()
    checkpoints = Checkpoints(str(tmp_path), task)
    checkpoints.save()
    task.weight.assign(float("nan"))
    task.optimizer.iterations.assign(5)
    message = refusal(checkpoints.save)
    assert message.startswith("training diverged by step 5: weight")
    assert f"the last good checkpoint is {tmp_path}/ckpt-0" in message
    assert not (tmp_path / "ckpt-5.index").exists()


def test_next_checkpoint_is_waited_for_so_long(tmp_path, monkeypatch):
    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            (tmp_path / "ckpt-4.index").touch()
            listed = 'model_checkpoint_path: "ckpt-4"\nall_model_checkpoint_paths: "ckpt-4"\n'
            (tmp_path / "checkpoint").write_text(listed)

    slept, clock = [], iter(range(100))
    monkeypatch.setattr(checkpoint.time, "sleep", sleep)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    directory, path = str(tmp_path), f"{tmp_path}/ckpt-4"
    assert wait_for_checkpoint(directory, None, timeout=0) == path
    assert len(slept) == 2
    assert wait_for_checkpoint(directory, None, timeout=5) == path
    assert wait_for_checkpoint(directory, path, timeout=5) is None
    assert len(slept) == 6


def without_slot(step=0):
    task = TinyTask(value=float(step))
    del task.optimizer.slot
    task.optimizer.iterations.assign(step)
    return task


def test_restore_without_the_optimizers_slot_is_refused(tmp_path):
    Checkpoints(str(tmp_path), without_slot()).save()
    message = refusal(Checkpoints(str(tmp_path), TinyTask()).restore)
    assert message.startswith(f"--model_dir={tmp_path}: ckpt-0 does not fit this run (")
    assert "--optimizer" in message


def test_restore_of_the_network_needs_no_optimizer(tmp_path):
    Checkpoints(str(tmp_path), without_slot(4)).save()
    evaluated = TinyTask()
    assert Checkpoints(str(tmp_path), evaluated).restore_network(f"{tmp_path}/ckpt-4") == 4
    assert (float(evaluated.weight), float(evaluated.optimizer.slot)) == (4, 0.5)
    assert "ckpt-5 is damaged" in refusal(Checkpoints(str(tmp_path), evaluated).restore_network, f"{tmp_path}/ckpt-5")


# ---- Damaged files


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "deleted": lambda path: path.unlink(),
    "overwritten": flip_a_byte,
}


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_restore_takes_the_one_before_a_damaged_checkpoint_and_says_so(tmp_path, log, damage, suffix):
    save_steps(tmp_path, 1, 2)
    damage(tmp_path / f"ckpt-2.{suffix}")
    task = TinyTask()
    again = Checkpoints(str(tmp_path), task)
    assert (again.restore(), float(task.weight)) == (1, 1)
    assert log.messages[0].startswith(f"--model_dir={tmp_path}: ckpt-2 is damaged or cannot be read (")
    assert log.messages[1] == "Taking ckpt-1, the one before it."
    task.optimizer.iterations.assign(2)
    again.save()
    assert Checkpoints(str(tmp_path), TinyTask()).restore() == 2


def test_restore_without_any_whole_checkpoint_is_refused(tmp_path):
    save_steps(tmp_path, 1, 2)
    for path in tmp_path.glob("ckpt-*.data*"):
        flip_a_byte(path)
    task = TinyTask(value=-5)
    message = refusal(Checkpoints(str(tmp_path), task).restore)
    assert message.startswith(f"--model_dir={tmp_path}: ckpt-2 is damaged")
    assert message.endswith("or use another --model_dir.")
    assert float(task.weight) == -5


def test_restore_ignores_a_checkpoint_that_was_never_finished(tmp_path, log):
    """A process that is killed while it writes its first one leaves no list of checkpoints."""
    save_steps(tmp_path, 4)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "ckpt-4.index").write_bytes(b"")
    assert Checkpoints(str(tmp_path), TinyTask()).restore() == 0
    assert "ckpt-4 is damaged" in log.messages[0]


# ---- Writing that fails


def test_save_deletes_only_what_it_wrote_and_only_after_the_newer_is_whole(tmp_path, monkeypatch):
    def raise_full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    foreign = ["ckpt-7.index", "ckpt-7.data-00000-of-00001", "ckpt-1.index.kept", "ckpt-best.index"]
    for name in foreign:
        (tmp_path / name).write_text("someone else's")
    checkpoints = save_steps(tmp_path, 1, 2, keep=1)
    monkeypatch.setattr(tf.train.Checkpoint, "_write", raise_full, raising=True)
    refusal(checkpoints.save)
    assert names(tmp_path) == {"checkpoint", "ckpt-2.index", "ckpt-2.data-00000-of-00001", *foreign}


def test_save_on_a_full_disk_keeps_the_earlier_checkpoint_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    task = TinyTask(np.zeros(100_000, "float32"))
    checkpoints = Checkpoints(str(tmp_path), task)
    checkpoints.save()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    task.optimizer.iterations.assign(5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        message = refusal(checkpoints.save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith(f"--model_dir={tmp_path}: cannot write checkpoint 5 (")
    assert f"the last good one is {tmp_path}/ckpt-0; free some space" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert checkpoints.restore() == 0
    task.optimizer.iterations.assign(5)
    assert checkpoints.save() == f"{tmp_path}/ckpt-5"


def test_a_worker_that_does_not_write_leaves_the_directory_alone(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "run"), TinyTask(), writes=False)
    assert checkpoints.save() == f"{tmp_path}/run/ckpt-0"
    assert not (tmp_path / "run").exists()


def test_go_back_leaves_out_the_batches_since_also_after_another_start(tmp_path):
    task = TinyTask()
    checkpoints = Checkpoints(str(tmp_path), task)
    task.optimizer.iterations.assign(4)
    checkpoints.save()
    task.optimizer.iterations.assign(9)
    # Steps 5 to 9 were taken with the batches 4 to 8: the next one is 9.
    assert checkpoints.go_back(9) == 4
    assert 4 + checkpoints.skipped_steps == 9
    # And step 5, with batch 9, fails too.
    assert checkpoints.go_back(5) == 4
    assert 4 + checkpoints.skipped_steps == 10
    task.optimizer.iterations.assign(6)
    checkpoints.save()
    again = Checkpoints(str(tmp_path), TinyTask())
    assert (again.restore(), again.skipped_steps) == (6, 6)
