"""The benchmark of a step without TensorFlow: its export, its text, and its timing if jax is installed."""

import importlib.util
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import xla_step
from benchmarks.lowering import Program, parse_step
from benchmarks.xla_step import Timing, describe, export_step, main, read_program
from tests.support.runs import REPOSITORY
from tf_simclr.augment.views import NUM_DRAWS
from tf_simclr.config import UserError

PAGE = (REPOSITORY / "docs" / "performance_gpu.md").read_text()
TINY = ["--resnet_depth=10", "--width_multiplier=0.125", "--image_size=32", "--train_batch_size=8"]
HAS_JAX = importlib.util.find_spec("jax") is not None


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("step") / "step.npz"
    export_step(str(path), TINY)
    return path


@pytest.mark.slow
def test_exported_step_has_its_program_and_all_that_it_reads(exported):
    program = read_program(str(exported))
    assert program.about == {"step": "pretrain ResNet-10 0.125x 32 px, float32", "batch_size": 8, "dtype": "float32"}
    images = [one for one in program.arguments if one["shape"] == [8, 32, 32, 3]]
    assert len(images) == 2
    assert all(abs(one["mean"] - 0.5) < 0.02 and 0 <= one["min"] < one["max"] <= 1 for one in images)
    assert sum(one["dtype"] == "int64" for one in program.arguments) == 1  # The step.
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


@pytest.mark.slow
def test_augmentation_on_the_device_is_a_part_of_the_step(exported, tmp_path):
    path = tmp_path / "augmented.npz"
    export_step(str(path), [*TINY, "--augment_on=device"])
    plain, augmented = read_program(str(exported)), read_program(str(path))
    assert augmented.about["step"] == "pretrain and augmentation ResNet-10 0.125x 32 px, float32"
    draws = [one for one in augmented.arguments if one["shape"] == [8, NUM_DRAWS]]
    assert len(draws) == 2
    assert len(augmented.arguments) == len(plain.arguments) + 2
    assert len(augmented.hlo) > len(plain.hlo)


@pytest.mark.slow
def test_arguments_are_in_the_order_of_the_program(exported):
    hlo_pb2 = pytest.importorskip("tensorflow.compiler.xla.service.hlo_pb2")  # TensorFlow 2.15 has it there.
    program = read_program(str(exported))
    shapes = hlo_pb2.HloModuleProto.FromString(program.hlo).host_program_shape.parameters
    assert [list(shape.dimensions) for shape in shapes] == [one["shape"] for one in program.arguments]


def test_results_are_matched_with_the_variables_whose_memory_they_reuse():
    first_line = "HloModule step, input_output_alias={ {7}: (4, {}, may-alias), {10}: (5, {}, may-alias) }"
    text = first_line + "\n{1}: (2, {}"
    assert xla_step._variables(text) == {7: 4, 10: 5}


def test_description_has_rates_and_fractions():
    program = Program(b"", [], {"step": "pretrain R50", "batch_size": 64, "dtype": "float32"})
    timing = Timing(9.6, [0.2, 0.1, 0.4], 2e12, 1e11, 3 * 10**9, None, True)
    assert describe(program, timing, (2e13, 1e12)).splitlines() == [
        "pretrain R50, batch 64; compiled in 10 s",
        "step: 200.0 ms (100.0 to 400.0, 3 steps), 320.0 pairs/s",
        "arithmetic: 2.000 TFLOP a step, 10.000 TFLOP/s: 50.0% of this device's 20.000 in matmuls of float32",
        "traffic: 100.00 GB a step as XLA counts, 500.0 GB/s: 50.0% of this device's 1000.0",
        "memory: 3.00 GB planned by XLA; most in use: not told",
    ]
    timing = timing._replace(peak_bytes=4 * 10**9, is_finite=False)
    assert "NOT finite" in describe(program, timing, (2e13, 1e12))
    assert describe(program, timing, (2e13, 1e12)).endswith("most in use: 4.00 GB")


def test_timing_loads_neither_tensorflow_nor_absl():
    program = "import sys, benchmarks.xla_step; sys.exit(bool({'tensorflow', 'absl'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize("content", [None, b"", b"no archive", "other"])
def test_file_that_is_no_step_is_refused(tmp_path, content):
    path = tmp_path / "step.npz"
    if content == "other":
        np.savez(path, x=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        main(["time", str(path)])
    assert str(error.value).startswith(f"{path}: is no exported step (")
    assert "\n" not in str(error.value)


def test_wrong_flags_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^--resnet_deep: no such flag"):
        main(["export", str(tmp_path / "x.npz"), "--resnet_deep=50"])
    with pytest.raises(SystemExit):
        main(["time", "x.npz", "--steps=0"])


def test_commands_of_the_page_are_understood(monkeypatch):
    taken = []
    monkeypatch.setattr(
        xla_step, "export_step", lambda path, flags: taken.append(flags) or Program(b"", [], {"step": ""})
    )
    monkeypatch.setattr(xla_step.os.path, "getsize", lambda path: 0)
    for command in re.findall(r"python -m benchmarks\.xla_step (export .*)$", PAGE, re.MULTILINE):
        sizes = command.replace("$flags", "--image_size=224 --train_batch_size=$batch --precision=$precision")
        main(shlex.split(sizes.replace("$batch", "64").replace("$precision", "float32")))
    assert len(taken) == 4
    assert [parse_step(flags).model.sk_ratio for flags in taken] == [0, 0, 0, 0.0625]


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_JAX, reason="jax is optional")
def test_exported_step_is_timed(exported):
    command = [sys.executable, "-m", "benchmarks.xla_step", "time", str(exported), "--steps=2"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert re.search(r"^step: .* 2 steps\), \d+\.\d pairs/s$", done.stdout, re.MULTILINE), done.stderr
