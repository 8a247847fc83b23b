"""Time inference: the plain SavedModel, the plain network and the folded module, in turn.

python run.py --mode=benchmark --benchmark=inference --resnet_depth=50 --image_size=224

Takes the flags of the network, with random weights. Prints images a second of each, the median over the
repetitions and their range, and how many times faster the folded module is than the plain SavedModel.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_simclr.config import BenchmarkConfig

_NUM_CLASSES = 1000
_WARM_UP = 3
_BASE = "plain SavedModel"
_FOLDED = "folded module"
# With fewer the median has no interval of 95 %.
_MIN_REPEATS = 6


def measure_inference(config: BenchmarkConfig) -> None:
    """Measures the network of `config` and prints what was found."""
    import tensorflow as tf

    size, batch = config.model.image_size, config.benchmark_batch_size
    print(
        f"R{config.model.resnet_depth}, width {config.model.width_multiplier:g}, "
        f"SK {config.model.sk_ratio:g}, {size} px, batch {batch}; TensorFlow {tf.__version__}, "
        f"{len(os.sched_getaffinity(0))} cores ({_processor()}), load before {os.getloadavg()[0]:.1f}"
    )
    images = tf.random.stateless_uniform([batch, size, size, 3], [0, 0])
    with tempfile.TemporaryDirectory() as folder:
        functions = _make_functions(config, folder)
        outputs = {name: _to_numpy(function(images)) for name, function in functions.items()}
        seconds = _time_in_turn(functions, images, config.benchmark_repeats)
    for name, times in seconds.items():
        speed = batch / times
        print(f"{name}: {np.median(speed):.1f} images/s ({min(speed):.1f} to {max(speed):.1f})")
    for name in seconds:
        if name != _FOLDED:
            _print_ratio(name, seconds[name], seconds[_FOLDED])
    _print_difference(outputs[_BASE], outputs[_FOLDED])


def _make_functions(config: BenchmarkConfig, folder: str) -> dict[str, Callable]:
    """Returns what is compared, as functions of images."""
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
    """Gives batch norm values of its own: the last one of a new block is zero, and hides the block."""
    rng = np.random.default_rng(0)
    for norm in model.norms:
        shape = norm.gamma.shape
        norm.gamma.assign(rng.uniform(0.5, 1.5, shape))
        norm.moving_mean.assign(rng.normal(0, 0.1, shape))
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, shape))


def _time_in_turn(functions: dict[str, Callable], images: Any, repeats: int) -> dict[str, np.ndarray]:
    """Returns the seconds of each call; the order turns with every repetition."""
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(_WARM_UP + repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.perf_counter()
            functions[name](images)["default"].numpy()  # Waits for an accelerator.
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(times[_WARM_UP:]) for name, times in seconds.items()}


def _print_ratio(name: str, base: np.ndarray, folded: np.ndarray) -> None:
    from scipy import stats

    line = f"{_FOLDED} against {name}: {np.median(base) / np.median(folded):.3f} times as fast"
    if len(base) >= _MIN_REPEATS:
        # By order statistics, without a word on the distribution.
        interval = stats.quantile_test(base / folded, p=0.5).confidence_interval(0.95)
        line += (
            f"; in pairs {np.median(base / folded):.3f}, 95 % from {interval.low:.3f} to {interval.high:.3f}"
        )
    print(line)


def _print_difference(expected: dict[str, np.ndarray], received: dict[str, np.ndarray]) -> None:
    """Prints the largest difference of an output, by its largest number."""
    differences = {
        name: np.abs(value - expected[name]).max() / np.abs(expected[name]).max()
        for name, value in received.items()
    }
    worst = max(differences, key=differences.__getitem__)
    print(f"largest relative difference of an output: {differences[worst]:.1e} ({worst})")


def _to_numpy(outputs: dict) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in outputs.items()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
