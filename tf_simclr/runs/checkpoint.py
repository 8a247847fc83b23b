"""Saving and restoring the checkpoints of a run."""

import functools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.files import first_line, listed
from tf_simclr.runs.checkpoint_list import (
    checkpoints_newest_first,
    delete_unfinished,
    finished_checkpoint,
    listed_checkpoints,
)
from tf_simclr.runs.networks import DamagedCheckpointError, check_same_network, flatten, reading_checkpoint

_LOG = logging.getLogger("tf_simclr")
_SECONDS_BETWEEN_LOOKS = 1.0


class DivergedError(UserError):
    """A loss or a weight that is not finite.

    Args:
        what: which value, and at which step.
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


class Saved(Protocol):
    """A task as its checkpoints see it: what is saved are the network, the optimizer and `state`."""

    model: Any
    optimizer: Any

    @property
    def state(self) -> Mapping[str, Any]:
        """Everything else that is saved, by name."""


class Checkpoints:
    """The checkpoints `ckpt-<step>` of one run.

    Args:
        directory: `model_dir`.
        task: what is trained; `optimizer.iterations` is the step.
        keep: how many of the newest stay. Older ones are deleted after a newer one is complete.
        writes: whether this process writes the files of the run.
    """

    def __init__(self, directory: str, task: Saved, *, keep: int = 5, writes: bool = True):
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
        """The manager, which only writes: it cannot read a damaged list of checkpoints."""
        return tf.train.CheckpointManager(
            self._checkpoint, self._directory, max_to_keep=self._keep, checkpoint_name="ckpt"
        )

    @property
    def latest(self) -> str | None:
        """Path of the checkpoint that was last written or restored; None if there was none."""
        return self._latest

    @property
    def skipped_steps(self) -> int:
        """Number of batches that were left out so far: step k is taken with batch k + skipped_steps."""
        return int(self._skipped_steps.numpy())

    def go_back(self, stop: int) -> int:
        """Restores the checkpoint `latest`, to leave out the batches from there to step `stop`; returns its step."""
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
        checked = [*self._task.model.variables, *flatten(self._task.state).values()]
        if bad := [variable.name for variable in checked if not _is_finite(variable)]:
            raise DivergedError(f"by step {step}: {listed(bad)} not finite", self.latest)
        path = os.path.join(self._directory, f"ckpt-{step}")
        if self._writes:
            self._write(step)
        self._latest = path
        return path

    def _write(self, step: int) -> None:
        try:
            # This counter of calls is saved too, and interrupted runs must end in the same bytes.
            self._checkpoint.save_counter.assign(step - 1)
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            delete_unfinished(self._directory)
            raise UserError(
                f"--model_dir={self._directory}: cannot write checkpoint {step} ({first_line(error)}); "
                f"the last good one is {self.latest or 'none'}; free some space or choose another directory."
            ) from error

    def restore(self) -> int:
        """Restores everything from the newest checkpoint that is not damaged; returns its step, 0 if there is none.

        Raises:
            DamagedCheckpointError: every checkpoint that was ever finished is damaged.
            UserError: the checkpoint is of another network or optimizer.
        """
        finished = set(listed_checkpoints(self._directory) or ())
        damaged: list[DamagedCheckpointError] = []
        for candidate in checkpoints_newest_first(self._directory):
            name = os.path.basename(candidate)
            try:
                step = self._restore(candidate)
            except DamagedCheckpointError as error:
                _LOG.info("%s", error)
                if name in finished:  # Otherwise its process was killed while it wrote.
                    damaged.append(error)
                continue
            if damaged:
                _LOG.info("Taking %s, the one before it.", name)
            return step
        if damaged:
            raise damaged[0]
        return 0

    def restore_network(self, path: str) -> int:
        """Restores the network for evaluation, whatever optimizer wrote `path`; returns the step.

        Raises:
            DamagedCheckpointError: `path` is damaged.
            UserError: it is of another network.
        """
        return self._restore(path, network_only=True)

    def _restore(self, path: str, *, network_only: bool = False) -> int:
        where = f"--model_dir={self._directory}: {os.path.basename(path)}"
        fix = "an earlier one is used if there is one; or use another --model_dir"
        check_same_network(path, where, self._task.model, fix=fix)
        with reading_checkpoint(where, fix):
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # A damaged one must leave the variables as they are.
            try:
                if network_only:
                    self._network.read(path).assert_existing_objects_matched().expect_partial()
                else:
                    self._checkpoint.restore(path).assert_existing_objects_matched()
            except AssertionError as error:
                raise UserError(
                    f"{where} does not fit this run ({first_line(error)}); "
                    "use the --optimizer and --memory_size it was written with, or another --model_dir."
                ) from error
        self._latest = path
        return int(self._task.optimizer.iterations.numpy())


def wait_for_checkpoint(directory: str, previous: str | None, *, timeout: float) -> str | None:
    """Returns the newest checkpoint of a directory as soon as it is another one than `previous`.

    Args:
        directory: of a run.
        previous: path of the newest checkpoint so far; None if there was none.
        timeout: seconds after which it returns None; 0 for no limit.
    """
    start = time.monotonic()
    while (path := finished_checkpoint(directory)) in (None, previous):
        if timeout and time.monotonic() - start >= timeout:
            return None
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return path


def _is_finite(variable: tf.Variable) -> bool:
    return not variable.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(variable)))
