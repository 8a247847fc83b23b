"""The directory of a run: its owner and its settings."""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import (
    FREE_SETTINGS,
    LABEL_EFFICIENCY,
    LABEL_SETTINGS,
    SEMI_SUPERVISED,
    TRAIN_MODES,
    DataConfig,
    Run,
    UserError,
    absolute_dataset,
    split_sources,
)
from tf_simclr.files import (
    delete_leftovers,
    find_paths,
    first_line,
    listed,
    read_json,
    reporting_write_errors,
    write_json,
    write_text,
)
from tf_simclr.runs.checkpoint_list import find_checkpoints, repair_checkpoints
from tf_simclr.runs.data import RunData, has_run_data, write_run_data
from tf_simclr.runs.ownership import LOCK, owning

Settings = Mapping[str, Any]

_LOG = logging.getLogger("tf_simclr")
_SETTINGS_FILE = "flags.json"
_SETTINGS_FORM: dict[Any, Any] = {
    **dict.fromkeys(("train_mode?", "model_dir?", "dataset?"), str),
    **dict.fromkeys(("checkpoint?", "teacher?"), (str, None)),
    str: (None, bool, float, str),
}
# An evaluation may be on other data than the training.
_DATA_SETTINGS = frozenset(field.name for field in dataclasses.fields(DataConfig))
# Directories of the runs that others consist of.
_DIRECTORIES_BELOW = {SEMI_SUPERVISED: TRAIN_MODES, LABEL_EFFICIENCY: ("pretrain*", "labels_*/seed_*/*")}
# Files of a run that only its owner writes, and those that evaluations write too.
_OWNERS_FILES = r"(flags|class_names|data|bad_images)\.json"
_RESULTS = r"(result.*|report|label_efficiency)\.(json|csv|html|md|png)"
# Networks that a run starts from.
_INPUTS = frozenset(["checkpoint", "teacher"])


@contextlib.contextmanager
def owning_directory(directory: str, *, owns: bool = True) -> Iterator[None]:
    """Keeps other processes from training in `model_dir`, and deletes what killed ones have left there.

    Args:
        directory: The directory, which is made.
        owns: Whether this process writes the files of the run; another one owns nothing.

    Raises:
        UserError: Another process owns the directory, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if owns:
            with _reporting_unwritable(directory):
                stack.enter_context(owning(os.path.join(directory, LOCK), "model_dir", directory))
                delete_leftovers(directory, _OWNERS_FILES, min_age=0)
                delete_leftovers(directory, _RESULTS)
                repair_checkpoints(directory)
        yield


def _reporting_unwritable(directory: str) -> contextlib.AbstractContextManager[None]:
    return reporting_write_errors(f"--model_dir={directory}", "use a directory you may write to")


def check_directory(config: Run) -> dict[str, Any]:
    """Returns the settings of the run in `model_dir`, {} if there is none; changes nothing.

    Settings without a checkpoint or a result do not count: that start did not get far.

    Raises:
        UserError: it holds a run with other settings.
    """
    directory = str(config.model_dir)
    old = read_settings(directory)
    if not old:
        _check_no_checkpoints(directory, config)
        return {}
    if not _has_begun(directory, old.get("train_mode")):
        return {}
    _check_same_settings(directory, old, config.to_dict())
    return old


def _has_begun(directory: str, train_mode: Any) -> bool:
    """Returns whether there is a checkpoint or a result of a run, or of the runs that it consists of."""
    patterns = ["result*.json", *(f"{runs}/ckpt-*.index" for runs in _DIRECTORIES_BELOW.get(train_mode, ()))]
    return bool(find_checkpoints(directory)) or any(find_paths(directory, pattern) for pattern in patterns)


def _check_no_checkpoints(directory: str, config: Run) -> None:
    """Raises UserError if there are checkpoints without settings, which may have been other ones.

    An evaluation takes the settings of this command, because it changes nothing and a wrong network does not fit.
    """
    if not find_checkpoints(directory):
        return
    what = f"--model_dir={directory}: has checkpoints, but no {_SETTINGS_FILE} that says how they were trained"
    if config.to_dict().get("mode") != "eval":
        raise UserError(f"{what}; put that file back, or use another --model_dir.")
    _warn_once(f"{what}; the flags of this command are taken for those of the run.")


@functools.cache
def _warn_once(line: str) -> None:
    _LOG.warning("%s", line)


def claim_directory(config: Run, data: RunData | None = None) -> None:
    """Makes `model_dir` and writes its settings, and what the run learns from.

    Raises:
        UserError: it cannot be written.
    """
    directory, settings = str(config.model_dir), config.to_dict()
    if "dataset" in settings:  # An evaluation may start in another working directory.
        settings["dataset"] = absolute_dataset(settings["dataset"])
    with _reporting_unwritable(directory):
        tf.io.gfile.makedirs(directory)
        write_json(os.path.join(directory, _SETTINGS_FILE), settings)
        if data is not None:
            write_run_data(directory, data)


def _check_same_settings(directory: str, old: Settings, new: Settings) -> None:
    free = set(FREE_SETTINGS)
    if new["train_mode"] == "pretrain":
        free |= set(LABEL_SETTINGS)  # Only a probe uses labels, and that is a setting of its own.
    knows_its_data = has_run_data(directory)
    if new.get("mode") == "eval":
        free |= _INPUTS  # An evaluation loads neither.
        free |= _DATA_SETTINGS if knows_its_data else frozenset()
    if knows_its_data and "dataset" in new and _kinds(new["dataset"]) == _kinds(old.get("dataset")):
        free.add("dataset")  # Its place may change. The images are compared once they are listed.
    changed = [
        f"--{name}={old[name]} there, {new[name]} now"
        for name in sorted(new, key=lambda name: name != "train_mode")
        if name not in free and name in old and not _same(name, old, new)
    ]
    if changed:
        raise UserError(
            f"--model_dir={directory}: holds a run with other settings ({listed(changed)}); "
            "use those settings to go on with it, or another --model_dir."
        )


def _same(name: str, old: Settings, new: Settings) -> bool:
    if old[name] == new[name]:
        return True
    if name not in _INPUTS or None in (old[name], new[name]):
        return False
    # A directory that was moved together with this one, or is named in another way, is the same.
    before, now = (os.path.relpath(os.path.expanduser(str(run[name])), run.get("model_dir")) for run in (old, new))
    return before == now


def _kinds(dataset: Any) -> list[str]:
    """Returns the kinds of data sets: their names without a place (`folder`) or a version."""
    return [name.partition(":")[0] for name in split_sources(str(dataset))]


def write_outcome(directory: str, path: str, text: str | bytes) -> None:
    """Writes a result of a run into its directory, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_text(path, text)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={directory}: cannot write {path} ({first_line(error)}); free some space and start "
            "again: training is over."
        ) from error


def read_settings(directory: str) -> dict[str, Any]:
    """Returns {flag name: value} of the run in a directory; {} if none are written there.

    Raises:
        DamagedFileError: They are damaged.
    """
    path = os.path.join(directory, _SETTINGS_FILE)
    fix = "restore it from a copy, or use another directory"
    return read_json(path, _SETTINGS_FORM, fix=fix) or {}


def defining_settings(settings: Settings) -> dict[str, Any]:
    """Returns the settings of a run that decide its weights and their meaning."""
    return {name: value for name, value in settings.items() if name not in FREE_SETTINGS}
