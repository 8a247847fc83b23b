"""Actions besides training: progress, TensorBoard, a watch on unreadable images, traces of the profiler."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tqdm.std import EMA

from tf_simclr.data import Source, check_bad_images, format_hint
from tf_simclr.files import between, counted, find_json, first_line, write_json
from tf_simclr.terminal.progress import bar, duration
from tf_simclr.training.loop import Action, LoopEvent

_BAD_IMAGES_FILE = "bad_images.json"
_BAR = "{percentage:3.0f}%|{bar:6}| {n_fmt}/{total_fmt}{postfix}"
_LOG = logging.getLogger("tf_simclr")
Schedule = Callable[[int], Any]


class HeldActions:
    """Calls actions, in order, with each event as it comes, but with the last one only after the evaluation."""

    def __init__(self, actions: Sequence[Action]):
        self._actions = actions
        self._last: LoopEvent | None = None

    def check(self, total_steps: int) -> None:
        """Calls `check(total_steps)` of each action that has one: it may fail before training instead of after it."""
        for action in self._actions:
            getattr(action, "check", lambda total_steps: None)(total_steps)

    def __call__(self, event: LoopEvent) -> None:
        """Passes `event` on, or holds it."""
        if event.is_last:
            self._last = event
        else:
            self._call(event)

    def release(self, result: Mapping[str, Any]) -> None:
        """Gives the last event, if there was one, with the `result` of the run."""
        if self._last is not None:
            self._call(dataclasses.replace(self._last, result=result))

    def _call(self, event: LoopEvent) -> None:
        for action in self._actions:
            action(event)


class ProgressReporter:
    """Shows a bar on a terminal, and lines of the log elsewhere; close it at the end.

    Args:
        schedule: learning rate of a step.
        chance_loss: the contrastive loss of a network that knows nothing; None if there is none.
        later_work: work of the stages after this one, as a multiple of this one.
    """

    def __init__(self, schedule: Schedule, chance_loss: float | None = None, *, later_work: float = 0.0):
        self._schedule = schedule
        self._chance = chance_loss
        self._later_work = later_work
        self._seconds_per_step = EMA(smoothing=0.1)
        self._bar = bar("compiling the training step ...", bar_format="{desc}")

    def __call__(self, event: LoopEvent) -> None:
        """Reports `event`."""
        if not event.metrics:
            return
        if event.seconds:  # A call that compiled has none.
            self._seconds_per_step(event.seconds / event.num_steps)
        step, total = event.step, event.plan.total_steps
        speed = f"{event.images_per_second:.0f} images/s" if event.images_per_second else "compiled"
        metrics, left = self._metrics(event), self._time_left(event)
        if self._bar.disable:
            _LOG.info("step %d/%d | %s", step, total, " | ".join([speed, *metrics, *left]))
            return
        self._bar.total, self._bar.n, self._bar.bar_format = total, step, _BAR
        self._bar.set_postfix_str(" | ".join([*left, *metrics, speed]))
        if event.is_last:
            self.close()

    def _metrics(self, event: LoopEvent) -> list[str]:
        metrics = event.metrics
        if "contrast_loss" in metrics:
            texts = [f"loss {metrics['contrast_loss']:.3f}", f"acc {metrics['contrast_acc']:.1%}"]
        elif "distill_loss" in metrics:
            texts = [f"loss {metrics['distill_loss']:.3f}", f"as the teacher {metrics['teacher_agreement']:.1%}"]
        else:
            texts = [f"loss {metrics['total_loss']:.3f}"]
        if "supervised_acc" in metrics:
            what = "probe acc" if "contrast_loss" in metrics else "acc"
            texts.append(f"{what} {metrics['supervised_acc']:.1%}")
        if num_bad := round(metrics.get("bad_images", 0) * event.num_steps):
            texts.append(f"{num_bad} unreadable")
        # Late, because a narrow terminal cuts the line. It rises while a memory fills.
        if "contrast_loss" in metrics and (level := metrics.get("contrast_chance", self._chance)):
            texts.append(f"chance {level:.2f}")
        return [*texts, f"lr {float(self._schedule(event.step)):.3g}"]

    def _time_left(self, event: LoopEvent) -> list[str]:
        pace, total = self._seconds_per_step(), event.plan.total_steps
        steps = total - event.step
        texts = [f"{duration(steps * pace if pace or not steps else None)} left"]
        if self._later_work:
            texts.append(f"all stages {duration((steps + total * self._later_work) * pace if pace else None)}")
        return texts

    def close(self) -> None:
        """Leaves the bar: the next output starts on a line of its own."""
        self._bar.close()


class TensorBoardWriter:
    """Writes scalars, and the views of the first batch as a picture; nothing more once the disk is full.

    Args:
        directory: of the event files.
        schedule: learning rate of a step.
        example_views: returns `[n, views, S, S, 3]` in [0, 1]; called once, at the first event.
        totals: returns counts since the run began, by name; called at each event.
    """

    def __init__(
        self,
        directory: str,
        schedule: Schedule,
        example_views: Callable[[], tf.Tensor],
        totals: Callable[[], Mapping[str, int]] = dict,
    ):
        self._directory = directory
        self._writer: tf.summary.SummaryWriter | None = None
        self._schedule = schedule
        self._example_views = example_views
        self._totals = totals
        self._is_over = False

    def __call__(self, event: LoopEvent) -> None:
        """Writes the metrics of `event`."""
        if not event.metrics or self._is_over:
            return
        views = self._example_views() if self._writer is None else None
        self._is_over = True
        with _events_are_optional(self._directory):
            self._write(event, views)
            self._is_over = False

    def _write(self, event: LoopEvent, views: tf.Tensor | None) -> None:
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._directory)
        with self._writer.as_default(step=event.step):
            if views is not None:  # An image a column, a view a row.
                rows = tf.concat(tf.unstack(tf.concat(tf.unstack(views, axis=1), axis=1)), axis=1)
                tf.summary.image("train/views", rows[tf.newaxis])
            scalars = {f"train/{name}": value for name, value in event.metrics.items()} | dict(self._totals())
            scalars["train/learning_rate"] = float(self._schedule(event.step))
            if event.images_per_second:
                scalars["train/images_per_second"] = event.images_per_second
            _write_scalars(scalars)
        if event.checkpoint:
            self._writer.flush()


def write_eval_scalars(directory: str, results: dict[str, float], step: int) -> None:
    """Writes evaluation results as TensorBoard scalars."""
    with _events_are_optional(directory):
        writer = tf.summary.create_file_writer(directory)
        with writer.as_default(step=step):
            _write_scalars(results)
        writer.close()


def _write_scalars(scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
        tf.summary.scalar(name, value)


@contextlib.contextmanager
def _events_are_optional(directory: str) -> Iterator[None]:
    """Reports files of TensorBoard that cannot be written, and goes on."""
    try:
        yield
    except tf.errors.OpError as error:
        _LOG.warning("%s: no more files for TensorBoard (%s); the run goes on.", directory, first_line(error))


class BadImageWatch:
    """Stops the run if too many images are unreadable, and reports the others once.

    A resumed run goes on counting: a file keeps the counts up to each checkpoint, unless they are zero.

    Args:
        source: of the images.
        max_fraction: tolerated share.
        directory: `model_dir`.
        writes: True in the process of the run that writes files.
    """

    def __init__(self, source: Source, max_fraction: float, directory: str, *, writes: bool = True):
        self._source = source
        self._max_fraction = max_fraction
        self._path = os.path.join(directory, _BAD_IMAGES_FILE)
        self._writes = writes
        self._saved: dict[int, tuple[int, int]] | None = None
        self._step = 0
        self._bad = 0
        self._seen = 0

    @property
    def num_bad_images(self) -> int:
        """Unreadable images met in training so far; those that were left out from the start count once."""
        return self._bad + self._source.num_left_out

    def __call__(self, event: LoopEvent) -> None:
        """Counts the images of `event`.

        Raises:
            UserError: more than `max_fraction` of the images seen are unreadable.
        """
        start = event.step - event.num_steps
        if self._saved is None or start < self._step:  # The first call, or the run went back to a checkpoint.
            counts = _read_counts(self._path) if self._saved is None else self._saved
            self._saved = {step: pair for step, pair in counts.items() if step <= start}
            self._bad, self._seen = self._saved.get(start, (0, start * event.plan.global_batch_size))
        self._step = event.step
        if event.metrics:
            self._bad += round(event.metrics["bad_images"] * event.num_steps)
            self._seen += event.num_steps * event.plan.global_batch_size
            if event.checkpoint and self._bad and self._writes:
                self._saved[event.step] = (self._bad, self._seen)
                with contextlib.suppress(tf.errors.OpError, OSError):  # No reason to stop.
                    write_json(self._path, self._saved)
            check_bad_images(self._source, num_bad=self._bad, num_seen=self._seen, max_fraction=self._max_fraction)
        names = self._source.bad_image_names()
        if event.is_last and names:
            _LOG.info("Skipped %s: %s", counted(len(names), "unreadable image"), ", ".join(names[:10]))
            if hint := format_hint(names):
                _LOG.info("%s.", hint.removesuffix("; "))
        elif event.is_last and self._bad:  # They were read in other processes.
            _LOG.info("Skipped unreadable images %s.", counted(self._bad, "time"))


def _read_counts(path: str) -> dict[int, tuple[int, int]]:
    """Returns (unreadable, all) images up to each checkpoint, by its step; {} if the file has no such counts."""
    counts = find_json(path, {str: [between(0, 2**53)]}) or {}
    try:
        return {int(step): (num_bad, num_seen) for step, (num_bad, num_seen) in counts.items()}
    except ValueError:
        return {}


class StepProfiler:
    """Lets TensorFlow's profiler write a trace of some steps, for the profile page of TensorBoard.

    The plan of the run has to stop before the first and after the last of them. A run that is resumed between
    the two is traced from its next stop on. Closing it writes the trace, also after an error.

    Args:
        directory: whose `plugins/profile` the trace goes to.
        first: first step.
        last: last step.
    """

    def __init__(self, directory: str, first: int, last: int):
        self._directory = directory
        self._first, self._last = first, last
        self._is_tracing = False
        self._is_done = False

    def __call__(self, event: LoopEvent) -> None:
        """Starts or stops the profiler if `event` is at that step."""
        if self._is_tracing and event.step >= self._last:
            self.close()
        elif not self._is_tracing and not self._is_done and self._first - 1 <= event.step < self._last:
            tf.profiler.experimental.start(self._directory)
            self._is_tracing = True

    def close(self) -> None:
        """Stops the profiler if it runs."""
        if self._is_tracing:
            self._is_tracing, self._is_done = False, True
            tf.profiler.experimental.stop()
            _LOG.info("Profile: tensorboard --logdir=%s", self._directory)
