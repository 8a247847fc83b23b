"""Names of splits in any spelling, and parts and sums of splits, such as `train[:80%]+unlabelled`.

The syntax is that of TensorFlow Datasets.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tf_simclr.config import UserError

_SPELLINGS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "holdout"),
    "validation": ("validation", "valid", "val", "validate", "dev", "eval", "evaluation"),
    "unlabelled": ("unlabelled", "unlabeled", "unlabel", "nolabel", "nolabels", "unsupervised"),
}
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings}
# Words before or after the name of a split.
_ADDED = "(?:images?|imgs?|data|set|split|ilsvrc)+"
SPLITS = tuple(_SPELLINGS)
SPELLINGS = tuple(_KINDS)
UNLABELLED = "unlabelled"


class Slice(NamedTuple):
    """The examples of a split from `start` to `stop` - 1."""

    split: str
    start: int
    stop: int


def split_kind(name: str) -> str | None:
    """Returns the member of `SPLITS` that a name such as `Train`, `val2017` or `test_images` means; None for others."""
    plain = re.sub(r"[\W\d_]", "", name.lower())
    return _KINDS.get(plain) or _KINDS.get(re.sub(f"^{_ADDED}|{_ADDED}$", "", plain))


def find_split(name: str, splits: Iterable[str]) -> str | None:
    """Returns the split with this name, or else of this kind; None if there is none."""
    splits = tuple(splits)
    if name in splits:
        return name
    kind = split_kind(name)
    return next((split for split in splits if kind and split_kind(split) == kind), None)


def split_terms(split: str, flag: str) -> list[str]:
    """Returns the terms of a sum of splits.

    Raises:
        UserError: If a term is empty.
    """
    terms = [term.strip() for term in split.split("+")]
    if not all(terms):
        raise bad_part(split, flag)
    return terms


def splits_left(available: Iterable[str], used: str) -> list[str]:
    """Returns the splits that do not occur in the sum `used`, which may be `all`."""
    names = re.sub(r"\[[^]]*\]", "", used).split("+")
    taken = {split_kind(name.strip()) or name.strip() for name in names}
    return [] if "all" in taken else [name for name in available if (split_kind(name) or name) not in taken]


def slices_of_split(
    split: str, splits: Iterable[str], num_examples: Callable[[str], int], *, flag: str, dataset: str
) -> list[Slice]:
    """Finds the examples of a split, a part of one, or a sum of these.

    Args:
        split: For example `train`, `train[:80%]` or `train[100:]+unlabelled`.
        splits: The existing names.
        num_examples: Takes one of `splits` and returns its number of examples.
        flag: The flag that named the split, for messages.
        dataset: Name of the data set, for messages.

    Returns:
        One slice for each term.

    Raises:
        UserError: If there is no such split or part, or it is empty.
    """
    slices = []
    for term in split_terms(split, flag):
        name, bracket, rest = term.partition("[")
        found = find_split(name, splits)
        if found is None:
            raise missing_split(split, splits, flag, dataset)
        slices.append(_slice_of(found, num_examples(found), bracket + rest, split, flag))
    return slices


def _slice_of(name: str, size: int, part: str, split: str, flag: str) -> Slice:
    if not part:
        return Slice(name, 0, size)
    # Only parts need this import, which takes seconds.
    import tensorflow_datasets as tfds

    try:
        infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)}
        (found,) = tfds.core.ReadInstruction.from_spec(name + part).to_absolute(infos)
    except (ValueError, AssertionError) as error:
        raise bad_part(split, flag) from error
    start, stop = found.from_ or 0, size if found.to is None else found.to
    if start >= stop:
        raise UserError(f"--{flag}={split}: no example of the {size} of {name} is in it; take a larger part.")
    return Slice(name, start, stop)


def missing_split(split: str, splits: Iterable[str], flag: str, dataset: str) -> UserError:
    """Returns the error for a split that the data set does not have."""
    return UserError(
        f"--{flag}={split}: {dataset} has the split(s) {', '.join(splits)}; "
        f"use one of them, or a part such as {next(iter(splits), 'train')}[:80%]."
    )


def bad_part(split: str, flag: str) -> UserError:
    """Returns the error for a part of a split that cannot be understood."""
    return UserError(f"--{flag}={split}: not a part of a split; write it like train[:80%] or train[100:500].")
