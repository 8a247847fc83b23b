"""Time the training input: JPEG files to batches of augmented views.

python -m benchmarks.input --image_size=224 --train_batch_size=64

Takes the flags of run.py; without --dataset it writes 256 JPEG images of 500 x 375 pixels to a temporary folder.
Prints images a second (each gives two views while pretraining): the median over the repetitions and their range.
"""

import os
import pathlib
import statistics
import sys
import tempfile
import time

from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig

_NUM_IMAGES = 256
_REPETITIONS = 5
_BATCHES = 4


def write_images(folder: pathlib.Path) -> None:
    """Writes smooth random images, whose files are about as large as those of ImageNet."""
    import tensorflow as tf

    for number in range(_NUM_IMAGES):
        coarse = tf.random.stateless_uniform([47, 63, 3], [0, number], maxval=256)
        image = tf.cast(tf.image.resize(coarse, [375, 500], "bicubic"), tf.uint8)
        (folder / f"{number:03}.jpg").write_bytes(tf.io.encode_jpeg(image, quality=95).numpy())


def time_input(config: ExperimentConfig) -> list[float]:
    """Returns the images a second of each repetition of a few batches."""
    from tf_simclr.data import BatchPlan
    from tf_simclr.ingredients import make_ingredients, training_batches

    batch_size = config.train.train_batch_size
    num_views = 2 if config.train.train_mode == "pretrain" else 1
    ingredients = make_ingredients(config, 1)
    plan = BatchPlan(global_batch_size=batch_size)
    batches = iter(training_batches(config, ingredients, plan, num_views=num_views, first_step=0))
    speeds = []
    for _ in range(1 + _REPETITIONS):  # The first compiles, and fills what is fetched ahead.
        start = time.perf_counter()
        for _ in range(_BATCHES):
            next(batches)
        speeds.append(_BATCHES * batch_size / (time.perf_counter() - start))
    return speeds[1:]


def main() -> None:
    """Measures the configuration of the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        arguments = sys.argv[1:]
        if not any(argument.startswith("--dataset") for argument in arguments):
            write_images(pathlib.Path(folder))
            arguments = [f"--dataset=folder:{folder}", *arguments]
        config, _ = parse_command_line(["--mode=train", "--train_mode=pretrain", *arguments])
        speeds = time_input(config)
    median, cores = statistics.median(speeds), len(os.sched_getaffinity(0))
    print(f"{median:.0f} images/s ({min(speeds):.0f} to {max(speeds):.0f}) on {cores} cores")


if __name__ == "__main__":
    main()
