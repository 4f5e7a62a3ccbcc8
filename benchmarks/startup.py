"""What it costs to begin, and to keep a trial in memory."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import moorage
from benchmarks.clock import Timing
from benchmarks.report import Aim, Figure, Section
from benchmarks.workload import build, fill, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parents[1]


def fresh(*arguments: str) -> dict[str, object]:
    """Measure in a fresh interpreter; see `benchmarks.children`."""
    command = [sys.executable, "-m", "benchmarks.children", *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def timing(found: object) -> Timing:
    """A timing as a fresh interpreter tells it."""
    assert isinstance(found, dict)
    return Timing(float(found["wall"]), float(found["cpu"]))


def _kept_by(work: Callable[[], object]) -> int:
    """Bytes that what ``work`` returns, or leaves behind, holds."""
    gc.collect()
    tracemalloc.start()
    try:
        result = work()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return kept


def measure(folder: Path, size: int, repeats: int, tell: Callable[[str], None]) -> Section:
    """Start-up times of fresh interpreters, and the memory of a trial."""
    tell(f"storing {size:,} trials")
    path = build(folder / "startup.db", size, measurements=False)
    tell(f"{repeats} fresh interpreters of each kind")
    series: dict[str, list[Timing]] = {"import moorage": [], "connect": [], "the first operations": []}
    fresh("connect", str(path))
    for _ in range(repeats):
        series["import moorage"].append(timing(fresh("import")))
        connected = fresh("connect", str(path))
        series["connect"].append(timing(connected["connect"]))
        series["the first operations"].append(timing(connected["first"]))
    aims = {"import moorage": Aim("≤", 150), "connect": Aim("≤", 100)}
    notes = {
        "import moorage": "in a fresh interpreter",
        "connect": "to an existing SQLite database, right after the import",
        "the first operations": "fetch_experiments and reserve_trial, right after that",
    }
    figures = [
        Figure(
            name=name,
            value=statistics.median(one.wall for one in some) * 1e3,
            unit="ms",
            aim=aims.get(name),
            cells=(f"{statistics.median(one.cpu for one in some) * 1e3:.3g} ms",),
            note=notes[name],
        )
        for name, some in series.items()
    ]
    tell("memory")
    with open_storage(path, "fast") as storage:
        experiment = storage.fetch_experiments()[0]
        storage.fetch_trials(experiment, limit=1)
        fetched = _kept_by(lambda: storage.fetch_trials(experiment))
    with moorage.connect("memory://") as storage:
        stored = _kept_by(lambda: fill(storage, size, measurements=False))
    aim = Aim("≤", 2000)
    figures += [
        Figure(name="memory of a fetched trial", value=fetched / size, unit="bytes", aim=aim, note="a record"),
        Figure(name="memory of a trial in memory://", value=stored / size, unit="bytes", aim=aim, note="stored"),
    ]
    return Section(
        title="Start-up and memory",
        figures=figures,
        columns=("CPU",),
        samples=series,
        note=f"medians by the clock of {repeats} fresh interpreters; memory by tracemalloc over {size:,} trials",
    )
