"""The base of all tasks: one optimizer step for the losses of a task, and evaluation of its classifier."""

import abc
from typing import Any

import tensorflow as tf

from tf_simclr import losses, optimizers
from tf_simclr.config import OptimizerConfig
from tf_simclr.distribution import collectives
from tf_simclr.loss_scale import LossScale
from tf_simclr.metrics.classification import count_correct, most_likely
from tf_simclr.models import SimCLRModel, update_moving_statistics
from tf_simclr.models.simclr import ForwardPass, Statistics
from tf_simclr.schedules import WarmupCosine

Batch = dict[str, Any]
Metrics = dict[str, tf.Tensor]


class Task(abc.ABC):
    """A network, its optimizer, and the step that trains the trainable part of the network.

    Args:
        model: the network; its frozen part stays as it is.
        config: of the optimizer.
        schedule: learning rate of every step.

    Attributes:
        num_views: random views of each image in a training batch.
        model: the network.
        optimizer: its `iterations` is the global step.
        loss_scale: of a network that computes in float16; else None.
    """

    num_views = 1
    _loss_names: tuple[str, ...]  # Of the metrics that `compute_losses` returns.

    def __init__(self, model: SimCLRModel, config: OptimizerConfig, schedule: WarmupCosine) -> None:
        self.model = model
        self.loss_scale = LossScale() if model.config.compute_dtype == "float16" else None
        self._weight_decay = config.weight_decay
        head = model.supervised_head
        head_variables = [] if head is None else head.trainable_variables
        # Vectors are biases and the scales and offsets of batch norm.
        vectors = [v for v in model.trainable_variables if v.shape.rank == 1]
        self.optimizer = optimizers.make_optimizer(
            config.optimizer,
            learning_rate=schedule,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            excluded=list({id(v): v for v in vectors + head_variables}.values()),
        )
        optimizers.build_optimizer(self.optimizer, model.trainable_variables)
        if config.optimizer in ("lars", "lamb"):
            self._decayed = [] if head is None else [head.kernel]
        else:
            excluded = {id(v) for norm in model.norms for v in norm.trainable_variables}
            self._decayed = [v for v in model.trainable_variables if id(v) not in excluded]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics that `train_step` returns."""
        return (*self._loss_names, "weight_decay", *(["loss_scale"] if self.loss_scale else []))

    @property
    def state(self) -> dict[str, Any]:
        """More variables for a checkpoint than those of network and optimizer, as nested dictionaries."""
        scale = self.loss_scale
        return {} if scale is None else {"loss_scale": {"scale": scale.scale, "good_steps": scale.good_steps}}

    @abc.abstractmethod
    def compute_losses(self, batch: Batch) -> tuple[ForwardPass, Metrics]:
        """Computes the losses to minimise, in replica context.

        Args:
            batch: as for `train_step`.

        Returns:
            The forward pass, and scalars over this replica's rows: `total_loss` without weight decay, and
            the other metrics to show.
        """

    def train_step(self, batch: Batch) -> Metrics:
        """Takes one optimizer step, in replica context.

        If a float16 gradient overflows, the step is left out: it changes nothing but the loss scale and the
        count of steps. So learning rate, order of the data and resuming stay functions of the step.

        Args:
            batch: `views`, `num_views` tensors `[b, S, S, 3]` in [0, 1]; and, if the task uses them,
                `labels`, int32 `[b]`.

        Returns:
            Scalars named by `metric_names`, means over all replicas.
        """
        gradients, statistics, metrics = self.compute_gradients(batch)
        taken = None
        if self.loss_scale is not None:
            taken, metrics["loss_scale"] = self.loss_scale.update(gradients)
        optimizers.apply_gradients(self.optimizer, gradients, self.model.trainable_variables, where=taken)
        update_moving_statistics(self.model.norms, statistics, where=taken)
        self._finish_step(batch, taken)
        return collectives.cross_replica_mean({k: tf.cast(v, tf.float32) for k, v in metrics.items()})

    def compute_gradients(self, batch: Batch) -> tuple[list[tf.Tensor], Statistics, Metrics]:
        """Computes one step without taking it, in replica context.

        Args:
            batch: as for `train_step`.

        Returns:
            The gradient of the mean total loss over all replicas for each trainable variable; the
            statistics of the forward pass; scalars over this replica's rows: the losses and `weight_decay`.
        """
        with tf.GradientTape() as tape:
            outputs, metrics = self.compute_losses(batch)
            objective, metrics = self._objective(metrics)
        gradients = tape.gradient(objective, self.model.trainable_variables)
        return self._reduce(gradients), outputs.statistics, metrics

    def _finish_step(self, batch: Batch, taken: tf.Tensor | None) -> None:  # noqa: B027  (most have nothing to do)
        """Finishes a step after the update of the weights, in replica context; here it does nothing.

        Args:
            batch: as for `train_step`.
            taken: bool `[]`, false if the step is left out; None for true.
        """

    def _objective(self, metrics: Metrics) -> tuple[tf.Tensor, Metrics]:
        """Returns this replica's summand of the objective, scaled, and the metrics with weight decay."""
        decay = self._weight_decay * losses.l2_loss(self._decayed)
        total = metrics["total_loss"] + decay
        summand = total / collectives.num_replicas()
        summand = self.loss_scale.scale_loss(summand) if self.loss_scale else summand
        return summand, metrics | {"weight_decay": decay, "total_loss": total}

    def _reduce(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the gradients over all replicas from those of this replica's summand."""
        gradients = collectives.cross_replica_sum(gradients)
        return self.loss_scale.unscale(gradients) if self.loss_scale else gradients

    def eval_step(self, batch: Batch) -> Metrics:
        """Classifies examples, in replica context.

        Args:
            batch: `images` `[b, S, S, 3]` in [0, 1], `labels` int32 `[b]`, -1 for none, `mask` `[b]`: 1 for a
                real example.

        Returns:
            Float32 `[B]` of the rows of all replicas: `label`; `prediction`, the likeliest class, -1 if
            logits are not finite; `confidence`, its probability; `is_in_top_5`, 0 or 1; `loss`, the cross
            entropy; `mask`, 0 also without a label.
        """
        logits = self.model.forward(batch["images"], training=False).endpoints["logits_sup"]
        labels = tf.maximum(batch["labels"], 0)
        is_labelled = tf.cast(batch["labels"] >= 0, batch["mask"].dtype)
        prediction, confidence = most_likely(logits)
        columns = {
            "label": labels,
            "prediction": prediction,
            "confidence": confidence,
            "is_in_top_5": count_correct(logits, labels, 5),
            "loss": tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits),
            "mask": batch["mask"] * is_labelled,
        }
        # Numbers of classes are exact in float32 up to 2**24.
        rows = tf.stack([tf.cast(column, tf.float32) for column in columns.values()], axis=1)
        return dict(zip(columns, tf.unstack(collectives.all_gather_batch(rows), axis=1), strict=True))


def classifier_metrics(labels: tf.Tensor, logits: tf.Tensor) -> Metrics:
    """Returns `supervised_loss` and `supervised_acc`, means over the rows of labels `[b]` and logits `[b, K]`."""
    return {
        "supervised_loss": losses.supervised_loss(labels, logits),
        "supervised_acc": tf.reduce_mean(count_correct(logits, labels, 1)),
    }
