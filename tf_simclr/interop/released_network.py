"""The network in a file of released weights, inferred from the names and shapes of its variables."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tf_simclr.config import MAX_WIDTH, ModelConfig, UserError, check
from tf_simclr.interop.released_files import SUPERVISED_HEAD, ReleasedFile, Shape, numbered
from tf_simclr.models import SimCLRModel
from tf_simclr.models.resnet import encoder_width, nearest_depth

_PAPERS_RATIO = 0.0625
_LEAST_SK_WIDTH = 32
# Fewer than in any network; more than in any of the authors' heads.
_MIN_CONVOLUTIONS, _MAX_HEAD_LAYERS = 6, 10
_HEAD_LAYER = re.compile(r"head_contrastive/(n?l)_(\d+)/dense/kernel")
# The order in which the authors' programs make, and so number, the layers of a block.
_CONVOLUTIONS = ("shortcut_conv", "conv1", "conv2", "mix_conv1", "mix_conv2", "conv3", "squeeze", "excite")
_NORMS = ("shortcut_norm", "norm1", "norm2", "mix_norm", "norm", "last_norm")


class _Release(NamedTuple):
    """Weights that the authors trained for a number of steps that none of their other releases has."""

    weights: str
    train_mode: str
    head_layer: int


_RELEASES = {
    250_228: _Release("pretrained", "pretrain", 0),
    751: _Release("finetuned on 1% of the labels", "finetune", 1),
    3_754: _Release("finetuned on 10% of the labels", "finetune", 1),
    37_535: _Release("finetuned on all labels", "finetune", 0),
}


@dataclasses.dataclass(frozen=True)
class ReleasedNetwork:
    """The network in a file.

    Attributes:
        config: its settings in this project.
        num_classes: number of classes of its supervised head; None without one.
        train_mode: training that the weights come from.
        evidence: reason for the layer that the supervised head sits on, for the user.
    """

    config: ModelConfig
    num_classes: int | None
    train_mode: str
    evidence: str

    def describe(self) -> str:
        """Returns one line for the user."""
        parts, layers = [self.config.describe()], self.config.num_head_layers
        parts += [f"{layers} layer(s) of projection head to {self.config.proj_out_dim}"] if layers else []
        parts += [f"{self.num_classes} classes"] if self.num_classes else []
        return f"{', '.join(parts)} ({self.train_mode}); {self.evidence}"


def infer_network(file: ReleasedFile, asked: ModelConfig, stated: Sequence[str] = ()) -> ReleasedNetwork:
    """Infers depth, width, SK, SE, stem, heads and classes of a file.

    If variables are missing or mis-shaped, it returns the nearest network.

    Args:
        file: the variables.
        asked: settings for everything that a file does not tell.
        stated: names of the settings in `asked` that the user gave; they decide what the file leaves open.

    Raises:
        UserError: if the file contradicts a stated setting, or leaves open one that is needed.
    """
    given = {name: getattr(asked, name) for name in stated}
    found = _encoder_settings(file) | _head_settings(file)
    _check_stated(file, given, found)
    small = found.pop("cifar_stem")
    if small != asked.cifar_stem:
        found["image_size"] = 32 if small else 224
    config = dataclasses.replace(asked, **(found | {"ft_proj_selector": 0}))
    kernel = file.shapes.get(f"{SUPERVISED_HEAD}/kernel")
    if kernel is None or not _is_full(kernel, 2):
        return ReleasedNetwork(config, None, "pretrain", "it has no supervised head")
    release = _RELEASES.get(file.step or 0)
    layer, reason = _head_layer(file, config, release, given.get("ft_proj_selector"))
    where = f"layer {layer} of the projection head" if layer else "the encoder's output"
    return ReleasedNetwork(
        dataclasses.replace(config, ft_proj_selector=layer),
        kernel[1],
        release.train_mode if release else "finetune",
        f"its supervised head sits on {where}: {reason}",
    )


def released_names(model: SimCLRModel) -> dict[str, Any]:
    """Returns the variables of a network by their names in the authors' TF1 program."""
    tree = model.variable_tree()
    layers: dict[str, Mapping[str, Any]] = {}
    for kind, order in (("conv2d", _CONVOLUTIONS), ("batch_normalization", _NORMS)):
        ours = [stage[name] for stage in tree["encoder"].values() for name in order if name in stage]
        layers |= {f"base_model/{numbered(kind, number)}": variables for number, variables in enumerate(ours)}
    layer_kind = "l" if model.config.proj_head_mode == "linear" else "nl"
    for number, stage in enumerate(tree["projection_head"].values()):
        prefix = f"head_contrastive/{layer_kind}_{number}"
        layers |= {f"{prefix}/dense": stage["dense"], f"{prefix}/batch_normalization": stage["norm"]}
    layers[SUPERVISED_HEAD] = tree.get("supervised_head", {})
    return {f"{layer}/{key}": variable for layer, variables in layers.items() for key, variable in variables.items()}


