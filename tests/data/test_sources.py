"""The digits, parts of splits, and the share of unreadable images."""

import subprocess
import sys

import numpy as np
import pytest

from tests.data.kinds import KINDS, BlankView, make_source
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import (
    ArraySource,
    BatchPlan,
    available_splits,
    check_bad_images,
    eval_dataset,
    load_source,
)
from tf_simclr.data.splits import slice_of_split

DIGITS = DataConfig(dataset="digits")


def test_digits_are_bytes_with_labels():
    source = load_source(DIGITS, "train")
    assert (source.num_examples, source.num_classes, source.name) == (1347, 10, "digits (train)")
    assert source.images.shape == (1347, 8, 8, 1) and source.images.dtype == np.uint8
    assert source.images.max() == 255
    assert source.class_names == tuple("0123456789")


def test_digits_splits_are_disjoint_complete_and_stratified():
    from sklearn.datasets import load_digits

    train, test = load_source(DIGITS, "train"), load_source(DIGITS, "test", flag="eval_split")
    images = np.concatenate([train.images, test.images])[..., 0]
    expected = np.rint(load_digits().images * 255 / 16)
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected.astype(np.uint8)))
    assert available_splits(DIGITS) == ("train", "test")
    for source, share in ((train, 0.75), (test, 0.25)):
        counts = np.bincount(source.labels, minlength=10)
        assert np.abs(counts - share * np.bincount(load_digits().target)).max() <= 1


def test_digits_parts_of_a_split_join_to_the_whole():
    whole, first, second = (load_source(DIGITS, split) for split in ("train", "train[:80%]", "train[80%:]"))
    assert first.num_examples == 1078
    np.testing.assert_array_equal(np.concatenate([first.images, second.images]), whole.images)
    np.testing.assert_array_equal(np.concatenate([first.labels, second.labels]), whole.labels)
    assert np.bincount(second.labels, minlength=10).min() >= 15


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train", (0, 100)), ("train[:10]", (0, 10)), ("train[90%:]", (90, 100)), ("train[-20:]", (80, 100))],
)
def test_slice_of_split_follows_tfds(split, expected):
    assert slice_of_split(split, {"train": 100}, "train_split", "x") == ("train", *expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            "dev",
            r"^--eval_split=dev: digits has the split\(s\) train, test; use one of them, or a part such as",
        ),
        (
            "train[:0%]",
            r"^--eval_split=train\[:0%\]: no example of the 1347 of train is in it; take a larger part",
        ),
        ("train[:8", r"^--eval_split=train\[:8: not a part of a split; write it like train\[:80%\]"),
        ("train[x:]", r"^--eval_split=train\[x:\]: not a part of a split"),
        ("train+test", r"^--eval_split=train\+test: digits has the split"),
        ("train[:5]+test", r"^--eval_split=train\[:5\]\+test: not a part of a split"),
    ],
)
def test_load_source_refuses_split_in_one_line(split, message):
    with pytest.raises(UserError, match=message) as error:
        load_source(DIGITS, split, flag="eval_split")
    assert "\n" not in str(error.value)


def test_load_source_of_digits_does_not_load_tfds():
    code = (
        "import sys; from tf_simclr.config import DataConfig; from tf_simclr.data import load_source;"
        "load_source(DataConfig(dataset='digits'), 'train'); assert 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_bad_images_stops_over_the_share():
    source = ArraySource("noise", np.zeros([200, 8, 8, 3], np.uint8))
    source.add_bad_image("a.jpg")
    source.add_bad_image("a.jpg")
    source.add_bad_image("b.jpg")
    assert source.bad_image_names() == ("a.jpg", "b.jpg")
    check_bad_images(source, num_bad=2, num_seen=200, max_fraction=0.01)
    check_bad_images(source, num_bad=3, num_seen=199, max_fraction=0.01)
    message = (
        r"^--max_bad_image_fraction=0.01: 3 of 200 images of noise are unreadable, such as a\.jpg, b\.jpg; "
        r"mend or remove them, or tolerate a larger share\.$"
    )
    with pytest.raises(UserError, match=message):
        check_bad_images(source, num_bad=3, num_seen=200, max_fraction=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "stop"), [(0, 23), (0, 7), (5, 6), (6, 23), (22, 23)])
def test_part_holds_the_examples_of_its_range_under_their_own_names(kind, start, stop, tmp_path):
    source = make_source(kind, 23, tmp_path)
    part = source.part(start, stop)
    assert (part.num_examples, part.class_names) == (stop - start, source.class_names)
    batches = list(eval_dataset(part, BlankView(), plan=BatchPlan(global_batch_size=4)).as_numpy_iterator())
    labels, positions, mask = (
        np.concatenate([batch[name] for batch in batches]) for name in ("labels", "position", "mask")
    )
    assert labels[mask > 0].tolist() == list(range(start, stop))
    assert positions[mask > 0].tolist() == list(range(stop - start))
    names = [part.example_name(key) for key in range(stop - start)]
    assert names == [source.example_name(key) for key in range(start, stop)]


@pytest.mark.parametrize("kind", KINDS)
def test_part_of_a_part_and_its_subset_keep_their_names(kind, tmp_path):
    source = make_source(kind, 23, tmp_path)
    inner = source.part(4, 20).part(3, 10)
    assert inner.example_name(2) == source.example_name(9)
    assert inner.subset(np.array([2, 5]), "two").example_name(1) == source.example_name(12)


@pytest.mark.parametrize("kind", ["encoded", "stream"])
def test_part_decodes_no_other_image(kind, tmp_path):
    """What is unreadable elsewhere is not met."""
    part = make_source(kind, 23, tmp_path, bad=(0, 3, 15)).part(4, 15)
    batches = list(eval_dataset(part, BlankView(), plan=BatchPlan(global_batch_size=4)))
    assert sum(int(batch["bad_images"]) for batch in batches) == 0
    assert part.bad_image_names() == ()
