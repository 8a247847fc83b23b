"""Time the pretraining step, with probe and LARS, on one batch that stays in memory.

python -m benchmarks.step --resnet_depth=18 --image_size=32 --train_batch_size=64

Takes the flags of run.py. Prints pairs a second: the median over the repetitions, and their range; and the
largest memory: of the first GPU, or else of this process. `--train_steps=N` times N steps one by one after
the first; without it, 7 loops of 3 after 3.
"""

import os
import resource
import statistics
import sys
import time

from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig

_REPETITIONS = 7
_STEPS = 3


def time_step(config: ExperimentConfig, num_classes: int = 10) -> list[float]:
    """Returns the pairs a second of each repetition of a few steps, in one compiled loop each."""
    import tensorflow as tf

    from tf_simclr.models import build_simclr_model
    from tf_simclr.schedules import WarmupCosine
    from tf_simclr.strategies import make_strategy
    from tf_simclr.tasks.pretrain import PretrainTask
    from tf_simclr.train import make_train_function

    strategy = make_strategy(config.strategy)
    with strategy.scope():
        model, schedule = build_simclr_model(config.model, num_classes), WarmupCosine(0.1, 10, 1000)
        task = PretrainTask(model, config.optimizer, schedule, config.contrast)
    batch, size = config.train.train_batch_size, config.model.image_size
    element = {
        "views": tuple(tf.random.uniform([batch, size, size, 3]) for _ in range(task.num_views)),
        "labels": tf.random.uniform([batch], maxval=num_classes, dtype=tf.int32),
        "bad_images": tf.constant(0),
    }
    batches = iter(tf.data.Dataset.from_tensors(element).cache().repeat())
    run = make_train_function(task, strategy)
    steps, repetitions = (1, config.train.train_steps) if config.train.train_steps else (_STEPS, _REPETITIONS)
    speeds = []
    for _ in range(1 + repetitions):  # The first traces and compiles.
        start = time.perf_counter()
        float(run(batches, tf.constant(steps))[0]["total_loss"])
        speeds.append(steps * batch / (time.perf_counter() - start))
    return speeds[1:]


def peak_memory() -> float:
    """Returns the largest memory of the first GPU or else of this process, in GB."""
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measures the configuration of the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    defaults = ["--dataset=cifar10", "--proj_head_mode=nonlinear"]
    config, _ = parse_command_line([*defaults, *sys.argv[1:]])
    speeds = time_step(config)
    median = statistics.median(speeds)
    print(f"{median:.2f} pairs/s ({min(speeds):.2f} to {max(speeds):.2f}, {len(speeds)} repetitions)")
    print(f"{peak_memory():.2f} GB at most")


if __name__ == "__main__":
    main()
