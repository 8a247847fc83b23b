"""Directories of exports: written whole or not at all, the newest kept, nothing else ever deleted."""

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.files import find_json, first_line, to_json

_LOG = logging.getLogger("tf_simclr")

MARKER = "tf_simclr_export.json"
_STEP = re.compile(r"0|[1-9][0-9]*")
_UNFINISHED = re.compile(rf"({_STEP.pattern})\.[0-9a-f]+\.tmp")
# Another process may still be writing a younger one.
_UNFINISHED_SECONDS = 24 * 3600


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
    path = check_target(folder, step, overwrite=overwrite)
    temporary = _temporary(path)
    try:
        tf.io.gfile.makedirs(temporary)
        with tf.io.gfile.GFile(os.path.join(temporary, MARKER), "w") as file:
            file.write(to_json({"format": os.path.basename(folder), "global_step": step}))
        write(temporary)
        if not is_export(temporary):
            raise UserError(f"{temporary}: was changed or deleted while it was written; export again.")
        check_target(folder, step, overwrite=overwrite)  # Writing may have taken long.
        _publish(temporary, path)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir: cannot write {path} ({first_line(error)}); free some space or choose another."
        ) from error
    finally:
        _delete(temporary)
    _delete_old(folder, step, keep)
    return path


def check_target(folder: str, step: int, *, overwrite: bool) -> str:
    """Returns the path of an export, where it may be written.

    Args:
        folder: of the exports of one format.
        step: of the network.
        overwrite: whether an export that is there already is replaced.

    Raises:
        UserError: something is there that is not to be replaced.
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
    content = find_json(marker)
    return isinstance(content, dict) and "global_step" in content


def _temporary(path: str) -> str:
    """Returns a name of which nothing can be left: numbers of processes come again."""
    return f"{path}.{secrets.token_hex(8)}.tmp"


def _publish(temporary: str, path: str) -> None:
    """Renames `temporary` to `path`, which is away for no longer than that takes."""
    if not tf.io.gfile.exists(path):
        tf.io.gfile.rename(temporary, path)
        return
    replaced = _temporary(path)
    tf.io.gfile.rename(path, replaced)
    try:
        tf.io.gfile.rename(temporary, path)
    except BaseException:
        tf.io.gfile.rename(replaced, path)
        raise
    _delete(replaced)


def _delete_old(folder: str, step: int, keep: int) -> None:
    """Deletes all exports but the newest `keep`, of which `step` is one, and what killed processes have left."""
    if os.path.islink(folder):
        return
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]  # Buckets have slashes there.
    ours = [name for name in names if is_export(os.path.join(folder, name))]
    others = sorted((name for name in ours if _STEP.fullmatch(name) and name != str(step)), key=int)
    old = others[::-1][keep - 1 :]
    unfinished = [name for name in ours if _UNFINISHED.fullmatch(name)]
    left = [name for name in unfinished if _age(os.path.join(folder, name)) > _UNFINISHED_SECONDS]
    for name in [*old, *left]:
        _delete(os.path.join(folder, name))


def _age(path: str) -> float:
    """Returns the seconds since an export was begun."""
    return time.time() - tf.io.gfile.stat(os.path.join(path, MARKER)).mtime_nsec / 1e9


def _delete(path: str) -> None:
    """Deletes a directory of this program, if it is there; says so where it cannot."""
    # TensorFlow follows symbolic links inside of what it deletes, `shutil` does not.
    try:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif tf.io.gfile.exists(path):
            tf.io.gfile.rmtree(path)
    except (tf.errors.OpError, OSError) as error:
        _LOG.warning("%s: cannot be deleted (%s); delete it yourself.", path, first_line(error))
