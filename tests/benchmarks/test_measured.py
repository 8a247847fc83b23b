"""Each benchmark, on tiny networks."""

import importlib.util
import os
import re

import numpy as np
import pytest

from benchmarks import input as input_benchmark
from benchmarks import machine, startup, step
from benchmarks.command import measure, run_benchmark
from benchmarks.fresh import OutOfMemoryError, in_fresh_process
from benchmarks.step import prepare_step
from benchmarks.synthetic import training_of
from benchmarks.table import ROWS, measure_row
from flags.convert import parse_command_line
from tf_simclr.config import BenchmarkConfig, UserError

TINY = "--resnet_depth=10 --width_multiplier=0.125 --image_size=16 --proj_out_dim=8 --benchmark_batch_size=4"


def config_of(arguments, more=TINY) -> BenchmarkConfig:
    return parse_command_line(["--mode=benchmark", *more.split(), *arguments.split()])[0]


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    """The limits of the machine take long and matter to no test here."""
    monkeypatch.setattr(machine, "_REPEATS", 1)
    monkeypatch.setattr(machine, "_SIDE", 256)
    monkeypatch.setattr(machine, "_CONVOLVED_NUMBERS", 2**18)
    monkeypatch.setattr(step, "_SECONDS", 0.05)


def figures_of(arguments):
    outcome = measure(config_of(arguments))
    assert min(outcome.limits.matmul, outcome.limits.convolution, outcome.limits.bandwidth) > 0
    for figure in outcome.figures:
        assert min(figure.samples) > 0
    return outcome.figures


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pretrain", pytest.param("distill", marks=pytest.mark.exhaustive)])
def test_step_is_measured(mode):
    (figure,) = figures_of(f"--benchmark=step --train_mode={mode} --benchmark_repeats=2")
    assert figure.unit == ("pairs/s" if mode == "pretrain" else "images/s")
    assert len(figure.samples) == 2
    assert figure.memory > 0.1
    assert figure.gflops_per_second > 0
    compared = mode == "pretrain" and importlib.util.find_spec("torch") is not None
    assert bool(figure.pytorch) == compared
    assert ("not compared with PyTorch" in figure.notes[0]) != compared


@pytest.mark.exhaustive
def test_memory_is_measured_with_and_without_what_saves_it():
    peak, imported, whole = figures_of("--benchmark=memory --contrast_chunks=2 --global_bn=False --benchmark_repeats=1")
    assert {figure.unit for figure in (peak, imported, whole)} == {"GB"}
    assert imported.samples[0] < min(peak.samples[0], whole.samples[0])
    assert whole.work == "memory of the pretrain step with --contrast_chunks=1"
    assert re.fullmatch(r"\d+% of the memory with --contrast_chunks=1, \d\.\d\d times the time", peak.notes[1])


@pytest.mark.exhaustive
def test_startup_is_measured():
    figures = figures_of("--benchmark=startup --benchmark_repeats=1")
    names = [figure.work.removeprefix("from process start to ") for figure in figures]
    assert names == ["first step done", "first step traced", "network built", "TensorFlow imported"]
    seconds = [figure.samples[0] for figure in figures]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.exhaustive
def test_step_that_was_traced_is_not_run_and_not_traced_again(monkeypatch):
    prepared = []
    monkeypatch.setattr(
        startup, "prepare_step", lambda training: prepared.append(prepare_step(training)) or prepared[0]
    )
    reached, _ = startup.start_up(training_of(config_of("--benchmark=startup")), trace_only=True)
    assert list(reached) == ["TensorFlow imported", "network built", "first step traced"]
    assert np.isfinite(prepared[0]())
    assert prepared[0].run.experimental_get_tracing_count() == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("arguments", "source", "is_bounded"),
    [
        ("", "random images in memory", False),
        ("--dataset=digits", "digits (train)", False),
        ("--image_size=40", "JPEG files", True),
        ("--image_size=40 --train_mode=supervised", "JPEG files", True),
    ],
)
def test_input_is_measured(monkeypatch, arguments, source, is_bounded):
    monkeypatch.setattr(input_benchmark, "_NUM_FILES", 16)
    monkeypatch.setattr(input_benchmark, "_NUM_ARRAYS", 64)
    monkeypatch.setattr(input_benchmark, "_SECONDS", 0.05)
    (figure,) = figures_of(f"--benchmark=input --benchmark_repeats=2 {arguments}")
    views = "1 view" if "supervised" in arguments else "2 views"
    assert figure.work == f"input of {views} from {source}"
    assert (figure.bound is not None) == is_bounded


@pytest.mark.exhaustive
def test_row_of_the_table_is_measured_or_says_why_not():
    assert measure_row(f"--benchmark=step {TINY} --benchmark_repeats=1").figures[0].unit == "pairs/s"
    assert measure_row("--benchmark=step --no_such_flag=1").startswith("--no_such_flag: no such flag")


@pytest.mark.parametrize("name", ROWS)
def test_row_of_the_table_is_a_benchmark(name):
    assert isinstance(config_of(ROWS[name], more=""), BenchmarkConfig)


def test_flops_are_printed_without_measuring(capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.command.measure", None)
    run_benchmark(config_of("--benchmark=flops"))
    assert "| ResNet-10 0.125x 16 px | " in capsys.readouterr().out


def test_contradicting_settings_are_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("benchmarks.command.measure", None)
    with pytest.raises(UserError, match=r"^--contrast_chunks=2: contradicts --global_bn=True"):
        run_benchmark(config_of("--benchmark=step --contrast_chunks=2"))


@pytest.mark.exhaustive
def test_process_that_ends_itself_does_not_fit():
    with pytest.raises(OutOfMemoryError):
        in_fresh_process(os._exit, 1)


def test_limits_are_measured_in_16_bits():
    limits = machine.measure_limits("bfloat16")
    assert min(limits.matmul, limits.convolution, limits.bandwidth) > 0
