"""The image and the label among the features of a TFDS data set."""

from typing import Any

import numpy as np

from tf_simclr.config import DataConfig, UserError


def _features_of(builder: Any, kind: type) -> list[str]:
    features = builder.info.features
    named = features.items() if hasattr(features, "items") else ()
    return sorted(key for key, feature in named if isinstance(feature, kind))


def image_key(builder: Any, data: DataConfig) -> str:
    """Returns the feature that is the image; raises UserError if there is none, or several and none is named."""
    import tensorflow_datasets as tfds

    keys = _features_of(builder, tfds.features.Image)
    keys = [key for key in keys if builder.info.features[key].np_dtype == np.uint8]
    if not keys:
        raise UserError(
            f"--dataset={data.dataset}: no 8-bit image feature in it (its features: "
            f"{', '.join(_features_of(builder, object)) or 'unnamed'}); use a data set of images."
        )
    return _choose(builder, data, "image", keys)


def label_key(builder: Any, data: DataConfig) -> str | None:
    """Returns the feature that is the label; None without labels. Raises UserError like `image_key`."""
    import tensorflow_datasets as tfds

    keys = _features_of(builder, tfds.features.ClassLabel)
    is_without = data.tfds_label_key == "" or not (keys or data.tfds_label_key)
    return None if is_without else _choose(builder, data, "label", keys)


def _choose(builder: Any, data: DataConfig, kind: str, keys: list[str]) -> str:
    """Returns the feature that the flag names, else that of the data set, else the usual or the only one."""
    flag, rest = f"tfds_{kind}_key", ", or use --tfds_label_key= to read without labels" * (kind == "label")
    named = getattr(data, flag)
    supervised = builder.info.supervised_keys or ()
    usual = next((key for key in (*supervised, kind) if key in keys), None)
    chosen = named or usual or (keys[0] if len(keys) == 1 else None)
    if chosen not in keys:
        problem = f"--{flag}: not given, and" if named is None else f"--{flag}={named}:"
        there = f"has the {kind}s {', '.join(keys)}; name one of them" if keys else f"has no {kind}; leave it out"
        raise UserError(f"{problem} {data.dataset} {there}{rest}.")
    return chosen
