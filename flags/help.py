"""Texts of `--help` and docs/flags.md, from the settings: `python -m flags.help > docs/flags.md`."""

import textwrap
from collections.abc import Sequence

from flags.definitions import ACCEPTED_WITHOUT_EFFECT
from tf_simclr import __version__
from tf_simclr.config import MODES, Setting, UserError, all_settings
from tf_simclr.config.setting import kind_text

_NAMES = ("h", "help", "helpfull", "helpshort")
_WIDTH = 80
EXAMPLES = {
    "": "the whole method on handwritten digits, in minutes",
    "--flagfile=photos --dataset=folder:PATH --model_dir=runs/photos": "the whole method on your own images",
    "--mode=preview --dataset=folder:PATH --output=views.png": "a picture of random views of your images",
    "--mode=linear_eval --checkpoint=RUN --dataset=folder:PATH": "the quality of a run's features",
    "--mode=export --checkpoint=RUN --export_formats=saved_model,onnx": "a trained network for other programs",
}
GROUPS = {
    "run": "Choose what to do, and where",
    "data": "Name the images",
    "labels": "Use few labels, and measure their value",
    "views": "Change the random views",
    "network": "Choose the network",
    "training": "Set length, batch and optimizer",
    "pretrain": "Pretrain",
    "distill": "Distill",
    "saving": "Save, resume, keep",
    "speed": "Go faster, or fit into memory",
    "devices": "Use several devices or machines",
    "evaluation": "Evaluate a run",
    "features": "Use frozen features: embed, linear_eval, knn_eval",
    "suites": "Evaluate on other data: transfer, robustness",
    "export": "Export, import",
    "prepare": "Prepare data, look at views: prepare, preview",
    "benchmark": "Measure speed and memory",
}
_INTRODUCTION = """\
tf-simclr [--mode=MODE] [--flagfile=RECIPE] [--FLAG=VALUE ...]

{examples}

--STAGE.FLAG=VALUE sets a flag for one stage, --flagfile=FILE reads flags from a
recipe or a file, --version prints the version. `python run.py` is the same
program. --help=FLAG describes one flag, --help=GROUP a group of flags:
{groups}
"""
_WITHOUT_EFFECT = f"Accepted for the authors' commands: {', '.join(f'--{name}' for name in ACCEPTED_WITHOUT_EFFECT)}."


def help_text(arguments: Sequence[str] = ("--help",)) -> str | None:
    """Returns what `arguments` ask to be told: all flags, a group, a flag or the version; None if they ask nothing.

    Help flags have any form that absl programs accept.

    Raises:
        UserError: if they ask for an unknown group or flag.
    """
    asked = _asked(arguments)
    if asked is None:
        return f"tf_simclr {__version__}" if "--version" in arguments else None
    if asked in GROUPS:
        return _group(asked)
    if asked in all_settings():
        return _entry(all_settings()[asked])
    if asked.lower() not in ("", "true", "t", "1"):
        raise UserError(f"--help={asked}: no such group or flag; use one of {', '.join(GROUPS)}.")
    examples = "\n".join(f"  {f'tf-simclr {flags}'.rstrip()}\n      {what}" for flags, what in EXAMPLES.items())
    groups = "\n".join(f"  {name:12}{title}" for name, title in GROUPS.items())
    return "\n".join([_INTRODUCTION.format(examples=examples, groups=groups), *map(_group, GROUPS), _WITHOUT_EFFECT])


def reference_page() -> str:
    """Returns the documentation page of all flags."""
    lines = [
        "# Flags",
        "Every flag, in the groups of `--help`. `python -m flags.help > docs/flags.md` makes this page.",
        "",
        "A flag with \u2713 may change between two starts of a run: the weights and their meaning do not depend on it.",
    ]
    for group, title in GROUPS.items():
        lines += [
            "",
            f"## {title}",
            "| flag | values | default | \u2713 | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += map(_row, _settings_of(group))
        if group == "run":
            lines += [
                "",
                "| `--mode=` | does |",
                "| --- | --- |",
                *(f"| `{m}` | {what} |" for m, what in MODES.items()),
            ]
    return "\n".join([*lines, "", _WITHOUT_EFFECT])


def _row(setting: Setting) -> str:
    """Returns the row of one flag on the documentation page."""
    default = "" if setting.default is None else f"`{setting.default}`"
    free = "\u2713" if setting.free else ""
    cells = (f"`--{setting.name}`", _values(setting), default, free, setting.help)
    return f"| {' | '.join(cells)} |".replace("<", "&lt;")


def _asked(arguments: Sequence[str]) -> str | None:
    """Returns the value of the first help flag, "" if it has no value; None if there is no help flag."""
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in _NAMES and value.lower() not in ("false", "f", "0"):
            return value
    return None


def _settings_of(group: str) -> list[Setting]:
    """Returns the settings of a group, the mode first."""
    return sorted((s for s in all_settings().values() if s.topic == group), key=lambda s: s.name != "mode")


def _group(group: str) -> str:
    return "\n".join([f"{group}: {GROUPS[group]}", *map(_entry, _settings_of(group)), ""])


def _entry(setting: Setting) -> str:
    """Returns the lines of one flag: name, values, default and help text."""
    name = f"[no]{setting.name}" if setting.kind is bool else setting.name
    default = "" if setting.default is None else f" (default {setting.default})"
    facts = f"--{name}: {_values(setting)}{default}"
    lines = [textwrap.fill(facts, _WIDTH, initial_indent="  ", subsequent_indent=" " * 8)]
    lines.append(textwrap.fill(setting.help, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    if setting.name == "mode":
        lines += [f"      {mode:17}{what}" for mode, what in MODES.items()]
    return "\n".join(lines)


def _values(setting: Setting) -> str:
    if setting.name == "mode":
        return "one of those below"
    return setting.values_text.removeprefix("one of ") or kind_text(setting.kind).removeprefix("a ")


if __name__ == "__main__":
    print(reference_page())
