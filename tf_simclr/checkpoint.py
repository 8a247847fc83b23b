"""Checkpoints: save, resume, start from, and say exactly what does not fit."""

import json
import os
import re
from collections.abc import Mapping

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, UserError
from tf_simclr.mismatch import describe_differences, listed

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SETTINGS_FILE = "flags.json"
# Changing these between two starts of a run changes neither the weights nor what they mean.
_FREE_SETTINGS = frozenset(
    [
        "mode",
        "model_dir",
        "data_dir",
        "cache_dataset",
        "max_bad_image_fraction",
        "eval_split",
        "eval_steps",
        "eval_batch_size",
        "eval_name",
        "checkpoint_epochs",
        "checkpoint_steps",
        "keep_checkpoint_max",
        "keep_hub_module_max",
        "steps_per_loop",
        "strategy",
        "use_tpu",
        "tpu_name",
        "tpu_zone",
        "gcp_project",
        "master",
    ]
)
# What TensorFlow raises where a checkpoint is truncated, overwritten or out of reach.
_READ_ERRORS = (tf.errors.OpError, ValueError, OSError, RuntimeError, IndexError)
DIVERGED_MEND = "start anew in another --model_dir with a smaller --learning_rate or a longer --warmup_epochs"


class Checkpoints:
    """The checkpoints `ckpt-<step>` of one run.

    Args:
        directory: `model_dir`.
        task: with `model` and `optimizer`; `optimizer.iterations` is the step.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: str, task, *, keep: int = 5):
        self._task = task
        self._checkpoint = tf.train.Checkpoint(
            model=task.model.variable_tree(), optimizer=task.optimizer, global_step=task.optimizer.iterations
        )
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, directory, max_to_keep=keep, checkpoint_name="ckpt"
        )

    @property
    def latest(self) -> str | None:
        """Path of the newest checkpoint, or None."""
        return latest_checkpoint(self._manager.directory)

    def save(self) -> str:
        """Writes `ckpt-<step>` and returns its path.

        Raises:
            UserError: a weight is not finite, or the file cannot be written.
        """
        step = int(self._task.optimizer.iterations.numpy())
        bad = [v.name for v in self._task.model.variables if not bool(tf.reduce_all(tf.math.is_finite(v)))]
        if bad:
            raise UserError(
                f"training diverged by step {step}: {listed(bad)} not finite; the last good checkpoint is "
                f"{self.latest or 'none'}; {DIVERGED_MEND}."
            )
        try:
            return self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"--model_dir={self._manager.directory}: cannot write checkpoint {step} ({_first_line(error)}); "
                f"the last good one is {self.latest or 'none'}; free some space or choose another directory."
            ) from error

    def restore(self, path: str | None = None) -> int:
        """Restores everything from `path`, or from the newest; returns the step, 0 if there is none.

        Raises:
            UserError: the checkpoint is damaged or of another network.
        """
        directory = self._manager.directory
        path = path or self.latest
        if path is None:
            return 0
        where = f"--model_dir={directory}: {os.path.basename(path)}"
        mend = f"delete {path}.* to go on from the one before it, or use another --model_dir"
        _check_same_network(path, where, self._task.model, mend=mend)
        try:
            self._checkpoint.restore(path).assert_existing_objects_matched()
        except AssertionError as error:
            raise UserError(
                f"{where} does not fit this run ({_first_line(error)}); "
                "use the --optimizer it was written with, or another --model_dir."
            ) from error
        except _READ_ERRORS as error:
            raise _damaged(where, error, mend) from error
        return int(self._task.optimizer.iterations.numpy())


def initialize_from(path: str, model) -> str:
    """Starts `model` from the weights in the checkpoint `path`, and returns one line of what matched.

    The supervised head is taken over where it has the same shape, and stays new where the number of
    classes differs; everything else must match.

    Args:
        path: a checkpoint, or a directory whose latest one is taken.
        model: a `SimCLRModel`.

    Raises:
        UserError: there is no such checkpoint, or it is of another network.
    """
    path = find_checkpoint(path, "checkpoint")
    where, mend = f"--checkpoint={path}", "use an earlier one"
    saved = _check_same_network(path, where, model, mend=mend, ignore_head=True)
    tree = model.variable_tree()
    expected = _flatten(tree)
    head = [name for name in expected if name.startswith("supervised_head/")]
    if any(saved.get(name) != _shape(expected[name]) for name in head):
        del tree["supervised_head"]
    restored = _flatten(tree)
    try:
        tf.train.Checkpoint(model=tree).restore(path).assert_existing_objects_matched().expect_partial()
    except _READ_ERRORS as error:
        raise _damaged(where, error, mend) from error
    fresh = "; the supervised head starts fresh" if len(restored) < len(expected) else ""
    return f"Starting from {path}: {len(restored)} of {len(expected)} variables matched{fresh}."


def find_checkpoint(path: str, flag: str) -> str:
    """Returns the checkpoint that `path` names: itself, or the latest of a directory.

    Raises:
        UserError: there is none.
    """
    path = os.path.expanduser(path)
    if tf.io.gfile.isdir(path):
        latest = latest_checkpoint(path)
        if latest is None:
            raise UserError(
                f"--{flag}={path}: no checkpoint in this directory; name one that has ckpt-* files."
            )
        return latest
    path = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path)
    if not tf.io.gfile.exists(path + ".index"):
        directory = os.path.dirname(path) or "."
        there = sorted(f.removesuffix(".index") for f in tf.io.gfile.glob(os.path.join(directory, "*.index")))
        mend = f"use one of {listed(there)}" if there else "no checkpoint is in that directory either"
        raise UserError(f"--{flag}={path}: no such checkpoint; {mend}.")
    return path


def latest_checkpoint(directory: str) -> str | None:
    """Returns the newest checkpoint of a directory, also if its list of checkpoints is gone; None if none."""
    latest = tf.train.latest_checkpoint(directory)
    if latest is not None:
        return latest
    there = {}
    for name in tf.io.gfile.glob(os.path.join(directory, "ckpt-*.index")):
        if match := re.fullmatch(r"(ckpt-(\d+))\.index", os.path.basename(name)):
            there[int(match[2])] = os.path.join(directory, match[1])
    return there[max(there)] if there else None


def _check_same_network(
    path: str, where: str, model, *, mend: str, ignore_head: bool = False
) -> dict[str, tuple]:
    """Raises UserError with the differences and the flags that explain them; returns the saved shapes."""
    saved = _saved_shapes(path, where, mend)
    expected = {name: _shape(variable) for name, variable in _flatten(model.variable_tree()).items()}

    def relevant(shapes):
        return {k: v for k, v in shapes.items() if not (ignore_head and k.startswith("supervised_head/"))}

    differences = describe_differences(relevant(saved), relevant(expected))
    if differences:
        raise UserError(f"{where}: {differences}")
    return saved


def _saved_shapes(path: str, where: str, mend: str) -> dict[str, tuple]:
    try:
        shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    except _READ_ERRORS as error:
        raise _damaged(where, error, mend) from error
    saved = {
        name[len("model/") : -len(_SUFFIX)]: tuple(shape)
        for name, shape in shapes.items()
        if name.startswith("model/") and name.endswith(_SUFFIX)
    }
    if not saved:
        raise UserError(f"{where}: not a checkpoint of tf_simclr; name one that this program wrote.")
    return saved


def _damaged(where: str, error: BaseException, mend: str) -> UserError:
    return UserError(f"{where} is damaged or cannot be read ({_first_line(error)}); {mend}.")


def check_directory(config: ExperimentConfig) -> dict:
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
    if begun:
        _check_same_settings(directory, old, config.to_dict())
    return old if begun else {}


def claim_directory(config: ExperimentConfig) -> None:
    """Makes `model_dir` and writes its settings.

    Raises:
        UserError: it cannot be written.
    """
    directory = str(config.model_dir)
    try:
        tf.io.gfile.makedirs(directory)
        write_json(os.path.join(directory, _SETTINGS_FILE), config.to_dict())
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"--model_dir={directory}: cannot be written ({_first_line(error)}); use a directory you may write to."
        ) from error


def _check_same_settings(directory: str, old: dict, new: dict) -> None:
    changed = [
        f"--{name}={old[name]} there, {new[name]} now"
        for name in new
        if name not in _FREE_SETTINGS and name in old and old[name] != new[name]
    ]
    if changed:
        raise UserError(
            f"--model_dir={directory}: holds a run with other settings ({listed(changed)}); "
            "use those settings to go on with it, or another --model_dir."
        )


def write_json(path: str, content: Mapping) -> None:
    """Writes `content` whole or not at all."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with tf.io.gfile.GFile(temporary, "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")
        tf.io.gfile.rename(temporary, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)
        raise


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, tf.Variable]:
    flat: dict[str, tf.Variable] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _shape(variable: tf.Variable) -> tuple:
    return tuple(variable.shape)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__
