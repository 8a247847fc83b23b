"""Floating point operations of a network and of its training step, counted without running it.

python run.py --mode=benchmark --benchmark=flops --image_size=224

Counts convolutions, dense layers and the similarities of the contrastive loss, with two operations per
multiplication and addition. Elementwise work (batch norm, rectifiers, the optimizer) is left out, as is usual. The
builders of `tf_simclr.models` receive an object that counts their layers instead of adding them.
"""

import dataclasses

from benchmarks.synthetic import count_classes, training_of
from tf_simclr.config import BenchmarkConfig, ExperimentConfig
from tf_simclr.models.counting import NetworkCost, StageCost, count_network

_SK = 0.0625
# Depth, width and SK ratio of the paper's table 1 (arXiv 2006.10029).
_NETWORKS = (
    *((depth, width, ratio) for depth in (50, 101, 152) for width in (1, 2) for ratio in (0, _SK)),
    (152, 3, _SK),
)
_NETWORK_FLAGS = {"resnet_depth", "width_multiplier", "sk_ratio", "se_ratio"}


def step_flops(training: ExperimentConfig) -> int:
    """Counts one training step: the forward pass, and the gradients by kernels and by their inputs.

    There is no gradient by images, by frozen layers, or by the features of a probe. Work that is repeated to save
    memory counts once, so that rates are comparable.

    Args:
        training: configuration of the step; pretraining has its linear probe unless it is switched off.

    Returns:
        Operations of the whole batch.
    """
    model, batch = training.model, training.train.train_batch_size
    network = count_network(model)
    head = 2 * network.head_widths[model.ft_proj_selector] * count_classes(model)
    if training.train.is_contrastive:
        one = _trained_flops((*network.encoder, *network.projection_head))
        # The probe's forward pass and the gradient by its kernel.
        one += 2 * head if training.train.lineareval_while_pretraining else 0
        return 2 * batch * one + _similarity_flops(training, network)
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


def _similarity_flops(training: ExperimentConfig, network: NetworkCost) -> int:
    """Counts the similarities of all views with all views and with the stored negatives, and their gradients.

    Stored negatives also need the forward pass of the average network, and have no gradient themselves.
    """
    rows, stored = 2 * training.train.train_batch_size, training.contrast.memory_size
    row = 2 * rows * network.head_widths[-1]  # One row with all others.
    return 3 * rows * row + (2 * stored * row + rows * network.flops if stored else 0)


def _trained_flops(stages: tuple[StageCost, ...], num_frozen: int = 0) -> int:
    """Counts forward pass and gradients of one image; the first `num_frozen` parts of the network are frozen."""
    total = sum(stage.flops for stage in stages)
    for number, stage in enumerate(stages[num_frozen:]):
        for product in stage.products:
            has_input_gradient = number > 0 or not product.on_stage_input
            total += product.flops * (1 + has_input_gradient)
    return total


def count_table(config: BenchmarkConfig) -> list[str]:
    """Returns the lines of a table of the paper's networks, or of the one whose depth, width, SK or SE is stated."""
    models = [config.model]
    if not _NETWORK_FLAGS.intersection(config.stated):
        models = [
            dataclasses.replace(config.model, resnet_depth=depth, width_multiplier=float(width), sk_ratio=ratio)
            for depth, width, ratio in _NETWORKS
        ]
    example = "pair" if config.train.is_contrastive else "image"
    return [
        f"{config.train.train_mode} step of {config.benchmark_batch_size} {example}s",
        f"| network | parameters, M | forward, GFLOP an image | step, GFLOP a {example} |",
        "| --- | --- | --- | --- |",
        *(_row(dataclasses.replace(config, model=model)) for model in models),
    ]


def _row(config: BenchmarkConfig) -> str:
    network = count_network(config.model)
    step = step_flops(training_of(config)) / config.benchmark_batch_size
    return (
        f"| {config.model.describe()} | {network.parameters / 1e6:.2f} | {network.encoder_flops / 1e9:.2f} | "
        f"{step / 1e9:.2f} |"
    )
