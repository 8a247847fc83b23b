"""The images below a folder: found without opening any, and kept in a few bytes each."""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_LOG = logging.getLogger("tf_simclr")
# What TensorFlow cannot read of these is counted and reported, rather than passed over in silence.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
END = b"\0"
"""Stands behind each name; no name holds it."""
_SECONDS_BETWEEN_LINES = 5.0


class ListingError(Exception):
    """A folder that cannot be listed; the message says why, and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The images below a folder: those of a folder before those of the folders in it, both sorted.

    Image number i is called a row. A path is put together when it is asked for: Python's strings would take ten
    times the memory.

    Attributes:
        folder: The folder, as the user named it.
        subfolders: Path from `folder` of each folder that was listed; the first is "".
        counts: Number of images in each of them; int64 [F].
        names: The names of all images, each with `END` behind it.
    """

    folder: str
    subfolders: tuple[str, ...]
    counts: np.ndarray
    names: bytes

    def __len__(self) -> int:
        return len(self._ends)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The folders in `folder` itself."""
        return tuple(name for name in self.subfolders[1:] if os.sep not in name)

    @functools.cached_property
    def class_counts(self) -> np.ndarray:
        """Number of images below each folder of `class_names`; int64 [C]."""
        # A folder comes right before those in it.
        starts = [number for number, name in enumerate(self.subfolders) if number and os.sep not in name]
        return np.add.reduceat(self.counts, starts) if starts else np.zeros([0], np.int64)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.flatnonzero(np.frombuffer(self.names, np.uint8) == END[0])

    @functools.cached_property
    def _rows_up_to(self) -> np.ndarray:
        """Number of rows of each folder and those before it; int64 [F]."""
        return np.cumsum(self.counts)

    @property
    def identity(self) -> tuple[bytes, ...]:
        """What the images are called, wherever `folder` lies."""
        return (
            b"".join(os.fsencode(name) + END for name in self.subfolders),
            self.counts.tobytes(),
            self.names,
        )

    def path(self, row: int) -> str:
        """Returns the path of an image."""
        number = np.searchsorted(self._rows_up_to, row, side="right")
        start = self._ends[row - 1] + 1 if row else 0
        name = os.fsdecode(self.names[start : self._ends[row]])
        return os.path.join(self.folder, self.subfolders[number], name)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, ...]:
        folders = [os.fsencode(os.path.join(self.folder, name, "")) for name in self.subfolders]
        with tf.init_scope(), tf.device("CPU:0"):  # Whatever graph asks first, all of them use it.
            starts = tf.constant(np.append(-1, self._ends) + 1)
            return tf.constant(folders), tf.constant(self._rows_up_to), tf.constant(self.names), starts

    def path_tensor(self, row: tf.Tensor) -> tf.Tensor:
        """Returns the path, string [], of row int64 [], in a graph."""
        folders, rows_up_to, names, starts = self._tensors
        number = tf.searchsorted(rows_up_to, row[tf.newaxis], side="right")[0]
        name = tf.strings.substr(names, starts[row], starts[row + 1] - starts[row] - len(END))
        return tf.strings.join([folders[number], name])


class Times(NamedTuple):
    """When a folder was last changed, in nanoseconds: by its owner's account, and by the file system's."""

    modified: int
    changed: int


def times_of(state: os.stat_result) -> Times:
    """Returns the times of a folder, which are others whenever anything in it is added, removed or renamed."""
    return Times(state.st_mtime_ns, state.st_ctime_ns)


def list_images(folder: str) -> tuple[Listing, list[Times]]:
    """Lists a folder of images, or of folders with images; asks the file system for no single file.

    Hidden files and folders are left out. Links are followed, but not those that lead back to a folder above them.

    Returns:
        The images, and the times that each of `subfolders` had before it was listed.

    Raises:
        ListingError: A folder cannot be read; `folder` holds images beside folders.
    """
    subfolders, times, counts, names = [], [], [], bytearray()
    for found in _walk(folder):
        subfolders.append(found.subfolder)
        times.append(found.times)
        counts.append(len(found.images))
        names += b"".join(os.fsencode(name) + END for name in found.images)
    return Listing(folder, tuple(subfolders), np.array(counts, np.int64), bytes(names)), times


class _Found(NamedTuple):
    subfolder: str
    times: Times
    images: list[str]


def _walk(top: str) -> Iterator[_Found]:
    report = _Progress(top)
    pending: list[tuple[str, frozenset]] = [("", frozenset())]
    while pending:
        subfolder, above = pending.pop()
        folder = os.path.join(top, subfolder) if subfolder else top
        try:
            state = os.stat(folder)
            identity = (state.st_dev, state.st_ino)
            if identity in above:
                continue
            folders, images = scan(folder, report)
        except OSError as error:
            raise ListingError(
                f"{folder} cannot be read ({error.strerror}); name a folder that can."
            ) from error
        if images and folders and not subfolder:
            raise ListingError(
                f"{folder} holds images ({images[0]}) beside subfolders ({folders[0]}); "
                "use either one subfolder a class or a flat folder."
            )
        yield _Found(subfolder, times_of(state), images)
        pending += [(os.path.join(subfolder, name), above | {identity}) for name in reversed(folders)]


class _Progress:
    """Says how far it is where listing takes a while; called once for each image."""

    def __init__(self, folder: str):
        self._folder = folder
        self._count = 0
        self._last = time.monotonic()

    def __call__(self) -> None:
        self._count += 1
        if (now := time.monotonic()) - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            _LOG.info("Listing %s: %d images so far.", self._folder, self._count)


def scan(folder: str, report: Callable[[], None] = lambda: None) -> tuple[list[str], list[str]]:
    """Returns the names of subfolders and of images in a folder, sorted, without hidden ones.

    Args:
        folder: The folder.
        report: Called for each image.

    Raises:
        OSError: It cannot be read.
    """
    subfolders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                subfolders.append(entry.name)
            elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                images.append(entry.name)
                report()
    return sorted(subfolders), sorted(images)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()  # Known from the entry, but for links.
    except (
        OSError
    ):  # A link to itself, or to where nobody may look: an image that cannot be read, if it is named so.
        return False
