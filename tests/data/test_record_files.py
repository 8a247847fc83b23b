"""Counting the records of TFRecord files, and reading what is left of damaged ones."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.records import damage, places_of, write
from tf_simclr.data.record_files import RecordFile, count_records, read_records

COMPRESSIONS = ("", "GZIP", "ZLIB")
RECORDS = [bytes([number]) * (5 + 300 * (number % 3)) for number in range(1, 11)]


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "some.tfrecord", RECORDS)


def read(path, num_records=10, compression=""):
    """Reads as a source does: in a graph, file by file."""
    files = tf.data.Dataset.from_tensors((str(path), np.int64(num_records), compression))
    return list(files.flat_map(read_records).as_numpy_iterator())


def without(*numbers):
    return [b"" if number in numbers else record for number, record in enumerate(RECORDS)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_records_are_counted_and_read(tmp_path, compression):
    path = write(tmp_path / "any name", RECORDS, compression)
    assert count_records(str(path)) == (RecordFile(str(path), 0, 10, compression), "")
    assert read(path, 10, compression) == RECORDS
    assert read(path, 4, compression) == RECORDS[:4]


def test_count_reads_no_data(path):
    content = bytearray(path.read_bytes())
    for place in places_of(content):
        content[place + 12] ^= 0xFF
    path.write_bytes(content)
    assert count_records(str(path)) == (RecordFile(str(path), 0, 10), "")


def test_plain_file_that_begins_like_a_compressed_one_is_plain(tmp_path):
    path = write(tmp_path / "x", [b"a" * 0x8B1F])
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert count_records(str(path)) == (RecordFile(str(path), 0, 1), "")


def test_empty_file_has_no_records(tmp_path):
    path = write(tmp_path / "x", [])
    assert count_records(str(path)) == (RecordFile(str(path), 0, 0), "")
    assert read(path, 0) == []


@pytest.mark.parametrize("numbers", [(0,), (3,), (9,), (3, 4, 8), tuple(range(10))])
def test_damaged_data_cost_their_record_alone(path, numbers):
    for number in numbers:
        damage(path, number)
    assert read(path) == without(*numbers)


def test_damaged_checksum_costs_its_record_alone(path):
    damage(path, 2, at=len(RECORDS[2]) + 12)
    assert read(path) == without(2)


@pytest.mark.parametrize(("at", "lost"), [(0, (6, 7, 8, 9)), (7, (6, 7, 8, 9)), (9, (6,))])
def test_damaged_length_costs_the_rest_of_the_file(path, at, lost):
    damage(path, 6, at=at)
    assert read(path) == without(*lost)  # Of the last, the checksum alone is damaged.
    expected = RecordFile(str(path), 0, 7), "the length of record 6 is damaged, what follows is lost"
    assert count_records(str(path)) == expected


def test_damaged_data_before_a_damaged_length(path):
    damage(path, 2)
    damage(path, 6, at=0)
    assert read(path) == without(2, 6, 7, 8, 9)


@pytest.mark.parametrize("cut", [1, 17, 300])
def test_file_that_is_cut_off_costs_its_last_record(path, cut):
    path.write_bytes(path.read_bytes()[:-cut])
    kept = 10 if cut < 16 + len(RECORDS[9]) else 9
    file, said = count_records(str(path))
    assert said in ("it is cut off within record 9", "it is cut off within record 8")
    assert read(path) == without(*range(file.take - 1, 10)) and kept >= file.take


def test_file_that_is_cut_off_within_a_header(path):
    path.write_bytes(path.read_bytes()[: places_of(path.read_bytes())[5] + 6])
    assert count_records(str(path))[0].take == 6
    assert read(path) == without(5, 6, 7, 8, 9)


def test_file_that_is_gone_costs_its_records_and_ends(path):
    path.unlink()
    assert read(path) == [b""] * 10


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_compressed_file_that_is_damaged_costs_its_rest(tmp_path, compression):
    rng = np.random.default_rng(0)
    records = [rng.bytes(100_000) for _ in range(10)]
    path = write(tmp_path / "x", records, compression)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1000] = bytes(1000)
    path.write_bytes(content)
    found = read(path, 10, compression)
    good = found.index(b"")
    assert 3 <= good <= 5 and found[:good] == records[:good]
    path.write_bytes(content[:middle])
    found = read(path, 10, compression)
    good = found.index(b"")
    assert 3 <= good <= 5 and found == records[:good] + [b""] * (10 - good)
    file, _ = count_records(str(path))
    assert good <= file.take <= good + 1
