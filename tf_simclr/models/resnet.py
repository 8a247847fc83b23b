"""ResNet, ResNet-D with selective kernels, and squeeze-and-excitation, as a list of stages."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.config import ModelConfig
from tf_simclr.config.network import RESNET_BLOCKS
from tf_simclr.models.layers import BranchMix, BranchSum, ShortcutPooling, Stage, StageBuilder

_FIRST_BOTTLENECK_DEPTH = 50
_BOTTLENECK_EXPANSION = 4
_GROUP_FILTERS = (64, 128, 256, 512)


def build_stages(config: ModelConfig, make_builder: Callable[..., Any] = StageBuilder) -> list[Any]:
    """Builds the stages of the encoder: the stem, then one stage for each residual block.

    ResNet (arXiv 1512.03385) with the choices of the authors of SimCLRv2: the stride of a bottleneck is on
    its 3x3 convolution, the first block of each group has a projection shortcut, and `sk_ratio > 0`
    switches ResNet-D (arXiv 1812.01187) and selective kernels (arXiv 1903.06586) on together.

    Args:
        config: depth, width, SK and SE ratios; `image_size <= 32` takes the small stem.
        make_builder: class of the builders of the stages.

    Returns:
        The stages (with a `StageBuilder`, of class `Stage`), from images `[B, H, W, 3]` in [0, 1] to the features
        of the last block.
    """
    stem = _stem(make_builder(config, (None, None, 3), "stem"))
    stages = [stem]
    channels = stem.output_shape["features"][-1]
    for group, num_blocks in enumerate(RESNET_BLOCKS[config.resnet_depth], start=1):
        filters = scaled_filters(_GROUP_FILTERS[group - 1], config)
        for block in range(num_blocks):
            builder = make_builder(config, (None, None, channels), f"block_group{group}_block{block + 1}")
            strides = 2 if block == 0 and group > 1 else 1
            features = _residual_block(builder, filters, strides, projection=block == 0)
            endpoint = f"block_group{group}" if block == num_blocks - 1 else None
            stages.append(builder.finish(features, group=group, endpoint=endpoint))
            channels = features.shape[-1]
    return stages


def endpoint_strides(config: ModelConfig) -> dict[str, int]:
    """Returns how many pixels of the image lie between two neighbours of each feature map."""
    first, pooling = (1, 1) if config.cifar_stem else (2, 2)
    strides = {"initial_conv": first, "initial_max_pool": first * pooling}
    groups = range(1, len(_GROUP_FILTERS) + 1)
    return strides | {f"block_group{group}": first * pooling * 2 ** (group - 1) for group in groups}


def nearest_depth(num_blocks: int, *, bottleneck: bool) -> int:
    """Returns the depth of the ResNet whose number of blocks is nearest to this one."""
    depths = [depth for depth in RESNET_BLOCKS if bottleneck == _has_bottlenecks(depth)]
    return min(depths, key=lambda depth: abs(sum(RESNET_BLOCKS[depth]) - num_blocks))


def encoder_width(config: ModelConfig) -> int:
    """Returns the number of channels of the encoder's output."""
    expansion = _BOTTLENECK_EXPANSION if _has_bottlenecks(config.resnet_depth) else 1
    return expansion * scaled_filters(_GROUP_FILTERS[-1], config)


def scaled_filters(filters: int, config: ModelConfig) -> int:
    """Returns `filters` times the width multiplier, rounded, at least 1."""
    return max(1, round(filters * config.width_multiplier))


def _has_bottlenecks(depth: int) -> bool:
    return depth >= _FIRST_BOTTLENECK_DEPTH


