"""Atomic file writes, JSON checked against a declared form, one-line texts.

Nothing here loads TensorFlow until a file is read or written. A path that cannot be read, written or deleted raises
OSError, or tf.errors.OpError from TensorFlow's file systems.
"""

import contextlib
import fnmatch
import glob
import json
import math
import os
import re
import secrets
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from tf_simclr.config import UserError

MAX_LISTED = 6
TEMPORARY = r"\.[0-9a-f]+\.tmp"
"""Regular expression of the suffix of `temporary_name`; earlier versions added the number of the process."""
_MAX_JSON_BYTES = 2**26
_MAX_LINE = 500
# Control characters, characters that turn the direction of a line, bytes of file names that are no text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

JsonContent = Mapping[Any, Any] | Sequence[Any]
Form = Any
"""The form of a JSON value, see `form_problem`."""


class DamagedFileError(UserError):
    """A file that this program did not write so: truncated, overwritten, or of another form."""


def temporary_name(path: str) -> str:
    """Returns a new name beside `path`. It is random because processes in two containers may share their number."""
    return f"{path}.{secrets.token_hex(8)}.tmp"


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name for a file, and renames that file to `path` if the block ends without an error."""
    temporary = temporary_name(path)
    try:
        yield temporary
        _gfile().rename(temporary, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(Exception):  # The first error is the one to report.
            _gfile().remove(temporary)
        raise


def delete_leftovers(directory: str, names: str, *, min_age: float = 3600) -> None:
    """Deletes the temporary files and directories that killed processes have left.

    Args:
        directory: Where to look; it need not be there.
        names: Regular expression of their final names.
        min_age: Seconds since their last change. A process may still write a younger one; the owner of an output can
            say 0.
    """
    for name in list_names(directory):
        path = os.path.join(directory, name)
        if not re.fullmatch(f"(?:{names}){TEMPORARY}", name) or os.path.islink(path):
            continue
        if min_age == 0 or time.time() - _gfile().stat(path).mtime_nsec / 1e9 > min_age:
            (_gfile().rmtree if _gfile().isdir(path) else _gfile().remove)(path)


def list_names(directory: str) -> list[str]:
    """Returns the names in a directory, whose own name is no pattern, sorted; none if there is no such directory."""
    try:
        if "://" not in directory:
            return sorted(os.listdir(directory))
        # Buckets have slashes at the end of directories.
        return sorted(name.rstrip("/") for name in _gfile().listdir(directory)) if _gfile().isdir(directory) else []
    except (FileNotFoundError, NotADirectoryError):
        return []


def find_paths(directory: str, pattern: str) -> list[str]:
    """Returns the paths below a directory that match a pattern, sorted.

    Args:
        directory: Its name is no pattern.
        pattern: Parts between slashes with `*`, `?` and `[...]`; a part that exists as written is no pattern.
    """
    part, _, rest = pattern.partition("/")
    if _gfile().exists(literal := os.path.join(directory, part)):
        found = [literal]
    elif glob.has_magic(part):
        names = fnmatch.filter(list_names(directory or "."), part.replace("[^", "[!"))
        found = [os.path.join(directory, name) for name in names]
    else:
        found = []
    return [path for below in found for path in find_paths(below, rest)] if rest else found


def write_text(path: str, text: str | bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary, _gfile().GFile(temporary, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)


@contextlib.contextmanager
def reporting_write_errors(what: str, fix: str) -> Iterator[None]:
    """Turns an error of the file system in its block into a UserError: "`what`: cannot be written (...); `fix`."."""
    from tensorflow.errors import OpError

    try:
        yield
    except (OSError, OpError) as error:
        raise UserError(f"{what}: cannot be written ({first_line(error)}); {fix}.") from error


def write_json(path: str, content: JsonContent) -> None:
    """Writes `content` as a file of JSON, whole or not at all; raises like `write_text`."""
    write_text(path, to_json(content))


def save_npz(target: str | BinaryIO, arrays: Mapping[str, Any]) -> None:
    """Writes arrays, by their names, to a path or an open file.

    `numpy.savez` does the same, but its archive complains on a full disk when it is collected.
    """
    import numpy as np

    write_array = cast(Callable[..., None], np.lib.format.write_array)
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                write_array(file, np.asanyarray(array), allow_pickle=False)


def to_json(content: JsonContent) -> str:
    """Returns `content` as the text of a file; JSON has no infinite numbers and no NaN, so they become null."""
    return json.dumps(_finite(content), indent=2) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: str, form: Form = object, *, fix: str = "restore the file or delete it") -> Any:
    """Reads a file of JSON and checks its form.

    Args:
        path: The file.
        form: See `form_problem`.
        fix: Advice to the user about a damaged file, for the message.

    Returns:
        The content; None if there is no such file.

    Raises:
        DamagedFileError: The file cannot be read, is no JSON, is larger than 64 MiB, or has another form.
    """
    try:
        content = read_bytes(path, _MAX_JSON_BYTES)
        return None if content is None else parse_json(content, form)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DamagedFileError(f"{path}: damaged or unreadable ({reason}); {fix}.") from error


def find_json(path: str, form: Form = object) -> Any:
    """Returns the content like `read_json`, and None for a damaged file too."""
    try:
        return read_json(path, form)
    except DamagedFileError:
        return None


def read_bytes(path: str, most: int) -> bytes | None:
    """Returns the content of a file of any kind; None if there is no such file.

    Raises:
        OSError: It cannot be read.
        ValueError: It has more than `most` bytes, or is no regular file: a device or a pipe may never end.
    """
    content = _read_remote(path, most) if "://" in path else _read_local(path, most)
    if content is not None and len(content) > most:
        raise ValueError(f"larger than {most / 2**20:g} MiB")
    return content


def _read_local(path: str, most: int) -> bytes | None:
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(kind):
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        return file.read(most + 1)


def _read_remote(path: str, most: int) -> bytes | None:
    from tensorflow import errors

    try:
        if not _gfile().exists(path):
            return None
        with _gfile().GFile(path, "rb") as file:
            return cast(bytes, file.read(most + 1))
    except errors.OpError as error:
        raise OSError(first_line(error)) from error


def _gfile() -> Any:
    from tensorflow.io import gfile

    return gfile


def parse_json(text: str | bytes, form: Form = object) -> Any:
    """Parses JSON that may come from anywhere; bytes are UTF-8.

    Raises:
        ValueError: It is no JSON, or has another form than `form`; see `form_problem`.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        content = json.loads(decoded, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if problem := form_problem(content, form):
        raise ValueError(problem)
    return content


def form_problem(content: Any, form: Form, place: str = "") -> str | None:
    """Returns the first difference of a JSON value from a form; None if it fits.

    Args:
        content: The value.
        form: `object` (anything), a type (`float` takes integers too, but finite numbers alone; neither it nor `int`
            takes booleans), None, `[form]` (a list), `{form: form}` (an object whose names have the first form, such
            as `str`), `{"name": form, "other?": form}` (an object with these names, optional with `?`, and perhaps
            others), both together (the first for the other names), a tuple of forms (any of them), or a predicate.
        place: Place of the value in the file, for the message.
    """
    if isinstance(form, tuple):
        problems = [form_problem(content, choice, place) for choice in form]
        return None if None in problems else problems[0]
    if isinstance(form, list) and isinstance(content, list):
        found = (form_problem(value, form[0], f"{place}[{number}]") for number, value in enumerate(content))
        return next(filter(None, found), None)
    if isinstance(form, dict) and isinstance(content, dict):
        return _object_problem(content, form, place)
    if _fits(content, form):
        return None
    shown = repr(content) if isinstance(content, str | int | float | None) else type(content).__name__
    expected = getattr(form, "__name__", type(form).__name__)
    return f"{place or 'the content'} is {shown if len(shown) < 60 else type(content).__name__}, not {expected}"


def between(low: float, high: float) -> Callable[[Any], bool]:
    """Returns a form: an integer from `low` to `high`."""

    def fits(value: Any) -> bool:
        return _fits(value, int) and low <= value <= high

    fits.__name__ = f"an integer from {low:g} to {high:g}"
    return fits


def plain_name(value: Any) -> bool:
    """A form: the name of a file without a directory, so that it stays below the directory it is joined to."""
    return isinstance(value, str) and re.fullmatch(r"(?!\.{1,2}$)[^/\\\x00]+", value) is not None


plain_name.__name__ = "a name without a directory"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or else its type, printable."""
    return one_line((str(error).strip().split("\n") or [""])[0]) or type(error).__name__


def printable(text: str) -> str:
    r"""Returns `text` with control characters shown like `\x1b`."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Returns a printable text, cut if it is very long."""
    shown = printable(text)
    return shown if len(shown) <= _MAX_LINE else f"{shown[: _MAX_LINE // 2]} ... {shown[-_MAX_LINE // 2 :]}"


def listed(items: Iterable[str]) -> str:
    """Returns the first few items and the number of the others."""
    items = list(items)
    rest = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + rest


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 image", "2 images" and "3 classes"."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{plural}"


def shown_path(path: str) -> str:
    r"""Returns a path as text, with bytes that are not UTF-8 as `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _object_problem(content: dict[Any, Any], form: dict[Any, Any], place: str) -> str | None:
    prefix = f"{place}." if place else ""
    named = {key.removesuffix("?"): key for key in form if isinstance(key, str)}
    for name, key in named.items():
        if name == key and name not in content:
            return f"{prefix}{name} is missing"
    others = [pair for pair in form.items() if not isinstance(pair[0], str)]
    for name, value in content.items():
        for name_form, value_form in [(object, form[named[name]])] if name in named else others:
            problem = form_problem(name, name_form, f"a name in {place or 'the content'}")
            if problem := problem or form_problem(value, value_form, f"{prefix}{name}"):
                return problem
    return None


def _fits(content: Any, form: Form) -> bool:
    if form is None or isinstance(form, list | dict):
        return content is form
    if not isinstance(form, type):
        return bool(form(content))
    if isinstance(content, bool) and form in (int, float):
        return False
    if form is float:
        return isinstance(content, int | float) and abs(content) <= sys.float_info.max
    return isinstance(content, form)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
