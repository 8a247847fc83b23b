"""`folder:PATH`: image files with one subfolder a class, or flat and unlabelled."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from tf_simclr.config import DataConfig, UserError
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.splits import missing_split, slice_of_split

# What TensorFlow cannot read of these is counted and reported, rather than passed over in silence.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = ("train", "test", "validation", "val")


def available_splits(data: DataConfig) -> tuple[str, ...]:
    """Returns the subfolders that are splits, or `train`, which is then the whole folder.

    Raises:
        UserError: No such folder.
    """
    return tuple(_split_folders(data))


def load(data: DataConfig, split: str, flag: str) -> EncodedImages:
    """Lists the images of one split; opens none of them.

    Args:
        data: The data set; its name is `folder:PATH`.
        split: A split, or a part of one, which is mixed over the classes.
        flag: The flag that named the split, for messages.

    Returns:
        The examples, in the order of their paths.

    Raises:
        UserError: No such folder or split; no images; images beside class folders.
    """
    folders = _split_folders(data)
    name = split.partition("[")[0]
    if name not in folders:
        raise missing_split(split, folders, flag, data.dataset)
    paths, labels, class_names = _list_images(data, folders[name])
    _, start, stop = slice_of_split(split, {name: len(paths)}, flag, data.dataset)
    # Paths are sorted by class: a part is taken after a fixed permutation, so that it holds all classes.
    chosen = np.sort(np.random.RandomState(0).permutation(len(paths))[start:stop])
    chosen_paths = [paths[index] for index in chosen]
    encoded_paths = [os.fsencode(path) for path in chosen_paths]
    images, read = (
        (_read_files(chosen_paths), tf.identity) if data.cache_dataset else (encoded_paths, tf.io.read_file)
    )
    source = EncodedImages(
        f"{data.dataset} ({split})",
        images,
        read=read,
        example_names=[shown_path(path) for path in chosen_paths],
        labels=None if labels is None else labels[chosen],
        class_names=class_names,
    )
    source.files = chosen_paths
    return source


def shown_path(path: str) -> str:
    r"""Returns a path as text: a name on disk is any bytes, those that are no UTF-8 are shown as `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _error(data: DataConfig, what: str) -> UserError:
    return UserError(f"--dataset={data.dataset}: {what}")


def _split_folders(data: DataConfig) -> dict[str, str]:
    """Returns the folder of each split."""
    root = os.path.expanduser(data.dataset.partition(":")[2])
    if not os.path.isdir(root):
        problem = "is a file" if os.path.exists(root) else "does not exist"
        raise _error(data, f"{root or 'the empty path'} {problem}; name a folder of images.")
    subfolders, _ = _scan(data, root)
    splits = [name for name in SPLIT_FOLDERS if name in subfolders]
    # A single such name among others, say `train` beside `bus`, is a class.
    if len(splits) > 1 or (splits and len(subfolders) == 1):
        return {name: os.path.join(root, name) for name in splits}
    return {"train": root}


def _list_images(data: DataConfig, folder: str) -> tuple[list[str], np.ndarray | None, list[str] | None]:
    """Returns paths, labels [N] and class names of the images in a folder; no labels where it is flat."""
    class_names, images = _scan(data, folder)
    if images and class_names:
        raise _error(
            data,
            f"{folder} holds images ({images[0]}) beside subfolders ({class_names[0]}); "
            "use either one subfolder a class or a flat folder.",
        )
    if not images and not class_names:
        raise _error(data, f"{folder} holds no images ({', '.join(IMAGE_EXTENSIONS)}); put some there.")
    if images:
        return [os.path.join(folder, name) for name in images], None, None
    by_class = [list(_walk(data, os.path.join(folder, name))) for name in class_names]
    empty = [name for name, paths in zip(class_names, by_class, strict=True) if not paths]
    if empty:
        raise _error(
            data,
            f"no images in the class folder(s) {', '.join(empty[:3])} of {folder}; add some or remove them.",
        )
    labels = np.repeat(np.arange(len(by_class)), [len(paths) for paths in by_class])
    return [path for paths in by_class for path in paths], labels, class_names


def _walk(data: DataConfig, folder: str) -> Iterator[str]:
    """Yields the paths of all images in a folder and the folders in it, sorted."""
    subfolders, images = _scan(data, folder)
    for name in images:
        yield os.path.join(folder, name)
    for name in subfolders:
        yield from _walk(data, os.path.join(folder, name))


def _scan(data: DataConfig, folder: str) -> tuple[list[str], list[str]]:
    """Returns the names of subfolders and of images in a folder, sorted, without hidden ones."""
    subfolders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    subfolders.append(entry.name)
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    images.append(entry.name)
    except OSError as error:
        raise _error(data, f"{folder} cannot be read ({error.strerror}); name a folder that can.") from error
    return sorted(subfolders), sorted(images)


def _read_files(paths: list[str]) -> list[bytes]:
    """Reads whole files; one that cannot be read is empty, and so an unreadable image."""

    def read(path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:
            return b""

    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, paths))
