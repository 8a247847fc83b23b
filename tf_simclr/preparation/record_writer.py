"""Writer of record files and their manifest, which lets an interrupted conversion resume."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_simclr.config import UserError, check
from tf_simclr.data.manifest import (
    MANIFEST_FILE,
    PREPARED_FORM,
    UNFINISHED_FILE,
    UNREADABLE_FILE,
    Shard,
    differences,
    new_manifest,
    shards_of,
)
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

_RECORDS = r"\w+-\d{5,}-of-\d{5,}\.tfrecord"
_OUR_NAMES = "|".join([_RECORDS, *map(re.escape, (MANIFEST_FILE, UNFINISHED_FILE, UNREADABLE_FILE))])


class Row(NamedTuple):
    """One image of a file.

    Attributes:
        name: Name of the image.
        label: Number of its class; negative for none.
        image: Encoded image.
        problem: Reason if it is unreadable, else empty.
    """

    name: str
    label: int
    image: bytes
    problem: str


class PreparedFiles:
    """The record files of one directory, each written whole or not at all, and their manifest, written last.

    A record is a `tf.train.Example` with `image` (encoded), `file_name` and, if there are labels, `label`.

    All methods raise UserError if the directory cannot be read or written.

    Args:
        output: The directory.
        overwrite: Whether to start again and delete this program's earlier output there, finished or not.

    Raises:
        UserError: If the directory contains anything else.
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
        splits: dict[str, dict[str, Any]] = self._manifest["splits"]
        return splits

    @property
    def is_finished(self) -> bool:
        """Whether all files are written and still there."""
        return os.path.isfile(self._path(MANIFEST_FILE)) and not self.missing

    @property
    def missing(self) -> list[Shard]:
        """The files that are still to be written."""
        sizes = {entry["name"]: entry["bytes"] for entry in self._entries}
        return [shard for shard in self.shards if self._size(shard.name) != sizes.get(shard.name, -1)]

    @property
    def shards(self) -> list[Shard]:
        """All files."""
        return [shard for name, split in self.splits.items() for shard in shards_of(name, split)]

    @property
    def _entries(self) -> list[Mapping[str, Any]]:
        return [entry for split in self.splits.values() for entry in split["files"]]

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
        """Returns whether the existing output has the same settings, JSON values, and is kept.

        Raises:
            UserError: If it has other settings and must not be overwritten.
        """
        if not self._manifest or self._overwrite:
            return False
        if changed := differences(self._manifest["settings"], settings):
            raise UserError(
                f"--output={self._output}: was prepared with {listed(changed)}; use another directory, or start again "
                "with --overwrite=True."
            )
        return True

    @contextlib.contextmanager
    def owning(self) -> Iterator[None]:
        """Locks the directory, and reads again what other processes may have written.

        Raises:
            UserError: If another process writes there.
        """
        with contextlib.ExitStack() as stack:
            with self._report_unwritable():
                stack.enter_context(owning(self._path(LOCK), "output", self._output))
                delete_leftovers(self.directory, _OUR_NAMES, min_age=0)
            self._manifest = self._read_manifest()
            yield

    def begin(
        self, settings: Mapping[str, Any], class_names: Sequence[str] | None, sizes: Mapping[str, tuple[int, int]]
    ) -> None:
        """Starts new output; the directory must be locked. See `new_manifest` for the arguments."""
        with self._report_unwritable():
            self._take_up()
            self._delete_files()
            self._has_overwritten = self._overwrite
            self._manifest = new_manifest(settings, class_names, sizes)
            self._write_manifest()

    def go_on(self) -> None:
        """Resumes existing output, which becomes unfinished; the directory must be locked."""
        with self._report_unwritable():
            self._take_up()
            lost = {shard.name for shard in self.missing}
            for split in self.splits:
                self._keep(split, [entry for entry in self.splits[split]["files"] if entry["name"] not in lost])
            self._write_manifest()

    def write(self, shard: Shard, rows: Iterable[Row]) -> None:
        """Writes one file of some images."""
        unreadable, count = {}, 0
        with self._report_unwritable(shard.name), replacing(self._path(shard.name)) as temporary:
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
        with self._report_unwritable(shard.name):
            self._keep(shard.split, [*self.splits[shard.split]["files"], entry])
            self._write_manifest()

    def finish(self) -> None:
        """Lists the unreadable images, then gives the manifest its name."""
        with self._report_unwritable(MANIFEST_FILE):
            self._write_unreadable()
            os.replace(self._path(UNFINISHED_FILE), self._path(MANIFEST_FILE))

    @contextlib.contextmanager
    def _report_unwritable(self, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if name is None:
                what, fix = "cannot be written", "name a directory that you may write to"
            else:
                what, fix = f"cannot write {name}", f"free some space and {self.how_to_go_on}"
            raise UserError(f"--output={self._output}: {what} ({first_line(error)}); {fix}.") from error

    def _keep(self, split: str, entries: Sequence[Mapping[str, Any]]) -> None:
        content = self._manifest["splits"][split]
        content["files"] = sorted(entries, key=lambda entry: entry["name"])
        content["num_examples"] = sum(entry["num_examples"] for entry in entries)
        content["num_unreadable"] = sum(len(entry["unreadable"]) for entry in entries)

    def _take_up(self) -> None:
        """Renames the manifest to that of unfinished output."""
        if os.path.lexists(self._path(MANIFEST_FILE)):
            os.replace(self._path(MANIFEST_FILE), self._path(UNFINISHED_FILE))

    def _delete_files(self) -> None:
        """Deletes only the files of the manifest; others may belong to somebody else, whatever their names."""
        if not self._manifest:
            return
        names = [entry["name"] for entry in self._entries if re.fullmatch(_RECORDS, entry["name"])]
        for name in [*names, UNREADABLE_FILE]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(name))

    def _write_unreadable(self) -> None:
        lines = [
            f"{printable(name)}\t{printable(problem)}\n"
            for split in self.splits
            for name, problem in self.unreadable(split).items()
        ]
        if lines:
            write_text(self._path(UNREADABLE_FILE), "".join(lines))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(UNREADABLE_FILE))

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
        found = (find_json(self._path(name), PREPARED_FORM) for name in (MANIFEST_FILE, UNFINISHED_FILE))
        return next(filter(None, found), {})

    def _write_manifest(self) -> None:
        write_json(self._path(UNFINISHED_FILE), self._manifest)


def _record(row: Row) -> bytes:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {"image": of_bytes(row.image), "file_name": of_bytes(row.name.encode())}
    if row.label >= 0:
        feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[row.label]))
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return bytes(example.SerializeToString(deterministic=True))


def _sha256(path: str) -> str:
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()
