"""Directories of exports: written whole or not at all, the newest kept, nothing else ever deleted."""

import json
import os
import re
import shutil
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.run_directory import first_line, to_json

MARKER = "tf_simclr_export.json"
_UNFINISHED = re.compile(r"\d+\.\d+\.tmp")


def write_export(folder: str, step: int, write: Callable[[str], None], *, keep: int, overwrite: bool) -> str:
    """Writes the export `<folder>/<step>`, then deletes the oldest of the others.

    Args:
        folder: of the exports of one format.
        step: of the network.
        write: takes an empty directory and fills it.
        keep: how many exports stay, the newest and this one.
        overwrite: whether an export that is there already is replaced; what this program did not write
            never is.

    Returns:
        The path of the export.

    Raises:
        UserError: it is there already, or cannot be written.
    """
    path = os.path.join(folder, str(step))
    if tf.io.gfile.exists(path) or os.path.islink(path):
        if not is_export(path):
            raise UserError(f"{path}: not written by tf_simclr; move it away, or use another --model_dir.")
        if not overwrite:
            raise UserError(f"{path}: exists already; replace it with --overwrite=True.")
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        tf.io.gfile.makedirs(temporary)
        with tf.io.gfile.GFile(os.path.join(temporary, MARKER), "w") as file:
            file.write(to_json({"format": os.path.basename(folder), "global_step": step}))
        write(temporary)
        if tf.io.gfile.exists(path):
            _delete(path)
        tf.io.gfile.rename(temporary, path)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir: cannot write {path} ({first_line(error)}); free some space or choose another."
        ) from error
    finally:
        if tf.io.gfile.exists(temporary):
            _delete(temporary)
    _delete_old(folder, step, keep)
    return path


def is_export(path: str) -> bool:
    """Returns whether `path` is a directory, and no symbolic link, that this program has written."""
    marker = os.path.join(path, MARKER)
    if os.path.islink(path) or os.path.islink(marker) or not tf.io.gfile.isdir(path):
        return False
    try:
        with tf.io.gfile.GFile(marker) as file:
            return "global_step" in json.loads(file.read())
    except (tf.errors.OpError, OSError, ValueError, TypeError):
        return False


def _delete_old(folder: str, step: int, keep: int) -> None:
    """Deletes all exports but the newest `keep`, of which `step` is one, and what killed processes have left."""
    if os.path.islink(folder):
        return
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
    ours = [name for name in names if is_export(os.path.join(folder, name))]
    steps = sorted((int(name) for name in ours if name.isdecimal() and int(name) != step), reverse=True)
    old = [str(other) for other in steps[keep - 1 :]]
    for name in [*old, *filter(_UNFINISHED.fullmatch, ours)]:
        _delete(os.path.join(folder, name))


def _delete(path: str) -> None:
    # TensorFlow follows symbolic links inside of what it deletes, `shutil` does not.
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        tf.io.gfile.rmtree(path)
