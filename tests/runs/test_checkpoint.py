"""Checkpoints: what fits, what does not and which flag explains it, and who may use a directory."""

import functools
import json
import pathlib
import re
import resource
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.runs import TOTAL_STEPS, differing_tensors, finished_run, tiny_config
from tf_simclr.config import ModelConfig, UserError
from tf_simclr.files import write_json
from tf_simclr.models import build_simclr_model
from tf_simclr.runs import checkpoint
from tf_simclr.runs.checkpoint import Checkpoints, wait_for_checkpoint
from tf_simclr.runs.checkpoint_list import finished_checkpoint, latest_checkpoint
from tf_simclr.runs.directory import check_directory, claim_directory, owning_directory
from tf_simclr.runs.networks import find_checkpoint, initialize_from, load_network

pytestmark = pytest.mark.stack

BASE = {"resnet_depth": 10, "width_multiplier": 0.125, "image_size": 8, "proj_out_dim": 16}


@functools.cache
def build(num_classes=10, **changes):
    return build_simclr_model(ModelConfig(**(BASE | changes)), num_classes)


def refusal(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def finished():
    return finished_run().directory


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


# ---- Starting from a checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("form", ["directory", "prefix", ".index", ".data-00000-of-00001"])
def test_initialize_from_takes_every_name_of_a_checkpoint(finished, form):
    path = str(finished) if form == "directory" else f"{finished}/ckpt-{TOTAL_STEPS}{form * (form[0] == '.')}"
    model = build_simclr_model(ModelConfig(**BASE), 10)
    line = initialize_from(path, model)
    assert line.startswith(f"Starting from {finished}/ckpt-{TOTAL_STEPS}: ")
    matched, total = line.split(": ")[1].split(" variables")[0].split(" of ")
    assert matched == total
    saved = tf.train.load_checkpoint(f"{finished}/ckpt-{TOTAL_STEPS}")
    kernel = saved.get_tensor("model/encoder/stem/conv1/kernel/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_array_equal(model.variable_tree()["encoder"]["stem"]["conv1"]["kernel"], kernel)


def test_initialize_from_starts_the_head_fresh_for_other_classes(finished):
    model = build_simclr_model(ModelConfig(**BASE), 7)
    before = model.variable_tree()["supervised_head"]["kernel"].numpy()
    assert initialize_from(str(finished), model).endswith("the supervised head starts fresh.")
    np.testing.assert_array_equal(model.variable_tree()["supervised_head"]["kernel"], before)


def test_initialize_from_another_network_changes_nothing(finished):
    model = build(width_multiplier=0.25)
    before = [variable.numpy() for variable in model.variables]
    message = refusal(initialize_from, str(finished), model)
    assert message.startswith(f"--checkpoint={finished}/ckpt-{TOTAL_STEPS}: another network; ")
    assert message.endswith("it was written with --width_multiplier=0.125 (here 0.25).")
    assert len(message) < 1500
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_checkpoint_that_does_not_exist_names_those_there(finished, tmp_path):
    message = refusal(find_checkpoint, f"{finished}/ckpt-99", "checkpoint")
    assert message.startswith(f"--checkpoint={finished}/ckpt-99: no such checkpoint; use one of ")
    assert f"ckpt-{TOTAL_STEPS}" in message
    assert "no checkpoint is in that directory either" in refusal(find_checkpoint, f"{tmp_path}/x", "checkpoint")
    assert "no checkpoint in this directory" in refusal(find_checkpoint, str(tmp_path), "checkpoint")


def test_checkpoint_of_another_program_is_refused(tmp_path):
    path = tf.train.Checkpoint(net=tf.Variable(1.0)).write(str(tmp_path / "other"))
    message = refusal(initialize_from, path, build())
    assert message == (f"--checkpoint={path}: not written by tf_simclr; name a checkpoint or a SavedModel that is.")


class Linked(tf.Module):
    """Leads back to itself, at once and by the other one; and far down."""

    def __init__(self):
        super().__init__()
        self.weight, self.other = tf.Variable(1.0), tf.Module()
        self.itself = self.other.parent = self
        deep = self.other
        for _ in range(2000):
            deep.child = tf.Module()
            deep = deep.child
        deep.weight = tf.Variable(1.0)


def test_checkpoint_of_objects_that_refer_to_each_other_is_refused(copy):
    path = tf.train.Checkpoint(model=Linked()).write(str(copy / "ckpt-99"))
    for function, arguments in ((initialize_from, [build()]), (load_network, ["checkpoint"])):
        message = refusal(function, path, *arguments)
        assert message.startswith(f"--checkpoint={path}: another network; ")
        assert "2 extra (" in message


@pytest.mark.parametrize("form", ["https://models.example/run", "nowhere://bucket/run", "nowhere://b/ckpt-1"])
def test_checkpoint_beyond_reach_is_refused(form):
    message = refusal(find_checkpoint, form, "checkpoint")
    assert message.startswith(f"--checkpoint={form}: cannot be reached (")
    assert message.endswith("); download it, and name its directory.")


@pytest.mark.parametrize("value", ["1", None, [1], -1, {}])
def test_checkpoint_beside_damaged_settings_is_refused(copy, value):
    settings = json.loads((copy / "flags.json").read_text()) | {"width_multiplier": value}
    (copy / "flags.json").write_text(json.dumps(settings))
    message = refusal(load_network, str(copy), "checkpoint")
    assert "flags.json of its run is damaged (" in message or f"{copy}/flags.json: damaged or" in message
    assert message.endswith(("); name another checkpoint.", "; restore it from a copy, or use another directory."))


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_checkpoint_truncated_is_refused(copy, suffix, keep):
    path = copy / f"ckpt-{TOTAL_STEPS}{suffix}"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    message = refusal(initialize_from, str(copy), build_simclr_model(ModelConfig(**BASE), 10))
    assert message.startswith(f"--checkpoint={copy}/ckpt-{TOTAL_STEPS} is damaged or cannot be read (")
    assert message.endswith("use an earlier one.")


def test_latest_checkpoint_is_the_newest_also_without_a_list(copy):
    (copy / "checkpoint").unlink()
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(copy / f"ckpt-2.{suffix}", copy / f"ckpt-10.{suffix}")
    assert latest_checkpoint(str(copy)) == f"{copy}/ckpt-10"
    assert find_checkpoint(str(copy), "checkpoint") == f"{copy}/ckpt-10"


def test_latest_checkpoint_nowhere_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "no", tmp_path / "file" / "below"):
        assert latest_checkpoint(str(path)) is None


# ---- Saving and restoring


class TinyTask:
    """One weight and an optimizer with a slot."""

    def __init__(self, value=1.0, dtype="float32"):
        weight = tf.Variable(value, dtype=dtype, name="weight")
        self.model = types.SimpleNamespace(variables=[weight], variable_tree=lambda: {"encoder": {"weight": weight}})
        self.state = {}
        self.optimizer = tf.Module()
        self.optimizer.iterations = tf.Variable(0, dtype=tf.int64)
        self.optimizer.slot = tf.Variable(0.5)
        self.weight = weight


def test_save_keeps_the_newest_and_restores_everything(tmp_path):
    task = TinyTask()
    checkpoints = Checkpoints(str(tmp_path), task, keep=2)
    assert (checkpoints.latest, checkpoints.restore()) == (None, 0)
    for step in (3, 6, 9):
        task.optimizer.iterations.assign(step)
        task.weight.assign(step)
        task.optimizer.slot.assign(-step)
        assert checkpoints.save() == f"{tmp_path}/ckpt-{step}"
    names = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert names == {"checkpoint", "ckpt-6", "ckpt-9"}

    fresh = TinyTask()
    again = Checkpoints(str(tmp_path), fresh, keep=2)
    assert again.restore() == 9
    assert again.latest == f"{tmp_path}/ckpt-9"
    assert (float(fresh.weight), float(fresh.optimizer.slot)) == (9, -9)
    assert again.restore(f"{tmp_path}/ckpt-6") == 6


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
            names = 'model_checkpoint_path: "ckpt-4"\nall_model_checkpoint_paths: "ckpt-4"\n'
            (tmp_path / "checkpoint").write_text(names)

    slept, clock = [], iter(range(100))
    monkeypatch.setattr(checkpoint.time, "sleep", sleep)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    directory, path = str(tmp_path), f"{tmp_path}/ckpt-4"
    assert wait_for_checkpoint(directory, None, timeout=0) == path
    assert len(slept) == 2
    assert wait_for_checkpoint(directory, None, timeout=5) == path
    assert wait_for_checkpoint(directory, path, timeout=5) is None
    assert len(slept) == 6


def test_save_that_fails_names_the_last_good_checkpoint(tmp_path):
    task = TinyTask()
    checkpoints = Checkpoints(str(tmp_path / "run"), task)
    checkpoints.save()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    task.optimizer.iterations.assign(5)
    message = refusal(checkpoints.save)
    assert message.startswith(f"--model_dir={tmp_path}/run: cannot write checkpoint 5 (")
    assert "the last good one is " in message


def test_restore_without_the_optimizers_slot_is_refused(tmp_path):
    task = TinyTask()
    del task.optimizer.slot
    Checkpoints(str(tmp_path), task).save()
    message = refusal(Checkpoints(str(tmp_path), TinyTask()).restore)
    assert message.startswith(f"--model_dir={tmp_path}: ckpt-0 does not fit this run (")
    assert "--optimizer" in message


def test_list_of_checkpoints_that_is_empty_is_passed_over(tmp_path):
    save_steps(tmp_path, 3, 6)
    (tmp_path / "checkpoint").write_text("")
    assert latest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-6"


def test_restore_of_the_network_needs_no_optimizer(tmp_path):
    task = TinyTask()
    del task.optimizer.slot
    task.optimizer.iterations.assign(4)
    task.weight.assign(4)
    Checkpoints(str(tmp_path), task).save()
    evaluated = TinyTask()
    assert Checkpoints(str(tmp_path), evaluated).restore_network(f"{tmp_path}/ckpt-4") == 4
    assert (float(evaluated.weight), float(evaluated.optimizer.slot)) == (4, 0.5)
    assert "ckpt-5 is damaged" in refusal(Checkpoints(str(tmp_path), evaluated).restore_network, f"{tmp_path}/ckpt-5")


def save_steps(directory, *steps, keep=5):
    task = TinyTask()
    checkpoints = Checkpoints(str(directory), task, keep=keep)
    for step in steps:
        task.optimizer.iterations.assign(step)
        task.weight.assign(step)
        checkpoints.save()
    return checkpoints


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
    checkpoints = Checkpoints(str(tmp_path), TinyTask())
    assert checkpoints.restore() == 0
    assert "ckpt-4 is damaged" in log.messages[0]


def test_save_deletes_only_what_it_wrote_and_only_after_the_newer_is_whole(tmp_path, monkeypatch):
    foreign = ["ckpt-7.index", "ckpt-7.data-00000-of-00001", "ckpt-1.index.kept", "ckpt-best.index"]
    for name in foreign:
        (tmp_path / name).write_text("someone else's")
    checkpoints = save_steps(tmp_path, 1, 2, keep=1)
    monkeypatch.setattr(tf.train.Checkpoint, "_write", raise_full, raising=True)
    refusal(checkpoints.save)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint", "ckpt-2.index", "ckpt-2.data-00000-of-00001", *foreign}


def raise_full(*args, **kwargs):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


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


def test_a_worker_that_does_not_write_leaves_the_directory_alone(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "run"), TinyTask(), writes=False)
    assert checkpoints.save() == f"{tmp_path}/run/ckpt-0"
    assert not (tmp_path / "run").exists()


