"""Time the training step on a machine that has jax and an accelerator but no TensorFlow.

python -m benchmarks.xla_step export step.npz --resnet_depth=50 --train_batch_size=64 --precision=mixed_bfloat16
python -m benchmarks.xla_step time step.npz

`export` takes the flags of run.py, runs nothing, and writes the program that TensorFlow hands to XLA with
--jit_compile=True, a file of less than 1 MB: forward and backward pass, probe, weight decay, LARS and moving statistics
of one replica, without collectives and input; with --augment_on=device also the augmentation of the crops. `time`
compiles and runs it with jax's own client, on the first device. Of the project it needs only the folders benchmarks and
tf_simclr/config. It prints milliseconds a step and pairs a second (median and range over `--steps`, 20 if not given),
XLA's figures of memory, and shares of the device's rates of matmuls and of memory traffic, measured in the same run.
It uses private modules of jax, and was run with jax 0.11.2 on CPUs.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lowering import Program, lower_step, parse_step, to_stablehlo
from benchmarks.timing import least_seconds
from tf_simclr.config import UserError

_WARM_UP = 2
_RATE_REPETITIONS = 10


class Timing(NamedTuple):
    """Measurements of a step.

    Attributes:
        compile_seconds: compile time of XLA.
        step_seconds: time of each step.
        flops: operations of a step, as XLA counts them in the given program.
        traffic: bytes that a step reads and writes, as XLA counts them in the compiled program; 0 if unknown.
        planned_bytes: arguments, results other than arguments, and temporaries.
        peak_bytes: peak memory according to the client; None if unknown.
        is_finite: whether the metrics of the last step are finite.
    """

    compile_seconds: float
    step_seconds: list[float]
    flops: float
    traffic: float
    planned_bytes: int
    peak_bytes: int | None
    is_finite: bool


def export_step(path: str, flags: Sequence[str]) -> Program:
    """Writes the step that the flags of run.py describe, whole or not at all; needs TensorFlow.

    Raises:
        UserError: if a flag is wrong.
    """
    import tf_simclr  # noqa: F401  (selects Keras 2 before TensorFlow loads)
    from tf_simclr.files import replacing

    program = lower_step(parse_step(flags))
    text = json.dumps({"arguments": program.arguments, "about": program.about})
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, hlo=np.frombuffer(program.hlo, np.uint8), text=np.array(text))
    return program


def read_program(path: str) -> Program:
    """Reads a file of `export_step`.

    Raises:
        UserError: if there is no such file, or it has another format.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            hlo, text = content["hlo"].tobytes(), json.loads(str(content["text"]))
        return Program(hlo, text["arguments"], text["about"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path}: is no exported step ({error}); write one with the command export.") from error


def time_step(program: Program, num_steps: int) -> Timing:
    """Compiles a step for jax's first device and runs it, each time on the previous step's variables."""
    import jax
    from jax._src.lib import xla_client

    jax.config.update("jax_enable_x64", True)  # The counter of the steps has 64 bits.
    computation = xla_client.XlaComputation(program.hlo)
    flops = xla_client._xla.hlo_module_cost_analysis(jax.devices()[0].client, computation.get_hlo_module())
    start = time.perf_counter()
    executable = _compile(program.hlo)
    compile_seconds = time.perf_counter() - start
    variables = _variables(computation.as_hlo_text())
    arguments = draw_arguments(program.arguments)
    seconds, results = [], []
    for _ in range(_WARM_UP + num_steps):
        start = time.perf_counter()
        results = jax.block_until_ready(executable.execute(arguments))
        seconds.append(time.perf_counter() - start)
        for result, argument in variables.items():  # These are invalid now: their memory holds the results.
            arguments[argument] = results[result]
    metrics = [result for number, result in enumerate(results) if number not in variables]
    memory = executable.get_compiled_memory_stats()
    return Timing(
        compile_seconds,
        seconds[_WARM_UP:],
        flops["flops"],
        executable.cost_analysis().get("bytes accessed", 0.0),
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        all(np.isfinite(np.asarray(metric, np.float32)).all() for metric in metrics),
    )


def _compile(hlo: bytes) -> Any:
    import jax
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jax._src.lib.mlir import ir

    device = jax.devices()[0]
    with mlir.make_ir_context():
        module = ir.Module.parse(to_stablehlo(hlo))
        return device.client.compile_and_load(module, _jax.DeviceList((device,)), xla_client.CompileOptions())


def _variables(text: str) -> dict[int, int]:
    """Returns the argument whose memory each result reuses, by the first line of a program's text."""
    aliases = re.findall(r"\{(\d+)\}: \((\d+), \{\}", text.partition("\n")[0])
    return {int(result): int(argument) for result, argument in aliases}


def draw_arguments(arguments: Sequence[dict[str, Any]]) -> list[Any]:
    """Draws values like those of the exported step, because zeros, ones or negative variances change the times."""
    import jax

    rng = np.random.default_rng(0)

    def draw(one: dict[str, Any]) -> NDArray[Any]:
        values = rng.normal(one["mean"], one["std"], one["shape"])
        drawn: NDArray[Any] = np.clip(values, one["min"], one["max"]).astype(one["dtype"])
        return drawn

    placed: list[Any] = jax.block_until_ready([jax.device_put(draw(one), jax.devices()[0]) for one in arguments])
    return placed


def device_rates(dtype: str) -> tuple[float, float]:
    """Returns limits of the device: FLOP/s in large matmuls of `dtype`, and bytes per second of memory traffic."""
    import jax
    import jax.numpy as jnp

    is_cpu = jax.devices()[0].platform == "cpu"
    side, length = (1024, 2**24) if is_cpu else (8192, 2**28)
    square = jax.random.normal(jax.random.key(0), [side, side], dtype)
    vector = jnp.zeros([length], jnp.float32)
    product, successor = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    matmul = least_seconds(lambda: jax.block_until_ready(product(square, square)), _RATE_REPETITIONS)
    copy = least_seconds(lambda: jax.block_until_ready(successor(vector)), _RATE_REPETITIONS)
    return 2 * side**3 / matmul, 2 * vector.nbytes / copy


def describe(program: Program, timing: Timing, rates: tuple[float, float]) -> str:
    """Returns the results as a few lines."""
    batch, median = program.about["batch_size"], statistics.median(timing.step_seconds)
    low, high = min(timing.step_seconds), max(timing.step_seconds)
    flops, bandwidth = timing.flops / median, timing.traffic / median
    peak = "not told" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e9:.2f} GB"
    return (
        f"{program.about['step']}, batch {batch}; compiled in {timing.compile_seconds:.0f} s\n"
        f"step: {1e3 * median:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f}, {len(timing.step_seconds)} steps), "
        f"{batch / median:.1f} pairs/s{'' if timing.is_finite else '; its metrics are NOT finite'}\n"
        f"arithmetic: {timing.flops / 1e12:.3f} TFLOP a step, {flops / 1e12:.3f} TFLOP/s: {flops / rates[0]:.1%} of "
        f"this device's {rates[0] / 1e12:.3f} in matmuls of {program.about['dtype']}\n"
        f"traffic: {timing.traffic / 1e9:.2f} GB a step as XLA counts, {bandwidth / 1e9:.1f} GB/s: "
        f"{bandwidth / rates[1]:.1%} of this device's {rates[1] / 1e9:.1f}\n"
        f"memory: {timing.planned_bytes / 1e9:.2f} GB planned by XLA; most in use: {peak}"
    )


def main(arguments: Sequence[str]) -> None:
    """Exports or times a step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.xla_step", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("export", "time"):
        commands.add_parser(name, allow_abbrev=False).add_argument("file")
    commands.choices["time"].add_argument("--steps", type=int, default=20)
    options, flags = parser.parse_known_args(arguments)
    if options.command == "export":
        program = export_step(options.file, flags)
        size = os.path.getsize(options.file)
        print(f"Wrote {options.file}: {program.about['step']}, {len(program.arguments)} arguments, {size} bytes.")
        return
    if flags or options.steps < 1:
        parser.error(f"unrecognized or wrong: {' '.join(flags) or f'--steps={options.steps}'}")
    program = read_program(options.file)
    try:
        import jax
    except ImportError as error:
        raise UserError("benchmarks.xla_step: jax is missing; pip install jax==0.11.2.") from error
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    timing = time_step(program, options.steps)
    print(describe(program, timing, device_rates(program.about["dtype"])), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main(sys.argv[1:])
    except UserError as problem:
        sys.exit(str(problem))
