"""Damaged record files: what they cost, and who is told."""

import numpy as np
import pytest

from tests.data.conftest import GREY_STEP
from tests.data.kinds import GreyView, plain_decoding, read
from tests.data.records import damage, example, png, write, write_greys
from tests.data.test_record_source import config, open_train
from tf_simclr.config import UserError
from tf_simclr.data import (
    BatchPlan,
    few_labels,
    train_dataset,
)

# ---- Damage


@pytest.fixture
def damaged(tmp_path):
    """24 records: one has a wrong checksum, one no image, one an image that cannot be decoded, one no label."""
    records = [example(png(n), n % 2) for n in range(24)]
    records[4] = example(png(4), 0, image_key="other")
    records[5] = example(b"no picture", 1)
    records[6] = example(png(6))
    write(tmp_path / "train-0.tfrecord", records[:12])
    write(tmp_path / "train-1.tfrecord", records[12:])
    damage(tmp_path / "train-0.tfrecord", 2)
    return tmp_path


@pytest.mark.slow
def test_damaged_records_are_replaced_counted_and_named(damaged):
    source = open_train(damaged)
    with plain_decoding():
        batches = train_dataset(source, GreyView(), plan=BatchPlan(global_batch_size=8), seed=1, num_views=1)
    parts = list(batches.take(6).as_numpy_iterator())
    assert sum(part["bad_images"] for part in parts) == 2 * 4
    numbers = np.concatenate([part["views"][0][:, 0, 0, 0] for part in parts]) / GREY_STEP
    assert set(numbers) == set(range(24)) - {2, 4, 5, 6}
    np.testing.assert_array_equal(numbers % 2, np.concatenate([part["labels"] for part in parts]))
    assert set(source.bad_image_names()) == {f"train-0.tfrecord record {number}" for number in (2, 4, 5, 6)}


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_damaged_records_cost_one_example_each(damaged, cache):
    source = open_train(damaged, cache_dataset=cache)
    expected = sorted(set(range(24)) - {2, 4, 5, 6})
    assert read(source) == (expected, [number % 2 for number in expected], 4)
    data = config(damaged, labels_per_class=9)
    numbers, _, num_bad = read(few_labels(source, data))
    # An image that cannot be decoded still has its label.
    assert num_bad <= 1 and not {2, 4, 6} & set(numbers)


def test_file_that_is_cut_off_is_told(tmp_path, log):
    write_greys(tmp_path, range(24))
    path = tmp_path / "train-00001-of-00003.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    assert open_train(tmp_path).num_examples == 24
    assert [m for m in log.messages if "cut off" in m] == [f"{path}: it is cut off within record 7."]


def test_files_without_records_are_refused(tmp_path):
    write(tmp_path / "train-0.tfrecord", [])
    with pytest.raises(UserError, match=r"there is no record in 1 file\(s\), such as .*train-0\.tfrecord; name"):
        open_train(tmp_path)
    (tmp_path / "train-0.tfrecord").write_bytes(b"no records at all, but text")
    with pytest.raises(UserError, match=r"no record of .*train-0\.tfrecord or others is a tf\.train\.Example"):
        open_train(tmp_path)
