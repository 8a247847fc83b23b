"""Confusion matrix of an evaluation, and its file."""

import csv
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tf_simclr.files import read_bytes

# A matrix of more classes would be too large for a file and a picture.
_MAX_CLASSES = 1000
_MAX_BYTES = 2**26


class Confusion(NamedTuple):
    """A confusion matrix.

    Attributes:
        counts: `[K, K]`, number of examples by true class (rows) and predicted class (columns).
        class_names: K names.
    """

    counts: NDArray[np.int64]
    class_names: tuple[str, ...]


class Mistake(NamedTuple):
    """A class predicted as another: how often, and as a share of the class's examples."""

    class_name: str
    taken_for: str
    num_images: int
    share: float


def count_confusions(predictions: NDArray[Any], labels: NDArray[Any], class_names: Sequence[str]) -> Confusion | None:
    """Returns the confusion matrix; None for more than 1000 classes.

    Args:
        predictions: integers `[N]`; -1, for no class, is not counted.
        labels: integers `[N]` in [0, K).
        class_names: K names.
    """
    size = len(class_names)
    if size > _MAX_CLASSES:
        return None
    chosen = predictions >= 0
    counts = np.bincount(labels[chosen] * size + predictions[chosen], minlength=size**2)
    return Confusion(counts.reshape(size, size), tuple(class_names))


def largest_mistakes(confusion: Confusion, count: int) -> list[Mistake]:
    """Returns the pairs of classes that were confused most often, at most `count` of them."""
    counts, names = confusion
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    totals = counts.sum(axis=1)
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:count]:
        row, column = np.unravel_index(place, counts.shape)
        if number := int(wrong[row, column]):
            found.append(Mistake(names[row], names[column], number, float(number / totals[row])))
    return found


def confusion_path(result_path: str) -> str:
    """Returns the path of the confusion matrix beside a file of results."""
    return f"{os.path.splitext(result_path)[0]}_confusion.csv"


def to_csv(confusion: Confusion) -> str:
    """Returns a table with a row and a column for each class, with class names as row and column headings."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *confusion.class_names])
    for name, row in zip(confusion.class_names, confusion.counts.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()


def read_confusion(path: str) -> Confusion | None:
    """Reads a file of `to_csv`; returns None if it is missing or damaged."""
    try:
        content = read_bytes(path, _MAX_BYTES)
        (_, *names), *rows = csv.reader(io.StringIO((content or b"").decode(), newline=""))
        counts = np.array([row[1:] for row in rows], np.int64)
    except (OSError, ValueError, OverflowError, csv.Error):
        return None
    return Confusion(counts, tuple(names)) if counts.shape == (len(names), len(names)) else None
