"""The JSON file beside what other libraries keep in one file, with few trials stored and with many."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.clock import Timing, digits, duration, growth, least, quotient, timed, typical
from benchmarks.orion import Absent, Orion
from benchmarks.report import Aim, Figure, Section
from benchmarks.stores import MoorageStore
from benchmarks.workload import open_storage, params, results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LEVELS = ("full", "fast")
PAIRS = 5
"""Trials that are reserved, and then completed, in one round (Oríon does one): in all rounds fewer than there are."""
_TITLE = "JSON file: reservations per second of one process"
_RATE, _EXPONENT = Aim("≥", 200), Aim("≤", 0.2)
_OPTUNA, _ORION = "Optuna JournalStorage", "Oríon PickledDB"
Series = dict[tuple[str, int], list[Timing]]


def measure(
    folder: Path, sizes: Sequence[int], rounds: int, orion: str | None, tell: Callable[[str], None]
) -> list[Section]:
    """Reserve and complete trials in turns: each library, with each number of trials stored.

    Args:
        folder: for the files.
        sizes: how many trials are stored.
        rounds: how often each of them has its turn.
        orion: an interpreter that has Oríon.
        tell: is told what is going on.
    """
    if importlib.util.find_spec("tinydb") is None:
        missing = Figure(
            name="full", value=None, aim=_RATE, note="tinydb is not installed: pip install 'moorage[json]'"
        )
        return [Section(title=_TITLE, figures=[missing])]
    absent: dict[str, str] = {}
    claims: Series = {}
    pairs: Series = {}
    with ExitStack() as opened:
        ours = {
            (level, size): _pending(opened, folder / f"{level}-{size}.json", level, size, tell)
            for level in LEVELS
            for size in sizes
        }
        others = _others(opened, folder, sizes, orion, absent, tell)
        tell(f"{rounds} rounds with {', '.join(f'{size:,}' for size in sizes)} trials")
        for played in range(rounds + 1):
            for (level, size), store in ours.items():
                claim, pair = _turn(store)
                claims.setdefault((level, size), []).append(claim)
                pairs.setdefault((f"Moorage json, {level}", size), []).append(pair)
            for key, turn in others.items():
                pairs.setdefault(key, []).append(turn())
            if not played:
                claims, pairs = {}, {}
    return [_claims(claims, sizes), _growth(pairs, sizes, absent), _ratios(pairs, max(sizes), absent)]


def _pending(opened: ExitStack, path: Path, level: str, size: int, tell: Callable[[str], None]) -> MoorageStore:
    tell(f"storing {size:,} trials in {path.name}")
    with open_storage(path, "fast") as storage:
        experiment = storage.create_experiment(name="benchmark", heartbeat_timeout=86_400)
        storage.register_trials(experiment, [params(number) for number in range(size)])
    store = MoorageStore(path, level)
    opened.callback(store.close)
    return store


def _turn(store: MoorageStore) -> tuple[Timing, Timing]:
    reserved = []
    claim = timed(lambda: reserved.extend(store.reserve() for _ in range(PAIRS)), PAIRS)

    def complete() -> None:
        for number, trial in enumerate(reserved):
            store.complete(trial, results(number))

    end = timed(complete, PAIRS)
    return claim, Timing(claim.wall + end.wall, claim.cpu + end.cpu)


def _others(
    opened: ExitStack,
    folder: Path,
    sizes: Sequence[int],
    interpreter: str | None,
    absent: dict[str, str],
    tell: Callable[[str], None],
) -> dict[tuple[str, int], Callable[[], Timing]]:
    found: dict[tuple[str, int], Callable[[], Timing]] = {}
    for size in sizes:
        tell(f"storing {size:,} trials in the files of others")
        if importlib.util.find_spec("optuna") is None:
            absent[_OPTUNA] = "Optuna is not installed"
        else:
            from benchmarks import optuna_peer

            queue = optuna_peer.Queue(folder / f"optuna-{size}.journal", size)

            def turn(queue: optuna_peer.Queue = queue) -> Timing:
                def work() -> None:
                    for number in range(PAIRS):
                        queue.complete(queue.reserve(), number)

                return timed(work, PAIRS)

            found[_OPTUNA, size] = turn
        try:
            orion = opened.enter_context(Orion(interpreter, folder / f"orion-{size}.pkl", size))
        except Absent as error:
            absent[_ORION] = str(error)
        else:
            found[_ORION, size] = lambda orion=orion: orion.time(1)
    return found


def _claims(claims: Series, sizes: Sequence[int]) -> Section:
    figures = []
    for level in LEVELS:
        rates = {size: 1 / typical(claims[level, size], "wall") for size in sizes}
        cells = [digits(rates[size]) for size in sizes]
        figures.append(Figure(name=level, value=rates[max(sizes)], aim=_RATE if level == "full" else None, cells=cells))
    return Section(
        title=_TITLE,
        figures=figures,
        measured=f"N={max(sizes):,}",
        columns=[f"N={size:,}" for size in sizes],
        samples={f"{level}, N={size}": some for (level, size), some in claims.items()},
        note="medians by the clock, N pending trials stored",
    )


def _growth(pairs: Series, sizes: Sequence[int], absent: dict[str, str]) -> Section:
    figures: list[Figure] = []
    curves: dict[str, dict[int, float]] = {}
    for name in dict.fromkeys(name for name, _ in pairs):
        curve = curves[name] = {size: least(pairs[name, size], "cpu") for size in sizes}
        aim = _EXPONENT if name.startswith("Moorage") else None
        cells = [duration(seconds) for seconds in curve.values()]
        figures.append(Figure(name=name, value=growth(curve), aim=aim, cells=cells))
    figures += [Figure(name=name, value=None, note=reason) for name, reason in absent.items()]
    return Section(
        title="Peers of the JSON file: reserve and complete a trial, growth with N",
        figures=figures,
        measured="growth exponent",
        columns=[f"CPU, N={size:,}" for size in sizes],
        curves=curves,
        samples={f"{name}, N={size}": some for (name, size), some in pairs.items()},
        note="CPU: least processor time, all N trials pending at first. Optuna: the oldest enqueued trial, as `ask` "
        "takes it",
    )


def _ratios(pairs: Series, size: int, absent: dict[str, str]) -> Section:
    figures: list[Figure] = []
    for peer in (_OPTUNA, _ORION):
        if peer in absent:
            figures.append(Figure(name=peer, value=None, note=absent[peer]))
            continue
        theirs = pairs[peer, size]
        for level in LEVELS:
            ours = pairs[f"Moorage json, {level}", size]
            cells = (
                duration(typical(ours, "wall")),
                duration(typical(theirs, "wall")),
                digits(quotient(theirs, ours, "cpu")),
            )
            figures.append(Figure(name=f"{peer}, ours {level}", value=quotient(theirs, ours, "wall"), cells=cells))
    return Section(
        title=f"Peers of the JSON file: reserve and complete a trial, {size:,} stored",
        figures=figures,
        measured="times faster",
        columns=("Moorage", "theirs", "by CPU"),
        note="medians by the clock. Optuna: fsync after each record, as ours full; Oríon: no fsync, as ours fast",
    )
