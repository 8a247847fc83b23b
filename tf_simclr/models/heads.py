"""The projection head and the supervised head."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.config import ModelConfig
from tf_simclr.models.layers import StageBuilder


def build_projection_head(
    config: ModelConfig, in_features: int, make_builder: Callable[..., Any] = StageBuilder
) -> list[Any]:
    """Builds the layers of the projection head, each a stage: dense, batch norm and, except in the last, ReLU.

    SimCLRv2 (arXiv 2006.10029), section 2.1. The last layer is `proj_out_dim` wide and its batch norm has no
    offset.

    Args:
        config: `proj_head_mode`, `num_proj_layers`, `proj_out_dim`.
        in_features: width of the encoder's output, and of the hidden layers.
        make_builder: class of the builders of the stages.

    Returns:
        `config.num_head_layers` stages (see `resnet.build_stages`) from `[B, in_features]` to `[B, proj_out_dim]`.
    """
    stages = []
    for index in range(config.num_head_layers):
        last = index == config.num_head_layers - 1
        builder = make_builder(config, (in_features,), f"layer{index + 1}")
        x = builder.layer(
            tf.keras.layers.Dense,
            builder.inputs,
            config.proj_out_dim if last else in_features,
            use_bias=False,
            kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            name="dense",
        )
        stages.append(builder.finish(builder.norm(x, name="norm", relu=not last, center=not last)))
    return stages


def build_supervised_head(config: ModelConfig, num_classes: int, in_features: int) -> tf.keras.layers.Dense:
    """Builds the linear classifier `[B, in_features]` to `[B, num_classes]`.

    Args:
        config: `zero_init_logits_layer` starts its kernel at zero, as in the paper's finetuning.
        num_classes: at least 2.
        in_features: width of the layer below.
    """
    kernel = "zeros" if config.zero_init_logits_layer else tf.keras.initializers.RandomNormal(stddev=0.01)
    head = tf.keras.layers.Dense(
        num_classes, kernel_initializer=kernel, name="supervised_head", dtype=config.variable_dtype
    )
    head.build((None, in_features))
    return head
