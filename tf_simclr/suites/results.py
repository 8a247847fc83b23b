"""Evaluation of a network on one data set after the other: results that later starts continue, and a table."""

import contextlib
import gc
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.files import (
    delete_leftovers,
    first_line,
    listed,
    read_json,
    reporting_write_errors,
    to_json,
    write_text,
)
from tf_simclr.metrics.scores import scores_form
from tf_simclr.runs.ownership import owning
from tf_simclr.suites.tables import MakeTable, markdown_table
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.terminal.memory import lacks_memory, reason_of

Result = dict[str, Any]
_LOG = logging.getLogger("tf_simclr")
_ENTRIES = {str: {"settings": {"metric?": str, str: object}} | scores_form()}


class SuiteResults:
    """A file of JSON with the result of each data set and the settings that it depends on.

    Args:
        path: of the file, which later starts continue.
        flag: the flag that names another place, for messages.
        overwrite: whether to replace results with other settings. Results with the same settings stay.

    Attributes:
        entries: each result with its `settings`, by its key.

    Raises:
        UserError: the file is damaged, or its directory cannot be made.
    """

    def __init__(self, path: str, flag: str, *, overwrite: bool = False):
        self.path = path
        self._fix = f"name another place with --{flag}"
        self._overwrite = overwrite
        with reporting_write_errors(path, self._fix):
            tf.io.gfile.makedirs(os.path.dirname(path) or ".")
        self.entries = read_entries(path, fix=f"delete it, or {self._fix}")

    def find(self, key: str, settings: Mapping[str, Any]) -> Result | None:
        """Returns the result with these settings; None if it has to be computed.

        Raises:
            UserError: there is one with other settings that must not be replaced.
        """
        entry = self.entries.get(key)
        if entry is None:
            return None
        old, new = entry["settings"], json.loads(to_json(settings))
        changed = [
            f"{name}: {old.get(name)} there, {new.get(name)} now"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        if changed and not self._overwrite:
            raise UserError(
                f"{self.path}: has a result of {key} with other settings ({listed(changed)}); replace it with "
                f"--overwrite=True, or {self._fix}."
            )
        return None if changed else {name: value for name, value in entry.items() if name != "settings"}

    def add(self, key: str, result: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Writes a result, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        self.entries[key] = dict(result) | {"settings": dict(settings)}
        self._write(self.path, to_json(self.entries))

    def write_table(self, lines: Iterable[str]) -> None:
        """Writes the lines of a table beside the results, under the same name with `.md`; raises like `add`."""
        self._write(f"{os.path.splitext(self.path)[0]}.md", "\n".join([*lines, ""]))

    def _write(self, path: str, text: str) -> None:
        with reporting_write_errors(path, f"free some space, or {self._fix}"):
            write_text(path, text)


def read_entries(path: str, *, fix: str = "delete it") -> dict[str, Result]:
    """Returns each result with its `settings`; {} if there is no such file.

    Args:
        path: path of the file.
        fix: remedy for a damaged file, for the message.

    Raises:
        DamagedFileError: the file is damaged, or holds something else.
    """
    return read_json(path, _ENTRIES, fix=fix) or {}


@contextlib.contextmanager
def owning_results(path: str, flag: str, *, overwrite: bool = False) -> Iterator[SuiteResults]:
    """Yields the results of a suite, and keeps other processes away; see `SuiteResults`.

    Raises:
        UserError: another process computes them, or they cannot be read or written.
    """
    directory, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        with reporting_write_errors(path, f"name another place with --{flag}"):
            stack.enter_context(owning(f"{path}.lock", flag, path))
            delete_leftovers(directory or ".", rf"{re.escape(os.path.splitext(name)[0])}\.(json|md)", min_age=0)
        yield SuiteResults(path, flag, overwrite=overwrite)


def run_suite(
    results: SuiteResults,
    settings: Mapping[str, Mapping[str, Any]],
    compute: Callable[[str], Result],
    make_table: MakeTable,
    *,
    prefix: str = "",
    left_out: Iterable[str] = (),
) -> dict[str, Result | None]:
    """Computes the missing results, one data set after the other; prints and writes the table of all.

    Args:
        results: the file, which stores a result under the name of its data set.
        settings: the settings that each result depends on, by the name of its data set.
        compute: takes the name of a data set, returns its result.
        make_table: makes the table.
        prefix: prefix of the names in the file.
        left_out: data sets that have a row in the table and are not computed.

    Returns:
        The result of each data set.

    Raises:
        UserError: there is a result with other settings, the file cannot be written, or, at the end, a data set
            has no result. A line says why, and the others are computed.
    """
    skipped = set(left_out)
    found = {name: results.find(prefix + name, own) for name, own in settings.items() if name not in skipped}
    with interrupts_tell(lambda: _what_is_kept(results.path, found)):
        for number, name in enumerate(found, start=1):
            _LOG.info("[%d/%d] %s%s", number, len(found), name, ": there already" if found[name] else "")
            if found[name] is None:
                found[name] = _compute(name, compute)
                if computed := found[name]:
                    results.add(prefix + name, computed, settings[name])
    blank = {prefix + name: {"settings": own} for name, own in settings.items()}
    lines = markdown_table(*make_table(blank | results.entries))
    results.write_table(lines)
    for line in [*lines, f"Results: {results.path}"]:
        _LOG.info("%s", line)
    if missing := [name for name, result in found.items() if result is None]:
        raise UserError(
            f"--datasets: {len(missing)} of {len(found)} data sets have no result ({', '.join(missing)}); the lines "
            "above say why. The same command computes what is missing."
        )
    return found


def _what_is_kept(path: str, found: Mapping[str, Any]) -> str | None:
    return f"the results so far are in {path}; the same command computes the others" if any(found.values()) else None


def _compute(name: str, compute: Callable[[str], Result]) -> Result | None:
    """Returns the result of a data set; None, and a line, if it cannot be computed."""
    try:
        return compute(name)
    except (UserError, MemoryError, tf.errors.OpError) as error:
        _LOG.info("%s is left out: %s", name, _reason(error))
        return None
    finally:
        gc.collect()  # Networks refer to themselves. Earlier ones would fill the memory of the device.


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if lacks_memory(error):
        fix = "use a smaller --eval_batch_size, or --train_batch_size to finetune."
        return f"out of memory ({reason_of(error)}); {fix}"
    return f"{type(error).__name__}: {first_line(error)}"
