"""The benchmark that compiles a step for a TPU: its commands, its row, and what it says where it cannot."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types

import pytest

from benchmarks import tpu_compile
from benchmarks.tpu_compile import Compiled, describe
from flags.convert import parse_command_line
from tests.support.runs import REPOSITORY
from tf_simclr.config import UserError

PAGE = (REPOSITORY / "docs" / "scaling.md").read_text()
TINY = ["--resnet_depth=18", "--width_multiplier=0.125", "--image_size=32", "--train_batch_size=8"]


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["tpu_compile", *arguments])
    tpu_compile.main()


def test_row_has_the_columns_of_the_page():
    config, _ = parse_command_line(["--dataset=cifar10", *TINY, "--sk_ratio=0.0625", "--precision=mixed_bfloat16"])
    row = describe(config, Compiled(59.6, 2**29, 3 * 2**30, 1.234e12))
    assert row == "| pretrain | R18 0.125x SK | mixed_bfloat16 | 8 | 60 | 0.50 | 3.00 | 1.23 |"
    (head,) = re.findall(r"^\| task \|.*\|$", PAGE, re.MULTILINE)
    assert head.count("|") == row.count("|")


@pytest.mark.parametrize("missing", ["jax", "libtpu"])
def test_package_that_is_missing_is_named_in_one_line(monkeypatch, missing):
    for name in ("jax", "libtpu"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    with pytest.raises(UserError) as error:
        run_main(monkeypatch, "--topology=v5e:2x2")
    message = str(error.value)
    assert message == f"benchmarks.tpu_compile: {missing} is missing; pip install jax==0.12.0.1 libtpu==0.0.52."


def test_last_topology_wins_and_flags_are_those_of_the_program(monkeypatch):
    compiled = []
    for name in ("jax", "libtpu"):
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.setattr(tpu_compile, "lower_step", lambda config, num_classes: types.SimpleNamespace(hlo=config))
    monkeypatch.setattr(tpu_compile, "to_stablehlo", lambda hlo: hlo)
    monkeypatch.setattr(
        tpu_compile,
        "compile_for_tpu",
        lambda config, topology: compiled.append((config, topology)) or Compiled(1, 1, 1, 1),
    )
    commands = re.findall(r"python -m benchmarks\.tpu_compile (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
    assert commands
    for command in commands:
        run_main(monkeypatch, "--topology=v4:2x2x1", *shlex.split(command))
    assert {topology for _, topology in compiled} == {"v5e:2x2"}
    assert {config.model.image_size for config, _ in compiled} == {224}
    with pytest.raises(UserError, match=r"^--resnet_deep: no such flag"):
        run_main(monkeypatch, "--resnet_deep=50")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            ["--train_mode=distill", "--precision=mixed_bfloat16"],
            r"\| distill \| R18 0.125x \| mixed_bfloat16 \| 8 \| \d+ \| 0.01 \| 0.0\d \| 0.00 \|",
        ),
        (["--topology=v5e:7"], r"--topology=v5e:7: .*; use one such as v5e:2x2\."),
    ],
)
def test_tiny_step_compiles_where_the_compiler_is(arguments, answer):
    if importlib.util.find_spec("libtpu") is None or importlib.util.find_spec("jax") is None:
        pytest.skip("jax and libtpu are optional")
    command = [sys.executable, "-m", "benchmarks.tpu_compile", *TINY, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert re.fullmatch(answer, (done.stderr + done.stdout).strip().splitlines()[-1])
