"""Conversion of command lines to configurations; the only reader of the flags."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from absl import flags as absl_flags

from flags.definitions import ACCEPTED_WITHOUT_EFFECT
from flags.lines import RECIPES, Lines, of_stage, parse, split_flagfiles
from tf_simclr.config import (
    LABEL_EFFICIENCY,
    PREVIEW,
    SEMI_SUPERVISED,
    TOOLS,
    TRAIN_MODES,
    ExperimentConfig,
    LabelEfficiencyConfig,
    PreviewConfig,
    Run,
    SemiSupervisedConfig,
    Tool,
    UserError,
    check,
    default_model_dir,
    settings_of,
    split_sources,
)
from tf_simclr.config.setting import Settings
from tf_simclr.files import find_json

_Config = TypeVar("_Config", bound=Settings)
# Data on this machine, or a data set of TFDS itself; TFDS fetches code for "namespace:name".
_PLAIN_SOURCE = re.compile(r"(folder|tfrecord):(?!.*://).*|[\w.+-]+(/[\w.+-]+)?(:[\d.*]+)?", re.DOTALL)
_DIGITS_RECIPE = os.path.join(RECIPES, "digits.flags")
# If a flag is set for all stages, only the stage named here takes it; the others would refuse it.
_STAGE_OF = {
    "checkpoint": "finetune",
    "contrast_chunks": "pretrain",
    "memory_size": "pretrain",
    "memory_momentum": "pretrain",
}
# The many runs of a curve keep their results, and only the checkpoint needed to continue.
_DEFAULTS_OF_CURVE = {"keep_hub_module_max": 0, "keep_checkpoint_max": 1}


def parse_command_line(arguments: Sequence[str]) -> tuple[Run | Tool, list[str]]:
    """Turns a command line into a configuration.

    The value of a flag comes from the first of these that has one:

    1. the command line, at any position;
    2. a `--flagfile`;
    3. for `--mode=eval`, the settings of the run in `--model_dir`;
    4. the digits recipe, if the data set is digits, or neither a data set nor a flagfile is named;
    5. the default.

    In each of them, `--STAGE.NAME=VALUE` (such as `--finetune.learning_rate=0.1`) sets a flag for one stage and
    wins over `--NAME=VALUE`. `--STAGE.flagfile=PATH` reads a flagfile for one stage. A preview takes the flags of
    the run that it shows.

    Args:
        arguments: without the program's name.

    Returns:
        The configuration of a stage, the whole method, a curve or a tool; and notes for the user on what was
        chosen.

    Raises:
        UserError: if a flag or a value is wrong.
    """
    lines = Lines(*split_flagfiles(arguments, base=os.curdir))
    values = parse(lines.of_stage(None))
    uses_flagfile = any(argument.lstrip("-").partition("=")[0] == "flagfile" for argument in arguments)
    bare = not values["dataset"].present and not uses_flagfile
    weakest, notes = _weakest_flags(values, uses_flagfile=uses_flagfile)
    lines = Lines([*weakest, *lines.from_files], lines.explicit)
    values = parse(lines.of_stage(None))
    if values.mode == PREVIEW:
        values, chosen = _of_previewed_stage(lines, values)
        notes += chosen
    if values.mode in TOOLS:
        return _tool(lines, values), notes
    train_mode = _train_mode(values, bare=bare)
    config: Run
    if train_mode == SEMI_SUPERVISED:
        config = _semi_supervised(lines, values)
    elif train_mode == LABEL_EFFICIENCY:
        config = _label_efficiency(lines, values)
    else:
        config = _config_of_stage(lines, train_mode)
        config.check_inputs()
    notes += [
        f"--{name} is accepted without effect: {instead}."
        for name, instead in ACCEPTED_WITHOUT_EFFECT.items()
        if values[name].present
    ]
    return config, notes


def _weakest_flags(values: absl_flags.FlagValues, *, uses_flagfile: bool) -> tuple[list[str], list[str]]:
    """Returns the flags with the lowest priority (of the evaluated run, or of the digits), and notes for the user."""
    unnamed = not values["dataset"].present
    settings = _settings_of_run(values) if values.mode == "eval" else {}
    if settings:
        inherited = {name for name, setting in settings_of(ExperimentConfig).items() if setting.inherited}
        flags = [f"--{name}={value}" for name, value in settings.items() if name in inherited]
        notes = [f"Settings not given are those of the run in {values.model_dir}."]
        if (place := settings.get("data_dir")) and not values["data_dir"].present:
            notes.append(f"Except --data_dir={place}, because TFDS runs code from there: give it if it is needed.")
        return flags, notes
    if values.mode == "eval" and unnamed and not uses_flagfile and values.model_dir is not None:
        is_address = "://" in values.model_dir
        why = "the settings of a run at an address are not read" if is_address else "there is no run"
        fix = "" if is_address else "name the directory of a run, or "
        raise UserError(
            f"--model_dir={values.model_dir}: {why}, and no --dataset is named; {fix}give the flags of the run to "
            "wait for."
        )
    is_of_run = values.mode not in TOOLS or values.mode == PREVIEW
    if is_of_run and not uses_flagfile and (unnamed or values.dataset == "digits"):
        why = "no --dataset is named" if unnamed else "of --dataset=digits"
        recipe, _ = split_flagfiles([f"--flagfile={_DIGITS_RECIPE}"], base=os.curdir)
        note = f"Recipe: digits, because {why}: handwritten digits, a run of minutes (--flagfile=digits)."
        return recipe, [note]
    return [], []


def _settings_of_run(values: absl_flags.FlagValues) -> dict[str, str]:
    """Returns the settings of the run in a local `--model_dir` by flag; {} if there is none.

    Raises:
        UserError: if its data set would be fetched.
    """
    if values.model_dir is None or "://" in values.model_dir:
        return {}
    path = os.path.join(os.path.expanduser(values.model_dir), "flags.json")
    content = find_json(path, {str: object}) or {}  # Evaluation reads it again, and reports damage.
    settings = {name: str(content[name]) for name in sorted(content) if content[name] is not None}
    settings = {name: value for name, value in settings.items() if name in values}
    dataset = settings.get("dataset")
    if dataset is not None and not values["dataset"].present:
        plain = all(_PLAIN_SOURCE.fullmatch(source) for source in split_sources(dataset))
        fix = f"would be fetched because {path} names it; if you trust that address, give this flag yourself."
        check(plain, "dataset", dataset, fix)
    return settings


def _of_previewed_stage(lines: Lines, values: absl_flags.FlagValues) -> tuple[absl_flags.FlagValues, list[str]]:
    """Returns the flags of the stage that a preview shows, the first of several, and notes for the user."""
    stage, notes = values.train_mode, []
    if stage in (SEMI_SUPERVISED, LABEL_EFFICIENCY):
        notes = [f"Of {stage}, the views of pretraining; for another stage, use --train_mode={TRAIN_MODES[1]}."]
        stage = "pretrain"
    own = parse([*lines.of_stage(stage), f"--train_mode={stage}"])
    first = str(own.labels_per_class).partition(",")[0].strip()
    if first.isdecimal():  # A curve names several.
        own["labels_per_class"].value = int(first)
    return own, notes


def _tool(lines: Lines, values: absl_flags.FlagValues) -> Tool:
    tool = TOOLS[values.mode]
    used = {name for name, setting in settings_of(tool).items() if values.mode not in setting.unused_by} | {"mode"}
    general = of_stage(lines.explicit, None)
    explicit = parse(general)
    if tool is PreviewConfig:  # The command line is that of a run, so flags of other stages may stay.
        used |= settings_of(LabelEfficiencyConfig).keys() | ACCEPTED_WITHOUT_EFFECT.keys()
        unused = []
    else:
        unused = [argument for argument in lines.explicit if argument not in general]
    unused += [f"--{name}={explicit[name].value}" for name in explicit if explicit[name].present and name not in used]
    if unused:
        raise UserError(f"{unused[0]}: has no meaning with --mode={values.mode}; leave it out.")
    groups = [field.type for field in dataclasses.fields(tool) if dataclasses.is_dataclass(field.type)]
    stated = [name for group in groups for name in settings_of(group) if values[name].present]
    own = tuple(name for name in stated if explicit[name].present)
    return _fill(tool, values, stated=tuple(stated), explicit=own)


def _train_mode(values: absl_flags.FlagValues, *, bare: bool) -> str:
    """Returns the stage that the flags name, `semi_supervised` or `label_efficiency`."""
    mode, train_mode, is_given = str(values.mode), str(values.train_mode), values["train_mode"].present
    modes = (*TRAIN_MODES, SEMI_SUPERVISED)
    if mode in (*modes, LABEL_EFFICIENCY):
        # A curve trains the whole method, so a recipe of the whole method agrees.
        agreeing = (mode, SEMI_SUPERVISED) if mode == LABEL_EFFICIENCY else (mode,)
        fix = f"contradicts --mode={mode}; leave one of them out."
        check(not is_given or train_mode in agreeing, "train_mode", train_mode, fix)
        return mode
    if bare and not is_given and mode == "train_then_eval":
        return SEMI_SUPERVISED
    check(train_mode in modes, "train_mode", train_mode, f"use one of {', '.join(modes)}.")
    return train_mode


def _semi_supervised(lines: Lines, values: absl_flags.FlagValues) -> SemiSupervisedConfig:
    for name in ("checkpoint", "teacher"):
        one = f"--{'distill' if name == 'teacher' else 'finetune'}.{name}=."
        fix = f"the stages of {SEMI_SUPERVISED} start from each other; leave it out, or name one stage: {one}"
        check(not values[name].present, name, values[name].value, fix)
    mode = "train_then_eval" if values.mode == SEMI_SUPERVISED else values.mode
    return _whole_method(lines, values, SEMI_SUPERVISED, f"--mode={mode}")


def _label_efficiency(lines: Lines, values: absl_flags.FlagValues) -> LabelEfficiencyConfig:
    fix = "the teacher is the network finetuned on the same labels; leave it out, or use --distill.teacher=."
    check(not values["teacher"].present, "teacher", values["teacher"].value, fix)
    _check_labels_vary(lines)
    unset = {name: value for name, value in _DEFAULTS_OF_CURVE.items() if not values[name].present}
    defaults = [f"--{stage}.{name}={value}" for stage in TRAIN_MODES[1:] for name, value in unset.items()]
    lines = Lines([*defaults, *lines.from_files], lines.explicit)
    # `LabelEfficiencyConfig` chooses the labels of each run.
    one = ("--mode=train_then_eval", "--labels_per_class=1", "--label_fraction=1")
    method = _whole_method(lines, values, LABEL_EFFICIENCY, *one)
    given = values["labels_per_class"]
    labels = str(given.value) if given.present else LabelEfficiencyConfig.labels_per_class
    config = _fill(LabelEfficiencyConfig, values, method=method, labels_per_class=labels)
    _check_all_stages_run(lines, config)
    return config


def _check_labels_vary(lines: Lines) -> None:
    """Raises UserError if the command line chooses labels in a way that a curve cannot use."""
    general = parse(of_stage(lines.explicit, None))
    fix = "use --labels_per_class=, with commas between the numbers."
    for stage in TRAIN_MODES:
        own = parse(of_stage(lines.explicit, stage))
        meaningless = f"has no meaning with --mode={LABEL_EFFICIENCY}; {fix}"
        check(own.label_fraction == 1, "label_fraction", own.label_fraction, meaningless)
        is_same = own.labels_per_class == general.labels_per_class
        name = f"{stage}.labels_per_class"
        check(is_same, name, own.labels_per_class, f"cannot differ between the stages; {fix}")


def _check_all_stages_run(lines: Lines, config: LabelEfficiencyConfig) -> None:
    """Raises UserError if the command line has a flag of a stage that the curve does not run."""
    unused = set(TRAIN_MODES) - {name.rpartition("/")[2] for name in config.runs}
    for argument in lines.explicit:
        if argument.lstrip("-").startswith(tuple(f"{stage}." for stage in unused)):
            raise UserError(f"{argument}: this stage is not run; leave it out, or see --efficiency_methods.")


def _whole_method(lines: Lines, values: absl_flags.FlagValues, name: str, *more: str) -> SemiSupervisedConfig:
    steps = {stage: _config_of_stage(lines, stage, *more, shared=values) for stage in TRAIN_MODES}
    directory = values.model_dir or default_model_dir(steps["pretrain"].data.dataset, name)
    return SemiSupervisedConfig(**steps, model_dir=directory)


def _config_of_stage(
    lines: Lines, stage: str, *more: str, shared: absl_flags.FlagValues | None = None
) -> ExperimentConfig:
    """Returns the configuration of a stage, without those flags in `shared` that belong to another stage."""
    own = parse([*lines.of_stage(stage), *more, f"--train_mode={stage}"])
    if shared is not None:
        for name, owner in _STAGE_OF.items():
            if stage != owner and own[name].value == shared[name].value:
                own[name].unparse()
    if own.mode in TRAIN_MODES:
        own["mode"].value = "train_then_eval"
    return _fill(ExperimentConfig, own)


def _fill(owner: type[_Config], flag_values: absl_flags.FlagValues, **others: Any) -> _Config:
    """Makes a group of settings from the flags with the names of its fields, and from `others`."""
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(owner):
        if field.name in others:
            arguments[field.name] = others[field.name]
        elif dataclasses.is_dataclass(field.type):
            arguments[field.name] = _fill(cast(type[Settings], field.type), flag_values)
        elif field.name in flag_values:
            arguments[field.name] = flag_values[field.name].value
    return owner(**arguments)
