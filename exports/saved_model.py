"""SavedModels with named outputs, which are reusable modules of TF-Hub too."""

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from exports.image_input import CALLED_WITH, IMAGES, checked_images
from exports.metadata import write_metadata
from tf_simclr.augment import EvalView
from tf_simclr.images.decode import decode_image
from tf_simclr.models import SimCLRModel, build_simclr_model

# Images at a time, each of which may take over 1 GB of memory until it is cropped and resized.
_MAX_DECODED = 2
# Both names of it at once are for float32 alone.
_ARGUMENTS: tuple[dict[str, bool], ...] = ({}, {"training": True}, {"trainable": False}, {"trainable": True})


def save_model(model: SimCLRModel, directory: str, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes `model` as a SavedModel into `directory`.

    It is called as `module(images, training=False)` with float images `[B, H, W, 3]` in [0, 1], one or
    more of any size, and returns a dictionary of the named outputs, float32. `trainable=` is the authors' name for
    `training=`, with which batch norm uses and updates its statistics. It has what the reusable
    SavedModels of TF-Hub have: `variables`, `trainable_variables` and `regularization_losses`.

    Signatures: `serving_default` is the call; `predict_jpeg` takes encoded images, string `[N]` with N > 0
    or one alone `[]`, and returns `probabilities` `[N, classes]`, where the network has a supervised head, and the
    representation as `embedding` `[N, features]`.

    Args:
        model: the network; its variables may be distributed.
        directory: new or empty.
        metadata: content of the asset `metadata.json`; `describe_export` makes it of a run. The
            `weight_decay` among its `settings` weighs the regularization losses.
    """
    module = make_module(model, weight_decay=dict(metadata or {}).get("settings", {}).get("weight_decay", 0.0))
    signatures = {"serving_default": module.serve, "predict_jpeg": module.predict_jpeg}
    with tempfile.TemporaryDirectory() as folder:
        attach_metadata(module, metadata or {}, folder)
        tf.saved_model.save(module, directory, signatures=signatures)


def attach_metadata(module: tf.__internal__.tracking.AutoTrackable, metadata: Mapping, folder: str) -> None:
    """Makes the asset `metadata.json` a part of `module`.

    Args:
        module: that is going to be saved.
        metadata: ready for JSON.
        folder: for the file until it is saved.
    """
    module.metadata = tf.saved_model.Asset(write_metadata(metadata, folder))


def make_module(model: SimCLRModel, *, weight_decay: float = 0.0) -> tf.__internal__.tracking.AutoTrackable:
    """Returns a copy of `model` as a module that needs neither this project nor a strategy.

    Args:
        model: the network; its variables may be distributed.
        weight_decay: of the kernels of convolutions and dense layers, for the regularization losses.
    """
    return _ExportedModule(copy_for_export(model), weight_decay)


def copy_for_export(model: SimCLRModel) -> SimCLRModel:
    """Returns a copy of `model` without a strategy, that computes in the dtype of its weights.

    That is also where `model` computes in 16 bits, which not every machine does well, and which training
    with float16 needs a scaled loss for.
    """
    config = dataclasses.replace(model.config, precision=model.config.variable_dtype)
    copy = build_simclr_model(config, model.num_classes)
    for target, source in zip(
        tf.nest.flatten(copy.variable_tree()), tf.nest.flatten(model.variable_tree()), strict=True
    ):
        target.assign(source)
    return copy


class _ExportedModule(tf.__internal__.tracking.AutoTrackable):
    # `variables`, `trainable_variables` and `regularization_losses` are lists that are saved, so that what
    # is reloaded can be trained; a `tf.Module` computes them and would lose them.
    def __init__(self, model: SimCLRModel, weight_decay: float):
        # Only the variables are tracked: tracking the Keras model would trace every layer again.
        self.weights = model.variable_tree()
        self.variables = list(model.variables)
        self.trainable_variables = list(model.trainable_variables)
        self.regularization_losses = _regularization_losses(self.trainable_variables, weight_decay)
        apply = {
            training: tf.function(lambda x, t=training: model(x, training=t), autograph=False)
            for training in (False, True)
        }

        @tf.function(autograph=False)
        def call(images, training=False, trainable=None):
            return apply[bool(training or trainable)](checked_images(images))

        for images, arguments in itertools.product(CALLED_WITH, _ARGUMENTS):
            call.get_concrete_function(images, **arguments)
        for trainable in (False, True):
            call.get_concrete_function(CALLED_WITH[0], training=True, trainable=trainable)
        self.__call__ = call
        # Without the lambda the signature would have `call`'s other arguments too.
        self.serve = tf.function(
            lambda images: call(images),  # noqa: PLW0108
            input_signature=[IMAGES],
            autograph=False,
        )
        self.predict_jpeg = tf.function(
            lambda image_bytes: _predict(call, image_bytes, model.config.image_size),
            input_signature=[tf.TensorSpec(None, tf.string, name="image_bytes")],
            autograph=False,
        )


def _regularization_losses(variables: Sequence[tf.Variable], weight_decay: float) -> list:
    """Returns functions without arguments, as TF-Hub wants them: here one, the L2 loss of all kernels."""
    if not weight_decay:
        return []
    kernels = [variable for variable in variables if variable.shape.rank > 1]

    @tf.function(input_signature=[], autograph=False)
    def loss():
        return weight_decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])

    return [loss]


def _predict(call, image_bytes: tf.Tensor, image_size: int) -> dict[str, tf.Tensor]:
    """Classifies encoded images, string `[N]` or one `[]`, after the run's own preprocessing for evaluation."""
    view = EvalView(image_size=image_size)
    image_bytes = tf.reshape(image_bytes, [-1])
    num_images = tf.size(image_bytes)
    # TensorFlow's convolutions would say something else of no images.
    not_empty = tf.debugging.Assert(num_images > 0, ["image_bytes is empty; give one image or more"])

    def read(element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        number, encoded = element
        name = tf.strings.join(["image_bytes[", tf.strings.as_string(number), "]"])
        return view.crop_image(decode_image(encoded, name=name))

    with tf.control_dependencies([not_empty]):
        images = tf.map_fn(
            read,
            (tf.range(num_images), image_bytes),
            fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.float32),
            parallel_iterations=_MAX_DECODED,
        )
    outputs = call(images)
    prediction = {"embedding": outputs["default"]}
    if "logits_sup" in outputs:
        prediction["probabilities"] = tf.nn.softmax(outputs["logits_sup"])
    return prediction
