"""Output that cannot be written: one line says so, and the work goes on."""

import logging
import subprocess
import sys

import pytest

from tests.support.runs import REPOSITORY
from tf_simclr.terminal import ending
from tf_simclr.terminal.ending import missing_package

LOGGING = """
import logging
from tf_simclr.terminal.output import end_program, log_to_standard_output, tell
log_to_standard_output()
for number in range(3):
    logging.getLogger("tf_simclr").info("line %d", number)
tell("at the end")
end_program(0)
"""


def run_shell(command):
    return subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("target", "reason"), [("> /dev/full", "No space left on device"), ("| true", "Broken pipe")])
def test_log_that_cannot_be_written_is_one_line(target, reason):
    pause = "import time; time.sleep(0.1)" if "|" in target else ""
    done = run_shell(f"set -o pipefail; \"$0\" -c '{pause}{LOGGING}' {target}")
    assert done.stderr.splitlines() == [
        f"standard output cannot be written ({reason}): the work goes on without it.",
        "at the end",
    ]
    assert done.returncode == 0


@pytest.mark.parametrize("target", ["> /dev/full 2>&1", ">&-", "2>&-", ">&- 2>&-"])
def test_output_and_errors_that_go_nowhere_end_nothing(target):
    done = run_shell(f"\"$0\" -c '{LOGGING}' {target}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + done.stdout


def test_mistake_in_a_record_is_still_shown(capsys):
    from tf_simclr.terminal.output import _OutputHandler

    logger = logging.Logger("own")
    logger.addHandler(_OutputHandler())
    logger.info("%d", "x")
    assert "not str" in capsys.readouterr().err


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    error = ModuleNotFoundError("No module named 'sklearn'", name="sklearn.manifold")
    assert missing_package(error) == (
        "the package sklearn is not installed; run: python -m pip install -r requirements.txt"
    )
    monkeypatch.setattr(ending, "_REQUIREMENTS", "no/requirements.txt")  # Not in a checkout.
    assert missing_package(error) == (
        "the package sklearn is not installed; run: python -m pip check, which names all that is missing"
    )
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError("No module named 'tf_simclr.x'", name="tf_simclr.x"))
