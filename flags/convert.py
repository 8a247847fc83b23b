"""From the command line to a configuration: the only reader of the flags."""

import dataclasses
import difflib
import json
import os
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from flags.definitions import ACCEPTED_WITHOUT_EFFECT, define_flags
from tf_simclr.config import (
    LABEL_EFFICIENCY,
    PREVIEW,
    SEMI_SUPERVISED,
    TOOLS,
    TRAIN_MODES,
    ExperimentConfig,
    LabelEfficiencyConfig,
    Run,
    SemiSupervisedConfig,
    StrategyConfig,
    Tool,
    UserError,
    check,
    default_model_dir,
)

RECIPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")
# What an evaluation does not share with the training: what it does, where it is, on which devices.
_OWN_OF_EVAL = frozenset(field.name for field in dataclasses.fields(StrategyConfig)).union(
    ("mode", "model_dir", "data_service", "eval_name", "jit_compile", "profile_steps")
)
_DIGITS_RECIPE = os.path.join(RECIPES, "digits.flags")
# What the other steps of the whole method would refuse.
_OF_PRETRAINING = ("contrast_chunks", "memory_size", "memory_momentum")


# The many runs of a curve keep their results, and of the weights what going on needs.
_DEFAULTS_OF_CURVE = tuple(
    f"--{step}.{flag}"
    for step in TRAIN_MODES[1:]
    for flag in ("keep_hub_module_max=0", "keep_checkpoint_max=1")
)


