"""`tfrecord:GLOB`: TFRecord files of `tf.train.Example` with an encoded image and an optional label."""

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_simclr.config import DataConfig, UserError, check
from tf_simclr.data.manifest import MANIFEST_FILE, UNFINISHED_FILE, UNREADABLE_FILE, Manifest, read_manifest
from tf_simclr.data.record_features import feature_keys, parser
from tf_simclr.data.record_files import RecordFile, count_records
from tf_simclr.data.source import Labels, Source
from tf_simclr.data.splits import SPELLINGS, UNLABELLED, slices_of_split, split_kind, split_terms
from tf_simclr.data.stream_source import StreamSource, shuffle_buffer_size
from tf_simclr.files import find_paths, first_line

_LOG = logging.getLogger("tf_simclr")
PREFIX = "tfrecord:"
_FILES_IN_FOLDER = "{split}-*.tfrecord*"
_NO_RECORDS = frozenset([MANIFEST_FILE, UNFINISHED_FILE, UNREADABLE_FILE])
_NUM_THREADS = 16
# Label of records without one; -1 is the label of damaged records.
_MISSING = -2
_TO_COUNT = "to count the classes; --tfrecord_num_classes spares it"
# Numbers of records and files that are searched for missing labels.
_NUM_SAMPLES = _NUM_SAMPLED_FILES = 16


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of one split, and the image and label features of their records."""

    files: tuple[RecordFile, ...]
    class_names: tuple[str, ...] | None
    first_label: int
    image_key: str
    label_key: str | None

    @property
    def num_examples(self) -> int:
        return sum(file.take for file in self.files)

    def stream(
        self, name: str, class_names: Sequence[str] | None, *, missing_label: int | None, is_optional: bool
    ) -> StreamSource:
        num_bytes = sum(tf.io.gfile.stat(file.filename).length for file in self.files)
        parse = parser(
            self.image_key,
            None if class_names is None else self.label_key,
            first_label=self.first_label,
            num_classes=None if class_names is None else len(class_names),
            missing_label=missing_label,
            is_optional=is_optional,
        )
        buffer_size = shuffle_buffer_size(num_bytes, self.num_examples)
        return StreamSource(
            name, files=self.files, parse=parse, shuffle_buffer_size=buffer_size, class_names=class_names
        )

    def read_labels(self) -> Labels:
        """Returns the label of each record, int32 [N]; -1 if it is damaged, _MISSING if it has none."""
        parse = parser(self.image_key, self.label_key, first_label=self.first_label, missing_label=_MISSING)
        return StreamSource("labels", files=self.files, parse=parse, shuffle_buffer_size=1).read_labels()

    def sample(self) -> "_Files":
        """Returns the first records of some files."""
        some = self.files[:: -(-len(self.files) // _NUM_SAMPLED_FILES)]
        first = tuple(dataclasses.replace(file, take=min(file.take, _NUM_SAMPLES)) for file in some)
        return dataclasses.replace(self, files=first)


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the splits that have files; raises UserError if there is no file."""
    return tuple(_paths(data))


def load(data: DataConfig, split: str, flag: str) -> Source:
    """Opens one split; without a manifest, counts its records by their lengths.

    Args:
        data: The data set; its name is `tfrecord:GLOB` or `tfrecord:DIRECTORY`.
        split: A split, a part of one (consecutive records), or a sum of these.
        flag: The flag that named the split, for messages.

    Returns:
        The examples, in the order of the files' names; streamed, or in memory with `cache_dataset`.

    Raises:
        UserError: If there are no such files or split, no records or no images in them, or the size of a file is not
            that in the manifest.
    """
    names = [term.partition("[")[0] for term in split_terms(split, flag)]
    paths = _paths(data, *names)
    opened: dict[str, _Files] = {}

    def num_examples(name: str) -> int:
        if name not in opened:
            opened[name] = _open(data, paths[name], label_is_needed=split_kind(name) != UNLABELLED)
        return opened[name].num_examples

    slices = slices_of_split(split, tuple(paths), num_examples, flag=flag, dataset=data.dataset)
    terms = [_term(data, opened[name], name, start, stop) for name, start, stop in slices]
    source = _join(data, f"{data.dataset} ({split})", terms)
    source.files = [file.filename for files in opened.values() for file in files.files]
    return source


