"""The entry points of the library: what every call from outside has in common."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from tf_simclr.files import check_addresses
from tf_simclr.terminal.noise import without_noise

_Function = TypeVar("_Function", bound=Callable[..., Any])


def entry_point(function: _Function) -> _Function:
    """Decorates a function whose first argument is a configuration, to be called from programs and notebooks.

    Before any work it refuses addresses that TensorFlow has no file system for. While it runs, known noise is kept out
    of standard error.
    """

    @functools.wraps(function)
    def call(config: Any, *args: Any, **kwargs: Any) -> Any:
        with without_noise():
            check_addresses(config)
            return function(config, *args, **kwargs)

    return call  # type: ignore[return-value]
