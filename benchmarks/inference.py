"""Time inference: the plain SavedModel, the plain network and the folded module, in turn.

python run.py --mode=benchmark --benchmark=inference --resnet_depth=50 --image_size=224

Takes the flags of the network, with random weights, and prints the speed-up of the folded module.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.timing import time_in_turn
from tf_simclr.config import BenchmarkConfig
from tf_simclr.models.counting import count_network

_NUM_CLASSES = 1000
_WARM_UP = 3
_BASE = "plain SavedModel"
_FOLDED = "folded module"
# With fewer samples, the median has no 95 % interval.
_MIN_REPEATS = 6


def measure_inference(config: BenchmarkConfig) -> list[Figure]:
    """Measures the network of `config`; the folded module comes first."""
    import tensorflow as tf

    size, batch = config.model.image_size, config.benchmark_batch_size
    images = tf.random.stateless_uniform([batch, size, size, 3], [0, 0])
    with tempfile.TemporaryDirectory() as folder:
        functions = _make_functions(config, folder)
        outputs = {name: _to_numpy(function(images)) for name, function in functions.items()}
        calls = {name: _waiting(function, images) for name, function in functions.items()}
        times = time_in_turn(calls, config.repeats, warm_up=_WARM_UP)
    seconds = {name: np.array(values) for name, values in times.items()}
    notes = [_ratio(name, seconds[name], seconds[_FOLDED]) for name in seconds if name != _FOLDED]
    notes.append(_difference(outputs[_BASE], outputs[_FOLDED]))
    network = count_network(config.model)
    flops = network.flops + 2 * network.head_widths[config.model.ft_proj_selector] * _NUM_CLASSES
    return [
        Figure(
            work=name,
            unit="images/s",
            samples=tuple(batch / seconds[name]),
            flops=flops,
            notes=tuple(notes) if name == _FOLDED else (),
        )
        for name in reversed(seconds)
    ]


def _make_functions(config: BenchmarkConfig, folder: str) -> dict[str, Callable]:
    """Returns the compared networks as functions of images."""
    import tensorflow as tf

    from exports.fold_batch_norm import write_folded
    from exports.saved_model import save_model
    from tf_simclr.models import build_simclr_model

    model = build_simclr_model(config.model, _NUM_CLASSES)
    _randomize_norms(model)
    paths = {_BASE: os.path.join(folder, "plain"), _FOLDED: os.path.join(folder, "folded")}
    save_model(model, paths[_BASE])
    write_folded(model, paths[_FOLDED], {})
    modules = {name: tf.saved_model.load(path) for name, path in paths.items()}
    plain = tf.function(lambda images: model(images, training=False), autograph=False)
    return {
        _BASE: _keeping(modules[_BASE]),
        "plain network, tf.function": plain,
        _FOLDED: _keeping(modules[_FOLDED]),
    }


def _keeping(module: Any) -> Callable:
    """Returns the signature of `module`, which alone does not keep the variables."""
    return lambda images: module.signatures["serving_default"](images=images)


def _randomize_norms(model: Any) -> None:
    """Gives batch norm random values; in a new network, the last norm of a block is zero and hides the block."""
    rng = np.random.default_rng(0)
    for norm in model.norms:
        shape = norm.gamma.shape
        norm.gamma.assign(rng.uniform(0.5, 1.5, shape))
        norm.moving_mean.assign(rng.normal(0, 0.1, shape))
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, shape))


def _waiting(function: Callable, images: Any) -> Callable[[], Any]:
    def call():
        return function(images)["default"].numpy()  # Waits for an accelerator.

    return call


def _ratio(name: str, base: np.ndarray, folded: np.ndarray) -> str:
    """Returns the comparisons with the folded module, by medians and by pairs."""
    from scipy import stats

    line = f"{_FOLDED} against {name}: {np.median(base) / np.median(folded):.3f} times as fast"
    if len(base) < _MIN_REPEATS:
        return line
    # By order statistics, without assumptions on the distribution.
    interval = stats.quantile_test(base / folded, p=0.5).confidence_interval(0.95)
    pairs = f"in pairs {np.median(base / folded):.3f}, 95 % from {interval.low:.3f} to {interval.high:.3f}"
    return f"{line}; {pairs}"


def _difference(expected: dict[str, np.ndarray], received: dict[str, np.ndarray]) -> str:
    """Says the largest difference of an output, by its largest number."""
    differences = {
        name: np.abs(value - expected[name]).max() / np.abs(expected[name]).max() for name, value in received.items()
    }
    worst = max(differences, key=differences.__getitem__)
    return f"largest relative difference of an output: {differences[worst]:.1e} ({worst})"


def _to_numpy(outputs: dict) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in outputs.items()}
