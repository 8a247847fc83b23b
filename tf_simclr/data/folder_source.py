"""`folder:PATH`: image files with one subfolder a class, or flat and unlabelled."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data.folder_index import indexed_images
from tf_simclr.data.listing import IMAGE_EXTENSIONS, Listing, ListingError, list_images, scan
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.splits import missing_split, slice_of_split
from tf_simclr.files import shown_path

SPLIT_FOLDERS = ("train", "test", "validation", "val", "unlabelled", "unlabeled")


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the subfolders that are splits, or `train`, which is then the whole folder.

    Raises:
        UserError: No such folder.
    """
    return tuple(_split_folders(data))


def load(data: DataConfig, split: str, flag: str) -> EncodedImages:
    """Lists the images of one split, or reads the index of an earlier listing; opens none of the images.

    Args:
        data: The data set; its name is `folder:PATH`.
        split: A split, or a part of one, which is mixed over the classes.
        flag: The flag that named the split, for messages.

    Returns:
        The examples, in the order of their paths.

    Raises:
        UserError: No such folder or split; no images; images beside class folders.
    """
    folders = _split_folders(data)
    name = split.partition("[")[0]
    if name not in folders:
        raise missing_split(split, folders, flag, data.dataset)
    listing = _list_images(data, folders[name])
    _, start, stop = slice_of_split(split, {name: len(listing)}, flag, data.dataset)
    # Paths are sorted by class: a part is taken after a fixed permutation, so that it holds all classes.
    chosen = np.sort(np.random.RandomState(0).permutation(len(listing))[start:stop])
    classes = np.arange(len(listing.class_counts), dtype=np.int32)
    labels = np.repeat(classes, listing.class_counts)[chosen] if listing.class_names else None
    files = _Lazily(lambda index: listing.path(chosen[index]), len(chosen))
    source = EncodedImages(
        f"{data.dataset} ({split})",
        _read_files(files) if data.cache_dataset else chosen,
        read=tf.identity if data.cache_dataset else lambda row: tf.io.read_file(listing.path_tensor(row)),
        example_names=_Lazily(lambda row: shown_path(listing.path(row)), len(listing)),
        labels=labels,
        class_names=[shown_path(name) for name in listing.class_names] or None,
        numbers=chosen,
    )
    source.files = files
    source.identity = (*listing.identity, chosen.astype(np.int64).tobytes())
    return source


class _Lazily(Sequence[str]):
    """Strings that are made when they are asked for."""

    def __init__(self, make: Callable[[int], str], length: int):
        self._make = make
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._make(index)


def _error(data: DataConfig, what: str) -> UserError:
    return UserError(f"--dataset={data.dataset}: {what}")


def _split_folders(data: DataConfig) -> dict[str, str]:
    """Returns the folder of each split."""
    root = os.path.expanduser(data.dataset.partition(":")[2])
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise _error(data, f"{root or 'the empty path'} {problem}; name a folder of images.")
    # A flat folder may hold millions of images: it is not listed for this alone.
    if not any(os.path.isdir(os.path.join(root, name)) for name in SPLIT_FOLDERS):
        return {"train": root}
    try:
        subfolders, _ = scan(root)
    except OSError as error:
        raise _error(data, f"{root} cannot be read ({error.strerror}); name a folder that can.") from error
    splits = [name for name in SPLIT_FOLDERS if name in subfolders]
    # A single such name among others, say `train` beside `bus`, is a class.
    if len(splits) > 1 or (splits and len(subfolders) == 1):
        return {name: os.path.join(root, name) for name in splits}
    return {"train": root}


def _list_images(data: DataConfig, folder: str) -> Listing:
    """Returns the images in a folder, which are in a folder for each class, or all in this one."""
    try:
        listing = indexed_images(folder, data.data_dir) if data.folder_index else list_images(folder)[0]
    except ListingError as error:
        raise _error(data, str(error)) from error
    if not len(listing) and not listing.class_names:
        raise _error(data, f"{folder} holds no images ({', '.join(IMAGE_EXTENSIONS)}); put some there.")
    counts = zip(listing.class_names, listing.class_counts, strict=True)
    if empty := [name for name, count in counts if not count]:
        raise _error(
            data,
            f"no images in the class folder(s) {', '.join(empty[:3])} of {folder}; add some or remove them.",
        )
    return listing


def _read_files(paths: Iterable[str]) -> list[bytes]:
    """Reads whole files; one that cannot be read is empty, and so an unreadable image."""

    def read(path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return b""

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, paths))
