"""Time the training step, with probe and LARS, on one batch that stays in memory.

python -m benchmarks.step --resnet_depth=18 --image_size=32 --train_batch_size=64

Takes the flags of run.py; --train_mode=finetune and distill, whose teacher has the network of the student, too.
Prints images a second, which are pairs of views while pretraining: the median over the repetitions, and their range.
"""

import os
import statistics
import sys
import time

from benchmarks.synthetic import make_batch, make_task
from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig

_WARM_UP_STEPS = 3
_REPETITIONS = 7
_STEPS = 3


def time_step(config: ExperimentConfig, num_classes: int = 10) -> list[float]:
    """Returns the images a second of each repetition of a few steps, in one compiled loop each."""
    import tensorflow as tf

    from tf_simclr.distribute import is_step_compiled, make_strategy
    from tf_simclr.train import make_train_function

    strategy = make_strategy(config.strategy)
    with strategy.scope():
        task = make_task(config, num_classes)
    batch = make_batch(task, config, num_classes)
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat())
    run = make_train_function(
        task, strategy, jit_compile=is_step_compiled(config.train.jit_compile, strategy)
    )
    float(run(batches, tf.constant(_WARM_UP_STEPS))["total_loss"])
    speeds = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        float(run(batches, tf.constant(_STEPS))["total_loss"])
        speeds.append(_STEPS * config.train.train_batch_size / (time.perf_counter() - start))
    return speeds


def main() -> None:
    """Measures the configuration of the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Of an evaluation neither checkpoint nor teacher is asked for.
    defaults = ["--dataset=cifar10", "--proj_head_mode=nonlinear", "--mode=eval"]
    config, _ = parse_command_line([*defaults, *sys.argv[1:]])
    speeds = time_step(config)
    median = statistics.median(speeds)
    print(f"{median:.2f} images/s ({min(speeds):.2f} to {max(speeds):.2f}, {len(speeds)} repetitions)")


if __name__ == "__main__":
    main()
