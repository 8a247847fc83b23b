"""Encoded images: what their headers declare, a limit on it, and decoding."""

import tensorflow as tf

MAX_PIXELS = 100_000_000
"""Images that declare more pixels are refused before anything is decoded."""

_HEADER_BYTES = 32
_JPEG = b"\xff\xd8\xff"
# Files of more blocks than these are refused: no image needs them, and each takes a while.
_MAX_BLOCKS = 2**16
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def declared_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width from the header of a JPEG, PNG, GIF, BMP or WebP; decodes nothing.

    Args:
        encoded: string [].

    Returns:
        int64 [2]; of a GIF that of all its frames one below the other, as TensorFlow decodes each; zeros where
        the format is none of these, or the header is damaged.
    """
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEADER_BYTES), tf.uint8), tf.int64)
    header = tf.pad(header, [[0, _HEADER_BYTES - tf.shape(header)[0]]])
    return tf.case(
        [
            (_has(header, _JPEG), lambda: _jpeg_size(encoded)),
            (_has(header, b"GIF8"), lambda: _gif_size(encoded, header)),
        ],
        default=lambda: _size_in_header(header),
    )


def _size_in_header(header: tf.Tensor) -> tf.Tensor:
    """Returns the size of a PNG, BMP or WebP, which stands at a fixed place."""
    rows = _number(header, 22, 4)  # Of a bitmap; negative where they are stored from the top.
    bits = _number(header, 21, 4)  # Of a WebP without loss: twice 14 bits.
    sizes = [
        (b"\x89PNG\r\n\x1a\n", 0, [_high_first(header, 20, 4), _high_first(header, 16, 4)]),
        (b"BM", 0, [tf.minimum(rows, 2**32 - rows), _number(header, 18, 4)]),
        (b"VP8 ", 12, [_number(header, 28, 2) % 2**14, _number(header, 26, 2) % 2**14]),
        (b"VP8L", 12, [bits // 2**14 % 2**14 + 1, bits % 2**14 + 1]),
        (b"VP8X", 12, [_number(header, 27, 3) + 1, _number(header, 24, 3) + 1]),
    ]
    size = tf.zeros([2], tf.int64)
    for signature, start, of_format in sizes:
        size = tf.where(_has(header, signature, start), tf.stack(of_format), size)
    return size


def _has(header: tf.Tensor, signature: bytes, start: int = 0) -> tf.Tensor:
    return tf.reduce_all(header[start : start + len(signature)] == list(signature))


def _number(header: tf.Tensor, start: int, length: int) -> tf.Tensor:
    """Returns a number whose lowest byte comes first."""
    return tf.reduce_sum(header[start : start + length] * [256**power for power in range(length)])


def _high_first(header: tf.Tensor, start: int, length: int) -> tf.Tensor:
    """Returns a number whose highest byte comes first."""
    powers = [256**power for power in reversed(range(length))]
    return tf.reduce_sum(header[start : start + length] * powers)


def _make_reader(encoded: tf.Tensor, num_bytes: int):
    """Returns the length, int64 [], and a function of a place that returns int64 [num_bytes] from there on."""
    data = tf.pad(tf.io.decode_raw(encoded, tf.uint8), [[0, num_bytes]])
    length = tf.cast(tf.strings.length(encoded), tf.int64)
    return length, lambda place: tf.cast(tf.slice(data, [place], [num_bytes]), tf.int64)


def _jpeg_step(marker: int) -> int:
    """Returns how far the next marker of a JPEG is; 0 where it ends the search, -1 where a length says."""
    if marker in _JPEG_FRAMES or marker in (0, 0xD8, 0xD9, 0xDA):
        return 0
    if marker == 0xFF:  # It fills.
        return 1
    return 2 if marker == 1 or 0xD0 <= marker <= 0xD7 else -1


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    """Follows the segments to the frame header, as libjpeg does, but over nothing that is no segment."""
    length, read = _make_reader(encoded, 9)
    steps = tf.constant([_jpeg_step(marker) for marker in range(256)], tf.int64)
    is_frame = tf.constant([marker in _JPEG_FRAMES for marker in range(256)])

    def goes_on(place, segment):
        return tf.logical_and(segment[0] == 0xFF, steps[segment[1]] != 0)

    def skip(place, segment):
        step = steps[segment[1]]
        step = tf.where(step < 0, 2 + tf.maximum(_high_first(segment, 2, 2), 2), step)
        place = tf.minimum(place + step, length)
        return place, read(place)

    start = tf.constant(2, tf.int64)
    place, segment = tf.while_loop(goes_on, skip, (start, read(start)), maximum_iterations=_MAX_BLOCKS)
    found = (segment[0] == 0xFF) & is_frame[segment[1]] & (place + 9 <= length)
    size = tf.stack([_high_first(segment, 5, 2), _high_first(segment, 7, 2)])
    return tf.where(found, size, tf.zeros_like(size))


def _gif_size(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Follows the blocks to the end; zeros where they cannot be followed.

    The size of the screen says nothing: TensorFlow decodes each frame as large as it declares itself.
    """
    length, read = _make_reader(encoded, 10)

    def table_size(flags):
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def goes_on(place, in_data, block, size):
        # giflib reads on after an extension that is empty.
        is_block = (block[0] == 0x2C) | ((block[0] == 0x21) & (block[2] > 0))
        return (place < length) & (in_data | is_block)

    def skip(place, in_data, block, size):
        is_frame = tf.logical_not(in_data) & (block[0] == 0x2C)
        step = tf.where(is_frame, 11 + table_size(block[9]), tf.where(in_data, block[0] + 1, 2))
        frame = tf.stack([size[0] + _number(block, 7, 2), tf.maximum(size[1], _number(block, 5, 2))])
        ends = in_data & (block[0] == 0)
        place = tf.minimum(place + step, length)
        return place, tf.logical_not(ends), read(place), tf.where(is_frame, frame, size)

    start = tf.minimum(13 + table_size(header[10]), length)
    place, in_data, block, size = tf.while_loop(
        goes_on,
        skip,
        (start, tf.constant(False), read(start), tf.zeros([2], tf.int64)),
        maximum_iterations=_MAX_BLOCKS,
    )
    ended = (place >= length) | (tf.logical_not(in_data) & (block[0] == 0x3B))
    return tf.where(ended, size, tf.zeros_like(size))


