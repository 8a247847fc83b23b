"""Code that the tests of preparing share."""

import json

import pytest
import tensorflow as tf

from tf_simclr.config import DataConfig, PrepareConfig, UserError
from tf_simclr.preparation.prepare import prepare

NAMES = [f"{name}/{number:03}.png" for name in ("cat", "dog") for number in range(10)]


def config(folder, output, **settings):
    settings = {"prepare_shards": 3, "prepare_workers": 1} | settings
    bad = settings.pop("max_bad_image_fraction", 0.5)
    data = DataConfig(dataset=f"folder:{folder}", max_bad_image_fraction=bad)
    return PrepareConfig(data=data, output=str(output), **settings)


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        prepare(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def read(path):
    """Returns (name, label or None, image) of each record."""
    rows = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        label = features["label"].int64_list.value[0] if "label" in features else None
        rows.append((features["file_name"].bytes_list.value[0].decode(), label, features["image"].bytes_list.value[0]))
    return rows


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
