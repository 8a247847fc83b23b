"""Floating point operations of a network and of its training step, counted without running it.

python run.py --mode=benchmark --benchmark=flops --image_size=224

Counts convolutions, dense layers and the similarities of the contrastive loss, two operations for each
multiplication with its addition; what is elementwise (batch norm, rectifiers, the optimizer) is left out, as it is
elsewhere. The layers are those that `tf_simclr.models` adds: its builders are handed one that adds nothing,
but counts.
"""

import dataclasses
import math
from typing import Any

from benchmarks.figures import network_name
from benchmarks.synthetic import count_classes, training_of
from tf_simclr.config import BenchmarkConfig, ExperimentConfig, ModelConfig

# Both moving averages of batch norm are counted as parameters, as the paper's tables have it.
_BATCH_NORM_PARAMETERS = 4
_SK = 0.0625
# Depth, width and SK ratio of the paper's table 1 (arXiv 2006.10029).
_NETWORKS = (
    *((depth, width, ratio) for depth in (50, 101, 152) for width in (1, 2) for ratio in (0, _SK)),
    (152, 3, _SK),
)
_NETWORK_FLAGS = {"resnet_depth", "width_multiplier", "sk_ratio", "se_ratio"}


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


@dataclasses.dataclass(frozen=True)
class _Activation:
    """Stands in for a tensor: its shape without the batch, and whether a kernel of its stage lies before it."""

    shape: tuple[int, ...]
    trained: bool = False


def count_network(config: ModelConfig) -> NetworkCost:
    """Counts what the encoder and the projection head cost.

    Args:
        config: of the network; `image_size` is the side of the images.
    """
    from tf_simclr.models.heads import build_projection_head
    from tf_simclr.models.resnet import build_stages

    side = config.image_size

    def make_builder(config, input_shape, name):
        del name
        shape = (side, side, input_shape[-1]) if len(input_shape) == 3 else input_shape
        return CountingBuilder(config, shape, on_finish)

    def on_finish(features: _Activation) -> None:
        nonlocal side
        side = features.shape[0]

    encoder = build_stages(config, make_builder)
    width = encoder[-1].output_shape["features"][-1]
    head = build_projection_head(config, width, make_builder)
    widths = (width, *(stage.output_shape["features"][-1] for stage in head))
    return NetworkCost(tuple(s.cost for s in encoder), tuple(s.cost for s in head), widths)


def step_flops(training: ExperimentConfig, num_classes: int) -> int:
    """Counts one training step: the forward pass, and the gradients by kernels and by what lies before them.

    By images there is no gradient, and none by what is frozen; a probe has none by its features. Work that is
    done twice to save memory counts once, so that a rate says what the step achieves.

    Args:
        training: of the step; pretraining has its linear probe unless it is switched off.
        num_classes: of the supervised head.

    Returns:
        Operations of the whole batch.
    """
    model, batch = training.model, training.train.train_batch_size
    network = count_network(model)
    head = _supervised_flops(network, model, num_classes)
    if training.train.train_mode == "pretrain":
        one = _trained_flops((*network.encoder, *network.projection_head))
        # The probe's forward pass and the gradient by its kernel.
        one += 2 * head if training.train.lineareval_while_pretraining else 0
        return 2 * batch * one + 3 * similarity_flops(batch, network.head_widths[-1])
    last = model.ft_proj_selector % len(network.head_widths)
    used_head = network.projection_head[:last]
    frozen = sum(stage.group <= model.fine_tune_after_block for stage in network.encoder)
    if frozen == len(network.encoder):  # With the last block the projection head is frozen.
        frozen += last
    one = _trained_flops((*network.encoder, *used_head), frozen)
    one += head * (2 if frozen == len(network.encoder) + last else 3)
    if training.train.train_mode == "distill":  # The teacher, which has the network of its student.
        one += network.encoder_flops + sum(stage.flops for stage in used_head) + head
    return batch * one


def similarity_flops(batch_size: int, width: int) -> int:
    """Counts the similarities of all views with all views: one product of `[2B, d]` with `[d, 2B]`.

    Args:
        batch_size: B, images that are compared.
        width: d, of a projection.
    """
    return 2 * (2 * batch_size) ** 2 * width


def _supervised_flops(network: NetworkCost, config: ModelConfig, num_classes: int) -> int:
    return 2 * network.head_widths[config.ft_proj_selector] * num_classes


