"""The teacher of a distillation: a network of this project, or any module that gives logits."""

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_simclr.config import UserError, is_handle
from tf_simclr.files import first_line
from tf_simclr.interop.saved_models import load_module, read_metadata
from tf_simclr.runs.data import read_class_names
from tf_simclr.runs.networks import find_checkpoint, is_saved_model, load_network

_LOGITS = "logits_sup"
_VARIABLE = "/.ATTRIBUTES/VARIABLE_VALUE"
_WHAT_FITS = "name the directory of a finetuned run, a checkpoint in it, or a SavedModel with logits"


class Teacher(NamedTuple):
    """A network in inference mode.

    Attributes:
        logits: takes images `[B, S, S, 3]` in [0, 1], returns float `[B, K]`; changes nothing.
        num_classes: K.
        num_weights: numbers in the variables behind its logits; of a SavedModel, in all of its variables, and
            None if it keeps weights as constants.
    """

    logits: Callable[[tf.Tensor], tf.Tensor]
    num_classes: int
    num_weights: int | None


def load_teacher(path: str, image_size: int, *, allow_remote: bool = False) -> Teacher:
    """Loads a teacher; call it in the strategy's scope.

    A SavedModel is a program: loading one runs whatever TensorFlow operations it holds.

    Args:
        path: the directory of a run, or a checkpoint in it. Or a SavedModel or TF-Hub module, on disk or
            behind a TF-Hub handle: it is called as `module(images, trainable=False)` and returns a
            dictionary with `logits_sup`, like those of this project and of the authors.
        image_size: side of the images that it will see, in pixels.
        allow_remote: allows a SavedModel in a bucket; a handle is fetched in any case.

    Raises:
        UserError: there is no such teacher, or it gives no logits.
    """
    path = _find(path)
    if is_saved_model(path):
        return _from_saved_model(path, image_size, allow_remote)
    network = load_network(path, "teacher")
    if network.num_classes is None:
        raise _no_logits(path)
    network.freeze_for_finetuning()
    return Teacher(
        lambda images: network.forward(images, training=False).endpoints[_LOGITS],
        network.num_classes,
        network.num_used_weights,
    )


def network_class_names(path: str, flag: str) -> list[str] | None:
    """Returns the names of a network's classes; None if they are not known.

    Args:
        path: as for `load_teacher`.
        flag: that named the path, for messages.
    """
    path = _find(path)
    if not is_saved_model(path):
        return read_class_names(os.path.dirname(find_checkpoint(path, flag)))
    return read_metadata(path, flag).get("class_names")


def _find(path: str) -> str:
    if not is_handle(path):
        return os.path.expanduser(path)
    import tensorflow_hub as hub

    try:
        return str(hub.resolve(path))
    except Exception as error:  # Whatever the network, the archive or the file system raises.
        raise UserError(f"--teacher={path}: cannot be fetched ({first_line(error)}); {_WHAT_FITS}.") from error


def _from_saved_model(path: str, image_size: int, allow_remote: bool) -> Teacher:
    call, outputs = load_module(path, image_size, flag="teacher", fix=_WHAT_FITS, allow_remote=allow_remote)
    if not isinstance(outputs, dict) or _LOGITS not in outputs or outputs[_LOGITS].shape[-1] is None:
        raise _no_logits(path)
    saved = tf.train.list_variables(os.path.join(path, "variables", "variables"))
    weights = [shape for name, shape in saved if name.endswith(_VARIABLE) and not name.startswith("save_counter/")]
    num_weights = sum(map(math.prod, weights)) or None
    return Teacher(lambda images: call(images)[_LOGITS], outputs[_LOGITS].shape[-1], num_weights)


def _no_logits(path: str) -> UserError:
    return UserError(f"--teacher={path}: gives no logits; {_WHAT_FITS}.")
