"""Class labels matched by name, for data with fewer classes or another order."""

import logging
from collections.abc import Sequence

import numpy as np

from tf_simclr.config import UserError
from tf_simclr.data.source import Labels, Source
from tf_simclr.files import MAX_LISTED, counted, listed

_LOG = logging.getLogger("tf_simclr")


def class_numbers(names: Sequence[str], among: Sequence[str]) -> Labels | None:
    """Returns the number of each name among others, int32 [N]; None if one is missing or not unique there."""
    if tuple(names) == tuple(among):
        return np.arange(len(names), dtype=np.int32)
    numbers = {name: number for number, name in enumerate(among)}
    if len(numbers) < len(among) or not numbers.keys() >= set(names) or len(set(names)) < len(names):
        return None
    return np.array([numbers[name] for name in names], np.int32)


def match_classes(source: Source, class_names: Sequence[str] | None, *, flag: str, whose: str, fix: str) -> Source:
    """Returns a source of the same images whose labels are numbers of `class_names`.

    Args:
        source: The images, whose classes may be fewer and in another order.
        class_names: Class names of the evaluated network, or of its training images. If None, or if the source has no
            names, the labels do not change.
        flag: The flag that named the source, for messages.
        whose: The owner of `class_names`, for messages.
        fix: The user's remedy for other classes, for messages.

    Raises:
        UserError: If a class of the source is not in `class_names`.
    """
    names = source.class_names
    if names is None or class_names is None or names == tuple(class_names):
        return source
    numbers = class_numbers(names, class_names)
    if numbers is None:
        raise UserError(
            f"--{flag}: {source.name} has {class_list(names, class_names)}, {whose} "
            f"{class_list(class_names, names)}; {fix}."
        )
    if missing := sorted(set(class_names) - set(names)):
        _LOG.info("%s has no images of %s: the other classes keep their numbers.", source.name, listed(missing))
    return source.relabelled(numbers, class_names)


def class_list(names: Sequence[str], others: Sequence[str]) -> str:
    """Returns class names for a message: all of them, or, if there are many, those that `others` lacks."""
    count = counted(len(names), "class")
    if len(names) <= MAX_LISTED:
        return f"{count} ({', '.join(names)})"
    own = sorted(set(names) - set(others))
    return f"{count} (among them {listed(own)})" if own else f"{count} ({listed(names)})"
