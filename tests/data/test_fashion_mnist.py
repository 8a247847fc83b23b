"""Fashion-MNIST as Debian has it: splits, labels, and what is wrong with its files."""

import gzip
import re
import struct

import numpy as np
import pytest

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import available_splits, load_source
from tf_simclr.data.fashion_mnist import CLASS_NAMES, NAME

COUNTS = {"train": 40, "t10k": 20}
MEND = (
    r"; install Debian's package \(apt-get install dataset-fashion-mnist\), or name a folder with its four files by "
    r"--data_dir"
)


def write_idx(path, values, *, magic=8, sizes=None):
    sizes = values.shape if sizes is None else sizes
    header = struct.pack(f">4B{len(sizes)}I", 0, 0, magic, len(sizes), *sizes)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def pictures(count):
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name, count in COUNTS.items():
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", pictures(count))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


def load(folder, split="train"):
    return load_source(DataConfig(dataset=NAME, data_dir=str(folder)), split)


def refusal(folder, split="train"):
    with pytest.raises(UserError, match=MEND) as error:
        load(folder, split)
    message = str(error.value)
    assert message.startswith(f"--dataset={NAME}: ") and "\n" not in message
    return message


def test_splits_have_images_labels_and_names(folder):
    assert available_splits(DataConfig(dataset=NAME)) == ("train", "test")
    for split, count in (("train", 40), ("test", 20)):
        source = load(folder, split)
        assert (source.name, source.num_examples) == (f"{NAME} ({split})", count)
        np.testing.assert_array_equal(source.images, pictures(count)[..., np.newaxis])
        np.testing.assert_array_equal(source.labels, np.arange(count) % 10)
        assert source.class_names == CLASS_NAMES and len(CLASS_NAMES) == 10


def test_parts_of_a_split_join_to_the_whole(folder):
    whole, *parts = (load(folder, split) for split in ("train", "train[:80%]", "train[80%:]"))
    assert [part.num_examples for part in parts] == [32, 8]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)


def test_split_that_is_not_there_is_refused(folder):
    message = r"^--train_split=validation: fashion_mnist_debian has the split\(s\) train, test; use one"
    with pytest.raises(UserError, match=message):
        load(folder, "validation")


def test_missing_files_name_the_package_and_the_flag(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert f"there is no {folder}/t10k-labels-idx1-ubyte.gz;" in refusal(folder, "test")
    assert refusal(folder, "test").endswith(f"by --data_dir, now {folder}.")
    assert load(folder).num_examples == 40


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"no gzip"), r"is damaged or cannot be read \(Not a gzipped file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is damaged or cannot be read"),
        (
            lambda path: path.write_bytes(gzip.compress(b"")),
            r"is no idx file of 3 .*: it begins with nothing",
        ),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03\0")), r"begins with 00 00 08 03"),
        (lambda path: write_idx(path, pictures(40), magic=9), r"begins with 00 00 09 03"),
        (lambda path: write_idx(path, pictures(40)[0]), r"begins with 00 00 08 02"),
        (
            lambda path: write_idx(path, pictures(40), sizes=(60_000, 28, 28)),
            "declares 60000 x 28 x 28 bytes, and holds 31360",
        ),
        (lambda path: write_idx(path, pictures(39)), "the 39 images and 40 labels of train do not belong"),
    ],
)
def test_damaged_images_are_refused(folder, damage, message):
    damage(folder / "train-images-idx3-ubyte.gz")
    assert re.search(message, refusal(folder))


def test_labels_beyond_the_classes_are_refused(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.full(40, 10, np.uint8))
    assert "the 40 images and 40 labels of train do not belong together" in refusal(folder)
