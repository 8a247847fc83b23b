"""One run: from a configuration to a trained, evaluated network."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, PreemptedError
from tf_simclr.data import BatchPlan, Source, check_service, data_lines, step_views
from tf_simclr.distribution.collectives import gather_from_workers, is_chief, wait_for_all
from tf_simclr.distribution.preemption import PreemptionWatch
from tf_simclr.distribution.strategies import is_augmented_on_device, is_step_compiled, make_strategy
from tf_simclr.files import counted
from tf_simclr.runs.checkpoint import Checkpoints
from tf_simclr.runs.checkpoint_list import checkpoint_step, latest_checkpoint
from tf_simclr.runs.directory import claim_directory, owning_directory
from tf_simclr.runs.results import NUM_BAD_IMAGES, ResultFiles
from tf_simclr.tasks.base import Task
from tf_simclr.terminal.entry import entry_point
from tf_simclr.terminal.memory import device_memory, reporting_lack_of_memory
from tf_simclr.training.actions import BadImageWatch, HeldActions, ProgressReporter, StepProfiler, TensorBoardWriter
from tf_simclr.training.assembly import assemble
from tf_simclr.training.batches import training_batches, training_view
from tf_simclr.training.begun_data import BegunData, read_begun
from tf_simclr.training.evaluator import Evaluator, check_num_classes, numbered_as_network, open_held_out
from tf_simclr.training.loop import Action, make_train_function, train
from tf_simclr.training.loop_plan import chance_loss, long_warmup, make_plan, make_schedule
from tf_simclr.training.memory_estimate import check_need, evaluation_need, training_need, what_helps
from tf_simclr.training.workers import all_agree, check_same_start, reporting_lost_workers

_LOG = logging.getLogger("tf_simclr")
_NUM_EXAMPLE_VIEWS = 8
_NUM_LABELS = "train/num_labels"


@entry_point
def train_and_evaluate(config: ExperimentConfig, actions: Sequence[Action] = ()) -> dict[str, Any]:
    """Trains, evaluates, or both, as `config.mode` says; goes on where an earlier start was stopped.

    Args:
        config: of the run.
        actions: called with a `LoopEvent` while training, after those for progress and TensorBoard, and
            with the last one, which has the `result`, after the evaluation; exporting is one. Before
            training, those that have a method `check` are called with the number of the last step.

    Returns:
        The content of `result.json`: `global_step` and, if it was evaluated,
        `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`, ...

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    config.check_inputs()
    run = Experiment(config)
    run.check_memory()
    if config.mode == "eval":
        return run.evaluate_each_checkpoint()
    return run.train(actions)


