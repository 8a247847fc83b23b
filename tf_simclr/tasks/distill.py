"""Distillation: a student learns to agree with a teacher, on images that need no labels."""

from collections.abc import Callable

import tensorflow as tf

from tf_simclr import losses
from tf_simclr.config import DistillConfig, OptimizerConfig
from tf_simclr.models import SimCLRModel
from tf_simclr.models.simclr import ForwardPass
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.base import Batch, Metrics, Task, classifier_metrics


class DistillTask(Task):
    """SimCLRv2 distillation (arXiv 2006.10029, section 2.3), equations 2 and 3.

        L = alpha * mean of the teacher's term over the first rows, which are drawn from all images
            + (1 - alpha) * share * mean cross entropy of the labelled rows

    `share` is that of the labelled rows in the batch. If it is their share of the data, this is equation 3
    divided by the number of images. The paper does not say how it composes a batch.

    Args:
        model: the student.
        config: of the optimizer.
        schedule: learning rate of every step.
        distill: temperature and weights of the loss.
        teacher: takes images `[b, S, S, 3]` in [0, 1], returns logits `[b, K]`; in inference mode.
        num_labelled: number of labelled rows of a replica, the last ones; 0 with `distill_alpha` 1. If all
            are labelled, the teacher teaches all.
    """

    def __init__(
        self,
        model: SimCLRModel,
        config: OptimizerConfig,
        schedule: WarmupCosine,
        distill: DistillConfig,
        *,
        teacher: Callable[[tf.Tensor], tf.Tensor],
        num_labelled: int = 0,
    ) -> None:
        super().__init__(model, config, schedule)
        self._distill = distill
        self._teacher = teacher
        self._num_labelled = num_labelled
        labels = ["supervised_loss", "supervised_acc"] if num_labelled else []
        self._loss_names = ("total_loss", "distill_loss", "teacher_agreement", *labels)

    def compute_losses(self, batch: Batch) -> tuple[ForwardPass, Metrics]:
        """See `Task.compute_losses`; needs `labels` if rows are labelled."""
        (images,) = batch["views"]
        alpha, batch_size = self._distill.distill_alpha, images.shape[0]
        num_taught = batch_size - self._num_labelled or batch_size
        teacher_logits = tf.stop_gradient(self._teacher(images[:num_taught]))
        outputs = self.model.forward(images, training=True)
        logits = outputs.endpoints["logits_sup"]
        taught = logits[:num_taught]
        loss = losses.distillation_loss(
            teacher_logits,
            taught,
            temperature=self._distill.distill_temperature,
            tau_squared=self._distill.distill_tau_squared,
        )
        same = tf.argmax(teacher_logits, axis=1) == tf.argmax(taught, axis=1)
        metrics = {
            "distill_loss": loss,
            "teacher_agreement": tf.reduce_mean(tf.cast(same, logits.dtype)),
            "total_loss": alpha * loss,
        }
        if self._num_labelled:
            metrics |= classifier_metrics(batch["labels"][-self._num_labelled :], logits[-self._num_labelled :])
            share = self._num_labelled / batch_size
            metrics["total_loss"] += (1 - alpha) * share * metrics["supervised_loss"]
        return outputs, metrics
