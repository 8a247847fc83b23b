"""Decode encoded images, and limit their declared sizes."""

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
"""Images that declare more pixels are refused before decoding."""


def check_size(encoded: tf.Tensor, name: str | tf.Tensor = "the image") -> tf.Operation:
    """Returns an operation that fails if an image has an unknown format or declares too many pixels.

    Args:
        encoded: string [].
        name: name of the image, string [], for the message.
    """
    size = declared_size(encoded)
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))  # Floats, because the product may overflow integers.
    formats = " is no JPEG, PNG, GIF, BMP or WebP image, or its header is damaged"
    declared = tf.strings.join([" declares ", tf.strings.as_string(size[1]), "x", tf.strings.as_string(size[0])])
    too_large = tf.strings.join([declared, f" pixels, over the limit of {MAX_PIXELS}"])
    reason = tf.where(num_pixels > 0, too_large, formats)
    fits = tf.logical_and(num_pixels > 0, num_pixels <= MAX_PIXELS)
    return tf.debugging.Assert(fits, [tf.strings.join([name, reason])])


def _apart(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Keeps a function of tensors one operation; inlined operations cost time even if they are not called."""
    kept: Callable[..., tf.Tensor] = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    return kept


def _is_small_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether this is a JPEG that passes `check_size`; TensorFlow fails here if it is damaged."""
    return tf.cond(
        tf.strings.substr(encoded, 0, len(JPEG)) == JPEG,
        lambda: tf.reduce_prod(tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]) <= MAX_PIXELS,
        lambda: False,
    )


def decode_image(encoded: tf.Tensor, channels: int = 3, name: str | tf.Tensor | None = None) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame), and WebP if TensorFlow can.

    A JPEG is turned by its Exif tag, which TensorFlow ignores. Transparency is dropped: a pixel has its stored colour,
    as in Pillow's `convert("RGB")`; in a GIF, which stores none, it is black. The higher 8 of 16 bits are used.

    Args:
        encoded: string [].
        channels: 3, or 1 for grey.
        name: name of the image, string [], for messages; None if no message has to name it, because parsing a JPEG's
            header for one takes about as long as decoding a photograph of 500 x 375 pixels.

    Returns:
        uint8 [H, W, channels].

    Raises:
        tf.errors.InvalidArgumentError: if it has another format, is damaged, or declares over `MAX_PIXELS`.
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
    """Returns the decoder of all images but plain JPEGs; all callers share it, because tracing is slow."""
    del max_pixels  # The size that `check_size` compares with.

    def check(encoded: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([check_size(encoded)]):
            return tf.constant(True)

    checked = _apart(check)

    def decode(encoded: tf.Tensor, is_checked: tf.Tensor) -> tf.Tensor:
        passed = tf.cond(is_checked, lambda: True, lambda: checked(encoded))
        with tf.control_dependencies([passed]):
            return _finish(_decode(tf.identity(encoded), channels), encoded)

    return _apart(decode)


def _finish(image: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Completes decoding: turns a JPEG by its Exif tag, and looks up the palette of a bitmap."""
    with tf.control_dependencies([image]):  # From here on it is known to be a JPEG.
        encoded = tf.identity(encoded)

    turned = _apart(lambda: turn_upright(image, exif_orientation(encoded)))
    coloured = _apart(lambda: _coloured(image, colour_table(encoded)))

    def of_jpeg_or_bitmap() -> tf.Tensor:
        of_jpeg = functools.partial(tf.cond, may_be_turned(encoded), turned, lambda: image)
        return tf.cond(is_bitmap(encoded), coloured, of_jpeg)

    return tf.cond(is_as_decoded(encoded), lambda: image, of_jpeg_or_bitmap)


def _coloured(image: tf.Tensor, colours: tf.Tensor) -> tf.Tensor:
    """Replaces palette indices, uint8 [H, W, 3] with equal channels, by colours, uint8 [256, 3], if there are any."""
    if image.shape[-1] != 3:
        return image
    has_table, index = tf.shape(colours)[0] > 0, tf.cast(image[..., 0], tf.int32)
    return tf.cond(has_table, lambda: tf.gather(colours, index), lambda: image)


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image as Pillow's `ImageOps.exif_transpose` does.

    Args:
        image: [H, W, C].
        orientation: int64 [], 1 to 8, from Exif: the position of the image's first row and column.

    Returns:
        [H, W, C], or [W, H, C] from 5 on.
    """
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    flipped = [tf.reduce_any(orientation == which) for which in ([3, 4, 7, 8], [2, 3, 6, 7])]
    return tf.reverse(image, tf.boolean_mask([0, 1], tf.stack(flipped)))
