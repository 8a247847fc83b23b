"""Description and limits of this machine."""

import os
import platform
import resource
import time
from typing import Any

from benchmarks.figures import Limits
from benchmarks.timing import least_seconds
from tf_simclr.config import UserError

_REPEATS = 5
_SIDE, _SIDE_ON_GPU = 2048, 8192  # Of the matrices of a dense product.
# (side, channels) of the feature maps of a ResNet at 224 px, 3x3 convolutions from these to as many channels.
_FEATURE_MAPS = ((56, 64), (28, 128), (14, 256))
_CONVOLVED_NUMBERS = 2**22  # About as many as a batch of 16 has in a feature map.
_COPIED_BYTES = 2**26  # More than caches hold, and less than any training step takes.


def share_gpu() -> None:
    """Makes TensorFlow take GPU memory only as needed; call it before TensorFlow loads."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def measure_limits(dtype: str) -> Limits:
    """Measures dense products, convolutions and copies for about a second, after one call of each.

    Args:
        dtype: number format of a network, such as float32.
    """
    import tensorflow as tf

    def seconds(function: Any, *tensors: Any) -> float:
        compiled = tf.function(function, autograph=False)
        first = (0,) * tensors[0].shape.rank

        def call() -> None:
            compiled(*tensors)[first].numpy()  # Fetching one number waits for an accelerator.

        return least_seconds(call, _REPEATS)

    def convolution_rate(side: int, channels: int) -> float:
        batch = _CONVOLVED_NUMBERS // (side**2 * channels)
        images = tf.ones([batch, side, side, channels], dtype)
        kernel = tf.ones([3, 3, channels, channels], dtype)
        return (
            2 * batch * side**2 * 9 * channels**2 / seconds(lambda x, y: tf.nn.conv2d(x, y, 1, "SAME"), images, kernel)
        )

    side = _SIDE_ON_GPU if tf.config.list_logical_devices("GPU") else _SIDE
    square = tf.ones([side, side], dtype)
    copied = tf.ones([_COPIED_BYTES // tf.as_dtype(dtype).size], dtype)
    return Limits(
        matmul=2 * side**3 / seconds(tf.matmul, square, square) / 1e9,
        convolution=max(convolution_rate(*feature_map) for feature_map in _FEATURE_MAPS) / 1e9,
        bandwidth=2 * _COPIED_BYTES / seconds(tf.negative, copied) / 1e9,  # A copy that cannot be optimised away.
    )


def peak_memory() -> float:
    """Returns the largest memory of the first GPU, or else of this process, in GB."""
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9)
    return resident_memory()


def resident_memory() -> float:
    """Returns the largest resident memory of this process since its program was started, in GB."""
    # The figure of `resource` includes the process that started this one.
    line = _find_line("/proc/self/status", "VmHWM:")
    kilobytes = int(line.split()[1]) if line else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e9


def seconds_since_start() -> float:
    """Returns the seconds since this process was started.

    Raises:
        UserError: if the system does not tell.
    """
    try:
        with open("/proc/self/stat") as file:
            # The name of the program, in parentheses, may hold spaces; the 22nd field is the start.
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError) as error:
        raise UserError(
            "--benchmark=startup: needs to know when a process was started, which only Linux tells; "
            "use another benchmark."
        ) from error


def describe_machine() -> str:
    """Returns cores, processor and load, and the version of TensorFlow."""
    import tensorflow as tf

    line = _find_line("/proc/cpuinfo", "model name")
    processor = line.split(":")[1].strip() if line else platform.processor() or platform.machine()
    num_gpus = len(tf.config.list_logical_devices("GPU"))
    names = f"{len(os.sched_getaffinity(0))} cores ({processor})" + (f", {num_gpus} GPU" if num_gpus else "")
    return f"TensorFlow {tf.__version__}, {names}, load before {os.getloadavg()[0]:.1f}"


def _find_line(path: str, start: str) -> str | None:
    """Returns the first line with this start in a file of the kernel; None if there is none."""
    try:
        with open(path) as file:
            return next(line for line in file if line.startswith(start))
    except (OSError, StopIteration):
        return None
