"""Headers of encoded images, parsed in a graph: sizes and camera orientations."""

import functools
from collections.abc import Callable

import tensorflow as tf

JPEG = b"\xff\xd8\xff"
"""The first bytes of a JPEG."""
_HEADER_BYTES = 32
# Files with more blocks are refused: no image needs them, and each takes time.
_MAX_BLOCKS = 2**16
# \\C is any byte, because TensorFlow's expressions are UTF-8. Tables begin with a number, other segments with a name.
_AS_DECODED = r"\CPNG\C*|GIF8\C*|RIFF\C*|\C{4}\x00\x10JFIF\x00\C{13}[\x00-\x13]"
_EXIF = b"\xff\xe1..Exif\0\0"
_ORIENTATION_TAG, _SHORT = 0x0112, 3
# Exif, and in it the tag, its type and count, and a number from 2 to 8, in either byte order.
_TURNED = (
    r"\C*?Exif\x00\x00(MM\x00\*\C*?\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    r"|II\*\x00\C*?\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00)\C*"
)
# Exif comes first, or after a segment or two.
_SEARCHED_BYTES = 2**16
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def declared_size(encoded: tf.Tensor) -> tf.Tensor:
    """Reads height and width from the header of a JPEG, PNG, GIF, BMP or WebP, string []; decodes nothing.

    Returns:
        int64 [2]; for a GIF the size of all frames stacked vertically, because TensorFlow decodes each; zeros if the
        format is another or the header is damaged.
    """
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEADER_BYTES), tf.uint8), tf.int64)
    header = tf.pad(header, [[0, _HEADER_BYTES - tf.shape(header)[0]]])
    of_jpeg = (_has(header, JPEG), lambda: _jpeg_size(encoded))
    of_gif = (_has(header, b"GIF8"), lambda: _gif_size(encoded, header))
    return tf.case([of_jpeg, of_gif], default=lambda: _size_in_header(header))


def _size_in_header(header: tf.Tensor) -> tf.Tensor:
    """Returns the size of a PNG, BMP or WebP, which has a fixed place."""
    rows = _number(header, 22, 4)  # Rows of a bitmap; negative if rows are stored from the top.
    bits = _number(header, 21, 4)  # Twice 14 bits of a lossless WebP.
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


def _number(header: tf.Tensor, start: int, length: int, stride: int = 1) -> tf.Tensor:
    """Returns a little-endian number; a big-endian one if `stride` is -1."""
    powers = [256**power for power in range(length)][::stride]
    return tf.reduce_sum(header[..., start : start + length] * powers, axis=-1)


_high_first = functools.partial(_number, stride=-1)


