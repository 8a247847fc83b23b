"""Repetitions, of several functions in turn."""

import time
from collections.abc import Callable, Mapping


def time_in_turn(
    functions: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int
) -> dict[str, tuple[float, ...]]:
    """Returns the seconds of each call; the order rotates every repetition, so that noise affects all equally.

    Args:
        functions: each returns when its work is done.
        repeats: timed calls of each.
        warm_up: earlier calls of each, not timed.
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
