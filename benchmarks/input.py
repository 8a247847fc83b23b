"""Time the training input, from images to batches of augmented views.

python run.py --mode=benchmark --benchmark=input --image_size=224 --benchmark_batch_size=64

Takes the flags of a training run. Without --dataset it makes images: up to 32 px random ones in memory, with the number
and size of CIFAR-10's; above, JPEG files of 500 x 375 pixels in a temporary folder.
"""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from benchmarks.figures import Figure
from benchmarks.synthetic import count_classes, training_of
from benchmarks.timing import least_seconds
from tf_simclr.config import BenchmarkConfig, ExperimentConfig

if TYPE_CHECKING:
    from tf_simclr.training.assembly import Assembly

_NUM_FILES = 256
_NUM_ARRAYS = 50_000
_SECONDS = 1.0  # Of a repetition, at least.


def measure_input(config: BenchmarkConfig) -> list[Figure]:
    """Measures the input of the training run that `config` describes."""
    from tf_simclr.training.assembly import assemble

    training = training_of(config)
    if "dataset" in config.stated:
        assembly = assemble(training, 1)
        return [_measure(training, assembly, config.repeats, assembly.source.name)]
    if config.model.cifar_stem:
        return [_measure(training, _random_arrays(training), config.repeats, "random images in memory")]
    with tempfile.TemporaryDirectory() as folder:
        write_images(pathlib.Path(folder), _NUM_FILES)
        data = dataclasses.replace(training.data, dataset=f"folder:{folder}", train_split="train")
        training = dataclasses.replace(training, data=data)
        return [_measure(training, assemble(training, 1), config.repeats, "JPEG files")]


def write_images(folder: pathlib.Path, count: int) -> None:
    """Writes smooth random images of two classes, with files of about the size of ImageNet's."""
    import tensorflow as tf

    for number in range(count):
        coarse = tf.random.stateless_uniform([47, 63, 3], [0, number], maxval=256)
        image = tf.cast(tf.image.resize(coarse, [375, 500], "bicubic"), tf.uint8)
        path = folder / ("odd" if number % 2 else "even") / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(image, quality=95).numpy())


def _random_arrays(training: ExperimentConfig) -> "Assembly":
    """Returns the assembly of a training run with random images in memory."""
    import numpy as np

    from tf_simclr.data import ArraySource
    from tf_simclr.training.assembly import Assembly

    def no_network(_: object) -> NoReturn:
        raise NotImplementedError("The input needs no network.")

    rng, size = np.random.default_rng(0), training.model.image_size
    num_classes = count_classes(training.model)
    images = rng.integers(0, 256, (_NUM_ARRAYS, size, size, 3), np.uint8)
    labels = rng.integers(0, num_classes, _NUM_ARRAYS)
    source = ArraySource("random images", images, labels, [str(number) for number in range(num_classes)])
    return Assembly(source, num_classes, make_task=no_network, initialize=no_network)


def _measure(training: ExperimentConfig, assembly: "Assembly", repeats: int, name: str) -> Figure:
    from tf_simclr.data import BatchPlan
    from tf_simclr.training.batches import training_batches

    batch_size, num_views = training.train.train_batch_size, training.train.num_views
    plan = BatchPlan(global_batch_size=batch_size)
    on_device = training.augment.augment_on == "device"
    dataset = training_batches(training, assembly, plan, num_views=num_views, first_step=0, on_device=on_device)
    batches = iter(dataset)
    # The first repetition compiles and fills the prefetch buffers.
    rates = [batch_size * _batches_per_second(batches) for _ in range(1 + repeats)]
    decode = _decode_rate(training.data.dataset)
    return Figure(
        work=f"input of {num_views} view{'s' * (num_views > 1)} from {name}" + on_device * ", the host's part",
        unit="images/s",
        samples=tuple(rates[1:]),
        bound=decode,
        notes=() if decode is None else (f"decoding alone: {decode:.0f} images/s",),
    )


def _batches_per_second(batches: Iterator[Any]) -> float:
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < _SECONDS:
        next(batches)
        count += 1
    return count / seconds


def _decode_rate(dataset: str) -> float | None:
    """Returns the number of JPEG files that TensorFlow decodes per second on all cores; None without JPEG files."""
    import tensorflow as tf

    from tf_simclr.data.sources import FOLDER_PREFIX

    folder = pathlib.Path(dataset.removeprefix(FOLDER_PREFIX)).expanduser()
    paths = sorted(map(str, folder.rglob("*.jpg")))[:_NUM_FILES] if dataset.startswith(FOLDER_PREFIX) else []
    if not paths:
        return None

    def decode(path: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)[0, 0, 0]

    decoded = tf.data.Dataset.from_tensor_slices(paths).map(decode, tf.data.AUTOTUNE, deterministic=False)
    return len(paths) / least_seconds(lambda: list(decoded.batch(len(paths))), 3)
