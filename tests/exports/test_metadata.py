"""What an export says of itself, and what it keeps to itself."""

import json

import pytest

from exports.metadata import describe_export
from tf_simclr.config import ModelConfig
from tf_simclr.models import build_simclr_model

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def model():
    return build_simclr_model(ModelConfig(resnet_depth=18, width_multiplier=0.0625, image_size=8))


@pytest.mark.parametrize(
    ("flag", "value", "public"),
    [
        ("checkpoint", "/home/me/runs/pretrain/", "pretrain"),
        ("checkpoint", "gs://mine/runs/pretrain/ckpt-7", "ckpt-7"),
        ("teacher", "../finetune", "finetune"),
        ("teacher", "https://tfhub.dev/google/network/1", "https://tfhub.dev/google/network/1"),
        ("teacher", None, None),
        ("dataset", "folder:/home/me/photos", "folder:photos"),
        ("dataset", "tfrecord:~/shards/train-*.tfrecord", "tfrecord:train-*.tfrecord"),
        ("dataset", "digits,folder:/home/me/photos,tfrecord:/x/*", "digits,folder:photos,tfrecord:*"),
        ("dataset", "huggingface:org/set", "huggingface:org/set"),
        ("dataset", "imagenet2012_subset/1pct", "imagenet2012_subset/1pct"),
        ("dataset", "imagenet2012_subset/1pct:5.0.0", "imagenet2012_subset/1pct:5.0.0"),
    ],
)
def test_settings_have_names_in_place_of_local_paths(model, tmp_path, flag, value, public):
    (tmp_path / "flags.json").write_text(json.dumps({flag: value, "seed": 3}))
    assert describe_export(model, str(tmp_path), 7)["settings"] == {flag: public, "seed": 3}
