"""Early end of training on a signal, in time for a checkpoint."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import tensorflow as tf

from tf_simclr.distribution.collectives import gather_from_workers

# The end of a machine, Ctrl-C, the end of a terminal (which Windows does not have).
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class PreemptionWatch:
    """Notices SIGTERM, SIGINT (Ctrl-C) and SIGHUP while it is entered, for all workers of a run.

    It also limits the steps of a loop call. The second signal of a kind ends the process at once; in an interactive
    session it does what it did before. Ignored signals stay ignored (`nohup`). Outside the main thread, such as in a
    notebook's server, all handlers stay as they are.

    Args:
        strategy: of the run.
        grace: seconds between the signal and the end of the machine.

    Attributes:
        max_steps: steps that a call of the loop may take, so that it and a checkpoint end in time; one until the time
            of a step is known.
    """

    def __init__(self, strategy: tf.distribute.Strategy, grace: float):
        self.max_steps = 1
        self._strategy = strategy
        self._grace = grace
        self._noticed = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionWatch":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None: a handler that Python did not install, and cannot put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._noticed and error is None:  # It came after the last call, whose checkpoint is written.
            signal.raise_signal(self._noticed)

    def _notice(self, number: int, _frame: FrameType | None) -> None:
        self._noticed = number
        interactive = hasattr(sys, "ps1")
        signal.signal(number, self._previous[number] if interactive else signal.SIG_DFL)
        if number == signal.SIGINT:
            # A handler must not use a stream: the signal may have come while it is written to.
            with contextlib.suppress(OSError):
                os.write(2, b"\nEnding with a checkpoint; press Ctrl-C again to end at once, without one.\n")

    def after_call(self, seconds_per_step: float) -> int:
        """Returns the signal by which any worker was asked to end, 0 if none was.

        Args:
            seconds_per_step: of the call of the loop that has ended; 0 if unknown.
        """
        values = gather_from_workers(self._strategy, [float(self._noticed), seconds_per_step])
        noticed, slowest = values.max(axis=0)
        if slowest:
            self.max_steps = max(1, int(self._grace / 2 / slowest))
        return int(noticed)
