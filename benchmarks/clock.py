"""Timings, and what a series of them says on a machine that others use as well."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Quantity: TypeAlias = Literal["wall", "cpu"]


@attrs.frozen
class Timing:
    """What one operation took, on the average of those that were timed together.

    Attributes:
        wall: seconds by the clock; where others compute at the same time, those are in it.
        cpu: seconds of processor time of this process, all threads and the kernel's work for it.
    """

    wall: float
    cpu: float

    def of(self, quantity: Quantity) -> float:
        """One of the two."""
        return self.wall if quantity == "wall" else self.cpu


def timed(work: Callable[[], object], count: int) -> Timing:
    """Do some work that consists of ``count`` operations."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def typical(series: Iterable[Timing], quantity: Quantity) -> float:
    """The median."""
    return statistics.median(one.of(quantity) for one in series)


def least(series: Iterable[Timing], quantity: Quantity) -> float:
    """The minimum: what was disturbed least."""
    return min(one.of(quantity) for one in series)


def quotient(above: Sequence[Timing], below: Sequence[Timing], quantity: Quantity) -> float:
    """How many times as much the first series took: the median over the rounds, each of which ran both in turn."""
    return statistics.median(one.of(quantity) / other.of(quantity) for one, other in zip(above, below, strict=True))


def growth(times: Mapping[int, float]) -> float:
    """The exponent of growth: the slope of log time over log size, by least squares. 0 is constant, 1 is linear."""
    if len(times) < 2:
        return math.nan
    slope, _ = statistics.linear_regression(
        [math.log(size) for size in times], [math.log(seconds) for seconds in times.values()]
    )
    return slope


def duration(seconds: float) -> str:
    """A duration for people to read, with three digits."""
    if seconds >= 1:
        return f"{digits(seconds)} s"
    return f"{digits(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{digits(seconds * 1e6)} µs"


def digits(value: float) -> str:
    """A number with three digits."""
    if math.isnan(value):
        return "?"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
