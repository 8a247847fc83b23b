"""Fashion-MNIST from the files of its authors: images, labels, classes and their order."""

import gzip
import struct

import numpy as np

from benchmarks.fashion_mnist import CLASSES, write_dataset
from tf_simclr.config import DataConfig
from tf_simclr.data import load_source


def write_idx(path, values):
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def test_dataset_has_the_images_of_the_files_in_their_order(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    labels = np.arange(40, dtype=np.uint8)[::-1] % 10
    for name, count in {"train": 40, "t10k": 20}.items():
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images[:count])
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels[:count])
    write_dataset(str(tmp_path), str(tmp_path / "data"))
    for split, count in {"train": 40, "test": 20}.items():
        source = load_source(DataConfig(dataset="fashion_mnist", data_dir=str(tmp_path / "data")), split)
        np.testing.assert_array_equal(source.images, images[:count, ..., np.newaxis])
        np.testing.assert_array_equal(source.labels, labels[:count])
        assert source.class_names == CLASSES
