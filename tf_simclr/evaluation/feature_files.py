"""Files of features: their formats, and the manifest by which an interrupted output continues."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import UserError, check, public_path
from tf_simclr.files import (
    between,
    delete_leftovers,
    find_json,
    first_line,
    list_names,
    listed,
    plain_name,
    replacing,
    reporting_write_errors,
    save_npz,
    write_json,
)
from tf_simclr.runs.ownership import owning

_REPLACE = "use another name, or replace it with --overwrite=True"
_FLAGS = ("dataset", "split", "endpoint", "shard_size")
_MAX_FILES = 10**6
_COUNT = between(0, 2**53)
_FORM = {
    "contents": {"shard_size": between(1, 2**53), "class_names": (None, [str]), str: object},
    "checkpoint": str,
    "num_images": between(1, 2**53),
    "files": {plain_name: {"num_rows": _COUNT, "num_bytes": _COUNT, "unreadable": [str]}},
}


class Rows(NamedTuple):
    """Content of one file.

    Attributes:
        features: `[n, ...]`.
        labels: `[n]`, -1 for none.
        names: names of the n images.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int32]
    names: Sequence[str]


class Shard(NamedTuple):
    """One file of an output, and its images: `start` to `stop` - 1 of the split."""

    name: str
    start: int
    stop: int


class FeatureFiles:
    """The files of one output, each written whole or not at all, and a manifest beside them.

    One file has the name of the output, several are `features-00000-of-00012.npz`. `features.npz.json` is the
    manifest: it describes the files and lists the finished ones.

    Args:
        output: path; its extension names the format.
        overwrite: whether to replace an output that exists. An unfinished output of the same contents continues.

    Raises:
        UserError: the output is finished already, or another program wrote it.
    """

    def __init__(self, output: str, *, overwrite: bool):
        check("://" not in output, "output", output, "is not a path; write to a local file, then copy it.")
        self._output = output
        self._directory, self._base = os.path.split(os.path.expanduser(output))
        self._stem, self._extension = os.path.splitext(self._base)
        self._overwrite = overwrite
        self._manifest = self._read_manifest()
        check(not os.path.isdir(self._path(self._base)), "output", output, "is a directory; name a file.")
        if self._extension == ".parquet":
            _check_pyarrow(output)
        exists = not self.missing if self._manifest else bool(self._existing())
        check(overwrite or not exists, "output", output, f"exists already; {_REPLACE}.")

    @property
    def num_rows(self) -> int:
        """Rows of all finished files."""
        return sum(entry["num_rows"] for entry in self._manifest["files"].values())

    @property
    def unreadable(self) -> list[str]:
        """Names of the unreadable images of all finished files."""
        return [name for entry in self._manifest["files"].values() for name in entry["unreadable"]]

    @property
    def shards(self) -> list[Shard]:
        """All files of the output."""
        total, size = self._manifest["num_images"], self._manifest["contents"]["shard_size"]
        count = -(-total // size)
        names = [f"{self._stem}-{n:05d}-of-{count:05d}{self._extension}" for n in range(count)]
        return [
            Shard(name, n * size, min((n + 1) * size, total))
            for n, name in enumerate(names if count > 1 else [self._base])
        ]

    @property
    def missing(self) -> list[Shard]:
        """The files that are still to be written."""
        return [shard for shard in self.shards if not self._is_written(shard)]

    @contextlib.contextmanager
    def owning(self, contents: Mapping[str, Any], *, num_images: int, checkpoint: str) -> Iterator[None]:
        """Keeps other processes away; continues unfinished files of the same contents, or begins anew.

        Args:
            contents: everything that determines the files, as JSON: `dataset`, `split`, `endpoint`, `shard_size`,
                `class_names`, and more.
            num_images: number of images in the split.
            checkpoint: path of the network.

        Raises:
            UserError: there are files with other contents, another process writes them, or the directory cannot be
                written.
        """
        with contextlib.ExitStack() as stack:
            fix = "name a file in a directory that you may write to"
            with reporting_write_errors(f"--output={self._output}", fix):
                stack.enter_context(owning(self._path(f"{self._base}.lock"), "output", self._output))
                self._begin(contents, num_images, checkpoint)
            yield

    def _begin(self, contents: Mapping[str, Any], num_images: int, checkpoint: str) -> None:
        begun = self._manifest = self._read_manifest()  # Another process may have written it until now.
        is_same = bool(begun) and begun["contents"] == dict(contents) and bool(self.missing)
        if begun and not is_same and not self._overwrite and self._existing():
            changed = _differences(begun, contents, checkpoint)
            how = f" with {listed(changed)}" if changed else " already"
            raise UserError(f"--output={self._output}: exists{how}; {_REPLACE}.")
        delete_leftovers(self._directory or ".", rf"{self._names}(\.json)?", min_age=0)
        if not is_same:
            self._delete_files()
            start = {"checkpoint": public_path(checkpoint), "num_images": num_images}
            self._manifest = {"contents": dict(contents), **start, "files": {}}
        self._write_manifest()

    def write(self, shard: Shard, rows: Rows, unreadable: Sequence[str]) -> None:
        """Writes one file.

        Args:
            shard: the file.
            rows: rows of the readable images.
            unreadable: names of the others.

        Raises:
            UserError: it cannot be written.
        """
        path = self._path(shard.name)
        try:
            with replacing(path) as temporary:
                _WRITERS[self._extension](temporary, rows, self._manifest["contents"]["class_names"])
            self._manifest["files"][shard.name] = {
                "num_rows": len(rows.names),
                "num_bytes": os.path.getsize(path),
                "unreadable": list(unreadable),
            }
            self._write_manifest()
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"--output={self._output}: cannot write {shard.name} ({first_line(error)}); free some space and "
                "start the same command again: it goes on from there."
            ) from error

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _is_written(self, shard: Shard) -> bool:
        entry = self._manifest["files"].get(shard.name)
        path = self._path(shard.name)
        return entry is not None and os.path.isfile(path) and os.path.getsize(path) == entry["num_bytes"]

    def _read_manifest(self) -> dict[str, Any]:
        """Returns the manifest beside the output; {} if there is none, or another program wrote it."""
        manifest: dict[str, Any] = find_json(self._path(self._manifest_name), _FORM) or {}
        # A damaged one may list files without end.
        is_ours = bool(manifest) and manifest["num_images"] <= _MAX_FILES * manifest["contents"]["shard_size"]
        return manifest if is_ours else {}

    def _write_manifest(self) -> None:
        write_json(self._path(self._manifest_name), self._manifest)

    @property
    def _manifest_name(self) -> str:
        return f"{self._base}.json"

    def _existing(self) -> list[str]:
        """Returns the files that have the names of the output's files, also those of another program."""
        foreign = not self._manifest and os.path.lexists(self._path(self._manifest_name))
        try:
            names = list_names(self._directory or ".")
        except OSError:
            names = []  # Writing reports the error.
        return [name for name in names if re.fullmatch(self._names, name)] + [self._manifest_name] * foreign

    @property
    def _names(self) -> str:
        """Regular expression of the names of the files."""
        return rf"{re.escape(self._stem)}(-\d{{5,}}-of-\d{{5,}})?{re.escape(self._extension)}"

    def _delete_files(self) -> None:
        """Deletes the files of the manifest. Other files may belong to the user, whatever their names."""
        for shard in self.shards if self._manifest else ():
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(shard.name))


