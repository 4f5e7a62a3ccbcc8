"""What must be measured in a process that has done nothing else yet: ``python -m benchmarks.children WHAT [PATH]``.

Nothing is imported here at the top: what an import costs is part of the question.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _timed(work: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def time_import() -> dict[str, float]:
    """Import Moorage."""

    def work() -> None:
        import moorage  # noqa: F401

    return _timed(work)


def time_connect(path: Path) -> dict[str, dict[str, float]]:
    """Connect to an existing database, and then make the first write."""
    import moorage

    opened: list[moorage.Storage] = []
    table = {"type": "sqlite", "path": str(path)}
    connected = _timed(lambda: opened.append(moorage.connect(table)))
    storage = opened[0]
    reserved = _timed(lambda: storage.reserve_trial(storage.fetch_experiments()[0]))
    storage.close()
    return {"connect": connected, "first": reserved}


def time_fetch_moorage(path: Path, *, measurements: bool) -> dict[str, float]:
    """Open a storage and fetch all trials."""
    import sqlalchemy  # noqa: F401  (Optuna imports it as well, before its clock starts)

    import moorage

    found: list[Sequence[object]] = []

    def work() -> None:
        storage = moorage.connect({"type": "sqlite", "path": str(path)})
        experiment = storage.fetch_experiments()[0]
        found.append(storage.fetch_trials(experiment))
        if measurements:
            found.append(storage.fetch_measurements(experiment=experiment))

    return {**_timed(work), "count": len(found[0])}


def time_fetch_optuna(path: Path) -> dict[str, float]:
    """Open a storage and fetch all trials, without the copy that Optuna makes unless told not to."""
    import optuna

    found: list[Sequence[object]] = []

    def work() -> None:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        study = storage.get_all_studies()[0]
        found.append(storage.get_all_trials(study._study_id, deepcopy=False))

    return {**_timed(work), "count": len(found[0])}


def main(arguments: Sequence[str]) -> None:
    """Measure one thing, and print it as JSON."""
    what, *rest = arguments
    found: object
    if what == "import":
        found = time_import()
    elif what == "connect":
        found = time_connect(Path(rest[0]))
    elif what == "fetch-optuna":
        found = time_fetch_optuna(Path(rest[0]))
    else:
        found = time_fetch_moorage(Path(rest[0]), measurements=what == "fetch-moorage-measurements")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
