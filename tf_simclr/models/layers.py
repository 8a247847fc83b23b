"""Layers, and the builder of the stages of a network."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tf_simclr.config import ModelConfig
from tf_simclr.models.normalization import BatchNormalization


class Conv2D(tf.keras.layers.Conv2D):
    """Convolution without bias whose padding depends on the kernel only, not on the image size.

    Strided convolutions pad (k-1)//2 before and the rest after, like the authors' code; `SAME`
    would pad even-sized images one pixel later.
    """

    def __init__(self, filters: int, kernel_size: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding="same",  # Keras derives shapes from it; `call` pads by itself.
            use_bias=False,
            kernel_initializer=tf.keras.initializers.VarianceScaling(),
            **kwargs,
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), filters]`."""
        # oneDNN has no gradients of explicit padding, and Eigen's take twice as long.
        size = self.kernel_size[0]
        if size == 1:
            # oneDNN's filter gradient of a strided convolution of size 1 writes past its memory: the process crashes.
            # This pooling picks the same pixels as fast as the stride; a slice takes twice as long.
            inputs = inputs if self.strides == (1, 1) else tf.nn.avg_pool2d(inputs, 1, self.strides, "VALID")
            return tf.nn.conv2d(inputs, self.kernel, 1, "VALID")
        if self.strides == (1, 1) and size % 2:
            return tf.nn.conv2d(inputs, self.kernel, 1, "SAME")
        before = (size - 1) // 2
        sides = [before, size - 1 - before]
        padded = tf.pad(inputs, [[0, 0], sides, sides, [0, 0]])
        return tf.nn.conv2d(padded, self.kernel, self.strides, "VALID")


class ShortcutPooling(tf.keras.layers.Layer):
    """The 2x2 average pooling of a ResNet-D shortcut (arXiv 1812.01187).

    With stride 2 it appends and counts a row and a column of zeros, like the authors' code.
    """

    def __init__(self, strides: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strides = strides

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), C]`."""
        if self.strides == 1:
            return tf.nn.avg_pool2d(inputs, 2, 1, "SAME")
        padded = tf.pad(inputs, [[0, 0], [0, 1], [0, 1], [0, 0]])
        return tf.nn.avg_pool2d(padded, 2, self.strides, "VALID")


class BranchSum(tf.keras.layers.Layer):
    """The sum of the two halves of the channels."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Adds the branches, `[B, 1, 1, 2F]` to `[B, 1, 1, F]`."""
        first, second = tf.split(inputs, 2, axis=-1)
        return first + second


class BranchMix(tf.keras.layers.Layer):
    """The two branches of an SK unit, weighted by a softmax over the branches (arXiv 1903.06586).

    The softmax of two logits is the sigmoid of their difference, which needs one weight, not two.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Mixes features `[B, H, W, 2F]` with logits `[B, 1, 1, 2F]` to `[B, H, W, F]`."""
        features, logits = inputs
        first, second = tf.split(features, 2, axis=-1)
        first_logits, second_logits = tf.split(tf.cast(logits, self.variable_dtype), 2, axis=-1)
        weight = tf.cast(tf.sigmoid(first_logits - second_logits), features.dtype)
        return second + weight * (first - second)


class Stage(tf.keras.Model):
    """A part of the network to call, freeze and recompute by itself.

    Calling it returns a dictionary: `features`, the input of the next stage; `statistics`, a
    (mean, variance) pair for each of `norms`; `endpoints`, named intermediate tensors.

    Attributes:
        norms: its `BatchNormalization` layers, in the order of `statistics`.
        group: 0 for the stem, 1 to 4 for the block groups; for freezing.
        endpoint: name of its `features` among the outputs of the network, or None.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: dict[str, Any],
        *,
        norms: Iterable[BatchNormalization],
        group: int = 0,
        endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, **kwargs)
        self.norms = tuple(norms)
        self.group = group
        self.endpoint = endpoint


class StageBuilder:
    """Adds layers to one stage and collects the statistics of its batch norms.

    Args:
        config: of the network.
        input_shape: of one example, without the batch.
        name: of the stage.
    """

    def __init__(self, config: ModelConfig, input_shape: tuple[int | None, ...], name: str) -> None:
        self.config = config
        self.name = name
        self.inputs = tf.keras.Input(input_shape, dtype=config.compute_dtype)
        self._norms: list[BatchNormalization] = []
        self._statistics: list[tuple[tf.Tensor, tf.Tensor]] = []

    def conv(self, inputs: tf.Tensor, filters: int, kernel_size: int, *, strides: int = 1, name: str) -> tf.Tensor:
        """Adds a convolution."""
        return self.layer(Conv2D, inputs, filters, kernel_size, strides, name=name)

    def norm(
        self, inputs: tf.Tensor, *, name: str, relu: bool = True, zero_gamma: bool = False, center: bool = True
    ) -> tf.Tensor:
        """Adds batch norm and, with `relu`, the rectifier."""
        layer = BatchNormalization(
            momentum=self.config.batch_norm_decay,
            synchronized=self.config.global_bn,
            center=center,
            gamma_initializer="zeros" if zero_gamma else "ones",
            name=f"{self.name}/{name}",
            dtype=self.config.precision,
        )
        outputs, mean, variance = layer(inputs)
        self._norms.append(layer)
        self._statistics.append((mean, variance))
        return self.layer(tf.keras.layers.ReLU, outputs) if relu else outputs

    def add(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """Adds the sum of two tensors of one shape."""
        return self.layer(tf.keras.layers.Add, [first, second])

    def average(self, inputs: tf.Tensor) -> tf.Tensor:
        """Adds the mean over the positions, `[B, H, W, C]` to `[B, 1, 1, C]`, not in 16 bits: they cannot sum it up."""
        pooling, dtype = tf.keras.layers.GlobalAveragePooling2D, self.config.variable_dtype
        return pooling(keepdims=True, dtype=dtype)(inputs)

    def layer(self, layer_class: Any, inputs: Any, *args: Any, name: str | None = None, **kwargs: Any) -> tf.Tensor:
        """Adds any other layer, with the precision of the network."""
        name = name and f"{self.name}/{name}"
        return layer_class(*args, name=name, dtype=self.config.precision, **kwargs)(inputs)

    def finish(
        self,
        features: tf.Tensor,
        *,
        endpoints: dict[str, tf.Tensor] | None = None,
        group: int = 0,
        endpoint: str | None = None,
    ) -> Stage:
        """Returns the stage that ends in `features`."""
        outputs = {"features": features, "statistics": self._statistics, "endpoints": endpoints or {}}
        return Stage(self.inputs, outputs, norms=self._norms, group=group, endpoint=endpoint, name=self.name)
