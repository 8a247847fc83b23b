"""Networks from files: names of checkpoints, what fits, and the flag that explains what does not."""

import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.runs.support import refusal
from tests.support.marks import usual
from tests.support.networks import variables
from tests.support.runs import TOTAL_STEPS, finished_run, tiny_config
from tf_simclr.config import ModelConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.networks import find_checkpoint, initialize_from, load_network

pytestmark = pytest.mark.stack

BASE = {"resnet_depth": 10, "width_multiplier": 0.125, "image_size": 8, "proj_out_dim": 16}
NEWEST = f"ckpt-{TOTAL_STEPS}"


@functools.cache
def build(num_classes=10, **changes):
    """A network that tests share: each starts with weights that it sets itself, or looks at no weight."""
    return build_simclr_model(ModelConfig(**(BASE | changes)), num_classes)


@pytest.fixture
def finished():
    return finished_run().directory


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("saved_model", "events*"))


@pytest.fixture
def fresh():
    """The network of the run with other weights."""
    model = build()
    for variable in model.variables:
        variable.assign(tf.ones_like(variable))
    return model


@functools.cache
def weights_of_run():
    """By the paths of the variables, read by TensorFlow alone."""
    saved = tf.train.load_checkpoint(f"{finished_run().directory}/{NEWEST}")
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    names = [name for name in saved.get_variable_to_shape_map() if name.startswith("model/") and name.endswith(suffix)]
    return {name.removeprefix("model/").removesuffix(suffix): saved.get_tensor(name) for name in names}


def assert_has_the_runs_weights(model, *, but=()):
    received, expected = variables(model), weights_of_run()
    assert received.keys() <= expected.keys()
    for name in received.keys() - set(but):
        np.testing.assert_array_equal(received[name], expected[name])


HEAD = ("supervised_head/kernel", "supervised_head/bias")


# ---- Starting from a checkpoint


@pytest.mark.parametrize("form", usual("directory", ".data-00000-of-00001", also=["", ".index"]))
def test_initialize_from_takes_every_name_of_a_checkpoint(finished, fresh, form):
    line = initialize_from(str(finished) if form == "directory" else f"{finished}/{NEWEST}{form}", fresh)
    total = len(fresh.variables)
    assert line == f"Starting from {finished}/{NEWEST}: {total} of {total} variables matched."
    assert_has_the_runs_weights(fresh)


def test_initialize_from_a_saved_model_equals_from_the_checkpoint(finished, fresh):
    line = initialize_from(f"{finished}/saved_model/{TOTAL_STEPS}", fresh)
    assert line.startswith(f"Starting from {finished}/saved_model/{TOTAL_STEPS}")
    assert line.endswith(f": {len(fresh.variables)} of {len(fresh.variables)} variables matched.")
    assert_has_the_runs_weights(fresh)


def test_initialize_from_without_keeping_the_head_leaves_it_as_it_is(finished, fresh):
    line = initialize_from(str(finished), fresh, keep_head=False)
    assert line.endswith("; the supervised head starts fresh.")
    assert f": {len(fresh.variables) - 2} of {len(fresh.variables)} variables matched" in line
    for variable in fresh.supervised_head.variables:
        np.testing.assert_array_equal(variable, tf.ones_like(variable))
    assert_has_the_runs_weights(fresh, but=HEAD)


@pytest.mark.parametrize("num_classes", [7, None])
def test_initialize_from_starts_the_head_fresh_for_other_classes(finished, num_classes):
    model = build(num_classes)
    line = initialize_from(str(finished), model)
    assert line.endswith("the supervised head starts fresh.") == (num_classes == 7)
    assert_has_the_runs_weights(model, but=HEAD)


@pytest.mark.parametrize("place", ["", f"/saved_model/{TOTAL_STEPS}"])
def test_initialize_from_another_network_changes_nothing_and_names_the_flag(finished, place):
    model = build(proj_out_dim=32)
    before = [variable.numpy() for variable in model.variables]
    message = refusal(initialize_from, f"{finished}{place}", model)
    assert message.startswith(f"--checkpoint={finished}{place or f'/{NEWEST}'}")
    assert ": another network; " in message
    assert message.endswith("it was written with --proj_out_dim=16 (here 32).")
    for variable, old in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_checkpoint_of_another_program_is_refused(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "hub"))
    for path in (tf.train.Checkpoint(net=module).write(str(tmp_path / "other")), str(tmp_path / "hub")):
        message = refusal(initialize_from, path, build())
        assert message.startswith(f"--checkpoint={path}")
        assert message.endswith(": not written by tf_simclr; name a checkpoint or a SavedModel that is.")


