"""Listing of the images below a folder, found by name or first bytes, in a few bytes of memory each."""

import collections
import contextlib
import dataclasses
import functools
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.terminal.progress import Progress

# Images that TensorFlow cannot read are counted as unreadable instead of being ignored.
CONVERTED_EXTENSIONS = (".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
"""Extensions of images that TensorFlow cannot read, or not completely, and that --mode=prepare converts."""
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", *CONVERTED_EXTENSIONS)
# Files with other names are opened to see whether they are images, except these, which often lie beside images.
_OTHER_EXTENSIONS = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".md", ".py", ".npy", ".npz"),
    *(".mat", ".db", ".ini", ".mp4", ".mov", ".avi", ".zip", ".gz", ".tar", ".tfrecord"),
)
# The formats that TensorFlow decodes. A bitmap has four zeros after its length.
_FIRST_BYTES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM....\0\0\0\0|RIFF....WEBP", flags=re.DOTALL)
_NUM_FIRST_BYTES = 12
# Folders that archives and network drives of other systems add. Their files have the names of images.
_HIDDEN = (".", "__MACOSX", "@eaDir")
END = b"\0"
"""Ends each name; no name contains it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """The images below a folder, sorted: a folder's own images come before those of its subfolders.

    Image number i is called a row. Paths are made on access, because Python's strings would take ten times the
    memory.

    Attributes:
        folder: The folder, as the user named it.
        subfolders: Path of each listed folder relative to `folder`; the first is "".
        counts: Number of images in each of them; int64 [F].
        names: The names of all images, each followed by `END`.
        ignored: Number of files other than images by kind: an extension, `hidden`, ...
    """

    folder: str
    subfolders: tuple[str, ...]
    counts: NDArray[np.int64]
    names: bytes
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def joined(cls, folder: str, parts: Sequence[tuple[str, "Listing"]]) -> "Listing":
        """Returns the images of several folders, each with its path relative to `folder` and its listing."""
        ignored = sum((collections.Counter(part.ignored) for _, part in parts), collections.Counter())
        return cls(
            folder,
            tuple(os.path.join(path, name) if name else path for path, part in parts for name in part.subfolders),
            np.concatenate([part.counts for _, part in parts]),
            b"".join(part.names for _, part in parts),
            ignored,
        )

    def __len__(self) -> int:
        return len(self._ends)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The direct subfolders of `folder`."""
        return tuple(name for name in self.subfolders[1:] if os.sep not in name)

    @functools.cached_property
    def class_counts(self) -> NDArray[np.int64]:
        """Number of images below each folder of `class_names`; int64 [C]."""
        # A folder comes right before its subfolders.
        starts = [number for number, name in enumerate(self.subfolders) if number and os.sep not in name]
        return np.add.reduceat(self.counts, starts) if starts else np.zeros([0], np.int64)

    @property
    def folders_of_classes(self) -> dict[str, list[str]]:
        """The subfolders of each folder of `class_names`; empty if images lie beside them."""
        found: dict[str, list[str]] = {name: [] for name in self.class_names}
        for name in self.subfolders[1:]:
            parent, _, child = name.partition(os.sep)
            if child and os.sep not in child:
                found[parent].append(child)
        direct = dict(zip(self.subfolders, self.counts, strict=True))
        return {name: [] if direct[name] else folders for name, folders in found.items()}

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.frombuffer(self.names, np.uint8) == END[0])

    @functools.cached_property
    def _rows_up_to(self) -> NDArray[np.int64]:
        """Cumulative number of rows of the folders; int64 [F]."""
        return np.cumsum(self.counts)

    @property
    def identity(self) -> tuple[bytes, ...]:
        """The names of the images, independent of the location of `folder`."""
        return b"".join(os.fsencode(name) + END for name in self.subfolders), self.counts.tobytes(), self.names

    def path(self, row: int) -> str:
        """Returns the path of an image."""
        number = np.searchsorted(self._rows_up_to, row, side="right")
        start = self._ends[row - 1] + 1 if row else 0
        name = os.fsdecode(self.names[start : self._ends[row]])
        return os.path.join(self.folder, self.subfolders[number], name)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, ...]:
        folders = [os.fsencode(os.path.join(self.folder, name, "")) for name in self.subfolders]
        with tf.init_scope(), tf.device("CPU:0"):  # Any graph may ask first, and all graphs use the result.
            starts = tf.constant(np.append(-1, self._ends) + 1)
            return tf.constant(folders), tf.constant(self._rows_up_to), tf.constant(self.names), starts

    def path_tensor(self, row: tf.Tensor) -> tf.Tensor:
        """Returns the path, string [], of row int64 [], in a graph."""
        folders, rows_up_to, names, starts = self._tensors
        number = tf.searchsorted(rows_up_to, row[tf.newaxis], side="right")[0]
        name = tf.strings.substr(names, starts[row], starts[row + 1] - starts[row] - len(END))
        return tf.strings.join([folders[number], name])


