"""One run: from a configuration to a trained, evaluated network."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.augment import EvalView
from tf_simclr.config import ExperimentConfig, PreemptedError, UserError, check
from tf_simclr.data import (
    BatchPlan,
    Source,
    TrainingSource,
    check_bad_images,
    check_service,
    data_lines,
    eval_dataset,
    load_eval_source,
    match_classes,
    step_views,
)
from tf_simclr.distribution.collectives import gather_from_workers, is_chief, wait_for_all
from tf_simclr.distribution.preemption import PreemptionWatch
from tf_simclr.distribution.strategies import is_augmented_on_device, is_step_compiled, make_strategy
from tf_simclr.files import counted
from tf_simclr.metrics.confusion import count_confusions
from tf_simclr.runs.checkpoint import Checkpoints, wait_for_checkpoint
from tf_simclr.runs.checkpoint_list import checkpoint_step, finished_checkpoint, latest_checkpoint
from tf_simclr.runs.data import RunData, describe_change, read_class_names, read_run_data
from tf_simclr.runs.directory import check_directory, claim_directory, owning_directory
from tf_simclr.runs.results import NUM_BAD_IMAGES, ResultFiles
from tf_simclr.tasks.base import Task
from tf_simclr.terminal.entry import entry_point
from tf_simclr.terminal.memory import device_memory, reporting_lack_of_memory
from tf_simclr.terminal.progress import Progress, duration
from tf_simclr.training import actions as standard_actions
from tf_simclr.training.assembly import make_ingredients, training_batches, training_view
from tf_simclr.training.evaluation_loop import evaluate, make_eval_function
from tf_simclr.training.loop import Action, make_train_function, train
from tf_simclr.training.loop_plan import chance_loss, long_warmup, make_plan, make_schedule
from tf_simclr.training.memory_estimate import check_need, evaluation_need, training_need, what_helps
from tf_simclr.training.teacher import network_class_names

_LOG = logging.getLogger("tf_simclr")
_NUM_EXAMPLE_VIEWS = 8
_NUM_LABELS = "train/num_labels"
# What TensorFlow raises at the workers that are left, by the moment at which another was lost.
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


@entry_point
def train_and_evaluate(config: ExperimentConfig, actions: Sequence[Action] = ()) -> dict[str, Any]:
    """Trains, evaluates, or both, as `config.mode` says; goes on where an earlier start was stopped.

    Args:
        config: of the run.
        actions: called with a `LoopEvent` while training, after those for progress and TensorBoard, and
            with the last one, which has the `result`, after the evaluation; exporting is one. Before
            training, those that have a method `check` are called with the number of the last step.

    Returns:
        What stands in `result.json`: `global_step` and, where it was evaluated,
        `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`, ...

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    config.check_inputs()
    check_directory(config)  # Before any work on data and devices.
    run = Experiment(config)
    run.check_memory()
    if config.mode == "eval":
        return run.evaluate_each_checkpoint()
    return run.train(actions)


