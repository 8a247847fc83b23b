"""Contrastive pretraining with an online linear probe."""

import tensorflow as tf

from tf_simclr import distribute, losses, optimizers
from tf_simclr.config import ExperimentConfig
from tf_simclr.metrics import count_correct
from tf_simclr.models import build_simclr_model, update_moving_statistics
from tf_simclr.schedules import WarmupCosine

_CONTRASTIVE_LOSSES = {
    "nt_xent": losses.nt_xent_loss,
    "decoupled_nt_xent": losses.decoupled_nt_xent_loss,
}


class PretrainTask:
    """SimCLRv2 pretraining (arXiv 2006.10029, section 2.1): two views, NT-Xent on their projections.

    With classes, a linear classifier is trained beside it on the features that `ft_proj_selector`
    names, without any gradient into the network.

    Args:
        config: of the experiment.
        schedule: learning rate of every step.
        num_classes: of the probe; None for no probe.

    Attributes:
        num_views: random views of each image in a training batch.
        metric_names: what `train_step` returns.
        model: the network.
        optimizer: its `iterations` is the global step.
    """

    num_views = 2

    def __init__(self, config: ExperimentConfig, schedule: WarmupCosine, num_classes: int | None = None):
        self._contrast = config.contrast
        self._weight_decay = config.optimizer.weight_decay
        self.model = build_simclr_model(config.model, num_classes)
        head = self.model.supervised_head
        self._head_variables = [] if head is None else head.trainable_variables
        # Vectors are biases and the scales and offsets of batch norm.
        vectors = [v for v in self.model.trainable_variables if v.shape.rank == 1]
        self.optimizer = optimizers.make_optimizer(
            config.optimizer.optimizer,
            learning_rate=schedule,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            excluded=_unique(vectors + self._head_variables),
        )
        optimizers.build_optimizer(self.optimizer, self.model.trainable_variables)
        if config.optimizer.optimizer in ("lars", "lamb"):
            self._decayed = [] if head is None else [head.kernel]
        else:
            excluded = {id(v) for norm in self.model.norms for v in norm.trainable_variables}
            self._decayed = [v for v in self.model.trainable_variables if id(v) not in excluded]
        names = ["total_loss", "contrast_loss", "contrast_acc", "contrast_entropy", "weight_decay"]
        self.metric_names = tuple(names if head is None else [*names, "supervised_loss", "supervised_acc"])

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Takes one optimizer step, in replica context.

        Args:
            batch: `views`, two tensors `[b, S, S, 3]` in [0, 1]; with a probe also `labels`, int32 `[b]`.

        Returns:
            Scalars named by `metric_names`, means over all replicas.
        """
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            outputs, metrics = self._forward(batch)
            loss = metrics["total_loss"] / distribute.num_replicas()
        gradients = distribute.cross_replica_sum(tape.gradient(loss, variables))
        optimizers.apply_gradients(self.optimizer, gradients, variables)
        update_moving_statistics(self.model.norms, outputs.statistics)
        return distribute.cross_replica_mean({k: tf.cast(v, tf.float32) for k, v in metrics.items()})

    def _forward(self, batch):
        outputs = self.model.forward(tf.concat(batch["views"], 0), training=True, detach_supervised_head=True)
        contrast = self._contrastive(outputs.head_layers[-1])
        decay = self._weight_decay * losses.l2_loss(self._decayed)
        metrics = {
            "contrast_loss": contrast.loss,
            "contrast_acc": contrast.accuracy,
            "contrast_entropy": contrast.entropy,
            "weight_decay": decay,
            "total_loss": contrast.loss + decay,
        }
        if self.model.supervised_head is not None:
            labels = tf.concat([batch["labels"]] * self.num_views, 0)
            logits = outputs.endpoints["logits_sup"]
            probe_loss = losses.supervised_loss(labels, logits)
            metrics["supervised_loss"] = probe_loss
            metrics["supervised_acc"] = tf.reduce_mean(count_correct(logits, labels, 1))
            metrics["total_loss"] += probe_loss
        return outputs, metrics

    def _contrastive(self, projections):
        if self._contrast.hidden_norm:
            projections = tf.math.l2_normalize(projections, axis=-1)
        view_a, view_b = tf.split(projections, self.num_views, axis=0)
        return _CONTRASTIVE_LOSSES[self._contrast.contrastive_loss](
            view_a,
            view_b,
            temperature=self._contrast.temperature,
            all_a=distribute.all_gather_batch(view_a),
            all_b=distribute.all_gather_batch(view_b),
            first_row=distribute.replica_id() * view_a.shape[0],
        )

    def eval_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Counts what the probe gets right, in replica context.

        Args:
            batch: `images` `[b, S, S, 3]` in [0, 1], `labels` int32 `[b]`, `mask` `[b]`: 1 for a real example.

        Returns:
            Sums over all replicas: `label_top_1`, `label_top_5`, `supervised_loss`, `count`.
        """
        logits = self.model.forward(batch["images"], training=False).endpoints["logits_sup"]
        mask = tf.cast(batch["mask"], logits.dtype)
        per_example = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
        sums = {
            "label_top_1": tf.reduce_sum(mask * count_correct(logits, batch["labels"], 1)),
            "label_top_5": tf.reduce_sum(mask * count_correct(logits, batch["labels"], 5)),
            "supervised_loss": tf.reduce_sum(mask * per_example),
            "count": tf.reduce_sum(mask),
        }
        return distribute.cross_replica_sum({k: tf.cast(v, tf.float32) for k, v in sums.items()})


def _unique(variables: list) -> list:
    return list({id(v): v for v in variables}.values())
