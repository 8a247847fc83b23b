"""Training of the classifier on labelled images: finetuning, linear evaluation, the supervised baseline."""

from tf_simclr.models.simclr import ForwardPass
from tf_simclr.tasks.base import Batch, Metrics, Task, classifier_metrics


class FinetuneTask(Task):
    """Cross entropy on labels (SimCLRv2, arXiv 2006.10029, section 2.2), through everything trainable.

    The network needs a supervised head. Freeze it (`SimCLRModel.freeze_for_finetuning`) before the task is made.
    """

    _loss_names = ("total_loss", "supervised_loss", "supervised_acc")

    def compute_losses(self, batch: Batch) -> tuple[ForwardPass, Metrics]:
        """See `Task.compute_losses`; needs `labels`."""
        (images,) = batch["views"]
        outputs = self.model.forward(images, training=True)
        metrics = classifier_metrics(batch["labels"], outputs.endpoints["logits_sup"])
        return outputs, metrics | {"total_loss": metrics["supervised_loss"]}
