"""Weights under the names, and in the layout, of torchvision's ResNet.

Convolutions are `[out, in, height, width]` there, dense layers `[out, in]`. The networks are the same but
for the max pooling of the stem, which torchvision pads at both ends; see docs/exports.md.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_simclr.config import ModelConfig, check
from tf_simclr.models import SimCLRModel

TORCHVISION_DEPTHS = (50, 101, 152)

_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_LAYERS = {
    "norm": "bn1",
    "last_norm": "bn3",
    "shortcut_conv": "downsample.0",
    "shortcut_norm": "downsample.1",
}


def check_torchvision_has(config: ModelConfig) -> None:
    """Checks that torchvision can build the encoder.

    Raises:
        UserError: it cannot. Its ResNet-18 and -34 have no projection in the first shortcut, and its wide
            networks are wider inside of the blocks only.
    """
    limits = {
        "resnet_depth": (config.resnet_depth in TORCHVISION_DEPTHS, "50, 101 or 152"),
        "width_multiplier": (config.width_multiplier == 1, "1"),
        "sk_ratio": (config.sk_ratio == 0, "0"),
        "se_ratio": (config.se_ratio == 0, "0"),
        "image_size": (not config.cifar_stem, "more than 32, for the large stem"),
    }
    for flag, (possible, values) in limits.items():
        check(
            possible,
            "export_formats",
            "pytorch",
            f"torchvision's ResNets have no {flag}={getattr(config, flag)}, only {values}; use onnx.",
        )


def to_resnet_state(model: SimCLRModel) -> dict[str, np.ndarray]:
    """Returns what `load_state_dict(strict=True)` of torchvision's ResNet takes.

    Args:
        model: with bottleneck blocks, neither SK nor SE, and the large stem.

    Returns:
        Float32 arrays, and int64 for `num_batches_tracked`. `fc` is the supervised head where it sits on
        the encoder's output; without it replace torchvision's `fc` by `torch.nn.Identity()`.
    """
    state: dict[str, np.ndarray] = {}
    tree = model.variable_tree()
    for stage, layers in tree["encoder"].items():
        for name, variables in layers.items():
            state |= _layer_state(f"{_prefix(stage)}{_translate(name)}", variables)
    if _is_on_encoder(model):
        state |= _layer_state("fc", tree["supervised_head"])
    return state


def to_head_state(model: SimCLRModel) -> dict[str, np.ndarray]:
    """Returns the projection head, and the supervised head where it sits on one of its layers.

    Returns:
        `projection_head.N.dense.*` (a `Linear` without bias) and `projection_head.N.norm.*` (a
        `BatchNorm1d`) for N from 0, and `supervised_head.*` (a `Linear`). Between the layers of the
        projection head, but not after the last, there is a ReLU.
    """
    state: dict[str, np.ndarray] = {}
    tree = model.variable_tree()
    for number, layers in enumerate(tree["projection_head"].values()):
        for name, variables in layers.items():
            state |= _layer_state(f"projection_head.{number}.{name}", variables)
    if model.supervised_head is not None and not _is_on_encoder(model):
        state |= _layer_state("supervised_head", tree["supervised_head"])
    return state


def _is_on_encoder(model: SimCLRModel) -> bool:
    layers = model.config.num_head_layers
    return model.supervised_head is not None and model.config.ft_proj_selector % (layers + 1) == 0


def _prefix(stage: str) -> str:
    """Turns `block_group2_block3` into `layer2.2.`, and `stem` into nothing."""
    if stage == "stem":
        return ""
    group, block = stage.removeprefix("block_group").split("_block")
    return f"layer{group}.{int(block) - 1}."


def _translate(layer: str) -> str:
    return _LAYERS.get(layer) or layer.replace("norm", "bn")


def _layer_state(name: str, variables: Mapping[str, tf.Variable]) -> dict[str, np.ndarray]:
    arrays = {key: variable.numpy().astype(np.float32) for key, variable in variables.items()}
    if "gamma" not in arrays:
        state = {"weight": _to_torch_layout(arrays.pop("kernel")), **arrays}
    else:
        arrays.setdefault("beta", np.zeros_like(arrays["gamma"]))
        state = {theirs: arrays[ours] for ours, theirs in _BATCH_NORM.items()}
        state["num_batches_tracked"] = np.array(0, np.int64)
    return {f"{name}.{key}": value for key, value in state.items()}


def _to_torch_layout(kernel: np.ndarray) -> np.ndarray:
    """Turns `[height, width, in, out]` into `[out, in, height, width]`, and `[in, out]` into `[out, in]`."""
    return np.ascontiguousarray(kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1))
