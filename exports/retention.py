"""Directories of exports: written whole or not at all, the newest kept, nothing else ever deleted."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.files import TEMPORARY, find_json, first_line, list_names, temporary_name, to_json
from tf_simclr.runs.ownership import LOCK, owning

_LOG = logging.getLogger("tf_simclr")

MARKER = "tf_simclr_export.json"
_STEP = re.compile(r"0|[1-9][0-9]*")
_UNFINISHED = re.compile(rf"({_STEP.pattern}){TEMPORARY}")


def write_export(
    folder: str, step: int, write: Callable[[str], None], *, keep: int, overwrite: bool, patience: float = 0
) -> str:
    """Writes the export `<folder>/<step>`, then deletes the oldest others and what killed processes have left.

    Args:
        folder: of the exports of one format.
        step: of the network.
        write: takes an empty directory and fills it.
        keep: how many exports stay, the newest and this one.
        overwrite: whether an existing export is replaced; what this program did not write never is.
        patience: seconds to wait while another process exports to the same folder.

    Returns:
        The path of the export.

    Raises:
        UserError: it exists already, cannot be written, or another process exports to the same folder.
    """
    path = check_target(folder, step, overwrite=overwrite)
    temporary = temporary_name(path)
    lock = owning(os.path.join(folder, LOCK), "model_dir", os.path.dirname(folder), patience=patience)
    try:
        with lock:
            try:
                _fill(temporary, write, {"format": os.path.basename(folder), "global_step": step})
                check_target(folder, step, overwrite=overwrite)  # Writing may have taken long.
                _publish(temporary, path)
            finally:
                _delete(temporary)
            _delete_old(folder, step, keep)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir: cannot write {path} ({first_line(error)}); free some space or choose another."
        ) from error
    return path


def _fill(directory: str, write: Callable[[str], None], marker: Mapping[str, Any]) -> None:
    tf.io.gfile.makedirs(directory)
    with tf.io.gfile.GFile(os.path.join(directory, MARKER), "w") as file:
        file.write(to_json(marker))
    write(directory)
    if not is_export(directory):
        raise UserError(f"{directory}: was changed or deleted while it was written; export again.")


def check_target(folder: str, step: int, *, overwrite: bool) -> str:
    """Returns the path of an export that may be written; takes the arguments of `write_export`.

    Raises:
        UserError: something is there that must not be replaced.
    """
    path = os.path.join(folder, str(step))
    if tf.io.gfile.exists(path) or os.path.islink(path):
        if not is_export(path):
            raise UserError(f"{path}: not written by tf_simclr; move it away, or use another --model_dir.")
        if not overwrite:
            raise UserError(f"{path}: exists already; replace it with --overwrite=True.")
    return path


def is_export(path: str) -> bool:
    """Returns whether `path` is a directory, and no symbolic link, that this program has written."""
    marker = os.path.join(path, MARKER)
    if os.path.islink(path) or os.path.islink(marker) or not tf.io.gfile.isdir(path):
        return False
    return find_json(marker, {"global_step": object}) is not None


def _publish(temporary: str, path: str) -> None:
    """Renames `temporary` to `path`, which is missing only while that happens."""
    if not tf.io.gfile.exists(path):
        tf.io.gfile.rename(temporary, path)
        return
    replaced = temporary_name(path)
    tf.io.gfile.rename(path, replaced)
    try:
        tf.io.gfile.rename(temporary, path)
    except BaseException:
        tf.io.gfile.rename(replaced, path)
        raise
    _delete(replaced)


def _delete_old(folder: str, step: int, keep: int) -> None:
    """Deletes what killed processes have left, and all exports except `step` and the newest `keep - 1` others."""
    if os.path.islink(folder):
        return
    ours = [name for name in list_names(folder) if is_export(os.path.join(folder, name))]
    others = sorted((name for name in ours if _STEP.fullmatch(name) and name != str(step)), key=int)
    old = others[::-1][keep - 1 :]
    unfinished = [name for name in ours if _UNFINISHED.fullmatch(name)]
    for name in [*old, *unfinished]:
        _delete(os.path.join(folder, name))


def _delete(path: str) -> None:
    """Deletes a directory of this program, if it exists; warns if it cannot."""
    # TensorFlow follows symbolic links inside a directory that it deletes, `shutil` does not.
    try:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif tf.io.gfile.exists(path):
            tf.io.gfile.rmtree(path)
    except (tf.errors.OpError, OSError) as error:
        _LOG.warning("%s: cannot be deleted (%s); delete it yourself.", path, first_line(error))
