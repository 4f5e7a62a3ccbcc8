"""Oríon's PickledDB, in an interpreter of its own: ``ORION_PYTHON orion_peer.py DATABASE TRIALS``.

Needs nothing but Oríon. For each line with a number that comes in, so many trials are reserved, given results and
completed, and the seconds for each of them are printed as JSON.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import sys
import time
from types import SimpleNamespace

from orion.core.worker.trial import Trial
from orion.storage.legacy import Legacy


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)  # noqa: UP017  (runs on older Pythons)


def _document(number: int) -> dict[str, object]:
    params = [
        {"name": "/learning_rate", "type": "real", "value": (number + 1) / 7919},
        {"name": "/layers", "type": "integer", "value": number % 8 + 1},
        {"name": "/activation", "type": "categorical", "value": ("relu", "tanh", "gelu")[number % 3]},
    ]
    trial = Trial(experiment=1, status="new", params=params, submit_time=_now())
    document: dict[str, object] = trial.to_dict()
    return document


def main(path: str, size: int) -> None:
    """Fill a database and serve."""
    storage = Legacy({"type": "PickledDB", "host": path})
    metadata = {"user": "benchmark", "datetime": _now()}
    storage.create_experiment({"_id": 1, "name": "benchmark", "version": 1, "metadata": metadata})
    with storage._db.locked_database() as database:
        database.write("trials", [_document(number) for number in range(size)])
    experiment = SimpleNamespace(_id=1)
    print(json.dumps({"version": importlib.metadata.version("orion")}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(int(line)):
            trial = storage.reserve_trial(experiment)
            trial.results = [Trial.Result(name="objective", type="objective", value=1 / (number + 1))]
            storage.push_trial_results(trial)
            storage.set_trial_status(trial, "completed")
        count = int(line)
        wall, cpu = (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count
        print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
