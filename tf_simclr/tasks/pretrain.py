"""Contrastive pretraining with an online linear probe."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tf_simclr import losses
from tf_simclr.config import ContrastConfig, OptimizerConfig
from tf_simclr.distribution import collectives
from tf_simclr.models import SimCLRModel
from tf_simclr.models.simclr import ForwardPass, Statistics
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.base import Batch, Metrics, Task, classifier_metrics
from tf_simclr.tasks.negative_queue import MomentumMemory


class _Outputs(NamedTuple):
    """Inputs of the losses; for all chunks at once, each tensor has one more axis, the first."""

    projections: tf.Tensor  # [views, b, d]
    probe: Metrics  # Means over the rows; empty without a probe.


class PretrainTask(Task):
    """SimCLRv2 pretraining (arXiv 2006.10029, section 2.1): two views, NT-Xent on their projections.

    A supervised head, if the network has one, learns beside it as a linear probe of the features that
    `ft_proj_selector` names. No gradient of the probe reaches the network.

    With `contrast_chunks` K above 1, a replica processes its rows in K chunks, one after the other, in
    the memory of one. Loss, gradient and statistics are those of K replicas that each have one chunk and
    their own batch norm. It costs a second forward pass.

    Args:
        model: the network.
        config: of the optimizer.
        schedule: learning rate of every step.
        contrast: the contrastive loss.
    """

    num_views = 2

    def __init__(
        self, model: SimCLRModel, config: OptimizerConfig, schedule: WarmupCosine, contrast: ContrastConfig
    ) -> None:
        super().__init__(model, config, schedule)
        self._contrast = contrast
        self._decoupled = contrast.contrastive_loss == "decoupled_nt_xent"
        self._probe_names = () if model.supervised_head is None else ("supervised_loss", "supervised_acc")
        self._loss_names = ("total_loss", "contrast_loss", "contrast_acc", "contrast_entropy", *self._probe_names)

    def compute_losses(self, batch: Batch) -> tuple[ForwardPass, Metrics]:
        """See `Task.compute_losses`; the probe needs `labels`."""
        forward_pass, outputs = self._forward(batch)
        return forward_pass, self._losses(outputs)

    def compute_gradients(self, batch: Batch) -> tuple[list[tf.Tensor], Statistics, Metrics]:
        """See `Task.compute_gradients`."""
        if self._contrast.contrast_chunks == 1:
            return super().compute_gradients(batch)
        chunk = self._chunks(batch)
        outputs, statistics = self._forward_chunks(chunk)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            metrics = self._losses(_join(outputs))
            objective, metrics = self._objective(metrics)
        outputs_gradient, gradients = tape.gradient(
            objective,
            (outputs, self.model.trainable_variables),  # Of the variables, weight decay alone.
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        gradients = self._backward_chunks(chunk, outputs_gradient, gradients)
        return self._reduce(gradients), statistics, metrics

    def _forward(self, batch: Batch) -> tuple[ForwardPass, _Outputs]:
        images = tf.concat(batch["views"], 0)
        forward_pass = self.model.forward(images, training=True, detach_supervised_head=True)
        projections = tf.stack(tf.split(forward_pass.head_layers[-1], self.num_views))
        probe = {}
        if self.model.supervised_head is not None:
            labels = tf.concat([batch["labels"]] * self.num_views, 0)
            probe = classifier_metrics(labels, forward_pass.endpoints["logits_sup"])
        return forward_pass, _Outputs(projections, probe)

    def _losses(self, outputs: _Outputs) -> Metrics:
        contrast = self._contrastive(outputs.projections)
        return outputs.probe | {
            "contrast_loss": contrast.loss,
            "contrast_acc": contrast.accuracy,
            "contrast_entropy": contrast.entropy,
            "total_loss": contrast.loss + outputs.probe.get("supervised_loss", 0),
        }

    def _contrastive(self, projections: tf.Tensor) -> losses.ContrastiveOutput:
        if self._contrast.hidden_norm:
            projections = tf.math.l2_normalize(projections, axis=-1)
        view_a, view_b = tf.unstack(projections)
        gathered = losses.GatheredViews(
            collectives.all_gather_batch(view_a),
            collectives.all_gather_batch(view_b),
            first_row=collectives.replica_id() * view_a.shape[0],
        )
        return losses.nt_xent_loss(
            view_a,
            view_b,
            temperature=self._contrast.temperature,
            gathered=gathered,
            memory=self._stored_negatives(),
            decoupled=self._decoupled,
        )

    def _stored_negatives(self) -> losses.StoredNegatives | None:
        """Returns more negatives than those of the batch; here none."""
        return None

    def _chunks(self, batch: Batch) -> Callable[[tf.Tensor], Batch]:
        """Returns a function from the number of a chunk, `[]`, to its rows of all views."""
        num_chunks = self._contrast.contrast_chunks
        names = ["views", "labels"] if self._probe_names else ["views"]
        chunks = tf.nest.map_structure(
            lambda rows: tf.reshape(rows, [num_chunks, -1, *rows.shape[1:]]), {n: batch[n] for n in names}
        )
        return lambda number: tf.nest.map_structure(lambda rows: rows[number], chunks)

    def _forward_chunks(self, chunk: Callable[[tf.Tensor], Batch]) -> tuple[_Outputs, Statistics]:
        """Returns the outputs of all chunks, and the means of the statistics of the chunks."""

        def forward(number: tf.Tensor) -> tuple[_Outputs, Statistics]:
            forward_pass, outputs = self._forward(chunk(number))
            return outputs, forward_pass.statistics

        dtype = self.model.variable_dtype
        probe = dict.fromkeys(self._probe_names, dtype)
        signature = (_Outputs(dtype, probe), [(dtype, dtype)] * len(self.model.norms))
        numbers = tf.range(self._contrast.contrast_chunks)
        # Iterations at once would need the memory of several chunks.
        outputs, statistics = tf.map_fn(forward, numbers, fn_output_signature=signature, parallel_iterations=1)
        return outputs, tf.nest.map_structure(lambda values: tf.reduce_mean(values, 0), statistics)

    def _backward_chunks(
        self, chunk: Callable[[tf.Tensor], Batch], outputs_gradient: _Outputs, gradients: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Adds to `gradients` those through the outputs of each chunk, which are computed again."""
        variables = self.model.trainable_variables

        def add(total: list[tf.Tensor], number: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                _, outputs = self._forward(chunk(number))
            upstream = [values[number] for values in tf.nest.flatten(outputs_gradient)]
            gradient = tape.gradient(tf.nest.flatten(outputs), variables, output_gradients=upstream)
            return [tf.add(*pair) for pair in zip(total, gradient, strict=True)]

        numbers = tf.range(self._contrast.contrast_chunks)
        return list(tf.foldl(add, numbers, initializer=gradients, parallel_iterations=1))


class MemoryPretrainTask(PretrainTask):
    """SimCLRv2 pretraining with a `MomentumMemory` of `memory_size` negatives.

    The metric `contrast_chance` is `losses.chance_loss` with the negatives stored so far: while the memory
    fills, loss and chance rise. Accuracy and entropy are those of the batch.

    Args:
        model: the network.
        config: of the optimizer.
        schedule: learning rate of every step.
        contrast: the contrastive loss, without chunks; the memory holds the projections of one batch or more.
    """

    def __init__(
        self, model: SimCLRModel, config: OptimizerConfig, schedule: WarmupCosine, contrast: ContrastConfig
    ) -> None:
        super().__init__(model, config, schedule, contrast)
        self.memory = MomentumMemory(model, contrast)
        self._loss_names = (*self._loss_names, "contrast_chance")

    @property
    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        return super().state | {"memory": self.memory.variable_tree()}

    def _losses(self, outputs: _Outputs) -> Metrics:
        batch_size = outputs.projections.shape[1] * collectives.num_replicas()
        num_stored = tf.cast(self.memory.num_valid, outputs.projections.dtype)
        chance = losses.chance_loss(batch_size, num_stored, decoupled=self._decoupled)
        return super()._losses(outputs) | {"contrast_chance": chance}

    def _stored_negatives(self) -> losses.StoredNegatives:
        return self.memory.negatives

    def _finish_step(self, batch: Batch, taken: tf.Tensor | None) -> None:
        self.memory.update(self.model, batch["views"], where=taken)


def _join(outputs: _Outputs) -> _Outputs:
    """Turns the outputs of all chunks, `[K, views, b, d]` and `[K]`, into those of the whole batch."""
    num_chunks, num_views, rows, width = outputs.projections.shape
    projections = tf.reshape(tf.transpose(outputs.projections, [1, 0, 2, 3]), [num_views, num_chunks * rows, width])
    return _Outputs(projections, {name: tf.reduce_mean(values) for name, values in outputs.probe.items()})
