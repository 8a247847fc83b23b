"""Text of figures, and the timing of calls."""

import pytest

from benchmarks.figures import Figure, Limits, Outcome, describe, format_number
from benchmarks.machine import seconds_since_start
from benchmarks.table import format_table
from benchmarks.timing import time_in_turn

LIMITS = Limits(matmul=200.0, convolution=150.4, bandwidth=12.34)
STEP = Figure(
    work="pretrain step",
    unit="pairs/s",
    samples=(20.0, 26.0, 25.0),
    flops=4e9,
    memory=1.234,
    pytorch=(10.0, 12.5, 14.0),
    notes=("PyTorch alone: 1.10 GB at most",),
)
START = Figure(work="from process start to first step done", unit="s", samples=(31.5,))
INPUT = Figure(work="input", unit="images/s", samples=(1200.0, 1300.0, 1100.0), bound=2400.0)


def test_lines_have_median_range_share_memory_and_ratio():
    lines = describe(Outcome("step: R18", LIMITS, (STEP, START, INPUT)))
    assert lines == [
        "step: R18",
        "limits of this machine: matmul 200 GFLOP/s, 3x3 convolution 150 GFLOP/s, memory 12.3 GB/s",
        "pretrain step: 25.0 pairs/s (20.0 to 26.0, 3 repetitions); 100.0 GFLOP/s; 50% of the matmul limit; "
        "1.23 GB at most; PyTorch 12.5 pairs/s (10.0 to 14.0, 3 repetitions), ratio 2.00",
        "  PyTorch alone: 1.10 GB at most",
        "from process start to first step done: 31.5 s",
        "input: 1,200 images/s (1,100 to 1,300, 3 repetitions); 50% of what bounds it",
    ]


def test_table_has_a_row_for_each_outcome_and_its_notes():
    lines = format_table(
        {
            "the step": Outcome("a", LIMITS, (STEP,)),
            "start": Outcome("b", Limits(100.0, 160.0, 9.0), (START,)),
            "huge": "does not fit into the memory of this machine",
        }
    )
    assert lines[2:] == [
        "| the step | 25.0 | pairs/s | 20.0 to 26.0 | 50% | 1.23 | 12.5 | 2.00 |",
        "| start | 31.5 | s |  |  |  |  |  |",
        "| huge | not measured | | | | | | |",
        "",
        "- the step: PyTorch alone: 1.10 GB at most",
        "- huge: does not fit into the memory of this machine",
        "- limits of this machine, the best of all rows: matmul 200 GFLOP/s, 3x3 convolution 160 GFLOP/s, "
        "memory 12.3 GB/s",
    ]
    assert {line.count("|") for line in lines[:5]} == {9}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.456, "0.46"), (9.994, "9.99"), (12.34, "12.3"), (999.94, "999.9"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value, text):
    assert format_number(value) == text


def test_functions_take_turns_and_the_warm_up_does_not_count():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = time_in_turn(functions, 3, warm_up=1)
    assert calls == list("abbaabba")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_process_knows_when_it_was_started():
    assert 0 < seconds_since_start() <= seconds_since_start() < 24 * 3600
