"""The weights for PyTorch."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from exports.metadata import write_metadata
from tf_simclr.files import save_npz
from tf_simclr.interop.pytorch import check_torchvision_has, to_head_state, to_resnet_state
from tf_simclr.models import SimCLRModel


def check_pytorch(model: SimCLRModel) -> None:
    """Checks that `model` can be written.

    Raises:
        UserError: torchvision has no such network.
    """
    check_torchvision_has(model.config)


def write_pytorch(model: SimCLRModel, directory: str, metadata: Mapping[str, Any]) -> None:
    """Writes the weights with PyTorch's names and layout, and `metadata.json`, into `directory`.

    `resnet` holds what `load_state_dict(strict=True)` of torchvision's network takes, `heads` the
    other heads, where there are any. The files are `.safetensors` where that package is installed, else
    `.npz`. See docs/exports.md for the one layer of torchvision that has to be replaced.

    Args:
        model: the network.
        directory: that exists.
        metadata: content of `metadata.json`.

    Raises:
        UserError: see `check_pytorch`.
    """
    check_pytorch(model)
    for name, state in (("resnet", to_resnet_state(model)), ("heads", to_head_state(model))):
        if state:
            _write_arrays(state, os.path.join(directory, name))
    write_metadata(metadata, directory)


def _write_arrays(arrays: Mapping[str, np.ndarray], path: str) -> None:
    if importlib.util.find_spec("safetensors"):
        from safetensors.numpy import save_file

        save_file(dict(arrays), f"{path}.safetensors")
    else:
        save_npz(f"{path}.npz", arrays)
