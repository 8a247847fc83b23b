"""The directory of a run: whose it is, its settings, its newest checkpoint."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import (
    LABEL_EFFICIENCY,
    SEMI_SUPERVISED,
    TRAIN_MODES,
    DataConfig,
    Run,
    UserError,
    absolute_dataset,
    split_sources,
)
from tf_simclr.files import find_json, first_line, listed, write_json, write_text
from tf_simclr.run_data import RunData, has_run_data, write_run_data

_SETTINGS_FILE = "flags.json"
# Changing these between two starts of a run changes neither the weights nor what they mean.
_FREE_SETTINGS = frozenset(
    [
        "mode",
        "model_dir",
        "data_dir",
        "folder_index",
        "cache_dataset",
        "recompute",
        "data_service",
        "max_bad_image_fraction",
        "eval_split",
        "eval_steps",
        "eval_batch_size",
        "eval_name",
        "eval_timeout",
        "checkpoint_epochs",
        "checkpoint_steps",
        "keep_checkpoint_max",
        "keep_hub_module_max",
        "steps_per_loop",
        "jit_compile",
        "augment_on",
        "strategy",
        "use_tpu",
        "tpu_name",
        "tpu_zone",
        "gcp_project",
        "master",
        "cluster",
        "cluster_port",
        "cluster_timeout",
        "kubernetes_selector",
        "kubernetes_pods",
        "preemption_grace",
        "profile_steps",
        "on_non_finite",
        "allow_remote_teacher",
    ]
)
# Which labels are used makes no difference to pretraining without a probe.
_LABEL_SETTINGS = frozenset(["label_fraction", "labels_per_class", "label_seed"])
# An evaluation may be on other data than the training.
_DATA_SETTINGS = frozenset(field.name for field in dataclasses.fields(DataConfig))
# Where the runs are that others consist of.
_DIRECTORIES_BELOW = {SEMI_SUPERVISED: TRAIN_MODES, LABEL_EFFICIENCY: ("pretrain", "labels_*/seed_*/*")}
# What a run starts from.
_INPUTS = frozenset(["checkpoint", "teacher"])


def latest_checkpoint(directory: str) -> str | None:
    """Returns the newest checkpoint of a directory, None if there is none."""
    return next(iter(checkpoints_newest_first(directory)), None)


def checkpoint_step(path: str | None) -> int:
    """Returns the step of a checkpoint by its name; 0 if there is none."""
    return int(os.path.basename(path).removeprefix("ckpt-")) if path else 0


def checkpoints_newest_first(directory: str) -> list[str]:
    """Returns the paths of all checkpoints of a directory, also of those that have lost a file.

    Those that TensorFlow's list of checkpoints has come first: others may be unfinished, or older. Where
    that list is gone or damaged, the numbers in the names tell which is newest.
    """
    there = {}
    for name in tf.io.gfile.glob(os.path.join(directory, "ckpt-*")):
        if match := re.fullmatch(r"(ckpt-(\d+))\.(index|data-\d+-of-\d+)", os.path.basename(name)):
            there[os.path.join(directory, match[1])] = int(match[2])
    try:
        state = tf.train.get_checkpoint_state(directory)
    except ValueError:  # It is empty.
        state = None
    names = [os.path.basename(path) for path in (state.all_model_checkpoint_paths if state else ())]
    known = [path for name in reversed(names) if (path := os.path.join(directory, name)) in there]
    return known + sorted(there.keys() - set(known), key=there.__getitem__, reverse=True)


def check_directory(config: Run) -> dict:
    """Returns the settings of the run that `model_dir` holds, {} if there is none; changes nothing.

    Settings without a checkpoint or a result are left over from a start that came to nothing.

    Raises:
        UserError: it holds a run with other settings.
    """
    directory = str(config.model_dir)
    path = os.path.join(directory, _SETTINGS_FILE)
    try:
        if not tf.io.gfile.exists(path):
            return {}
        with tf.io.gfile.GFile(path) as file:
            old = json.loads(file.read())
    except json.JSONDecodeError as error:
        raise UserError(
            f"--model_dir={directory}: {path} is damaged ({error}); use another directory."
        ) from error
    except (tf.errors.OpError, OSError):
        return {}  # Such a directory cannot be written either, which claiming it reports.
    begun = latest_checkpoint(directory) or tf.io.gfile.glob(os.path.join(directory, "result*.json"))
    for runs in _DIRECTORIES_BELOW.get(old.get("train_mode"), ()):
        begun = begun or tf.io.gfile.glob(os.path.join(directory, runs, "ckpt-*.index"))
    if begun:
        _check_same_settings(directory, old, config.to_dict())
    return old if begun else {}


def claim_directory(config: Run, data: RunData | None = None) -> None:
    """Makes `model_dir` and writes its settings, and what the run learns from.

    Raises:
        UserError: it cannot be written.
    """
    directory, settings = str(config.model_dir), config.to_dict()
    if "dataset" in settings:  # An evaluation that reads it may be started in another directory.
        settings["dataset"] = absolute_dataset(settings["dataset"])
    try:
        tf.io.gfile.makedirs(directory)
        write_json(os.path.join(directory, _SETTINGS_FILE), settings)
        if data is not None:
            write_run_data(directory, data)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={directory}: cannot be written ({first_line(error)}); use a directory you may write to."
        ) from error


def _check_same_settings(directory: str, old: dict, new: dict) -> None:
    free = set(_FREE_SETTINGS)
    if new["train_mode"] == "pretrain":
        free |= _LABEL_SETTINGS
    knows_its_data = has_run_data(directory)
    if new.get("mode") == "eval":
        free |= _INPUTS  # An evaluation loads neither.
        free |= _DATA_SETTINGS if knows_its_data else frozenset()
    if knows_its_data and "dataset" in new and _kinds(new["dataset"]) == _kinds(old.get("dataset")):
        free.add("dataset")  # Its place may change. The images themselves are compared once they are listed.
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


def _same(name: str, old: dict, new: dict) -> bool:
    if old[name] == new[name]:
        return True
    if name not in _INPUTS or None in (old[name], new[name]):
        return False
    # A directory that was moved together with this one, or is named in another way, is the same.
    places = [os.path.relpath(os.path.expanduser(run[name]), run["model_dir"]) for run in (old, new)]
    return places[0] == places[1]


def _kinds(dataset: Any) -> list[str]:
    """Returns a data set without its place, such as `folder`, or its version; of several, each."""
    return [name.partition(":")[0] for name in split_sources(str(dataset))]


def write_outcome(directory: str, path: str, text: str | bytes) -> None:
    """Writes what comes of a run into its directory, whole or not at all.

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


def read_settings(directory: str) -> dict:
    """Returns {flag name: value} of the run in a directory; {} where that is not written there."""
    settings = find_json(os.path.join(directory, _SETTINGS_FILE))
    return settings if isinstance(settings, dict) else {}


def defining_settings(settings: Mapping) -> dict:
    """Returns those settings of a run that its weights, and what they mean, depend on."""
    return {name: value for name, value in settings.items() if name not in _FREE_SETTINGS}
