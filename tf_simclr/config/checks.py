"""How a configuration refuses a value."""

import dataclasses
import math
import re
import signal
from typing import Any

WHICH_NETWORK = "name the network: the directory of a run, a checkpoint in it, or a SavedModel."


class UserError(ValueError):
    """A mistake that the user can mend: one line with the flag or file, the value and the mend."""


class PreemptedError(Exception):
    """A signal asked training to end, and a checkpoint is written.

    Args:
        message: what was saved.
        signal_number: of the signal.
    """

    def __init__(self, message: str = "", signal_number: int = signal.SIGTERM):
        super().__init__(message)
        self.signal_number = signal_number


def check(condition: bool, flag: str, value: Any, mend: str) -> None:
    """Raises UserError("--flag=value: mend") unless `condition` holds."""
    if not condition:
        raise UserError(f"--{flag}={value}: {mend}")


def check_given(flag: str, value: Any, mend: str) -> None:
    """Raises UserError("--flag: not given; mend") where `value` is None or empty."""
    if not value:
        raise UserError(f"--{flag}: not given; {mend}")


def check_choice(flag: str, value: Any, choices: tuple) -> None:
    """Raises UserError unless `value` is one of `choices`."""
    check(value in choices, flag, value, f"use one of {', '.join(map(str, choices))}.")


def check_finite(config: Any) -> None:
    """Raises UserError unless all floats of a dataclass are finite."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float):
            check(math.isfinite(value), field.name, value, "use a finite number.")


def check_readable_place(flag: str, path: str) -> None:
    """Raises UserError unless TensorFlow can read networks from `path`: it takes paths to them as patterns."""
    check(
        not re.search(r"\[.*\]|\\", path),
        flag,
        path,
        "TensorFlow cannot read networks from a path with [ ] or a backslash; use another name, or a symbolic link "
        "that has one.",
    )


def check_at_most(config: Any, **limits: float) -> None:
    """Raises UserError if a number of a dataclass is larger than its limit, beyond which it makes no sense."""
    for name, limit in limits.items():
        value = getattr(config, name)
        check(not isinstance(value, int | float) or value <= limit, name, value, f"use at most {limit}.")


def is_remote(path: str) -> bool:
    """Returns whether `path` is on another machine: behind a handle, or in a bucket."""
    return "://" in path and not path.startswith("file://")


def is_handle(path: str) -> bool:
    """Returns whether `path` is a TF-Hub handle, whose module is fetched by whoever loads it."""
    return path.startswith(("https://", "http://"))
