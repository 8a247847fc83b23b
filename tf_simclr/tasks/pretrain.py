"""Contrastive pretraining with an online linear probe."""

import tensorflow as tf

from tf_simclr import distribute, losses
from tf_simclr.config import ContrastConfig, OptimizerConfig
from tf_simclr.metrics import count_correct
from tf_simclr.models import SimCLRModel
from tf_simclr.models.simclr import ForwardPass
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.base import Task

_CONTRASTIVE_LOSSES = {
    "nt_xent": losses.nt_xent_loss,
    "decoupled_nt_xent": losses.decoupled_nt_xent_loss,
}


class PretrainTask(Task):
    """SimCLRv2 pretraining (arXiv 2006.10029, section 2.1): two views, NT-Xent on their projections.

    A supervised head, if the network has one, is trained beside it as a linear probe of the features
    that `ft_proj_selector` names, without any gradient into the network.

    Args:
        model: the network.
        config: of the optimizer.
        schedule: learning rate of every step.
        contrast: the contrastive loss.
    """

    num_views = 2

    def __init__(
        self,
        model: SimCLRModel,
        config: OptimizerConfig,
        schedule: WarmupCosine,
        contrast: ContrastConfig,
    ):
        super().__init__(model, config, schedule)
        self._contrast = contrast
        names = ["total_loss", "contrast_loss", "contrast_acc", "contrast_entropy"]
        probe = [] if model.supervised_head is None else ["supervised_loss", "supervised_acc"]
        self._loss_names = (*names, *probe)

    def compute_losses(self, batch: dict) -> tuple[ForwardPass, dict[str, tf.Tensor]]:
        """See `Task.compute_losses`; the probe needs `labels`."""
        outputs = self.model.forward(tf.concat(batch["views"], 0), training=True, detach_supervised_head=True)
        contrast = self._contrastive(outputs.head_layers[-1])
        metrics = {
            "contrast_loss": contrast.loss,
            "contrast_acc": contrast.accuracy,
            "contrast_entropy": contrast.entropy,
            "total_loss": contrast.loss,
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
