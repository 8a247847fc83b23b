"""`tfrecord:GLOB`: TFRecord files of `tf.train.Example`, each an encoded image and, where there are any, a label."""

import dataclasses
import functools
import glob
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_simclr.config import DataConfig, UserError, check
from tf_simclr.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from tf_simclr.data.record_files import RecordFile, count_records, read_records
from tf_simclr.data.source import Source
from tf_simclr.data.splits import missing_split, slice_of_split
from tf_simclr.data.stream_source import Parse, StreamSource, shuffle_buffer_size

_LOG = logging.getLogger("tf_simclr")
PREFIX = "tfrecord:"
IMAGE_KEYS = ("image", "image/encoded", "image_raw", "encoded_image", "jpeg", "png")
LABEL_KEYS = ("label", "image/class/label")
_SPLITS = ("train", "test", "validation", "val", "unlabelled", "unlabeled")
_FILES_IN_FOLDER = "{split}-*.tfrecord*"
# Of the first file with any, so many records are looked at for their features.
_NUM_PROBED = 16
_NUM_THREADS = 16


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of one split, and where image and label are in their records."""

    files: tuple[RecordFile, ...]
    class_names: tuple[str, ...] | None
    image_key: str
    label_key: str | None

    @property
    def num_examples(self) -> int:
        return sum(file.take for file in self.files)

    def stream(self, name: str, class_names: Sequence[str] | None) -> StreamSource:
        num_bytes = sum(tf.io.gfile.stat(file.filename).length for file in self.files)
        num_classes = None if class_names is None else len(class_names)
        return StreamSource(
            name,
            files=self.files,
            parse=_parser(self.image_key, self.label_key, num_classes),
            shuffle_buffer_size=shuffle_buffer_size(num_bytes, self.num_examples),
            class_names=class_names,
        )


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the splits of which there are files.

    Raises:
        UserError: There is no file.
    """
    return tuple(_paths(data))


def load(data: DataConfig, split: str, flag: str) -> Source:
    """Opens one split; counts its records, where no manifest says their number, by their lengths.

    Args:
        data: The data set; its name is `tfrecord:GLOB` or `tfrecord:DIRECTORY`.
        split: A split, or a part of one, which are records that follow each other.
        flag: The flag that named the split, for messages.

    Returns:
        The examples, in the order of the files' names; streamed, or in memory with `cache_dataset`.

    Raises:
        UserError: No such files or split, no records, no image in them; not as many bytes as a manifest says.
    """
    name = split.partition("[")[0]
    paths = _paths(data, name)
    if name not in paths:
        raise missing_split(split, paths, flag, data.dataset)
    opened = _open(data, paths[name])
    _, start, stop = slice_of_split(split, {name: opened.num_examples}, flag, data.dataset)
    stream = opened.stream(f"{data.dataset} ({split})", _class_names(data, name, opened)).part(start, stop)
    source = stream.in_memory() if data.cache_dataset else stream
    source.files = [file.filename for file in opened.files]
    return source


def _error(data: DataConfig, what: str) -> UserError:
    return UserError(f"--dataset={data.dataset}: {what}")


def _paths(data: DataConfig, wanted: str = "train") -> dict[str, list[str]]:
    """Returns the paths of the files of each split, of the usual ones and the one that is wanted."""
    pattern = os.path.expanduser(data.dataset.removeprefix(PREFIX))
    try:
        if tf.io.gfile.isdir(pattern):
            manifest = read_manifest(pattern)
            if manifest is not None:
                return manifest.paths
            pattern = os.path.join(glob.escape(pattern), _FILES_IN_FOLDER)
        names = dict.fromkeys((*_SPLITS, wanted)) if "{split}" in pattern else ("train",)
        found = {name: _glob(pattern.replace("{split}", name)) for name in names}
    except tf.errors.OpError as error:
        raise _error(data, f"{pattern} cannot be read ({error.message}); name files that can.") from error
    if not any(found.values()):
        raise _error(
            data,
            f"there is no file {pattern}; name files, such as tfrecord:data/{_FILES_IN_FOLDER}, or a folder that "
            "--mode=prepare has written.",
        )
    return {split: paths for split, paths in found.items() if paths}


def _glob(pattern: str) -> list[str]:
    if tf.io.gfile.exists(pattern):
        return [] if tf.io.gfile.isdir(pattern) else [pattern]
    return sorted(path for path in tf.io.gfile.glob(pattern) if os.path.basename(path) != MANIFEST_FILE)


def _open(data: DataConfig, paths: Sequence[str]) -> _Files:
    """Counts the records of files, and finds the features in them."""
    folders = dict.fromkeys(os.path.dirname(path) for path in paths)
    manifests = [manifest for manifest in map(read_manifest, folders) if manifest is not None]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        files = tuple(pool.map(functools.partial(_open_file, data, manifests), paths))
    files = tuple(file for file in files if file.take)
    if not files:
        raise _error(data, f"there is no record in {len(paths)} file(s), such as {paths[0]}; name others.")
    in_manifest = all(any(path in manifest for manifest in manifests) for path in paths)
    named = {manifest.class_names for manifest in manifests} if in_manifest else set()
    return _Files(files, named.pop() if len(named) == 1 else None, *_feature_keys(data, files))