def _make_reader(encoded: tf.Tensor, num_bytes: int) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns the length, int64 [], and a function of a place that returns int64 [num_bytes] from there on."""
    data = tf.pad(tf.io.decode_raw(encoded, tf.uint8), [[0, num_bytes]])
    length = tf.cast(tf.strings.length(encoded), tf.int64)
    return length, lambda place: tf.cast(tf.slice(data, [place], [num_bytes]), tf.int64)


def _jpeg_distance(marker: int) -> int:
    """Returns the distance to the next marker of a JPEG; 0 if this marker ends the search, -1 if a length follows."""
    if marker in _JPEG_FRAMES or marker in (0, 0xD8, 0xD9, 0xDA):
        return 0
    if marker == 0xFF:  # It fills.
        return 1
    return 2 if marker == 1 or 0xD0 <= marker <= 0xD7 else -1


def _find_segment(
    encoded: tf.Tensor, num_bytes: int, is_sought: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Follows the segments of a JPEG as libjpeg does, but does not skip bytes between segments.

    Returns:
        The length of the file; the position of the wanted segment, or of the end of the segments, int64 []; and the
        bytes from there on, int64 [num_bytes].
    """
    length, read = _make_reader(encoded, num_bytes)
    distances = tf.constant([_jpeg_distance(marker) for marker in range(256)], tf.int64)

    def goes_on(place: tf.Tensor, segment: tf.Tensor) -> tf.Tensor:
        return (segment[0] == 0xFF) & (distances[segment[1]] != 0) & tf.logical_not(is_sought(segment))

    def skip(place: tf.Tensor, segment: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        distance = distances[segment[1]]
        distance = tf.where(distance < 0, 2 + tf.maximum(_high_first(segment, 2, 2), 2), distance)
        place = tf.minimum(place + distance, length)
        return place, read(place)

    start = tf.constant(2, tf.int64)
    place, segment = tf.while_loop(goes_on, skip, (start, read(start)), maximum_iterations=_MAX_BLOCKS)
    return length, place, segment


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    is_frame = tf.constant([marker in _JPEG_FRAMES for marker in range(256)])
    length, place, segment = _find_segment(encoded, 9, lambda segment: is_frame[segment[1]])
    found = (segment[0] == 0xFF) & is_frame[segment[1]] & (place + 9 <= length)
    size = tf.stack([_high_first(segment, 5, 2), _high_first(segment, 7, 2)])
    return tf.where(found, size, tf.zeros_like(size))


def is_as_decoded(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether TensorFlow alone decodes an image, string [], correctly, bool []; false if that is not certain.

    Takes one operation of microseconds. True for PNG, GIF, WebP, and a JPEG with only JFIF before its tables.
    """
    return tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 25), _AS_DECODED)


def is_bitmap(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether an image, string [], is a BMP."""
    return tf.strings.substr(encoded, 0, 2) == b"BM"


def may_be_turned(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether `exif_orientation`, which takes ten times as long, may differ from 1; bool []."""
    return tf.strings.regex_full_match(tf.strings.substr(encoded, 0, _SEARCHED_BYTES), _TURNED)


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the orientation of the camera from a JPEG, string [] (Exif 2.3, tag 0x0112).

    Returns:
        int64 [], 1 to 8; 1 (upright) if there is no such tag or it is damaged.
    """
    sought = tf.constant(list(_EXIF), tf.int64)
    is_given = tf.constant([chr(byte) != "." for byte in _EXIF])

    def is_exif(segment: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all((segment[: len(_EXIF)] == sought) | tf.logical_not(is_given))

    length, place, segment = _find_segment(encoded, len(_EXIF) + 8, is_exif)
    end = tf.minimum(place + 2 + _high_first(segment, 2, 2), length)
    low_first = segment[len(_EXIF)] == ord("I")

    def number(content: tf.Tensor, start: int, size: int) -> tf.Tensor:
        return tf.where(low_first, _number(content, start, size), _high_first(content, start, size))

    # A directory: the number of its entries, then 12 bytes each of tag, type, count and value.
    start = tf.minimum(place + len(_EXIF) + number(segment, len(_EXIF) + 4, 4), end)
    content = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, start, end - start), tf.uint8), tf.int64)
    count = number(tf.pad(content[:2], [[0, 2 - tf.size(content[:2])]]), 0, 2)
    count = tf.minimum(count, (tf.size(content, tf.int64) - 2) // 12)
    entries = tf.reshape(content[2 : 2 + 12 * tf.maximum(count, 0)], [-1, 12])
    is_tag = (number(entries, 0, 2) == _ORIENTATION_TAG) & (number(entries, 2, 2) == _SHORT)
    orientation = tf.reduce_max(tf.where(is_tag, number(entries, 8, 2), 1))  # The smallest number, if there is none.
    return tf.where(is_exif(segment) & (orientation >= 1) & (orientation <= 8), orientation, 1)


def colour_table(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the palette, uint8 [256, 3], of a bitmap, string []; [0, 3] for an image without a palette.

    Raises:
        tf.errors.InvalidArgumentError: If its pixels are compressed, which TensorFlow does not notice.
    """
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, 54), tf.uint8), tf.int64)
    header = tf.pad(header, [[0, 54 - tf.shape(header)[0]]])
    has_table = _has(header, b"BM") & (_number(header, 28, 2) == 8)
    plain = tf.debugging.Assert(tf.logical_not(has_table) | (_number(header, 30, 4) == 0), ["a compressed bitmap"])
    start = tf.minimum(14 + _number(header, 14, 4), _number(header, 10, 4))

    def read() -> tf.Tensor:
        length = tf.minimum((_number(header, 10, 4) - start) // 4, 256) * 4
        colours = tf.reshape(tf.io.decode_raw(tf.strings.substr(encoded, start, length), tf.uint8), [-1, 4])
        return tf.pad(colours[:, 2::-1], [[0, 256 - tf.shape(colours)[0]], [0, 0]])

    with tf.control_dependencies([plain]):
        return tf.cond(has_table, read, lambda: tf.zeros([0, 3], tf.uint8))


def _gif_size(encoded: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Follows the blocks to the end; zeros if they cannot be followed.

    The size of the screen is irrelevant: TensorFlow decodes each frame at the size that the frame declares.
    """
    length, read = _make_reader(encoded, 10)

    def table_size(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def goes_on(place: tf.Tensor, in_data: tf.Tensor, block: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        # giflib continues after an empty extension.
        is_block = (block[0] == 0x2C) | ((block[0] == 0x21) & (block[2] > 0))
        return (place < length) & (in_data | is_block)

    def skip(place: tf.Tensor, in_data: tf.Tensor, block: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_frame = tf.logical_not(in_data) & (block[0] == 0x2C)
        distance = tf.where(is_frame, 11 + table_size(block[9]), tf.where(in_data, block[0] + 1, 2))
        frame = tf.stack([size[0] + _number(block, 7, 2), tf.maximum(size[1], _number(block, 5, 2))])
        ends = in_data & (block[0] == 0)
        place = tf.minimum(place + distance, length)
        return place, tf.logical_not(ends), read(place), tf.where(is_frame, frame, size)

    start = tf.minimum(13 + table_size(header[10]), length)
    state = (start, tf.constant(False), read(start), tf.zeros([2], tf.int64))
    place, in_data, block, size = tf.while_loop(goes_on, skip, state, maximum_iterations=_MAX_BLOCKS)
    ended = (place >= length) | (tf.logical_not(in_data) & (block[0] == 0x3B))
    return tf.where(ended, size, tf.zeros_like(size))
