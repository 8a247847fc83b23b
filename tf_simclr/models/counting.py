"""Costs of a network, counted by a builder that adds no layers."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from tf_simclr.config import ModelConfig
from tf_simclr.models.heads import build_projection_head
from tf_simclr.models.layers import BranchMix, BranchSum, ShortcutPooling
from tf_simclr.models.resnet import build_stages

# Parameters include both moving averages of batch norm, like the paper's tables.
_BATCH_NORM_PARAMETERS = 4


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or dense layer, for one image.

    Attributes:
        flops: operations of the forward pass; the gradients by its kernel and by its input take as many each.
        on_stage_input: whether no trainable layer lies between the input of its stage and it.
    """

    flops: int
    on_stage_input: bool


@dataclasses.dataclass(frozen=True)
class StageCost:
    """Costs of a stage, instead of the stage.

    Attributes:
        group: 0 for the stem, 1 to 4 for the block groups; 0 for a layer of the projection head.
        parameters: Numbers in all variables, moving averages included.
        products: Convolutions and dense layers of one image.
        kept: Numbers of one image that the forward pass keeps for the gradient.
        largest: Numbers of one image in the largest output of a layer.
        output_shape: `{"features": shape}` of the output for one image, like that of a stage.
    """

    group: int
    parameters: int
    products: tuple[Product, ...]
    kept: int
    largest: int
    output_shape: dict[str, tuple[int, ...]]

    @property
    def outputs(self) -> int:
        """Numbers of one image in the output of the stage."""
        return math.prod(self.output_shape["features"])

    @property
    def flops(self) -> int:
        """Operations of the forward pass of one image."""
        return sum(product.flops for product in self.products)


@dataclasses.dataclass(frozen=True)
class Activation:
    """A tensor's shape without the batch, and whether a kernel of its stage lies before it."""

    shape: tuple[int, ...]
    trained: bool = False


