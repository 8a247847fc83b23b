"""Time inference: the plain SavedModel, the plain network and the folded module, in turn.

python run.py --mode=benchmark --benchmark=inference --resnet_depth=50 --image_size=224

Takes the flags of the network, with random weights, and prints the speed-up of the folded module.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from benchmarks.timing import time_in_turn
from tf_simclr.config import BenchmarkConfig
from tf_simclr.models.counting import count_network

_NUM_CLASSES = 1000
_WARM_UP = 3
_BASE, _PLAIN, _FOLDED = "plain SavedModel", "plain network, tf.function", "folded module"
# With fewer samples, the median has no 95 % interval.
_MIN_REPEATS = 6
Numbers = NDArray[np.floating[Any]]


def measure_inference(config: BenchmarkConfig) -> list[Figure]:
    """Measures the network of `config`; the folded module comes first."""
    import tensorflow as tf

    size, batch = config.model.image_size, config.benchmark_batch_size
    images = tf.random.stateless_uniform([batch, size, size, 3], [0, 0])
    with tempfile.TemporaryDirectory() as folder:
        functions = _make_functions(config, folder)
        base, folded = functions[_BASE](images), functions[_FOLDED](images)
        # Fetching an output waits for an accelerator.
        calls = {name: lambda call=call: call(images)["default"].numpy() for name, call in functions.items()}
        times = time_in_turn(calls, config.repeats, warm_up=_WARM_UP)
    seconds = {name: np.array(values) for name, values in times.items()}
    notes = [_ratio(name, seconds[name], seconds[_FOLDED]) for name in (_BASE, _PLAIN)]
    notes.append(_difference(base, folded))
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
        for name in (_FOLDED, _PLAIN, _BASE)
    ]


def _make_functions(config: BenchmarkConfig, folder: str) -> dict[str, Callable[[Any], Mapping[str, Any]]]:
    """Returns the compared networks as functions of images."""
    import tensorflow as tf

    from exports.fold_batch_norm import write_folded
    from exports.saved_model import save_model
    from tf_simclr.models import build_simclr_model

    model = build_simclr_model(config.model, _NUM_CLASSES)
    rng = np.random.default_rng(0)
    for norm in model.norms:  # In a new network, the last norm of a block is zero and hides the block.
        shape = norm.gamma.shape
        norm.gamma.assign(rng.uniform(0.5, 1.5, shape))
        norm.moving_mean.assign(rng.normal(0, 0.1, shape))
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
    paths = {name: os.path.join(folder, name) for name in (_BASE, _FOLDED)}
    save_model(model, paths[_BASE])
    write_folded(model, paths[_FOLDED], {})

    def load(path: str) -> Callable[[Any], Mapping[str, Any]]:
        module = tf.saved_model.load(path)  # A signature alone does not keep its variables.
        return lambda images: module.signatures["serving_default"](images=images)

    plain = tf.function(lambda images: model(images, training=False), autograph=False)
    return {_BASE: load(paths[_BASE]), _PLAIN: plain, _FOLDED: load(paths[_FOLDED])}


def _ratio(name: str, base: Numbers, folded: Numbers) -> str:
    """Compares seconds with those of the folded module, by medians and by pairs."""
    from scipy import stats

    line = f"{_FOLDED} against {name}: {np.median(base) / np.median(folded):.3f} times as fast"
    if len(base) < _MIN_REPEATS:
        return line
    # By order statistics, without assumptions on the distribution.
    interval = stats.quantile_test(base / folded, p=0.5).confidence_interval(0.95)
    pairs = f"in pairs {np.median(base / folded):.3f}, 95 % from {interval.low:.3f} to {interval.high:.3f}"
    return f"{line}; {pairs}"


def _difference(expected: Mapping[str, Any], received: Mapping[str, Any]) -> str:
    """Returns the largest difference of an output, relative to its largest number."""
    differences = {
        name: np.abs(value - expected[name]).max() / np.abs(expected[name]).max() for name, value in received.items()
    }
    worst = max(differences, key=differences.__getitem__)
    return f"largest relative difference of an output: {differences[worst]:.1e} ({worst})"
