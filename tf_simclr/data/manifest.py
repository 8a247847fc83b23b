"""What `--mode=prepare` says of the record files that it has written: `manifest.json` beside them."""

import json
import os
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.data.record_files import RecordFile

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "tf_simclr-prepared-1"
# The manifest while files are missing, and the list of images that were left out.
UNFINISHED_FILE, UNREADABLE_FILE = "unfinished.json", "unreadable.txt"
# With it all formats of this program begin: other programs write files of the same name.
_OUR_FORMATS = "tf_simclr-prepared"


class Manifest:
    """The manifest of a directory.

    Args:
        directory: That it lies in.
        content: What stands in it.

    Attributes:
        directory: See above.
        class_names: Name of each class, or None without labels.
        paths: Of the files of each split.
    """

    def __init__(self, directory: str, content: dict[str, Any]):
        self.directory = directory
        self.class_names: tuple[str, ...] | None = None
        if content["class_names"] is not None:
            self.class_names = tuple(map(str, content["class_names"]))
        self.paths = {
            name: [os.path.join(directory, file["name"]) for file in split["files"]]
            for name, split in content["splits"].items()
            if split["files"]
        }
        entries = [file for split in content["splits"].values() for file in split["files"]]
        self._entries = {file["name"]: (int(file["num_examples"]), int(file["bytes"])) for file in entries}

    def __contains__(self, path: str) -> bool:
        return os.path.dirname(path) == self.directory and os.path.basename(path) in self._entries

    def file(self, path: str) -> RecordFile:
        """Returns a file that stands in the manifest.

        Raises:
            UserError: It is not there, or of another size.
        """
        num_examples, num_bytes = self._entries[os.path.basename(path)]
        try:
            found = tf.io.gfile.stat(path).length
        except tf.errors.OpError:
            found = None
        if found != num_bytes:
            what = "is not there" if found is None else f"has {found} bytes instead of {num_bytes}"
            raise UserError(f"{path}: {what}, by the {MANIFEST_FILE} beside it; copy or prepare it again.")
        return RecordFile(path, 0, num_examples)


def read_manifest(directory: str) -> Manifest | None:
    """Returns the manifest of a directory; None where there is none, or one of another program.

    Raises:
        UserError: It is damaged, of another format, or cannot be read; or files of the directory are still missing.
    """
    path = os.path.join(directory, MANIFEST_FILE)
    content = _read(path)
    if content is None:
        if _read(os.path.join(directory, UNFINISHED_FILE)) is not None:
            raise UserError(
                f"{directory or os.curdir}: is not finished; start the same --mode=prepare again, which goes on."
            )
        return None
    if content["format"] != MANIFEST_FORMAT:
        raise UserError(
            f"{path}: is of the format {content['format']}, which this program does not know "
            f"({MANIFEST_FORMAT}); prepare the data again, or remove the file to count the records."
        )
    try:
        return Manifest(directory, content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _read(path: str) -> dict[str, Any] | None:
    """Returns what a file of this program holds; None where there is none, or one of another program."""
    try:
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path) as file:
            content = json.loads(file.read())
    except tf.errors.OpError as error:
        raise UserError(
            f"{path}: cannot be read, or looked for ({error.message}); name files in a folder that you may read."
        ) from error
    except ValueError as error:
        raise _damaged(path, error) from error
    is_ours = isinstance(content, dict) and str(content.get("format")).startswith(_OUR_FORMATS)
    return content if is_ours else None


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(
        f"{path}: is damaged ({type(error).__name__}: {error}); prepare the data again, or remove the file to "
        "count the records."
    )