class CountingBuilder:
    """A `StageBuilder` that counts instead of adding layers.

    Args:
        config: of the network.
        input_shape: of one example, without the batch; static.
        finished: list of the finished stages, to add this one to.
    """

    def __init__(self, config: ModelConfig, input_shape: tuple[int, ...], finished: list[StageCost]) -> None:
        self.config = config
        self.inputs = Activation(input_shape)
        self._parameters = self._kept = self._largest = 0
        self._products: list[Product] = []
        self._finished = finished

    def conv(
        self, inputs: Activation, filters: int, kernel_size: int, *, strides: int = 1, **_others: Any
    ) -> Activation:
        """Counts a convolution without bias."""
        return self._convolve(inputs, filters, kernel_size, strides)

    def norm(self, inputs: Activation, *, center: bool = True, relu: bool = True, **_others: Any) -> Activation:
        """Counts the parameters of batch norm, and the output of the rectifier."""
        self._keep(inputs.shape if relu else ())
        self._parameters += (_BATCH_NORM_PARAMETERS - (not center)) * inputs.shape[-1]
        return dataclasses.replace(inputs, trained=True)

    def add(self, first: Activation, second: Activation) -> Activation:
        """Returns the sum of both."""
        return dataclasses.replace(first, trained=first.trained or second.trained)

    def average(self, inputs: Activation) -> Activation:
        """Returns the mean over the positions."""
        return dataclasses.replace(inputs, shape=(1, 1, inputs.shape[-1]))

    def layer(self, layer_class: type, inputs: Any, *args: Any, use_bias: bool = True, **kwargs: Any) -> Activation:
        """Counts any other layer.

        Raises:
            TypeError: its class has no known cost.
        """
        layers = tf.keras.layers
        first: Activation = inputs[0] if isinstance(inputs, list) else inputs
        if layer_class is layers.Dense:
            return self._multiply(first, args[0], use_bias)
        if layer_class is layers.Conv2D:
            return self._convolve(first, args[0], args[1], bias=use_bias)
        if layer_class in (layers.MaxPooling2D, ShortcutPooling):
            pooled = _stride(first, kwargs.get("strides") or args[-1])
            self._keep(pooled.shape)
            return pooled
        if layer_class in (BranchSum, BranchMix):
            self._keep(first.shape)  # The mixture and the difference of the branches.
            return dataclasses.replace(first, shape=(*first.shape[:-1], first.shape[-1] // 2))
        if layer_class in (layers.ReLU, layers.Multiply):
            self._keep(first.shape)
            return first
        raise TypeError(f"tf_simclr.models.counting: the cost of {layer_class.__name__} is unknown; add it here.")

    def finish(self, features: Activation, *, group: int = 0, **_others: Any) -> StageCost:
        """Returns the costs of the stage that ends in `features`."""
        largest = max(self._largest, math.prod(features.shape))
        shape = {"features": features.shape}
        cost = StageCost(group, self._parameters, tuple(self._products), self._kept, largest, shape)
        self._finished.append(cost)
        return cost

    def _convolve(
        self, inputs: Activation, filters: int, kernel_size: int, strides: int = 1, *, bias: bool = False
    ) -> Activation:
        outputs = _stride(inputs, strides)
        if strides > 1 and kernel_size > 1:
            self._keep(inputs.shape)  # The padded copy.
        self._keep((*outputs.shape[:-1], filters))
        kernel = kernel_size**2 * inputs.shape[-1] * filters
        self._add_product(inputs, kernel, math.prod(outputs.shape[:-1]))
        self._parameters += filters * bias
        return Activation((*outputs.shape[:-1], filters), trained=True)

    def _multiply(self, inputs: Activation, units: int, bias: bool) -> Activation:
        self._keep((units,))
        self._add_product(inputs, inputs.shape[-1] * units, 1)
        self._parameters += units * bias
        return Activation((units,), trained=True)

    def _keep(self, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) if shape else 0
        self._kept += size
        self._largest = max(self._largest, size)

    def _add_product(self, inputs: Activation, kernel: int, positions: int) -> None:
        self._parameters += kernel
        self._products.append(Product(2 * kernel * positions, on_stage_input=not inputs.trained))


def _stride(inputs: Activation, strides: int) -> Activation:
    height, width, channels = inputs.shape
    return dataclasses.replace(inputs, shape=(-(-height // strides), -(-width // strides), channels))


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Costs of a network, stage by stage.

    Attributes:
        encoder: the stem, then the residual blocks.
        projection_head: its layers.
        head_widths: of the encoder's output and of the output of each layer of the projection head.
    """

    encoder: tuple[StageCost, ...]
    projection_head: tuple[StageCost, ...]
    head_widths: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Numbers in the variables of the encoder, moving averages included."""
        return sum(stage.parameters for stage in self.encoder)

    @property
    def encoder_flops(self) -> int:
        """Operations of the encoder's forward pass for one image."""
        return sum(stage.flops for stage in self.encoder)

    @property
    def flops(self) -> int:
        """Operations of the forward pass for one image, with the projection head."""
        return self.encoder_flops + sum(stage.flops for stage in self.projection_head)


def count_network(config: ModelConfig) -> NetworkCost:
    """Counts the costs of the encoder and the projection head for images of side `config.image_size`."""
    finished: list[StageCost] = []

    def make_builder(config: ModelConfig, input_shape: tuple[Any, ...], _name: str) -> CountingBuilder:
        if len(input_shape) == 3:
            sides = finished[-1].output_shape["features"][:2] if finished else (config.image_size,) * 2
            input_shape = (*sides, input_shape[-1])
        return CountingBuilder(config, input_shape, finished)

    encoder = build_stages(config, make_builder)
    width = encoder[-1].output_shape["features"][-1]
    head = build_projection_head(config, width, make_builder)
    widths = (width, *(stage.output_shape["features"][-1] for stage in head))
    return NetworkCost(tuple(encoder), tuple(head), widths)
