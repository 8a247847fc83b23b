"""`--mode=benchmark`: one benchmark between two measurements of the machine."""

from benchmarks.figures import Outcome, describe
from benchmarks.synthetic import training_of
from tf_simclr.config import BenchmarkConfig
from tf_simclr.terminal.output import show


def run_benchmark(config: BenchmarkConfig) -> None:
    """Runs the benchmark of `config` and prints its figures.

    Raises:
        UserError: if settings contradict each other, or the work does not fit into this machine.
    """
    training_of(config)  # Contradictions show before TensorFlow loads.
    if config.benchmark == "flops":
        from benchmarks.flops import count_table

        lines = count_table(config)
    else:
        lines = describe(measure(config))
    show("\n".join(lines))


def measure(config: BenchmarkConfig) -> Outcome:
    """Runs the benchmark of `config`, and measures the machine before and after."""
    from benchmarks.inference import measure_inference
    from benchmarks.input import measure_input
    from benchmarks.machine import describe_machine, measure_limits, share_gpu
    from benchmarks.memory import measure_memory
    from benchmarks.startup import measure_startup
    from benchmarks.step import measure_step

    benchmark = {
        "step": measure_step,
        "input": measure_input,
        "inference": measure_inference,
        "memory": measure_memory,
        "startup": measure_startup,
    }[config.benchmark]
    share_gpu()
    model = config.model
    title = (
        f"{config.benchmark}: {model.describe()}, {model.precision}, batch {config.benchmark_batch_size}; "
        f"{describe_machine()}"
    )
    before = measure_limits(model.compute_dtype)
    figures = benchmark(config)
    return Outcome(title, before.best(measure_limits(model.compute_dtype)), tuple(figures))
