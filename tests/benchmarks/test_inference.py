"""The benchmark of inference, on a tiny network."""

import re

import numpy as np
import pytest

from benchmarks import inference
from benchmarks.inference import measure_inference
from tests.networks import tiny_config
from tf_simclr.config import BenchmarkConfig

SPEED = r"\d+\.\d images/s \(\d+\.\d to \d+\.\d\)"
RATIO = r"\d+\.\d{3} times as fast; in pairs (\d+\.\d{3}), 95 % from (\d+\.\d{3}) to (\d+\.\d{3})"


@pytest.mark.slow
def test_benchmark_prints_speeds_ratio_interval_and_difference(capsys):
    model = tiny_config(precision="float32", image_size=40)
    measure_inference(BenchmarkConfig(model=model, benchmark_batch_size=2, benchmark_repeats=6))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("R18, width 0.125, SK 0, 40 px, batch 2; TensorFlow 2.")
    assert re.search(r"\d+ cores \(.*\), load before \d+\.\d$", first)
    others = ("plain SavedModel", "plain network, tf.function")
    patterns = [f"{name}: {SPEED}" for name in (*others, "folded module")]
    patterns += [f"folded module against {name}: {RATIO}" for name in others]
    patterns += [r"largest relative difference of an output: (\d\.\de-\d\d) \(\w+\)"]
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    for line in lines[3:5]:
        median, low, high = map(float, re.search(RATIO, line).groups())
        assert low <= median <= high
    assert 0 < float(re.fullmatch(patterns[-1], lines[-1])[1]) < 1e-5


@pytest.mark.parametrize("repeats", [5, 6])
def test_ratio_is_of_the_medians_and_its_interval_of_the_pairs(capsys, repeats):
    """Of 6 pairs the interval at 95 % is their range; of fewer there is none."""
    folded = np.array([1.0, 2, 3, 4, 5, 6][:repeats])
    base = folded * np.array([1.1, 1.2, 1.3, 1.4, 1.5, 1.6][:repeats])
    inference._print_ratio("plain", base, folded)
    line = capsys.readouterr().out
    ratio = np.median(base) / np.median(folded)
    assert f"{ratio:.3f} times as fast" in line
    assert ("in pairs 1.350, 95 % from 1.100 to 1.600" in line) == (repeats == 6)
    assert ("95 %" in line) == (repeats == 6)
