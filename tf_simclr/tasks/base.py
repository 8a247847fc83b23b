"""What every task has in common: one optimizer step for its losses, and evaluation by its classifier."""

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


class Task(abc.ABC):
    """A network, its optimizer, and the step that trains what is trainable of it.

    Args:
        model: the network; what is frozen in it stays as it is.
        config: of the optimizer.
        schedule: learning rate of every step.

    Attributes:
        num_views: random views of each image in a training batch.
        model: the network.
        optimizer: its `iterations` is the global step.
        loss_scale: of a network that computes in float16; else None.
    """

    num_views = 1
    _loss_names: tuple[str, ...]  # What `compute_losses` returns.

    def __init__(self, model: SimCLRModel, config: OptimizerConfig, schedule: WarmupCosine):
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
            excluded=_unique(vectors + head_variables),
        )
        optimizers.build_optimizer(self.optimizer, model.trainable_variables)
        if config.optimizer in ("lars", "lamb"):
            self._decayed = [] if head is None else [head.kernel]
        else:
            excluded = {id(v) for norm in model.norms for v in norm.trainable_variables}
            self._decayed = [v for v in model.trainable_variables if id(v) not in excluded]

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `train_step` returns."""
        return (*self._loss_names, "weight_decay", *(["loss_scale"] if self.loss_scale else []))

    @property
    def state(self) -> dict[str, Any]:
        """Variables beside network and optimizer that a checkpoint holds, as nested dictionaries."""
        scale = self.loss_scale
        return {} if scale is None else {"loss_scale": {"scale": scale.scale, "good_steps": scale.good_steps}}

    @abc.abstractmethod
    def compute_losses(self, batch: dict) -> tuple[ForwardPass, dict[str, tf.Tensor]]:
        """Computes what is minimised, in replica context.

        Args:
            batch: of `data.train_dataset`.

        Returns:
            The forward pass, and scalars over this replica's rows: `total_loss` without weight decay, and
            the other metrics to show.
        """

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Takes one optimizer step, in replica context.

        Where a gradient of a network that computes in float16 overflows, the step is left out: it changes
        nothing but the loss scale, and counts. So learning rate, order of the data and resuming stay
        functions of the step.

        Args:
            batch: `views`, `num_views` tensors `[b, S, S, 3]` in [0, 1]; and, where the task has a use for
                them, `labels`, int32 `[b]`.

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

    def compute_gradients(self, batch: dict) -> tuple[list[tf.Tensor], Statistics, dict[str, tf.Tensor]]:
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

    def _finish_step(self, batch: dict, taken: tf.Tensor | None) -> None:  # noqa: B027  (most have nothing to do)
        """What else a step does once the weights are new, in replica context; here nothing.

        Args:
            batch: as for `train_step`.
            taken: bool `[]`, false where the step is left out; None for true.
        """

    def _objective(self, metrics: dict) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns this replica's summand of what is minimised, scaled, and the metrics with weight decay."""
        decay = self._weight_decay * losses.l2_loss(self._decayed)
        total = metrics["total_loss"] + decay
        summand = total / collectives.num_replicas()
        summand = self.loss_scale.scale_loss(summand) if self.loss_scale else summand
        return summand, metrics | {"weight_decay": decay, "total_loss": total}

    def _reduce(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the gradients over all replicas from those of this replica's summand."""
        gradients = collectives.cross_replica_sum(gradients)
        return self.loss_scale.unscale(gradients) if self.loss_scale else gradients

    def eval_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Returns what the classifier says of each example, in replica context.

        Args:
            batch: `images` `[b, S, S, 3]` in [0, 1], `labels` int32 `[b]`, -1 for none, `mask` `[b]`: 1 for a
                real example.

        Returns:
            Float32 `[B]` of the rows of all replicas: `label`; `prediction`, the likeliest class, -1 where
            logits are not finite; `confidence`, its probability; `is_in_top_5`, 0 or 1; `loss`, the cross
            entropy; `mask`, 0 also where there is no label.
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


def _unique(variables: list) -> list:
    return list({id(v): v for v in variables}.values())
