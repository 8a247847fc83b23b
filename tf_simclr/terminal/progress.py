"""How far the work is: one line at the bottom of a terminal, lines of the log elsewhere."""

import collections
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_LOG = logging.getLogger("tf_simclr")
_BAR_WIDTH = 10
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_DRAWINGS = 0.1
_MIN_CALLS, _MAX_CALLS = 3, 100
_DEFAULT_WIDTH = 80


class Field(NamedTuple):
    """A part of a line, left out where there is no room; the smallest `importance` stays longest."""

    importance: int
    text: str


def fit(fields: Sequence[Field], width: int) -> str:
    """Returns the fields in their order, without the least important ones that `width` has no room for."""
    kept = list(fields)
    while len(line := " | ".join(field.text for field in kept)) > width and len(kept) > 1:
        kept.remove(max(kept, key=lambda field: field.importance))
    return line


def bar_fields(done: int, total: int) -> list[Field]:
    """Returns percentage, bar and numbers; the bar is what is left out first."""
    share = done / max(total, 1)
    full = int(share * _BAR_WIDTH)
    bar = f"{'#' * full}{'-' * (_BAR_WIDTH - full)}"
    return [Field(0, f"{share:4.0%}"), Field(99, bar), Field(1, f"{done}/{total}")]


def duration(seconds: float | None) -> str:
    """Returns a time such as `02:56` or `5:01:47`; a question mark if it is not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


class TimeLeft:
    """Estimates how long work takes from its newest calls; it is not known before there are three."""

    def __init__(self):
        self._calls = collections.deque[tuple[int, float]](maxlen=_MAX_CALLS)

    def add(self, amount: int, seconds: float) -> None:
        """Counts a call that did so much work; one of 0 seconds, such as one that compiled, tells nothing."""
        if seconds > 0:
            self._calls.append((amount, seconds))

    def of(self, amount: float) -> float | None:
        """Returns the seconds that so much work takes; None if that is not known yet."""
        if amount <= 0:
            return 0.0
        if len(self._calls) < _MIN_CALLS:
            return None
        amounts, seconds = zip(*self._calls, strict=True)
        return amount * sum(seconds) / sum(amounts)


class Line:
    """A line at the bottom of the terminal, written over again and again; nothing without a terminal."""

    shown: "Line | None" = None
    """The one that is on the terminal now."""

    def __init__(self):
        self._stream = sys.stderr
        self.is_on_terminal = self._stream is not None and self._stream.isatty()
        self._text = ""

    def show(self, fields: Sequence[Field]) -> None:
        """Shows the fields that the terminal has room for."""
        if self.is_on_terminal:
            self._text = fit(fields, self._width() - 1)
            Line.shown = self
            self.draw()

    def draw(self) -> None:
        """Writes the line anew."""
        self._write(f"\r{self._text}\x1b[K")

    def erase(self) -> None:
        """Takes the line away, until it is drawn again."""
        self._write("\r\x1b[K")

    def close(self, *, keep: bool = True) -> None:
        """Leaves the line as it is, or takes it away; what is printed next starts on a line of its own."""
        if Line.shown is self:
            Line.shown = None
            self._write("\n" if keep else "\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # The terminal is gone.
            self._stream.write(text)
            self._stream.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _DEFAULT_WIDTH
        except OSError:
            return _DEFAULT_WIDTH


@contextlib.contextmanager
def above_line() -> Iterator[None]:
    """Takes the line away while something else is written, which then stands above it."""
    line = Line.shown
    if line is not None:
        line.erase()
    yield
    if line is not None:
        line.draw()


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows on a terminal what is done for a while, such as `exporting`."""
    line = Line()
    line.show([Field(0, f"{what} ...")])
    try:
        yield
    finally:
        line.close(keep=False)


class Count:
    """Shows how many images were found so far, if all of them are not known; called for each, closed at the end.

    Args:
        what: the work.
    """

    def __init__(self, what: str):
        self._what = what
        self._count = 0
        self._last = time.monotonic()
        self._line = Line()

    def __call__(self) -> None:
        """Counts one image."""
        self._count += 1
        now = time.monotonic()
        if now - self._last < (_SECONDS_BETWEEN_DRAWINGS if self._line.is_on_terminal else _SECONDS_BETWEEN_LINES):
            return
        self._last = now
        if self._line.is_on_terminal:
            self._line.show([Field(0, self._what), Field(1, f"{self._count} images so far")])
        else:
            _LOG.info("%s: %d images so far.", self._what, self._count)

    def close(self) -> None:
        """Takes the line away."""
        self._line.close(keep=False)


class Progress:
    """Shows how many images are done, on a terminal all the time and elsewhere now and then; close it at the end.

    Args:
        done: images that were done before.
        total: all images.
        what: the work.
        keep: whether the line stays on the terminal at the end.
    """

    def __init__(self, done: int, total: int, what: str = "", *, keep: bool = True):
        self._first = self._done = done
        self._total, self._what, self._keep = total, what, keep
        self._start = self._last_call = self._last_line = time.monotonic()
        self._left = TimeLeft()
        self._line = Line()
        self._show("starting")

    def update(self, done: int) -> None:
        """Shows that so many images are done."""
        now, done = time.monotonic(), min(done, self._total)  # The last batch may be filled up.
        if self._done > self._first:  # The first images also waited for what is compiled.
            self._left.add(done - self._done, now - self._last_call)
        self._done, self._last_call = done, now
        on_terminal = self._line.is_on_terminal
        pause = _SECONDS_BETWEEN_DRAWINGS if on_terminal else _SECONDS_BETWEEN_LINES
        if now - self._last_line < pause and not (on_terminal and done >= self._total):
            return
        self._last_line = now
        rate = f"{(done - self._first) / max(now - self._start, 1e-9):.0f} images/s"
        left = f"{duration(self._left.of(self._total - done))} left"
        if on_terminal:
            self._show(rate, left)
        else:
            what = f"{self._what}: " if self._what else ""
            _LOG.info("%s%d/%d images | %s | %s", what, done, self._total, rate, left)

    def _show(self, *texts: str) -> None:
        what = [Field(0, self._what)] if self._what else []
        more = [Field(number, text) for number, text in enumerate(texts, start=2)]
        self._line.show([*what, *bar_fields(self._done, self._total), *more])

    def close(self) -> None:
        """Leaves the line."""
        self._line.close(keep=self._keep)
