"""Progress of long work by tqdm: a line at the bottom of a terminal, lines of the log elsewhere."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

_LOG = logging.getLogger("tf_simclr")
_SECONDS_BETWEEN_LINES = 10.0
_LINE_WITH_TOTAL = "{desc}: {n_fmt}/{total_fmt} images | {rate_noinv_fmt} | {remaining} left"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} images so far."

tqdm.monitor_interval = 0  # No thread that watches the bars.


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def duration(seconds: float | None) -> str:
    """Returns a time such as `02:56` or `5:01:47`; a question mark if it is not known."""
    return "?" if seconds is None else str(tqdm.format_interval(seconds))


def bar(what: str, **options: Any) -> Any:
    """Returns a bar of tqdm on standard error, `disable`d unless that is a terminal."""
    return tqdm(desc=what, file=sys.stderr, disable=not _is_terminal(), **_size(), **options)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows on a terminal what is done for a while, such as `exporting`."""
    with bar(what, leave=False, bar_format="{desc} ..."):
        yield


class Progress:
    """Number of images done: a bar on a terminal, a line of the log every ten seconds elsewhere. Close it at the end.

    Args:
        done: images that were done before.
        total: all images; None if their number is not known.
        what: the work.
        keep: whether the bar stays on the terminal at the end.
    """

    def __init__(self, done: int, total: int | None, what: str = "", *, keep: bool = True):
        self._is_bar = _is_terminal()
        line = _LINE_WITH_TOTAL if total is not None else _LINE_WITHOUT_TOTAL
        self._bar = tqdm(
            desc=what,
            initial=done,
            total=total,
            unit=" images",
            leave=keep,
            file=sys.stderr if self._is_bar else _Nowhere(),
            mininterval=0.1 if self._is_bar else _SECONDS_BETWEEN_LINES,
            miniters=1,
            bar_format=None if self._is_bar else line,
            **_size(),
        )

    def update(self, done: int) -> None:
        """Shows that so many images are done."""
        if self._bar.n == self._bar.initial:
            self._bar.unpause()  # The first images also waited for what is compiled.
        self.add(min(done, self._bar.total) - self._bar.n)  # The last batch may be filled up.

    def add(self, count: int = 1) -> None:
        """Shows that so many more images are done."""
        if self._bar.update(count) and not self._is_bar:
            _LOG.info("%s", self._bar)

    def close(self) -> None:
        """Leaves the bar."""
        self._bar.close()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _size() -> dict[str, Any]:
    """Returns the size of the terminal as options of tqdm, a usual one if it does not tell; none for a log."""
    if not _is_terminal():
        return {}
    with contextlib.suppress(OSError):
        if all(os.get_terminal_size(sys.stderr.fileno())):
            return {"dynamic_ncols": True}
    return {"ncols": 80, "nrows": 24}
