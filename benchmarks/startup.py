"""Time from the start of a process to the end of its first training step, in separate processes.

python run.py --mode=benchmark --benchmark=startup --resnet_depth=50 --sk_ratio=0.0625 --image_size=224

With --benchmark_trace_only, the step is traced but not run, which needs no memory for activations.
"""

from benchmarks.figures import Figure
from benchmarks.fresh import OutOfMemoryError, in_fresh_process
from benchmarks.machine import resident_memory, seconds_since_start
from benchmarks.step import prepare_step
from benchmarks.synthetic import training_of
from tf_simclr.config import BenchmarkConfig, ExperimentConfig, UserError


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
    figures: list[Figure] = []
    for name in reversed(starts[0][0]):
        samples = tuple(reached[name] for reached, _ in starts)
        memory = None if figures else max(memory for _, memory in starts)
        figures.append(Figure(work=f"from process start to {name}", unit="s", samples=samples, memory=memory))
    return figures


def start_up(training: ExperimentConfig, trace_only: bool) -> tuple[dict[str, float], float]:
    """Measures this process, which must be new.

    Returns:
        The seconds from its start to each point, by name and in order, and its largest memory in GB.
    """
    import tensorflow  # noqa: F401

    reached = {"TensorFlow imported": seconds_since_start()}
    step = prepare_step(training)
    reached["network built"] = seconds_since_start()
    step.trace()
    reached["first step traced"] = seconds_since_start()
    if not trace_only:
        step()
        reached["first step done"] = seconds_since_start()
    return reached, resident_memory()
