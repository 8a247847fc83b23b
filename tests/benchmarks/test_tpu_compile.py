"""The benchmark that compiles a step for a TPU: its commands, its row, its errors."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types

import pytest

from benchmarks import tpu_compile
from benchmarks.lowering import parse_step
from benchmarks.tpu_compile import Compiled, describe
from tests.support.runs import REPOSITORY
from tf_simclr.config import UserError

PAGE = (REPOSITORY / "docs" / "scaling.md").read_text()
TINY = ["--resnet_depth=10", "--width_multiplier=0.125", "--image_size=32", "--train_batch_size=8"]


def run_main(monkeypatch, *arguments, missing=None):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["tpu_compile", *arguments])
    for name in ("jax", "libtpu"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    tpu_compile.main()


def test_row_has_the_columns_of_the_page():
    config = parse_step([*TINY, "--sk_ratio=0.0625", "--precision=mixed_bfloat16"])
    row = describe(config, Compiled(59.6, 2**29, 3 * 2**30, 1.234e12))
    assert row == "| pretrain | ResNet-10 0.125x SK 32 px | mixed_bfloat16 | 8 | 60 | 0.50 | 3.00 | 1.23 |"
    (head,) = re.findall(r"^\| task \|.*\|$", PAGE, re.MULTILINE)
    assert head.count("|") == row.count("|")


@pytest.mark.parametrize("missing", ["jax", "libtpu"])
def test_missing_package_is_named(monkeypatch, missing):
    with pytest.raises(UserError, match=rf"^benchmarks.tpu_compile: {missing} is missing; pip install jax==0.12.0.1 "):
        run_main(monkeypatch, "--topology=v5e:2x2", missing=missing)


def test_commands_of_the_page_are_understood_and_the_last_topology_wins(monkeypatch):
    compiled = []
    monkeypatch.setattr(tpu_compile, "lower_step", lambda config: types.SimpleNamespace(hlo=config))
    monkeypatch.setattr(tpu_compile, "to_stablehlo", lambda hlo: hlo)
    monkeypatch.setattr(tpu_compile, "compile_for_tpu", lambda *step: compiled.append(step) or Compiled(1, 1, 1, 1))
    commands = re.findall(r"python -m benchmarks\.tpu_compile (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
    for command in commands:
        run_main(monkeypatch, "--topology=v4:2x2x1", *shlex.split(command))
    assert [(config.model.image_size, topology) for config, topology in compiled] == [(224, "v5e:2x2")] * 2
    with pytest.raises(UserError, match=r"^--resnet_deep: no such flag"):
        run_main(monkeypatch, "--resnet_deep=50")


@pytest.mark.exhaustive
def test_tiny_step_compiles_where_the_compiler_is():
    if importlib.util.find_spec("libtpu") is None or importlib.util.find_spec("jax") is None:
        pytest.skip("jax and libtpu are optional")
    command = [sys.executable, "-m", "benchmarks.tpu_compile", *TINY, "--train_mode=distill"]
    for arguments, answer in (
        ([], r"\| distill \| ResNet-10 0.125x 32 px \| float32 \| 8 \| \d+ \| 0.0\d \| 0.0\d \| 0.00 \|"),
        (["--topology=v5e:7"], r"--topology=v5e:7: .*; use one such as v5e:2x2\."),
    ):
        done = subprocess.run([*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert re.fullmatch(answer, (done.stderr + done.stdout).strip().splitlines()[-1])
