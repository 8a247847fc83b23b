"""Writer of record files and their manifest, which lets an interrupted conversion resume."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_simclr.config import UserError, check
from tf_simclr.data.manifest import PREPARED_FORM, Shard, differences, new_manifest, shards_of
from tf_simclr.files import (
    TEMPORARY,
    delete_leftovers,
    find_json,
    first_line,
    listed,
    printable,
    replacing,
    write_json,
    write_text,
)
from tf_simclr.runs.ownership import LOCK, owning

MANIFEST = "manifest.json"
UNREADABLE = "unreadable.txt"
# The manifest of unfinished output.
_UNFINISHED = "unfinished.json"
_RECORDS = r"\w+-\d{5,}-of-\d{5,}\.tfrecord"
_OUR_NAMES = rf"{_RECORDS}|{re.escape(MANIFEST)}|{re.escape(_UNFINISHED)}|{re.escape(UNREADABLE)}"
_FIX = "use another directory, or start again with --overwrite=True"


class Row(NamedTuple):
    """One image of a file.

    Attributes:
        name: name of the image.
        label: number of its class; negative for none.
        image: encoded image.
        problem: reason if it is unreadable, else empty.
    """

    name: str
    label: int
    image: bytes
    problem: str


class PreparedFiles:
    """The record files of one directory, each written whole or not at all, and their manifest, written last.

    A record is a `tf.train.Example` with `image` (encoded), `file_name` and, if there are labels, `label`.

    Args:
        output: the directory.
        overwrite: whether to start again and delete this program's earlier output there, finished or not.

    Raises:
        UserError: if the directory contains anything else.
    """

    def __init__(self, output: str, *, overwrite: bool):
        check("://" not in output, "output", output, "is not a path; write to a local directory, then copy it.")
        self._output = output
        self.directory = os.path.abspath(os.path.expanduser(output))
        self._overwrite = overwrite
        self._has_overwritten = False
        self._manifest = self._read_manifest()
        if not self._manifest and self._foreign_names():
            raise UserError(
                f"--output={output}: holds files that were not prepared here ({listed(self._foreign_names())}); "
                "name a new or an empty directory."
            )

    @property
    def splits(self) -> Mapping[str, Mapping[str, Any]]:
        """The manifest's entry of each split."""
        return self._manifest["splits"]

    @property
    def is_finished(self) -> bool:
        """Whether all files are written and still there."""
        return os.path.isfile(self._path(MANIFEST)) and not self.missing

    @property
    def missing(self) -> list[Shard]:
        """The files that are still to be written."""
        entries = [entry for split in self.splits.values() for entry in split["files"]]
        sizes = {entry["name"]: entry["bytes"] for entry in entries}
        return [shard for shard in self.shards if self._size(shard.name) != sizes.get(shard.name, -1)]

    @property
    def shards(self) -> list[Shard]:
        """All files."""
        return [shard for name, split in self.splits.items() for shard in shards_of(name, split)]

    @property
    def how_to_go_on(self) -> str:
        """Advice after an interruption, for a message."""
        without = " without --overwrite" if self._has_overwritten else ""
        return f"start the same command again{without}: it goes on from there"

    @property
    def what_is_written(self) -> str | None:
        """The state after an interruption and how to resume; None if there is nothing to resume."""
        if not self._manifest or self._overwrite != self._has_overwritten:
            return None
        num_written = len(self.shards) - len(self.missing)
        return f"{num_written} of {len(self.shards)} files are written; {self.how_to_go_on}"

    def unreadable(self, split: str) -> dict[str, str]:
        """Returns the problem of each unreadable image of the finished files, by name."""
        return {name: problem for entry in self.splits[split]["files"] for name, problem in entry["unreadable"].items()}

    def goes_on(self, settings: Mapping[str, Any]) -> bool:
        """Returns whether the existing output has the same settings and is kept.

        Args:
            settings: settings that determine the files, as JSON values.

        Raises:
            UserError: if it has other settings and must not be overwritten.
        """
        if not self._manifest or self._overwrite:
            return False
        if changed := differences(self._manifest["settings"], settings):
            raise UserError(f"--output={self._output}: was prepared with {listed(changed)}; {_FIX}.")
        return True

    @contextlib.contextmanager
    def owning(self) -> Iterator[None]:
        """Locks the directory, and reads again what other processes may have written.

        Raises:
            UserError: if another process writes there, or the directory cannot be written.
        """
        with contextlib.ExitStack() as stack:
            with self._report_unwritable():
                stack.enter_context(owning(self._path(LOCK), "output", self._output))
                delete_leftovers(self.directory, _OUR_NAMES, min_age=0)
            self._manifest = self._read_manifest()
            yield

    def begin(
        self,
        settings: Mapping[str, Any],
        class_names: Sequence[str] | None,
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        """Starts new output; the directory must be locked.

        Args:
            settings: see `goes_on`.
            class_names: name of each class; None without labels.
            sizes: number of images and of files, by split.

        Raises:
            UserError: if the directory cannot be written.
        """
        with self._report_unwritable():
            self._take_up()
            self._delete_files()
            self._has_overwritten = self._overwrite
            self._manifest = new_manifest(settings, class_names, sizes)
            self._write_manifest()

    def go_on(self) -> None:
        """Resumes existing output, which becomes unfinished; the directory must be locked.

        Raises:
            UserError: if the directory cannot be written.
        """
        with self._report_unwritable():
            self._take_up()
            lost = {shard.name for shard in self.missing}
            for split in self.splits:
                self._keep(split, [entry for entry in self.splits[split]["files"] if entry["name"] not in lost])
            self._write_manifest()

    def write(self, shard: Shard, rows: Iterable[Row]) -> None:
        """Writes one file.

        Args:
            shard: the file.
            rows: its images.

        Raises:
            UserError: if it cannot be written.
        """
        unreadable, count = {}, 0
        try:
            with replacing(self._path(shard.name)) as temporary:
                with tf.io.TFRecordWriter(temporary) as writer:
                    for row in rows:
                        if row.problem:
                            unreadable[row.name] = row.problem
                        else:
                            writer.write(_record(row))
                            count += 1
                entry = {
                    "name": shard.name,
                    "num_examples": count,
                    "bytes": os.path.getsize(temporary),
                    "sha256": _sha256(temporary),
                    "unreadable": unreadable,
                }
            self._keep(shard.split, [*self.splits[shard.split]["files"], entry])
            self._write_manifest()
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"--output={self._output}: cannot write {shard.name} ({first_line(error)}); free some space and "
                f"{self.how_to_go_on}."
            ) from error

    def finish(self) -> None:
        """Lists the unreadable images, then gives the manifest its name.

        Raises:
            UserError: if they cannot be written.
        """
        try:
            self._write_unreadable()
            os.replace(self._path(_UNFINISHED), self._path(MANIFEST))
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"--output={self._output}: cannot write {MANIFEST} ({first_line(error)}); free some space and "
                f"{self.how_to_go_on}."
            ) from error

    @contextlib.contextmanager
    def _report_unwritable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"--output={self._output}: cannot be written ({first_line(error)}); name a directory that you may "
                "write to."
            ) from error

    def _keep(self, split: str, entries: Sequence[Mapping[str, Any]]) -> None:
        content = self._manifest["splits"][split]
        content["files"] = sorted(entries, key=lambda entry: entry["name"])
        content["num_examples"] = sum(entry["num_examples"] for entry in entries)
        content["num_unreadable"] = sum(len(entry["unreadable"]) for entry in entries)

    def _take_up(self) -> None:
        """Renames the manifest to that of unfinished output."""
        if os.path.lexists(self._path(MANIFEST)):
            os.replace(self._path(MANIFEST), self._path(_UNFINISHED))

    def _delete_files(self) -> None:
        """Deletes only the files of the manifest; others may belong to somebody else, whatever their names."""
        if not self._manifest:
            return
        entries = [entry for split in self.splits.values() for entry in split["files"]]
        names = [entry["name"] for entry in entries if re.fullmatch(_RECORDS, entry["name"])]
        for name in [*names, UNREADABLE]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(name))

    def _write_unreadable(self) -> None:
        lines = [
            f"{printable(name)}\t{printable(problem)}\n"
            for split in self.splits
            for name, problem in self.unreadable(split).items()
        ]
        path = self._path(UNREADABLE)
        if not lines:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            return
        write_text(path, "".join(lines))

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _size(self, name: str) -> int | None:
        path = self._path(name)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def _foreign_names(self) -> list[str]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"--output={self._output}: cannot be read ({error.strerror}); name another directory."
            ) from error
        ours = rf"(?:{_OUR_NAMES}){TEMPORARY}|{re.escape(LOCK)}"
        return sorted(name for name in names if not re.fullmatch(ours, name))

    def _read_manifest(self) -> dict[str, Any]:
        """Returns the manifest, finished or not; {} if there is none, or one of another program."""
        for name in (MANIFEST, _UNFINISHED):
            if manifest := find_json(self._path(name), PREPARED_FORM):
                return manifest
        return {}

    def _write_manifest(self) -> None:
        write_json(self._path(_UNFINISHED), self._manifest)


def _record(row: Row) -> bytes:
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.image])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.name.encode()])),
    }
    if row.label >= 0:
        feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[row.label]))
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def _sha256(path: str) -> str:
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()
