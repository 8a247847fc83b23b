"""The same examples in every kind of source, and views so plain that they take no time."""

import contextlib
import functools
from unittest import mock

import numpy as np
import tensorflow as tf

from tests.data.conftest import GREY_STEP
from tf_simclr.augment.views import draw_uniforms
from tf_simclr.data import ArraySource, BatchPlan, random_access, stream_source
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.stream_source import RecordFile, StreamSource

RANDOM_ACCESS = ("array", "encoded")
SEED = 3
_MAX_POSITION = 100_000
KINDS = (*RANDOM_ACCESS, "stream")
PLAN = BatchPlan(global_batch_size=6)


class DrawsView:
    """Shows the first random numbers of a view instead of the image."""

    image_size = 1
    on_device = False

    def crop_image(self, image, draws):
        return tf.reshape(draws[:3], [1, 1, 3])

    def distort(self, images, draws):
        # The numbers of the crop must be those of the distortion.
        return tf.where(images[:, 0, 0, :1] == draws[:, :1], draws[:, :3], -1.0)[:, tf.newaxis, tf.newaxis]

    def __call__(self, images, draws):
        return draws[:, tf.newaxis, tf.newaxis, :3]


class GreyView:
    """Shows the grey value of an image, one pixel of it."""

    image_size = 1
    on_device = False

    def crop_image(self, image, draws):
        return tf.cast(tf.reshape(image[0, 0], [1, 1, 3]), tf.float32)

    def distort(self, images, draws):
        return images


class BlankView:
    """Shows nothing."""

    def crop_image(self, image):
        return tf.zeros([1, 1, 3])

    def __call__(self, images):
        return tf.zeros([images.shape[0], 1, 1, 3])


@contextlib.contextmanager
def plain_decoding():
    """Decodes images by an operation of TensorFlow alone, which takes no time to trace."""

    def decode(encoded):
        return tf.ensure_shape(tf.io.decode_image(encoded, 3, expand_animations=False), [None, None, 3])

    modules = [mock.patch.object(module, "decode_image", decode) for module in (random_access, stream_source)]
    with modules[0], modules[1]:
        yield


def read(source, examples=None):
    """Decodes the first candidate of each example, by default of a pass over all.

    Returns:
        The numbers (see `grey_image`) and the labels of the readable images, and the count of the unreadable ones.
    """
    if examples is None:
        examples = source.eval_examples(BatchPlan(global_batch_size=source.num_examples))
    found, num_bad = [], 0
    with plain_decoding():
        for example in examples:
            try:
                image, label = source.decode(example, 0)
            except tf.errors.OpError:
                num_bad += 1
            else:
                found.append((round(float(image[0, 0, 0]) / GREY_STEP), int(label)))
    return [number for number, _ in found], [label for _, label in found], num_bad


def order(source, count, *, plan=PLAN, first_step=0):
    """Numbers and labels of the images in the first rows of a run."""
    return read(source, source.train_examples(1, plan, first_step).take(count))[:2]


@functools.cache
def _known_draws():
    table = draw_uniforms(SEED, 0, 0, _MAX_POSITION).numpy()
    return {row[:3].tobytes(): position for position, row in enumerate(table)}


def positions_of(view):
    """The positions, in a run with `SEED`, of the rows of its first `DrawsView`."""
    return [_known_draws()[row.tobytes()] for row in np.asarray(view)[..., 0, 0, :].reshape(-1, 3)]


def make_source(kind, num_examples, directory=None, bad=(), first_grey=0):
    """A source whose example i has the label i and the grey value first_grey + i; those in `bad` cannot be read."""
    names = [str(number) for number in range(num_examples)]
    greys = first_grey + np.arange(num_examples)
    images = np.zeros([num_examples, 4, 4, 3], np.uint8) + greys[:, None, None, None]
    images = images.astype(np.uint8)
    labels = np.arange(num_examples)
    if kind == "array":
        return ArraySource("some", images, labels, names)
    encoded = [b"no image" if number in bad else tf.io.encode_png(image).numpy() for number, image in enumerate(images)]
    if kind == "encoded":
        return EncodedImages("some", encoded, read=tf.identity, example_names=names, labels=labels, class_names=names)
    return StreamSource(
        "some",
        files=write_records(directory, encoded),
        parse=_parse,
        shuffle_buffer_size=5,
        class_names=names,
    )


def write_records(directory, images):
    """Writes records into files of several sizes; around those that are to be read lie others."""
    files, number = [], 0
    while number < len(images):
        skip, take = len(files) % 3, min(len(images) - number, 1 + 5 * (len(files) % 2))
        path = str(directory / f"{len(images)}-{len(files)}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(skip):
                writer.write(b"not to be read")
            for label in range(number, number + take):
                writer.write(tf.strings.join([f"{label:04}", images[label]]).numpy())
            writer.write(b"not to be read")
        files.append(RecordFile(path, skip, take))
        number += take
    return files


def _parse(record):
    return tf.strings.substr(record, 4, -1), tf.strings.to_number(tf.strings.substr(record, 0, 4), tf.int32)
