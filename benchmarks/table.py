"""All benchmarks, one after the other, as one table: `make bench`.

python -m benchmarks.table

Each row is a command line of `python run.py --mode=benchmark` in a separate process. Two quiet cores take about 12
minutes. Other programs affect the figures; the first line shows the load.
"""

import datetime
import shlex
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.command import measure
from benchmarks.figures import Figure, Limits, Outcome, describe, format_number, format_range
from benchmarks.fresh import OutOfMemoryError, in_fresh_process
from flags.convert import parse_command_line
from tf_simclr.config import UserError

ROWS = {
    "SimCLR step, R18, 32 px, 64 pairs": "--benchmark=step --resnet_depth=18 --image_size=32 --benchmark_batch_size=64",
    "SimCLR step, R18 0.25x, 32 px, 256 pairs": (
        "--benchmark=step --resnet_depth=18 --width_multiplier=0.25 --image_size=32 --benchmark_batch_size=256"
    ),
    "SimCLR step, R50, 224 px, 8 pairs": "--benchmark=step",
    "SimCLR step, R50 SK, 224 px, 8 pairs": "--benchmark=step --sk_ratio=0.0625",
    "process start to first step, R50 SK, 224 px": "--benchmark=startup --sk_ratio=0.0625 --benchmark_repeats=3",
    "process start to first step traced, R152 3x SK, 224 px": (
        "--benchmark=startup --benchmark_trace_only --resnet_depth=152 --width_multiplier=3 --sk_ratio=0.0625 "
        "--benchmark_repeats=1"
    ),
    "two-view input, 32 px, uint8 in memory": (
        "--benchmark=input --image_size=32 --use_blur=False --color_jitter_strength=0.5 --benchmark_batch_size=512"
    ),
    "two-view input with blur, 224 px from JPEG": "--benchmark=input --benchmark_batch_size=64",
    "memory, R50 SK, 224 px, 16 pairs, --recompute": (
        "--benchmark=memory --sk_ratio=0.0625 --recompute --benchmark_batch_size=16 --benchmark_repeats=3"
    ),
    "memory, R50, 224 px, 64 pairs, --contrast_chunks=8": (
        "--benchmark=memory --contrast_chunks=8 --global_bn=False --benchmark_batch_size=64 --benchmark_repeats=1"
    ),
    "inference, R50, 224 px, 8 images, folded": "--benchmark=inference",
}
_HEAD = (
    "| work | figure | unit | range | of the limit | peak memory, GB | PyTorch | ratio |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def measure_line(arguments: str) -> Outcome:
    """Measures a command line of `--mode=benchmark`.

    Raises:
        UserError: if a flag or a value is wrong, or the work does not fit into this machine.
    """
    config: Any = parse_command_line(["--mode=benchmark", *shlex.split(arguments)])[0]
    return measure(config)


def measure_row(arguments: str) -> Outcome | str:
    """Measures a command line in a new process; returns the result, or the reason if there is none."""
    try:
        outcome: Outcome = in_fresh_process(measure_line, arguments)
        return outcome
    except UserError as error:
        return str(error)
    except OutOfMemoryError:
        return "does not fit into the memory of this machine"


def format_table(outcomes: Mapping[str, Outcome | str]) -> list[str]:
    """Returns the lines of a Markdown table with the first figure of each outcome, then all notes.

    Args:
        outcomes: results of `measure_row` by name.
    """
    rows, notes = list(_HEAD), []
    limits: Limits | None = None
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            rows.append(f"| {name} | not measured | | | | | | |")
            notes.append(f"- {name}: {outcome}")
            continue
        if outcome.limits:
            limits = outcome.limits.best(limits or outcome.limits)
        rows.append(_row(name, outcome.figures[0], outcome.limits))
        notes += [f"- {name}: {note}" for figure in outcome.figures for note in figure.notes]
    if limits:
        notes.append(f"- limits of this machine, the best of all rows: {limits}")
    return [*rows, "", *notes]


def _row(name: str, figure: Figure, limits: Limits | None) -> str:
    fraction, ratio = figure.fraction(limits), figure.ratio
    cells = (
        name,
        format_number(figure.median),
        figure.unit,
        format_range(figure.samples) if len(figure.samples) > 1 else "",
        "" if fraction is None else f"{fraction:.0%}",
        "" if figure.memory is None else f"{figure.memory:.2f}",
        format_number(statistics.median(figure.pytorch)) if figure.pytorch else "",
        "" if ratio is None else f"{ratio:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measures all rows; prints each when it is done, and the table at the end."""
    from benchmarks.machine import describe_machine, share_gpu

    share_gpu()
    title = f"{datetime.date.today()}; {describe_machine()}"
    outcomes = {}
    for name, arguments in ROWS.items():
        outcomes[name] = outcome = measure_row(arguments)
        lines = [outcome] if isinstance(outcome, str) else describe(outcome)
        print("\n".join([f"== {name}", *lines]), file=sys.stderr, flush=True)
    print("\n".join([title, "", *format_table(outcomes)]))


if __name__ == "__main__":
    main()
