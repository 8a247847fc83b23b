"""Times of repeated calls."""

import time
from collections.abc import Callable, Mapping


def time_in_turn(
    functions: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int
) -> dict[str, tuple[float, ...]]:
    """Returns the seconds of each call. The order rotates every repetition, so that noise affects all equally.

    Args:
        functions: functions that return when their work is done.
        repeats: timed calls of each.
        warm_up: calls of each before, not timed.
    """
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(warm_up + repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: tuple(times[warm_up:]) for name, times in seconds.items()}


def least_seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the time of the fastest call after one call that may compile."""
    return min(time_in_turn({"": function}, repeats, warm_up=1)[""])
