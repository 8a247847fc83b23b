"""What `--mode=prepare` says of the record files that it has written: `manifest.json` beside them."""

import json
import os
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.data.record_files import RecordFile

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "tf_simclr-prepared-1"


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
    """Returns the manifest of a directory; None where there is none.

    Raises:
        UserError: It is damaged, or of another format.
    """
    path = os.path.join(directory, MANIFEST_FILE)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            content = json.loads(file.read())
        if content["format"] != MANIFEST_FORMAT:
            raise UserError(
                f"{path}: is of the format {content['format']}, which this program does not know "
                f"({MANIFEST_FORMAT}); prepare the data again, or remove the file to count the records."
            )
        return Manifest(directory, content)
    except (tf.errors.OpError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {error}); prepare the data again, or remove the file to "
            "count the records."
        ) from error
