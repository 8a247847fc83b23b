"""Encoded images: a limit on the size that they declare, and decoding."""

import functools
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.images.headers import (
    JPEG,
    colour_table,
    declared_size,
    exif_orientation,
    is_as_decoded,
    is_bitmap,
    may_be_turned,
)

MAX_PIXELS = 100_000_000
"""Images that declare more pixels are refused before anything is decoded."""


def check_size(encoded: tf.Tensor, name: str | tf.Tensor = "the image") -> tf.Operation:
    """Returns the operation that fails where an image is of an unknown format, or declares too many pixels.

    Args:
        encoded: string [].
        name: of the image, string [], for the message.
    """
    size = declared_size(encoded)
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))  # A float, as the product may be beyond integers.
    formats = " is no JPEG, PNG, GIF, BMP or WebP image, or its header is damaged"
    declared = tf.strings.join([" declares ", tf.strings.as_string(size[1]), "x", tf.strings.as_string(size[0])])
    too_large = tf.strings.join([declared, f" pixels, over the limit of {MAX_PIXELS}"])
    reason = tf.where(num_pixels > 0, too_large, formats)
    fits = tf.logical_and(num_pixels > 0, num_pixels <= MAX_PIXELS)
    return tf.debugging.Assert(fits, [tf.strings.join([name, reason])])


def _apart(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Keeps a function of tensors one operation: inlined, each of its own takes time also where it is not called."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _is_small_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether this is a JPEG that passes `check_size`; where it is damaged, TensorFlow says so here."""
    return tf.cond(
        tf.strings.substr(encoded, 0, len(JPEG)) == JPEG,
        lambda: tf.reduce_prod(tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]) <= MAX_PIXELS,
        lambda: False,
    )


def decode_image(encoded: tf.Tensor, channels: int = 3, name: str | tf.Tensor | None = None) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame), and WebP where TensorFlow can.

    A JPEG is turned as its Exif tag says, which TensorFlow alone does not look at. Transparency is left out: a pixel
    has the colour that is stored for it, as of Pillow's `convert("RGB")`; in a GIF, where none is, it is black. Of 16
    bits the higher 8 are taken.

    Args:
        encoded: string [].
        channels: 3, or 1 for grey.
        name: of the image, string [], for messages; None where none has to name it: following the header of a JPEG
            for that takes about as long as decoding a photograph of 500 x 375 pixels.

    Returns:
        uint8 [H, W, channels].

    Raises:
        tf.errors.InvalidArgumentError: it is none of these, damaged, or declares over `MAX_PIXELS`.
    """
    if name is not None:
        with tf.control_dependencies([check_size(encoded, name)]):
            return _finish(_decode(tf.identity(encoded), channels), encoded)
    is_small = _is_small_jpeg(encoded)
    return tf.cond(
        is_small & is_as_decoded(encoded),
        lambda: _decode(encoded, channels),
        lambda: _decoder_of_others(channels, MAX_PIXELS)(encoded, is_small),
    )


def _decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
    return tf.ensure_shape(image, [None, None, channels])


@functools.lru_cache
def _decoder_of_others(channels: int, max_pixels: int) -> Callable[..., tf.Tensor]:
    """Returns what decodes all but plain JPEGs: one function for all callers, as tracing takes a while."""
    del max_pixels  # That `check_size` compares with.

    @_apart
    def check(encoded: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([check_size(encoded)]):
            return tf.constant(True)

    def decode(encoded: tf.Tensor, is_checked: tf.Tensor) -> tf.Tensor:
        passed = tf.cond(is_checked, lambda: True, lambda: check(encoded))
        with tf.control_dependencies([passed]):
            return _finish(_decode(tf.identity(encoded), channels), encoded)

    return _apart(decode)


def _finish(image: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Does with a decoded image what TensorFlow leaves undone: a JPEG may be turned, a bitmap may hold numbers."""
    with tf.control_dependencies([image]):  # From here on it is known to be one.
        encoded = tf.identity(encoded)

    @_apart
    def turned() -> tf.Tensor:
        return turn_upright(image, exif_orientation(encoded))

    @_apart
    def coloured() -> tf.Tensor:
        return _coloured(image, colour_table(encoded))

    def of_jpeg_or_bitmap() -> tf.Tensor:
        of_jpeg = functools.partial(tf.cond, may_be_turned(encoded), turned, lambda: image)
        return tf.cond(is_bitmap(encoded), coloured, of_jpeg)

    return tf.cond(is_as_decoded(encoded), lambda: image, of_jpeg_or_bitmap)


def _coloured(image: tf.Tensor, colours: tf.Tensor) -> tf.Tensor:
    """Replaces numbers of colours, uint8 [H, W, 3], thrice the same, by colours, uint8 [256, 3], if there are any."""
    if image.shape[-1] != 3:
        return image
    return tf.cond(
        tf.shape(colours)[0] > 0, lambda: tf.gather(colours, tf.cast(image[..., 0], tf.int32)), lambda: image
    )


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image as Pillow's `ImageOps.exif_transpose` does.

    Args:
        image: [H, W, C].
        orientation: int64 [], 1 to 8, of Exif: where the first row and column of the image belong.

    Returns:
        [H, W, C], or [W, H, C] from 5 on.
    """
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    flipped = [tf.reduce_any(orientation == which) for which in ([3, 4, 7, 8], [2, 3, 6, 7])]
    return tf.reverse(image, tf.boolean_mask([0, 1], tf.stack(flipped)))
