"""One run: from a configuration to a trained, evaluated network."""

import json
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr import actions as standard_actions
from tf_simclr import losses, schedules
from tf_simclr.augment.views import EvalView, TrainView
from tf_simclr.checkpoint import Checkpoints, claim_directory, initialize_from, write_json
from tf_simclr.config import ExperimentConfig, UserError
from tf_simclr.data import BatchPlan, Source, available_splits, eval_dataset, load_source, train_dataset
from tf_simclr.distribute import make_strategy
from tf_simclr.evaluate import evaluate, make_eval_function
from tf_simclr.tasks.pretrain import PretrainTask
from tf_simclr.train import Action, LoopPlan, make_train_function, train

_LOG = logging.getLogger("tf_simclr")
_NUM_EXAMPLE_VIEWS = 8


def train_and_evaluate(config: ExperimentConfig, actions: Sequence[Action] = ()) -> dict[str, Any]:
    """Trains, evaluates, or both, as `config.mode` says; goes on where an earlier start was stopped.

    Args:
        config: of the run.
        actions: called with a `LoopEvent` while training, after those for progress and TensorBoard;
            exporting is one.

    Returns:
        What stands in `result.json`: `global_step` and, where it was evaluated,
        `eval/label_top_1_accuracy`, `eval/label_top_5_accuracy`, ...

    Raises:
        UserError: anything the user can mend.
    """
    run = Experiment(config)
    if config.mode == "eval":
        return run.evaluate_each_checkpoint()
    return run.train(actions)


