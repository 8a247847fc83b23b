"""Every command of the README and the documentation is one that the program takes."""

import itertools
import re
import shlex

import pytest

import run
from flags.convert import parse_command_line
from tests.support.runs import REPOSITORY, eagerly, write_images
from tf_simclr.config import LabelEfficiencyConfig, Tool

# The runs that other pages start from are those of docs/training.md.
FIRST_PAGES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "training.md"]
PAGES = [*FIRST_PAGES, *sorted(set((REPOSITORY / "docs").glob("*.md")) - set(FIRST_PAGES))]
SHORT_CURVE = ["--labels_per_class=2", "--num_seeds=1"]
SHORT = ["--train_steps=2", "--checkpoint_steps=0", "--eval_steps=1", "--mode=train_then_eval"]
SMALL = [
    "--resnet_depth=10",
    "--train_batch_size=8",
    "--eval_batch_size=450",
    "--width_multiplier=0.125",
    "--keep_hub_module_max=0",
]


def commands_of(text):
    """The arguments of each `python run.py` and `tf-simclr` in the fenced blocks of a page, continued lines joined."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"\b(?:python[\d.]* run\.py|tf-simclr)\b(.*)", line):
                yield shlex.split(match[1], comments=True)


COMMANDS = {page.name: list(commands_of(page.read_text())) for page in PAGES}


def parsed(arguments):
    return None if {"--help", "--version"} & set(arguments) else parse_command_line(arguments)[0]


def on_digits(arguments):
    config = parsed(arguments)
    if config is None or isinstance(config, Tool):
        return any("=runs/digits/" in argument for argument in arguments) and "PATH" not in " ".join(arguments)
    return all(run.data.dataset == "digits" for run in config.runs.values())


def run_on_digits():
    """The commands on digits, in the order of the pages; of curves and of those that differ in values, the first."""
    found = {}
    for arguments in filter(on_digits, itertools.chain(*COMMANDS.values())):
        mode = "".join(argument for argument in arguments if argument.startswith("--mode="))
        names = {argument.partition("=")[0] for argument in arguments}
        found.setdefault((mode, frozenset() if "efficiency" in mode else frozenset(names)), arguments)
    return list(found.values())


def test_readme_has_commands():
    assert COMMANDS["README.md"]


def test_commands_are_found_in_fenced_blocks_alone():
    page = "python run.py --a=1\n```sh\n$ python run.py \\\n  --b='x y'  # Comment\ntf-simclr --d\n```\n`tf-simclr`\n"
    assert list(commands_of(page)) == [["--b=x y"], ["--d"]]


@pytest.mark.parametrize("page", COMMANDS)
def test_commands_of_a_page_are_understood(page, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for arguments in COMMANDS[page]:
        parsed(arguments)


# Words of commands whose work other tests show; `.ci/run` runs the first one itself.
REPETITIONS = ("train_then_eval", "label_efficiency", "by_hand", "protocol=", "mode=export")


@pytest.mark.slow
@pytest.mark.parametrize(
    "left_out", [REPETITIONS, pytest.param((), marks=pytest.mark.exhaustive)], ids=["without repetitions", "all"]
)
def test_commands_on_digits_run(left_out, tmp_path, log, capsys):
    """A later command starts from what an earlier one left in `runs/`."""
    with eagerly():
        for arguments in run_on_digits():
            if not any(word in " ".join(arguments) for word in left_out):
                run_on_digits_command(arguments, tmp_path, log, capsys)


def run_on_digits_command(command, runs, log, capsys):
    arguments = [argument.replace("=runs/", f"={runs}/") for argument in command]
    config, names = parsed(arguments), {argument.partition("=")[0] for argument in command}
    if is_tool := isinstance(config, Tool):
        arguments.append("--overwrite=True")  # Several pages write the same.
    else:
        arguments += [flag for flag in SHORT + SMALL if flag.partition("=")[0] not in names]
        arguments += SHORT_CURVE if isinstance(config, LabelEfficiencyConfig) else []
        arguments += [] if "--model_dir" in names else [f"--model_dir={runs}/{len(list(runs.iterdir()))}"]
    log.clear()
    capsys.readouterr()
    assert run.main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
    assert is_tool or "Result: " in log.text


@pytest.mark.slow
@pytest.mark.exhaustive
def test_command_on_a_folder_runs(tmp_path, log):
    """`tests/flags/test_authors_commands.py` runs commands on cifar10."""
    command = "--flagfile=photos --dataset=folder:PATH --model_dir=runs/photos"
    assert command.split() in itertools.chain(*COMMANDS.values())
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "unlabelled"):
        write_images(tmp_path / "photos" / name, 10)
    own = command.replace("PATH", str(tmp_path / "photos")).split()
    with eagerly():
        assert run.main([*own, *SHORT, *SMALL, f"--model_dir={tmp_path / 'run'}"]) == 0
    assert "Result: " in log.text


def test_pages_have_no_placeholders():
    for page in PAGES:
        assert not re.search(r"\b(RUNTIME|STRONG|[A-Z]+_TABLE)\b", page.read_text()), page
