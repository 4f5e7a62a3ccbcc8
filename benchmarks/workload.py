"""The trials that are stored before anything is measured, and those that are registered then."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import moorage

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 5000
STEPS = 5
"""Measurements of a trial."""

MIXTURE = (*("completed",) * 10, *("broken",) * 2, "pruned", "suspended", "interrupted", *("new",) * 5)
"""The statuses of twenty consecutive trials, before some of the pending ones are reserved."""

RESERVED_SHARE = 0.02

STATE = {"seed": 7, "observed": [index / 7 for index in range(40)], "generator": "mt19937"}
"""A state of an algorithm, of about 800 characters."""


def params(number: int) -> dict[str, object]:
    """The params of a trial; other numbers give others."""
    return {
        "learning_rate": (number + 1) / 7919,
        "layers": number % 8 + 1,
        "activation": ("relu", "tanh", "gelu")[number % 3],
    }


def results(number: int) -> dict[str, object]:
    """The results of a trial."""
    return {"objective": 1 / (number + 1), "accuracy": number % 97 / 97}


def fill(storage: moorage.Storage, size: int, *, measurements: bool = True) -> moorage.Experiment:
    """Store an experiment with ``size`` trials in the mixture; completed ones have measurements."""
    experiment = storage.create_experiment(name="benchmark", heartbeat_timeout=86_400)
    for start in range(0, size, BATCH):
        numbers = range(start, min(start + BATCH, size))
        trials = [_trial(number) for number in numbers]
        storage.register_trials(experiment, trials)
        if measurements:
            with storage.driver.transaction():
                for trial in trials:
                    if trial.status is moorage.TrialStatus.COMPLETED:
                        storage.add_measurements(trial, _series(), experiment_uid=experiment)
    for _ in range(int(size * RESERVED_SHARE)):
        storage.reserve_trial(experiment)
    return experiment


def _trial(number: int) -> moorage.Trial:
    shuffled = random.Random(number // len(MIXTURE)).sample(MIXTURE, len(MIXTURE))
    status = shuffled[number % len(MIXTURE)]
    ended = results(number) if status == "completed" else {}
    return moorage.Trial(params=params(number), status=status, results=ended)


def _series() -> list[dict[str, object]]:
    return [{"name": "loss", "step": step, "value": 1 / (step + 1)} for step in range(STEPS)]


def build(path: Path, size: int, *, measurements: bool = True) -> Path:
    """A filled storage in one file, which can be copied."""
    with open_storage(path, "fast") as storage:
        fill(storage, size, measurements=measurements)
    return path


def copy(original: Path, path: Path) -> Path:
    """Copy a storage that nobody has open."""
    shutil.copy(original, path)
    return path


def open_storage(path: Path, durability: str) -> moorage.Storage:
    """Open a storage in one file: a JSON file where it is called so, else SQLite."""
    kind = "json" if path.suffix == ".json" else "sqlite"
    return moorage.connect({"type": kind, "path": str(path)}, durability=durability)
