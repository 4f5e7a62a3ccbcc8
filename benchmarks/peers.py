"""Moorage beside other libraries, each with the durability that it has by default."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

from benchmarks.clock import Timing, duration, quotient, timed, typical
from benchmarks.orion import Absent, Orion
from benchmarks.report import Aim, Figure, Section
from benchmarks.startup import fresh, timing
from benchmarks.stores import MoorageStore
from benchmarks.workload import STEPS, build, params, results

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEVELS = ("full", "fast")
STORED = 1000
"""Trials stored before lives are measured."""
ORION_STORED = 5000
LIVES = 10
_COLD_LEAST = 10_000
"""The aim of a cold fetch is for so many trials; with fewer, what is done only once weighs more."""
_DATABASE, _JOURNAL, _ORION = Aim("≥", 8), Aim("≥", 1.5), Aim("≥", 50)
_ABSENT = "Optuna is not installed"


def measure(
    folder: Path, rounds: int, repeats: int, cold_size: int, orion: str | None, tell: Callable[[str], None]
) -> list[Section]:
    """All peers; one that is not installed is reported as such.

    Args:
        folder: for the databases.
        rounds: how often lives are raced.
        repeats: how often what takes long is measured.
        cold_size: how many trials are fetched cold.
        orion: an interpreter that has Oríon.
        tell: is told what is going on.
    """
    has_optuna = importlib.util.find_spec("optuna") is not None
    return [
        _lives(folder, rounds, tell) if has_optuna else _absent_lives(),
        _cold(folder, repeats, cold_size, has_optuna, tell),
        _orion(folder, repeats, orion, tell),
    ]


def _live(store: MoorageStore, number: int) -> None:
    """All that Optuna does for a trial, and the reservation, which it does not know."""
    store.register(params(STORED + number))
    trial = store.reserve()
    for step in range(STEPS):
        store.measure(trial, step, 1 / (step + 1))
    store.complete(trial, results(number))


def _pending_store(path: Path, level: str, size: int) -> MoorageStore:
    build(path, size)
    return MoorageStore(path, level)


def _lives(folder: Path, rounds: int, tell: Callable[[str], None]) -> Section:
    from benchmarks import optuna_peer

    tell(f"lives of trials, {STORED:,} stored")
    stores = {level: _pending_store(folder / f"lives-{level}.db", level, STORED) for level in LEVELS}
    database, journal = folder / "optuna.db", folder / "optuna.journal"
    first = optuna_peer.Lives(optuna_peer.open_database(database))
    first.live(0)
    optuna_peer.multiply(database, STORED)
    settings = optuna_peer.durability(database)
    others = {"database": first, "journal": optuna_peer.Lives(optuna_peer.open_journal(journal))}
    for number in range(STORED):
        others["journal"].live(number)
    series: dict[str, list[Timing]] = {}
    lives: dict[str, Callable[[int], None]] = {name: other.live for name, other in others.items()}
    lives |= {level: functools.partial(_live, store) for level, store in stores.items()}
    for played in range(rounds + 1):
        for name, live in lives.items():

            def work(live: Callable[[int], None] = live, first: int = played * LIVES) -> None:
                for number in range(first, first + LIVES):
                    live(number)

            series.setdefault(name, []).append(timed(work, LIVES))
    series = {name: some[1:] for name, some in series.items()}
    for store in stores.values():
        store.close()
    figures: list[Figure] = []
    labels = {"database": ("RDBStorage on SQLite", settings), "journal": ("JournalStorage in a file", "fsync")}
    for name, (label, kind) in labels.items():
        for level in LEVELS:
            aim = _DATABASE if name == "database" else _JOURNAL
            ours, theirs = series[level], series[name]
            cells = (
                duration(typical(ours, "wall")),
                duration(typical(theirs, "wall")),
                f"{quotient(theirs, ours, 'cpu'):.3g}",
            )
            value = quotient(theirs, ours, "wall")
            figures.append(
                Figure(name=f"Optuna {label}, ours {level}", value=value, aim=aim, cells=cells, note=f"theirs: {kind}")
            )
    return Section(
        title=f"Peers: whole life of a trial with 3 params and {STEPS} measurements",
        figures=figures,
        measured="times faster",
        columns=("Moorage", "Optuna", "by CPU"),
        samples=series,
        note=f"medians by the clock, {STORED:,} trials stored before. Ours: register, reserve, {STEPS} measurements, "
        f"complete. Theirs: create, 3 params, {STEPS} intermediate values, complete",
    )


def _absent_lives() -> Section:
    names = {"RDBStorage on SQLite": _DATABASE, "JournalStorage in a file": _JOURNAL}
    figures = [Figure(name=f"Optuna {name}", value=None, aim=aim, note=_ABSENT) for name, aim in names.items()]
    return Section(title="Peers: whole life of a trial", figures=figures, measured="times faster")


def _cold(folder: Path, repeats: int, size: int, has_optuna: bool, tell: Callable[[str], None]) -> Section:
    tell(f"cold reads of {size:,} trials")
    plain, full = "without measurements", f"with {STEPS} measurements each"
    series: dict[str, list[Timing]] = {}
    figures: list[Figure] = []
    for name, steps in ((plain, 0), (full, STEPS)):
        aim = _DATABASE if not steps and size >= _COLD_LEAST else None
        if not has_optuna:
            figures.append(Figure(name=f"Optuna RDBStorage, {name}", value=None, aim=aim, note=_ABSENT))
            continue
        from benchmarks import optuna_peer

        ours, theirs = folder / f"cold-{steps}.db", folder / f"cold-optuna-{steps}.db"
        optuna_peer.Lives(optuna_peer.open_database(theirs)).live(0, steps)
        optuna_peer.multiply(theirs, size)
        _build_completed(ours, size, steps)
        kind = "fetch-moorage-measurements" if steps else "fetch-moorage"
        for _ in range(repeats):
            for who, found in (
                ("Moorage", fresh(kind, str(ours))),
                ("Optuna", fresh("fetch-optuna", str(theirs))),
            ):
                assert found["count"] == size
                series.setdefault(f"{who} {name}", []).append(timing(found))
        mine, other = series[f"Moorage {name}"], series[f"Optuna {name}"]
        cells = (
            duration(typical(mine, "wall")),
            duration(typical(other, "wall")),
            f"{quotient(other, mine, 'cpu'):.3g}",
        )
        value = quotient(other, mine, "wall")
        figures.append(Figure(name=f"Optuna RDBStorage, {name}", value=value, aim=aim, cells=cells))
    return Section(
        title=f"Peers: cold fetch of {size:,} completed trials from SQLite",
        figures=figures,
        measured="times faster",
        columns=("Moorage", "Optuna", "by CPU"),
        samples=series,
        note="medians by the clock: opening the storage and fetching, in a fresh interpreter after its imports. "
        "Measurements: ours by a second call, theirs always; Optuna without its deep copy",
    )


def _build_completed(path: Path, size: int, steps: int) -> None:
    from benchmarks.workload import BATCH, open_storage
    from moorage import Trial

    with open_storage(path, "fast") as storage:
        experiment = storage.create_experiment(name="benchmark")
        for start in range(0, size, BATCH):
            numbers = range(start, min(start + BATCH, size))
            trials = [Trial(params=params(one), status="completed", results=results(one)) for one in numbers]
            storage.register_trials(experiment, trials)
            with storage.driver.transaction():
                for trial in trials if steps else ():
                    series = [{"name": "loss", "step": step, "value": 1 / (step + 1)} for step in range(steps)]
                    storage.add_measurements(trial, series, experiment_uid=experiment)


def _orion(folder: Path, repeats: int, interpreter: str | None, tell: Callable[[str], None]) -> Section:
    names = {level: f"Oríon PickledDB, ours {level}" for level in LEVELS}
    title = f"Peers: reserve, push results, complete; {ORION_STORED:,} trials stored"

    def absent(reason: str) -> Section:
        figures = [Figure(name=name, value=None, aim=_ORION, note=reason) for name in names.values()]
        return Section(title=title, figures=figures, measured="times faster")

    tell(f"Oríon with {ORION_STORED:,} trials")
    try:
        orion = Orion(interpreter, folder / "orion.pkl", ORION_STORED)
    except Absent as error:
        return absent(str(error))
    with orion:
        series: dict[str, list[Timing]] = {"orion": [], **{level: [] for level in LEVELS}}
        stores = {level: _pending_store(folder / f"orion-{level}.db", level, ORION_STORED) for level in LEVELS}
        for played in range(repeats + 1):
            for level, store in stores.items():

                def work(store: MoorageStore = store) -> None:
                    for number in range(LIVES):
                        store.complete(store.reserve(), results(number))

                series[level].append(timed(work, LIVES))
            series["orion"].append(orion.time(2))
            if not played:
                series = {name: [] for name in series}
    for store in stores.values():
        store.close()
    figures: list[Figure] = []
    theirs = series["orion"]
    for level, name in names.items():
        ours = series[level]
        cells = (
            duration(typical(ours, "wall")),
            duration(typical(theirs, "wall")),
            f"{quotient(theirs, ours, 'cpu'):,.0f}",
        )
        figures.append(Figure(name=name, value=quotient(theirs, ours, "wall"), aim=_ORION, cells=cells))
    return Section(
        title=title,
        figures=figures,
        measured="times faster",
        columns=("Moorage", f"Oríon {orion.version}", "by CPU"),
        samples=series,
        note="medians by the clock. Theirs: a whole file is written and renamed for each change, without fsync",
    )
