"""Time from the start of a process to the end of its first training step, in separate processes.

python run.py --mode=benchmark --benchmark=startup --resnet_depth=50 --sk_ratio=0.0625 --image_size=224

With --benchmark_trace_only, the step is traced but not run, which needs no memory for activations.
"""

import dataclasses

from benchmarks.figures import Figure
from benchmarks.fresh import OutOfMemoryError, in_fresh_process
from benchmarks.machine import resident_memory, seconds_since_start
from benchmarks.step import prepare_step
from benchmarks.synthetic import training_of
from tf_simclr.config import BenchmarkConfig, ExperimentConfig, UserError


@dataclasses.dataclass(frozen=True)
class Startup:
    """Seconds from the start of a process until something is done.

    Attributes:
        reached: seconds until each point, by name and in order.
        memory: GB at most.
    """

    reached: dict[str, float]
    memory: float


def measure_startup(config: BenchmarkConfig) -> list[Figure]:
    """Starts the training of `config` as many times as it says.

    Raises:
        UserError: if the network does not fit into memory, or the system does not tell when a process started.
    """
    training = training_of(config)
    seconds_since_start()  # Fails at once on other systems.
    try:
        starts = [in_fresh_process(start_up, training, config.benchmark_trace_only) for _ in range(config.repeats)]
    except OutOfMemoryError as error:
        raise UserError(
            f"--resnet_depth={config.model.resnet_depth}: the first step does not fit into the memory of this "
            "machine; use --benchmark_trace_only, a smaller network or a smaller --benchmark_batch_size."
        ) from error
    memory = max(start.memory for start in starts)
    names = list(starts[0].reached)
    return [
        Figure(
            work=f"from process start to {name}",
            unit="s",
            samples=tuple(start.reached[name] for start in starts),
            memory=memory if name == names[-1] else None,
        )
        for name in reversed(names)
    ]


def start_up(training: ExperimentConfig, trace_only: bool) -> Startup:
    """Measures this process, which must be new."""
    reached: dict[str, float] = {}

    def reach(name: str) -> None:
        reached[name] = seconds_since_start()

    import tensorflow  # noqa: F401

    reach("TensorFlow imported")
    step = prepare_step(training)
    reach("network built")
    step.trace()
    reach("first step traced")
    if not trace_only:
        step()
        reach("first step done")
    return Startup(reached, resident_memory())
