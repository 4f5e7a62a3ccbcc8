"""No verb does more work because more trials are stored: in steps of SQLite's virtual machine, not in seconds."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

import pytest

import moorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moorage import Experiment, Storage
    from moorage_sql.sqlite import SQLiteDriver

FEW, MANY = 200, 4000


def filled(path: Path, completed: int) -> tuple[Storage, Experiment]:
    """A storage of so many completed trials, and as many pending ones, some of them reserved."""
    storage = moorage.connect(f"sqlite:///{path}", durability="fast")
    experiment = storage.create_experiment(name="growth", heartbeat_timeout=1000)
    chance = random.Random(0)
    now = moorage.records.utcnow()
    done = [
        moorage.Trial(
            params={"x": float(number)},
            status="completed",
            results={"objective": chance.random()},
            submit_time=now,
            end_time=now,
        )
        for number in range(completed)
    ]
    chance.shuffle(done)
    storage.register_trials(experiment, done[::2])
    storage.register_trials(experiment, [{"y": float(number)} for number in range(completed)])
    storage.register_trials(experiment, done[1::2])
    return storage, experiment


def steps_of(storage: Storage, action: Callable[[], object]) -> int:
    """How many steps SQLite takes for an action, after a first one that prepares its statements."""
    action()
    link = cast("SQLiteDriver", storage.driver).links()[0]
    connection = link._connection  # type: ignore[attr-defined]
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 1)
    try:
        action()
    finally:
        connection.set_progress_handler(None, 1)
    return steps


def reserve_and_complete(storage: Storage, experiment: Experiment) -> None:
    trial = storage.reserve_trial(experiment)
    assert trial is not None
    storage.update_heartbeat(trial)
    storage.add_measurements(trial, [{"name": "loss", "value": 0.5, "step": 1}])
    storage.push_trial_results(trial, {"objective": 0.5}, status="completed")


def save_state(storage: Storage, experiment: Experiment) -> None:
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state(1)


def register(storage: Storage, experiment: Experiment) -> None:
    storage.register_trial(experiment, {"z": random.random()})


def reserve_at_once(storage: Storage, experiment: Experiment) -> None:
    (trial,) = storage.register_trials(experiment, [{"z": random.random()}], reserve=True)
    storage.push_trial_results(trial, {"objective": 2.0}, status="completed")


def reserve_this_one(storage: Storage, experiment: Experiment) -> None:
    (trial,) = storage.register_trials(experiment, [{"z": random.random()}])
    storage.push_trial_results(storage.reserve_trial(experiment, trial=trial), {"objective": 2.0}, status="completed")


def reserve_within_limits(storage: Storage, experiment: Experiment) -> None:
    storage.update_experiment(experiment, max_trials=1, max_broken=100)
    assert storage.reserve_trial(experiment) is None
    storage.update_experiment(experiment, max_trials=10**6)
    reserve_and_complete(storage, experiment)
    register(storage, experiment)
    storage.update_experiment(experiment, max_trials=None, max_broken=None)


def delete_one(storage: Storage, experiment: Experiment) -> None:
    (trial,) = storage.register_trials(experiment, [{"z": random.random()}])
    assert storage.delete_trials(experiment, {"id": trial.id}) == 1


VERBS: dict[str, Callable[[Storage, Experiment], object]] = {
    "the life of a trial": reserve_and_complete,
    "register": register,
    "register and reserve": reserve_at_once,
    "reserve this one": reserve_this_one,
    "reserve and register within limits": reserve_within_limits,
    "delete one": delete_one,
    "next number": lambda storage, experiment: storage.next_number("ids"),
    "where number": lambda storage, experiment: storage.fetch_trials(experiment, where={"number": 100}),
    "the lock": save_state,
    "get": lambda storage, experiment: storage.get_trial(moorage.derive_trial_id({"x": 1.0}), experiment),
    "get by the id alone": lambda storage, _: storage.get_trial(moorage.derive_trial_id({"x": 1.0})),
    "where id": lambda storage, experiment: storage.fetch_trials(
        experiment, where={"id": moorage.derive_trial_id({"x": 1.0})}
    ),
    "count by status": lambda storage, experiment: storage.count_trials(experiment),
    "count completed": lambda storage, experiment: storage.count_completed_trials(experiment),
    "best": lambda storage, experiment: storage.best_trial(experiment),
    "best, maximized": lambda storage, experiment: storage.best_trial(experiment, maximize=True),
    "the best three": lambda storage, experiment: storage.fetch_trials(
        experiment, where={"status": "completed", "objective": {"$ne": None}}, order="objective", limit=3
    ),
    "the last three": lambda storage, experiment: storage.fetch_trials(experiment, order="-number", limit=3),
    "the first three pending": lambda storage, experiment: storage.fetch_trials(
        experiment, where={"status": "new"}, limit=3
    ),
    "reserved": lambda storage, experiment: storage.fetch_trials_by_status(experiment, "reserved"),
    "broken": lambda storage, experiment: storage.fetch_trials_by_status(experiment, "broken"),
    "lost": lambda storage, experiment: storage.fetch_lost_trials(experiment),
    "recover": lambda storage, experiment: storage.recover_lost_trials(experiment),
    "measurements of a trial": lambda storage, experiment: storage.fetch_measurements(
        moorage.derive_trial_id({"x": 1.0}), experiment_uid=experiment
    ),
}


@pytest.fixture(scope="module")
def storages(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Storage, Experiment]]:
    folder = tmp_path_factory.mktemp("growth")
    return [filled(folder / f"{number}.db", number) for number in (FEW, MANY)]


@pytest.mark.parametrize("verb", VERBS)
def test_the_work_does_not_grow_with_the_trials(storages: list[tuple[Storage, Experiment]], verb: str) -> None:
    few, many = (steps_of(storage, lambda one=storage, of=of: VERBS[verb](one, of)) for storage, of in storages)  # type: ignore[misc]
    assert few > 0
    assert many <= 1.5 * few, f"{few} steps with {FEW} trials, {many} with {MANY}"


def test_the_measure_sees_what_grows(storages: list[tuple[Storage, Experiment]]) -> None:
    few, many = (steps_of(one, lambda one=one, of=of: one.fetch_trials(of)) for one, of in storages)  # type: ignore[misc]
    assert many > 10 * few
