"""Checkpoints: save, resume, start from, and say exactly what does not fit."""

import dataclasses
import functools
import logging
import os
import re
import time
from collections.abc import Mapping

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tf_simclr.config import TRAIN_MODES, ModelConfig, UserError, check_readable_place
from tf_simclr.files import first_line, list_names, listed
from tf_simclr.models import SimCLRModel, build_simclr_model
from tf_simclr.runs.checkpoint_list import (
    checkpoints_newest_first,
    delete_unfinished,
    finished_checkpoint,
    latest_checkpoint,
    listed_checkpoints,
)
from tf_simclr.runs.directory import read_settings
from tf_simclr.runs.network_differences import describe_differences

_LOG = logging.getLogger("tf_simclr")
# What the variables are filed under: in a checkpoint, in a SavedModel of this project.
_ROOTS = ("model", "weights")
_HEAD = "supervised_head/"
_MEMORY = "memory/"
_SECONDS_BETWEEN_LOOKS = 1.0
# What TensorFlow raises where a checkpoint is truncated, overwritten or out of reach.
READ_ERRORS = (tf.errors.OpError, DecodeError, ValueError, OSError, RuntimeError, IndexError)


class DamagedCheckpointError(UserError):
    """A checkpoint that cannot be read: truncated, overwritten, or a part of it is gone."""


class DivergedError(UserError):
    """A loss or a weight that is not finite.

    Args:
        what: which, and at which step.
        checkpoint: path of the last good checkpoint; None if there is none.
        can_restore: whether `--on_non_finite=restore` may still help.
    """

    def __init__(self, what: str, checkpoint: str | None, *, can_restore: bool = True):
        self.what = what
        restore = "go on with --on_non_finite=restore, or " if can_restore and checkpoint else ""
        super().__init__(
            f"training diverged {what}; the last good checkpoint is {checkpoint or 'none'}; {restore}start anew in "
            "another --model_dir with a smaller --learning_rate or a longer --warmup_epochs."
        )


class Checkpoints:
    """The checkpoints `ckpt-<step>` of one run.

    Args:
        directory: `model_dir`.
        task: with `model`, `optimizer` and `state`; `optimizer.iterations` is the step.
        keep: how many of the newest stay. Older ones are deleted after a newer one is complete.
        writes: whether this process is the one of the run that writes files.
    """

    def __init__(self, directory: str, task, *, keep: int = 5, writes: bool = True):
        self._directory = directory
        self._task = task
        self._writes = writes
        self._keep = keep
        self._latest: str | None = None
        self._skipped_steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            model=task.model.variable_tree(),
            optimizer=task.optimizer,
            global_step=task.optimizer.iterations,
            skipped_steps=self._skipped_steps,
            **task.state,
        )
        self._network = tf.train.Checkpoint(model=task.model.variable_tree(), global_step=task.optimizer.iterations)

    @functools.cached_property
    def _manager(self) -> tf.train.CheckpointManager:
        """Made for writing alone: it cannot read a damaged list of checkpoints."""
        return tf.train.CheckpointManager(
            self._checkpoint, self._directory, max_to_keep=self._keep, checkpoint_name="ckpt"
        )

    @property
    def latest(self) -> str | None:
        """Path of the checkpoint that was written or restored last; None if there was none."""
        return self._latest

    @property
    def skipped_steps(self) -> int:
        """How many batches were left out so far: step k is taken with batch k + skipped_steps."""
        return int(self._skipped_steps.numpy())

    def go_back(self, stop: int) -> int:
        """Restores the checkpoint `latest`, to leave out the batches from there up to step `stop`.

        Returns:
            The step of the checkpoint.
        """
        next_batch = stop + self.skipped_steps
        step = self._restore(str(self._latest))
        self._skipped_steps.assign(next_batch - step)
        return step

    def save(self) -> str:
        """Writes `ckpt-<step>` and returns its path.

        Raises:
            DivergedError: a weight is not finite.
            UserError: the file cannot be written.
        """
        step = int(self._task.optimizer.iterations.numpy())
        checked = [*self._task.model.variables, *_flatten(self._task.state).values()]
        bad = [v.name for v in checked if not _is_finite(v)]
        if bad:
            raise DivergedError(f"by step {step}: {listed(bad)} not finite", self.latest)
        path = os.path.join(self._directory, f"ckpt-{step}")
        if self._writes:
            self._write(step)
        self._latest = path
        return path

    def _write(self, step: int) -> None:
        try:
            # It counts how often was saved, and is saved too: interrupted runs must end in the same bytes.
            self._checkpoint.save_counter.assign(step - 1)
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            delete_unfinished(self._directory)
            raise UserError(
                f"--model_dir={self._directory}: cannot write checkpoint {step} ({first_line(error)}); "
                f"the last good one is {self.latest or 'none'}; free some space or choose another directory."
            ) from error

    def restore(self, path: str | None = None) -> int:
        """Restores everything from `path`, or from the newest that is not damaged.

        Returns:
            The step; 0 if there is no checkpoint.

        Raises:
            DamagedCheckpointError: `path`, or every checkpoint that was ever finished, is damaged.
            UserError: the checkpoint is of another network or optimizer.
        """
        if path is not None:
            return self._restore(path)
        finished = set(listed_checkpoints(self._directory) or ())
        damaged = []
        for candidate in checkpoints_newest_first(self._directory):
            name = os.path.basename(candidate)
            try:
                step = self._restore(candidate)
            except DamagedCheckpointError as error:
                _LOG.info("%s", error)
                # One that TensorFlow's list lacks was never finished: its process was killed.
                damaged += [error] if name in finished else []
                continue
            if damaged:
                _LOG.info("Taking %s, the one before it.", name)
            return step
        if damaged:
            raise damaged[0]
        return 0

    def restore_network(self, path: str) -> int:
        """Restores the network and the step, for evaluation, whatever optimizer `path` was written with.

        Returns:
            The step.

        Raises:
            DamagedCheckpointError: `path` is damaged.
            UserError: it is of another network.
        """
        return self._restore(path, network_only=True)

    def _restore(self, path: str, *, network_only: bool = False) -> int:
        where = f"--model_dir={self._directory}: {os.path.basename(path)}"
        mend = "an earlier one is used, where there is one; or use another --model_dir"
        _check_same_network(path, where, self._task.model, mend=mend)
        try:
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # A damaged one must leave the variables as they are.
            if network_only:
                self._network.read(path).assert_existing_objects_matched().expect_partial()
            else:
                self._checkpoint.restore(path).assert_existing_objects_matched()
        except AssertionError as error:
            raise UserError(
                f"{where} does not fit this run ({first_line(error)}); "
                "use the --optimizer and --memory_size it was written with, or another --model_dir."
            ) from error
        except READ_ERRORS as error:
            raise _damaged(where, error, mend) from error
        self._latest = path
        return int(self._task.optimizer.iterations.numpy())


