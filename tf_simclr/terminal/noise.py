"""A filter for lines that TensorFlow and its libraries print on standard error beside their errors.

Settings silence only some of them: libjpeg prints by itself, and absl's C++ log does not read `TF_CPP_MIN_LOG_LEVEL`.
A process leaves out the lines known here and passes on all others, the last words of a crash too.
"""

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
QUIET = "3"
"""The value of `LEVEL` that shows errors as exceptions alone. Any other one switches the filter off."""
_SECONDS_TO_END = 2.0
_LOGGERS = ("absl", "tensorflow")
_filters: list[subprocess.Popen[bytes]] = []

NOISE = re.compile(
    rb"""
    WARNING:\ All\ log\ messages\ before\ absl::InitializeLog\(\)
    | To\ enable\ the\ following\ instructions:
    # Information and warnings of TensorFlow and of absl.
    | \d{4}-\d\d-\d\d\ [\d:.]+:\ [IW]\ \S+:\d+\]\s | [IW]\d{4}\ [\d:.]+\ +\d+\ \S+:\d+\]\s
    # What they call errors.
    | (\d{4}-\d\d-\d\d\ [\d:.]+:\ E|E\d{4}\ [\d:.]+\ +\d+)\ \S+:\d+\]\ (
        SetPriority\ unimplemented | Unable\ to\ register\ cu\w+\ factory | failed\ call\ to\ cuInit )
    # libjpeg, on images that cannot be read, which are counted and reported.
    | Improper\ call\ to\ JPEG\ library | Corrupt\ JPEG\ data: | Premature\ end\ of\ JPEG\ file
    | Invalid\ JPEG\ file\ structure: | Unsupported\ JPEG\ (process|data\ precision) | Not\ a\ JPEG\ file:
    | Unsupported\ marker\ type\ 0x | Empty\ (JPEG\ image|input\ file) | JPEG\ datastream\ contains\ no\ image
    | Bogus\ (\w+\ )?(Huffman|DQT|DHT|DAC|JPEG|marker|sampling|colorspace|virtual)
    | (Quantization|Huffman|Arithmetic)\ table\ 0x | Arithmetic\ table\ 0x
    | Invalid\ (SOS\ parameters|progressive\ parameters|component\ ID|crop\ request)
    | Inconsistent\ progression\ sequence | Maximum\ supported\ image\ dimension | Warning:\ unknown\ JFIF
    | Unsupported\ color\ conversion\ request | Sampling\ factors\ too\ large | Too\ many\ color\ components
    """,
    re.VERBOSE,
)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Leaves known noise out of standard error, and keeps the loggers of TensorFlow to warnings.

    Standard error stays as it is inside another such block, if it is closed, and if `LEVEL` is not `QUIET`.
    `sys.stderr` bypasses the filter, so that a terminal remains one.
    """
    with contextlib.ExitStack() as stack:
        for name in _LOGGERS:
            if name in logging.root.manager.loggerDict:
                stack.enter_context(_at_least_warnings(logging.getLogger(name)))
        if not _filters and os.environ.get(LEVEL) == QUIET and sys.executable:
            with contextlib.suppress(OSError):
                stack.enter_context(_filtered_stderr())
        yield


@contextlib.contextmanager
def _at_least_warnings(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    terminal = os.dup(2)
    source, pipe = os.pipe()
    try:
        # Its own session, because signals of the terminal must not end it before the last words are through.
        command = [sys.executable, "-I", "-S", __file__]
        process = subprocess.Popen(
            command, stdin=source, stdout=terminal, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.dup2(pipe, 2)
    finally:
        os.close(source)
        os.close(pipe)
    stream = sys.stderr
    if _is_standard_error(stream):
        sys.stderr = open(terminal, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    _filters.append(process)
    try:
        yield
    finally:
        _filters.remove(process)
        sys.stderr = stream
        os.dup2(terminal, 2)
        os.close(terminal)
        with contextlib.suppress(subprocess.TimeoutExpired):  # A process started here may still use it.
            process.wait(_SECONDS_TO_END)


def _is_standard_error(stream: object) -> bool:
    try:
        return isinstance(stream, io.TextIOBase) and stream.fileno() == 2
    except OSError:
        return False


def _filter() -> None:
    """Passes on standard input, line by line, without noise."""
    rest = b""
    while part := os.read(0, 2**16):
        *lines, rest = re.split(rb"(?<=[\n\r])", rest + part)
        _write(b"".join(line for line in lines if not NOISE.match(line)))
    _write(rest)


def _write(text: bytes) -> None:
    with contextlib.suppress(OSError):  # Writers to the pipe must not wait if the terminal is gone.
        while text:
            text = text[os.write(1, text) :]


if __name__ == "__main__":
    _filter()