class _Term(NamedTuple):
    """A part of a split: all its files, its range of records, the classes, and the number of records without one."""

    opened: _Files
    start: int
    stop: int
    class_names: tuple[str, ...] | None
    num_unlabelled: int


def _term(data: DataConfig, opened: _Files, name: str, start: int, stop: int) -> _Term:
    class_names, labels = _classes(data, name, opened)
    labels = labels[start:stop]
    num_missing = int(np.count_nonzero(labels == _MISSING))
    if class_names is None or (num_missing and labels.max() < 0):
        return _Term(opened, start, stop, None, stop - start)
    return _Term(opened, start, stop, class_names, num_missing)


def _join(data: DataConfig, name: str, terms: Sequence[_Term]) -> Source:
    """Returns the records of all terms. Records of a term without classes have no label if other terms have labels."""
    first = next((term for term in terms if term.class_names is not None), terms[0])
    num_unlabelled = sum(term.num_unlabelled for term in terms) if first.class_names else 0
    files = tuple(file for term in terms for file in term.opened.files)
    missing_label, is_optional = -1 if num_unlabelled else None, any(term.opened.label_key is None for term in terms)
    whole = dataclasses.replace(first.opened, files=files).stream(
        name, first.class_names, missing_label=missing_label, is_optional=is_optional
    )
    ends = np.cumsum([term.opened.num_examples for term in terms]).tolist()
    firsts = [end - term.opened.num_examples for end, term in zip(ends, terms, strict=True)]
    stream = whole.parts([(at + term.start, at + term.stop) for at, term in zip(firsts, terms, strict=True)])
    source = stream.in_memory() if data.cache_dataset else stream
    source.num_unlabelled = num_unlabelled
    return source


def _error(data: DataConfig, what: str) -> UserError:
    return UserError(f"--dataset={data.dataset}: {what}")


def _paths(data: DataConfig, *wanted: str) -> dict[str, list[str]]:
    """Returns the paths of the files of each split, the usual ones and the wanted ones."""
    path = os.path.expanduser(data.dataset.removeprefix(PREFIX))
    try:
        if tf.io.gfile.isdir(path):
            manifest = read_manifest(path)
            if manifest is not None:
                return manifest.paths
            directory, pattern = path, _FILES_IN_FOLDER
        else:
            directory = root[0] if (root := re.match(r"\w+://[^/]*/|/+", path)) else ""
            pattern = path[len(directory) :]
        names = dict.fromkeys((*SPELLINGS, *wanted)) if "{split}" in pattern else ("train",)
        found = {name: _find_files(directory, pattern.replace("{split}", name)) for name in names}
    except (tf.errors.OpError, OSError) as error:
        raise _error(data, f"{path} cannot be read ({first_line(error)}); name readable files.") from error
    if not any(found.values()):
        raise _error(
            data,
            f"there is no file {os.path.join(directory, pattern)}; name files, such as "
            f"tfrecord:data/{_FILES_IN_FOLDER}, or a folder that --mode=prepare has written, or use folder:PATH for "
            "images.",
        )
    found = {split: paths for split, paths in found.items() if paths}
    first: dict[str, str] = {}
    for name, paths in found.items():
        other = first.setdefault(split_kind(name) or name, name)
        if other != name and not set(paths) & set(found[other]):  # One of them would be ignored.
            both = " and ".join(os.path.basename(some[0]) for some in (found[other], paths))
            raise _error(data, f"{both} are both the split {split_kind(name)}; rename the files of one of them.")
    return found


def _find_files(directory: str, pattern: str) -> list[str]:
    if tf.io.gfile.exists(path := os.path.join(directory, pattern)):
        return [] if tf.io.gfile.isdir(path) else [path]
    # Killed processes leave files with the ending .tmp.
    found = [path for path in find_paths(directory, pattern) if not path.endswith((".tmp", ".lock"))]
    return [path for path in found if os.path.basename(path) not in _NO_RECORDS]


