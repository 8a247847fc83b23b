"""Training of the classifier on labelled images: finetuning, linear evaluation, the supervised baseline."""

import tensorflow as tf

from tf_simclr import losses
from tf_simclr.metrics.classification import count_correct
from tf_simclr.models.simclr import ForwardPass
from tf_simclr.tasks.base import Task


class FinetuneTask(Task):
    """Cross entropy on labels (SimCLRv2, arXiv 2006.10029, section 2.2), through all that is trainable.

    The supervised head must be there. `SimCLRModel.freeze_for_finetuning` chooses what is trained;
    the task trains what is trainable when it is made.
    """

    _loss_names = ("total_loss", "supervised_loss", "supervised_acc")

    def compute_losses(self, batch: dict) -> tuple[ForwardPass, dict[str, tf.Tensor]]:
        """See `Task.compute_losses`; needs `labels`."""
        (images,) = batch["views"]
        outputs = self.model.forward(images, training=True)
        logits = outputs.endpoints["logits_sup"]
        loss = losses.supervised_loss(batch["labels"], logits)
        accuracy = tf.reduce_mean(count_correct(logits, batch["labels"], 1))
        return outputs, {"total_loss": loss, "supervised_loss": loss, "supervised_acc": accuracy}
