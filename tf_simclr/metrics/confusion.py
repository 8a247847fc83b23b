"""Which classes are taken for which: the confusion matrix of an evaluation, and its file."""

import csv
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tf_simclr.files import read_bytes

# With more, a matrix would be larger than what it says, and no picture could show it.
MAX_CLASSES = 1000
_CORNER = "class"
_MAX_BYTES = 2**26


class Confusion(NamedTuple):
    """A confusion matrix.

    Attributes:
        counts: int64 `[K, K]`, examples of the class of a row that were taken for that of a column.
        class_names: K of them.
    """

    counts: np.ndarray
    class_names: tuple[str, ...]


class Mistake(NamedTuple):
    """One class that was taken for another: how often, and the share of its examples that this is."""

    class_name: str
    taken_for: str
    num_images: int
    share: float


def count_confusions(predictions: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Confusion | None:
    """Returns the confusion matrix; None where there are more than 1000 classes.

    Args:
        predictions: integers `[N]`; -1, for no class at all, has no place in the matrix.
        labels: integers `[N]` in [0, K).
        class_names: K of them.
    """
    size = len(class_names)
    if size > MAX_CLASSES:
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
    """Returns the file of the confusion matrix that stands beside a file of results."""
    return f"{os.path.splitext(result_path)[0]}_confusion.csv"


def to_csv(confusion: Confusion) -> str:
    """Returns a table with a row and a column for each class, and their names before and above."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_CORNER, *confusion.class_names])
    for name, row in zip(confusion.class_names, confusion.counts.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()


def read_confusion(path: str) -> Confusion | None:
    """Returns what `to_csv` made; None where there is no such file, or it is damaged."""
    try:
        content = read_bytes(path, _MAX_BYTES)
        (_, *names), *rows = csv.reader(io.StringIO((content or b"").decode(), newline=""))
        counts = np.array([row[1:] for row in rows], np.int64)
    except (OSError, ValueError, OverflowError, csv.Error):
        return None
    return Confusion(counts, tuple(names)) if counts.shape == (len(names), len(names)) else None
