"""TFRecord files: counting records, and reading past damaged ones.

A record has a length (8 bytes, little-endian), the length's checksum (4), the data and its checksum (4).
"""

import dataclasses
from typing import IO

import tensorflow as tf

from tf_simclr.config import is_remote
from tf_simclr.files import first_line

_LENGTH_BYTES = 8
_HEADER_BYTES = 12
FRAME_BYTES = 16
# Upper bound for a damaged length: beyond the end of any file.
_MAX_LENGTH = 2**40
# Effect of each byte on a CRC-32C.
_CRC_TABLE = []
for _crc in range(256):
    for _ in range(8):
        _crc = _crc >> 1 ^ (0x82F63B78 if _crc & 1 else 0)
    _CRC_TABLE.append(_crc)


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """Range of records of a TFRecord file: `take` after the first `skip`.

    `compression` is GZIP, ZLIB or nothing.
    """

    filename: str
    skip: int
    take: int
    compression: str = ""


def count_records(filename: str) -> tuple[RecordFile, str]:
    """Counts the records of a file by their lengths; reads no data unless it is compressed.

    Args:
        filename: A local path, or an address that TensorFlow can read.

    Returns:
        The whole file, and a description of its damage or "". If it is cut off, or the length of a record is damaged,
        no later record can be found; this counts as one last record.

    Raises:
        OSError, tf.errors.OpError: If the file cannot be read.
    """
    with _open(filename) as file:
        compression = _compression(file.read(_HEADER_BYTES))
        if compression:
            count, damage = _count_by_reading(filename, compression)
        else:
            count, damage = _follow_lengths(file, tf.io.gfile.stat(filename).length)
    return RecordFile(filename, 0, count, compression), damage


def read_records(filename: tf.Tensor, num_records: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
    """Reads the first records of a file; a damaged record is empty.

    Other records keep their numbers, so errors are not just ignored. TensorFlow stops at damaged data; this finds
    the next record by the length of the damaged one. After a damaged length, or if the file is cut off or gone, all
    records are empty.

    Args:
        filename: string [].
        num_records: int64 [], the number of records in the file.
        compression: string [], GZIP, ZLIB or nothing.

    Returns:
        Dataset of `num_records` records, string [].
    """
    records = tf.data.TFRecordDataset(filename, compression)
    undamaged = _attempts(records, num_records)

    def rest(_: tf.Tensor) -> tf.data.Dataset:
        return _behind_damage(filename, undamaged, num_records, compression)

    # The rest is read only if records are missing.
    return undamaged.concatenate(tf.data.Dataset.from_tensors(0).flat_map(rest)).take(num_records)


def _behind_damage(
    filename: tf.Tensor, undamaged: tf.data.Dataset, num_records: tf.Tensor, compression: tf.Tensor
) -> tf.data.Dataset:
    """Reads records one by one, from the first damaged one on."""
    lengths = _gathered(undamaged.map(_length), num_records)
    first, start = tf.size(lengths, tf.int64), tf.math.reduce_sum(lengths + FRAME_BYTES)

    def read(place: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        record = _record_at(filename, place, compression)
        length = _length(record)
        length = tf.cond(length > 0, lambda: length, lambda: _declared_length(filename, place, compression))
        return place + FRAME_BYTES + length, record

    return tf.data.Dataset.range(first, num_records).scan(start, read)


def _record_at(filename: tf.Tensor, place: tf.Tensor, compression: tf.Tensor) -> tf.Tensor:
    """Returns the record that begins at a byte of a file, "" if it is damaged."""
    reader = tf.raw_ops.TFRecordDatasetV2(
        filenames=[filename], compression_type=compression, buffer_size=0, byte_offsets=[place]
    )
    records = _attempts(tf.data.experimental.from_variant(reader, tf.TensorSpec([], tf.string)), 1)
    return records.concatenate(tf.data.Dataset.from_tensors("")).take(1).get_single_element()


def _declared_length(filename: tf.Tensor, place: tf.Tensor, compression: tf.Tensor) -> tf.Tensor:
    """Returns the length, int64 [], that the record at a byte of a file declares; 0 past the end."""
    in_bytes = tf.data.FixedLengthRecordDataset(
        filename, record_bytes=1, header_bytes=place, compression_type=compression
    )
    header = tf.strings.reduce_join(_gathered(_attempts(in_bytes, _LENGTH_BYTES), _LENGTH_BYTES))
    zeros = tf.constant(b"\0" * _LENGTH_BYTES)
    padded = tf.strings.substr(tf.strings.join([header, zeros]), 0, _LENGTH_BYTES)
    length = tf.io.decode_raw(padded, tf.int64)[0]
    return tf.where((length >= 0) & (length <= _MAX_LENGTH), length, _MAX_LENGTH)


def _attempts(dataset: tf.data.Dataset, most: tf.Tensor | int) -> tf.data.Dataset:
    """Returns the elements of a reader in at most `most` attempts.

    A reader gives nothing after an error. But if it cannot open its file, it repeats the error without end, and if
    it cannot seek, it continues with wrong bytes. Zipping it with a finite range ends both.
    """
    numbered = tf.data.Dataset.zip((tf.data.Dataset.range(most), dataset))
    return numbered.ignore_errors().map(lambda _, element: element)


def _gathered(dataset: tf.data.Dataset, most: tf.Tensor | int) -> tf.Tensor:
    """Returns all elements, at most `most`, as one tensor [N]; N may be 0."""
    none = tf.zeros([0], dataset.element_spec.dtype)
    batches = dataset.batch(tf.cast(most, tf.int64)).concatenate(tf.data.Dataset.from_tensors(none))
    return batches.take(1).get_single_element()


def _length(record: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(record), tf.int64)


def _open(filename: str) -> IO[bytes]:
    # TensorFlow's own files read half a megabyte after each seek.
    return tf.io.gfile.GFile(filename, "rb") if is_remote(filename) else open(filename, "rb", buffering=0)


def _follow_lengths(file: IO[bytes], size: int) -> tuple[int, str]:
    """Returns the number of records, and a description of the damage or ""."""
    count = place = 0
    while place < size:
        file.seek(place)
        length = _checked_length(file.read(_HEADER_BYTES))
        if length is None:
            return count + 1, f"the length of record {count} is damaged, what follows is lost"
        count += 1
        place += FRAME_BYTES + length
    return count, f"it is cut off within record {count - 1}" if place > size else ""


def _count_by_reading(filename: str, compression: str) -> tuple[int, str]:
    count = 0
    try:
        for _ in tf.data.TFRecordDataset(filename, compression):
            count += 1
    except tf.errors.OpError as error:
        return count + 1, f"it cannot be read from record {count} on ({first_line(error)})"
    return count, ""


def _compression(header: bytes) -> str:
    """Returns the compression of a file, by its first bytes."""
    if len(header) < 2 or _checked_length(header) is not None:
        return ""
    if header.startswith(b"\x1f\x8b"):
        return "GZIP"
    is_zlib = header[0] % 16 == 8 and int.from_bytes(header[:2], "big") % 31 == 0
    return "ZLIB" if is_zlib else ""


def _checked_length(header: bytes) -> int | None:
    """Returns the length that the header of a record declares; None if its checksum differs."""
    length, checksum = header[:_LENGTH_BYTES], header[_LENGTH_BYTES:_HEADER_BYTES]
    if len(checksum) < _HEADER_BYTES - _LENGTH_BYTES or int.from_bytes(checksum, "little") != _masked_crc(length):
        return None
    return int.from_bytes(length, "little")


def _masked_crc(data: bytes) -> int:
    """Returns the masked CRC-32C of TFRecord files: rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