def _open(data: DataConfig, paths: Sequence[str], *, label_is_needed: bool = True) -> _Files:
    """Counts the records of files, and finds their features."""
    folders = dict.fromkeys(os.path.dirname(path) for path in paths)
    manifests = [manifest for manifest in map(read_manifest, folders) if manifest is not None]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        files = tuple(pool.map(functools.partial(_open_file, data, manifests), paths))
    files = tuple(file for file in files if file.take)
    if not files:
        raise _error(data, f"there is no record in {len(paths)} file(s), such as {paths[0]}; name others.")
    image, label = feature_keys(data, files, label_is_needed=label_is_needed)
    used = [manifest for manifest in manifests if any(path in manifest for path in paths)]
    for other in used[1:]:
        theirs, ours = other.class_names, used[0].class_names
        if label is not None and theirs != ours:
            differing = sorted(set(theirs or ()) ^ set(ours or ())) or list(theirs or ())
            raise _error(
                data,
                f"the classes in {other.directory} are not those in {used[0].directory} ({', '.join(differing[:5])}); "
                "name one of them, or use --tfrecord_label_key= to read without labels.",
            )
    in_manifest = all(any(path in manifest for manifest in used) for path in paths)
    class_names = used[0].class_names if in_manifest else None
    return _Files(files, class_names, data.tfrecord_first_label, image, label)


def _open_file(data: DataConfig, manifests: Sequence[Manifest], path: str) -> RecordFile:
    for manifest in manifests:
        if path in manifest:
            return manifest.file(path)
    try:
        return _count(path, _state(path))
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise _error(data, f"{path} cannot be read ({reason}); name readable files.") from error


def _state(path: str) -> tuple[int, int]:
    """Returns a value that changes if a file of the same name has other contents."""
    state = tf.io.gfile.stat(path)
    return state.length, state.mtime_nsec


# The split, the number of classes and the report all open the same file.
@functools.cache
def _count(path: str, state: tuple[int, int]) -> RecordFile:
    del state
    file, damage = count_records(path)
    if damage:
        _LOG.warning("%s: %s.", path, damage)
    return file


def _classes(data: DataConfig, split: str, opened: _Files) -> tuple[tuple[str, ...] | None, Labels]:
    """Returns the class names, from the manifest or else numbers; and the result of `read_labels`.

    The names are None without labels. The labels are empty if they were not read because none is missing.
    """
    not_read = np.zeros([0], np.int32)
    if opened.label_key is None:
        return None, not_read
    asked = data.tfrecord_num_classes
    if opened.class_names is not None:
        count, fix = len(opened.class_names), f"the {MANIFEST_FILE} says what the labels mean; leave it out."
        flag = "tfrecord_num_classes"
        check(asked in (0, count), flag, asked, f"the {MANIFEST_FILE} names {count} classes; leave it out.")
        check(opened.first_label == 0, "tfrecord_first_label", opened.first_label, fix)
        return opened.class_names, not_read
    if asked:
        some_missing = _MISSING in opened.sample().read_labels()
        labels = _labels(opened, "because some have none") if some_missing else not_read
        return tuple(map(str, range(asked))), labels
    count = _count_classes(data, split)
    return tuple(map(str, range(count))) or None, _labels(opened, _TO_COUNT)


def _count_classes(data: DataConfig, split: str) -> int:
    """Returns one more than the largest label of all splits, because a small split may lack some classes."""
    every = [_open(data, paths, label_is_needed=False) for paths in _paths(data, split).values()]
    labels = [_labels(opened, _TO_COUNT) for opened in every if opened.label_key]
    num_examples, largest = sum(map(len, labels)), max(int(some.max()) for some in labels)
    check(
        largest < max(num_examples, 2),
        "tfrecord_num_classes",
        0,
        f"the largest label of {num_examples} records is {largest + data.tfrecord_first_label}; name the number of "
        "classes: records of other labels are left out then.",
    )
    return max(largest + 1, 0)


def _labels(opened: _Files, why: str) -> Labels:
    """Returns the result of `read_labels`, from memory if the files did not change."""
    return _read_labels(opened, tuple(_state(file.filename) for file in opened.files), why)


@functools.lru_cache(maxsize=32)
def _read_labels(opened: _Files, states: tuple[tuple[int, int], ...], why: str) -> Labels:
    del states
    _LOG.info("Reading the labels of %d records %s.", opened.num_examples, why)
    return opened.read_labels()