def test_save_leaves_only_whole_files(tmp_path, monkeypatch):
    task = TinyTask()
    checkpoints = Checkpoints(str(tmp_path), task)
    seen = []
    real = tf.train.CheckpointManager.save

    def save(self, *args, **kwargs):
        path = real(self, *args, **kwargs)
        seen.append(sorted(p.name for p in tmp_path.iterdir()))
        return path

    monkeypatch.setattr(tf.train.CheckpointManager, "save", save)
    checkpoints.save()
    assert seen == [["checkpoint", "ckpt-0.data-00000-of-00001", "ckpt-0.index"]]
    assert differing_tensors(tmp_path / "ckpt-0", tmp_path / "ckpt-0") == []


# ---- Who may use a directory


def steps_in_list(directory):
    return re.findall(r'all_model_checkpoint_paths: "ckpt-(\d+)"', (directory / "checkpoint").read_text())


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff\xfe", b"no list", b'model_checkpoint_path: "ckpt-10"\nall_model_checkpoint_pa', None],
    ids=repr,
)
def test_owner_makes_a_damaged_list_anew_from_the_checkpoints_that_are_there(tmp_path, log, content):
    save_steps(tmp_path, 1, 2, 10)
    (tmp_path / "checkpoint").unlink()
    if content is not None:
        (tmp_path / "checkpoint").write_bytes(content)
    evaluation = Checkpoints(str(tmp_path), TinyTask())  # Of a process that may change nothing.
    assert evaluation.restore_network(latest_checkpoint(str(tmp_path))) == 10
    with owning_directory(str(tmp_path)):
        assert steps_in_list(tmp_path) == ["1", "2", "10"]
        assert tf.train.latest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-10"
        save_steps(tmp_path, 11, keep=2)
    assert steps_in_list(tmp_path) == ["10", "11"]
    assert log.messages == [
        f"{tmp_path}: the list of checkpoints is gone or damaged; it is made anew from the 3 that are there."
    ]


