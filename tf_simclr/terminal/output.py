"""Lines on standard output and standard error, which may be a full disk, a closed pipe or a terminal that is gone."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable
from typing import NoReturn, TextIO

_LOG = logging.getLogger("tf_simclr")


class _OutputHandler(logging.StreamHandler[TextIO]):
    """Writes records to standard output; says once why it cannot, and goes on: the work must not end with the log."""

    _has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record above the line that shows progress."""
        with _above_bars():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Reports the first error of the output; other errors are mistakes in `record`."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            tell(f"standard output cannot be written ({error.strerror}): the work goes on without it.")


def _above_bars() -> contextlib.AbstractContextManager[None]:
    """Takes the bars of tqdm away while something else is written, which then stands above them."""
    tqdm = sys.modules.get("tqdm")  # There is no bar unless it is loaded.
    return tqdm.tqdm.external_write_mode(sys.stderr) if tqdm else contextlib.nullcontext()


def log_to_standard_output() -> None:
    """Lets what the program logs appear on standard output, each message a line."""
    _open_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # Names of files may hold any bytes.
    logging.basicConfig(format="%(message)s", handlers=[_OutputHandler(sys.stdout)])
    _LOG.setLevel(logging.INFO)


def log_lines(lines: Iterable[str]) -> None:
    """Logs each line for the user."""
    for line in lines:
        _LOG.info("%s", line)


def _open_closed_streams() -> None:
    """Lets closed streams (`>&-`) lead nowhere, because the next opened file would get their output."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            _lead_nowhere(descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w"))


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def tell(line: str) -> None:
    """Writes a line to standard error, or nowhere if that is gone."""
    with contextlib.suppress(OSError), _above_bars():
        print(line, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Writes an answer to the user to standard output, which its reader may close early (`| head`).

    Raises:
        SystemExit: if it cannot be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return
    except OSError as error:
        tell(f"error: standard output cannot be written ({error.strerror}).")
        raise SystemExit(2) from error


def end_program(status: int) -> NoReturn:
    """Writes what is still buffered, which the interpreter could fail to write after this, and exits."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            _lead_nowhere(descriptor)
    sys.exit(status)
