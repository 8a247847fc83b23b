"""A task of one weight, checkpoints of it, and the line of a refusal."""

import types

import pytest
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.runs.checkpoint import Checkpoints


class TinyTask:
    """One weight and an optimizer with a slot."""

    def __init__(self, value=1.0):
        self.weight = weight = tf.Variable(value, dtype="float32", name="weight")
        self.model = types.SimpleNamespace(variables=[weight], variable_tree=lambda: {"encoder": {"weight": weight}})
        self.state = {}
        self.optimizer = tf.Module()
        self.optimizer.iterations = tf.Variable(0, dtype=tf.int64)
        self.optimizer.slot = tf.Variable(0.5)


def save_steps(directory, *steps, keep=5):
    """Saves checkpoints whose weight is their step; the slot is its negative."""
    task = TinyTask()
    checkpoints = Checkpoints(str(directory), task, keep=keep)
    for step in steps:
        task.optimizer.iterations.assign(step)
        task.optimizer.slot.assign(-step)
        task.weight.assign(step)
        assert checkpoints.save() == f"{directory}/ckpt-{step}"
    return checkpoints


def refusal(function, *arguments):
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message