def _encoder_settings(file: ReleasedFile) -> dict[str, Any]:
    kernels = _numbered_shapes(file.shapes, "kernel", 4)
    if len(kernels) < _MIN_CONVOLUTIONS:
        raise UserError(f"{file.where}: too few convolutions ({len(kernels)}); fetch the file again.")
    deep_stem = all(kernel[0] == 3 for kernel in kernels[:3])  # That of ResNet-D, which comes with SK.
    body = kernels[3 if deep_stem else 1 :]
    bottleneck = body[1][0] == 1
    first = body[1][-1]  # Filters of the first block; its shortcut comes before.
    branches = bottleneck and body[2][-1] == 2 * first
    squeezing = any(name.endswith("/bias") for name in file.shapes if name.startswith("base_model/conv2d"))
    per_block = (3 if bottleneck else 2) + 2 * branches + 2 * squeezing
    settings: dict[str, Any] = {
        "resnet_depth": nearest_depth(round((len(body) - 4) / per_block), bottleneck=bottleneck),
        "width_multiplier": min(first / 64, MAX_WIDTH),  # No network is wider.
        "sk_ratio": 0.0,
        "se_ratio": 0.0,
        "cifar_stem": kernels[0][0] == 3 and not deep_stem,
    }
    if branches or deep_stem:
        # Each mixing layer comes after the 3x3 convolution that makes the two branches.
        pairs = [
            (b[-1] // 2, a[-1]) for b, a in itertools.pairwise(body) if branches and b[0] == 3 and b[-1] == 2 * b[-2]
        ]
        settings["sk_ratio"] = _ratio(pairs, _LEAST_SK_WIDTH)
    if squeezing:
        biased = _numbered_shapes(file.shapes, "bias", 1)
        expansion = 4 if bottleneck else 1
        pairs = [(b[-1] // expansion, a[-1]) for a, b in zip(biased[::2], biased[1::2], strict=False)]
        settings["se_ratio"] = _ratio(pairs, 1)
    return settings


def _numbered_shapes(shapes: Mapping[str, Shape], variable: str, rank: int) -> list[Shape]:
    """Returns the shapes of one variable of the encoder's convolutions in the order of their numbers."""
    pattern = re.compile(rf"base_model/conv2d(?:_(\d+))?/{variable}")
    found = [(int(match[1] or 0), shape) for name, shape in shapes.items() if (match := pattern.fullmatch(name))]
    return [shape for _, shape in sorted(found) if _is_full(shape, rank)]


def _is_full(shape: Shape, rank: int) -> bool:
    """Returns whether a shape can be inferred from; the later comparison reports all others."""
    return len(shape) == rank and 0 not in shape


def _ratio(pairs: Sequence[tuple[int, int]], least: int) -> float:
    """Returns the ratio of (filters, squeezed filters): the paper's if it fits all pairs."""
    if all(max(int(filters * _PAPERS_RATIO), least) == squeezed for filters, squeezed in pairs):
        return _PAPERS_RATIO
    filters, squeezed = pairs[-1]
    return min(squeezed / filters, 1.0)


def _head_settings(file: ReleasedFile) -> dict[str, Any]:
    layers = {
        int(match[2]): (match[1], shape)
        for name, shape in file.shapes.items()
        if (match := _HEAD_LAYER.fullmatch(name)) and _is_full(shape, 2) and int(match[2]) < _MAX_HEAD_LAYERS
    }
    if not layers:
        return {"proj_head_mode": "none"}
    kind, last = layers[max(layers)]
    if kind == "l":
        return {"proj_head_mode": "linear", "proj_out_dim": last[-1]}
    return {"proj_head_mode": "nonlinear", "num_proj_layers": max(layers) + 1, "proj_out_dim": last[-1]}


def _check_stated(file: ReleasedFile, given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in found and found[name] != value:
            raise UserError(f"--{name}={value}: {file.path} holds a network with {name}={found[name]}; leave it out.")
    size = given.get("image_size")
    if size is not None and (size <= 32) != found["cifar_stem"]:
        stem, fix = ("up to", "32 or less") if found["cifar_stem"] else ("above", "more than 32")
        raise UserError(f"--image_size={size}: {file.path} has the stem for images {stem} 32 px; use {fix}.")


def _head_layer(
    file: ReleasedFile, config: ModelConfig, release: _Release | None, stated: int | None
) -> tuple[int, str]:
    """Returns the layer of the projection head that the supervised head sits on, 0 for its input; and the reason."""
    layers = config.num_head_layers
    fix = f"use 0 (the encoder's output) to {layers}, or -1 for the last."
    problem = f"{file.path} has {layers} layer(s) of projection head; {fix}"
    check(stated is None or -1 <= stated <= layers, "ft_proj_selector", stated, problem)
    asked = layers if stated == -1 else stated
    widths = [encoder_width(config)] * max(layers, 1) + [config.proj_out_dim]
    inputs = file.shapes[f"{SUPERVISED_HEAD}/kernel"][0]
    possible = [n for n in range(layers + 1) if widths[n] == inputs]
    if len(possible) == 1:
        layer, reason = possible[0], "no other layer is as wide"
    elif file.head_layer is not None:
        layer, reason = file.head_layer, "the graph of the SavedModel says so"
    elif release is not None:
        layer, reason = release.head_layer, f"{file.step} steps are those of the weights {release.weights}"
    elif asked is not None:
        return asked, "--ft_proj_selector says so"
    else:
        raise UserError(
            f"--ft_proj_selector: not given, but {file.path} leaves open which layer the supervised head sits on; use "
            "1 for weights that were finetuned on 1% or 10% of the labels, else 0."
        )
    if asked not in (None, layer):
        raise UserError(
            f"--ft_proj_selector={stated}: {file.path} has its supervised head on layer {layer}, because {reason}; "
            "leave it out."
        )
    return layer, reason
