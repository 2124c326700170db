"""CPU times of calls, and ratios of times as the tables show them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def cpu_seconds(compute: Callable[[], object], repeats: int = 1) -> float:
    """Return the CPU time of one call, in seconds: the mean over repeated calls."""
    started = time.process_time()
    for _ in range(repeats):
        compute()
    return (time.process_time() - started) / repeats


def quartiles(ratios: Sequence[float], number: str = ".2f") -> str:
    """Return the median with the quartiles; `number` is the format of each."""
    low, middle, high = (format(value, number) for value in statistics.quantiles(ratios, n=4))
    return f"{middle} ({low} to {high})"
