"""How long each operation takes, and how that grows with the number of trials stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from benchmarks.clock import duration, growth, least, typical
from benchmarks.player import MEANING, OPERATIONS, Counts, Player, play_rounds
from benchmarks.report import Aim, Figure, Section
from benchmarks.stores import MoorageStore
from benchmarks.workload import build, copy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LEVELS = ("full", "fast")
_EXPONENT = Aim("≤", 0.1)


def completed_ids(store: MoorageStore) -> list[str]:
    """The ids of the completed trials."""
    trials = store.storage.fetch_trials_by_status(store.experiment, "completed")
    return [trial.id for trial in trials]


def measure(folder: Path, sizes: Sequence[int], rounds: int, tell: Callable[[str], None]) -> Section:
    """Play rounds with storages of all sizes in turn, in both durabilities."""
    players: dict[tuple[int, str], Player[object]] = {}
    for size in sizes:
        tell(f"storing {size:,} trials")
        original = build(folder / f"hot-{size}.db", size)
        for level in LEVELS:
            store = MoorageStore(copy(original, folder / f"hot-{size}-{level}.db"), level)
            players[size, level] = cast("Player[object]", Player(store, Counts(), completed_ids(store), size))
        original.unlink()
    tell(f"{rounds} rounds with {', '.join(f'{size:,}' for size in sizes)} trials")
    try:
        found = play_rounds(players, rounds, min(rounds, 3))
    finally:
        for player in players.values():
            player.store.close()
    figures: list[Figure] = []
    curves: dict[str, dict[int, float]] = {}
    for operation in OPERATIONS:
        curve = curves[operation] = {size: least(found[(size, "fast"), operation], "cpu") for size in sizes}
        largest = max(sizes)
        cells = [duration(typical(found[(largest, level), operation], "wall")) for level in LEVELS]
        cells += [duration(curve[size]) for size in sizes]
        figures.append(Figure(name=operation, value=growth(curve), aim=_EXPONENT, cells=cells))
    return Section(
        title="Hot paths: Moorage on SQLite, time of one operation",
        figures=figures,
        measured="growth exponent",
        columns=[
            f"full, N={max(sizes):,}",
            f"fast, N={max(sizes):,}",
            *(f"CPU, N={size:,}" for size in sizes),
        ],
        curves=curves,
        samples={f"{operation}, N={size}, {level}": one for ((size, level), operation), one in found.items()},
        note="full, fast: median by the clock with that durability. CPU: least processor time, durability=fast; its "
        f"exponent over N is judged. {MEANING}",
    )
