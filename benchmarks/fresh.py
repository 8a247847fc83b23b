"""Work in a process of its own, whose memory and start nothing else has touched."""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tf_simclr.terminal.memory import available_memory

# Below this the system would begin to end programs by itself, not only ours.
_RESERVED = 500_000_000
_SECONDS_BETWEEN_LOOKS = 0.05


class OutOfMemoryError(Exception):
    """The work does not fit into the memory of this machine."""


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
    """Returns `function(*arguments)`, computed in a new process that ends then.

    Args:
        function: of a module, as are all that it is given and returns.
        *arguments: of the function.

    Raises:
        OutOfMemoryError: the process ended itself before the memory of the machine was used up, or was ended.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=_guard_memory) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise OutOfMemoryError from error


def _guard_memory() -> None:
    """Ends this process as soon as there is hardly any memory left."""

    def watch() -> None:
        while True:
            free = available_memory()
            if free is not None and free < _RESERVED:
                os._exit(1)
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    threading.Thread(target=watch, daemon=True).start()
