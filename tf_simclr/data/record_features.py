"""Image and label features of `tf.train.Example`: finding them, and reading them from a record."""

from collections.abc import Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_simclr.config import DataConfig, UserError, check
from tf_simclr.data.record_files import RecordFile, read_records
from tf_simclr.data.stream_source import Parse

IMAGE_KEYS = ("image", "image/encoded", "image_raw", "encoded_image", "jpeg", "png")
LABEL_KEYS = ("label", "image/class/label")
# Number of records that are searched for features, in the first file that has any.
_NUM_PROBED = 16


def feature_keys(data: DataConfig, files: Sequence[RecordFile], *, label_is_needed: bool) -> tuple[str, str | None]:
    """Returns the names of image and label: those of the flags, or else usual names that exist.

    Args:
        data: The data set.
        files: The files of a split.
        label_is_needed: Whether the label that a flag names has to exist; if not, the split may be without labels.

    Raises:
        UserError: If there are no such features.
    """
    kinds = _feature_kinds(data, files)
    found = ", ".join(f"{name} ({kind})" for name, kind in sorted(kinds.items()))
    where = f"the records of {files[0].filename} and others have the features {found}"
    image = data.tfrecord_image_key or _first(IMAGE_KEYS, kinds)
    if image is None:
        raise UserError(f"--tfrecord_image_key: not given, and {where}; name the one that is an encoded image.")
    check(kinds.get(image) == "bytes", "tfrecord_image_key", image, f"{where}; name one that is an encoded image.")
    label = _first(LABEL_KEYS, kinds) if data.tfrecord_label_key is None else data.tfrecord_label_key or None
    if not label_is_needed and kinds.get(str(label)) != "int64":
        return image, None
    check(
        label is None or kinds.get(label) == "int64",
        "tfrecord_label_key",
        label,
        f"{where}; name one that is an integer, or use --tfrecord_label_key= to read without labels.",
    )
    return image, label


def parser(
    image_key: str,
    label_key: str | None,
    *,
    first_label: int = 0,
    num_classes: int | None = None,
    missing_label: int | None = None,
    is_optional: bool = False,
) -> Parse:
    """Returns the function from a record to its encoded image and label.

    It fails if either is missing, or if the label is out of range.

    Args:
        image_key: Name of the feature.
        label_key: Name of the feature; None to read without labels.
        first_label: Label of class 0. Lower ones are those of images without a label.
        num_classes: Number of classes; None for any.
        missing_label: Label of an image without one; None to fail.
        is_optional: Whether a record without the label's feature has no label; otherwise it is damaged.
    """
    features = {image_key: tf.io.FixedLenFeature([], tf.string)}
    if label_key:
        missing = first_label - 1 if is_optional else None
        features[label_key] = tf.io.FixedLenFeature([], tf.int64, default_value=missing)
    limit = tf.int32.max if num_classes is None else num_classes

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        if label_key is None:
            return example[image_key], tf.constant(-1)
        label = example[label_key] - first_label
        is_right = label < limit
        if missing_label is None:
            is_right &= label >= 0
        else:
            label = tf.where(label < 0, tf.constant(missing_label, tf.int64), label)
        in_range = tf.debugging.Assert(is_right, ["label out of range", label])
        with tf.control_dependencies([in_range]):
            return example[image_key], tf.cast(label, tf.int32)

    return parse


def _first(names: Sequence[str], kinds: dict[str, str]) -> str | None:
    return next((name for name in names if name in kinds), None)


def _feature_kinds(data: DataConfig, files: Sequence[RecordFile]) -> dict[str, str]:
    """Returns the features of the first readable records, with their types: bytes, int64 or float."""
    for file in files:
        kinds: dict[str, str] = {}
        count = tf.constant(min(file.skip + file.take, _NUM_PROBED), tf.int64)
        arguments = tf.data.Dataset.from_tensors((file.filename, count, file.compression))
        for record in arguments.flat_map(read_records).as_numpy_iterator():
            try:
                features = tf.train.Example.FromString(record).features.feature
            except DecodeError:
                continue
            named = {name: feature.WhichOneof("kind") for name, feature in features.items()}
            kinds |= {name: kind.removesuffix("_list") for name, kind in named.items() if kind}
        if kinds:
            return kinds
    raise UserError(
        f"--dataset={data.dataset}: no record of {files[0].filename} or others is a tf.train.Example with features; "
        "name TFRecord files of such."
    )