def _trained_flops(stages: tuple[StageCost, ...], num_frozen: int = 0) -> int:
    """Counts forward pass and gradients of one image, where the first `num_frozen` stages are frozen."""
    total = sum(stage.flops for stage in stages)
    for number, stage in enumerate(stages[num_frozen:]):
        for product in stage.products:
            has_input_gradient = number > 0 or not product.on_stage_input
            total += product.flops * (1 + has_input_gradient)
    return total


def count_table(config: BenchmarkConfig) -> list[str]:
    """Returns the lines of a table: the paper's networks, or the one whose depth, width, SK or SE is stated."""
    models = [config.model]
    if not _NETWORK_FLAGS.intersection(config.stated):
        models = [
            dataclasses.replace(
                config.model, resnet_depth=depth, width_multiplier=float(width), sk_ratio=ratio
            )
            for depth, width, ratio in _NETWORKS
        ]
    example = "pair" if config.train.train_mode == "pretrain" else "image"
    return [
        f"{config.model.image_size} px, {config.train.train_mode} step of {config.benchmark_batch_size} {example}s",
        f"| network | parameters, M | forward, GFLOP an image | step, GFLOP a {example} |",
        "| --- | --- | --- | --- |",
        *(_row(dataclasses.replace(config, model=model)) for model in models),
    ]


def _row(config: BenchmarkConfig) -> str:
    network, training = count_network(config.model), training_of(config)
    step = step_flops(training, count_classes(config.model)) / config.benchmark_batch_size
    return (
        f"| {network_name(config.model)} | {network.parameters / 1e6:.2f} | {network.encoder_flops / 1e9:.2f} | "
        f"{step / 1e9:.2f} |"
    )


class _CountedStage:
    """What a builder that counts returns in the place of a stage."""

    def __init__(self, cost: StageCost, features: _Activation):
        self.cost = cost
        self.output_shape = {"features": features.shape}


class CountingBuilder:
    """Takes the place of a `StageBuilder`, and counts what that would add.

    Args:
        config: of the network.
        input_shape: of one example, without the batch; static.
        on_finish: is given the last activation of the stage.
    """

    def __init__(self, config: ModelConfig, input_shape: tuple[int, ...], on_finish: Any):
        self.config = config
        self.inputs = _Activation(tuple(input_shape))
        self._on_finish = on_finish
        self._parameters = 0
        self._products: list[Product] = []

    def conv(self, inputs: _Activation, filters: int, kernel_size: int, *, strides: int = 1, name: str):
        """Counts a convolution without bias."""
        del name
        return self._convolve(inputs, filters, kernel_size, strides)

    def norm(self, inputs: _Activation, *, center: bool = True, **others: Any):
        """Counts the parameters of batch norm."""
        del others
        self._parameters += (_BATCH_NORM_PARAMETERS - (not center)) * inputs.shape[-1]
        return dataclasses.replace(inputs, trained=True)

    def add(self, first: _Activation, second: _Activation):
        """Returns the sum of both."""
        return dataclasses.replace(first, trained=first.trained or second.trained)

    def average(self, inputs: _Activation):
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
        raise TypeError(f"benchmarks.flops: what {layer_class.__name__} costs is not known; add it here.")

    def finish(self, features: _Activation, *, group: int = 0, **others: Any) -> _CountedStage:
        """Returns the costs of the stage that ends in `features`."""
        del others
        self._on_finish(features)
        return _CountedStage(StageCost(group, self._parameters, tuple(self._products)), features)

    def _convolve(self, inputs, filters, kernel_size, strides=1, *, bias=False):
        outputs = _stride(inputs, strides)
        kernel = kernel_size**2 * inputs.shape[-1] * filters
        self._add_product(inputs, kernel, math.prod(outputs.shape[:-1]))
        self._parameters += filters * bias
        return _Activation((*outputs.shape[:-1], filters), trained=True)

    def _multiply(self, inputs, units, bias):
        self._add_product(inputs, inputs.shape[-1] * units, 1)
        self._parameters += units * bias
        return _Activation((units,), trained=True)

    def _add_product(self, inputs: _Activation, kernel: int, positions: int) -> None:
        self._parameters += kernel
        self._products.append(Product(2 * kernel * positions, on_stage_input=not inputs.trained))


def _stride(inputs: _Activation, strides: int) -> _Activation:
    height, width, channels = inputs.shape
    return dataclasses.replace(inputs, shape=(-(-height // strides), -(-width // strides), channels))
