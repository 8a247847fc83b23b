"""Sources for a `DataConfig`: the digits, and the choice among the kinds of data."""

import dataclasses
import os

import numpy as np

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import folder_source, record_source, tfds_source
from tf_simclr.data.mixed_source import MixedSource
from tf_simclr.data.random_access import ArraySource
from tf_simclr.data.source import Source
from tf_simclr.data.splits import UNLABELLED, find_split, slices_of_split, splits_left

FOLDER_PREFIX = "folder:"
_DIGITS_SPLITS = ("train", "test")


def load_training_source(data: DataConfig) -> Source:
    """Opens all images to train on without labels, from all sources of the data set.

    Without a `train_split`, these are the training images, and those of the split unlabelled if there is one.

    Raises:
        UserError: If there is no such data set or split, or it is empty.
    """
    if len(data.sources) == 1:
        return load_source(data, data.train_split or _all_images(data))
    parts = [dataclasses.replace(data, dataset=name, mix=None) for name in data.sources]
    sources = [load_source(part, data.train_split or _all_images(part)) for part in parts]
    return MixedSource(sources, data.weights)


def _all_images(data: DataConfig) -> str:
    splits = available_splits(data)
    found = [name for kind in ("train", UNLABELLED) if (name := find_split(kind, splits))]
    return "+".join(found) or "train"


def load_source(data: DataConfig, split: str, *, flag: str = "train_split") -> Source:
    """Opens one split of the configured data set.

    Args:
        data: The data set.
        split: A split, a part of one, or a sum of these, such as `train[:80%]+unlabelled`.
        flag: The flag that named the split, for messages.

    Returns:
        The examples of the split.

    Raises:
        UserError: If there is no such data set or split, it is empty, or there are several data sets.
    """
    _check_one(data)
    if data.dataset == "digits":
        return _digits_source(split, flag)
    if data.dataset.startswith(FOLDER_PREFIX):
        return folder_source.load(data, split, flag)
    if data.dataset.startswith(record_source.PREFIX):
        return record_source.load(data, split, flag)
    return tfds_source.load(data, split, flag)


def load_eval_source(data: DataConfig) -> Source | None:
    """Opens the split for evaluation: `eval_split`, or else validation, or else test; None without any.

    A split that is trained on is left out unless `eval_split` names it. Of several data sets, the first is used.

    Raises:
        UserError: If there is no such data set or split, or it is empty.
    """
    data = dataclasses.replace(data, dataset=data.sources[0], mix=None)
    if data.eval_split is not None:
        return load_source(data, data.eval_split, flag="eval_split")
    splits = splits_left(available_splits(data), data.train_split or "train")
    found = [name for kind in ("validation", "test") if (name := find_split(kind, splits))]
    return load_source(data, found[0], flag="eval_split") if found else None


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the names of the splits of the configured data set.

    Raises:
        UserError: If there is no such data set, or there are several.
    """
    _check_one(data)
    if data.dataset == "digits":
        return _DIGITS_SPLITS
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
    """Handwritten digits of scikit-learn, 8x8 grey: 1347 for training, 450 for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=0.25, random_state=0, stratify=digits.target
    )
    parts = {"train": train, "test": test}
    slices = slices_of_split(split, _DIGITS_SPLITS, lambda name: len(parts[name]), flag=flag, dataset="digits")
    chosen = np.concatenate([parts[name][start:stop] for name, start, stop in slices])
    # A pixel is a number of inked points, 0 to 16.
    images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    names = [str(digit) for digit in digits.target_names]
    source = ArraySource(f"digits ({split})", images, digits.target[chosen], names)
    source.identity = (source.name.encode(),)
    return source
