"""Definitions of all flags, with the names and meanings of the authors' TF2 program."""

import functools
from collections.abc import Callable
from typing import Any

from absl import flags as absl_flags

from tf_simclr.config import all_settings

# Flags of the authors' older commands: name -> what happens instead.
ACCEPTED_WITHOUT_EFFECT = {
    "train_summary_steps": "summaries are written after each call of the loop (--steps_per_loop)",
    "variable_schema": "the network determines which variables of --checkpoint are used",
}


class _NumberOrText(absl_flags.ArgumentParser[float | str]):
    """Parses a number, and keeps text with a mark in it, such as the % of 5%, as it is.

    Args:
        number: type of the number.
        mark: substring that distinguishes text from a number.
        kind: kind of value that a message asks for.
    """

    def __init__(self, number: type, mark: str, kind: str):
        super().__init__()
        self._number, self._mark, self._kind = number, mark, kind

    def parse(self, argument: float | str) -> float | str:
        """Returns the number, or the text."""
        text = str(argument)
        return text if self._mark in text else self._number(text)

    def flag_type(self) -> str:
        """Returns the kind of value that a message asks for."""
        return self._kind


_DEFINERS: dict[Any, Any] = {
    int: absl_flags.DEFINE_integer,
    int | None: absl_flags.DEFINE_integer,
    int | str: functools.partial(absl_flags.DEFINE, _NumberOrText(int, ",", "int")),
    float: absl_flags.DEFINE_float,
    float | str: functools.partial(absl_flags.DEFINE, _NumberOrText(float, "%", "epochs")),
    bool: absl_flags.DEFINE_boolean,
    bool | None: absl_flags.DEFINE_boolean,
    str: absl_flags.DEFINE_string,
    str | None: absl_flags.DEFINE_string,
}


def defined_flags() -> absl_flags.FlagValues:
    """Returns one flag for each setting in `tf_simclr.config`, with its type and default, and those without effect."""
    make: Callable[[], absl_flags.FlagValues] = absl_flags.FlagValues  # Its constructor has no types.
    flag_values = make()
    for name, setting in all_settings().items():
        _DEFINERS[setting.kind](name, setting.default, setting.help, flag_values=flag_values)
    for name, instead in ACCEPTED_WITHOUT_EFFECT.items():
        help_text = f"Accepted for the authors' commands; {instead}."
        absl_flags.DEFINE_string(name, None, help_text, flag_values=flag_values)
    return flag_values
