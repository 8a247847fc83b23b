"""The call of an exported module: images in, named outputs out, and an error in one sentence for anything else."""

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from exports.metadata import write_metadata

IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")

# A module has one function for each. Its shape is open so that `checked_images` says what is wrong: TensorFlow would
# list all functions. Each adds to the time that loading takes, so integers have one.
CALLED_WITH = tuple(
    tf.TensorSpec(None, dtype, name="images") for dtype in (tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.uint8)
)

Outputs = dict[str, tf.Tensor]
Module: TypeAlias = tf.__internal__.tracking.AutoTrackable


def checked_images(images: tf.Tensor) -> tf.Tensor:
    """Casts images to float32 `[B, H, W, 3]`.

    The checks are operations of the graph because a loaded module runs no Python.

    Args:
        images: floats in [0, 1].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, for integers, another shape, or no images.
    """
    if images.dtype.is_floating:
        check = tf.debugging.Assert(tf.size(images) > 0, ["images is empty; give one image or more"])
    else:
        text = f"images are {images.dtype.name}; give floats in [0, 1]: tf.cast(images, tf.float32) / 255"
        check = tf.debugging.Assert(False, [text])
    with tf.control_dependencies([check]):
        images = tf.ensure_shape(images, IMAGES.shape)
    return tf.cast(images, tf.float32)


def make_callable(
    module: Module, apply: Callable[[tf.Tensor, bool], Outputs], arguments: Sequence[Mapping[str, bool]]
) -> tf.types.experimental.GenericFunction:
    """Gives a module that is going to be saved its call and the signature `serve`.

    Args:
        module: what is going to be saved.
        apply: takes float32 images `[B, H, W, 3]` and whether this is training.
        arguments: what the call takes besides images: `training`, `trainable`, or neither.

    Returns:
        The call, a `tf.function`.
    """

    def check_and_apply(images: tf.Tensor, training: bool = False, trainable: bool | None = None) -> Outputs:
        return apply(checked_images(images), bool(training or trainable))

    call = tf.function(check_and_apply, autograph=False)
    for images, given in itertools.product(CALLED_WITH, arguments):
        call.get_concrete_function(images, **given)
    module.__call__ = call
    # Without the lambda the signature would have the other arguments of `call` too.
    module.serve = tf.function(lambda images: call(images), input_signature=[IMAGES], autograph=False)  # noqa: PLW0108
    return call


def save_module(module: Module, directory: str, signatures: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Writes a module as a SavedModel into `directory`.

    Args:
        module: what has been made callable.
        directory: new or empty.
        signatures: besides `serving_default`, the names of functions of `module`.
        metadata: content of the asset `metadata.json`.
    """
    functions = {"serving_default": module.serve, **{name: getattr(module, name) for name in signatures}}
    with tempfile.TemporaryDirectory() as folder:
        module.metadata = tf.saved_model.Asset(write_metadata(metadata, folder))
        tf.saved_model.save(module, directory, signatures=functions)