class Linked(tf.Module):
    """Leads back to itself, at once and by the other one; and far down."""

    def __init__(self):
        super().__init__()
        self.weight, self.other = tf.Variable(1.0), tf.Module()
        self.itself = self.other.parent = self
        deep = self.other
        for _ in range(1200):
            deep.child = tf.Module()
            deep = deep.child
        deep.weight = tf.Variable(1.0)


def test_checkpoint_of_objects_that_refer_to_each_other_is_refused(copy):
    path = tf.train.Checkpoint(model=Linked()).write(str(copy / "ckpt-99"))
    message = refusal(initialize_from, path, build())
    assert message.startswith(f"--checkpoint={path}: another network; ")
    assert "2 extra (" in message


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_checkpoint_truncated_is_refused(copy, suffix, keep):
    path = copy / f"{NEWEST}{suffix}"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    message = refusal(initialize_from, str(copy), build())
    assert message.startswith(f"--checkpoint={copy}/{NEWEST} is damaged or cannot be read (")
    assert message.endswith("; use an earlier one.")


# ---- Finding a checkpoint


def test_find_checkpoint_that_does_not_exist_names_those_there(finished, tmp_path):
    message = refusal(find_checkpoint, f"{finished}/ckpt-99", "checkpoint")
    assert message.startswith(f"--checkpoint={finished}/ckpt-99: no such checkpoint; use one of ")
    assert NEWEST in message
    assert "no checkpoint is in that directory either" in refusal(find_checkpoint, f"{tmp_path}/x", "checkpoint")
    message = f"--checkpoint={tmp_path}: no checkpoint in this directory; name "
    assert refusal(find_checkpoint, str(tmp_path), "checkpoint").startswith(f"{message}one that has ckpt-* files")
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune" / "ckpt-3.index").touch()
    steps = f"one of its stages: {tmp_path / 'finetune'}."
    assert refusal(find_checkpoint, str(tmp_path), "checkpoint") == message + steps


@pytest.mark.parametrize("path", ["https://models.example/run", "nowhere://b/ckpt-1"])
def test_find_checkpoint_beyond_reach_is_refused(path):
    message = refusal(find_checkpoint, path, "checkpoint")
    assert message.startswith(f"--checkpoint={path}: cannot be reached (")
    assert message.endswith("); download it, and name its directory.")


@pytest.mark.parametrize("name", ["run [a]", "a\\b", "[a]/b"])
def test_directory_that_tensorflow_cannot_read_is_refused(name):
    for function, arguments in ((tiny_config, [name]), (find_checkpoint, [f"{name}/ckpt-1", "model_dir"])):
        message = refusal(function, *arguments)
        assert message.startswith(f"--model_dir={name}")
        assert "TensorFlow cannot read networks from a path with [ ] or a backslash" in message
    assert tiny_config("a [b, c*, d?").model_dir == "a [b, c*, d?"


# ---- Rebuilding the network of a run


def test_load_network_is_the_network_of_the_run(finished):
    model = load_network(f"{finished}/{NEWEST}.index", "teacher")
    assert (model.config, model.num_classes) == (finished_run().config.model, 10)
    assert_has_the_runs_weights(model)


def test_load_network_without_settings_names_them(copy):
    (copy / "flags.json").unlink()
    assert refusal(load_network, str(copy), "teacher") == (
        f"--teacher={copy}/{NEWEST}: no flags.json of its run beside it; name a checkpoint in a run's directory."
    )


def test_load_network_with_settings_of_another_network_is_refused(copy):
    settings = json.loads((copy / "flags.json").read_text())
    (copy / "flags.json").write_text(json.dumps(settings | {"proj_out_dim": 32}))
    message = refusal(load_network, str(copy), "teacher")
    assert message.startswith(f"--teacher={copy}/{NEWEST}: another network; ")
    assert message.endswith("; name a checkpoint of this network.")


@pytest.mark.parametrize("value", ["1", None, [1], -1])
def test_load_network_beside_damaged_settings_is_refused(copy, value):
    settings = json.loads((copy / "flags.json").read_text()) | {"width_multiplier": value}
    (copy / "flags.json").write_text(json.dumps(settings))
    message = refusal(load_network, str(copy), "checkpoint")
    assert "flags.json of its run is damaged (" in message or f"{copy}/flags.json: damaged or" in message
    assert message.endswith(("); name another checkpoint.", "; restore it from a copy, or use another directory."))
