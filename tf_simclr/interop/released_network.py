"""Which network a file of released weights holds, told from the names and shapes of its variables."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tf_simclr.config import MAX_WIDTH, ModelConfig, UserError, check
from tf_simclr.interop.released_files import ReleasedFile, numbered
from tf_simclr.models import SimCLRModel
from tf_simclr.models.resnet import encoder_width, nearest_depth

_PAPERS_RATIO = 0.0625
_LEAST_SK_WIDTH = 32
# Fewer than in any network; more than in any of the authors' heads.
_MIN_CONVOLUTIONS, _MAX_HEAD_LAYERS = 6, 10
_SUPERVISED_HEAD = "head_supervised/linear_layer/dense"
_HEAD_LAYER = re.compile(r"head_contrastive/(n?l)_(\d+)/dense/kernel")
# The order in which the authors' programs make, and so number, the layers of a block.
_CONVOLUTIONS = (
    "shortcut_conv",
    "conv1",
    "conv2",
    "mix_conv1",
    "mix_conv2",
    "conv3",
    "squeeze",
    "excite",
)
_NORMS = ("shortcut_norm", "norm1", "norm2", "mix_norm", "norm", "last_norm")


@dataclasses.dataclass(frozen=True)
class _Release:
    """What the authors trained for a number of steps that no other of their releases has."""

    what: str
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
    """A network that was found in a file.

    Attributes:
        config: with which it is built here.
        num_classes: of its supervised head; None without one.
        train_mode: how it was trained.
        evidence: what tells where the supervised head sits, for the user.
    """

    config: ModelConfig
    num_classes: int | None
    train_mode: str
    evidence: str

    def describe(self) -> str:
        """Returns one line for the user."""
        config = self.config
        layers = config.num_head_layers
        parts = [f"ResNet-{config.resnet_depth}, width {config.width_multiplier:g}"]
        parts += [f"SK {config.sk_ratio:g}"] if config.sk_ratio else []
        parts += [f"SE {config.se_ratio:g}"] if config.se_ratio else []
        parts += ["the stem for small images"] if config.cifar_stem else []
        parts += [f"{layers} layer(s) of projection head to {config.proj_out_dim}"] if layers else []
        parts += [f"{self.num_classes} classes"] if self.num_classes else []
        return f"{', '.join(parts)} ({self.train_mode}); {self.evidence}"


def infer_network(file: ReleasedFile, asked: ModelConfig, stated: Sequence[str] = ()) -> ReleasedNetwork:
    """Tells depth, width, SK, SE, stem, heads and classes from a file.

    Where variables are missing or of another shape, it is the nearest network.

    Args:
        file: the variables.
        asked: settings of the network; those that a file says nothing about are taken from it.
        stated: names of those in `asked` that the user gave. They decide where the file leaves something open.

    Raises:
        UserError: the file contradicts what is stated, or leaves open what has to be known.
    """
    given = {name: getattr(asked, name) for name in stated}
    found = _encoder_settings(file) | _head_settings(file)
    _check_stated(file, given, found)
    small = found.pop("cifar_stem")
    if small != asked.cifar_stem:
        found["image_size"] = 32 if small else 224
    config = dataclasses.replace(asked, **(found | {"ft_proj_selector": 0}))
    kernel = file.shapes.get(f"{_SUPERVISED_HEAD}/kernel")
    if kernel is None or not _has_rank(kernel, 2):
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
    names: dict[str, Any] = {}
    for kind, order in (("conv2d", _CONVOLUTIONS), ("batch_normalization", _NORMS)):
        layers = [stage[name] for stage in tree["encoder"].values() for name in order if name in stage]
        for number, variables in enumerate(layers):
            prefix = f"base_model/{numbered(kind, number)}"
            names |= {f"{prefix}/{key}": variable for key, variable in variables.items()}
    layer_kind = "l" if model.config.proj_head_mode == "linear" else "nl"
    for number, stage in enumerate(tree["projection_head"].values()):
        for ours, theirs in (("dense", "dense"), ("norm", "batch_normalization")):
            prefix = f"head_contrastive/{layer_kind}_{number}/{theirs}"
            names |= {f"{prefix}/{key}": variable for key, variable in stage[ours].items()}
    head = tree.get("supervised_head", {})
    return names | {f"{_SUPERVISED_HEAD}/{key}": variable for key, variable in head.items()}


def _encoder_settings(file: ReleasedFile) -> dict[str, Any]:
    kernels = _kernels(file.shapes)
    if len(kernels) < _MIN_CONVOLUTIONS:
        raise UserError(f"{file.where}: too few convolutions ({len(kernels)}); fetch the file again.")
    small, deep_stem = _stem(kernels)
    body = kernels[3 if deep_stem else 1 :]
    bottleneck = body[1][0] == 1
    first = body[1][-1]  # Filters of the first block, after its shortcut.
    branches = bottleneck and body[2][-1] == 2 * first
    squeezing = sum(name.endswith("/bias") for name in file.shapes if name.startswith("base_model/conv2d"))
    per_block = (3 if bottleneck else 2) + (2 if branches else 0) + (2 if squeezing else 0)
    depth = nearest_depth(round((len(body) - 4) / per_block), bottleneck=bottleneck)
    settings: dict[str, Any] = {
        "resnet_depth": depth,
        "width_multiplier": min(first / 64, MAX_WIDTH),  # What is wider fits no network.
        "sk_ratio": 0.0,
        "se_ratio": 0.0,
        "cifar_stem": small,
    }
    if branches or deep_stem:
        # Each mixing layer comes after the convolution that makes the two branches.
        pairs = [(b[-1] // 2, a[-1]) for b, a in itertools.pairwise(body) if _makes_branches(b)]
        settings["sk_ratio"] = _ratio(pairs if branches else [], _LEAST_SK_WIDTH)
    if squeezing:
        biased = [shape for name, shape in _numbered_shapes(file.shapes, "conv2d", "bias", 1)]
        expansion = 4 if bottleneck else 1
        pairs = [(b[-1] // expansion, a[-1]) for a, b in zip(biased[::2], biased[1::2], strict=False)]
        settings["se_ratio"] = _ratio(pairs, 1)
    return settings


def _kernels(shapes: Mapping[str, tuple]) -> list[tuple]:
    """Returns the shapes of the encoder's kernels in the order of their numbers, transposed ones as they are."""
    return [shape for _, shape in _numbered_shapes(shapes, "conv2d", "kernel", 4)]


