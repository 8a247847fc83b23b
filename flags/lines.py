"""Command lines and flagfiles as lists of flags, and the flags among them that apply to a stage."""

import collections
import dataclasses
import difflib
import errno
import glob
import os
from collections.abc import Iterator, Sequence

from absl import flags as absl_flags

from flags.definitions import defined_flags
from tf_simclr.config import TRAIN_MODES, UserError, all_settings
from tf_simclr.files import read_bytes

_MAX_FLAGFILE_BYTES = 2**16
_MAX_FLAGFILES = 100
RECIPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")
"""Directory of the ready-made flagfiles; `--flagfile=NAME` finds them by name."""


@dataclasses.dataclass(frozen=True)
class Lines:
    """The flags of flagfiles, and those of the command line, which win."""

    from_files: list[str]
    explicit: list[str]

    def of_stage(self, stage: str | None) -> list[str]:
        """Returns the flags of a stage, the winning ones last; only the general ones for None."""
        return [*of_stage(self.from_files, stage), *of_stage(self.explicit, stage)]


def of_stage(arguments: Sequence[str], stage: str | None) -> list[str]:
    """Returns the flags among `arguments` that apply to a stage, its own last; only the general ones for None.

    Raises:
        UserError: if a flag of any stage is unknown, or cannot be set for a single stage.
    """
    general: list[str] = []
    special: dict[str, list[str]] = collections.defaultdict(list)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        owner, dot, flag = name.lstrip("-").partition(".")
        if not dot or not argument.startswith("-") or not owner.isidentifier():
            general.append(argument)
            continue
        if owner not in TRAIN_MODES:
            stages = ", ".join(TRAIN_MODES)
            raise UserError(f"{argument}: no such stage; write --STAGE.NAME=VALUE with one of {stages}.")
        if (flag, value) == ("train_mode", owner):
            continue  # A recipe of this stage can then be its flagfile.
        if flag in ("mode", "train_mode", "model_dir"):
            raise UserError(f"{argument}: cannot differ between the stages; leave it out.")
        if not equals and flag in all_settings() and all_settings()[flag].kind not in (bool, bool | None):
            raise UserError(f"{argument}: flags of one stage are written --STAGE.NAME=VALUE.")
        special[owner].append(f"--{flag}{equals}{value}")
    for owner, own in special.items() if stage is None else ():  # Mistakes in flags of other stages must show too.
        try:
            parse(own)
        except UserError as error:
            raise UserError(f"--{owner}.{str(error).removeprefix('--')}") from error
    return general if stage is None else [*general, *special[stage]]


def parse(arguments: Sequence[str]) -> absl_flags.FlagValues:
    """Parses flags.

    Raises:
        UserError: if a flag or a value is wrong.
    """
    flag_values = defined_flags()
    try:
        rest = flag_values(["run.py", *arguments])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, flag_values) from error
    except absl_flags.IllegalFlagValueError as error:
        raise _bad_value(error, flag_values) from error
    except absl_flags.Error as error:
        message = " ".join(str(error).split())
        raise UserError(f"{message[0].lower()}{message[1:]} (see --help).") from error
    if rest:
        raise UserError(f"{rest[0]}: not a flag; flags are written --name=value (see --help).")
    return flag_values


def _unknown_flag(name: str, flag_values: absl_flags.FlagValues) -> UserError:
    nearest = difflib.get_close_matches(name, list(flag_values), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(f'--{other}' for other in nearest)}? " if nearest else ""
    return UserError(f"--{name}: no such flag; {hint}see --help for all.")


def _bad_value(error: absl_flags.IllegalFlagValueError, flag_values: absl_flags.FlagValues) -> UserError:
    # absl writes "flag --name=value: reason"; the value may contain anything.
    name, _, rest = str(error).removeprefix("flag --").partition("=")
    value = rest.removesuffix(f": {error.__context__}")
    kind = flag_values[name].flag_type() if name in flag_values else ""
    fixes = {
        "int": "use a whole number",
        "float": "use a number",
        "bool": "use True or False",
        "epochs": "use a number, or a share of the run such as 5%",
    }
    return UserError(f"--{name}={value}: {fixes.get(kind, rest)} (see --help).")


def split_flagfiles(
    arguments: Sequence[str], *, base: str, inside: tuple[str, ...] = (), budget: Iterator[int] | None = None
) -> tuple[list[str], list[str]]:
    """Returns the flags from flagfiles, and the other flags.

    A flagfile names others relative to itself. A name without a file is the name of a recipe.

    Args:
        arguments: the flags.
        base: directory that relative paths of flagfiles start from.
        inside: the flagfiles that contain `arguments`, the outermost first.
        budget: has one element for each flagfile that may still be read; None for 100.

    Raises:
        UserError: if a flagfile cannot be read, includes itself or too many others, or has a line that is not a flag.
    """
    budget = budget or iter(range(_MAX_FLAGFILES))
    from_files: list[str] = []
    others: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        name, equals, value = argument.lstrip("-").partition("=")
        stage, dot, plain_name = name.rpartition(".")
        if not argument.startswith("-") or plain_name != "flagfile":
            others.append(argument)
            continue
        if not equals and (value := next(pending, "")) == "":
            raise UserError("--flagfile: name a file or a recipe, such as --flagfile=digits.")
        path = _path_of_flagfile(value, base)
        if path in inside:
            raise UserError(f"--flagfile={value}: includes itself; take that line out of {inside[-1]}.")
        if next(budget, None) is None:
            raise UserError(f"--flagfile={value}: more than {_MAX_FLAGFILES} flagfiles; use fewer.")
        lines = _read_lines(path, value)
        nested, own = split_flagfiles(lines, base=os.path.dirname(path), inside=(*inside, path), budget=budget)
        # Lines of a stage's flagfile apply to that stage.
        from_files += [f"--{stage}{dot}{line.lstrip('-')}" for line in (*nested, *own)]
    return from_files, others


def recipe_names() -> list[str]:
    """Returns the names of all recipes, such as `photos` and `stages/pretrain`."""
    names = glob.glob("**/*.flags", root_dir=RECIPES, recursive=True)
    return sorted(name.removesuffix(".flags").replace(os.sep, "/") for name in names)


def _path_of_flagfile(value: str, base: str) -> str:
    """Returns the path of a flagfile: a file relative to `base`, or else a recipe by its name."""
    path = os.path.abspath(os.path.join(base, os.path.expanduser(value)))
    is_recipe = not os.path.isfile(path) and value in recipe_names()
    return os.path.join(RECIPES, f"{value}.flags") if is_recipe else path


def _read_lines(path: str, value: str) -> list[str]:
    try:
        content = read_bytes(path, _MAX_FLAGFILE_BYTES)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        lines = [line.strip() for line in content.decode("utf-8-sig").split("\n")]
    except (OSError, ValueError) as error:
        raise UserError(
            f"--flagfile={value}: cannot be read ({getattr(error, 'strerror', None) or error}); "
            f"name a file, or one of the recipes {', '.join(recipe_names())}."
        ) from error
    flags = [line for line in lines if line and not line.startswith(("#", "//"))]
    for line in flags:
        if not line.startswith("-"):
            raise UserError(f"--flagfile={value}: {line!r} is not a flag; write one --name=value a line.")
    return flags