def parse_command_line(arguments: Sequence[str]) -> tuple[Run | Tool, list[str]]:
    """Turns a command line into a configuration.

    First wins: a flag on the command line, wherever it stands; a `--flagfile`; for `--mode=eval` the settings
    of the run in `--model_dir`, or else the digits recipe, if neither a data set nor a flagfile is named, or
    the data set is digits; the default. A preview takes the flags of the run that it shows. In each of these places
    `--STEP.NAME=VALUE` (such as `--finetune.learning_rate=0.1`) sets a flag for one step, and wins
    over `--NAME=VALUE`; `--STEP.flagfile=PATH` reads a flagfile for one step.

    Args:
        arguments: without the program's name.

    Returns:
        The configuration of one step, of the whole method, of a curve or of a tool, and lines that tell the
        user what was chosen for him.

    Raises:
        UserError: a flag or a value is wrong.
    """
    lines = _Lines(*_split_flagfiles(arguments, base=os.curdir))
    values = _parse(lines.of_step(None))
    is_tool = values.mode in TOOLS
    is_of_run = not is_tool or values.mode == PREVIEW
    notes = []
    uses_flagfile = any(argument.lstrip("-").partition("=")[0] == "flagfile" for argument in arguments)
    unnamed = not values["dataset"].present
    settings = _settings_of_run(values.model_dir) if values.mode == "eval" else []
    if settings:
        notes.append(f"Settings not given are those of the run in {values.model_dir}.")
        lines = _Lines([*settings, *lines.from_files], lines.explicit)
        values = _parse(lines.of_step(None))
    elif is_of_run and not uses_flagfile and (unnamed or values.dataset == "digits"):
        why = "no --dataset is named" if unnamed else "--dataset=digits"
        notes.append(
            f"Recipe: digits, as {why}: handwritten digits, a run of minutes (flags/recipes/digits.flags)."
        )
        recipe, _ = _split_flagfiles([f"--flagfile={_DIGITS_RECIPE}"], base=os.curdir)
        lines = _Lines([*recipe, *lines.from_files], lines.explicit)
        values = _parse(lines.of_step(None))
    if is_tool:
        step = values.train_mode if is_of_run else None
        return _tool(lines, _parse(lines.of_step(step))), notes
    train_mode = _train_mode(values, bare=unnamed and not uses_flagfile)
    config: Run
    if train_mode == SEMI_SUPERVISED:
        config = _semi_supervised(lines, values)
    elif train_mode == LABEL_EFFICIENCY:
        config = _label_efficiency(lines, values)
    else:
        config = _config_of_step(lines, train_mode)
        config.check_inputs()
    notes += [
        f"--{name} is accepted without effect: {instead}."
        for name, instead in ACCEPTED_WITHOUT_EFFECT.items()
        if values[name].present
    ]
    return config, notes


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The flags of flagfiles, and those of the command line, which win."""

    from_files: list[str]
    explicit: list[str]

    def of_step(self, step: str | None) -> list[str]:
        """Returns the flags that hold for a step, the winning ones last; only the general ones for None."""
        return [*_of_step(self.from_files, step), *_of_step(self.explicit, step)]


def _of_step(arguments: Sequence[str], step: str | None) -> list[str]:
    general: list[str] = []
    special: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        owner, dot, flag = name.lstrip("-").partition(".")
        if not dot or not argument.startswith("-") or not owner.isidentifier():
            general.append(argument)
            continue
        if owner not in TRAIN_MODES:
            raise UserError(
                f"{argument}: no such step; write --STEP.NAME=VALUE with one of {', '.join(TRAIN_MODES)}."
            )
        if (flag, value) == ("train_mode", owner):
            continue  # So that a recipe of this step can be its flagfile.
        if flag in ("mode", "train_mode", "model_dir"):
            raise UserError(f"{argument}: cannot differ between the steps; leave it out.")
        if not equals and _needs_value(flag):
            raise UserError(f"{argument}: flags of one step are written --STEP.NAME=VALUE.")
        if step is None:  # A mistake must show, whichever step is run.
            try:
                _parse([f"--{flag}{equals}{value}"])
            except UserError as error:
                raise UserError(f"--{owner}.{str(error).removeprefix('--')}") from error
        if owner == step:
            special.append(f"--{flag}{equals}{value}")
    return [*general, *special]


def _needs_value(flag: str) -> bool:
    flag_values = absl_flags.FlagValues()
    define_flags(flag_values)
    return flag in flag_values and not flag_values[flag].boolean


def _settings_of_run(directory: str | None) -> list[str]:
    """Returns the settings of the run in a directory on this machine as flags; [] where there is none."""
    if directory is None:
        return []
    try:
        with open(os.path.join(os.path.expanduser(directory), "flags.json"), encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError):
        return []  # Evaluation reads it again, and reports a damaged one.
    flag_values = absl_flags.FlagValues()
    define_flags(flag_values)
    names = set(settings if isinstance(settings, dict) else ()).intersection(flag_values) - _OWN_OF_EVAL
    return [f"--{name}={settings[name]}" for name in sorted(names) if settings[name] is not None]


def _tool(lines: _Lines, values: absl_flags.FlagValues) -> Tool:
    tool = TOOLS[values.mode]
    used = (_flags_of(tool) | {"mode"}).difference(getattr(tool, "unused", ()))
    general = _of_step(lines.explicit, None)
    explicit = _parse(general)
    unused = [argument for argument in lines.explicit if argument not in general]
    unused += [
        f"--{name}={explicit[name].value}" for name in explicit if explicit[name].present and name not in used
    ]
    if unused:
        raise UserError(f"{unused[0]}: has no meaning with --mode={values.mode}; leave it out.")
    groups = [field.type for field in dataclasses.fields(tool) if dataclasses.is_dataclass(field.type)]
    stated = [f.name for group in groups for f in dataclasses.fields(group) if values[f.name].present]
    return _fill(tool, values, stated=tuple(stated))


def _flags_of(owner: Any) -> set[str]:
    """Returns the names of the flags that fill a dataclass."""
    fields = dataclasses.fields(owner)
    return set().union(*(_flags_of(f.type) if dataclasses.is_dataclass(f.type) else {f.name} for f in fields))


def _train_mode(values: absl_flags.FlagValues, *, bare: bool) -> str:
    """Returns the step that the flags name, `semi_supervised` or `label_efficiency`."""
    modes = (*TRAIN_MODES, SEMI_SUPERVISED)
    if values.mode in (*modes, LABEL_EFFICIENCY):
        check(
            not values["train_mode"].present or values.train_mode == values.mode,
            "train_mode",
            values.train_mode,
            f"contradicts --mode={values.mode}; leave one of them out.",
        )
        return values.mode
    if not values["train_mode"].present:
        return SEMI_SUPERVISED if bare and values.mode == "train_then_eval" else values.train_mode
    check(values.train_mode in modes, "train_mode", values.train_mode, f"use one of {', '.join(modes)}.")
    return values.train_mode


def _semi_supervised(lines: _Lines, values: absl_flags.FlagValues) -> SemiSupervisedConfig:
    for name in ("checkpoint", "teacher"):
        check(
            not values[name].present,
            name,
            values[name].value,
            f"the steps of {SEMI_SUPERVISED} start from each other; leave it out, or name one step: "
            f"--{'distill' if name == 'teacher' else 'finetune'}.{name}=.",
        )
    mode = "train_then_eval" if values.mode == SEMI_SUPERVISED else values.mode
    return _whole_method(lines, values, SEMI_SUPERVISED, f"--mode={mode}")


def _label_efficiency(lines: _Lines, values: absl_flags.FlagValues) -> LabelEfficiencyConfig:
    check(
        not values["teacher"].present,
        "teacher",
        values["teacher"].value,
        "a student's teacher is the network finetuned on the same labels; leave it out, or use --distill.teacher=.",
    )
    _check_labels_vary(lines)
    lines = _Lines([*_DEFAULTS_OF_CURVE, *lines.from_files], lines.explicit)
    # The labels of each run are chosen later.
    method = _whole_method(
        lines,
        values,
        LABEL_EFFICIENCY,
        "--mode=train_then_eval",
        "--labels_per_class=1",
        "--label_fraction=1",
    )
    labels = LabelEfficiencyConfig.labels_per_class
    if values["labels_per_class"].present:
        labels = str(values.labels_per_class)
    config = _fill(LabelEfficiencyConfig, values, method=method, labels_per_class=labels)
    _check_all_steps_run(lines, config)
    return config


def _check_labels_vary(lines: _Lines) -> None:
    """Raises UserError where the command line says which labels a step sees, in a way that has no meaning here."""
    general = _parse(_of_step(lines.explicit, None))
    for step in TRAIN_MODES:
        own = _parse(_of_step(lines.explicit, step))
        check(
            own.label_fraction == 1,
            "label_fraction",
            own.label_fraction,
            f"has no meaning with --mode={LABEL_EFFICIENCY}; use --labels_per_class=, with commas between the numbers.",
        )
        check(
            own.labels_per_class == general.labels_per_class,
            f"{step}.labels_per_class",
            own.labels_per_class,
            "cannot differ between the steps; use --labels_per_class=, with commas between the numbers.",
        )


def _check_all_steps_run(lines: _Lines, config: LabelEfficiencyConfig) -> None:
    """Raises UserError where the command line has a flag of a step that is none of the curve."""
    unused = set(TRAIN_MODES) - {name.rpartition("/")[2] for name in config.runs}
    for argument in lines.explicit:
        if argument.lstrip("-").startswith(tuple(f"{step}." for step in unused)):
            raise UserError(f"{argument}: this step is not run; leave it out, or see --efficiency_methods.")


def _whole_method(
    lines: _Lines, values: absl_flags.FlagValues, name: str, *more: str
) -> SemiSupervisedConfig:
    steps = {
        step: _config_of_step(
            lines,
            step,
            *more,
            *_without_contrast(lines, step, values),
            without=_not_of_step(lines, step, values),
        )
        for step in TRAIN_MODES
    }
    directory = values.model_dir
    if directory is None:
        directory = default_model_dir(steps["pretrain"].data.dataset, name)
    return SemiSupervisedConfig(**steps, model_dir=directory)


def _not_of_step(lines: _Lines, step: str, values: absl_flags.FlagValues) -> tuple[str, ...]:
    """Leaves `--checkpoint` of all steps to finetuning; what names another step is refused later."""
    own = _parse(lines.of_step(step)).checkpoint != values.checkpoint
    return () if own or step == "finetune" else ("checkpoint",)


def _without_contrast(lines: _Lines, step: str, values: absl_flags.FlagValues) -> list[str]:
    """Leaves such flags of all steps to pretraining; what names another step is refused later."""
    if step == "pretrain":
        return []
    own = _parse(lines.of_step(step))
    shared = [name for name in _OF_PRETRAINING if own[name].value == values[name].value]
    return [f"--{name}={values[name].default}" for name in shared]


def _config_of_step(lines: _Lines, step: str, *more: str, without: Sequence[str] = ()) -> ExperimentConfig:
    flag_values = _parse([*lines.of_step(step), *more, f"--train_mode={step}"])
    for name in without:
        flag_values[name].unparse()
    return config_from_flags(flag_values)


def config_from_flags(flag_values: absl_flags.FlagValues) -> ExperimentConfig:
    """Returns the configuration of one step that parsed flags describe.

    Raises:
        UserError: a value is wrong.
    """
    if flag_values.mode in TRAIN_MODES:
        flag_values["train_mode"].value = flag_values.mode
        flag_values["mode"].value = "train_then_eval"
    return _fill(ExperimentConfig, flag_values)


def help_text() -> str:
    """Returns the description of all flags."""
    flag_values = absl_flags.FlagValues()
    define_flags(flag_values)
    return flag_values.get_help(include_special_flags=False).replace("\nflags.definitions:", "")


def _fill(owner: Any, flag_values: absl_flags.FlagValues, **others: Any) -> Any:
    """Makes a dataclass from the flags that are named like its fields, and from `others`."""
    arguments = {}
    for field in dataclasses.fields(owner):
        if field.name in others:
            arguments[field.name] = others[field.name]
        elif dataclasses.is_dataclass(field.type):
            arguments[field.name] = _fill(field.type, flag_values)
        elif field.name in flag_values:
            arguments[field.name] = flag_values[field.name].value
    return owner(**arguments)


def _parse(arguments: Sequence[str]) -> absl_flags.FlagValues:
    flag_values = absl_flags.FlagValues()
    define_flags(flag_values)
    try:
        rest = flag_values(["run.py", *arguments])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, flag_values) from error
    except absl_flags.IllegalFlagValueError as error:
        raise _bad_value(error, flag_values) from error
    except absl_flags.Error as error:
        message = " ".join(str(error).split())
        raise UserError(f"{message[0].lower()}{message[1:]} (see python run.py --help).") from error
    if rest:
        raise UserError(f"{rest[0]}: not a flag; flags are written --name=value (see python run.py --help).")
    return flag_values


def _unknown_flag(name: str, flag_values: absl_flags.FlagValues) -> UserError:
    nearest = difflib.get_close_matches(name, list(flag_values), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(f'--{other}' for other in nearest)}? " if nearest else ""
    return UserError(f"--{name}: no such flag; {hint}all flags: python run.py --help.")


def _bad_value(error: absl_flags.IllegalFlagValueError, flag_values: absl_flags.FlagValues) -> UserError:
    # absl writes "flag --name=value: reason", where the value may hold anything.
    name, _, rest = str(error).removeprefix("flag --").partition("=")
    value = rest.removesuffix(f": {error.__context__}")
    kind = flag_values[name].flag_type() if name in flag_values else ""
    mend = {"int": "use a whole number", "float": "use a number", "bool": "use True or False"}.get(kind, rest)
    return UserError(f"--{name}={value}: {mend} (see python run.py --help).")


def _split_flagfiles(arguments: Sequence[str], *, base: str, inside: tuple[str, ...] = ()):
    """Returns (flags from flagfiles, other flags); a flagfile names others relative to itself."""
    from_files: list[str] = []
    others: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        step, dot, plain_name = name.rpartition(".")
        if not argument.startswith("-") or plain_name != "flagfile":
            others.append(argument)
            continue
        if not equals:
            if not pending:
                raise UserError("--flagfile: name a file, such as --flagfile=flags/recipes/digits.flags.")
            value = pending.pop(0)
        path = os.path.abspath(os.path.join(base, os.path.expanduser(value)))
        if path in inside:
            raise UserError(f"--flagfile={value}: includes itself; take that line out of {inside[-1]}.")
        nested, own = _split_flagfiles(
            _read_lines(path, value), base=os.path.dirname(path), inside=(*inside, path)
        )
        # What a step's flagfile says holds for that step.
        from_files += [f"--{step}{dot}{line.lstrip('-')}" for line in (*nested, *own)]
    return from_files, others


def _read_lines(path: str, value: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--flagfile={value}: cannot be read ({getattr(error, 'strerror', None) or error}); "
            f"ready-made ones are in {os.path.relpath(RECIPES)}."
        ) from error
    flags = [line for line in lines if line and not line.startswith(("#", "//"))]
    for line in flags:
        if not line.startswith("-"):
            raise UserError(f"--flagfile={value}: {line!r} is not a flag; write one --name=value a line.")
    return flags
