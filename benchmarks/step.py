"""Time the training step, with probe and LARS, on one batch that stays in memory.

python -m benchmarks.step --resnet_depth=18 --image_size=32 --train_batch_size=64

Takes the flags of run.py; --train_mode=finetune and distill, whose teacher has the network of the student, too.
Prints images a second, which are pairs of views while pretraining: the median over the repetitions, and their
range; and the largest memory: of the first GPU, or else of this process. `--train_steps=N` times N steps one by one
after the first; without it, 7 loops of 3 after 3.
"""

import os
import resource
import statistics
import sys
import time

from benchmarks.synthetic import make_batch, make_task
from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig

_REPETITIONS = 7
_STEPS = 3


def time_step(config: ExperimentConfig, num_classes: int = 10) -> list[float]:
    """Returns the images a second of each repetition of a few steps, in one compiled loop each."""
    import tensorflow as tf

    from tf_simclr.strategies import is_step_compiled, make_strategy
    from tf_simclr.train import make_train_function

    strategy = make_strategy(config.strategy)
    with strategy.scope():
        task = make_task(config, num_classes)
    batch = make_batch(task, config, num_classes)
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    compiled = is_step_compiled(config.train.jit_compile, strategy)
    run = make_train_function(task, strategy, jit_compile=compiled)
    steps, repetitions = (1, config.train.train_steps) if config.train.train_steps else (_STEPS, _REPETITIONS)
    speeds = []
    for _ in range(1 + repetitions):  # The first traces and compiles.
        start = time.perf_counter()
        float(run(batches, tf.constant(steps))[0]["total_loss"])
        speeds.append(steps * config.train.train_batch_size / (time.perf_counter() - start))
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
    # Of an evaluation neither checkpoint nor teacher is asked for.
    defaults = ["--dataset=cifar10", "--proj_head_mode=nonlinear", "--mode=eval"]
    config, _ = parse_command_line([*defaults, *sys.argv[1:]])
    speeds = time_step(config)
    median = statistics.median(speeds)
    print(f"{median:.2f} images/s ({min(speeds):.2f} to {max(speeds):.2f}, {len(speeds)} repetitions)")
    print(f"{peak_memory():.2f} GB at most")


if __name__ == "__main__":
    main()
