"""The description of an export keeps the paths of a machine to itself."""

import pytest

from exports.metadata import _without_local_paths


@pytest.mark.parametrize(
    ("flag", "value", "public"),
    [
        ("checkpoint", "/home/me/runs/pretrain/", "pretrain"),
        ("checkpoint", "gs://mine/runs/pretrain/ckpt-7", "ckpt-7"),
        ("teacher", "https://tfhub.dev/google/network/1", "https://tfhub.dev/google/network/1"),
        ("teacher", None, None),
        ("dataset", "digits,folder:/home/me/photos,tfrecord:/x/*", "digits,folder:photos,tfrecord:*"),
        ("dataset", "imagenet2012_subset/1pct:5.0.0", "imagenet2012_subset/1pct:5.0.0"),
        ("seed", 3, 3),
    ],
)
def test_settings_have_names_instead_of_local_paths(flag, value, public):
    assert _without_local_paths({flag: value}) == {flag: public}
