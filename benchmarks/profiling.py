"""Where the time of one operation goes."""

from __future__ import annotations

import cProfile
import pstats
from typing import TYPE_CHECKING

from benchmarks.hot_paths import completed_ids
from benchmarks.player import Counts, Player
from benchmarks.stores import MoorageStore
from benchmarks.workload import build

if TYPE_CHECKING:
    from pathlib import Path

_LINES = 30
_TIMES = {"register a batch": 10, "fetch all": 1, "get": 10, "count": 10}
_NEEDS_RESERVED = ("heartbeat", "push results")


def profile(folder: Path, operation: str, size: int) -> None:
    """Print the functions in which an operation spends its time, with durability=fast, by their own and by all time."""
    store = MoorageStore(build(folder / "profile.db", size), "fast")
    times = _TIMES.get(operation, 50)
    player = Player(store, Counts(), completed_ids(store), size)
    store.register_many([{"learning_rate": -1 / (number + 1)} for number in range(times * Counts().writes)])
    if operation in _NEEDS_RESERVED:
        player.play("reserve", times)
    if operation not in _NEEDS_RESERVED:
        player.play(operation)
    profiler = cProfile.Profile()
    profiler.enable()
    timing = player.play(operation, times)
    profiler.disable()
    store.close()
    print(f"{operation}: {timing.cpu * 1e6:.1f} µs of processor time for each, the profiler's own included")
    statistics = pstats.Stats(profiler).strip_dirs()
    for order in ("tottime", "cumulative"):
        statistics.sort_stats(order).print_stats(_LINES)
