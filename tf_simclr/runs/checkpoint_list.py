"""The files of the checkpoints `ckpt-<step>` in a directory, and TensorFlow's list of them."""

import logging
import os
import re
import time

import tensorflow as tf
from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from tf_simclr.config import Run
from tf_simclr.files import list_names, read_bytes, write_text

_LOG = logging.getLogger("tf_simclr")
_MAX_LIST_BYTES = 2**22
_CHECKPOINT_FILE = re.compile(r"(ckpt-(\d+))\.(index|data-\d+-of-\d+)")


def latest_checkpoint(directory: str) -> str | None:
    """Returns the newest checkpoint of a directory, None if there is none."""
    return next(iter(checkpoints_newest_first(directory)), None)


def checkpoint_step(path: str | None) -> int:
    """Returns the step of a checkpoint by its name; 0 if there is none."""
    return int(os.path.basename(path).removeprefix("ckpt-")) if path else 0


def checkpoints_newest_first(directory: str) -> list[str]:
    """Returns the paths of all checkpoints of a directory, also of those that have lost a file.

    Those in TensorFlow's list of checkpoints come first: others may be unfinished, or older. If that list is gone or
    damaged, the steps in the names decide.
    """
    there = find_checkpoints(directory)
    known = [name for name in reversed(listed_checkpoints(directory) or ()) if name in there]
    others = sorted(there.keys() - set(known), key=there.__getitem__, reverse=True)
    return [os.path.join(directory, name) for name in [*known, *others]]


def finished_checkpoint(directory: str) -> str | None:
    """Returns the newest whole checkpoint of a directory that another process may still write to, None if none is."""
    path = latest_checkpoint(directory)
    is_finished = path and (os.path.basename(path) in (listed_checkpoints(directory) or ()) or _is_whole(path))
    return path if is_finished else None


def find_checkpoints(directory: str) -> dict[str, int]:
    """Returns the steps of the checkpoints of a directory by their names."""
    try:
        names = list_names(directory)
    except (tf.errors.OpError, OSError):
        return {}
    found = map(_CHECKPOINT_FILE.fullmatch, names)
    return {match[1]: int(match[2]) for match in found if match}


def listed_checkpoints(directory: str) -> list[str] | None:
    """Returns the names in TensorFlow's list of checkpoints; None if it is missing or damaged."""
    try:
        content = read_bytes(os.path.join(directory, "checkpoint"), _MAX_LIST_BYTES)
        state = text_format.Parse((content or b"").decode(), CheckpointState())
    except (OSError, ValueError, text_format.ParseError):
        return None
    if not state.model_checkpoint_path:
        return None
    return [os.path.basename(path) for path in state.all_model_checkpoint_paths]


def repair_checkpoints(directory: str) -> None:
    """Makes TensorFlow's list of checkpoints agree with what is there, and deletes what was never finished.

    A killed process may have finished a checkpoint without listing it, and may have left parts of one. A list that is
    damaged or gone gets all whole checkpoints.
    """
    delete_unfinished(directory)
    there, known = find_checkpoints(directory), listed_checkpoints(directory)
    newest = max((there[name] for name in known or () if name in there), default=-1)
    new = {name for name, step in there.items() if step > newest}
    whole = {name for name in new if _is_whole(os.path.join(directory, name))}
    kept = {name for name in known or () if name in there} | whole
    if kept and known is None:
        _LOG.info(
            "%s: the list of checkpoints is gone or damaged; it is made anew from the %d that are there.",
            directory,
            len(kept),
        )
    if kept and kept != set(known or ()):
        names = sorted(kept, key=there.__getitem__)
        # TensorFlow keeps checkpoints without a time for ever.
        state = CheckpointState(
            model_checkpoint_path=names[-1],
            all_model_checkpoint_paths=names,
            all_model_checkpoint_timestamps=[time.time()] * len(names),
        )
        write_text(os.path.join(directory, "checkpoint"), text_format.MessageToString(state))
    for file in list_names(directory) if known else ():
        if (match := _CHECKPOINT_FILE.fullmatch(file)) and match[1] in new - whole:
            tf.io.gfile.remove(os.path.join(directory, file))


def delete_unfinished(directory: str) -> None:
    """Deletes what TensorFlow leaves of a checkpoint or of its list that was not written to the end."""
    for name in list_names(directory):
        path = os.path.join(directory, name)
        if re.fullmatch(r"checkpoint\.tmp[0-9a-f]{32}", name):
            tf.io.gfile.remove(path)
        elif re.fullmatch(r"ckpt-\d+_temp", name):
            tf.io.gfile.rmtree(path)


def _is_whole(path: str) -> bool:
    """Returns whether a checkpoint has all its files, and a table of contents that can be read."""
    directory, name = os.path.split(path)
    part = re.compile(rf"{re.escape(name)}\.data-\d+-of-(\d+)")
    try:
        tf.train.load_checkpoint(path)
        counts = [int(found[1]) for found in map(part.fullmatch, list_names(directory)) if found]
    except (tf.errors.OpError, OSError, RuntimeError, ValueError):
        return False
    return len(counts) in counts


def newest_start(config: Run) -> str | None:
    """Returns the place from which the same command goes on, for a message; None if it has no checkpoint."""
    paths = [latest_checkpoint(str(run.model_dir)) for run in reversed(config.runs.values())]
    return next((f"the same command goes on from {path}" for path in paths if path), None)