def test_owner_takes_up_what_a_killed_process_finished_and_deletes_what_it_did_not(tmp_path):
    save_steps(tmp_path, 1, 2)
    before = (tmp_path / "checkpoint").read_bytes()
    save_steps(tmp_path, 3, 4, 5)
    (tmp_path / "checkpoint").write_bytes(before)  # It was killed before it listed the others.
    (tmp_path / "ckpt-4.index").write_bytes((tmp_path / "ckpt-4.index").read_bytes()[:-7])
    (tmp_path / "ckpt-5.index").unlink()
    (tmp_path / "ckpt-6_temp").mkdir()
    (tmp_path / "ckpt-6_temp" / "part-00000-of-00001.data-00000-of-00001").touch()
    for name in ("checkpoint.tmp0123456789abcdef0123456789abcdef", "flags.json.0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    alive = ["result_3.json.0123456789abcdef.tmp", "checkpoint.tmp", "ckpt-4.index.kept"]
    for name in alive:
        (tmp_path / name).touch()  # It may be an evaluation's, or is the user's.
    with owning_directory(str(tmp_path)):
        names = {path.name for path in tmp_path.iterdir()}
    kept = [f"ckpt-{step}.{suffix}" for step in (1, 2, 3) for suffix in ("index", "data-00000-of-00001")]
    assert names == {"checkpoint", "owner.lock", *kept, *alive}
    assert steps_in_list(tmp_path) == ["1", "2", "3"]


def test_owner_leaves_whole_lists_and_what_is_older_alone(tmp_path):
    save_steps(tmp_path, 1, 2)
    for suffix in ("index", "data-00000-of-00001"):
        (tmp_path / f"ckpt-0.{suffix}").write_text("put there by the user")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with owning_directory(str(tmp_path)):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_worker_that_does_not_write_owns_nothing(tmp_path):
    with owning_directory(str(tmp_path)), owning_directory(str(tmp_path), owns=False):
        pass
    assert "another process writes there" in refusal(own_twice, tmp_path)


def own_twice(directory):
    with owning_directory(str(directory)), owning_directory(str(directory)):
        pass


def test_directory_that_was_made_for_nothing_is_gone(tmp_path):
    with pytest.raises(ZeroDivisionError), owning_directory(str(tmp_path / "a" / "b")):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_that_is_half_written_is_not_finished(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / "ckpt-2.index").touch()
    assert finished_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-1"
    (tmp_path / "checkpoint").unlink()
    assert finished_checkpoint(str(tmp_path)) is None
    (tmp_path / "ckpt-2.index").unlink()
    assert finished_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-1"


def test_directory_is_never_taken_for_a_pattern(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "fold1")
    (tmp_path / "fold[1]").mkdir()
    assert latest_checkpoint(str(tmp_path / "fold[1]")) is None
    assert latest_checkpoint(str(tmp_path / "fold1")) == f"{tmp_path}/fold1/ckpt-{TOTAL_STEPS}"
    (tmp_path / "fold1").rename(tmp_path / "run?")
    assert latest_checkpoint(str(tmp_path / "run?")) == f"{tmp_path}/run?/ckpt-{TOTAL_STEPS}"
    assert "--temperature=0.2 there, 0.7 now" in refusal(
        check_directory, tiny_config(tmp_path / "run?", temperature=0.7)
    )


@pytest.mark.parametrize("name", ["run [a]", "a\\b", "[a]/b"])
def test_directory_that_tensorflow_cannot_read_is_refused(name):
    for function, arguments in ((tiny_config, [name]), (find_checkpoint, [f"{name}/ckpt-1", "model_dir"])):
        message = refusal(function, *arguments)
        assert message.startswith(f"--model_dir={name}")
        assert "TensorFlow cannot read networks from a path with [ ] or a backslash" in message
    assert tiny_config("a [b, c*, d?").model_dir == "a [b, c*, d?"


def test_directory_with_checkpoints_but_without_settings_is_refused(copy, log):
    (copy / "flags.json").unlink()
    assert refusal(check_directory, tiny_config(copy)) == (
        f"--model_dir={copy}: has checkpoints, but no flags.json that says how they were trained; put that file back, "
        "or use another --model_dir."
    )
    assert check_directory(tiny_config(copy, mode="eval")) == {}
    assert log.messages[0].endswith("the flags of this command are taken for those of the run.")


def test_directory_with_the_same_settings_goes_on(finished):
    old = check_directory(finished_run().config)
    assert old["train_steps"] == TOTAL_STEPS
    assert old == json.loads((finished / "flags.json").read_text())


def test_directory_of_a_run_with_other_settings_is_refused(finished):
    before = (finished / "flags.json").read_bytes()
    config = tiny_config(finished, temperature=0.7, seed=3, precision="mixed_float16", memory_size=64)
    message = refusal(check_directory, config)
    assert message.startswith(f"--model_dir={finished}: holds a run with other settings (")
    assert "--temperature=0.2 there, 0.7 now" in message
    assert "--seed=0 there, 3 now" in message
    assert "--memory_size=0 there, 64 now" in message
    assert "--precision=float32 there, mixed_float16 now" in message
    assert message.endswith("or another --model_dir.")
    assert (finished / "flags.json").read_bytes() == before


def test_directory_lets_change_what_changes_no_weight(finished):
    check_directory(
        tiny_config(
            finished,
            mode="eval",
            eval_batch_size=7,
            keep_checkpoint_max=1,
            checkpoint_steps=1,
            steps_per_loop=3,
            jit_compile=True,
            strategy="multi_worker",
            cluster="slurm",
            cluster_port=2222,
            cluster_timeout=60,
            preemption_grace=120,
            on_non_finite="restore",
        )
    )


def test_directory_of_a_start_that_came_to_nothing_is_free(tmp_path):
    claim_directory(tiny_config(tmp_path, temperature=0.7))
    assert check_directory(tiny_config(tmp_path)) == {}
    claim_directory(tiny_config(tmp_path))
    assert json.loads((tmp_path / "flags.json").read_text())["temperature"] == 0.2


def test_directory_with_damaged_settings_is_refused(tmp_path):
    (tmp_path / "flags.json").write_text("{")
    assert "flags.json: damaged or unreadable" in refusal(check_directory, tiny_config(tmp_path))


def test_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for directory in (tmp_path / "file" / "run", pathlib.Path("/sys/tf_simclr_test")):
        config = tiny_config(directory)
        assert check_directory(config) == {}
        message = refusal(claim_directory, config)
        assert message.startswith(f"--model_dir={directory}: cannot be written (")
        assert message.endswith("use a directory you may write to.")


def test_write_json_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        write_json(str(path), {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


# ---- Starting from a SavedModel, without the head, and rebuilding a run's network


@functools.cache
def weights_of_run():
    model = build_simclr_model(ModelConfig(**BASE), 10)
    initialize_from(str(finished_run().directory), model)
    return [variable.numpy() for variable in model.variables]


def assert_has_the_runs_weights(model):
    for variable, expected in zip(model.variables, weights_of_run(), strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_initialize_from_a_saved_model_equals_from_the_checkpoint(finished):
    model = build_simclr_model(ModelConfig(**BASE), 10)
    path = f"{finished}/saved_model/{TOTAL_STEPS}"
    line = initialize_from(path, model)
    assert line.startswith(f"Starting from {path}")
    assert line.endswith(f": {len(model.variables)} of {len(model.variables)} variables matched.")
    assert_has_the_runs_weights(model)


def test_initialize_from_a_saved_model_of_another_network_names_the_flag(finished):
    message = refusal(initialize_from, f"{finished}/saved_model/{TOTAL_STEPS}", build(proj_out_dim=32))
    assert message.startswith(f"--checkpoint={finished}/saved_model/{TOTAL_STEPS}")
    assert message.endswith("it was written with --proj_out_dim=16 (here 32).")


def test_initialize_from_a_foreign_saved_model_is_refused(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "hub"))
    message = refusal(initialize_from, str(tmp_path / "hub"), build())
    assert message.startswith(f"--checkpoint={tmp_path}/hub")
    assert message.endswith(": not written by tf_simclr; name a checkpoint or a SavedModel that is.")


def test_initialize_from_without_keeping_the_head_leaves_it_as_it_is(finished):
    model = build_simclr_model(ModelConfig(**BASE, zero_init_logits_layer=True), 10)
    line = initialize_from(str(finished), model, keep_head=False)
    assert line.endswith("; the supervised head starts fresh.")
    assert f": {len(model.variables) - 2} of {len(model.variables)} variables matched" in line
    for variable in model.supervised_head.variables:
        np.testing.assert_array_equal(variable, 0)
    kernel = model.variable_tree()["encoder"]["stem"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, weights_of_run()[0])


def test_initialize_from_into_a_network_without_a_head_leaves_the_saved_one_out(finished):
    model = build_simclr_model(ModelConfig(**BASE))
    assert "fresh" not in initialize_from(str(finished), model)
    np.testing.assert_array_equal(model.variables[0], weights_of_run()[0])


@pytest.mark.parametrize("form", ["directory", "prefix", ".index"])
def test_load_network_is_the_network_of_the_run(finished, form):
    path = str(finished) if form == "directory" else f"{finished}/ckpt-{TOTAL_STEPS}{form * (form[0] == '.')}"
    model = load_network(path, "teacher")
    assert model.config == finished_run().config.model
    assert model.num_classes == 10
    assert_has_the_runs_weights(model)


def test_load_network_without_settings_names_them(copy):
    (copy / "flags.json").unlink()
    assert refusal(load_network, str(copy), "teacher") == (
        f"--teacher={copy}/ckpt-{TOTAL_STEPS}: no flags.json of its run beside it; name a checkpoint in a run's "
        "directory."
    )


def test_load_network_with_settings_of_another_network_is_refused(copy):
    settings = json.loads((copy / "flags.json").read_text())
    (copy / "flags.json").write_text(json.dumps(settings | {"proj_out_dim": 32}))
    message = refusal(load_network, str(copy), "teacher")
    assert message.startswith(f"--teacher={copy}/ckpt-{TOTAL_STEPS}: another network; ")
    assert message.endswith("it was written with --proj_out_dim=16 (here 32).")


def test_load_network_damaged_names_the_mend(copy):
    (copy / f"ckpt-{TOTAL_STEPS}.data-00000-of-00001").write_bytes(b"")
    message = refusal(load_network, str(copy), "teacher")
    assert message.startswith(f"--teacher={copy}/ckpt-{TOTAL_STEPS} is damaged or cannot be read (")
    assert message.endswith("; name another checkpoint.")


def test_load_network_that_does_not_exist_names_the_flag(tmp_path):
    assert refusal(load_network, f"{tmp_path}/no", "teacher").startswith(f"--teacher={tmp_path}/no: no such ")
