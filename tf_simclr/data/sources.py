"""Sources for a `DataConfig`: the choice among the kinds of data."""

import dataclasses
import os
from typing import Protocol

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import digits_source, folder_source, record_source, tfds_source
from tf_simclr.data.mixed_source import MixedSource
from tf_simclr.data.source import Source
from tf_simclr.data.splits import UNLABELLED, find_split, splits_left

FOLDER_PREFIX = "folder:"


class _Kind(Protocol):
    """A kind of data set; its functions are those of the same names below."""

    def available_splits(self, data: DataConfig) -> tuple[str, ...]: ...

    def load(self, data: DataConfig, split: str, flag: str) -> Source: ...


_KINDS: dict[str, _Kind] = {
    "digits": digits_source,
    FOLDER_PREFIX: folder_source,
    record_source.PREFIX: record_source,
}


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
    return _kind(data).load(data, split, flag)


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
    return _kind(data).available_splits(data)


def _kind(data: DataConfig) -> _Kind:
    """Returns the kind of a single data set."""
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
    name, colon, _ = data.dataset.partition(":")
    return _KINDS.get(name + colon, tfds_source)
