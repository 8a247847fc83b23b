"""The data that a run began with: its classes, and number and fingerprint of its images."""

import os
from typing import NamedTuple

import tensorflow as tf

from tf_simclr.data import class_list
from tf_simclr.files import counted, read_json, write_json

_CLASS_NAMES_FILE = "class_names.json"
_DATA_FILE = "data.json"
_FORM = {"num_images": int, "num_classes": (int, None), "fingerprint": str}


class RunData(NamedTuple):
    """The data that a run learns from, and the classes of its network.

    Attributes:
        class_names: of the network's classes; None if unknown.
        num_classes: of the network's classifier; None if there is none.
        num_images: in an epoch; None for a run of an earlier version.
        fingerprint: of the list of these images, see `data.Source.fingerprint`; None likewise.
    """

    class_names: tuple[str, ...] | None
    num_classes: int | None = None
    num_images: int | None = None
    fingerprint: str | None = None


def has_run_data(directory: str) -> bool:
    """Returns whether the run in a directory remembers its data; those of earlier versions do not."""
    return bool(tf.io.gfile.exists(os.path.join(directory, _DATA_FILE)))


def read_run_data(directory: str) -> RunData | None:
    """Returns the data that the run in a directory began with; None if unknown.

    Raises:
        DamagedFileError: a file is damaged.
    """
    fix = "restore it, or delete it: the data is then no longer compared with that of the beginning"
    content = read_json(os.path.join(directory, _DATA_FILE), _FORM, fix=fix)
    names = read_class_names(directory)
    if content is None and names is None:
        return None
    known = content or {}
    return RunData(None if names is None else tuple(names), **{name: known.get(name) for name in _FORM})


def write_run_data(directory: str, data: RunData) -> None:
    """Writes what `read_run_data` returns.

    Raises:
        OSError, tf.errors.OpError: a file cannot be written.
    """
    if data.class_names is not None:
        write_json(os.path.join(directory, _CLASS_NAMES_FILE), data.class_names)
    content = data._asdict()
    del content["class_names"]
    write_json(os.path.join(directory, _DATA_FILE), content)


def read_class_names(directory: str) -> list[str] | None:
    """Returns the names of the classes of the run in a directory; None if unknown.

    Raises:
        DamagedFileError: its file is damaged.
    """
    fix = "restore it, or delete it: classes are then no longer compared by name"
    names: list[str] | None = read_json(os.path.join(directory, _CLASS_NAMES_FILE), [str], fix=fix)
    return names


def describe_change(before: RunData, now: RunData) -> str | None:
    """Returns the change of the data since a run began, for a message; None if there is none."""
    if None not in (before.class_names, now.class_names) and before.class_names != now.class_names:
        ours, theirs = before.class_names or (), now.class_names or ()
        return f"{class_list(ours, theirs)} then, {class_list(theirs, ours)} now"
    if before.fingerprint in (None, now.fingerprint):
        return None
    then, more = counted(before.num_images or 0, "image"), (now.num_images or 0) - (before.num_images or 0)
    if more:
        return f"{then} then, {now.num_images} now: {abs(more)} {'added' if more > 0 else 'removed'}"
    return f"{then} then and now, but not the same ones"
