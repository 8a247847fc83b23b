"""An early end of training: when it is asked for, and that it comes in time."""

import signal
import threading

import tensorflow as tf

from tf_simclr.distribute import gather_from_workers


class PreemptionWatch:
    """Notices SIGTERM while it is entered, for all workers of a run, and keeps calls of the loop short.

    Whatever runs outside the main thread, as in a notebook's server, is left to its own signals.

    Args:
        strategy: of the run.
        grace: seconds between the signal and the end of the machine.

    Attributes:
        max_steps: steps that a call of the loop may take, so that it and a checkpoint end in time; one
            until it is known how long a step takes.
    """

    def __init__(self, strategy: tf.distribute.Strategy, grace: float):
        self.max_steps = 1
        self._strategy = strategy
        self._grace = grace
        self._noticed = False
        self._previous = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, error, *_):
        if self._previous is None:
            return
        signal.signal(signal.SIGTERM, self._previous)
        if self._noticed and error is None:  # It came after the last call, whose checkpoint is written.
            signal.raise_signal(signal.SIGTERM)

    def _notice(self, *_):
        self._noticed = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # The second one ends the process at once.

    def after_call(self, seconds_per_step: float) -> bool:
        """Returns whether to end now: whether any worker was asked to.

        Args:
            seconds_per_step: of the call of the loop that has ended; 0 where it tells nothing.
        """
        values = gather_from_workers(self._strategy, [float(self._noticed), seconds_per_step])
        noticed, slowest = values.max(axis=0)
        if slowest:
            self.max_steps = max(1, int(self._grace / 2 / slowest))
        return bool(noticed)
