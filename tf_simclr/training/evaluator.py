"""Evaluation of a run: its network on held-out images, once or for each new checkpoint."""

import contextlib
import functools
import logging
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.augment import EvalView
from tf_simclr.config import ExperimentConfig, UserError, check
from tf_simclr.data import BatchPlan, Source, check_bad_images, eval_dataset, load_eval_source, match_classes
from tf_simclr.distribution.collectives import is_chief
from tf_simclr.files import counted
from tf_simclr.metrics.confusion import count_confusions
from tf_simclr.runs.checkpoint import Checkpoints, wait_for_checkpoint
from tf_simclr.runs.checkpoint_list import finished_checkpoint
from tf_simclr.runs.data import read_run_data
from tf_simclr.runs.results import ResultFiles
from tf_simclr.tasks.base import Task
from tf_simclr.terminal.memory import reporting_lack_of_memory
from tf_simclr.terminal.progress import Progress, duration
from tf_simclr.training.actions import write_eval_scalars
from tf_simclr.training.begun_data import BegunData
from tf_simclr.training.evaluation_loop import Evaluation, evaluate, make_eval_function
from tf_simclr.training.loop_plan import make_plan

_LOG = logging.getLogger("tf_simclr")


class Evaluator:
    """Evaluates the network of a task on held-out images and writes what comes out.

    Args:
        config: of the run.
        strategy: that the task was made under.
        task: whose classifier is evaluated.
        source: images to evaluate on, whose labels are numbers of the network's classes; None if there are none.
        results: files of the run.

    Attributes:
        source: see above.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        strategy: tf.distribute.Strategy,
        task: Task,
        source: Source | None,
        results: ResultFiles,
    ):
        self._config = config
        self._strategy = strategy
        self._task = task
        self.source = source
        self._results = results
        self._run = make_eval_function(task, strategy)

    @property
    def why_not(self) -> str | None:
        """Reason why nothing can be evaluated; None if it can."""
        if self._task.model.supervised_head is None:
            return "there is no linear probe"
        if self.source is None:
            data = self._config.data
            used = f" besides --train_split={data.train_split}" if data.train_split else ""
            return f"{data.dataset} has no validation or test split{used}"
        if self.source.num_classes is None:
            return f"{self.source.name} has no labels"
        return None

    def evaluate(self) -> dict[str, Any]:
        """Returns the step and the size of the network, and its scores if there is something to evaluate."""
        result: dict[str, Any] = {
            "global_step": int(self._task.optimizer.iterations.numpy()),
            "num_weights": self._task.model.num_used_weights,
        }
        directory = str(self._config.model_dir)
        if self.source is not None and self.why_not is None:
            result |= self._scores(self.source)
            if is_chief(self._strategy):
                write_eval_scalars(directory, result, result["global_step"])
        elif self._config.train.is_contrastive:
            _LOG.info("Features are measured by --mode=linear_eval or knn_eval, --checkpoint=%s.", directory)
        return result

    def check_can_follow(self) -> None:
        """Raises UserError if the checkpoints of a run cannot be evaluated while they are written."""
        if isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise UserError("--mode=eval: is the work of one process; leave --strategy=multi_worker and TF_CONFIG out.")
        if self.why_not is not None:
            raise UserError(
                f"--mode=eval: nothing to evaluate, because {self.why_not}; "
                "use a data set with labels and an --eval_split, and for pretraining "
                "--lineareval_while_pretraining=True and all labels."
            )
        self._results.check_keeps_result()

    def evaluate_each_checkpoint(self, begun: BegunData, planned_steps: int) -> dict[str, Any]:
        """Evaluates the newest checkpoint of `model_dir` each time there is a new one, until the last.

        Args:
            begun: the data of the run.
            planned_steps: the last step of the run, if it does not begin with other images after this evaluation.

        Raises:
            UserError: the run is another one than this evaluation assumed, or its next checkpoint does not come in
                time.
        """
        checkpoints = Checkpoints(str(self._config.model_dir), self._task)
        path, step, total_steps = None, 0, planned_steps
        while True:
            path = self._next_checkpoint(path, step, total_steps)
            begun.check_begun_since(self.source)
            try:
                step = checkpoints.restore_network(path)
            except UserError:
                if tf.io.gfile.exists(f"{path}.index"):
                    raise
                continue  # The training run has deleted it meanwhile, and written a newer one.
            result = self.evaluate()
            self.write(result)
            total_steps = total_steps_of_run(self._config, planned_steps)
            if step >= total_steps:
                return result

    def write(self, result: dict[str, Any]) -> None:
        """Writes a result into its files and tells the user."""
        if is_chief(self._strategy):
            self._results.write(result)
        _LOG.info("Result: %s", self._results.describe(result))

    def _next_checkpoint(self, previous: str | None, step: int, total_steps: int) -> str:
        """Waits for another checkpoint than `previous`, which is of `step`."""
        directory, timeout = str(self._config.model_dir), self._config.evaluation.eval_timeout
        if finished_checkpoint(directory) in (None, previous):
            what = f"a checkpoint after step {step} of {total_steps}" if step else "the first checkpoint"
            limit = f", at most {duration(timeout)} (--eval_timeout)" if timeout else ""
            there = "" if tf.io.gfile.isdir(directory) else ", which does not exist yet"
            _LOG.info("Waiting for %s in %s%s%s.", what, directory, there, limit)
        path = wait_for_checkpoint(directory, previous, timeout=timeout)
        if path is None:
            last = f"after step {step} of {total_steps} " if step else ""
            raise UserError(
                f"--eval_timeout={timeout}: no checkpoint {last}has come to {directory} in so many seconds; see "
                "whether its training runs, or wait longer."
            )
        return path

    @functools.cached_property
    def _batches(self) -> tf.distribute.DistributedDataset:
        """Made once: TensorFlow keeps the graphs of every data set that was ever made."""
        source, view = self.source, EvalView(image_size=self._config.model.image_size)
        batch_size, num_replicas = self._config.evaluation.eval_batch_size, self._strategy.num_replicas_in_sync
        if source is None:
            raise RuntimeError("There are no images to evaluate on.")
        return self._strategy.distribute_datasets_from_function(
            lambda context: eval_dataset(source, view, plan=BatchPlan.shared(batch_size, num_replicas, context))
        )

    def _scores(self, source: Source) -> dict[str, Any]:
        evaluation = self._evaluation(source)
        result = evaluation.scores
        num_bad = result["eval/num_bad_images"] = result["eval/num_bad_images"] + source.num_left_out
        if num_bad:
            _LOG.info("Skipped %s of %s.", counted(num_bad, "unreadable image"), source.name)
        check_bad_images(
            source,
            num_bad=num_bad,
            num_seen=num_bad + result["eval/num_examples"],
            max_fraction=self._config.data.max_bad_image_fraction,
        )
        confusion = count_confusions(evaluation.predictions, evaluation.labels, source.class_names or ())
        if confusion is not None and is_chief(self._strategy):
            self._results.write_confusion(confusion)
        return result

    def _evaluation(self, source: Source) -> Evaluation:
        settings = self._config.evaluation
        batch_size, num_steps = settings.eval_batch_size, settings.eval_steps
        num_images = min(source.num_examples, num_steps * batch_size or source.num_examples)
        with (
            contextlib.closing(Progress(0, num_images, "evaluating", keep=False)) as progress,
            reporting_lack_of_memory(f"--eval_batch_size={batch_size}", "use a smaller one"),
        ):
            return evaluate(self._run, self._batches, num_steps=num_steps, report=progress.update)


def total_steps_of_run(config: ExperimentConfig, planned: int) -> int:
    """Returns the last step of the run in `model_dir`; `planned` if it does not remember its images."""
    data = read_run_data(str(config.model_dir))
    known = data and data.num_images
    return make_plan(config, known).total_steps if known else planned


def open_held_out(config: ExperimentConfig, num_replicas: int) -> Source | None:
    """Opens the images to evaluate on; None if the mode or the data has none.

    Raises:
        UserError: the split is missing, or the replicas cannot share a batch of `--eval_batch_size`.
    """
    source = None if config.mode == "train" else load_eval_source(config.data)
    if source is not None:
        BatchPlan.shared(config.evaluation.eval_batch_size, num_replicas).check("eval_batch_size")
    return source


def numbered_as_network(source: Source, class_names: Sequence[str] | None) -> Source:
    """Returns `source` with labels that are the network's numbers of its classes.

    Args:
        source: images to evaluate on.
        class_names: of the network; None if they are not known.

    Raises:
        UserError: `source` has a class that the network does not know.
    """
    fix = "use splits with the same classes, or with some of them"
    return match_classes(source, class_names, flag="eval_split", whose="the network", fix=fix)


def check_num_classes(config: ExperimentConfig, source: Source, num_classes: int) -> None:
    """Raises UserError unless the images to evaluate on have as many classes as the network."""
    check(
        source.num_classes == num_classes,
        "eval_split",
        config.data.eval_split,
        f"{source.name} has {source.num_classes} classes, the network has {num_classes}; use a split "
        "with the same classes.",
    )
