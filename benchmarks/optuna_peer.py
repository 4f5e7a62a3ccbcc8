"""Optuna's storages, driven as a study drives them; imports Optuna, so it is imported only where that is installed."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from benchmarks.workload import STEPS, params, results

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

optuna.logging.set_verbosity(optuna.logging.ERROR)

DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(0, 1e6),
    "layers": IntDistribution(1, 8),
    "activation": CategoricalDistribution(("relu", "tanh", "gelu")),
}


class Lives:
    """Lives of trials in an Optuna storage: created, given params, measured, completed; each step is stored at once."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._study = storage.create_new_study([StudyDirection.MINIMIZE], "benchmark")

    def live(self, number: int, steps: int = STEPS) -> None:
        """One life."""
        storage = self._storage
        trial = storage.create_new_trial(self._study)
        for name, value in params(number).items():
            distribution = DISTRIBUTIONS[name]
            storage.set_trial_param(trial, name, distribution.to_internal_repr(value), distribution)
        for step in range(steps):
            storage.set_trial_intermediate_value(trial, step, 1 / (step + 1))
        objective = results(number)["objective"]
        assert isinstance(objective, float)
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [objective])


class Queue:
    """Trials that wait in an Optuna storage, and are taken and completed as a study does it by ``ask`` and ``tell``."""

    def __init__(self, path: Path, size: int) -> None:
        backend = JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        study = storage.create_new_study([StudyDirection.MINIMIZE], "benchmark")
        waiting = optuna.trial.create_trial(
            state=TrialState.WAITING, params=params(0), distributions=DISTRIBUTIONS, system_attrs={}
        )
        storage.create_new_trial(study, waiting)
        *_, record = backend.read_logs(0)
        backend.append_logs([record] * (size - 1))
        self._storage, self._study = storage, study

    def reserve(self) -> int:
        """Take the oldest waiting trial."""
        for trial in self._storage.get_all_trials(self._study, deepcopy=False, states=(TrialState.WAITING,)):
            if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return trial._trial_id
        raise AssertionError("no trial is waiting")

    def complete(self, trial: int, number: int) -> None:
        """Store the result and end the trial."""
        objective = results(number)["objective"]
        assert isinstance(objective, float)
        self._storage.set_trial_state_values(trial, TrialState.COMPLETE, [objective])


def open_journal(path: Path) -> BaseStorage:
    """Optuna's journal in a file."""
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def open_database(path: Path) -> BaseStorage:
    """Optuna's SQLite storage, as ``create_study(storage="sqlite:///…")`` opens it."""
    return optuna.storages.get_storage(f"sqlite:///{path}")


def durability(path: Path) -> str:
    """With which settings Optuna uses SQLite."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    with storage.engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        level = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    return f"journal_mode={mode}, synchronous={('OFF', 'NORMAL', 'FULL', 'EXTRA')[int(level or 0)]}"


def multiply(path: Path, size: int) -> None:
    """Fill a database that holds one trial with copies of it, row by row; Optuna itself would take minutes."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table in ("trials", "trial_params", "trial_values", "trial_intermediate_values"):
            cursor = connection.execute(f"SELECT * FROM {table}")
            columns = [one[0] for one in cursor.description]
            key = columns[0]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor]
            added: list[tuple[object, ...]] = []
            for number in range(1, size):
                for row in rows:
                    copy = {**row, key: None, "trial_id": row["trial_id"] + number}
                    if "number" in copy:
                        copy["number"] = number
                    added.append(tuple(copy.values()))
            places = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {table} VALUES ({places})", added)
