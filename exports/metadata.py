"""The description of an export: `metadata.json`."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from tf_simclr.augment import EvalView
from tf_simclr.config import public_dataset, public_path
from tf_simclr.files import DamagedFileError, find_json, to_json
from tf_simclr.images.decode import MAX_PIXELS
from tf_simclr.models import SimCLRModel, endpoint_strides
from tf_simclr.runs.data import read_class_names
from tf_simclr.runs.directory import defining_settings, read_settings

_LOG = logging.getLogger("tf_simclr")


def describe_export(
    model: SimCLRModel, directory: str, step: int, result: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what `metadata.json` holds, ready for JSON.

    Args:
        model: the network.
        directory: of its run.
        step: that it was trained to.
        result: of its evaluation; None takes what the run's directory has of that step.
    """
    size = model.config.image_size
    class_names = read_class_names(directory)
    if model.num_classes is None or len(class_names or ()) != model.num_classes:
        class_names = None  # The run's network has no classifier, or another one.
    if result is None:
        result = find_json(os.path.join(directory, f"result_{step}.json"), {str: object}) or {}
    return {
        "global_step": step,
        "image_size": size,
        "num_classes": model.num_classes,
        "class_names": class_names,
        "preprocessing": {
            "images": "float32 [B, H, W, 3], RGB, in [0, 1]; no mean, no standard deviation",
            "central_crop": EvalView(image_size=size).crop_proportion,
            "resize": "bicubic, half-pixel centres, no antialiasing; then clipped to [0, 1]",
            "size": [size, size],
            "max_pixels": MAX_PIXELS,
        },
        "endpoints": _describe_endpoints(model),
        "supervised_head_on": _head_input(model),
        "settings": _without_local_paths(defining_settings(_settings(directory))),
        "metrics": dict(result),
    }


def write_metadata(metadata: Mapping[str, Any], directory: str) -> str:
    """Writes `metadata.json` into `directory` and returns its path."""
    path = os.path.join(directory, "metadata.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(to_json(metadata))
    return path


def _settings(directory: str) -> dict[str, Any]:
    try:
        return read_settings(directory)
    except DamagedFileError as error:  # Training is over by now.
        _LOG.warning("%s", error)
        return {}


def _without_local_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings` with names instead of the paths of one machine, such as `folder:photos`."""
    shorten = {"checkpoint": public_path, "teacher": public_path, "dataset": public_dataset}
    return {
        name: shorten[name](value) if name in shorten and isinstance(value, str) else value
        for name, value in settings.items()
    }


def _describe_endpoints(model: SimCLRModel) -> dict[str, dict[str, int]]:
    """Returns the channels of each output, and for feature maps the pixels from one place to the next."""
    strides = endpoint_strides(model.config)
    return {
        name: {"channels": channels} | ({"stride": strides[name]} if name in strides else {})
        for name, channels in model.endpoint_channels.items()
    }


def _head_input(model: SimCLRModel) -> str | None:
    if model.num_classes is None:
        return None
    layers = model.config.num_head_layers
    layer = model.config.ft_proj_selector % (layers + 1)
    return f"layer {layer} of {layers} of the projection head" if layer else "final_avg_pool"
