"""The listing of a large folder, kept in a file, so that it is not listed again while nothing in it has changed.

A folder's times change whenever an image or a folder in it is added, removed or renamed. So the times of all folders
are compared, which is one question to the file system for each folder instead of one answer for each image.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.data.listing import END, IMAGE_EXTENSIONS, Listing, Times, list_images, times_of
from tf_simclr.files import delete_leftovers, parse_json, replacing, save_npz

_LOG = logging.getLogger("tf_simclr")
MIN_IMAGES = 10_000
"""Smaller folders are listed in less time than it takes to notice, and so each time."""
# A change in the same moment as the listing may leave the times as they are: clocks of file systems are coarse.
_SETTLED_NANOSECONDS = 2_000_000_000
_VERSION = f"2 {' '.join(IMAGE_EXTENSIONS)}"


def indexed_images(folder: str, data_dir: str | None) -> Listing:
    """Returns the images of a folder: by its index, or else listed, and then written into one.

    An index that is damaged, of another folder or version, or out of date is no index. One that cannot be written is
    no error. Several processes may do all of this at the same time.

    Args:
        folder: The folder.
        data_dir: Where indexes are kept; None for the user's cache.

    Raises:
        ListingError: See `list_images`.
    """
    path = index_path(folder, data_dir)
    listing = path and _read(path, folder)
    if listing:
        return listing
    started = time.time_ns()
    listing, times = list_images(folder)
    # Times of 0 are those of file systems that keep none.
    settled = min(map(min, times)) > 0 and max(map(max, times)) < started - _SETTLED_NANOSECONDS
    if path and settled and len(listing) >= MIN_IMAGES:
        with contextlib.suppress(OSError, tf.errors.OpError):
            _write(path, listing, times)
    return listing


def index_path(folder: str, data_dir: str | None) -> str | None:
    """Returns the path of the index of a folder; None where there is no place for one."""
    if data_dir is not None and "://" not in data_dir:
        cache = os.path.abspath(os.path.join(os.path.expanduser(data_dir), ".tf_simclr"))
    else:
        named = os.environ.get("XDG_CACHE_HOME", "")
        root = named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), ".cache")
        cache = os.path.join(root, "tf_simclr")
    key = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:32]
    # Relative where the user has no home.
    return os.path.join(cache, "folders", f"{key}.npz") if os.path.isabs(cache) else None


def _write(path: str, listing: Listing, times: Sequence[Times]) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    parts = {
        "version": _bytes(_VERSION.encode()),
        "folder": _bytes(_absolute(listing.folder)),
        "subfolders": _bytes(b"".join(os.fsencode(name) + END for name in listing.subfolders)),
        "times": np.array(times, np.int64),
        "counts": listing.counts,
        "names": _bytes(listing.names),
        "ignored": _bytes(json.dumps(listing.ignored).encode()),
    }
    delete_leftovers(os.path.dirname(path), r"[0-9a-f]{32}\.npz(\.\d+)?")
    with replacing(path) as temporary:
        save_npz(temporary, parts)


def _read(path: str, folder: str) -> Listing | None:
    """Returns the listing in an index that holds today; None where there is none."""
    try:
        # NumPy closes no file of its own that turns out to be no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
        return _checked(parts, folder)
    except FileNotFoundError:
        return None
    except Exception as error:  # Whatever is wrong with the file: listing again mends it.
        _LOG.info("Listing %s again: its index %s is damaged (%s).", folder, path, type(error).__name__)
        return None


def _checked(parts: dict[str, np.ndarray], folder: str) -> Listing | None:
    """Returns the listing where the folders are as they were; None where they have changed.

    Raises:
        ValueError, KeyError: No index could be so.
    """
    if parts["version"].tobytes() != _VERSION.encode() or parts["folder"].tobytes() != _absolute(folder):
        return None
    names, counts = parts["names"].tobytes(), parts["counts"]
    subfolders = [os.fsdecode(name) for name in parts["subfolders"].tobytes().split(END)[:-1]]
    ignored = parse_json(parts["ignored"].tobytes(), {str: int})
    listing = Listing(folder, tuple(subfolders), counts, names, ignored)
    fits = counts.dtype == np.int64 and counts.shape == (len(subfolders),) and (counts >= 0).all()
    fits = fits and parts["times"].shape == (len(subfolders), len(Times._fields)) and subfolders[:1] == [""]
    if not fits or counts.sum() != len(listing) or not names.endswith(END) or os.fsencode(os.sep) in names:
        raise ValueError("the parts do not fit together")
    for name, before in zip(subfolders, parts["times"].tolist(), strict=True):
        try:
            now = times_of(os.stat(os.path.join(folder, name)))
        except OSError:
            return None
        if list(now) != before:
            return None
    return listing


def _absolute(folder: str) -> bytes:
    return os.fsencode(os.path.abspath(folder))


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
