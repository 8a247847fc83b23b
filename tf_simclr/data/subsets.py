"""Few labels: a stratified, seeded choice of labelled examples."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_simclr.config import DataConfig, check
from tf_simclr.data import record_source
from tf_simclr.data.source import Indices, Source
from tf_simclr.files import one_line

_LOG = logging.getLogger("tf_simclr")


def choose_labelled(
    labels: NDArray[Any], num_classes: int, *, fraction: float = 1.0, per_class: int = 0, seed: int = 0
) -> Indices:
    """Chooses the same share, or the same number, of every class.

    Each class has one seeded order, and the choice is its beginning. With the same seed, a larger share contains
    every smaller one.

    Args:
        labels: int [N] in [0, num_classes); negative for examples without a label, which are not chosen.
        num_classes: Number of classes.
        fraction: Share of each class, in (0, 1]; rounded to the nearest number of examples, a half up.
        per_class: Number of examples of each class instead, unless it is 0.
        seed: Seed of the orders.

    Returns:
        Sorted numbers of the chosen examples, int64 [M].

    Raises:
        ValueError: If a class would be empty, or has fewer than `per_class` examples.
    """
    chosen = []
    for number in range(num_classes):
        members = np.flatnonzero(labels == number)
        count = per_class or _share(fraction, len(members))
        if not 0 < count <= len(members):
            raise ValueError(f"class {number} has {len(members)} examples; cannot choose {count} of them.")
        order = np.random.default_rng([seed, number]).permutation(len(members))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


def few_labels(source: Source, data: DataConfig) -> Source:
    """Returns the examples that `label_fraction` or `labels_per_class` choose; without them, all labelled examples.

    Args:
        source: The examples of a split, with labels.
        data: The data set.

    Raises:
        UserError: If there are no labels, or too few of a class.
    """
    flag, split = "train_split", data.labelled_split
    what = f"{source.name} has no labels, which this stage learns from; name a split or a data set with labels."
    check(source.class_names is not None, flag, split, what)
    names = source.class_names or ()
    only = f"{source.name} has a single class, {one_line(names[0])}; there is nothing to tell apart: name data with "
    check(len(names) > 1, flag, split, f"{only}a folder, or a label, for each class.")
    if not data.few_labels:
        return _all_labelled(source) if source.num_unlabelled else source
    labels = source.read_labels()
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    smallest = int(counts.argmin())
    least, fraction, number = int(counts[smallest]), data.label_fraction, data.labels_per_class
    where = f"{source.name} has {least} labelled examples of its smallest class, {names[smallest]}"
    check(least > 0, flag, split, f"{where}; {_fix_for_empty_class(data, counts)}.")
    check(number <= least, "labels_per_class", number, f"{where}; use at most {least}.")
    fix = f"{where}, of which none would be left; use a larger share, or --labels_per_class."
    check(_share(fraction, least) > 0, "label_fraction", fraction, fix)
    indices = choose_labelled(labels, len(names), fraction=fraction, per_class=number, seed=data.label_seed)
    return source.subset(indices, f"{source.name}, {len(indices)} labels")


def _all_labelled(source: Source) -> Source:
    indices = np.flatnonzero(source.read_labels() >= 0)
    line = "%d of the %d images of %s have no label: learning from the others, which are kept in memory."
    _LOG.info(line, source.num_unlabelled, source.num_examples, source.name)
    return source.subset(indices, f"{source.name}, {len(indices)} labels")


def _fix_for_empty_class(data: DataConfig, counts: NDArray[np.int64]) -> str:
    counted_from_1 = data.dataset.startswith(record_source.PREFIX) and not counts[0] and counts[1:].all()
    if counted_from_1 and data.tfrecord_first_label == 0:
        return "use --tfrecord_first_label=1 if the labels are counted from 1, or a part that has some of every class"
    return "use a part that has some of every class"


def _share(fraction: float, count: int) -> int:
    return int(fraction * count + 0.5)
