"""How near Moorage comes to what can be had from SQLite by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from benchmarks.clock import digits, duration, least, quotient, typical
from benchmarks.hot_paths import completed_ids
from benchmarks.player import MEANING, OPERATIONS, Counts, Player, play_rounds
from benchmarks.raw import RawStore
from benchmarks.report import Aim, Figure, Section
from benchmarks.stores import MoorageStore
from benchmarks.workload import build, copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_RATE = Aim("≥", 0.8)
_EFFORT = Aim("≤", 5.0)
_READS = ("get", "count", "counts by status", "fetch all")


def measure(folder: Path, size: int, rounds: int, tell: Callable[[str], None]) -> list[Section]:
    """Play rounds with Moorage and by hand in turn, on copies of one file, with and without fsync."""
    tell(f"storing {size:,} trials")
    original = build(folder / "limit.db", size)
    players: dict[str, Player[object]] = {}
    ended: list[str] = []
    for level, synchronous in (("full", "FULL"), ("fast", "NORMAL")):
        path = folder / f"limit-moorage-{level}.db"
        store = MoorageStore(copy(original, path), level)
        ended = ended or completed_ids(store)
        players[f"moorage {level}"] = cast("Player[object]", Player(store, Counts(), ended, size))
        raw = RawStore(copy(original, folder / f"limit-raw-{level}.db"), synchronous)
        players[f"raw {level}"] = cast("Player[object]", Player(raw, Counts(), ended, size))
    tell(f"{rounds} rounds with Moorage and by hand in turn")
    try:
        found = play_rounds(players, rounds, min(rounds, 9))
    finally:
        for player in players.values():
            player.store.close()
    rates: list[Figure] = []
    efforts: list[Figure] = []
    for operation in OPERATIONS:
        ours, theirs = found["moorage full", operation], found["raw full", operation]
        if operation not in _READS:
            cells = [duration(typical(one, "wall")) for one in (ours, theirs)]
            cells.append(digits(least(theirs, "wall") / least(ours, "wall")))
            value = quotient(theirs, ours, "wall")
            rates.append(Figure(name=operation, value=value, aim=_RATE, cells=cells))
        ours, theirs = found["moorage fast", operation], found["raw fast", operation]
        cells = [duration(typical(one, "cpu")) for one in (ours, theirs)]
        cells.append(digits(least(ours, "cpu") / least(theirs, "cpu")))
        efforts.append(Figure(name=operation, value=quotient(ours, theirs, "cpu"), aim=_EFFORT, cells=cells))
    samples = {f"{operation}, {who}": one for (who, operation), one in found.items()}
    return [
        Section(
            title=f"Raw limit with fsync: rate of writes, N={size:,}",
            figures=rates,
            measured="Moorage / raw",
            columns=("Moorage", "sqlite3 by hand", "of the minima"),
            samples={name: one for name, one in samples.items() if name.endswith("full")},
            note=f"medians by the clock, durability=full, synchronous=FULL; reads do not wait for the disk. {MEANING}",
        ),
        Section(
            title=f"Raw limit without fsync: processor time, N={size:,}",
            figures=efforts,
            measured="Moorage / raw",
            columns=("Moorage", "sqlite3 by hand", "of the minima"),
            samples={name: one for name, one in samples.items() if name.endswith("fast")},
            note="medians of processor time, durability=fast and synchronous=NORMAL",
        ),
    ]
