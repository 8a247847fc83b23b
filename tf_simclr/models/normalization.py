"""Batch normalization as a pure function of its input that returns its statistics."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.distribution import collectives


class BatchNormalization(tf.keras.layers.Layer):
    """Normalisation over all axes but the last (arXiv 1502.03167).

    Unlike the layer of Keras, it does not update its moving averages: `call` returns the batch statistics,
    and the training step calls `update` once. So the forward pass is a pure function, which recomputation
    and chunked batches need. The variance is the biased one (1/N), also in the moving average.

    Args:
        momentum: share of the old moving average that an update keeps, in [0, 1).
        epsilon: added to the variance.
        synchronized: statistics over the batch of all replicas, not of each replica.
        center: whether there is a learned offset, `beta`.
        gamma_initializer: of the learned scale.
        **kwargs: `name`, `dtype` and `trainable` of the Keras layer. A frozen layer normalises with its
            moving averages and never changes them.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        synchronized: bool = True,
        center: bool = True,
        gamma_initializer: Any = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.synchronized = synchronized
        self.center = center
        self.gamma_initializer = tf.keras.initializers.get(gamma_initializer)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates gamma, beta and the moving averages, each `[channels]`."""
        shape = (input_shape[-1],)
        # A layer that computes in 16 bits reads its variables as they are.
        learned = {"shape": shape, "experimental_autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer=self.gamma_initializer, **learned)
        self.beta = self.add_weight(name="beta", initializer="zeros", **learned) if self.center else None
        # Each replica keeps a copy, and the step gives all of them the same value: reading needs no
        # communication, and saving takes the first.
        statistic = {
            **learned,
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **statistic)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **statistic)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Normalises `inputs`.

        Args:
            inputs: `[..., channels]`.
            training: use the statistics of this batch, else the moving averages.

        Returns:
            Outputs `[..., channels]` in the dtype of the inputs; mean and variance that were used, each
            `[channels]`, without gradient, in the dtype of the variables, which is that of the computation.
        """
        training = training and self.trainable
        if inputs.dtype == tf.float64 or (training and self.synchronized and collectives.num_replicas() > 1):
            outputs, mean, variance = self._normalize_by_moments(inputs, training)
        else:
            outputs, mean, variance = self._normalize_fused(inputs, training)
        return outputs, tf.stop_gradient(mean), tf.stop_gradient(variance)

    def _offset(self) -> tf.Tensor:
        return tf.zeros_like(self.gamma) if self.beta is None else self.beta

    def _normalize_by_moments(self, inputs: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        values = tf.cast(inputs, self.gamma.dtype)
        if not training:
            mean, variance = tf.identity(self.moving_mean), tf.identity(self.moving_variance)
        else:
            axes = list(range(values.shape.rank - 1))
            # In float32, moments around 0 would lose the variance of values far from it. The moving mean
            # is near, the same on all replicas, and known beforehand, so one collective is enough.
            near = tf.stop_gradient(tf.identity(self.moving_mean))
            squares = tf.math.squared_difference(values, near)
            moments = tf.stack([tf.reduce_mean(values - near, axes), tf.reduce_mean(squares, axes)])
            if self.synchronized:
                moments = collectives.cross_replica_mean(moments)
            mean = near + moments[0]
            variance = tf.maximum(moments[1] - tf.square(moments[0]), 0)
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        shift = self._offset() - mean * scale
        return tf.cast(values * scale + shift, inputs.dtype), mean, variance

    def _normalize_fused(self, inputs: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images = inputs if inputs.shape.rank == 4 else inputs[:, None, None, :]
        empty = tf.zeros([0], self.gamma.dtype)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=self.gamma,
            offset=self._offset(),
            mean=empty if training else self.moving_mean,
            variance=empty if training else self.moving_variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        outputs = outputs if inputs.shape.rank == 4 else outputs[:, 0, 0, :]
        if not training:
            return outputs, tf.identity(self.moving_mean), tf.identity(self.moving_variance)
        # The kernel multiplies the variance that it returns by N / (N - 1), not the one that it uses.
        count = tf.cast(tf.size(images) // tf.shape(images)[-1], variance.dtype)
        return outputs, mean, variance * (tf.maximum(count - 1, 1) / count)

    def update(self, mean: tf.Tensor, variance: tf.Tensor, where: tf.Tensor | None = None) -> None:
        """Moves the moving averages towards the statistics `mean` and `variance`, each `[channels]`.

        Args:
            mean: of the batch.
            variance: of the batch.
            where: bool `[]`, false to leave the averages as they are; None for true.
        """
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moved = average * self.momentum + tf.cast(value, average.dtype) * (1 - self.momentum)
            average.assign(moved if where is None else tf.where(where, moved, average))


def update_moving_statistics(
    norms: Sequence[BatchNormalization],
    statistics: Sequence[tuple[tf.Tensor, tf.Tensor]],
    *,
    where: tf.Tensor | None = None,
) -> None:
    """Updates the moving averages of every trainable layer once, with the mean over replicas.

    Args:
        norms: the `BatchNormalization` layers.
        statistics: a (mean, variance) pair, each `[channels]`, for every layer, in the same order.
        where: bool `[]`, false to leave the averages as they are; None for true.
    """
    active = [(norm, pair) for norm, pair in zip(norms, statistics, strict=True) if norm.trainable]
    local = [pair for norm, pair in active if not norm.synchronized]
    averaged = iter(collectives.cross_replica_mean(local) if local else ())
    for norm, pair in active:
        mean, variance = pair if norm.synchronized else next(averaged)
        norm.update(mean, variance, where)
