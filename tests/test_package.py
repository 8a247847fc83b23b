"""The package that pip installs: its requirements, and its work without a checkout."""

import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf
from packaging.requirements import Requirement

import tf_simclr
from tests.support.runs import REPOSITORY, tiny_arguments

tomllib = pytest.importorskip("tomllib")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def requirements_of(lines):
    """{(name, marker): its versions} of lines of a requirements file or of pyproject.toml."""
    lines = [line.partition("#")[0].strip() for line in lines]
    found = [Requirement(line) for line in lines if line]
    return {(one.name.replace("_", "-"), str(one.marker)): one.specifier for one in found}


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-optional.txt"])
def test_tested_versions_lie_in_the_ranges_of_the_package(file):
    optional = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    ranges = requirements_of(PROJECT["dependencies"] if file == "requirements.txt" else optional)
    tested = requirements_of((REPOSITORY / file).read_text().splitlines())
    assert tested.keys() == ranges.keys()
    for key, versions in tested.items():
        pins = [one.version for one in versions if one.operator == "=="]
        assert all(map(ranges[key].contains, pins)) if pins else versions == ranges[key], key


def test_version_is_that_of_the_change_log_and_the_citation():
    first = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (\S+)", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    assert first[1] == cited[1] == tf_simclr.__version__


def test_development_tools_hold_the_build_backend():
    backend = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    ((key, versions),) = requirements_of(backend).items()
    (pin,) = requirements_of((REPOSITORY / "requirements-dev.txt").read_text().replace("-r", "#").splitlines())[key]
    assert versions.contains(pin.version)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a program of the wheel in an environment without the checkout, but with the packages of the tests."""
    pytest.importorskip("hatchling")
    root = tmp_path_factory.mktemp("package")
    python = root / "environment" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(REPOSITORY)]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "environment")], check=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (packages,) = (root / "environment" / "lib").glob("*/site-packages")
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run_installed(program, *arguments, cwd=root):
        command = [python.parent / program, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run_installed


@pytest.mark.slow
@pytest.mark.parametrize("command", [["tf-simclr"], ["python", "-m", "tf_simclr"]], ids=" ".join)
def test_installed_program_says_its_version(installed, tmp_path, command):
    (tmp_path / "run.py").write_text("raise SystemExit('a program of the user')\n")
    done = installed(*command, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tf_simclr {tf_simclr.__version__}\n", "")


@pytest.mark.slow
def test_installed_program_trains_exports_and_measures(installed, tmp_path):
    arguments = tiny_arguments(tmp_path / "run", train_steps=2, checkpoint_steps=0, eval_steps=1)
    done = installed("tf-simclr", "--flagfile=digits", "--train_mode=pretrain", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Report: ")
    module = tf.saved_model.load(str(tmp_path / "run" / "saved_model" / "2"))
    assert module(tf.zeros([2, 8, 8, 3]), training=False)["final_avg_pool"].shape == (2, 64)
    measured = installed("tf-simclr", "--mode=benchmark", "--benchmark=flops", "--image_size=32")
    assert measured.returncode == 0, measured.stderr
    assert "| ResNet-152 3x SK 32 px | " in measured.stdout