class Experiment:
    """A configuration with its data, devices and task; the driver of a run.

    Args:
        config: of the run.
        strategy: to train with; None for the one that the configuration names.

    Attributes:
        config: of the run.
        strategy: to train with.
        plan: steps of the run.
        schedule: learning rate of every step.
        eval_source: images to evaluate on; None if there are none.

    Raises:
        UserError: the directory holds another run, or data, devices or sizes do not fit.
    """

    def __init__(self, config: ExperimentConfig, strategy: tf.distribute.Strategy | None = None):
        begun = read_begun(config)  # Before any work on data and devices.
        self.config = config
        self.strategy = strategy or make_strategy(config.strategy, config.to_dict())
        self._is_chief = is_chief(self.strategy)
        self._num_replicas = self.strategy.num_replicas_in_sync
        self._jit_compile = is_step_compiled(config.train.jit_compile, self.strategy)
        self._on_device = is_augmented_on_device(config.augment.augment_on, config.train.jit_compile, self.strategy)
        self._assembly = assemble(config, self._num_replicas, begun)
        self._begun = BegunData(config, begun, self._assembly)
        self.eval_source = open_held_out(config, self._num_replicas)
        if self.eval_source is not None and self._assembly.num_classes is not None:
            self.eval_source = numbered_as_network(self.eval_source, self._begun.class_names)
        self.plan = make_plan(config, self._begun.num_images)
        self.schedule = make_schedule(config, self._begun.num_images, self.plan.total_steps)
        self._results = ResultFiles(config, self.eval_source.fingerprint() if self.eval_source else None)

    @property
    def train_source(self) -> Source:
        """The images to learn from. An evaluation of a run that remembers them opens none."""
        return self._assembly.source

    @functools.cached_property
    def task(self) -> Task:
        """The task with its network, made when it is first used.

        Raises:
            UserError: a teacher does not fit.
        """
        with self.strategy.scope():
            return self._assembly.make_task(self.schedule)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The evaluation of the network.

        Raises:
            UserError: the images to evaluate on have other classes than the network.
        """
        source, num_classes = self.eval_source, self.task.model.num_classes
        if source is not None and source.num_classes is not None and num_classes is not None:
            source = numbered_as_network(source, self._begun.class_names_of_network())
            check_num_classes(self.config, source, num_classes)
        return Evaluator(self.config, self.strategy, self.task, source, self._results)

    def check_memory(self) -> None:
        """Says what may not fit into memory, unless nothing is left to do.

        Raises:
            UserError: training or its evaluation needs more than twice the memory that is free.
        """
        config, sizes = self.config, (self._assembly.num_classes, self._num_replicas)
        here = device_memory(self.strategy.extended.worker_devices)
        # All workers go on, or none.
        available = int(gather_from_workers(self.strategy, [-1 if here is None else here]).min())
        if available < 0 or self._results.finished(self.plan.total_steps) is not None:
            return
        if config.mode != "eval":
            batch, need = config.train.train_batch_size, training_need(config, *sizes)
            check_need(need, available, flag="train_batch_size", value=batch, fix=what_helps(config))
        if self.eval_source is not None:
            batch, need = config.evaluation.eval_batch_size, evaluation_need(config, *sizes)
            check_need(need, available, flag="eval_batch_size", value=batch, fix="use a smaller one")

    def evaluate_each_checkpoint(self) -> dict[str, Any]:
        """Evaluates the newest checkpoint of `model_dir` each time there is a new one, until the last.

        Raises:
            UserError: there is nothing to evaluate, or the next checkpoint does not come in time.
        """
        evaluator = self.evaluator
        evaluator.check_can_follow()
        self._announce_data(evaluator)
        return evaluator.evaluate_each_checkpoint(self._begun, self.plan.total_steps)

    def train(self, actions: Sequence[Action], *, later_work: float = 0.0) -> dict[str, Any]:
        """Trains to the last step, then evaluates if the mode asks for it; see `train_and_evaluate`.

        Args:
            actions: see `train_and_evaluate`.
            later_work: work of the stages after this run, as a multiple of this run, for the time that is left.
        """
        config, total_steps = self.config, self.plan.total_steps
        batch = f"--train_batch_size={config.train.train_batch_size}"
        with reporting_lost_workers(config, self.strategy), reporting_lack_of_memory(batch, what_helps(config)):
            finished = self._results.finished(total_steps) if config.mode == "train_then_eval" else None
            if all_agree(self.strategy, finished is not None) and finished is not None:
                self._begun.check(total_steps, total_steps=total_steps)
                _LOG.info("Already finished: %s", self._results.describe(finished))
                return finished
            try:
                with owning_directory(str(config.model_dir), owns=self._is_chief):
                    wait_for_all(self.strategy)  # None looks for checkpoints while the chief repairs their list.
                    return self._train(HeldActions(actions), later_work)
            except PreemptedError:
                wait_for_all(self.strategy)  # None ends while the chief still writes the checkpoint.
                raise

    def _train(self, actions: HeldActions, later_work: float) -> dict[str, Any]:
        config = self.config
        checkpoints = self._restore(actions)
        watch = BadImageWatch(
            self.train_source, config.data.max_bad_image_fraction, str(config.model_dir), writes=self._is_chief
        )
        with contextlib.ExitStack() as stack:
            train(
                self.task,
                self._train_batches,
                run=make_train_function(
                    self.task,
                    self.strategy,
                    jit_compile=self._jit_compile,
                    prepare=step_views(self.train_source, training_view(config, on_device=self._on_device)),
                ),
                checkpoints=checkpoints,
                plan=self.plan,
                watch=stack.enter_context(PreemptionWatch(self.strategy, config.train.preemption_grace)),
                actions=(*self._actions(stack, watch, later_work), *([actions] if self._is_chief else [])),
            )
        if config.mode == "train":
            result = {"global_step": int(self.task.optimizer.iterations.numpy())}
        else:
            counts = {NUM_BAD_IMAGES: watch.num_bad_images, _NUM_LABELS: self._assembly.num_labels}
            result = self.evaluator.evaluate() | counts
            if self._is_chief:
                self._results.write_step(result)
        actions.release(result)
        # Only now is the run finished: the next start would not repeat an action that failed.
        if config.mode != "train":
            self.evaluator.write(result)
        wait_for_all(self.strategy)  # None reads what the chief has not yet written.
        return result

    def _restore(self, actions: HeldActions) -> Checkpoints:
        """Checks all that is known only now that this process owns the directory; restores the newest checkpoint."""
        config, total_steps = self.config, self.plan.total_steps
        newest_step = checkpoint_step(latest_checkpoint(str(config.model_dir)))
        self._begun.check(newest_step, total_steps=total_steps)
        actions.check(total_steps)
        if config.data.data_service:
            check_service(config.data.data_service)
        checkpoints = Checkpoints(
            str(config.model_dir), self.task, keep=config.train.keep_checkpoint_max, writes=self._is_chief
        )
        step = checkpoints.restore()
        check_same_start(config, self.strategy, step, self.train_source.fingerprint())
        if step < newest_step:  # Which is damaged.
            self._begun.check(step, total_steps=total_steps)
        evaluator = self.evaluator  # Before the directory is made: what does not fit must leave nothing behind.
        if config.train.checkpoint and not step:
            _LOG.info(self._assembly.initialize(self.task.model))
        if self._is_chief:
            claim_directory(config, self._begun.to_remember(self.task.model.num_classes))
        self._announce(step, evaluator)
        return checkpoints

    def _train_batches(self, first_step: int) -> Iterator[Any]:
        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return self._train_dataset(first_step, context, use_service=True, on_device=self._on_device)

        return iter(self.strategy.distribute_datasets_from_function(make))

    def _train_dataset(
        self, first_step: int, context: tf.distribute.InputContext | None = None, **options: Any
    ) -> tf.data.Dataset:
        rows = BatchPlan.shared(self.plan.global_batch_size, self._num_replicas, context)
        num_views = self.task.num_views
        return training_batches(
            self.config, self._assembly, rows, num_views=num_views, first_step=first_step, **options
        )

    def _example_views(self) -> tf.Tensor:
        batch = next(iter(self._train_dataset(0)))
        return tf.stack([view[:_NUM_EXAMPLE_VIEWS] for view in batch["views"]], axis=1)

    def _actions(self, stack: contextlib.ExitStack, watch: BadImageWatch, later_work: float) -> tuple[Action, ...]:
        if not self._is_chief:
            return (watch,)
        config, directory = self.config, str(self.config.model_dir)
        progress = ProgressReporter(self.schedule, chance_loss(config), later_work=later_work)
        stack.enter_context(contextlib.closing(progress))
        board = TensorBoardWriter(
            directory, self.schedule, self._example_views, lambda: {NUM_BAD_IMAGES: watch.num_bad_images}
        )
        if config.train.profile_range is None:
            return (progress, watch, board)
        profiler = StepProfiler(directory, *config.train.profile_range)
        stack.enter_context(contextlib.closing(profiler))
        return (progress, watch, board, profiler)

    def _announce_data(self, evaluator: Evaluator) -> None:
        why_not = evaluator.why_not if self.config.mode != "train" else None
        for line in data_lines(self._assembly.images, evaluator.source, why_not=why_not):
            _LOG.info(line)

    def _announce(self, step: int, evaluator: Evaluator) -> None:
        """Tells the user how the run goes on: from `step`, with these data, network and devices."""
        config, plan = self.config, self.plan
        if step:
            _LOG.info("Going on from step %d of %d.", step, plan.total_steps)
        if config.data.data_service:
            _LOG.info(
                "Batches come from the data service at %s: each image once an epoch while no data worker fails, "
                "in no fixed order, so that this run cannot be repeated exactly.",
                config.data.data_service,
            )
        for note in self._assembly.notes:
            _LOG.info(note)
        self._announce_data(evaluator)
        _LOG.info(
            "%s on %s: %s, %s of %d; %s (%.2f M weights) on %s (%s%s); in %s",
            config.train.train_mode,
            self.train_source.name,
            counted(self.train_source.num_examples, "image"),
            counted(plan.total_steps, "step"),
            plan.global_batch_size,
            config.model.describe(),
            self.task.model.num_used_weights / 1e6,
            counted(self._num_replicas, "replica"),
            self.strategy.extended.worker_devices[0].rpartition("device:")[2] or "CPU",
            ", compiled by XLA" if self._jit_compile else "",
            config.model_dir,
        )
        if warmup := long_warmup(config, self.schedule):
            _LOG.info(warmup)
