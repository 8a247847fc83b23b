"""Checks and output that every call of the library from outside has in common."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

from tf_simclr.config import UserError, check, is_handle
from tf_simclr.terminal.noise import without_noise

_PATH_FLAGS = frozenset(["model_dir", "checkpoint", "teacher", "data_dir", "output", "dataset", "datasets"])
_Function = TypeVar("_Function", bound=Callable[..., Any])


def entry_point(function: _Function) -> _Function:
    """Decorates a function of a configuration that programs and notebooks call.

    It refuses addresses that TensorFlow has no file system for, and keeps known noise out of standard error.
    """

    @functools.wraps(function)
    def call(config: Any, *args: Any, **kwargs: Any) -> Any:
        with without_noise():
            check_addresses(config)
            return function(config, *args, **kwargs)

    return call  # type: ignore[return-value]


def check_addresses(config: Any) -> None:
    """Refuses addresses that TensorFlow has no file system for; loads TensorFlow only if there is an address.

    Args:
        config: dataclass whose fields are named like flags, or are such dataclasses.

    Raises:
        UserError: if there is such an address.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for flag in _PATH_FLAGS & fields.keys():
        for scheme in re.findall(r"([\w+.-]+)://", fields[flag] or ""):
            if flag != "teacher" or not is_handle(fields[flag]):  # TF-Hub fetches a handle.
                _check_scheme(scheme, flag, fields[flag])
    for value in fields.values():
        if dataclasses.is_dataclass(value):
            check_addresses(value)


def _check_scheme(scheme: str, flag: str, value: str) -> None:
    if flag == "checkpoint" and is_handle(value):
        fix = "is not on this machine; download the module, and name its folder. Take it from those you trust: a "
        raise UserError(f"--{flag}={value}: {fix}SavedModel is a program.")
    import tensorflow as tf

    known = tf.io.gfile.get_registered_schemes()
    bucket = " or in gs://" if "gs" in known else ""
    fix = f"use a path on this machine{bucket}, or load the plug-in for {scheme}:// first."
    check(scheme in known, flag, value, f"TensorFlow has no file system for {scheme}:// here; {fix}")
