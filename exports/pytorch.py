"""The weights for PyTorch."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from exports.metadata import write_metadata
from tf_simclr.files import save_npz
from tf_simclr.interop.pytorch import to_head_state, to_resnet_state
from tf_simclr.models import SimCLRModel


def write_pytorch(model: SimCLRModel, directory: str, metadata: Mapping[str, Any]) -> None:
    """Writes the weights with PyTorch's names and layout, and `metadata.json`, into `directory`.

    `resnet` holds what `load_state_dict(strict=True)` of torchvision's network takes, `heads` the other heads, if
    there are any. The files are `.safetensors` if that package is installed, else `.npz`. docs/exports.md names the
    one layer of torchvision that has to be replaced.

    Args:
        model: the network, which has passed `check_torchvision_has`.
        directory: that exists.
        metadata: content of `metadata.json`.
    """
    for name, arrays in (("resnet", to_resnet_state(model)), ("heads", to_head_state(model))):
        path = os.path.join(directory, name)
        if arrays and importlib.util.find_spec("safetensors"):
            from safetensors.numpy import save_file

            save_file(dict(arrays), f"{path}.safetensors")
        elif arrays:
            save_npz(f"{path}.npz", arrays)
    write_metadata(metadata, directory)
