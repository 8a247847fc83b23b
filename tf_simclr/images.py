"""Encoded images: what their headers declare, a limit on it, and decoding."""

import tensorflow as tf

MAX_PIXELS = 100_000_000
"""Images that declare more pixels are refused before anything is decoded."""

_HEADER_BYTES = 32


def declared_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width from the header of a JPEG, PNG, GIF, BMP or WebP; decodes nothing.

    Args:
        encoded: string [].

    Returns:
        int64 [2]; zeros where the format is none of these.

    Raises:
        tf.errors.InvalidArgumentError: a JPEG whose header is damaged.
    """
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEADER_BYTES), tf.uint8), tf.int64)
    header = tf.pad(header, [[0, _HEADER_BYTES - tf.shape(header)[0]]])

    def has(signature: bytes, start: int = 0) -> tf.Tensor:
        return tf.reduce_all(header[start : start + len(signature)] == list(signature))

    def number(start: int, length: int) -> tf.Tensor:
        """Returns a number whose lowest byte comes first."""
        return tf.reduce_sum(header[start : start + length] * [256**power for power in range(length)])

    def high_byte_first(start: int) -> tf.Tensor:
        return tf.reduce_sum(header[start : start + 4] * [256**3, 256**2, 256, 1])

    rows = number(22, 4)  # Of a bitmap; negative where they are stored from the top.
    bits = number(21, 4)  # Of a WebP without loss: twice 14 bits.
    sizes = [
        (has(b"\x89PNG\r\n\x1a\n"), [high_byte_first(20), high_byte_first(16)]),
        (has(b"GIF8"), [number(8, 2), number(6, 2)]),
        (has(b"BM"), [tf.minimum(rows, 2**32 - rows), number(18, 4)]),
        (has(b"VP8 ", 12), [number(28, 2) % 2**14, number(26, 2) % 2**14]),
        (has(b"VP8L", 12), [bits // 2**14 % 2**14 + 1, bits % 2**14 + 1]),
        (has(b"VP8X", 12), [number(27, 3) + 1, number(24, 3) + 1]),
    ]
    size = tf.zeros([2], tf.int64)
    for matches, of_format in sizes:
        size = tf.where(matches, tf.stack(of_format), size)
    return tf.cond(
        has(b"\xff\xd8\xff"), lambda: tf.image.extract_jpeg_shape(encoded, tf.int64)[:2], lambda: size
    )


def check_size(encoded: tf.Tensor, name: str | tf.Tensor = "the image") -> tf.Operation:
    """Returns the operation that fails where an image is of an unknown format, or declares too many pixels.

    Args:
        encoded: string [].
        name: of the image, string [], for the message.
    """
    size = declared_size(encoded)
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))  # A float, as the product may be beyond integers.
    formats = " is no JPEG, PNG, GIF, BMP or WebP image"
    declared = tf.strings.join(
        [" declares ", tf.strings.as_string(size[1]), "x", tf.strings.as_string(size[0])]
    )
    too_large = tf.strings.join([declared, f" pixels, over the limit of {MAX_PIXELS}"])
    reason = tf.where(num_pixels > 0, too_large, formats)
    fits = tf.logical_and(num_pixels > 0, num_pixels <= MAX_PIXELS)
    return tf.debugging.Assert(fits, [tf.strings.join([name, reason])])


def decode_image(encoded: tf.Tensor, channels: int = 3, name: str | tf.Tensor = "the image") -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame), and WebP where TensorFlow can.

    Args:
        encoded: string [].
        channels: 3, or 1 for grey.
        name: of the image, string [], for messages.

    Returns:
        uint8 [H, W, channels].

    Raises:
        tf.errors.InvalidArgumentError: it is none of these, damaged, or declares over `MAX_PIXELS`.
    """
    with tf.control_dependencies([check_size(encoded, name)]):
        image = tf.io.decode_image(tf.identity(encoded), channels=channels, expand_animations=False)
    return tf.ensure_shape(image, [None, None, channels])
