"""Parts of splits, such as `train[:80%]`, in the syntax of TensorFlow Datasets."""

from collections.abc import Iterable, Mapping

from tf_simclr.config import UserError


def slice_of_split(split: str, sizes: Mapping[str, int], flag: str, dataset: str) -> tuple[str, int, int]:
    """Finds which examples a split, or a part of one, names.

    Args:
        split: Such as `train`, `train[:80%]` or `train[100:]`.
        sizes: Number of examples of each split.
        flag: The flag that named the split, for messages.
        dataset: Name of the data set, for messages.

    Returns:
        Name of the split, first example and the one after the last.

    Raises:
        UserError: No such split, no such part, or nothing in it.
    """
    name = split.partition("[")[0]
    if name not in sizes:
        raise missing_split(split, sizes, flag, dataset)
    if name == split:
        return name, 0, sizes[name]
    # Only parts need it, and it takes seconds to import.
    import tensorflow_datasets as tfds

    try:
        infos = {name: tfds.core.SplitInfo(name=name, shard_lengths=[sizes[name]], num_bytes=0)}
        (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError) as error:
        raise bad_part(split, flag) from error
    start, stop = part.from_ or 0, sizes[name] if part.to is None else part.to
    if start >= stop:
        raise UserError(
            f"--{flag}={split}: no example of the {sizes[name]} of {name} is in it; take a larger part."
        )
    return name, start, stop


def missing_split(split: str, splits: Iterable[str], flag: str, dataset: str) -> UserError:
    """Returns the error for a split that the data set does not have."""
    return UserError(
        f"--{flag}={split}: {dataset} has the split(s) {', '.join(splits)}; "
        f"use one of them, or a part such as {next(iter(splits), 'train')}[:80%]."
    )


def bad_part(split: str, flag: str) -> UserError:
    """Returns the error for a part of a split that cannot be understood."""
    return UserError(f"--{flag}={split}: not a part of a split; write it like train[:80%] or train[100:500].")
