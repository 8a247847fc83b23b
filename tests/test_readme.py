"""Every command of the README and the documentation is one that the program takes."""

import re
import shlex

import pytest

from flags.convert import parse_command_line
from tests.runs import REPOSITORY, run_program

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SHORT = ["--train_steps=2", "--checkpoint_steps=0", "--eval_steps=1", "--mode=train_then_eval"]


def commands_of(text):
    """The arguments of each `python run.py` in the fenced blocks of a page, continued lines joined."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"\bpython[\d.]* run\.py\b(.*)", line):
                yield shlex.split(match[1], comments=True)


def commands():
    found = {}
    for page in PAGES:
        for arguments in commands_of(page.read_text()):
            found.setdefault(" ".join(arguments), arguments)
    return found


COMMANDS = commands()


def on_digits(arguments):
    if "--help" in arguments:
        return False
    return parse_command_line(arguments)[0].data.dataset == "digits"


def test_readme_has_commands():
    assert any(commands_of(PAGES[0].read_text()))


def test_commands_are_found_in_fenced_blocks_alone():
    page = (
        "python run.py --a=1\n```sh\n$ python run.py \\\n  --b='x y'  # Comment\n```\n`python run.py --c`\n"
    )
    assert list(commands_of(page)) == [["--b=x y"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    if "--help" not in COMMANDS[command]:
        parse_command_line(COMMANDS[command])


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name, arguments in COMMANDS.items() if on_digits(arguments)])
def test_command_on_digits_runs(command, tmp_path):
    done = run_program(*COMMANDS[command], *SHORT, f"--model_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "Result: " in done.stdout