def wait_for_checkpoint(directory: str, previous: str | None, *, timeout: float) -> str | None:
    """Returns the newest checkpoint of a directory as soon as there is another one than `previous`.

    Args:
        directory: of a run.
        previous: path of the newest checkpoint so far; None if there was none.
        timeout: seconds; 0 for no limit.

    Returns:
        The path; None if there is none in time.
    """
    start = time.monotonic()
    while (path := finished_checkpoint(directory)) in (None, previous):
        if timeout and time.monotonic() - start >= timeout:
            return None
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return path


def initialize_from(path: str, model: SimCLRModel, *, keep_head: bool = True) -> str:
    """Starts `model` from the weights in `path`, and returns one line of what matched.

    The supervised head is taken over where it has the same shape, and stays new where the number of
    classes differs; everything else of the network must match. A memory of negatives is left out.

    Args:
        path: a checkpoint, a directory whose latest one is taken, or a SavedModel of this project.
        model: the network; its supervised head is taken as it is where that of `path` is not.
        keep_head: whether the supervised head may be taken over.

    Raises:
        UserError: there is no such checkpoint, or it is of another network.
    """
    path = find_checkpoint(path, "checkpoint")
    where, mend = f"--checkpoint={path}", "use an earlier one"
    root, saved = _check_same_network(path, where, model, mend=mend, ignore_head=True)
    tree = model.variable_tree()
    expected = _flatten(tree)
    head = [name for name in expected if name.startswith(_HEAD)]
    if head and not (keep_head and all(saved.get(name) == _shape(expected[name]) for name in head)):
        del tree["supervised_head"]
    restored = _flatten(tree)
    try:
        tf.train.Checkpoint(**{root: tree}).read(path).assert_existing_objects_matched().expect_partial()
    except READ_ERRORS as error:
        raise _damaged(where, error, mend) from error
    notes = "; the supervised head starts fresh" if len(restored) < len(expected) else ""
    if any(name.startswith(_MEMORY) for name, _ in tf.train.list_variables(path)):
        notes += "; its memory of negatives is left out"
    return f"Starting from {path}: {len(restored)} of {len(expected)} variables matched{notes}."


def load_network(path: str, flag: str) -> SimCLRModel:
    """Builds the network of a run, as its settings say, with the weights of a checkpoint.

    Args:
        path: the directory of the run, whose latest checkpoint is taken, or a checkpoint in it.
        flag: that named the path, for messages.

    Raises:
        UserError: there is no such checkpoint, or no settings beside it.
    """
    path = find_checkpoint(path, flag)
    where, mend = f"--{flag}={path}", "name another checkpoint"
    settings = read_settings(os.path.dirname(path))
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    if not names <= settings.keys():
        raise UserError(f"{where}: no flags.json of its run beside it; name a checkpoint in a run's directory.")
    try:
        config = ModelConfig(**{name: settings[name] for name in names})
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: the flags.json of its run is damaged ({first_line(error)}); {mend}.") from error
    _, saved = _saved_shapes(path, where, mend)
    model = build_simclr_model(config, saved.get(f"{_HEAD}kernel", (None,))[-1])
    root, _ = _check_same_network(path, where, model, mend=mend)
    try:
        checkpoint = tf.train.Checkpoint(**{root: model.variable_tree()})
        checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    except READ_ERRORS as error:
        raise _damaged(where, error, mend) from error
    return model