class Experiment:
    """A configuration with its data, strategy and task.

    Args:
        config: of the run.

    Raises:
        UserError: data, devices or sizes do not fit.
    """

    def __init__(self, config: ExperimentConfig):
        self.config = config
        self.strategy = make_strategy(config.strategy)
        self.train_source = load_source(config.data, config.data.train_split)
        self.eval_source = self._load_eval_source()
        self.plan = _make_plan(config, self.train_source.num_examples)
        replicas = self.strategy.num_replicas_in_sync
        self._train_batches = BatchPlan(
            global_batch_size=config.train.train_batch_size, num_replicas=replicas, total_replicas=replicas
        )
        self._train_batches.check("train_batch_size")
        self._check_batch_fits()
        self._eval_batches = BatchPlan(
            global_batch_size=config.evaluation.eval_batch_size,
            num_replicas=replicas,
            total_replicas=replicas,
        )
        self.schedule = _make_schedule(config, self.train_source.num_examples, self.plan.total_steps)
        tf.keras.utils.set_random_seed(config.train.seed)  # The initial weights are drawn from it.
        with self.strategy.scope():
            self.task = PretrainTask(config, self.schedule, self._num_probe_classes())
        self._evaluate_batch = make_eval_function(self.task, self.strategy)

    def train(self, actions: Sequence[Action]) -> dict[str, Any]:
        """Trains to the last step, then evaluates if the mode asks for it; see `train_and_evaluate`."""
        config = self.config
        claim_directory(config)
        result = self._finished_result()
        if result is not None:
            _LOG.info("Already finished: %s", self._describe_result(result))
            return result
        checkpoints = Checkpoints(str(config.model_dir), self.task, keep=config.train.keep_checkpoint_max)
        step = checkpoints.restore()
        if step:
            _LOG.info("Going on from %s.", checkpoints.latest)
        elif config.train.checkpoint:
            _LOG.info(initialize_from(config.train.checkpoint, self.task.model))
        self._announce()
        batches = iter(self.strategy.distribute_datasets_from_function(lambda _: self._train_dataset(step)))
        train(
            self.task,
            batches,
            run=make_train_function(self.task, self.strategy),
            checkpoints=checkpoints,
            plan=self.plan,
            actions=(*self._standard_actions(), *actions),
        )
        if config.mode == "train":
            return {"global_step": int(self.task.optimizer.iterations)}
        return self._evaluate_and_write()

    def evaluate_each_checkpoint(self) -> dict[str, Any]:
        """Evaluates the newest checkpoint of `model_dir` each time there is a new one, until the last."""
        directory = str(self.config.model_dir)
        if not self._can_evaluate():
            raise UserError(
                f"--mode=eval: nothing to evaluate, as {self._why_not_evaluated()}; "
                "use a data set with labels and an --eval_split, and --lineareval_while_pretraining=True."
            )
        checkpoints = Checkpoints(directory, self.task)
        if tf.train.latest_checkpoint(directory) is None:
            _LOG.info("Waiting for the first checkpoint in %s.", directory)
        result: dict[str, Any] = {}
        for path in tf.train.checkpoints_iterator(directory, min_interval_secs=1):
            step = checkpoints.restore(path)
            result = self._evaluate_and_write()
            if step >= self.plan.total_steps:
                break
        return result

    def _load_eval_source(self) -> Source | None:
        data = self.config.data
        if self.config.mode == "train":
            return None
        if data.eval_split is not None:
            return load_source(data, data.eval_split, flag="eval_split")
        splits = available_splits(data)
        for split in ("validation", "test"):
            if split in splits:
                return load_source(data, split, flag="eval_split")
        return None

    def _num_probe_classes(self) -> int | None:
        num_classes = self.train_source.num_classes
        if not self.config.train.lineareval_while_pretraining:
            return None
        if num_classes is None:
            _LOG.info(
                "%s has no labels: pretraining without the online linear probe.", self.train_source.name
            )
            return None
        if self.eval_source is not None and self.eval_source.num_classes not in (None, num_classes):
            raise UserError(
                f"--eval_split={self.config.data.eval_split}: {self.eval_source.name} has "
                f"{self.eval_source.num_classes} classes, {self.train_source.name} has {num_classes}; "
                "use splits with the same classes."
            )
        return num_classes

    def _can_evaluate(self) -> bool:
        return self._why_not_evaluated() is None

    def _why_not_evaluated(self) -> str | None:
        if self.task.model.supervised_head is None:
            return "there is no linear probe"
        if self.eval_source is None:
            return f"{self.config.data.dataset} has no validation or test split"
        if self.eval_source.num_classes is None:
            return f"{self.eval_source.name} has no labels"
        return None

    def _check_batch_fits(self) -> None:
        batch, examples = self.config.train.train_batch_size, self.train_source.num_examples
        if batch > examples:
            raise UserError(
                f"--train_batch_size={batch}: larger than {self.train_source.name}, which has {examples} "
                f"examples; use at most {examples}."
            )

    def _train_dataset(self, first_step: int) -> tf.data.Dataset:
        augment = self.config.augment
        view = TrainView(
            image_size=self.config.model.image_size,
            crop_min_area=augment.crop_min_area,
            use_flip=augment.use_flip,
            random_rotation=augment.random_rotation,
            color_jitter_strength=augment.color_jitter_strength,
            use_blur=augment.use_blur,
        )
        return train_dataset(
            self.train_source,
            view,
            plan=self._train_batches,
            seed=self.config.train.seed,
            num_views=self.task.num_views,
            first_step=first_step,
        )

    def _example_views(self) -> tf.Tensor:
        batch = next(iter(self._train_dataset(0)))
        return tf.stack([view[:_NUM_EXAMPLE_VIEWS] for view in batch["views"]], axis=1)

    def _standard_actions(self) -> tuple[Action, ...]:
        batch = self.config.train.train_batch_size
        # Without the positive in its denominator the decoupled loss of a clueless network is lower.
        decoupled = self.config.contrast.contrastive_loss == "decoupled_nt_xent"
        chance = 2 * math.log(2 * batch - 2) if decoupled else losses.chance_loss(batch)
        return (
            standard_actions.BadImageWatch(self.train_source, self.config.data.max_bad_image_fraction),
            standard_actions.ProgressReporter(self.schedule, chance),
            standard_actions.TensorBoardWriter(
                str(self.config.model_dir), self.schedule, self._example_views
            ),
        )

    def _announce(self) -> None:
        model, plan = self.config.model, self.plan
        sk = f", SK {model.sk_ratio:g}" if model.sk_ratio else ""
        weights = sum(int(np.prod(v.shape)) for v in self.task.model.trainable_variables)
        devices = self.strategy.num_replicas_in_sync
        _LOG.info(
            "%s on %s: %d images, %d steps of %d; ResNet-%d (width %g%s, %d px, %.2f M weights) on %d %s; in %s",
            self.config.train.train_mode,
            self.train_source.name,
            self.train_source.num_examples,
            plan.total_steps,
            plan.global_batch_size,
            model.resnet_depth,
            model.width_multiplier,
            sk,
            model.image_size,
            weights / 1e6,
            devices,
            "replica" if devices == 1 else "replicas",
            self.config.model_dir,
        )

    def _evaluate_and_write(self) -> dict[str, Any]:
        result: dict[str, Any] = {"global_step": int(self.task.optimizer.iterations)}
        directory = str(self.config.model_dir)
        reason = self._why_not_evaluated()
        source = self.eval_source
        if source is not None and reason is None:
            dataset = self.strategy.distribute_datasets_from_function(
                lambda _: eval_dataset(
                    source, EvalView(image_size=self.config.model.image_size), plan=self._eval_batches
                )
            )
            result |= evaluate(self._evaluate_batch, dataset, num_steps=self.config.evaluation.eval_steps)
            standard_actions.write_eval_scalars(directory, result, result["global_step"])
        else:
            _LOG.info("Not evaluated: %s.", reason)
        name = f"_{self.config.evaluation.eval_name}" if self.config.evaluation.eval_name else ""
        write_json(os.path.join(directory, f"result{name}_{result['global_step']}.json"), result)
        write_json(os.path.join(directory, f"result{name}.json"), result)
        _LOG.info("Result: %s", self._describe_result(result))
        return result

    def _finished_result(self) -> dict[str, Any] | None:
        name = f"_{self.config.evaluation.eval_name}" if self.config.evaluation.eval_name else ""
        path = os.path.join(str(self.config.model_dir), f"result{name}.json")
        if self.config.mode != "train_then_eval" or not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path) as file:
            result = json.loads(file.read())
        return result if result.get("global_step", 0) >= self.plan.total_steps else None

    def _describe_result(self, result: dict[str, Any]) -> str:
        where = f"step {result['global_step']}; files in {self.config.model_dir}"
        if "eval/label_top_1_accuracy" not in result:
            return where
        top_1, top_5 = result["eval/label_top_1_accuracy"], result["eval/label_top_5_accuracy"]
        images = result["eval/num_examples"]
        return f"linear probe top-1 {top_1:.2%}, top-5 {top_5:.2%} on {images} held-out images; {where}"


def _make_plan(config: ExperimentConfig, num_examples: int) -> LoopPlan:
    settings = config.train
    batch = settings.train_batch_size
    steps_per_epoch = max(1, round(num_examples / batch))
    checkpoint_steps = settings.checkpoint_steps or settings.checkpoint_epochs * steps_per_epoch
    on_accelerator = bool(tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU"))
    return LoopPlan(
        total_steps=schedules.num_train_steps(
            num_examples, settings.train_epochs, batch, settings.train_steps
        ),
        checkpoint_steps=checkpoint_steps,
        steps_per_loop=settings.steps_per_loop or (100 if on_accelerator else 10),
        global_batch_size=batch,
    )


def _make_schedule(config: ExperimentConfig, num_examples: int, total_steps: int) -> schedules.WarmupCosine:
    optimizer, batch = config.optimizer, config.train.train_batch_size
    return schedules.WarmupCosine(
        schedules.scale_learning_rate(optimizer.learning_rate, batch, optimizer.learning_rate_scaling),
        schedules.num_warmup_steps(optimizer.warmup_epochs, num_examples, batch),
        total_steps,
        dtype=config.model.precision,
    )
