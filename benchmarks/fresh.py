"""Work in a new process, with fresh memory and start-up."""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tf_simclr.terminal.memory import available_memory

# With less free memory, the system would kill other programs too.
_RESERVED = 500_000_000
_SECONDS_BETWEEN_LOOKS = 0.05


class OutOfMemoryError(Exception):
    """The work does not fit into the memory of this machine."""


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns `function(*arguments)`, computed in a new process.

    Args:
        function: function of a module; its arguments and result can be pickled.
        *arguments: arguments of the function.

    Raises:
        OutOfMemoryError: if the process ended itself before the machine's memory was full, or was killed.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=_guard_memory) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise OutOfMemoryError from error


def _guard_memory() -> None:
    """Ends this process when the machine's memory is almost full."""

    def watch() -> None:
        while True:
            free = available_memory()
            if free is not None and free < _RESERVED:
                os._exit(1)
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    threading.Thread(target=watch, daemon=True).start()
