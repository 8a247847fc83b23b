"""Checks of configuration values, and the errors they raise."""

import re
import signal
from typing import Any


class UserError(ValueError):
    """A mistake that the user can fix: one line with the flag or file, the value and the fix."""


class PreemptedError(Exception):
    """A signal ended training after a checkpoint was written.

    Args:
        message: what was saved.
        signal_number: number of the signal.
    """

    def __init__(self, message: str = "", signal_number: int = signal.SIGTERM):
        super().__init__(message)
        self.signal_number = signal_number


def check(condition: bool, flag: str, value: Any, fix: str) -> None:
    """Raises UserError("--flag=value: fix") unless `condition` holds."""
    if not condition:
        raise UserError(f"--{flag}={value}: {fix}")


def check_readable_place(flag: str, path: str) -> None:
    """Raises UserError unless TensorFlow, which reads paths of networks as patterns, can read from `path`."""
    check(
        not re.search(r"\[.*\]|\\", path),
        flag,
        path,
        "TensorFlow cannot read networks from a path with [ ] or a backslash; use another name, or a symbolic link "
        "without them.",
    )


def is_remote(path: str) -> bool:
    """Returns whether `path` is on another machine: a handle or a bucket."""
    return "://" in path and not path.startswith("file://")


def is_handle(path: str) -> bool:
    """Returns whether `path` is a TF-Hub handle, which loading fetches over the network."""
    return path.startswith(("https://", "http://"))
