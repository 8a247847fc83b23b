"""`fashion_mnist_debian`: Fashion-MNIST (arXiv 1708.07747), as Debian's package `dataset-fashion-mnist` has it."""

import gzip
import math
import os
import struct
import zlib

import numpy as np

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data.random_access import ArraySource
from tf_simclr.data.splits import slices_of_split

NAME = "fashion_mnist_debian"
FOLDER = "/usr/share/datasets/fashion-mnist"
"""Where the package puts its files."""
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FILES = {"train": "train", "test": "t10k"}
SPLITS = tuple(_FILES)


def load(data: DataConfig, split: str, flag: str) -> ArraySource:
    """Reads one split: 60,000 images in `train`, 10,000 in `test`, 28 x 28 grey.

    Args:
        data: The data set; `data_dir` is a folder with the four files of the package.
        split: A split, a part of one, or a sum of such.
        flag: The flag that named the split, for messages.

    Raises:
        UserError: No such split; a file is missing or damaged.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def num_examples(name: str) -> int:
        if name not in found:
            found[name] = _read_split(data, name)
        return len(found[name][0])

    slices = slices_of_split(split, SPLITS, num_examples, flag=flag, dataset=NAME)
    images, labels = (
        np.concatenate([found[name][which][start:stop] for name, start, stop in slices]) for which in (0, 1)
    )
    source = ArraySource(f"{NAME} ({split})", images[..., np.newaxis], labels, CLASS_NAMES)
    source.identity = (source.name.encode(),)
    return source


def _read_split(data: DataConfig, name: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read(data, f"{_FILES[name]}-images-idx3-ubyte.gz", rank=3)
    labels = _read(data, f"{_FILES[name]}-labels-idx1-ubyte.gz", rank=1)
    if len(images) != len(labels) or not len(labels) or labels.max() >= len(CLASS_NAMES):
        raise _error(
            data,
            f"the {len(images)} images and {len(labels)} labels of {name} do not belong together",
        )
    return images, labels


def _read(data: DataConfig, name: str, *, rank: int) -> np.ndarray:
    """Returns what a file of the idx format holds: uint8 numbers of `rank` dimensions.

    It begins with the bytes 0, 0, 8 (for uint8), the rank, and each size in four bytes, the highest first.
    """
    path = os.path.join(_folder(data), name)
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise _error(data, f"there is no {path}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _error(data, f"{path} is damaged or cannot be read ({error})") from error
    start = 4 + 4 * rank
    if content[:4] != bytes([0, 0, 8, rank]) or len(content) < start:
        begins = content[:4].hex(" ") or "nothing"
        raise _error(data, f"{path} is no idx file of {rank} dimension(s): it begins with {begins}")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    if math.prod(shape) != len(content) - start:
        sizes = " x ".join(map(str, shape))
        raise _error(data, f"{path} declares {sizes} bytes, and holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _folder(data: DataConfig) -> str:
    return FOLDER if data.data_dir is None else os.path.expanduser(data.data_dir)


def _error(data: DataConfig, what: str) -> UserError:
    return UserError(
        f"--dataset={NAME}: {what}; install Debian's package (apt-get install dataset-fashion-mnist), or name a "
        f"folder with its four files by --data_dir{'' if data.data_dir is None else f', now {data.data_dir}'}."
    )
