"""Folders of images, and the place of their records."""

import pytest

from tests.support.runs import write_images


@pytest.fixture
def photos(tmp_path):
    """A folder of twenty images in two classes."""
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 10, seed=seed)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def splits(photos, tmp_path):
    """The folder as the split `train` of a new one."""
    (tmp_path / "splits").mkdir()
    photos.rename(tmp_path / "splits" / "train")
    return tmp_path / "splits"
