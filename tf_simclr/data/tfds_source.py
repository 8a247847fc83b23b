"""Data sets of TensorFlow Datasets, read from prepared files if there are any."""

import dataclasses
import difflib
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data.random_access import ArraySource, EncodedImages
from tf_simclr.data.record_files import RecordFile
from tf_simclr.data.source import Example, Source, check_bad_images
from tf_simclr.data.splits import bad_part, missing_split, split_terms
from tf_simclr.data.stream_source import StreamSource, shuffle_buffer_size
from tf_simclr.data.tfds_features import image_key, label_key
from tf_simclr.files import one_line
from tf_simclr.images.decode import decode_image

_LOG = logging.getLogger("tf_simclr")
MAX_BYTES_IN_MEMORY = 2**30


def _is_for_users(record: logging.LogRecord) -> bool:
    """Returns False for the advice to developers that TFDS logs for its own code."""
    return ".dtype` is deprecated" not in record.getMessage()


logging.getLogger("absl").addFilter(_is_for_users)


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the splits of the data set; prepares it if necessary. Raises UserError like `load`."""
    return tuple(_open(data).info.splits)


def load(data: DataConfig, split: str, flag: str) -> Source:
    """Opens one split of a TFDS data set, see `sources.load_source`; prepares the data set if necessary.

    Images of one size that fit into memory are kept there decoded. `cache_dataset` keeps others there encoded.
    All other images are streamed.

    Raises:
        UserError: If there is no such data set or split, it has no images or several possible features, or it cannot
            be prepared.
    """
    builder = _open(data)
    _check_split(builder, split, flag, data.dataset)
    keys = image_key(builder, data), label_key(builder, data)
    opened = _Split(builder, split, f"{data.dataset} ({split})", *keys)
    # TFDS writes withheld labels as -1.
    terms = [dataclasses.replace(opened, split=term) for term in split_terms(split, flag)]
    unlabelled = [term for term in terms if opened.label_key and term.first_label() < 0]
    if len(unlabelled) == len(terms):
        opened, unlabelled = dataclasses.replace(opened, label_key=None), []
    source = _read(data, opened)
    source.num_unlabelled = sum(term.info.num_examples for term in unlabelled)
    source.prepared_in = str(builder.data_dir)
    source.identity = (f"{builder.info.full_name} {split} {opened.info.num_examples}".encode(),)
    return source


def load_with_label_sets(
    data: DataConfig, split: str, keys: Sequence[str], *, flag: str
) -> tuple[Source, dict[str, NDArray[np.bool_]]]:
    """Opens one split of a TFDS data set whose images have several classes each.

    Args:
        data: The data set.
        split: A split, or a part of one.
        keys: Features that are lists of classes, such as `labels` of VOC.
        flag: The flag that named the split, for messages.

    Returns:
        The examples of the split, streamed, with the class names of the first of `keys`; and for each key the classes
        of each example, bool [N, K], in the order of positions.

    Raises:
        UserError: As for `load`, and if there is no such feature.
    """
    builder = _open(data)
    _check_split(builder, split, flag, data.dataset)
    opened = _Split(builder, split, f"{data.dataset} ({split})", image_key(builder, data), None)
    _check_can_stream(data, builder)
    source, sets = opened.stream(), {key: opened.label_sets(key) for key in keys}
    source.class_names = tuple(opened.classes_of_sets(keys[0]).names)
    return source, sets


def _read(data: DataConfig, opened: "_Split") -> Source:
    builder, num_examples = opened.builder, opened.info.num_examples
    shape = builder.info.features[opened.image_key].shape
    if None not in shape and num_examples * math.prod(shape) <= MAX_BYTES_IN_MEMORY:
        source, fraction = opened.load_arrays(), data.max_bad_image_fraction
        check_bad_images(source, num_bad=source.num_left_out, num_seen=num_examples, max_fraction=fraction)
        return source
    if data.cache_dataset:
        return opened.load_encoded()
    _check_can_stream(data, builder)
    return opened.stream()


def _check_can_stream(data: DataConfig, builder: Any) -> None:
    if builder.info.file_format.value != "tfrecord":
        raise UserError(
            f"--dataset={data.dataset}: prepared as {builder.info.file_format.value} files, which are not "
            "streamed; prepare it as tfrecord files, or use --cache_dataset=True."
        )


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split or part of one of a prepared data set, with its image and label features."""

    builder: Any
    split: str
    name: str
    image_key: str
    label_key: str | None

    @property
    def info(self) -> Any:
        return self.builder.info.splits[self.split]

    @property
    def class_names(self) -> list[str] | None:
        return self.builder.info.features[self.label_key].names if self.label_key else None

    @property
    def decoding(self) -> Any:
        """The features that TFDS reads: the encoded image and the label."""
        import tensorflow_datasets as tfds

        wanted = {key: True for key in (self.image_key, self.label_key) if key}
        return tfds.decode.PartialDecoding(wanted, decoders={self.image_key: tfds.decode.SkipDecoding()})

    def pick(self, example: Example) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the encoded image, string [], and the label, int32 [] (-1 without labels)."""
        label = tf.cast(example[self.label_key], tf.int32) if self.label_key else tf.constant(-1)
        return example[self.image_key], label

    def encoded(self) -> tf.data.Dataset:
        """Returns all encoded images and labels in the order of the files."""
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(try_autocache=False)
        return self.builder.as_dataset(split=self.split, decoders=self.decoding, read_config=config).map(self.pick)

    def first_label(self) -> int:
        return int(next(iter(self.encoded().take(1)))[1])

    def load_arrays(self) -> ArraySource:
        """Decodes all images; leaves out the unreadable ones."""
        height, width, channels = self.builder.info.features[self.image_key].shape
        shape = [height, width, 1 if channels == 1 else 3]

        def decode(index: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            return index, tf.ensure_shape(decode_image(example[0], shape[-1]), shape), example[1]

        num_examples = self.info.num_examples
        images, labels = np.zeros([num_examples, *shape], np.uint8), np.zeros([num_examples], np.int32)
        readable = np.zeros([num_examples], bool)
        decoded = self.encoded().enumerate().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        for indices, some_images, some_labels in decoded.ignore_errors().batch(1024).as_numpy_iterator():
            images[indices], labels[indices], readable[indices] = some_images, some_labels, True
        numbers, bad = np.flatnonzero(readable), np.flatnonzero(~readable)
        if len(bad):
            images, labels = images[readable], labels[readable]
        source = ArraySource(self.name, images, labels if self.label_key else None, self.class_names, numbers)
        source.num_left_out = len(bad)
        for index in bad:
            source.add_bad_image(f"example {index}")
        return source

    def load_encoded(self) -> EncodedImages:
        """Keeps all encoded images in memory."""
        images, labels = zip(*self.encoded().as_numpy_iterator(), strict=True)
        return EncodedImages(
            self.name,
            images,
            read=tf.identity,
            example_names=[f"example {index}" for index in range(len(images))],
            labels=np.array(labels) if self.label_key else None,
            class_names=self.class_names,
        )

    def classes_of_sets(self, key: str) -> Any:
        """Returns the `ClassLabel` of a feature that is a list of classes."""
        import tensorflow_datasets as tfds

        features = self.builder.info.features
        classes = getattr(dict(features.items()).get(key), "feature", None)
        if not isinstance(classes, tfds.features.ClassLabel):
            raise UserError(
                f"--dataset={self.builder.info.full_name}: its {key} is no list of classes of each image (its "
                f"features: {', '.join(sorted(features))}); use a data set that has them."
            )
        return classes

    def label_sets(self, key: str) -> NDArray[np.bool_]:
        """Returns the classes that a feature names for each image, bool [N, K], in the order of the files."""
        import tensorflow_datasets as tfds

        num_classes = self.classes_of_sets(key).num_classes

        def to_set(example: Example) -> tf.Tensor:
            rows = tf.one_hot(example[key], num_classes, on_value=True, off_value=False)
            return tf.reduce_any(rows, axis=0)

        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        decoders = tfds.decode.PartialDecoding({key: True})
        examples = self.builder.as_dataset(split=self.split, decoders=decoders, read_config=config)
        return np.concatenate(list(examples.map(to_set).batch(4096).as_numpy_iterator()))

    def stream(self) -> StreamSource:
        """Streams the records from their files."""
        decoding = self.decoding
        features = decoding.extract_features(self.builder.info.features)
        return StreamSource(
            self.name,
            files=[RecordFile(str(file.filename), file.skip, file.take) for file in self.info.file_instructions],
            parse=lambda record: self.pick(features.deserialize_example(record, decoders=decoding.decoders)),
            shuffle_buffer_size=shuffle_buffer_size(self.info.num_bytes, self.info.num_examples),
            class_names=self.class_names,
        )


def _open(data: DataConfig) -> Any:
    """Returns the builder of the data set; if prepared files are on disk, without its code and without a download."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = os.path.expanduser(data.data_dir) if data.data_dir else None
    try:
        return read_only_builder.builder_from_files(data.dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        pass
    except Exception as error:
        raise _unusable(data, error) from error
    try:
        builder = tfds.builder(data.dataset, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        raise _unknown(data, tfds.list_builders(with_community_datasets=False)) from error
    except Exception as error:
        raise _unusable(data, error) from error
    _LOG.info("%s is not prepared under --data_dir=%s: preparing it.", data.dataset, builder.data_dir_root)
    try:
        builder.download_and_prepare()
    except Exception as error:
        where = f"not prepared under --data_dir={builder.data_dir_root}, and preparing it failed"
        fix = "prepare it where the download works, or point --data_dir to it."
        if isinstance(error, ImportError):
            fix = "install the package that is missing, or point --data_dir to a prepared copy."
        raise UserError(f"--dataset={data.dataset}: {where} ({_reason(error)}); {fix}") from error
    return builder


def _unusable(data: DataConfig, error: Exception) -> UserError:
    fix = _path_hint(data) or "check the name."
    return UserError(f"--dataset={data.dataset}: cannot be opened ({_reason(error)}); {fix}")


def _path_hint(data: DataConfig) -> str | None:
    """Returns the correct value if the name is that of a folder or a file."""
    if not os.path.exists(data.dataset):
        return None
    kind = "tfrecord" if os.path.isfile(data.dataset) else "folder"
    return f"it is a path: use {kind}:{data.dataset}."


def _unknown(data: DataConfig, names: list[str]) -> UserError:
    name = data.dataset.partition("/")[0].partition(":")[0]
    nearest = difflib.get_close_matches(name, ["digits", *names], n=3)
    hint = _path_hint(data) or (
        f"did you mean {', '.join(nearest)}?" if nearest else "use digits, a name of the TFDS catalog or folder:PATH."
    )
    where = f" under --data_dir={data.data_dir}" if data.data_dir else ""
    return UserError(f"--dataset={data.dataset}: no such data set in TensorFlow Datasets{where}; {hint}")


def _reason(error: Exception) -> str:
    """Returns the first line of an error, without the context that TFDS puts before it."""
    lines = str(error).strip().splitlines() or [""]
    own_words = lines[0].rpartition('}": ')[2]
    return one_line(f"{type(error).__name__}: {own_words}")


def _check_split(builder: Any, split: str, flag: str, dataset: str) -> None:
    splits = builder.info.splits
    for term in split_terms(split, flag):
        if term.partition("[")[0] not in (*splits, "all"):
            raise missing_split(split, tuple(splits), flag, dataset)
    try:
        info = splits[split]
    except (ValueError, AssertionError, KeyError) as error:
        raise bad_part(split, flag) from error
    if not info.num_examples:
        raise UserError(f"--{flag}={split}: no example of {dataset} is in it; take a larger part.")
