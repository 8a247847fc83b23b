"""Manifest of the record files of `--mode=prepare`: `manifest.json` beside them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.data.record_files import FRAME_BYTES, RecordFile
from tf_simclr.files import between, one_line, plain_name, read_json

MANIFEST_FILE = "manifest.json"
# The manifest of unfinished work, and the list of omitted images.
UNFINISHED_FILE, UNREADABLE_FILE = "unfinished.json", "unreadable.txt"
# Start of all formats of this program; other programs write files of the same name.
_OUR_FORMATS = "tf_simclr-prepared"
_FORMAT = f"{_OUR_FORMATS}-1"
_FIX = "prepare the data again, or remove the file to count the records"
_COUNT = between(0, 2**40)
_FILE = {"name": plain_name, "num_examples": _COUNT, "bytes": between(0, 2**50)}
_FORM = {"class_names": (None, [str]), "splits": {plain_name: {"files": [_FILE]}}}
_PREPARED_SPLIT = {
    "num_images": _COUNT,
    "num_shards": between(0, 10**6),
    "files": [_FILE | {"sha256": str, "unreadable": {str: str}}],
}
PREPARED_FORM = {
    "format": lambda value: value == _FORMAT,
    "class_names": (None, [str]),
    "splits": {plain_name: _PREPARED_SPLIT},
    "settings": dict,
}
"""Form of the manifests that `--mode=prepare` goes on with; readers need less."""


def _is_ours(content: Any) -> bool:
    name = content.get("format") if isinstance(content, dict) else None
    return isinstance(name, str) and name.startswith(_OUR_FORMATS)


class Manifest:
    """The manifest of a directory, with its content of the form `_FORM`.

    Attributes:
        directory: Directory of the file.
        class_names: Name of each class, or None without labels.
        paths: Paths of the files of each split.
    """

    def __init__(self, directory: str, content: dict[str, Any]):
        self.directory = directory
        names = content["class_names"]
        self.class_names: tuple[str, ...] | None = None if names is None else tuple(names)
        files = {name: split["files"] for name, split in content["splits"].items() if split["files"]}
        self.paths = {name: [os.path.join(directory, file["name"]) for file in some] for name, some in files.items()}
        self._entries = {
            file["name"]: (file["num_examples"], file["bytes"]) for some in files.values() for file in some
        }

    def __contains__(self, path: str) -> bool:
        return os.path.dirname(path) == self.directory and os.path.basename(path) in self._entries

    def file(self, path: str) -> RecordFile:
        """Returns a file of the manifest; raises UserError if it is missing or has another size."""
        num_examples, num_bytes = self._entries[os.path.basename(path)]
        try:
            found = tf.io.gfile.stat(path).length
        except tf.errors.OpError:
            found = None
        if found != num_bytes:
            what = "is not there" if found is None else f"has {found} bytes instead of {num_bytes}"
            raise UserError(f"{path}: {what}, by the {MANIFEST_FILE} beside it; copy or prepare it again.")
        if num_examples * FRAME_BYTES > num_bytes:
            raise UserError(
                f"{path}: cannot hold {num_examples} records, the number in the {MANIFEST_FILE} beside it; {_FIX}."
            )
        return RecordFile(path, 0, num_examples)


def read_manifest(directory: str) -> Manifest | None:
    """Returns the manifest of a directory; None if it has none, or one of another program.

    Raises:
        UserError: If it is damaged, unreadable or of another format, or if files of the directory are still missing.
    """
    path = os.path.join(directory, MANIFEST_FILE)
    content = read_json(path, fix=_FIX)
    if not _is_ours(content):
        if _is_ours(read_json(os.path.join(directory, UNFINISHED_FILE), fix=_FIX)):
            raise UserError(
                f"{directory or os.curdir}: is not finished; start the same --mode=prepare again, which goes on."
            )
        return None
    if content["format"] != _FORMAT:
        raise UserError(
            f"{path}: is of the format {one_line(content['format'])}, which this program does not know ({_FORMAT}); "
            f"{_FIX}."
        )
    return Manifest(directory, read_json(path, _FORM, fix=_FIX))


class Shard(NamedTuple):
    """One file, and its range in the order of its split: `start` to `stop` - 1."""

    split: str
    name: str
    start: int
    stop: int


def shards_of(name: str, split: Mapping[str, Any]) -> list[Shard]:
    """Returns all files of a split."""
    images, count = split["num_images"], split["num_shards"]
    return [
        Shard(name, f"{name}-{n:05d}-of-{count:05d}.tfrecord", n * images // count, (n + 1) * images // count)
        for n in range(count)
    ]


def new_manifest(
    settings: Mapping[str, Any], class_names: Sequence[str] | None, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """Returns a manifest without files.

    Args:
        settings: Settings that determine the files, as JSON values.
        class_names: Name of each class; None without labels.
        sizes: Number of images and of files, by split.
    """
    splits = {
        name: {"num_examples": 0, "num_unreadable": 0, "num_images": images, "num_shards": files, "files": []}
        for name, (images, files) in sizes.items()
    }
    return {
        "format": _FORMAT,
        "class_names": None if class_names is None else list(class_names),
        "splits": splits,
        "settings": dict(settings),
    }


def differences(begun: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Returns the differences between settings and those of a manifest, in the user's terms."""
    changed = []
    for name, new in settings.items():
        old = begun.get(name)
        if old == new or name == "dataset":  # The name of the data set only locates the images.
            continue
        changed.append(f"other images, of {begun.get('dataset')}" if name == "images" else f"--{name}={old}, not {new}")
    return changed
