"""`digits`: the handwritten digits of scikit-learn, 8x8 grey; 1347 for training, 450 for testing."""

import numpy as np

from tf_simclr.config import DataConfig
from tf_simclr.data.random_access import ArraySource
from tf_simclr.data.splits import slices_of_split

_SPLITS = ("train", "test")


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the names of the splits."""
    del data
    return _SPLITS


def load(data: DataConfig, split: str, flag: str) -> ArraySource:
    """Returns a split, a part of one, or a sum of these; see `sources.load_source`."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.target))
    parts = dict(
        zip(_SPLITS, train_test_split(rows, test_size=0.25, random_state=0, stratify=digits.target), strict=True)
    )
    slices = slices_of_split(split, _SPLITS, lambda name: len(parts[name]), flag=flag, dataset=data.dataset)
    chosen = np.concatenate([parts[name][start:stop] for name, start, stop in slices])
    # A pixel is a number of inked points, 0 to 16.
    images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    names = [str(digit) for digit in digits.target_names]
    source = ArraySource(f"digits ({split})", images, digits.target[chosen], names)
    source.identity = (source.name.encode(),)
    return source
