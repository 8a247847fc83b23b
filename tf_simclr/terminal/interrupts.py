"""Interrupts that tell which work is kept."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupts_tell(what_is_saved: Callable[[], str | None]) -> Iterator[None]:
    """Gives a KeyboardInterrupt that has no message yet the message `what_is_saved()`, unless that is None."""
    try:
        yield
    except KeyboardInterrupt as error:
        if error.args or (saved := what_is_saved()) is None:
            raise
        raise KeyboardInterrupt(saved) from error
