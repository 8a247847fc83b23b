"""Reading of the authors' files: names, values, steps, and errors of one line."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.interop.authors_files import network, with_training_state, write_tf1, write_tf2
from tf_simclr.config import UserError
from tf_simclr.interop.released_files import _head_layer_of_logits, open_released

TINY = {"depth": 10, "classes": 5, "selector": 1}
KERNEL = {"base_model/conv2d/kernel": np.ones([3, 3, 3, 8], np.float32)}


def assert_holds(file, variables):
    assert file.shapes == {name: value.shape for name, value in variables.items()}
    for name, value in variables.items():
        np.testing.assert_array_equal(file.read(name), value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_tf1, write_tf2])
def test_both_kinds_of_files_give_the_names_of_tf1(tmp_path, write):
    variables = network(**TINY).variables
    path = tmp_path / "r" / "x"
    if write is write_tf1:
        write_tf1(path, with_training_state(variables, 751))
    else:
        write_tf2(path, variables, 751)
    file = open_released(str(path))
    assert_holds(file, variables)
    assert file.step == 751


def test_extra_variables_of_a_saved_model_keep_their_names(tmp_path):
    """Two layers that would get one name in the TF1 program, and one that has none there."""
    more = {"head_supervised/linear_layer/dense/kernel": np.ones(3, np.float32), "other/kernel": np.ones(2, np.float32)}
    module = tf.Module()
    module.kept = [tf.Variable(value, name=f"{prefix}{name}") for prefix in "ab" for name, value in more.items()]
    module.kernel = tf.Variable(KERNEL["base_model/conv2d/kernel"], name="resnet/conv2d_5/kernel")
    tf.saved_model.save(module, str(tmp_path))
    assert sorted(open_released(str(tmp_path)).shapes.values()) == [(2,), (2,), (3,), (3,), (3, 3, 3, 8)]


@pytest.mark.parametrize(("name", "step"), [("model.ckpt-3754", 3754), ("model.ckpt", None)])
def test_step_in_the_name_of_a_file_counts_if_the_file_has_none(tmp_path, name, step):
    assert open_released(str(write_tf1(tmp_path / name, KERNEL))).step == step


def test_graph_of_a_saved_model_tells_the_layer_of_the_supervised_head(tmp_path):
    """It is read, never run."""

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernels = [tf.Variable(tf.ones([3, 3])) for _ in range(2)]

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            x = tf.nn.relu(tf.matmul(x, self.kernels[0]))
            with tf.name_scope("head_supervised/linear_layer/dense_3/"):
                return tf.matmul(x, self.kernels[1], name="MatMul")

    tf.saved_model.save(Module(), str(tmp_path))
    assert _head_layer_of_logits(str(tmp_path)) == 1


def test_moving_average_is_read_if_asked_for(tmp_path):
    """The supervised head has no average."""
    theirs = network(**TINY).variables
    body = {name: value for name, value in theirs.items() if "supervised" not in name}
    average = {f"ema_model/{name}": value + 0.125 for name, value in body.items()}
    path = str(write_tf1(tmp_path / "model.ckpt-1", with_training_state(theirs | average, 250_228)))
    assert_holds(open_released(path), theirs)
    averaged = {name: value + 0.125 if name in body else value for name, value in theirs.items()}
    assert_holds(open_released(path, ema=True), averaged)
    path = str(write_tf1(tmp_path / "plain", theirs))
    with pytest.raises(UserError, match=rf"^--ema=True: {path} has no variables in ema_model/"):
        open_released(path, ema=True)


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def damaged_protobuf(path):
    shutil.rmtree(path)
    write_tf2(path, KERNEL, 1)
    (path / "saved_model.pb").write_bytes(b"no protobuf")


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        (
            lambda path: None,
            "no checkpoint in this directory; name a TF1 checkpoint or a TF2 SavedModel of the authors.",
        ),
        (shutil.rmtree, "no such checkpoint"),
        (
            lambda path: [write_tf1(path / f"model.ckpt-{number}", KERNEL) for number in (1, 2)],
            "2 checkpoints (model.ckpt-1, model.ckpt-2) in this directory; name one of them",
        ),
        (
            lambda path: write_tf1(path / "model", {"dense/kernel": np.zeros(3)}),
            "not one of the authors' files, because none of its 1 variables is named like base_model/conv2d/kernel",
        ),
        (
            lambda path: tf.train.Checkpoint(model=tf.Variable(1.0)).write(str(path / "ckpt-1")),
            "Runs of this program need no import",
        ),
        (
            lambda path: truncate(write_tf1(path / "x", KERNEL).with_name("x.data-00000-of-00001"), -1),
            "is damaged or cannot be read (variables of 864 bytes in files of 863); fetch the file again.",
        ),
        (damaged_protobuf, "is damaged or cannot be read"),
    ],
    ids=["empty", "nothing", "two", "other program", "ours", "truncated", "no protobuf"],
)
def test_file_that_cannot_be_the_authors_is_refused(tmp_path, fill, expected):
    path = tmp_path / "r"
    path.mkdir()
    fill(path)
    with pytest.raises(UserError) as error:
        open_released(str(path))
    message = str(error.value)
    assert message.startswith(f"--checkpoint={path}")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ones(8, np.int32), "is of the type int32; name a TF1 checkpoint"),
        (np.array(["x"] * 8), "is of the type string; name a TF1 checkpoint"),
        (np.full(8, np.nan, np.float32), "is not finite; name a TF1 checkpoint"),
    ],
)
def test_variable_without_finite_numbers_is_refused(tmp_path, value, expected):
    name = "base_model/batch_normalization/gamma"
    file = open_released(str(write_tf1(tmp_path / "x", {**KERNEL, name: value})))
    with pytest.raises(UserError, match=rf"^--checkpoint={file.path}: {name} {expected}"):
        file.read(name)