class Experiment:
    """A configuration with its data, strategy and task.

    Args:
        config: of the run.
        strategy: to train with; None for the one that the configuration names.

    Raises:
        UserError: data, devices or sizes do not fit.
    """

    def __init__(self, config: ExperimentConfig, strategy: tf.distribute.Strategy | None = None):
        self.config = config
        self.strategy = strategy or make_strategy(config.strategy, config.to_dict())
        self._is_chief = is_chief(self.strategy)
        self._num_replicas = self.strategy.num_replicas_in_sync
        self._jit_compile = is_step_compiled(config.train.jit_compile, self.strategy)
        self._on_device = is_augmented_on_device(config.augment.augment_on, config.train.jit_compile, self.strategy)
        self._begun_with = self._read_begun_with()
        self._ingredients = make_ingredients(config, self._num_replicas, self._begun_with)
        self._check_same_classes()
        self.eval_source = self._load_eval_source()
        # Steps and learning rates stay those that the run began with.
        begun_with = self._begun_with and self._begun_with.num_images
        num_images = begun_with or self.train_source.num_examples
        self.plan = make_plan(config, num_images)
        self._eval_batches: tf.distribute.DistributedDataset | None = None
        self._results = ResultFiles(config, self.eval_source.fingerprint() if self.eval_source else None)
        self.schedule = make_schedule(config, num_images, self.plan.total_steps)

    @property
    def train_source(self) -> TrainingSource:
        """The images to learn from, which an evaluation of a run that remembers them does without."""
        return self._ingredients.source

    @functools.cached_property
    def task(self) -> Task:
        """The task with its network, made when it is first used.

        Raises:
            UserError: a teacher does not fit.
        """
        with self.strategy.scope():
            return self._ingredients.make_task(self.schedule)

    @functools.cached_property
    def _evaluate_batch(self):
        return make_eval_function(self.task, self.strategy)

    def check_memory(self) -> None:
        """Says what may not fit into memory, unless nothing is left to do.

        Raises:
            UserError: training or its evaluation needs more than twice of the memory that is free.
        """
        config, num_classes = self.config, self._ingredients.num_classes
        here = device_memory(self.strategy.extended.worker_devices)
        # All workers go on, or none.
        available = int(gather_from_workers(self.strategy, [-1 if here is None else here]).min())
        if available < 0 or self._results.finished(self.plan.total_steps) is not None:
            return
        if config.mode != "eval":
            check_need(
                training_need(config, num_classes, self._num_replicas),
                available,
                flag="train_batch_size",
                value=config.train.train_batch_size,
                fix=what_helps(config),
            )
        if self.eval_source is not None:
            check_need(
                evaluation_need(config, num_classes, self._num_replicas),
                available,
                flag="eval_batch_size",
                value=config.evaluation.eval_batch_size,
                fix="use a smaller one",
            )

    def train(self, actions: Sequence[Action], *, later_work: float = 0.0) -> dict[str, Any]:
        """Trains to the last step, then evaluates if the mode asks for it; see `train_and_evaluate`.

        Args:
            actions: see `train_and_evaluate`.
            later_work: of the stages after this run, as a multiple of this run, for the time that is left.
        """
        batch = f"--train_batch_size={self.config.train.train_batch_size}"
        with self._report_lost_workers(), reporting_lack_of_memory(batch, what_helps(self.config)):
            try:
                return self._train(actions, later_work)
            except PreemptedError:
                wait_for_all(self.strategy)  # None ends while the chief still writes the checkpoint.
                raise

    def _train(self, actions: Sequence[Action], later_work: float) -> dict[str, Any]:
        config = self.config
        self._look_again()
        finished = self._results.finished(self.plan.total_steps)
        if config.mode == "train_then_eval" and self._agree(finished is not None) and finished is not None:
            self._check_same_data(self.plan.total_steps)
            _LOG.info("Already finished: %s", self._results.describe(finished))
            return finished
        with owning_directory(str(config.model_dir), owns=self._is_chief):
            wait_for_all(self.strategy)  # None looks for checkpoints while the chief repairs their list.
            return self._train_to_the_end(actions, later_work)

    def _train_to_the_end(self, actions: Sequence[Action], later_work: float) -> dict[str, Any]:
        config = self.config
        self._look_again()  # Another process may have owned it until now.
        newest_step = checkpoint_step(latest_checkpoint(str(config.model_dir)))
        self._check_same_data(newest_step)
        held = standard_actions.HeldActions(actions)
        held.check(self.plan.total_steps)
        if config.data.data_service:
            _LOG.info(
                "Batches come from the data service at %s: each image once an epoch while no data worker fails, "
                "in no fixed order, so that this run cannot be repeated exactly.",
                config.data.data_service,
            )
            check_service(config.data.data_service)
        checkpoints = Checkpoints(
            str(config.model_dir), self.task, keep=config.train.keep_checkpoint_max, writes=self._is_chief
        )
        step = self._check_same_start(checkpoints.restore())
        if step < newest_step:  # Which is damaged.
            self._check_same_data(step)
        self._match_eval_source()
        # Before the directory is made: what does not fit must leave nothing behind.
        if config.train.checkpoint and not step:
            _LOG.info(self._ingredients.initialize(self.task.model))
        if self._is_chief:
            claim_directory(config, self._run_data())
        if step:
            _LOG.info("Going on from step %d of %d.", step, self.plan.total_steps)
        self._announce()
        watch = self._bad_image_watch()
        with contextlib.ExitStack() as stack:
            train(
                self.task,
                self._train_batches,
                run=self._make_train_function(),
                checkpoints=checkpoints,
                plan=self.plan,
                watch=stack.enter_context(PreemptionWatch(self.strategy, config.train.preemption_grace)),
                actions=(*self._actions(stack, watch, later_work), *([held] if self._is_chief else [])),
            )
        result = {"global_step": int(self.task.optimizer.iterations.numpy())}
        if config.mode != "train":
            result = self._evaluate_all() | {
                NUM_BAD_IMAGES: watch.num_bad_images,
                _NUM_LABELS: self._ingredients.num_labels,
            }
            if self._is_chief:
                self._results.write_step(result)
        held.release(result)
        # Only now is the run finished, and starting it again is no use.
        if config.mode != "train":
            self._write(result)
        wait_for_all(self.strategy)  # None reads what the chief has not yet written.
        return result

    def _make_train_function(self) -> Callable:
        view = training_view(self.config, on_device=self._on_device)
        return make_train_function(
            self.task,
            self.strategy,
            jit_compile=self._jit_compile,
            prepare=step_views(self.train_source, view),
        )

    def _agree(self, value: bool) -> bool:
        """Returns whether `value` holds at all workers."""
        return bool(gather_from_workers(self.strategy, [float(value)]).all())

    def _read_begun_with(self) -> RunData | None:
        """Returns the data that the run in `model_dir` began with; None if it has not begun, or does not know it."""
        has_begun = bool(check_directory(self.config))
        return read_run_data(str(self.config.model_dir)) if has_begun else None

    def _look_again(self) -> None:
        """Raises UserError if another process has begun a run with other settings or images since this one looked."""
        begun_with = self._read_begun_with()
        if begun_with is None or begun_with == self._begun_with:
            return
        # The steps and the numbers of the classes were made for the images of now.
        change = describe_change(begun_with, self._data_now(self.train_source.class_names))
        if change:
            raise self._other_images(change)
        self._begun_with = begun_with

    def _check_same_data(self, step: int) -> None:
        """Raises UserError if training would go on from `step` with other images, in an order of their own."""
        is_trained = step >= self.plan.total_steps
        # The teacher of a finished run may be gone.
        names = self.train_source.class_names if is_trained else self._names_now()
        change = self._begun_with and describe_change(self._begun_with, self._data_now(names))
        if not change:
            return
        if not is_trained:
            raise self._other_images(change)
        _LOG.info(
            "The training images of %s have changed since (%s): to learn from those of now, use another --model_dir.",
            self.config.model_dir,
            change,
        )

    def _check_same_classes(self) -> None:
        """Raises UserError if the classes of the images are no longer those of the network."""
        begun_with, images = self._begun_with, self._ingredients.images
        if begun_with is None or images is None:
            return
        change = describe_change(RunData(begun_with.class_names), RunData(images.class_names))
        if change:
            raise self._other_images(change)

    def _other_images(self, change: str) -> UserError:
        return UserError(
            f"--model_dir={self.config.model_dir}: holds a run that began with other images ({change}); restore them "
            "to go on with it, or use another --model_dir."
        )

    def _data_now(self, class_names: tuple[str, ...] | None, num_classes: int | None = None) -> RunData:
        source = self.train_source
        return RunData(class_names, num_classes, source.num_examples, source.fingerprint())

    def _check_same_start(self, step: int) -> int:
        fingerprint = float(int(self.train_source.fingerprint()[:12], 16))
        steps, fingerprints = gather_from_workers(self.strategy, [step, fingerprint]).T
        if (fingerprints != fingerprint).any():
            raise UserError(
                f"--dataset={self.config.data.dataset}: the workers find different images there; give all of them the "
                "same."
            )
        if (steps != step).any():
            raise UserError(
                f"--model_dir={self.config.model_dir}: the workers find checkpoints of different steps there "
                f"({', '.join(f'{other:.0f}' for other in steps)}); use a directory that all of them share."
            )
        return step

    @contextlib.contextmanager
    def _report_lost_workers(self):
        try:
            yield
        except _LOST_WORKER as error:
            if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
                raise
            raise UserError(
                f"a worker no longer answers ({type(error).__name__}); start all workers again: they go on from "
                f"{latest_checkpoint(str(self.config.model_dir)) or 'the beginning'}."
            ) from error

    def evaluate_each_checkpoint(self) -> dict[str, Any]:
        """Evaluates the newest checkpoint of `model_dir` each time there is a new one, until the last.

        Raises:
            UserError: there is nothing to evaluate, or the next checkpoint does not come in time.
        """
        directory = str(self.config.model_dir)
        if isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise UserError("--mode=eval: is the work of one process; leave --strategy=multi_worker and TF_CONFIG out.")
        if not self._can_evaluate():
            raise UserError(
                f"--mode=eval: nothing to evaluate, as {self._why_not_evaluated()}; "
                "use a data set with labels and an --eval_split, and for pretraining "
                "--lineareval_while_pretraining=True and all labels."
            )
        self._results.check_keeps_result()
        self._match_eval_source()
        self._announce_data()
        checkpoints = Checkpoints(directory, self.task)
        path, step = None, 0
        while True:
            path = self._next_checkpoint(path, step)
            check_directory(self.config)
            self._check_classes_of_run()
            try:
                step = checkpoints.restore_network(path)
            except UserError:
                if tf.io.gfile.exists(f"{path}.index"):
                    raise
                continue  # The training run has deleted it meanwhile, and written a newer one.
            result = self._evaluate_all()
            self._write(result)
            if step >= self._total_steps_of_run():
                return result

    def _check_classes_of_run(self) -> None:
        """Raises UserError if the run began after this evaluation, with other classes than this one assumed."""
        names, source = read_class_names(str(self.config.model_dir)), self.eval_source
        if self._begun_with is None and names is not None and source is not None and source.class_names:
            check(
                tuple(names) == source.class_names,
                "model_dir",
                self.config.model_dir,
                "the run there began after this evaluation, with other classes; start the evaluation again.",
            )

    def _next_checkpoint(self, previous: str | None, step: int) -> str:
        """Waits for another checkpoint than `previous`, which is of `step`."""
        directory, timeout = str(self.config.model_dir), self.config.evaluation.eval_timeout
        if finished_checkpoint(directory) in (None, previous):
            what = f"a checkpoint after step {step} of {self._total_steps_of_run()}" if step else "the first checkpoint"
            limit = f", at most {duration(timeout)} (--eval_timeout)" if timeout else ""
            there = "" if tf.io.gfile.isdir(directory) else ", which does not exist yet"
            _LOG.info("Waiting for %s in %s%s%s.", what, directory, there, limit)
        path = wait_for_checkpoint(directory, previous, timeout=timeout)
        if path is None:
            last = f"after step {step} of {self._total_steps_of_run()} " if step else ""
            raise UserError(
                f"--eval_timeout={timeout}: no checkpoint {last}has come to {directory} in so many seconds; see "
                "whether its training runs, or wait longer."
            )
        return path

    def _total_steps_of_run(self) -> int:
        """Returns the last step of the run that trains in `model_dir`, which may have begun after this evaluation."""
        data = read_run_data(str(self.config.model_dir))
        known = data and data.num_images
        return make_plan(self.config, known).total_steps if known else self.plan.total_steps

    def _load_eval_source(self) -> Source | None:
        source = None if self.config.mode == "train" else load_eval_source(self.config.data)
        if source is not None:
            self._share(self.config.evaluation.eval_batch_size).check("eval_batch_size")
            if self._ingredients.num_classes is not None:
                source = self._match_classes(source, self._known_names())
        return source

    def _match_eval_source(self) -> None:
        """Gives the images to evaluate on labels that are numbers of the network's classes."""
        source, num_classes = self.eval_source, self.task.model.num_classes
        if source is None or source.num_classes is None or num_classes is None:
            return
        names = self._known_names()
        if names is None and self.config.mode != "eval":
            names = self._names_now()
        self.eval_source = source = self._match_classes(source, names)
        check(
            source.num_classes == num_classes,
            "eval_split",
            self.config.data.eval_split,
            f"{source.name} has {source.num_classes} classes, the network has {num_classes}; use a split "
            "with the same classes.",
        )

    def _match_classes(self, source: Source, class_names: Sequence[str] | None) -> Source:
        fix = "use splits with the same classes, or with some of them"
        return match_classes(source, class_names, flag="eval_split", whose="the network", fix=fix)

    def _can_evaluate(self) -> bool:
        return self._why_not_evaluated() is None

    def _why_not_evaluated(self) -> str | None:
        if self.task.model.supervised_head is None:
            return "there is no linear probe"
        if self.eval_source is None:
            data = self.config.data
            used = f" besides --train_split={data.train_split}" if data.train_split else ""
            return f"{data.dataset} has no validation or test split{used}"
        if self.eval_source.num_classes is None:
            return f"{self.eval_source.name} has no labels"
        return None

    def _train_batches(self, first_step: int) -> Iterator:
        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            plan = self._share(self.plan.global_batch_size, context)
            return self._train_dataset(first_step, plan, for_step=True)

        return iter(self.strategy.distribute_datasets_from_function(make))

    def _train_dataset(self, first_step: int, plan: BatchPlan, *, for_step: bool = False) -> tf.data.Dataset:
        return training_batches(
            self.config,
            self._ingredients,
            plan,
            num_views=self.task.num_views,
            first_step=first_step,
            use_service=for_step,
            on_device=for_step and self._on_device,
        )

    def _share(self, batch_size: int, context: tf.distribute.InputContext | None = None) -> BatchPlan:
        """Returns which rows of a batch are made in the input pipeline of `context`, or in the only one."""
        pipelines, number = (context.num_input_pipelines, context.input_pipeline_id) if context else (1, 0)
        local = self._num_replicas // pipelines
        return BatchPlan(
            global_batch_size=batch_size,
            num_replicas=local,
            first_replica=number * local,
            total_replicas=self._num_replicas,
        )

    def _example_views(self) -> tf.Tensor:
        batch = next(iter(self._train_dataset(0, self._share(self.plan.global_batch_size))))
        return tf.stack([view[:_NUM_EXAMPLE_VIEWS] for view in batch["views"]], axis=1)

    def _bad_image_watch(self) -> standard_actions.BadImageWatch:
        return standard_actions.BadImageWatch(
            self.train_source,
            self.config.data.max_bad_image_fraction,
            str(self.config.model_dir),
            writes=self._is_chief,
        )

    def _actions(
        self, stack: contextlib.ExitStack, watch: standard_actions.BadImageWatch, later_work: float
    ) -> tuple[Action, ...]:
        config = self.config
        if not self._is_chief:
            return (watch,)
        progress = standard_actions.ProgressReporter(self.schedule, chance_loss(config), later_work=later_work)
        stack.enter_context(contextlib.closing(progress))
        directory = str(config.model_dir)
        board = standard_actions.TensorBoardWriter(
            directory, self.schedule, self._example_views, lambda: {NUM_BAD_IMAGES: watch.num_bad_images}
        )
        if config.train.profile_range is None:
            return (progress, watch, board)
        profiler = standard_actions.StepProfiler(directory, *config.train.profile_range)
        stack.enter_context(contextlib.closing(profiler))
        return (progress, watch, board, profiler)

    def _run_data(self) -> RunData:
        """Returns what the directory of the run remembers of its data: that of its beginning."""
        begun_with = self._begun_with
        if begun_with is not None and begun_with.fingerprint is not None:
            return begun_with
        return self._data_now(self._names_now(), self.task.model.num_classes)

    def _known_names(self) -> tuple[str, ...] | None:
        """Returns the names of the classes that the run began with, or else those of its images."""
        begun_with, images = self._begun_with, self._ingredients.images
        if begun_with is not None and begun_with.class_names is not None:
            return begun_with.class_names
        return None if images is None else images.class_names

    def _names_now(self) -> tuple[str, ...] | None:
        """Returns the names of the classes of the images, or else of the teacher; None if they are not known."""
        names, teacher = self.train_source.class_names, self.config.distill.teacher
        if names is None and teacher is not None:
            theirs = network_class_names(teacher, "teacher")
            names = None if theirs is None else tuple(theirs)
        return names

    def _announce_data(self) -> None:
        why_not = self._why_not_evaluated() if self.config.mode != "train" else None
        for line in data_lines(self._ingredients.images, self.eval_source, why_not=why_not):
            _LOG.info(line)

    def _announce(self) -> None:
        for note in self._ingredients.notes:
            _LOG.info(note)
        self._announce_data()
        model, plan = self.config.model, self.plan
        sk = f", SK {model.sk_ratio:g}" if model.sk_ratio else ""
        _LOG.info(
            "%s on %s: %s, %s of %d; ResNet-%d (width %g%s, %d px, %.2f M weights) on %s (%s%s); in %s",
            self.config.train.train_mode,
            self.train_source.name,
            counted(self.train_source.num_examples, "image"),
            counted(plan.total_steps, "step"),
            plan.global_batch_size,
            model.resnet_depth,
            model.width_multiplier,
            sk,
            model.image_size,
            self._num_weights / 1e6,
            counted(self._num_replicas, "replica"),
            self.strategy.extended.worker_devices[0].rpartition("device:")[2] or "CPU",
            ", compiled by XLA" if self._jit_compile else "",
            self.config.model_dir,
        )
        if warmup := long_warmup(self.config, self.schedule):
            _LOG.info(warmup)

    @property
    def _num_weights(self) -> int:
        """Numbers in the part of the network that the run uses, batch-norm statistics included."""
        return sum(variable.shape.num_elements() for variable in self.task.model.used_variables)

    def _evaluate_all(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "global_step": int(self.task.optimizer.iterations.numpy()),
            "num_weights": self._num_weights,
        }
        directory = str(self.config.model_dir)
        source = self.eval_source
        if source is not None and self._can_evaluate():
            result |= self._evaluate(source)
            if self._is_chief:
                standard_actions.write_eval_scalars(directory, result, result["global_step"])
        elif self.config.train.train_mode == "pretrain":
            _LOG.info("Features are measured by --mode=linear_eval or knn_eval, --checkpoint=%s.", directory)
        return result

    def _write(self, result: dict[str, Any]) -> None:
        if self._is_chief:
            self._results.write(result)
        _LOG.info("Result: %s", self._results.describe(result))

    def _make_eval_batches(self, source: Source) -> tf.distribute.DistributedDataset:
        view = EvalView(image_size=self.config.model.image_size)
        batch_size = self.config.evaluation.eval_batch_size
        return self.strategy.distribute_datasets_from_function(
            lambda context: eval_dataset(source, view, plan=self._share(batch_size, context))
        )

    def _evaluate(self, source: Source) -> dict[str, Any]:
        if self._eval_batches is None:  # TensorFlow keeps the graphs of every data set that was ever made.
            self._eval_batches = self._make_eval_batches(source)
        batch_size = self.config.evaluation.eval_batch_size
        num_steps = self.config.evaluation.eval_steps
        num_images = min(source.num_examples, num_steps * batch_size or source.num_examples)
        with (
            contextlib.closing(Progress(0, num_images, "evaluating", keep=False)) as progress,
            reporting_lack_of_memory(f"--eval_batch_size={batch_size}", "use a smaller one"),
        ):
            evaluation = evaluate(self._evaluate_batch, self._eval_batches, num_steps=num_steps, report=progress.update)
        result = evaluation.scores
        num_bad = result["eval/num_bad_images"] = result["eval/num_bad_images"] + source.num_left_out
        if num_bad:
            _LOG.info("Skipped %s of %s.", counted(num_bad, "unreadable image"), source.name)
        check_bad_images(
            source,
            num_bad=num_bad,
            num_seen=num_bad + result["eval/num_examples"],
            max_fraction=self.config.data.max_bad_image_fraction,
        )
        confusion = count_confusions(evaluation.predictions, evaluation.labels, source.class_names or ())
        if self._is_chief and confusion is not None:
            self._results.write_confusion(confusion)
        return result
