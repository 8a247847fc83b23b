"""Measure the peak memory of the training step, in separate processes.

python run.py --mode=benchmark --benchmark=memory --image_size=224 --contrast_chunks=8 --global_bn=False \
    --benchmark_batch_size=64

Measures with and without each flag that saves memory (--contrast_chunks, --recompute), if both fit.
"""

import dataclasses
import statistics
from typing import NamedTuple

from benchmarks.figures import Figure
from benchmarks.fresh import OutOfMemoryError, in_fresh_process
from benchmarks.machine import peak_memory, resident_memory
from benchmarks.step import prepare_step, unit_of
from benchmarks.synthetic import training_of
from benchmarks.timing import time_in_turn
from tf_simclr.config import BenchmarkConfig, ExperimentConfig, UserError


class StepMemory(NamedTuple):
    """Measurements of one process.

    Attributes:
        imported: GB with TensorFlow imported, before anything was built.
        peak: GB at most.
        seconds: time of each step after the first.
    """

    imported: float
    peak: float
    seconds: tuple[float, ...]


def measure_memory(config: BenchmarkConfig) -> list[Figure]:
    """Measures the step of `config`, with and without each flag that saves memory.

    Raises:
        UserError: if the step does not fit into the memory of this machine.
    """
    training = training_of(config)
    try:
        asked = in_fresh_process(step_memory, training, config.repeats)
    except OutOfMemoryError as error:
        raise UserError(
            f"--benchmark_batch_size={config.benchmark_batch_size}: the step does not fit into the memory of this "
            "machine; use a smaller one."
        ) from error
    rates = tuple(config.benchmark_batch_size / seconds for seconds in asked.seconds)
    notes = [f"{statistics.median(rates):.2f} {unit_of(training)}"]
    work = f"memory of the {training.train.train_mode} step"
    figures = [Figure(work="memory with TensorFlow imported", unit="GB", samples=(asked.imported,))]
    for name, variant in _without_savings(training).items():
        try:
            other = in_fresh_process(step_memory, variant, config.repeats)
        except OutOfMemoryError:
            notes.append(f"with {name}: does not fit into the memory of this machine")
            continue
        time = statistics.median(asked.seconds) / statistics.median(other.seconds)
        notes.append(f"{asked.peak / other.peak:.0%} of the memory with {name}, {time:.2f} times the time")
        figures.append(Figure(work=f"{work} with {name}", unit="GB", samples=(other.peak,)))
    return [Figure(work=work, unit="GB", samples=(asked.peak,), notes=tuple(notes)), *figures]


def step_memory(training: ExperimentConfig, repeats: int) -> StepMemory:
    """Measures this process, which must be new: a first step, which traces, and `repeats` more."""
    import tensorflow  # noqa: F401

    imported = resident_memory()
    step = prepare_step(training)
    seconds = time_in_turn({"step": step}, repeats, warm_up=1)["step"]
    return StepMemory(imported, peak_memory(), seconds)


def _without_savings(training: ExperimentConfig) -> dict[str, ExperimentConfig]:
    """Returns the training without each flag that saves memory, by the flag that switches it off."""
    variants = {}
    if training.contrast.contrast_chunks > 1:
        whole = dataclasses.replace(training.contrast, contrast_chunks=1)
        variants["--contrast_chunks=1"] = dataclasses.replace(training, contrast=whole)
    if training.train.recompute:
        kept = dataclasses.replace(training.train, recompute=False)
        variants["--recompute=False"] = dataclasses.replace(training, train=kept)
    return variants
