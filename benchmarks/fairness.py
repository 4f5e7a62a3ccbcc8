"""Whether workers that share a file all get their turn, and how much they do together."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING

import attrs

from benchmarks.report import Aim, Figure, Section
from benchmarks.workload import BATCH, copy, open_storage, params, results

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

WORKERS = 4
_FASTEST = 5000
"""More trials than one process can reserve and complete in a second."""


@attrs.frozen
class Share:
    """What one process has done.

    Attributes:
        trials: how many it reserved and completed.
        seconds: in how long a time.
        longest: the longest that one trial took, in seconds.
        ran_out: whether there were too few trials.
    """

    trials: int
    seconds: float
    longest: float
    ran_out: bool


def work(path: Path, durability: str, barrier: Barrier, seconds: float, shares: Queue[Share]) -> None:
    """Reserve and complete trials for some seconds; runs in a process of its own."""
    with open_storage(path, durability) as storage:
        experiment = storage.fetch_experiments()[0]
        barrier.wait()
        trials, longest, ran_out = 0, 0.0, False
        start = before = time.perf_counter()
        while before < start + seconds:
            trial = storage.reserve_trial(experiment)
            if trial is None:
                ran_out = True
                break
            storage.push_trial_results(trial, results(trials), status="completed")
            trials += 1
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
        shares.put(Share(trials, before - start, longest, ran_out))


def run(path: Path, durability: str, workers: int, seconds: float) -> list[Share]:
    """What each of so many processes has done that started together."""
    context = multiprocessing.get_context("spawn")
    barrier, shares = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=work, args=(path, durability, barrier, seconds, shares)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    found = [shares.get(timeout=seconds + 120) for _ in processes]
    for process in processes:
        process.join()
    return found


def measure(folder: Path, seconds: float, repeats: int, tell: Callable[[str], None]) -> Section:
    """One process and several in turn, each time on a fresh copy of one file."""
    size = int(seconds * _FASTEST)
    tell(f"storing {size:,} pending trials")
    original = folder / "fairness.db"
    with open_storage(original, "fast") as storage:
        experiment = storage.create_experiment(name="fairness", heartbeat_timeout=86_400)
        for start in range(0, size, BATCH):
            storage.register_trials(experiment, [params(one) for one in range(start, min(start + BATCH, size))])
    figures: list[Figure] = []
    for durability in ("full", "fast"):
        tell(f"{repeats} times {seconds:g} s with 1 and with {WORKERS} processes, durability={durability}")
        evenness: list[float] = []
        gain: list[float] = []
        alone: list[float] = []
        together: list[float] = []
        longest, ran_out = 0.0, False
        for repeat in range(repeats):
            rates: dict[int, float] = {}
            for workers in (1, WORKERS):
                path = folder / f"fairness-{durability}-{repeat}-{workers}.db"
                shares = run(copy(original, path), durability, workers, seconds)
                rates[workers] = sum(share.trials / share.seconds for share in shares)
                ran_out = ran_out or any(share.ran_out for share in shares)
                if workers > 1:
                    done = [share.trials for share in shares]
                    evenness.append(min(done) / max(done))
                    longest = max(longest, *(share.longest for share in shares))
                path.unlink()
            alone.append(rates[1])
            together.append(rates[WORKERS])
            gain.append(rates[WORKERS] / rates[1])
        note = "there were too few trials" if ran_out else ""
        cells = (f"{statistics.median(alone):,.0f} /s", f"{statistics.median(together):,.0f} /s", f"{longest:.2g} s")
        figures += [
            Figure(
                name=f"slowest / fastest process, {durability}",
                value=statistics.median(evenness),
                aim=Aim("≥", 0.8),
                cells=cells,
                note=note,
            ),
            Figure(name=f"{WORKERS} processes / 1 process, {durability}", value=statistics.median(gain), cells=cells),
        ]
    return Section(
        title=f"Fairness: {WORKERS} processes reserve and complete trials in one SQLite file",
        figures=figures,
        columns=("1 process", f"{WORKERS} processes", "longest wait"),
        note="trials reserved and completed each second; longest wait: for one trial, when several processes ran",
    )
