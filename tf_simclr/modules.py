"""SavedModels and TF-Hub modules on disk: called with images, they give named outputs."""

import json
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.run_directory import first_line

# Whatever a foreign module may raise when it is called in a way that it does not know.
_CALL_ERRORS = (tf.errors.OpError, ValueError, TypeError, KeyError, AttributeError)


def load_module(path: str, image_size: int, *, flag: str, mend: str) -> tuple[Callable, Any]:
    """Loads a SavedModel or TF-Hub module that is called as `module(images, trainable=False)`.

    Args:
        path: its directory.
        image_size: side of the images that it will see, in pixels.
        flag: that named the path, for messages.
        mend: what to name instead, for messages.

    Returns:
        The function of images `[B, S, S, 3]` in [0, 1] that the module is in inference mode, and what it
        returns for one black image.

    Raises:
        UserError: it cannot be loaded, or not be called so.
    """
    try:
        module = tf.saved_model.load(path)
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise UserError(f"--{flag}={path}: cannot be loaded ({first_line(error)}); {mend}.") from error

    def call(images: tf.Tensor) -> Any:
        return module(tf.cast(images, tf.float32), trainable=False)

    try:
        return call, call(tf.zeros([1, image_size, image_size, 3]))
    except _CALL_ERRORS as error:
        raise UserError(
            f"--{flag}={path}: cannot be called as module(images, trainable=False) ({first_line(error)}); "
            f"{mend}."
        ) from error


def read_metadata(path: str) -> dict:
    """Returns what an export of this project says of itself; {} for another SavedModel."""
    try:
        with tf.io.gfile.GFile(os.path.join(path, "assets", "metadata.json")) as file:
            metadata = json.loads(file.read())
    except (tf.errors.OpError, OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}
