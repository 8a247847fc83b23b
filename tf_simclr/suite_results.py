"""The results of one data set after the other: a file that later starts go on with, and a table."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.mismatch import listed
from tf_simclr.run_directory import first_line, read_json, to_json, write_text

_LOG = logging.getLogger("tf_simclr")


class SuiteResults:
    """A file of JSON with the result of each data set, and the settings that it was computed with.

    Args:
        path: of the file, which later starts go on with.
        flag: that names another place, for messages.
        overwrite: whether results that are there are computed again.

    Raises:
        UserError: the file is no such one, or its directory cannot be made.
    """

    def __init__(self, path: str, flag: str, *, overwrite: bool = False):
        self.path = path
        self._mend = f"name another place with --{flag}"
        self._overwrite = overwrite
        self._entries: dict[str, dict] = {}
        try:
            tf.io.gfile.makedirs(os.path.dirname(path) or ".")
            is_there = tf.io.gfile.exists(path)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(f"{path}: cannot be written ({first_line(error)}); {self._mend}.") from error
        if is_there:
            self._entries = self._read()

    def _read(self) -> dict[str, dict]:
        entries = read_json(self.path)
        is_ours = isinstance(entries, dict) and all(
            isinstance(entry, dict) and "settings" in entry for entry in entries.values()
        )
        if not is_ours:
            raise UserError(f"{self.path}: damaged, or no file of such results; delete it, or {self._mend}.")
        return entries

    def find(self, key: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the result that was computed with these settings; None where it has to be computed.

        Raises:
            UserError: there is one with other settings.
        """
        entry = self._entries.get(key)
        if entry is None or self._overwrite:
            return None
        old, new = entry["settings"], json.loads(to_json(settings))
        changed = [
            f"{name}: {old.get(name)} there, {new.get(name)} now"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise UserError(
                f"{self.path}: has a result of {key} with other settings ({listed(changed)}); replace it with "
                f"--overwrite=True, or {self._mend}."
            )
        return {name: value for name, value in entry.items() if name != "settings"}

    def add(self, key: str, result: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Writes a result, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        self._entries[key] = dict(result) | {"settings": dict(settings)}
        self._write(self.path, to_json(self._entries))

    def write_table(self, lines: Sequence[str], name: str = "") -> None:
        """Writes a table beside the results, under the same name with `.md`.

        Args:
            lines: of the table.
            name: of the table, where there are several of the same results; it is added to that of the file.

        Raises:
            UserError: the file cannot be written.
        """
        ending = f"_{name}.md" if name else ".md"
        self._write(os.path.splitext(self.path)[0] + ending, "\n".join([*lines, ""]))

    def _write(self, path: str, text: str) -> None:
        try:
            write_text(path, text)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"{path}: cannot be written ({first_line(error)}); free some space, or {self._mend}."
            ) from error


def run_suite(
    results: SuiteResults,
    settings: Mapping[str, Mapping[str, Any]],
    compute: Callable[[str], dict[str, Any]],
    *,
    key: Callable[[str], str] = str,
) -> dict[str, dict[str, Any] | None]:
    """Computes what is missing of the results, one data set after the other.

    Args:
        results: the file.
        settings: of each data set by its name, in the order to work them off.
        compute: takes the name of a data set, returns its result.
        key: takes the name of a data set, returns what its result is filed under.

    Returns:
        The result of each data set, None where it cannot be computed: a line says why, and the others go on.

    Raises:
        UserError: there is a result with other settings, or the file cannot be written.
    """
    found = {name: results.find(key(name), own) for name, own in settings.items()}
    for number, name in enumerate(found, start=1):
        _LOG.info("[%d/%d] %s%s", number, len(found), name, ": there already" if found[name] else "")
        if found[name] is not None:
            continue
        try:
            computed = compute(name)
        except UserError as error:
            _LOG.info("%s is left out: %s", name, error)
            continue
        results.add(key(name), computed, settings[name])
        found[name] = computed
    return found


def finish_suite(
    results: SuiteResults, header: Sequence[str], rows: Mapping[str, Sequence[str] | None], *, name: str = ""
) -> None:
    """Prints and writes the table of a suite.

    Args:
        results: the file.
        header: of the columns; the first one holds the names of the data sets.
        rows: the other cells of each data set; None where there is no result.
        name: of the table, where there are several of the same results.

    Raises:
        UserError: there are data sets without a result.
    """
    blank = ["-"] * (len(header) - 1)
    table = markdown_table(header, [[dataset, *(cells or blank)] for dataset, cells in rows.items()])
    results.write_table(table, name)
    for line in table:
        _LOG.info("%s", line)
    _LOG.info("Results: %s", results.path)
    missing = [dataset for dataset, cells in rows.items() if cells is None]
    if missing:
        raise UserError(
            f"--datasets: {len(missing)} of {len(rows)} data sets have no result ({', '.join(missing)}); the lines "
            "above say why. The same command computes what is missing."
        )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in Markdown; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if not number else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    return [line(header), line(rule), *map(line, rows)]
