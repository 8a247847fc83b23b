"""`folder:PATH`: image files in one subfolder per class, or flat and unlabelled."""

import collections
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data.listing import IMAGE_EXTENSIONS, Listing, list_images, scan
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.source import Labels
from tf_simclr.data.splits import SPLITS, UNLABELLED, slices_of_split, split_kind
from tf_simclr.files import listed, shown_path

# A folder with more images than this beside its subfolders counts as flat, so that millions are listed only once.
_MANY_IMAGES = 10_000
# Names of splits that are also ordinary words, and so may be classes.
_WORDS = ("train", "training", "valid")


class _Part(NamedTuple):
    """Images of one split: its folder relative to the root, the folder's listing, and the rows of the split."""

    path: str
    listing: Listing
    rows: NDArray[np.int64]
    class_names: tuple[str, ...]

    def labels(self, class_names: Sequence[str]) -> Labels:
        """Returns the label of each image among all classes, int32 [N]; -1 for none."""
        if not self.class_names:
            return np.full(len(self.rows), -1, np.int32)
        numbers = np.array([class_names.index(name) for name in self.class_names], np.int32)
        labels: Labels = np.repeat(numbers, self.listing.class_counts)[self.rows]
        return labels


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the members of `SPLITS` that have subfolders, or else `train`, the whole folder."""
    return tuple(_split_folders(data)[0])


def load(data: DataConfig, split: str, flag: str) -> EncodedImages:
    """Lists the images of one split.

    Args:
        data: The data set; its name is `folder:PATH`.
        split: A split, a part of one (a mixture of all classes), or a sum of these.
        flag: The flag that named the split, for messages.

    Returns:
        The examples in the order of their paths. Those of a split `unlabelled` have no label.

    Raises:
        UserError: If there is no such folder or split, there are no images, images lie beside class folders, or
            folders are not classes.
    """
    folders, ignored = _split_folders(data)
    listings: dict[str, Listing] = {}

    def num_examples(name: str) -> int:
        if name not in listings:
            root = _root(data)
            listings[name] = _list_images(data, os.path.join(root, folders[name]) if folders[name] else root)
            if name != UNLABELLED and listings[name].class_names:
                _check_classes(data, listings[name], is_held_out=flag == "eval_split")
            ignored.append(_ignored_line(listings[name].folder, listings[name].ignored))
        return len(listings[name])

    parts = []
    for name, start, stop in slices_of_split(split, tuple(folders), num_examples, flag=flag, dataset=data.dataset):
        listing = listings[name]
        # Paths are sorted by class, so a fixed permutation comes first: each part then holds all classes.
        rows = np.sort(np.random.RandomState(0).permutation(len(listing))[start:stop])
        parts.append(_Part(folders[name], listing, rows, () if name == UNLABELLED else listing.class_names))
    source = _source(data, split, parts)
    source.ignored = tuple(filter(None, ignored))
    return source


def _source(data: DataConfig, split: str, parts: Sequence[_Part]) -> EncodedImages:
    firsts = np.cumsum([0, *(len(part.listing) for part in parts)])[:-1]
    chosen = np.concatenate([first + part.rows for first, part in zip(firsts, parts, strict=True)])
    listing = parts[0].listing
    if len(parts) > 1:
        listing = Listing.joined(_root(data), [(part.path, part.listing) for part in parts])
    class_names = sorted({name for part in parts for name in part.class_names})
    labels = np.concatenate([part.labels(class_names) for part in parts])
    files = _Lazily(lambda index: listing.path(chosen[index]), len(chosen))
    source = EncodedImages(
        f"{data.dataset} ({split})",
        _read_files(files) if data.cache_dataset else chosen,
        read=tf.identity if data.cache_dataset else lambda row: tf.io.read_file(listing.path_tensor(row)),
        example_names=_Lazily(lambda row: shown_path(listing.path(row)), len(listing)),
        labels=labels if class_names else None,
        class_names=[shown_path(name) for name in class_names] or None,
        numbers=chosen,
    )
    source.files = files
    source.identity = (*listing.identity, chosen.astype(np.int64).tobytes())
    source.num_unlabelled = int((labels < 0).sum()) if class_names else 0
    return source


class _Lazily(Sequence[str]):
    """Sequence of strings that are made on access."""

    def __init__(self, make: Callable[[int], str], length: int):
        self._make = make
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._make(index)


def _error(data: DataConfig, what: str) -> UserError:
    return UserError(f"--dataset={data.dataset}: {what}")


@contextlib.contextmanager
def _readable(data: DataConfig) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _error(data, f"{error.filename} cannot be read ({error.strerror}); name a readable folder.") from error


def _root(data: DataConfig) -> str:
    return os.path.expanduser(data.dataset.partition(":")[2])


def _split_folders(data: DataConfig) -> tuple[dict[str, str], list[str]]:
    """Returns the subfolder of each split, "" for the whole folder, and notes on ignored files and folders."""
    root = _root(data)
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise _error(data, f"{root or 'the empty path'} {problem}; name a folder of images.")
    with _readable(data):
        found = scan(root, most=_MANY_IMAGES)
    splits: dict[str, str] = {}
    for name in found.folders:
        kind = split_kind(name)
        if kind in splits:
            raise _error(data, f"{splits[kind]} and {name} in {root} are both the split {kind}; rename or join them.")
        if kind is not None:
            splits[kind] = name
    others = [name for name in found.folders if name not in splits.values()]
    # A single such name among others, such as `train` beside `bus`, may be a class.
    if not splits or (len(splits) == 1 and others):
        return {"train": ""}, []
    splits = {kind: splits[kind] for kind in SPLITS if kind in splits}
    ignored = found.ignored + collections.Counter({"images": len(found.images)})
    lines = [_ignored_line(root, ignored)]
    if others:
        names = f"the folder{'s'[: len(others) > 1]} {listed(others)}"
        lines.append(f"Ignored in {root}: {names}, beside the splits {listed(splits.values())}.")
    return splits, lines


def _ignored_line(folder: str, ignored: Mapping[str, int]) -> str:
    """Returns a line that counts the files other than images by kind; "" if there are none."""
    counts = [f"{count} {kind}" for kind, count in sorted(ignored.items(), key=lambda item: -item[1])]
    return f"Ignored in {folder}: {listed(counts)}." if counts else ""


def _list_images(data: DataConfig, folder: str) -> Listing:
    """Returns the images in a folder and its subfolders."""
    with _readable(data):
        listing = list_images(folder)
    if not len(listing):
        kinds = listed(f"{count} {kind}" for kind, count in listing.ignored.items())
        found = f" but {kinds}" if kinds else ""
        fix = f"use tfrecord:{folder}" if ".tfrecord" in listing.ignored else "put some there"
        raise _error(data, f"{folder} holds no images ({', '.join(IMAGE_EXTENSIONS)}){found}; {fix}.")
    return listing


def _check_classes(data: DataConfig, listing: Listing, *, is_held_out: bool) -> None:
    """Raises UserError if the subfolders are not classes; those of a held-out split may be empty."""
    folder, names, inner = listing.folder, listing.class_names, listing.folders_of_classes
    if listing.counts[0]:
        raise _error(
            data,
            f"{folder} holds images ({os.path.basename(listing.path(0))}) beside subfolders ({names[0]}); "
            "use either one subfolder per class or a flat folder.",
        )
    empty = [name for name, count in zip(names, listing.class_counts, strict=True) if not count]
    if empty and not is_held_out:
        names_of_empty = ", ".join(empty[:3])
        raise _error(data, f"no images in the class folder(s) {names_of_empty} of {folder}; add some or remove them.")
    splits = [name for name in names if split_kind(name)]
    is_word = len(splits) == 1 < len(names) and splits[0].lower() in _WORDS
    if splits and not (is_word and not inner[splits[0]]):
        raise _error(
            data,
            f"the folder(s) {listed(splits)} in {folder} would be classes, but are named like splits; put splits "
            "side by side and all classes into them (train/cat, test/cat, unlabelled), or rename those that are "
            "classes.",
        )
    common = set.intersection(*map(set, inner.values()))
    are_splits = bool(common) and all(map(split_kind, common))
    if all(common == set(folders) for folders in inner.values()) and (are_splits or min(len(names), len(common)) > 1):
        raise _error(
            data,
            f"the folder(s) {listed(names)} in {folder} would be classes, but each holds the folders "
            f"{listed(sorted(common))}; if these are the classes or splits, name one folder, such as "
            f"folder:{os.path.join(folder, names[0])}, otherwise put the images of each class right into its folder.",
        )


def _read_files(paths: Iterable[str]) -> list[bytes]:
    """Reads whole files. A file that cannot be read becomes empty, and so an unreadable image."""

    def read(path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return b""

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, paths))