def _differences(begun: Mapping[str, Any], contents: Mapping[str, Any], checkpoint: str) -> list[str]:
    changed = []
    for key, new in contents.items():
        old = begun["contents"].get(key)
        if old == new:
            continue
        if key in _FLAGS:
            changed.append(f"--{key}={old}, not {new}")
        elif key == "weights":
            changed.append(f"the weights of {begun['checkpoint']}, not of {checkpoint}")
        else:
            changed.append(f"other {key.replace('_', ' ')}")
    return changed


def _write_npz(path: str, rows: Rows, class_names: Sequence[str] | None) -> None:
    arrays = {"features": rows.features, "labels": rows.labels, "names": np.array(rows.names, np.str_)}
    if class_names is not None:
        arrays["class_names"] = np.array(class_names, np.str_)
    save_npz(path, arrays)


def _write_parquet(path: str, rows: Rows, class_names: Sequence[str] | None) -> None:
    import pyarrow
    import pyarrow.parquet

    shape = rows.features.shape[1:]
    metadata = {"shape": json.dumps(shape)}
    if class_names is not None:
        metadata["class_names"] = json.dumps(class_names)
    lists = pyarrow.FixedSizeListArray.from_arrays(rows.features.ravel(), math.prod(shape))
    columns = {"features": lists, "labels": rows.labels, "names": pyarrow.array(rows.names, pyarrow.string())}
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path, use_dictionary=False)


def _write_tfrecord(path: str, rows: Rows, class_names: Sequence[str] | None) -> None:
    del class_names  # The manifest has them.
    shape = tf.train.Feature(int64_list=tf.train.Int64List(value=rows.features.shape[1:]))
    with tf.io.TFRecordWriter(path) as writer:
        for features, label, name in zip(*rows, strict=True):
            values = {
                "features": tf.train.Feature(float_list=tf.train.FloatList(value=features.ravel())),
                "shape": shape,
                "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "names": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=values))
            writer.write(example.SerializeToString(deterministic=True))


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".tfrecord": _write_tfrecord}


def _check_pyarrow(output: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--output={output}: needs pyarrow ({first_line(error)}); install it, or write .npz or .tfrecord."
        ) from error
