"""Export as SavedModel with named outputs."""

import dataclasses
import logging
import os

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.models import SimCLRModel, build_simclr_model

_LOG = logging.getLogger("tf_simclr")


class SavedModelExport:
    """The action that writes `saved_model/<step>` at the end of training.

    Args:
        model_dir: directory of the run.
    """

    def __init__(self, model_dir: str):
        self._directory = os.path.join(model_dir, "saved_model")

    def __call__(self, event) -> None:
        """Exports the model of a `LoopEvent` that is the last one, unless that was done before."""
        path = os.path.join(self._directory, str(event.step))
        if not event.is_last or tf.io.gfile.exists(path):
            return
        save_model(event.task.model, path)
        _LOG.info("Exported %s.", path)


def save_model(model: SimCLRModel, path: str) -> None:
    """Writes `model` to `path`, whole or not at all.

    The SavedModel is called as `module(images, training=False)` with float images `[B, H, W, 3]` in
    [0, 1] and returns a dictionary of the named outputs; its signature `serving_default` does the
    same. `trainable=` is the authors' name for `training=`.

    Args:
        model: the network; its variables may be distributed.
        path: of the new directory.

    Raises:
        UserError: it cannot be written.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    module = make_module(model)
    try:
        tf.saved_model.save(module, temporary, signatures={"serving_default": module.serve})
        tf.io.gfile.rename(temporary, path)
    except (tf.errors.OpError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"--model_dir: cannot write {path} ({reason}); free some space or choose another."
        ) from error
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.rmtree(temporary)


def make_module(model: SimCLRModel) -> tf.__internal__.tracking.AutoTrackable:
    """Returns a copy of `model` as a module that needs neither this project nor a strategy.

    It computes in the dtype of the weights also where `model` computes in 16 bits, which not every machine
    does well, and which training with float16 needs a scaled loss for.
    """
    config = dataclasses.replace(model.config, precision=model.config.variable_dtype)
    copy = build_simclr_model(config, model.num_classes)
    for target, source in zip(
        tf.nest.flatten(copy.variable_tree()), tf.nest.flatten(model.variable_tree()), strict=True
    ):
        target.assign(source)
    return _ExportedModule(copy)


class _ExportedModule(tf.__internal__.tracking.AutoTrackable):
    # `variables` and `trainable_variables` are saved, so that what is reloaded can be trained; a
    # `tf.Module` computes them and would lose them.
    def __init__(self, model: SimCLRModel):
        # Only the variables are tracked: tracking the Keras model would trace every layer again.
        self.weights = model.variable_tree()
        self.variables = list(model.variables)
        self.trainable_variables = list(model.trainable_variables)
        images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
        apply = {
            training: tf.function(lambda x, t=training: model(x, training=t), autograph=False)
            for training in (False, True)
        }

        @tf.function(autograph=False)
        def call(images, training=False, trainable=None):
            return apply[bool(training or trainable)](images)

        for arguments in ({}, {"training": True}, {"trainable": False}, {"trainable": True}):
            call.get_concrete_function(images, **arguments)
        self.__call__ = call
        # Without the lambda the signature would have `call`'s other arguments too.
        self.serve = tf.function(
            lambda images: call(images),  # noqa: PLW0108
            input_signature=[images],
            autograph=False,
        )
