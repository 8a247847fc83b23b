"""The results of one data set after the other: a file that later starts go on with, and a table."""

import contextlib
import gc
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.files import delete_leftovers, first_line, listed, read_json, to_json, write_text
from tf_simclr.metrics.scores import scores_form
from tf_simclr.runs.ownership import owning
from tf_simclr.suites.tables import Table, markdown_table
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.terminal.memory import lacks_memory, reason_of

_LOG = logging.getLogger("tf_simclr")
_ENTRIES = {str: {"settings": {"metric?": str, str: object}} | scores_form()}


@contextlib.contextmanager
def owning_results(path: str, flag: str, *, overwrite: bool = False) -> Iterator["SuiteResults"]:
    """Yields the results of a suite, and keeps other processes away, each of which would lose those of the other.

    Args:
        path: see `SuiteResults`, as for the others.
        flag: that names another place.
        overwrite: whether results with other settings are replaced.

    Raises:
        UserError: another process computes them, or see `SuiteResults`.
    """
    directory, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(owning(f"{path}.lock", flag, path))
            delete_leftovers(directory or ".", rf"{re.escape(os.path.splitext(name)[0])}\.(json|md)", min_age=0)
        except (tf.errors.OpError, OSError) as error:
            raise _unwritable(path, flag, error) from error
        yield SuiteResults(path, flag, overwrite=overwrite)


def _unwritable(path: str, flag: str, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written ({first_line(error)}); name another place with --{flag}.")


class SuiteResults:
    """A file of JSON with the result of each data set, and the settings that it was computed with.

    Args:
        path: of the file, which later starts go on with.
        flag: that names another place, for messages.
        overwrite: whether results with other settings are replaced. Those with the same stay, so that a start that
            was stopped goes on.

    Attributes:
        entries: each result with its `settings`, by what it is filed under.

    Raises:
        UserError: the file is no such one, or its directory cannot be made.
    """

    def __init__(self, path: str, flag: str, *, overwrite: bool = False):
        self.path = path
        self._fix = f"name another place with --{flag}"
        self._overwrite = overwrite
        try:
            tf.io.gfile.makedirs(os.path.dirname(path) or ".")
        except (tf.errors.OpError, OSError) as error:
            raise _unwritable(path, flag, error) from error
        self.entries = read_entries(path, fix=f"delete it, or {self._fix}")

    def find(self, key: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the result that was computed with these settings; None where it has to be computed.

        Raises:
            UserError: there is one with other settings, which is not to be replaced.
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
        if changed and self._overwrite:
            return None
        if changed:
            raise UserError(
                f"{self.path}: has a result of {key} with other settings ({listed(changed)}); replace it with "
                f"--overwrite=True, or {self._fix}."
            )
        return {name: value for name, value in entry.items() if name != "settings"}

    def add(self, key: str, result: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Writes a result, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        self.entries[key] = dict(result) | {"settings": dict(settings)}
        self._write(self.path, to_json(self.entries))

    def write_table(self, lines: Sequence[str]) -> None:
        """Writes the lines of a table beside the results, under the same name with `.md`.

        Raises:
            UserError: the file cannot be written.
        """
        self._write(f"{os.path.splitext(self.path)[0]}.md", "\n".join([*lines, ""]))

    def _write(self, path: str, text: str) -> None:
        try:
            write_text(path, text)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"{path}: cannot be written ({first_line(error)}); free some space, or {self._fix}."
            ) from error


def read_entries(path: str, *, fix: str = "delete it") -> dict[str, dict]:
    """Returns each result with its `settings`; {} if there is no such file.

    Args:
        path: Of the file.
        fix: What to do about a damaged one, for the message.

    Raises:
        DamagedFileError: It is damaged, or holds something else.
    """
    return read_json(path, _ENTRIES, fix=fix) or {}


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
    with interrupts_tell(lambda: _what_is_kept(results, found)):
        for number, name in enumerate(found, start=1):
            _LOG.info("[%d/%d] %s%s", number, len(found), name, ": there already" if found[name] else "")
            if found[name] is not None:
                continue
            try:
                computed = compute(name)
            except (UserError, MemoryError, tf.errors.OpError) as error:
                _LOG.info("%s is left out: %s", name, _reason(error))
                continue
            finally:
                gc.collect()  # Networks refer to themselves: else the memory of the device is full of earlier ones.
            results.add(key(name), computed, settings[name])
            found[name] = computed
    return found


def _what_is_kept(results: SuiteResults, found: Mapping[str, Any]) -> str | None:
    if not any(found.values()):
        return None
    return f"the results so far are in {results.path}; the same command computes the others"


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if lacks_memory(error):
        fix = "use a smaller --eval_batch_size, or --train_batch_size to finetune."
        return f"out of memory ({reason_of(error)}); {fix}"
    return f"{type(error).__name__}: {first_line(error)}"


def finish_suite(results: SuiteResults, table: Table, found: Mapping[str, Any]) -> None:
    """Prints and writes the table of a suite.

    Args:
        results: the file.
        table: of what it holds.
        found: the result of each data set that was asked for; None where there is none.

    Raises:
        UserError: there are data sets without a result.
    """
    lines = markdown_table(*table)
    results.write_table(lines)
    for line in lines:
        _LOG.info("%s", line)
    _LOG.info("Results: %s", results.path)
    missing = [dataset for dataset, result in found.items() if result is None]
    if missing:
        raise UserError(
            f"--datasets: {len(missing)} of {len(found)} data sets have no result ({', '.join(missing)}); the lines "
            "above say why. The same command computes what is missing."
        )
