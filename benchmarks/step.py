"""Time the training step, with probe and LARS, on one batch in memory.

python run.py --mode=benchmark --benchmark=step --resnet_depth=18 --image_size=32 --benchmark_batch_size=64

Takes the flags of a training run, also --train_mode=finetune and distill; the teacher has the student's network.
If PyTorch is installed, the same pretraining step in PyTorch is timed alternately.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure
from benchmarks.flops import step_flops
from benchmarks.fresh import in_fresh_process
from benchmarks.machine import peak_memory, resident_memory
from benchmarks.synthetic import make_batch, make_task, training_of
from benchmarks.timing import least_seconds, time_in_turn
from tf_simclr.config import BenchmarkConfig, ContrastConfig, ExperimentConfig

# Minimum duration of a repetition, which makes the cost of clocks and calls negligible.
_SECONDS = 0.5
_WARM_UP = 2
_PYTORCH = "PyTorch"


@dataclasses.dataclass(frozen=True)
class PreparedStep:
    """A training step that is ready to be traced.

    Attributes:
        run: function of `tf_simclr.training.loop.make_train_function`.
        batches: the same batch without end.
    """

    run: Any
    batches: Any

    def trace(self) -> None:
        """Builds the graph, as the first call would, without running it."""
        import tensorflow as tf

        self.run.get_concrete_function(self.batches, tf.constant(1))

    def __call__(self, num_steps: int = 1) -> float:
        """Takes some steps in one compiled loop, waits for them, and returns their mean loss."""
        import tensorflow as tf

        return float(self.run(self.batches, tf.constant(num_steps))[0]["total_loss"])


def prepare_step(training: ExperimentConfig) -> PreparedStep:
    """Builds network, task and batch of a training run, with random weights and images."""
    import tensorflow as tf

    from tf_simclr.distribution.strategies import is_step_compiled, make_strategy
    from tf_simclr.training.loop import make_train_function

    strategy = make_strategy(training.strategy)
    with strategy.scope():
        task = make_task(training)
    batches = iter(tf.data.Dataset.from_tensors(make_batch(task, training)).cache().repeat())
    compiled = is_step_compiled(training.train.jit_compile, strategy)
    return PreparedStep(make_train_function(task, strategy, jit_compile=compiled), batches)


def measure_step(config: BenchmarkConfig) -> list[Figure]:
    """Measures the step that `config` describes."""
    training = training_of(config)
    batch_size = training.train.train_batch_size
    step = prepare_step(training)
    for _ in range(_WARM_UP):
        step()
    memory = peak_memory()  # Before PyTorch takes any.
    functions: dict[str, Callable[[int], float]] = {"TensorFlow": step}
    if missing := _why_not_pytorch(training):
        note = f"not compared with {_PYTORCH}: {missing}"
    else:
        functions[_PYTORCH] = _prepare_pytorch(training)
        note = f"{_PYTORCH} alone: {in_fresh_process(_pytorch_memory, training):.2f} GB at most"
    num_steps = max(1, math.ceil(_SECONDS / least_seconds(step, 1)))
    calls = {name: lambda function=function: function(num_steps) for name, function in functions.items()}
    seconds = time_in_turn(calls, config.repeats, warm_up=1)
    rates = {name: tuple(num_steps * batch_size / s for s in times) for name, times in seconds.items()}
    return [
        Figure(
            work=f"{training.train.train_mode} step",
            unit=unit_of(training),
            samples=rates["TensorFlow"],
            flops=step_flops(training) / batch_size,
            memory=memory,
            pytorch=rates.get(_PYTORCH, ()),
            notes=(note,),
        )
    ]


def unit_of(training: ExperimentConfig) -> str:
    """Returns the counted unit: pairs of views for pretraining, otherwise images."""
    return "pairs/s" if training.train.is_contrastive else "images/s"


def _why_not_pytorch(training: ExperimentConfig) -> str | None:
    """Returns why there is no such step in PyTorch; None if there is one."""
    import tensorflow as tf

    model, contrast, train = training.model, training.contrast, training.train
    if importlib.util.find_spec("torch") is None:
        return "it is not installed"
    if model.sk_ratio or model.se_ratio:
        return "only plain ResNets are written in it"
    plain = ContrastConfig(temperature=contrast.temperature, memory_momentum=contrast.memory_momentum)
    has_probe = train.lineareval_while_pretraining and model.ft_proj_selector == 0 and model.proj_head_mode != "none"
    has_lars = training.optimizer.optimizer == "lars" and model.precision == "float32"
    if not (train.is_contrastive and contrast == plain and has_probe and has_lars):
        return "only pretraining with NT-Xent, LARS and a probe of the encoder, in float32, is written in it"
    return "it computes on the CPU here" if tf.config.list_logical_devices("GPU") else None


def _prepare_pytorch(training: ExperimentConfig) -> Callable[[int], float]:
    from benchmarks.torch_step import TorchStep

    step = TorchStep(training)
    views, labels = step.random_batch()

    def run(num_steps: int = 1) -> float:
        losses = [step(views, labels) for _ in range(num_steps)]
        return float(sum(losses)) / num_steps

    for _ in range(_WARM_UP):
        run()
    return run


def _pytorch_memory(training: ExperimentConfig) -> float:
    _prepare_pytorch(training)
    return resident_memory()
