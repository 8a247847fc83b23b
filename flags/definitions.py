"""Every flag of the command line, with the names and meanings of the authors' TF2 program."""

import functools
from typing import Any

from absl import flags as absl_flags

from tf_simclr.config import all_settings

# Flags of the authors' older commands: name -> what happens instead.
ACCEPTED_WITHOUT_EFFECT = {
    "train_summary_steps": "summaries are written after each call of the loop (--steps_per_loop)",
    "variable_schema": "which variables of --checkpoint are used follows from the network",
}


class _LabelsParser(absl_flags.ArgumentParser):
    """Parses a whole number, and leaves several with commas between them to whoever can take them."""

    syntactic_help = "a whole number; with --mode=label_efficiency several, with commas between them"

    def parse(self, argument: int | str) -> int | str:
        """Returns the number, or the text where there is a comma."""
        text = str(argument)
        return text if "," in text else int(text)

    def flag_type(self) -> str:
        """Returns the kind of value that a message asks for."""
        return "int"


class _EpochsParser(absl_flags.ArgumentParser):
    """Parses a number of epochs, and leaves a share of the run such as 5% as text."""

    syntactic_help = "a number of epochs, or a share of the run such as 5%"

    def parse(self, argument: float | str) -> float | str:
        """Returns the number, or the text if it ends in a percent sign."""
        text = str(argument)
        return text if text.endswith("%") else float(text)

    def flag_type(self) -> str:
        """Returns the kind of value that a message asks for."""
        return "epochs"


_DEFINERS: dict[Any, Any] = {
    int: absl_flags.DEFINE_integer,
    int | None: absl_flags.DEFINE_integer,
    int | str: functools.partial(absl_flags.DEFINE, _LabelsParser()),
    float: absl_flags.DEFINE_float,
    float | str: functools.partial(absl_flags.DEFINE, _EpochsParser()),
    bool: absl_flags.DEFINE_boolean,
    bool | None: absl_flags.DEFINE_boolean,
    str: absl_flags.DEFINE_string,
    str | None: absl_flags.DEFINE_string,
}


def define_flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines all flags: one for each setting in `tf_simclr.config`, with its type and its default."""
    for name, setting in all_settings().items():
        _DEFINERS[setting.kind](name, setting.default, setting.help, flag_values=flag_values)
    for name, instead in ACCEPTED_WITHOUT_EFFECT.items():
        help_text = f"Accepted for the authors' commands; {instead}."
        absl_flags.DEFINE_string(name, None, help_text, flag_values=flag_values)
