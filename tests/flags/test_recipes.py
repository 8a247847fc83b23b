"""Every ready-made flagfile is valid and says what it is for."""

import pathlib
import re

import pytest

from flags.convert import RECIPES, parse_command_line

FILES = sorted(pathlib.Path(RECIPES).glob("*.flags"))
NEEDED = ["digits", "cifar10_r18", "cifar10_r50", "imagenet_r50_simclr_v1"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recipe(request):
    return request.param


def test_recipes_needed_are_there():
    assert set(NEEDED) <= {path.stem for path in FILES}


def test_recipe_is_a_valid_configuration(recipe):
    config, notes = parse_command_line([f"--flagfile={recipe}"])
    assert notes == []
    assert config.mode == "train_then_eval"


def test_recipe_can_be_shortened_by_flags(recipe):
    config, _ = parse_command_line(["--train_steps=2", f"--flagfile={recipe}", "--model_dir=elsewhere"])
    assert (config.train.train_steps, config.model_dir) == (2, "elsewhere")


def test_recipe_header_says_purpose_hardware_result_and_whether_measured(recipe):
    lines = recipe.read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    for part in (r"^# Purpose: \S", r"^# Hardware: \S", r"^# Expected result: \S", r"(?i)measured|not run"):
        assert re.search(part, header, re.MULTILINE), f"{part!r} is not in the header of {recipe.name}"


def test_recipe_names_its_data_set_and_its_own_model_directory_can_be_left_out(recipe):
    text = recipe.read_text()
    assert "--dataset=" in text or "--flagfile=" in text
    assert "--model_dir=" not in text
