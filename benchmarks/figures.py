"""Figures of a benchmark, and their text. Nothing here measures."""

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Limits:
    """Highest rates of a machine in one number format.

    Attributes:
        matmul: GFLOP/s of a large dense product.
        convolution: GFLOP/s of the fastest of some 3x3 convolutions.
        bandwidth: GB/s of memory, read and written, of a large copy.
    """

    matmul: float
    convolution: float
    bandwidth: float

    def best(self, other: "Limits") -> "Limits":
        """Returns the larger of each figure."""
        return Limits(*map(max, dataclasses.astuple(self), dataclasses.astuple(other)))

    def __str__(self) -> str:
        return (
            f"matmul {self.matmul:.0f} GFLOP/s, 3x3 convolution {self.convolution:.0f} GFLOP/s, "
            f"memory {self.bandwidth:.1f} GB/s"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        work: what was done.
        unit: unit of the samples, such as `pairs/s`, `s` or `GB`.
        samples: one for each repetition.
        flops: operations per counted unit of the rate; 0 if they are not relevant.
        memory: largest memory in GB, None if it was not measured.
        bound: upper bound of the samples in their unit; None if only `Limits` bounds them.
        pytorch: samples of the same work in PyTorch; empty if it was not measured.
        notes: further lines.
    """

    work: str
    unit: str
    samples: tuple[float, ...]
    flops: float = 0.0
    memory: float | None = None
    bound: float | None = None
    pytorch: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def gflops_per_second(self) -> float:
        """Operations per second at the median."""
        return self.median * self.flops / 1e9

    @property
    def ratio(self) -> float | None:
        """Ratio to PyTorch's median; None without PyTorch."""
        return self.median / statistics.median(self.pytorch) if self.pytorch else None

    def fraction(self, limits: Limits | None) -> float | None:
        """Returns the median as a share of `bound`, or else of the limit of a dense product."""
        if self.bound is not None:
            return self.median / self.bound
        return self.gflops_per_second / limits.matmul if self.flops and limits else None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All results of one benchmark.

    Attributes:
        title: the work and the machine, one line.
        limits: limits of the machine, measured before and after; None if nothing ran.
        figures: the measured figures.
    """

    title: str
    limits: Limits | None
    figures: tuple[Figure, ...]


def describe(outcome: Outcome) -> list[str]:
    """Returns the results as lines for the user."""
    lines = [outcome.title]
    if outcome.limits:
        lines.append(f"limits of this machine: {outcome.limits}")
    for figure in outcome.figures:
        lines += [_describe_figure(figure, outcome.limits), *(f"  {note}" for note in figure.notes)]
    return lines


def _describe_figure(figure: Figure, limits: Limits | None) -> str:
    parts = [f"{figure.work}: {_spread(figure.samples, figure.unit)}"]
    fraction = figure.fraction(limits)
    if figure.flops:
        parts.append(f"{figure.gflops_per_second:.1f} GFLOP/s")
    if fraction is not None:
        parts.append(f"{fraction:.0%} of {'what bounds it' if figure.bound else 'the matmul limit'}")
    if figure.memory is not None:
        parts.append(f"{figure.memory:.2f} GB at most")
    if figure.pytorch:
        parts.append(f"PyTorch {_spread(figure.pytorch, figure.unit)}, ratio {figure.ratio:.2f}")
    return "; ".join(parts)


def _spread(samples: Sequence[float], unit: str) -> str:
    text = f"{format_number(statistics.median(samples))} {unit}"
    return text if len(samples) == 1 else f"{text} ({format_range(samples)}, {len(samples)} repetitions)"


def format_range(samples: Sequence[float]) -> str:
    """Returns the smallest and the largest sample."""
    return f"{format_number(min(samples))} to {format_number(max(samples))}"


def format_number(value: float) -> str:
    """Returns a number with at least three digits, and no more decimals than necessary."""
    return f"{value:,.{2 if value < 10 else 1 if value < 1000 else 0}f}"
