"""The training step as the program that XLA compiles, for machines without TensorFlow."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tf_simclr.config import ExperimentConfig


class Program(NamedTuple):
    """A training step of one replica. Everything that it reads is an argument, variables too.

    Attributes:
        hlo: the program, an `HloModuleProto`.
        arguments: for each argument `dtype` and `shape`, and the `mean`, `std`, `min` and `max` of its values.
        about: `step`, a description; `batch_size`; `dtype`, the number format of the network.
    """

    hlo: bytes
    arguments: list[dict[str, Any]]
    about: dict[str, Any]


def parse_step(flags: Sequence[str]) -> ExperimentConfig:
    """Returns the training that flags of run.py describe.

    Raises:
        UserError: if a flag is wrong.
    """
    from flags.convert import parse_command_line

    # An evaluation needs neither checkpoint nor teacher.
    config: Any = parse_command_line(["--dataset=imagenet2012", "--mode=eval", *flags])[0]
    return config  # type: ignore[no-any-return]


def lower_step(config: ExperimentConfig) -> Program:
    """Returns the complete step of `config`, without collectives; needs TensorFlow but not jax.

    With `augment_on` = `device`, it starts after the crop, as for images that are decoded one by one.
    """
    import tensorflow as tf

    from benchmarks.synthetic import make_batch, make_task
    from tf_simclr.augment.views import NUM_DRAWS
    from tf_simclr.training.batches import training_view

    task = make_task(config)
    batch = make_batch(task, config)
    view = None
    if config.augment.augment_on == "device":
        view = training_view(config, on_device=True)
        batch["draws"] = tuple(tf.random.uniform([images.shape[0], NUM_DRAWS]) for images in batch["views"])
    tensors = tf.nest.flatten(batch)

    @tf.function(jit_compile=True, autograph=False)
    def step(*tensors: tf.Tensor) -> Any:
        given = tf.nest.pack_sequence_as(batch, tensors)
        if view is not None:
            given["views"] = tuple(map(view.distort, given["views"], given.pop("draws")))
        return task.train_step(given)

    hlo = step.experimental_get_compiler_ir(*tensors)(stage="hlo_serialized")
    concrete = step.get_concrete_function(*tensors)
    # Velocities are known only by their handles.
    read = (*concrete.variables, *task.optimizer.variables())
    variables = {id(variable.handle): variable for variable in read}
    captured = [variables.get(id(tensor), tensor) for tensor in concrete.captured_inputs]
    augmented = " and augmentation" * (view is not None)
    about = {
        "step": f"{config.train.train_mode}{augmented} {config.model.describe()}, {config.model.precision}",
        "batch_size": config.train.train_batch_size,
        "dtype": config.model.compute_dtype,
    }
    return Program(hlo, [_describe(value.numpy()) for value in (*tensors, *captured)], about)


def _describe(values: Any) -> dict[str, Any]:
    numbers = values.astype("float64")
    statistics = {name: float(getattr(numbers, name)()) for name in ("mean", "std", "min", "max")}
    return {"dtype": values.dtype.name, "shape": list(values.shape), **statistics}


def to_stablehlo(hlo: bytes) -> str:
    """Returns a program as StableHLO text for jax's compilers; needs jax but not TensorFlow."""
    from jax._src.lib import xla_client

    program = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    # TensorFlow returns unchanged variables as copies, which StableHLO does not have.
    return re.sub(r"mhlo\.copy (%[\w#]+) : (tensor<[^>]*>)", r"stablehlo.reshape \1 : (\2) -> \2", program)
