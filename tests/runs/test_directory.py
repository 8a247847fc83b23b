"""The directory of a run: its owner, its settings, and what a killed process has left in it."""

import json
import pathlib
import re
import types

import pytest
import tensorflow as tf

from tests.runs.support import TinyTask, refusal, save_steps
from tests.support.runs import tiny_config
from tf_simclr.runs.checkpoint import Checkpoints
from tf_simclr.runs.checkpoint_list import finished_checkpoint, latest_checkpoint, newest_start
from tf_simclr.runs.directory import check_directory, claim_directory, owning_directory
from tf_simclr.runs.networks import find_checkpoint


def make_files(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()


def steps_in_list(directory):
    return re.findall(r'all_model_checkpoint_paths: "ckpt-(\d+)"', (directory / "checkpoint").read_text())


# ---- Its checkpoints


def test_latest_checkpoint_is_the_newest_also_without_a_list(tmp_path):
    for path in (tmp_path, tmp_path / "no", tmp_path / "ckpt-2.index" / "below"):
        assert latest_checkpoint(str(path)) is None
    make_files(tmp_path, "ckpt-2.index", "ckpt-10.index")
    assert latest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-10"
    assert find_checkpoint(str(tmp_path), "checkpoint") == f"{tmp_path}/ckpt-10"


def test_name_of_a_directory_is_never_a_pattern(tmp_path):
    make_files(tmp_path, "fold1/ckpt-1.index", "fold[1]/x", "run?/ckpt-2.index")
    assert latest_checkpoint(str(tmp_path / "fold[1]")) is None
    assert latest_checkpoint(str(tmp_path / "run?")) == f"{tmp_path}/run?/ckpt-2"
    claim_directory(tiny_config(tmp_path / "run?"))
    message = refusal(check_directory, tiny_config(tmp_path / "run?", temperature=0.7))
    assert "--temperature=0.2 there, 0.7 now" in message


def test_checkpoint_that_is_half_written_is_not_finished(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / "ckpt-2.index").touch()
    assert finished_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-1"
    (tmp_path / "checkpoint").unlink()
    assert finished_checkpoint(str(tmp_path)) is None
    (tmp_path / "ckpt-2.index").unlink()
    assert finished_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-1"


def test_newest_start_is_the_checkpoint_of_the_last_run_that_has_one(tmp_path):
    names = ("pretrain", "finetune", "distill")
    config = types.SimpleNamespace(runs={n: types.SimpleNamespace(model_dir=tmp_path / n) for n in names})
    assert newest_start(config) is None
    make_files(tmp_path, "pretrain/ckpt-9.index", "finetune/ckpt-2.index")
    assert newest_start(config) == f"the same command goes on from {tmp_path}/finetune/ckpt-2"


# ---- Its owner


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
    assert latest_checkpoint(str(tmp_path)) == f"{tmp_path}/ckpt-10"
    evaluation = Checkpoints(str(tmp_path), TinyTask())  # Of a process that may change nothing.
    assert evaluation.restore_network(f"{tmp_path}/ckpt-10") == 10
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
    make_files(tmp_path, "ckpt-6_temp/part-00000-of-00001.data-00000-of-00001")
    make_files(tmp_path, "checkpoint.tmp0123456789abcdef0123456789abcdef", "flags.json.0123456789abcdef.tmp")
    # These may be an evaluation's, or are the user's.
    alive = ["result_3.json.0123456789abcdef.tmp", "checkpoint.tmp", "ckpt-4.index.kept"]
    make_files(tmp_path, *alive)
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


def test_directory_has_one_owner_and_is_gone_if_it_was_made_for_nothing(tmp_path):
    directory = str(tmp_path / "a" / "b")
    with owning_directory(directory), owning_directory(directory, owns=False):
        assert "another process writes there" in refusal(owning_directory(directory).__enter__)
    assert list(tmp_path.iterdir()) == []


# ---- Its settings


def test_directory_with_checkpoints_but_without_settings_is_refused(tmp_path, log):
    make_files(tmp_path, "ckpt-1.index")
    assert refusal(check_directory, tiny_config(tmp_path)) == (
        f"--model_dir={tmp_path}: has checkpoints, but no flags.json that says how they were trained; put that file "
        "back, or use another --model_dir."
    )
    assert check_directory(tiny_config(tmp_path, mode="eval")) == {}
    assert log.messages[0].endswith("the flags of this command are taken for those of the run.")


@pytest.fixture
def begun(tmp_path):
    """The directory of a run that has a checkpoint."""
    claim_directory(tiny_config(tmp_path))
    make_files(tmp_path, "ckpt-1.index")
    return tmp_path


def test_directory_lets_change_what_changes_no_weight(begun):
    old = check_directory(tiny_config(begun))
    assert old == json.loads((begun / "flags.json").read_text())
    free = {"mode": "eval", "eval_batch_size": 7, "keep_checkpoint_max": 1, "checkpoint_steps": 1, "steps_per_loop": 3}
    free |= {"jit_compile": True, "strategy": "multi_worker", "cluster": "slurm", "cluster_port": 2222}
    free |= {"cluster_timeout": 60, "preemption_grace": 120, "on_non_finite": "restore"}
    assert check_directory(tiny_config(begun, **free)) == old


def test_directory_of_a_run_with_other_settings_is_refused(begun):
    before = (begun / "flags.json").read_bytes()
    config = tiny_config(begun, temperature=0.7, seed=3, precision="mixed_float16", memory_size=64)
    assert refusal(check_directory, config) == (
        f"--model_dir={begun}: holds a run with other settings (--precision=float32 there, mixed_float16 now, "
        "--temperature=0.2 there, 0.7 now, --memory_size=0 there, 64 now, --seed=0 there, 3 now); use those settings "
        "to go on with it, or another --model_dir."
    )
    assert (begun / "flags.json").read_bytes() == before


def test_directory_of_a_start_that_came_to_nothing_is_free(tmp_path):
    claim_directory(tiny_config(tmp_path, temperature=0.7))
    assert check_directory(tiny_config(tmp_path)) == {}
    claim_directory(tiny_config(tmp_path))
    assert json.loads((tmp_path / "flags.json").read_text())["temperature"] == 0.2


def test_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for directory in (tmp_path / "file" / "run", pathlib.Path("/sys/tf_simclr_test")):
        config = tiny_config(directory)
        assert check_directory(config) == {}
        message = refusal(claim_directory, config)
        assert message.startswith(f"--model_dir={directory}: cannot be written (")
        assert message.endswith("use a directory you may write to.")
