"""From a `DataConfig` to a `Source`: the digits, and the choice among the kinds of data."""

import dataclasses
import os

import numpy as np

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import fashion_mnist, folder_source, record_source, tfds_source
from tf_simclr.data.mixed_source import MixedSource
from tf_simclr.data.random_access import ArraySource
from tf_simclr.data.source import Source, TrainingSource
from tf_simclr.data.splits import slice_of_split

FOLDER_PREFIX = "folder:"
_DIGITS_SPLITS = ("train", "test")


def load_training_source(data: DataConfig) -> TrainingSource:
    """Opens the split to train on, of all the sources where the data set is several.

    Raises:
        UserError: No such data set or split, or nothing in it.
    """
    if len(data.sources) == 1:
        return load_source(data, data.train_split)
    parts = [dataclasses.replace(data, dataset=name, mix=None) for name in data.sources]
    return MixedSource([load_source(part, data.train_split) for part in parts], data.weights)


def load_source(data: DataConfig, split: str, *, flag: str = "train_split") -> Source:
    """Opens one split of the configured data set.

    Args:
        data: The data set.
        split: A split, or a part of one such as `train[:80%]`.
        flag: The flag that named the split, for messages.

    Returns:
        The examples of the split.

    Raises:
        UserError: No such data set or split, or nothing in it; several data sets.
    """
    _check_one(data)
    if data.dataset == "digits":
        return _digits_source(split, flag)
    if data.dataset == fashion_mnist.NAME:
        return fashion_mnist.load(data, split, flag)
    if data.dataset.startswith(FOLDER_PREFIX):
        return folder_source.load(data, split, flag)
    if data.dataset.startswith(record_source.PREFIX):
        return record_source.load(data, split, flag)
    return tfds_source.load(data, split, flag)


def load_eval_source(data: DataConfig) -> Source | None:
    """Opens the split for evaluation: `eval_split`, or else validation, or else test; None without any.

    Of several data sets it is that of the first.

    Raises:
        UserError: No such data set or split, or nothing in it.
    """
    data = dataclasses.replace(data, dataset=data.sources[0], mix=None)
    if data.eval_split is not None:
        return load_source(data, data.eval_split, flag="eval_split")
    splits = available_splits(data)
    for split in ("validation", "val", "test"):
        if split in splits:
            return load_source(data, split, flag="eval_split")
    return None


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the names of the splits of the configured data set.

    Raises:
        UserError: No such data set; several data sets.
    """
    _check_one(data)
    if data.dataset == "digits":
        return _DIGITS_SPLITS
    if data.dataset == fashion_mnist.NAME:
        return fashion_mnist.SPLITS
    if data.dataset.startswith(FOLDER_PREFIX):
        return folder_source.available_splits(data)
    if data.dataset.startswith(record_source.PREFIX):
        return record_source.available_splits(data)
    return tfds_source.available_splits(data)


def _check_one(data: DataConfig) -> None:
    if len(data.sources) > 1:
        raise UserError(
            f"--dataset={data.dataset}: several sources are mixed for --train_mode=pretrain, and for distill without "
            "labels; name one of them."
        )
    path = data.dataset.partition(":")[2]
    if data.dataset.startswith(FOLDER_PREFIX) and "," in path and not os.path.isdir(os.path.expanduser(path)):
        raise UserError(
            f"--dataset={data.dataset}: there is no folder {path}; if it is several sources, put those without "
            "folder: or tfrecord: first."
        )


def _digits_source(split: str, flag: str) -> ArraySource:
    """Handwritten digits, 8x8 grey: 1347 for training, 450 for testing, as scikit-learn holds them."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=0.25, random_state=0, stratify=digits.target
    )
    parts = {"train": train, "test": test}
    name, start, stop = slice_of_split(
        split, {name: len(part) for name, part in parts.items()}, flag, "digits"
    )
    chosen = parts[name][start:stop]
    # The pixels count inked points, 0 to 16.
    images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    names = [str(digit) for digit in digits.target_names]
    source = ArraySource(f"digits ({split})", images, digits.target[chosen], names)
    source.identity = (source.name.encode(),)
    return source
