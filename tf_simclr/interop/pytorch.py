"""Weights with the names and the layout of torchvision's ResNet.

torchvision stores convolutions as `[out, in, height, width]` and dense layers as `[out, in]`. One layer differs:
torchvision pads the max pooling of the stem at both ends; see docs/exports.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import ModelConfig, check
from tf_simclr.models import SimCLRModel

State = dict[str, NDArray[Any]]
_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_LAYERS = {"norm": "bn1", "last_norm": "bn3", "shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}


def check_torchvision_has(config: ModelConfig) -> None:
    """Checks that torchvision can build the encoder.

    Raises:
        UserError: if it cannot. Its ResNet-18 and -34 have no projection in the first shortcut, and its wide networks
            are wider only inside the blocks.
    """
    limits = {
        "resnet_depth": (config.resnet_depth in (50, 101, 152), "50, 101 or 152"),
        "width_multiplier": (config.width_multiplier == 1, "1"),
        "sk_ratio": (config.sk_ratio == 0, "0"),
        "se_ratio": (config.se_ratio == 0, "0"),
        "image_size": (not config.cifar_stem, "more than 32, for the large stem"),
    }
    for flag, (possible, values) in limits.items():
        fix = f"torchvision's ResNets have no {flag}={getattr(config, flag)}, only {values}; use onnx."
        check(possible, "export_formats", "pytorch", fix)


def to_resnet_state(model: SimCLRModel) -> State:
    """Returns the argument of `load_state_dict(strict=True)` of torchvision's ResNet.

    Args:
        model: network with bottleneck blocks, without SK and SE, with the large stem.

    Returns:
        Float32 arrays, and int64 for `num_batches_tracked`. `fc` is the supervised head if it sits on the encoder's
        output; otherwise replace torchvision's `fc` by `torch.nn.Identity()`.
    """
    state: State = {}
    tree = model.variable_tree()
    for stage, layers in tree["encoder"].items():
        for name, variables in layers.items():
            layer = _LAYERS.get(name) or name.replace("norm", "bn")
            state |= _layer_state(_prefix(stage) + layer, variables)
    if _is_on_encoder(model):
        state |= _layer_state("fc", tree["supervised_head"])
    return state


def to_head_state(model: SimCLRModel) -> State:
    """Returns the projection head, and the supervised head if it sits on one of its layers.

    Returns:
        `projection_head.N.dense.*` (a `Linear` without bias) and `projection_head.N.norm.*` (a `BatchNorm1d`) for N
        from 0, and `supervised_head.*` (a `Linear`). A ReLU follows each layer of the projection head but the last.
    """
    state: State = {}
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


def _layer_state(name: str, variables: Mapping[str, tf.Variable]) -> State:
    arrays = {key: variable.numpy().astype(np.float32) for key, variable in variables.items()}
    if "gamma" not in arrays:
        state = {"weight": _to_torch_layout(arrays.pop("kernel")), **arrays}
    else:
        arrays.setdefault("beta", np.zeros_like(arrays["gamma"]))
        state = {theirs: arrays[ours] for ours, theirs in _BATCH_NORM.items()}
        state["num_batches_tracked"] = np.array(0, np.int64)
    return {f"{name}.{key}": value for key, value in state.items()}


def _to_torch_layout(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turns `[height, width, in, out]` into `[out, in, height, width]`, and `[in, out]` into `[out, in]`."""
    return np.ascontiguousarray(kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1))