def _stem(builder: StageBuilder) -> Stage:
    config = builder.config
    filters = scaled_filters(64, config)
    if config.cifar_stem:
        initial = builder.conv(builder.inputs, filters, 3, name="conv1")
    elif config.sk_ratio > 0:
        half = scaled_filters(32, config)
        x = builder.conv(builder.inputs, half, 3, strides=2, name="conv1")
        x = builder.norm(x, name="norm1")
        x = builder.norm(builder.conv(x, half, 3, name="conv2"), name="norm2")
        initial = builder.conv(x, filters, 3, name="conv3")
    else:
        initial = builder.conv(builder.inputs, filters, 7, strides=2, name="conv1")
    features = builder.norm(initial, name="norm")
    if not config.cifar_stem:
        features = builder.layer(tf.keras.layers.MaxPooling2D, features, 3, strides=2, padding="same")
    return builder.finish(features, endpoints={"initial_conv": initial}, endpoint="initial_max_pool")


def _residual_block(builder: StageBuilder, filters: int, strides: int, *, projection: bool) -> tf.Tensor:
    bottleneck = _has_bottlenecks(builder.config.resnet_depth)
    out_filters = filters * (_BOTTLENECK_EXPANSION if bottleneck else 1)
    shortcut = builder.inputs
    if projection:
        shortcut = _projection_shortcut(builder, out_filters, strides)
    if bottleneck:
        x = builder.norm(builder.conv(builder.inputs, filters, 1, name="conv1"), name="norm1")
        if builder.config.sk_ratio > 0:
            x = _selective_kernel(builder, x, filters, strides)
        else:
            x = builder.norm(builder.conv(x, filters, 3, strides=strides, name="conv2"), name="norm2")
        x = builder.conv(x, out_filters, 1, name="conv3")
    else:
        x = builder.norm(builder.conv(builder.inputs, filters, 3, strides=strides, name="conv1"), name="norm1")
        x = builder.conv(x, filters, 3, name="conv2")
    x = builder.norm(x, name="last_norm", relu=False, zero_gamma=True)
    if builder.config.se_ratio > 0:
        x = _squeeze_excitation(builder, x, filters)
    return builder.layer(tf.keras.layers.ReLU, builder.add(x, shortcut))


def _projection_shortcut(builder: StageBuilder, filters: int, strides: int) -> tf.Tensor:
    x = builder.inputs
    if builder.config.sk_ratio > 0:
        x = builder.layer(ShortcutPooling, x, strides)
        strides = 1
    x = builder.conv(x, filters, 1, strides=strides, name="shortcut_conv")
    return builder.norm(x, name="shortcut_norm", relu=False)


def _selective_kernel(builder: StageBuilder, inputs: tf.Tensor, filters: int, strides: int) -> tf.Tensor:
    """Adds two branches as one convolution with twice the filters, mixed by a learned attention."""
    branches = builder.conv(inputs, 2 * filters, 3, strides=strides, name="conv2")
    branches = builder.norm(branches, name="norm2")
    pooled = builder.layer(BranchSum, builder.average(branches))
    squeezed = builder.conv(pooled, max(int(filters * builder.config.sk_ratio), 32), 1, name="mix_conv1")
    squeezed = builder.norm(squeezed, name="mix_norm")
    logits = builder.conv(squeezed, 2 * filters, 1, name="mix_conv2")
    return builder.layer(BranchMix, [branches, logits])


def _squeeze_excitation(builder: StageBuilder, inputs: tf.Tensor, filters: int) -> tf.Tensor:
    """Adds channel attention (arXiv 1709.01507) to the output of the block's last batch norm."""
    conv = tf.keras.layers.Conv2D
    # An initializer returns the same numbers in each call, so each layer has its own.
    scaling = tf.keras.initializers.VarianceScaling
    squeezed = max(1, int(filters * builder.config.se_ratio))
    x = builder.average(inputs)
    x = builder.layer(conv, x, squeezed, 1, activation="relu", kernel_initializer=scaling(), name="squeeze")
    x = builder.layer(conv, x, inputs.shape[-1], 1, activation="sigmoid", kernel_initializer=scaling(), name="excite")
    return builder.layer(tf.keras.layers.Multiply, [inputs, x])