def find_checkpoint(path: str, flag: str) -> str:
    """Returns the checkpoint that `path` names: itself, the latest of a directory, that in a SavedModel.

    Raises:
        UserError: there is none.
    """
    check_readable_place(flag, path)
    path = os.path.expanduser(path)
    if is_saved_model(path):
        return os.path.join(path, "variables", "variables")
    if tf.io.gfile.isdir(path):
        latest = latest_checkpoint(path)
        if latest is None:
            steps = [directory for step in TRAIN_MODES if latest_checkpoint(directory := os.path.join(path, step))]
            mend = f"one of its steps: {', '.join(steps)}" if steps else "one that has ckpt-* files, or a SavedModel"
            raise UserError(f"--{flag}={path}: no checkpoint in this directory; name {mend}.")
        return latest
    path = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path)
    try:
        is_there = tf.io.gfile.exists(path + ".index")
    except tf.errors.OpError as error:  # There is no file system for such a path, or no way to it.
        raise UserError(
            f"--{flag}={path}: cannot be reached ({first_line(error)}); download it, and name its directory."
        ) from error
    if not is_there:
        directory = os.path.dirname(path) or "."
        there = [name.removesuffix(".index") for name in list_names(directory) if name.endswith(".index")]
        there = [os.path.join(directory, name) for name in there]
        mend = f"use one of {listed(there)}" if there else "no checkpoint is in that directory either"
        raise UserError(f"--{flag}={path}: no such checkpoint; {mend}.")
    return path


def is_saved_model(path: str) -> bool:
    """Returns whether `path` is the directory of a SavedModel, which a TF-Hub module on disk is too."""
    try:
        return tf.io.gfile.exists(os.path.join(path, "saved_model.pb"))
    except tf.errors.OpError:
        return False


def _check_same_network(
    path: str, where: str, model, *, mend: str, ignore_head: bool = False
) -> tuple[str, dict[str, tuple]]:
    """Raises UserError with the differences and the flags that explain them; returns `_saved_shapes`."""
    root, saved = _saved_shapes(path, where, mend)
    expected = {name: _shape(variable) for name, variable in _flatten(model.variable_tree()).items()}

    def relevant(shapes):
        return {k: v for k, v in shapes.items() if not (ignore_head and k.startswith(_HEAD))}

    differences = describe_differences(relevant(saved), relevant(expected))
    if differences:
        raise UserError(f"{where}: {differences}")
    return root, saved


def _saved_shapes(path: str, where: str, mend: str) -> tuple[str, dict[str, tuple]]:
    """Returns what the network's variables are filed under, and their shapes by name."""
    try:
        reader = tf.train.load_checkpoint(path)
        shapes = reader.get_variable_to_shape_map()
        # A SavedModel files a variable under the shortest of its names: the graph has them all.
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        if "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes:
            graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    except READ_ERRORS as error:
        raise _damaged(where, error, mend) from error
    roots = {child.local_name: child.node_id for child in graph.nodes[0].children} if graph.nodes else {}
    for root in _ROOTS:
        if root in roots:
            keys = _keys_below(graph.nodes, roots[root])
            if saved := {name: tuple(shapes[key]) for name, key in keys.items() if name and key in shapes}:
                return root, saved
    raise UserError(f"{where}: not written by tf_simclr; name a checkpoint or a SavedModel that is.")


def _keys_below(nodes, root: int) -> dict[str, str]:
    """Returns the keys of all variables of an object by their paths from there; goes round no cycle."""
    keys: dict[str, str] = {}
    pending = [(root, "", frozenset[int]())]
    while pending:
        number, prefix, above = pending.pop()
        keys |= {prefix[:-1]: attribute.checkpoint_key for attribute in nodes[number].attributes}
        above |= {number}
        pending += [
            (child.node_id, f"{prefix}{child.local_name}/", above)
            for child in nodes[number].children
            if child.node_id not in above
        ]
    return keys


def _damaged(where: str, error: BaseException, mend: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{where} is damaged or cannot be read ({first_line(error)}); {mend}.")


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, tf.Variable]:
    flat: dict[str, tf.Variable] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _is_finite(variable: tf.Variable) -> bool:
    return not variable.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(variable)))


def _shape(variable: tf.Variable) -> tuple:
    return tuple(variable.shape)
