"""SavedModels and TF-Hub modules on disk, which map images to named outputs."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError, check, check_readable_place, is_remote
from tf_simclr.files import DamagedFileError, between, first_line, form_problem, read_json
from tf_simclr.runs.networks import READ_ERRORS, is_saved_model

_LOG = logging.getLogger("tf_simclr")
# TensorFlow's errors for a module that is damaged, or called with unknown arguments.
_ERRORS = (*READ_ERRORS, TypeError, KeyError, AttributeError, AssertionError)
# Files in an export of this project.
_METADATA, _MARKER = "assets/metadata.json", "tf_simclr_export.json"
_FORM = {
    "image_size": between(1, 2**15),
    "num_classes?": (None, between(1, 2**31)),
    "class_names?": (None, [str]),
    "settings?": {str: object},
}
_FOREIGN_IMAGE_SIZE = 224  # Of the authors' modules, which do not say it.


def load_module(
    path: str, image_size: int, *, flag: str, fix: str, allow_remote: bool = False
) -> tuple[Callable[[tf.Tensor], Any], Any]:
    """Loads a SavedModel or TF-Hub module that is called as `module(images, trainable=False)`.

    Args:
        path: its directory.
        image_size: S, side of its images in pixels.
        flag: flag that named the path, for messages.
        fix: instruction for the user if it cannot be loaded, for messages.
        allow_remote: whether it may be on another machine.

    Returns:
        The module in inference mode as a function of images `[B, S, S, 3]` in [0, 1], and its result for one black
        image.

    Raises:
        UserError: if it cannot be loaded or called so.
    """
    check_module_is_local(path, flag, allow_remote=allow_remote)
    try:
        module = tf.saved_model.load(path)
    except _ERRORS as error:
        raise UserError(f"--{flag}={path}: cannot be loaded ({first_line(error)}); {fix}.") from error

    def call(images: tf.Tensor) -> Any:
        return module(tf.cast(images, tf.float32), trainable=False)

    try:
        return call, call(tf.zeros([1, image_size, image_size, 3]))
    except _ERRORS as error:
        raise UserError(
            f"--{flag}={path}: cannot be called as module(images, trainable=False) ({first_line(error)}); {fix}."
        ) from error


def check_module_is_local(path: str, flag: str, *, allow_remote: bool = False) -> None:
    """Raises UserError for a path that TensorFlow cannot read, or a SavedModel in a bucket that is not allowed.

    Loading a module means running it.
    """
    check_readable_place(flag, path)
    check(
        allow_remote or not is_remote(path) or not is_saved_model(path),
        flag,
        path,
        "would be fetched, and a module can run any operation; if you trust it, download it and name the folder; a "
        "teacher may stay there with --allow_remote_teacher=True.",
    )


def read_image_size(path: str, flag: str) -> int:
    """Returns the side of the images that a SavedModel is for, in pixels, and logs if that is a guess."""
    if metadata := read_metadata(path, flag):
        return int(metadata["image_size"])
    _LOG.info("%s does not say how large its images are: assuming %d px.", path, _FOREIGN_IMAGE_SIZE)
    return _FOREIGN_IMAGE_SIZE


def read_metadata(path: str, flag: str) -> Mapping[str, Any]:
    """Returns the metadata of an export of this project; {} for another SavedModel.

    Args:
        path: directory of the SavedModel.
        flag: flag that named the path, for messages.

    Raises:
        UserError: if the export has lost its metadata, or they are damaged.
    """
    file = os.path.join(path, _METADATA)
    try:
        is_ours = tf.io.gfile.exists(os.path.join(path, _MARKER))
        metadata = read_json(file, _FORM if is_ours else object)
        if is_ours and metadata is None:
            raise DamagedFileError("there is none")
    except (tf.errors.OpError, DamagedFileError) as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(
            f"--{flag}={path}: its {_METADATA} is gone or damaged ({reason}); export the network again."
        ) from error
    return metadata if form_problem(metadata, _FORM) is None else {}
