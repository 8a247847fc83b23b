"""A builder of networks that adds no layers, but counts what they cost."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from tf_simclr.config import ModelConfig

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
        parameters: numbers in all variables, moving averages included.
        products: of one image.
    """

    group: int
    parameters: int
    products: tuple[Product, ...]

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
    """What a builder that counts returns in the place of a stage."""

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

    def __init__(
        self, config: ModelConfig, input_shape: tuple[int, ...], on_finish: Callable[[Activation], None]
    ):
        self.config = config
        self.inputs = Activation(tuple(input_shape))
        self._on_finish = on_finish
        self._parameters = 0
        self._products: list[Product] = []

    def conv(self, inputs: Activation, filters: int, kernel_size: int, *, strides: int = 1, name: str):
        """Counts a convolution without bias."""
        del name
        return self._convolve(inputs, filters, kernel_size, strides)

    def norm(self, inputs: Activation, *, center: bool = True, **others: Any):
        """Counts the parameters of batch norm."""
        del others
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
        import tensorflow as tf

        from tf_simclr.models.layers import BranchMix, BranchSum, ShortcutPooling

        layers, first = tf.keras.layers, inputs[0] if isinstance(inputs, list) else inputs
        if layer_class is layers.Dense:
            return self._multiply(first, args[0], use_bias)
        if layer_class is layers.Conv2D:
            return self._convolve(first, args[0], args[1], bias=use_bias)
        if layer_class in (layers.MaxPooling2D, ShortcutPooling):
            return _stride(first, kwargs.get("strides") or args[-1])
        if layer_class in (BranchSum, BranchMix):
            return dataclasses.replace(first, shape=(*first.shape[:-1], first.shape[-1] // 2))
        if layer_class in (layers.ReLU, layers.Multiply):
            return first
        raise TypeError(f"benchmarks.counting: what {layer_class.__name__} costs is not known; add it here.")

    def finish(self, features: Activation, *, group: int = 0, **others: Any) -> _CountedStage:
        """Returns the costs of the stage that ends in `features`."""
        del others
        self._on_finish(features)
        return _CountedStage(StageCost(group, self._parameters, tuple(self._products)), features)

    def _convolve(self, inputs, filters, kernel_size, strides=1, *, bias=False):
        outputs = _stride(inputs, strides)
        kernel = kernel_size**2 * inputs.shape[-1] * filters
        self._add_product(inputs, kernel, math.prod(outputs.shape[:-1]))
        self._parameters += filters * bias
        return Activation((*outputs.shape[:-1], filters), trained=True)

    def _multiply(self, inputs, units, bias):
        self._add_product(inputs, inputs.shape[-1] * units, 1)
        self._parameters += units * bias
        return Activation((units,), trained=True)

    def _add_product(self, inputs: Activation, kernel: int, positions: int) -> None:
        self._parameters += kernel
        self._products.append(Product(2 * kernel * positions, on_stage_input=not inputs.trained))


def _stride(inputs: Activation, strides: int) -> Activation:
    height, width, channels = inputs.shape
    return dataclasses.replace(inputs, shape=(-(-height // strides), -(-width // strides), channels))