def _numbered_shapes(shapes: Mapping[str, tuple], kind: str, variable: str, rank: int) -> list[tuple[int, tuple]]:
    pattern = re.compile(rf"base_model/{kind}(?:_(\d+))?/{variable}")
    found = [(int(match[1] or 0), shapes[name]) for name in shapes if (match := pattern.fullmatch(name))]
    return sorted((number, shape) for number, shape in found if _has_rank(shape, rank))


def _has_rank(shape: tuple, rank: int) -> bool:
    """Returns whether a variable can be what its name says: of any other it is only told that it does not fit."""
    return len(shape) == rank and 0 not in shape


def _stem(kernels: Sequence[tuple]) -> tuple[bool, bool]:
    """Returns whether the stem is the small one, and whether it is that of ResNet-D, which comes with SK."""
    deep = len(kernels) > 2 and all(kernel[0] == 3 for kernel in kernels[:3])
    return kernels[0][0] == 3 and not deep, deep


def _makes_branches(kernel: tuple) -> bool:
    return kernel[0] == 3 and kernel[-1] == 2 * kernel[-2]


def _ratio(pairs: Sequence[tuple[int, int]], least: int) -> float:
    """Returns the ratio behind pairs of (filters, squeezed filters): the paper's where it fits."""
    if all(max(int(filters * _PAPERS_RATIO), least) == squeezed for filters, squeezed in pairs):
        return _PAPERS_RATIO
    filters, squeezed = pairs[-1]
    return min(squeezed / filters, 1.0)


def _head_settings(file: ReleasedFile) -> dict[str, Any]:
    layers = {
        int(match[2]): (match[1], shape)
        for name, shape in file.shapes.items()
        if (match := _HEAD_LAYER.fullmatch(name)) and _has_rank(shape, 2) and int(match[2]) < _MAX_HEAD_LAYERS
    }
    if not layers:
        return {"proj_head_mode": "none"}
    kind, last = layers[max(layers)]
    if kind == "l":
        return {"proj_head_mode": "linear", "proj_out_dim": last[-1]}
    return {
        "proj_head_mode": "nonlinear",
        "num_proj_layers": max(layers) + 1,
        "proj_out_dim": last[-1],
    }


def _check_stated(file: ReleasedFile, given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in found and found[name] != value:
            raise UserError(f"--{name}={value}: {_path(file)} holds a network with {name}={found[name]}; leave it out.")
    size = given.get("image_size")
    if size is not None and (size <= 32) != found["cifar_stem"]:
        stem, fix = ("up to", "32 or less") if found["cifar_stem"] else ("above", "more than 32")
        raise UserError(f"--image_size={size}: {_path(file)} has the stem for images {stem} 32 px; use {fix}.")


def _head_layer(
    file: ReleasedFile, config: ModelConfig, release: _Release | None, stated: int | None
) -> tuple[int, str]:
    """Returns on which layer of the projection head the supervised head sits, 0 for its input; and why."""
    layers = config.num_head_layers
    check(
        stated is None or -1 <= stated <= layers,
        "ft_proj_selector",
        stated,
        f"{_path(file)} has {layers} layer(s) of projection head; use 0 (the encoder's output) to {layers}, or -1 for "
        "the last.",
    )
    widths = [encoder_width(config)] * max(layers, 1) + [config.proj_out_dim]
    inputs = file.shapes[f"{_SUPERVISED_HEAD}/kernel"][0]
    possible = [n for n in range(layers + 1) if widths[n] == inputs]
    evidence: list[tuple[int, str]] = []
    if len(possible) == 1:
        evidence.append((possible[0], "no other layer is as wide"))
    if file.head_layer is not None:
        evidence.append((file.head_layer, "the graph of the SavedModel says so"))
    if release is not None:
        evidence.append((release.head_layer, f"{file.step} steps are those of the weights {release.what}"))
    asked = layers if stated == -1 else stated
    if not evidence and asked is None:
        raise UserError(
            f"--ft_proj_selector: not given, but {_path(file)} leaves open which layer the supervised head sits on; "
            "use 1 for weights that were finetuned on 1% or 10% of the labels, else 0."
        )
    layer, reason = evidence[0] if evidence else (asked or 0, "--ft_proj_selector says so")
    if asked is not None and asked != layer:
        raise UserError(
            f"--ft_proj_selector={stated}: {_path(file)} has its supervised head on layer {layer}, as {reason}; "
            "leave it out."
        )
    return layer, reason


def _path(file: ReleasedFile) -> str:
    return file.where.removeprefix("--checkpoint=")
