"""Estimate of the memory that a run needs, from the shapes of its network, before anything of it is built.

Counted for each replica: weights with the optimizer's slots and gradients; what the forward pass keeps for the
gradient; the images of two batches; the similarities of the contrastive loss. Left out: a teacher, data that is kept in
memory, the program itself (about half a gigabyte) and the workspaces of kernels. Measured peaks on a CPU, without the
program, are 1.1 to 1.5 times the estimate (docs/performance.md); XLA for TPU takes 0.7 times.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tf_simclr.config import ExperimentConfig, UserError
from tf_simclr.models.counting import NetworkCost, count_network

_LOG = logging.getLogger("tf_simclr")
_REFUSED_FROM, _TOLD_FROM = 2, 0.6  # Multiples of the free memory.
_NUM_SLOTS = {"lars": 1, "momentum": 1, "adam": 2, "lamb": 2}
_IMAGE_BYTES = 4 * 3  # Of a pixel: float32, three colours.
_BATCHES = 2  # One in the step, one that is ready.
_SIMILARITIES = 4  # Logits, probabilities, and their gradients.
_LIVE_LAYERS = 3  # Input, output and one more, in inference.


class MemoryNeed(NamedTuple):
    """Bytes of memory.

    Attributes:
        weights: those of the network with slots and gradients.
        activations: those of a batch.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.activations


def training_need(config: ExperimentConfig, num_classes: int | None, num_replicas: int) -> MemoryNeed:
    """Returns the need of a replica for a training step.

    Args:
        config: of the run.
        num_classes: classes of the supervised head; None for none.
        num_replicas: replicas that share a batch.
    """
    model, train, contrast = config.model, config.train, config.contrast
    network, batch = count_network(model), train.train_batch_size
    rows = train.num_views * batch / num_replicas
    stages = [stage for stage in network.encoder if stage.group > model.fine_tune_after_block]
    stages += network.projection_head
    kept = sum(stage.kept for stage in stages)
    if train.recompute:
        kept = sum(stage.outputs for stage in stages) + max((stage.kept for stage in stages), default=0)
    activations = rows / contrast.contrast_chunks * kept * _bytes_of(model.compute_dtype)
    activations += _BATCHES * rows * model.image_size**2 * _IMAGE_BYTES
    if train.is_contrastive:
        columns = 2 * batch + contrast.memory_size
        activations += _SIMILARITIES * rows * columns * _bytes_of(model.variable_dtype)
    copies = 2 + _NUM_SLOTS[config.optimizer.optimizer]  # With the gradient.
    copies += (contrast.contrast_chunks > 1) + (contrast.memory_size > 0)
    return MemoryNeed(copies * _weights(config, network, num_classes), int(activations))


def evaluation_need(config: ExperimentConfig, num_classes: int | None, num_replicas: int) -> MemoryNeed:
    """Returns the need of a replica for the evaluation of a batch; see `training_need` for the arguments."""
    model, network = config.model, count_network(config.model)
    largest = max(stage.largest for stage in network.encoder)
    numbers = model.image_size**2 * _IMAGE_BYTES * _BATCHES
    numbers += _LIVE_LAYERS * largest * _bytes_of(model.compute_dtype)
    rows = config.evaluation.eval_batch_size / num_replicas
    copies = 1 + _NUM_SLOTS[config.optimizer.optimizer]
    return MemoryNeed(copies * _weights(config, network, num_classes), int(rows * numbers))


def features_need(image_size: int, shapes: Iterable[Sequence[int]], batch_size: int) -> MemoryNeed:
    """Returns the need of a network that is in memory already, for the features of a batch.

    Args:
        image_size: side of the images.
        shapes: shapes of its named outputs for one image.
        batch_size: images.
    """
    largest = max(math.prod(shape) for shape in shapes)
    numbers = image_size**2 * _IMAGE_BYTES * _BATCHES + _LIVE_LAYERS * largest * _bytes_of("float32")
    return MemoryNeed(0, batch_size * numbers)


def check_need(need: MemoryNeed, available: int | None, *, flag: str, value: object, fix: str) -> None:
    """Warns of a need that may not fit into memory, and refuses one that is far too big.

    Args:
        need: from one of the functions above.
        available: free bytes; None if they are not known.
        flag: flag that the activations grow with.
        value: its value.
        fix: advice, such as `what_helps`.

    Raises:
        UserError: the need is more than twice the free memory.
    """
    if available is None or need.total <= _TOLD_FROM * available:
        return
    shown = (
        f"needs about {_gigabytes(need.total)} of memory ({_gigabytes(need.weights)} for weights, slots and gradients, "
        f"{_gigabytes(need.activations)} for a batch), and {_gigabytes(available)} are free"
    )
    if need.weights > available:
        fix = "use a smaller network: --width_multiplier, --resnet_depth, --num_proj_layers"
    line = f"--{flag}={value}: {shown}; {fix}."
    if need.total > _REFUSED_FROM * available:
        raise UserError(line)
    _LOG.warning("%s It may still fit: this is an estimate.", line)


def what_helps(config: ExperimentConfig) -> str:
    """Returns advice that lets a training step need less memory, a sentence without its end."""
    chunks = config.train.is_contrastive and config.contrast.memory_size == 0
    helps = ["a smaller one"] + ["--recompute"] * (not config.train.recompute)
    helps += ["--contrast_chunks (with --global_bn=False)"] * chunks
    helps += ["--precision=mixed_bfloat16"] * (not config.model.precision.startswith("mixed"))
    return f"use {', '.join(helps[:-1])} or {helps[-1]}" if helps[1:] else f"use {helps[0]}"


def _weights(config: ExperimentConfig, network: NetworkCost, num_classes: int | None) -> int:
    """Returns the bytes of all weights."""
    head = sum(stage.parameters for stage in network.projection_head)
    classifier = (num_classes or 0) * (network.head_widths[config.model.ft_proj_selector] + 1)
    return (network.parameters + head + classifier) * _bytes_of(config.model.variable_dtype)


def _bytes_of(dtype: str) -> int:
    return {"float64": 8, "float32": 4}.get(dtype, 2)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
