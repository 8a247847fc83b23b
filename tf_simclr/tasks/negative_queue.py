"""A memory of more negatives for pretraining: projections of earlier batches by a momentum encoder."""

from typing import Any

import tensorflow as tf

from tf_simclr.config import ContrastConfig
from tf_simclr.distribution import collectives
from tf_simclr.losses import StoredNegatives
from tf_simclr.models import SimCLRModel, build_simclr_model, update_moving_statistics


class MomentumMemory:
    """A queue of projections of earlier batches, by a moving average of the network's weights.

    The memory of SimCLRv2 (arXiv 2006.10029, section 2.1), after MoCo (arXiv 1911.05722, section 3.2). The
    paper has 64K entries, a decay of 0.999, and the outputs of the averaged network as negatives. It leaves
    open the choices below.

    - The loss of the batch stays: positives and negatives come from the trained network. The stored rows are
      further negatives, both views of each image, for both views. In MoCo the average gives the positive too.
    - A step has the negatives of earlier steps alone. After it the average takes in the new weights, and its
      projections of the batch replace the oldest entries.
    - The average normalises with the statistics of the batch, as in MoCo; with `global_bn`, of the batch of all
      replicas. It has its own moving averages. MoCo's shuffling between devices is left out, because no
      positive comes from the average.
    - An empty memory adds no negatives; MoCo begins with random ones. Until the first batch is stored, the
      average is the network itself.

    Make it in the strategy's scope. Its variables are equal on all replicas.

    Args:
        model: the trained network.
        contrast: `memory_size`, `memory_momentum`, and `hidden_norm`, which holds for the stored rows too.
    """

    def __init__(self, model: SimCLRModel, contrast: ContrastConfig) -> None:
        self._contrast = contrast
        self._network = build_simclr_model(model.config)
        shape = [contrast.memory_size, model.endpoint_channels["proj_head_output"]]
        self._queue = tf.Variable(tf.zeros(shape, model.variable_dtype), trainable=False, name="memory_queue")
        # Of all steps: the next place and the number of valid entries follow from it.
        self._num_stored = tf.Variable(0, trainable=False, dtype=tf.int64, name="memory_num_stored")

    @property
    def num_valid(self) -> tf.Tensor:
        """Number of entries that hold a projection, int32 `[]`: the first ones, in the end all."""
        stored = tf.minimum(tf.identity(self._num_stored), self._contrast.memory_size)
        return tf.cast(stored, tf.int32)

    @property
    def negatives(self) -> StoredNegatives:
        """The entries, `[memory_size, d]`, and the number of the valid ones."""
        return StoredNegatives(self._queue, self.num_valid)

    def variable_tree(self) -> dict[str, Any]:
        """Returns all variables as nested dictionaries, for a checkpoint."""
        network = self._network.variable_tree()
        return {"network": network, "queue": self._queue, "num_stored": self._num_stored}

    def update(self, model: SimCLRModel, views: tuple[tf.Tensor, ...], *, where: tf.Tensor | None = None) -> None:
        """Takes in the weights and the batch of a step, in replica context.

        Args:
            model: the trained network, with its new weights.
            views: of this replica's images, each `[b, S, S, 3]` in [0, 1].
            where: bool `[]`, equal on all replicas: false changes nothing; None for true.
        """
        self._follow(model, where)
        outputs = self._network.forward(tf.concat(views, 0), training=True)
        update_moving_statistics(self._network.norms, outputs.statistics, where=where)
        projections = outputs.head_layers[-1]
        if self._contrast.hidden_norm:
            projections = tf.math.l2_normalize(projections, axis=-1)
        # Image by image, so that the order does not depend on the number of replicas.
        by_image = collectives.all_gather_batch(tf.stack(tf.split(projections, len(views)), axis=1))
        self._store(tf.reshape(by_image, [-1, projections.shape[-1]]), where)

    def _follow(self, model: SimCLRModel, where: tf.Tensor | None) -> None:
        averages, weights = _weights(self._network), _weights(model)
        pairs = zip(averages, weights, strict=True)
        has_any = tf.cast(self._num_stored > 0, model.variable_dtype)
        momentum = has_any * self._contrast.memory_momentum
        moved = [average * momentum + weight * (1 - momentum) for average, weight in pairs]
        collectives.assign_on_replicas(averages, _chosen(where, moved, averages))

    def _store(self, rows: tf.Tensor, where: tf.Tensor | None) -> None:
        size, start = self._contrast.memory_size, tf.identity(self._num_stored)
        numbers = tf.range(rows.shape[0], dtype=tf.int64)
        places = tf.cast((start + numbers) % size, tf.int32)
        queue = tf.identity(self._queue)
        rows, stored = _chosen(where, [rows, start + rows.shape[0]], [tf.gather(queue, places), start])
        queue = tf.tensor_scatter_nd_update(queue, places[:, tf.newaxis], rows)
        collectives.assign_on_replicas([self._queue, self._num_stored], [queue, stored])


def _weights(model: SimCLRModel) -> list[tf.Variable]:
    """Returns the trainable variables of encoder and projection head, in a fixed order."""
    return [v for stage in (*model.encoder, *model.projection_head) for v in stage.trainable_variables]


def _chosen(where: tf.Tensor | None, new: list[tf.Tensor], old: list[tf.Tensor]) -> list[tf.Tensor]:
    if where is None:
        return new
    return [tf.where(where, value, before) for value, before in zip(new, old, strict=True)]
