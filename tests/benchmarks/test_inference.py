"""The benchmark of inference, on a tiny network."""

import re

import numpy as np
import pytest

from benchmarks import inference
from benchmarks.inference import measure_inference
from tests.support.networks import tiny_config
from tf_simclr.config import BenchmarkConfig

RATIO = r"\d+\.\d{3} times as fast; in pairs (\d+\.\d{3}), 95 % from (\d+\.\d{3}) to (\d+\.\d{3})"


@pytest.mark.exhaustive
def test_benchmark_gives_speeds_ratio_interval_and_difference():
    model = tiny_config(precision="float32")
    folded, *others = measure_inference(BenchmarkConfig(model=model, benchmark_batch_size=2, benchmark_repeats=6))
    assert folded.work == "folded module"
    assert [figure.work for figure in others] == ["plain network, tf.function", "plain SavedModel"]
    for figure in (folded, *others):
        assert (figure.unit, len(figure.samples)) == ("images/s", 6)
        assert figure.gflops_per_second > 0
    for note, name in zip(folded.notes, ("plain SavedModel", "plain network, tf.function"), strict=False):
        median, low, high = map(float, re.fullmatch(f"folded module against {name}: {RATIO}", note).groups())
        assert low <= median <= high
    pattern = r"largest relative difference of an output: (\d\.\de-\d\d) \(\w+\)"
    assert 0 < float(re.fullmatch(pattern, folded.notes[-1])[1]) < 1e-5


@pytest.mark.parametrize("repeats", [5, 6])
def test_ratio_is_of_the_medians_and_its_interval_of_the_pairs(repeats):
    """The interval at 95 % of 6 pairs is their range; fewer pairs have none."""
    folded = np.array([1.0, 2, 3, 4, 5, 6][:repeats])
    base = folded * np.array([1.1, 1.2, 1.3, 1.4, 1.5, 1.6][:repeats])
    line = inference._ratio("plain", base, folded)
    ratio = np.median(base) / np.median(folded)
    assert f"{ratio:.3f} times as fast" in line
    assert ("in pairs 1.350, 95 % from 1.100 to 1.600" in line) == (repeats == 6)
    assert ("95 %" in line) == (repeats == 6)
