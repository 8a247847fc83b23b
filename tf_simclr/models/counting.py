"""Costs of a network, counted without building it: its builders are handed one that adds no layers, but counts."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.config import ModelConfig
from tf_simclr.models.heads import build_projection_head
from tf_simclr.models.layers import BranchMix, BranchSum, ShortcutPooling
from tf_simclr.models.resnet import build_stages

# Both moving averages of batch norm are counted as parameters, as the paper's tables have it.
_BATCH_NORM_PARAMETERS = 4


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or dense layer, for one image.

    Attributes:
        flops: operations of the forward pass; the gradients by its kernel and by its input take as many each.
        on_stage_input: whether nothing that can be trained lies between the input of its stage and it.
    """

    flops: int
    on_stage_input: bool


@dataclasses.dataclass(frozen=True)
class StageCost:
    """What a stage of the network costs.

    Attributes:
        group: 0 for the stem, 1 to 4 for the block groups; 0 for a layer of the projection head.
        parameters: Numbers in all variables, moving averages included.
        products: Convolutions and dense layers of one image.
        kept: Numbers of one image that the forward pass keeps for the gradient.
        outputs: Numbers of one image in the output of the stage.
        largest: Numbers of one image in the largest output of a layer.
    """

    group: int
    parameters: int
    products: tuple[Product, ...]
    kept: int
    outputs: int
    largest: int

    @property
    def flops(self) -> int:
        """Operations of the forward pass of one image."""
        return sum(product.flops for product in self.products)


@dataclasses.dataclass(frozen=True)
class Activation:
    """Stands in for a tensor: its shape without the batch, and whether a kernel of its stage lies before it."""

    shape: tuple[int, ...]
    trained: bool = False


class _CountedStage:
    """What a builder that counts returns instead of a stage."""

    def __init__(self, cost: StageCost, features: Activation):
        self.cost = cost
        self.output_shape = {"features": features.shape}


class CountingBuilder:
    """Takes the place of a `StageBuilder`, and counts what that would add.

    Args:
        config: of the network.
        input_shape: of one example, without the batch; static.
        on_finish: is given the last activation of the stage.
    """

    def __init__(self, config: ModelConfig, input_shape: tuple[int, ...], on_finish: Callable[[Activation], None]):
        self.config = config
        self.inputs = Activation(tuple(input_shape))
        self._on_finish = on_finish
        self._parameters = 0
        self._products: list[Product] = []
        self._kept = 0
        self._largest = 0

    def conv(self, inputs: Activation, filters: int, kernel_size: int, *, strides: int = 1, name: str):
        """Counts a convolution without bias."""
        del name
        return self._convolve(inputs, filters, kernel_size, strides)

    def norm(self, inputs: Activation, *, center: bool = True, relu: bool = True, **others: Any):
        """Counts the parameters of batch norm, and the output of the rectifier."""
        del others
        self._keep(inputs.shape if relu else ())
        self._parameters += (_BATCH_NORM_PARAMETERS - (not center)) * inputs.shape[-1]
        return dataclasses.replace(inputs, trained=True)

    def add(self, first: Activation, second: Activation):
        """Returns the sum of both."""
        return dataclasses.replace(first, trained=first.trained or second.trained)

    def average(self, inputs: Activation):
        """Returns the mean over the positions."""
        return dataclasses.replace(inputs, shape=(1, 1, inputs.shape[-1]))

    def layer(self, layer_class: type, inputs: Any, *args: Any, use_bias: bool = True, **kwargs: Any):
        """Counts any other layer.

        Raises:
            TypeError: it is of a class whose cost is not known here.
        """
        layers, first = tf.keras.layers, inputs[0] if isinstance(inputs, list) else inputs
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
        raise TypeError(f"tf_simclr.models.counting: what {layer_class.__name__} costs is not known; add it here.")

    def finish(self, features: Activation, *, group: int = 0, **others: Any) -> _CountedStage:
        """Returns the costs of the stage that ends in `features`."""
        del others
        self._on_finish(features)
        outputs = math.prod(features.shape)
        products = tuple(self._products)
        return _CountedStage(
            StageCost(group, self._parameters, products, self._kept, outputs, max(self._largest, outputs)),
            features,
        )

    def _convolve(self, inputs, filters, kernel_size, strides=1, *, bias=False):
        outputs = _stride(inputs, strides)
        if strides > 1 and kernel_size > 1:
            self._keep(inputs.shape)  # The padded copy.
        self._keep((*outputs.shape[:-1], filters))
        kernel = kernel_size**2 * inputs.shape[-1] * filters
        self._add_product(inputs, kernel, math.prod(outputs.shape[:-1]))
        self._parameters += filters * bias
        return Activation((*outputs.shape[:-1], filters), trained=True)

    def _multiply(self, inputs, units, bias):
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
    """What a network costs, stage by stage.

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
    """Counts what the encoder and the projection head cost.

    Args:
        config: of the network; `image_size` is the side of the images.
    """
    side = config.image_size

    def make_builder(config, input_shape, name):
        del name
        shape = (side, side, input_shape[-1]) if len(input_shape) == 3 else input_shape
        return CountingBuilder(config, shape, on_finish)

    def on_finish(features: Activation) -> None:
        nonlocal side
        side = features.shape[0]

    builder: Any = make_builder  # It does what the networks need of the class.
    encoder: Any = build_stages(config, builder)
    width = encoder[-1].output_shape["features"][-1]
    head: Any = build_projection_head(config, width, builder)
    widths = (width, *(stage.output_shape["features"][-1] for stage in head))
    return NetworkCost(tuple(s.cost for s in encoder), tuple(s.cost for s in head), widths)