def list_images(folder: str) -> Listing:
    """Lists the images below a folder; opens only files whose names do not tell their kind.

    Hidden files and folders are left out. Links are followed unless they lead back to a folder above them.

    Raises:
        OSError: If a folder cannot be read.
    """
    subfolders, counts, names = [], [], bytearray()
    ignored: collections.Counter[str] = collections.Counter()
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    with contextlib.closing(Progress(0, None, f"Listing {folder}", keep=False)) as progress:
        while pending:
            subfolder, above = pending.pop()
            place = os.path.join(folder, subfolder) if subfolder else folder
            state = os.stat(place)
            identity = (state.st_dev, state.st_ino)
            if identity in above:
                continue
            found = scan(place, progress.add)
            subfolders.append(subfolder)
            counts.append(len(found.images))
            names += b"".join(os.fsencode(name) + END for name in found.images)
            ignored += found.ignored
            pending += [(os.path.join(subfolder, name), above | {identity}) for name in reversed(found.folders)]
    return Listing(folder, tuple(subfolders), np.array(counts, np.int64), bytes(names), ignored)


class Scan(NamedTuple):
    """Direct contents of a folder: sorted names of folders and images, and the number of other files by kind."""

    folders: list[str]
    images: list[str]
    ignored: collections.Counter[str]


def scan(folder: str, report: Callable[[], None] = lambda: None, *, most: int | None = None) -> Scan:
    """Returns the direct contents of a folder; raises OSError if it cannot be read.

    Args:
        folder: The folder.
        report: Called for each image.
        most: Limit of images; the listing stops after more than this.
    """
    subfolders, images = [], []
    ignored: collections.Counter[str] = collections.Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_HIDDEN):
                ignored["hidden"] += 1
            elif _is_folder(entry):
                subfolders.append(entry.name)
            elif kind := _why_ignored(entry):
                ignored[kind] += 1
            else:
                images.append(entry.name)
                report()
                if most is not None and len(images) > most:
                    break
    return Scan(sorted(subfolders), sorted(images), ignored)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # The entry itself tells, except for links.
    except OSError:  # A link to itself or to a forbidden place: an unreadable image, if it has the name of an image.
        return False


def _why_ignored(entry: os.DirEntry[str]) -> str | None:
    """Returns the kind of a file that is not an image; None for an image, even an unreadable one."""
    extension = os.path.splitext(entry.name)[1].lower()
    if _is_special(entry):
        return "special"  # Reading a pipe would block.
    if extension in IMAGE_EXTENSIONS or (extension not in _OTHER_EXTENSIONS and _begins_like_an_image(entry)):
        return None
    if not extension:
        return "without extension"
    return extension if re.fullmatch(r"\.[a-z0-9]{1,12}", extension) else "of other names"


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _begins_like_an_image(entry: os.DirEntry[str]) -> bool:
    try:
        with open(entry.path, "rb") as file:
            return _FIRST_BYTES.match(file.read(_NUM_FIRST_BYTES)) is not None
    except OSError:
        return False
