"""`--help` and docs/flags.md have every flag, in groups, within 80 columns."""

import pathlib
import shlex

import pytest

from flags.convert import parse_command_line
from flags.help import EXAMPLES, GROUPS, help_text, reference_page
from tf_simclr.config import MODES, UserError, all_settings

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "flags.md"


@pytest.mark.parametrize(
    ("argument", "asked"),
    [
        *[(argument, True) for argument in ("-h", "-help", "--help", "--help=True", "--help=data", "--helpfull")],
        *[(argument, False) for argument in ("--help=false", "help", "--model_dir=help")],
    ],
)
def test_help_is_asked_for_as_in_other_programs_with_absl(argument, asked):
    assert (help_text(["--dataset=digits", argument]) is not None) == asked


@pytest.mark.parametrize("argument", ["-help", "--help=true", "--helpfull", "--helpshort"])
def test_help_has_every_flag_and_mode_within_80_columns(argument):
    text = help_text([argument])
    assert max(map(len, text.splitlines())) <= 80
    for name, setting in all_settings().items():
        assert text.count(f"  --{'[no]' * (setting.kind is bool)}{name}: ") == 1
    for mode in MODES:
        assert f"\n      {mode} " in text


def test_help_begins_with_five_commands_that_are_understood():
    assert len(EXAMPLES) == 5
    for command in EXAMPLES:
        assert help_text().index(f"tf-simclr {command}".rstrip()) < help_text().index("--help=GROUP")
        parse_command_line(shlex.split(command))


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_is_its_part_of_the_whole(group):
    text = help_text([f"--help={group}"])
    assert text in help_text()
    assert text.startswith(f"{group}: ")
    assert text.count("\n  --") == sum(setting.topic == group for setting in all_settings().values()) > 0


def test_help_of_a_flag_says_values_default_and_meaning():
    assert help_text(["--help=image_size"]) == (
        "  --image_size: at least 8 pixels (default 224)\n"
        "      Side of the network's images. Up to 32 uses the small stem."
    )


def test_help_of_something_else_names_the_groups():
    with pytest.raises(UserError, match=r"^--help=dta: no such group or flag; use one of run, data, labels"):
        help_text(["--help=dta"])


def test_page_of_the_documentation_is_made_from_the_settings():
    assert PAGE.read_text(encoding="utf-8") == f"{reference_page()}\n", "python -m flags.help > docs/flags.md"