def _open_file(data: DataConfig, manifests: Sequence[Manifest], path: str) -> RecordFile:
    for manifest in manifests:
        if path in manifest:
            return manifest.file(path)
    try:
        return _count(path, _state(path))
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", type(error).__name__)
        raise _error(data, f"{path} cannot be read ({reason}); name files that can.") from error


def _state(path: str) -> tuple[int, int]:
    """Returns what differs where a file of the same name holds something else."""
    state = tf.io.gfile.stat(path)
    return state.length, state.mtime_nsec


# A file is opened for its split, for the number of classes and for the report.
@functools.cache
def _count(path: str, state: tuple[int, int]) -> RecordFile:
    del state
    file, damage = count_records(path)
    if damage:
        _LOG.warning("%s: %s.", path, damage)
    return file


def _feature_keys(data: DataConfig, files: Sequence[RecordFile]) -> tuple[str, str | None]:
    """Returns the names of image and label: those of the flags, or else usual ones that are there."""
    kinds = _feature_kinds(data, files)
    found = ", ".join(f"{name} ({kind})" for name, kind in sorted(kinds.items()))
    where = f"the records of {files[0].filename} and others have the features {found}"
    image = data.tfrecord_image_key or _first(IMAGE_KEYS, kinds)
    if image is None:
        raise UserError(
            f"--tfrecord_image_key: not given, and {where}; name the one that is an encoded image."
        )
    check(
        kinds.get(image) == "bytes",
        "tfrecord_image_key",
        image,
        f"{where}; name one that is an encoded image.",
    )
    label = _first(LABEL_KEYS, kinds) if data.tfrecord_label_key is None else data.tfrecord_label_key or None
    check(
        label is None or kinds.get(label) == "int64",
        "tfrecord_label_key",
        label,
        f"{where}; name one that is an integer, or use --tfrecord_label_key= to read without labels.",
    )
    return image, label


def _first(names: Sequence[str], kinds: dict[str, str]) -> str | None:
    return next((name for name in names if name in kinds), None)


def _feature_kinds(data: DataConfig, files: Sequence[RecordFile]) -> dict[str, str]:
    """Returns the features in the first readable records and what they hold: bytes, int64 or float."""
    for file in files:
        kinds: dict[str, str] = {}
        first = tf.data.Dataset.from_tensors(0).flat_map(
            lambda _, file=file: read_records(
                tf.constant(file.filename),
                tf.constant(min(file.skip + file.take, _NUM_PROBED), tf.int64),
                tf.constant(file.compression),
            )
        )
        for record in first.as_numpy_iterator():
            try:
                features = tf.train.Example.FromString(record).features.feature
            except DecodeError:
                continue
            named = {name: feature.WhichOneof("kind") for name, feature in features.items()}
            kinds |= {name: kind.removesuffix("_list") for name, kind in named.items() if kind}
        if kinds:
            return kinds
    raise _error(
        data,
        f"no record of {files[0].filename} or others is a tf.train.Example with features; name TFRecord files of such.",
    )


def _parser(image_key: str, label_key: str | None, num_classes: int | None) -> Parse:
    """Returns the function from a record to its encoded image and label; it fails where either is not there.

    A label that is negative, or not below `num_classes`, fails too: the image of a wrong label teaches nothing.
    """
    features = {image_key: tf.io.FixedLenFeature([], tf.string)}
    if label_key:
        features[label_key] = tf.io.FixedLenFeature([], tf.int64)

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        if label_key is None:
            return example[image_key], tf.constant(-1)
        label = example[label_key]
        limit = tf.int32.max if num_classes is None else num_classes
        in_range = tf.debugging.Assert((label >= 0) & (label < limit), ["label out of range", label])
        with tf.control_dependencies([in_range]):
            return example[image_key], tf.cast(label, tf.int32)

    return parse


def _class_names(data: DataConfig, split: str, opened: _Files) -> tuple[str, ...] | None:
    """Returns the names of the classes: those of the manifest, or else numbers; None without labels."""
    if opened.label_key is None:
        return None
    asked = data.tfrecord_num_classes
    if opened.class_names is not None:
        check(
            asked in (0, len(opened.class_names)),
            "tfrecord_num_classes",
            asked,
            f"the {MANIFEST_FILE} names {len(opened.class_names)} classes; leave it out.",
        )
        return opened.class_names
    return tuple(map(str, range(asked or _count_classes(data, split))))


def _count_classes(data: DataConfig, split: str) -> int:
    """Returns one more than the largest label in all splits, as a small one may lack some classes."""
    every = [_open(data, paths) for paths in _paths(data, split).values()]
    labelled = [opened for opened in every if opened.label_key]
    num_examples = sum(opened.num_examples for opened in labelled)
    largest = max(
        _largest_label(opened, tuple(_state(file.filename) for file in opened.files)) for opened in labelled
    )
    check(
        0 <= largest < max(num_examples, 2),
        "tfrecord_num_classes",
        0,
        f"the largest label of {num_examples} records is {largest}; name the number of classes: records of other "
        "labels are left out then.",
    )
    return largest + 1


@functools.lru_cache(maxsize=32)
def _largest_label(opened: _Files, states: tuple[tuple[int, int], ...]) -> int:
    del states
    _LOG.info(
        "Reading the labels of %d records to count the classes; --tfrecord_num_classes spares it.",
        opened.num_examples,
    )
    return int(opened.stream("labels", None).read_labels().max())