def check_size(encoded: tf.Tensor, name: str | tf.Tensor = "the image") -> tf.Operation:
    """Returns the operation that fails where an image is of an unknown format, or declares too many pixels.

    Args:
        encoded: string [].
        name: of the image, string [], for the message.
    """
    size = declared_size(encoded)
    num_pixels = tf.reduce_prod(tf.cast(size, tf.float64))  # A float, as the product may be beyond integers.
    formats = " is no JPEG, PNG, GIF, BMP or WebP image, or its header is damaged"
    declared = tf.strings.join(
        [" declares ", tf.strings.as_string(size[1]), "x", tf.strings.as_string(size[0])]
    )
    too_large = tf.strings.join([declared, f" pixels, over the limit of {MAX_PIXELS}"])
    reason = tf.where(num_pixels > 0, too_large, formats)
    fits = tf.logical_and(num_pixels > 0, num_pixels <= MAX_PIXELS)
    return tf.debugging.Assert(fits, [tf.strings.join([name, reason])])


def _check_size_quickly(encoded: tf.Tensor) -> tf.Tensor:
    """Does the same as `check_size`, but where TensorFlow finds a JPEG damaged, with a message of its own."""
    is_jpeg = tf.strings.substr(encoded, 0, len(_JPEG)) == _JPEG
    fits = tf.cond(
        is_jpeg,
        lambda: tf.reduce_prod(tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]) <= MAX_PIXELS,
        lambda: False,
    )

    # Inlined, each of its operations would take time also where the branch is not taken.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def check(encoded):
        with tf.control_dependencies([check_size(encoded)]):
            return tf.constant(True)

    return tf.cond(fits, lambda: tf.constant(True), lambda: check(encoded))


def decode_image(encoded: tf.Tensor, channels: int = 3, name: str | tf.Tensor | None = None) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame), and WebP where TensorFlow can.

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
    check = _check_size_quickly(encoded) if name is None else check_size(encoded, name)
    with tf.control_dependencies([check]):
        image = tf.io.decode_image(tf.identity(encoded), channels=channels, expand_animations=False)
    return tf.ensure_shape(image, [None, None, channels])
