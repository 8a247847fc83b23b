"""The export as a reusable module of TF-Hub, for programs that know nothing of this project."""

import pathlib
import subprocess
import sys

import pytest

from tests.exports import module_maker

pytestmark = pytest.mark.stack


@pytest.mark.slow
@pytest.mark.exhaustive
def test_module_serves_and_trains_in_a_program_without_this_project(tmp_path):
    """`.ci/run` runs the same across both versions of TensorFlow."""
    module_maker.main(str(tmp_path / "module"))
    user = pathlib.Path(__file__).with_name("module_user.py")
    command = [sys.executable, str(user), str(tmp_path / "module")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok ")
