"""Compile a complete training step with Google's TPU compiler on a machine without a TPU.

nice python -m benchmarks.tpu_compile --train_mode=pretrain --topology=v5e:2x2 --resnet_depth=50 \
    --train_batch_size=32 --precision=mixed_bfloat16

Takes the flags of run.py, and `--topology` (default v5e:2x2). The step is that of one core, with forward and backward
pass, probe, weight decay, LARS and moving statistics, but without collectives; --train_batch_size is that of the core.
An operation that a TPU lacks, or a dynamic shape, fails here as on a TPU. Nothing runs. Prints a row of the table in
docs/scaling.md: seconds to compile, memory of the core (arguments: weights, slots, images; temporary: activations,
gradients) and floating point operations of a step.

Needs two more packages than requirements.txt, on Python 3.12 or 3.13: pip install jax==0.12.0.1 libtpu==0.0.52
It uses private modules of jax, which may have other names in other versions.
"""

import os
import sys
import time
from typing import NamedTuple

from benchmarks.lowering import lower_step, parse_step, to_stablehlo
from tf_simclr.config import ExperimentConfig, UserError

_TOPOLOGY = "--topology="
# Without these, the compiler looks for a TPU and for Google's metadata server, and only one process can run it.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


class Compiled(NamedTuple):
    """Result of compiling one step: seconds, bytes on the core, operations of one step."""

    seconds: float
    argument_bytes: int
    temporary_bytes: int
    flops: float


def compile_for_tpu(program: str, topology: str) -> Compiled:
    """Compiles a StableHLO program for the first core of a topology such as `v5e:2x2`.

    Raises:
        UserError: if there is no such topology, or the program does not compile or fit into a core's memory.
    """
    import jax
    import numpy as np
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    from tf_simclr.files import first_line

    try:
        core = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise UserError(f"{_TOPOLOGY}{topology}: {first_line(error)}; use one such as v5e:2x2.") from error
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[core.id]]))
    with mlir.make_ir_context():
        module = ir.Module.parse(program)
        start = time.perf_counter()
        try:
            executable = core.client.compile(module, _jax.DeviceList((core,)), options)
        except jax.errors.JaxRuntimeError as error:
            raise UserError(f"benchmarks.tpu_compile: {first_line(error)}") from error
        seconds = time.perf_counter() - start
    memory = executable.get_compiled_memory_stats()
    return Compiled(
        seconds,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        executable.cost_analysis().get("flops", 0.0),
    )


def describe(config: ExperimentConfig, compiled: Compiled) -> str:
    """Returns a row of the table in docs/scaling.md."""
    model = config.model
    return (
        f"| {config.train.train_mode} | {model.describe()} | {model.precision} | {config.train.train_batch_size} | "
        f"{compiled.seconds:.0f} | {compiled.argument_bytes / 2**30:.2f} | "
        f"{compiled.temporary_bytes / 2**30:.2f} | {compiled.flops / 1e12:.2f} |"
    )


def main() -> None:
    """Compiles the configuration of the command line."""
    os.environ.update(_ENVIRONMENT)
    topology = next((a for a in reversed(sys.argv) if a.startswith(_TOPOLOGY)), f"{_TOPOLOGY}v5e:2x2")
    arguments = [a for a in sys.argv[1:] if not a.startswith(_TOPOLOGY)]
    config = parse_step(arguments)
    try:
        import jax  # noqa: F401
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"benchmarks.tpu_compile: {error.name} is missing; pip install jax==0.12.0.1 libtpu==0.0.52."
        ) from error
    import tf_simclr  # noqa: F401  (selects Keras 2 before TensorFlow loads)

    program = to_stablehlo(lower_step(config).hlo)
    print(describe(config, compile_for_tpu(program, topology.removeprefix(_TOPOLOGY))), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as problem:
        sys.exit(str(problem))
