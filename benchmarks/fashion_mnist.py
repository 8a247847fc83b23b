"""Fashion-MNIST (arXiv 1708.07747) from the four files that its authors and Debian publish, without a download by TFDS.

python -m benchmarks.fashion_mnist /usr/share/datasets/fashion-mnist [--data_dir=DIR]

Writes the data set of TensorFlow Datasets that `--dataset=fashion_mnist` reads: 60,000 images in `train` and 10,000 in
`test`, 28 x 28 grey, in the order of the files.
"""

import argparse
import gzip
import os
import struct

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from numpy.typing import NDArray

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_FILES = {"train": "train", "test": "t10k"}


def read_idx(path: str) -> NDArray[np.uint8]:
    """Returns the numbers in a gzipped IDX file of bytes; uint8 of the shape that its header declares."""
    with gzip.open(path) as file:
        content = file.read()
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def write_dataset(folder: str, data_dir: str | None) -> None:
    """Writes what the files in `folder` hold below `data_dir`; None is where TFDS keeps its data sets."""
    features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(names=CLASSES)}
    splits = {}
    for split, prefix in _FILES.items():
        images = read_idx(os.path.join(folder, f"{prefix}-images-idx3-ubyte.gz"))[..., np.newaxis]
        labels = read_idx(os.path.join(folder, f"{prefix}-labels-idx1-ubyte.gz"))
        splits[split] = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels.astype(np.int64)})
    tfds.dataset_builders.store_as_tfds_dataset(
        "fashion_mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(features),
        split_datasets=splits,
        data_dir=data_dir,
        disable_shuffling=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prepares Fashion-MNIST for --dataset=fashion_mnist.")
    parser.add_argument("folder", help="folder with train-images-idx3-ubyte.gz and the other three files")
    parser.add_argument("--data_dir", help="--data_dir of the runs, if it is not that of TFDS")
    arguments = parser.parse_args()
    write_dataset(arguments.folder, arguments.data_dir)
