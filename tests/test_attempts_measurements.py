"""Attempts and measurements: one attempt for each execution, and series that come back as they went in."""

from __future__ import annotations

import datetime
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

import moorage
from moorage import Measurement, Resource, Storage, Trial
from moorage.errors import (
    ConflictingArguments,
    FailedUpdate,
    InvalidArgument,
    InvalidType,
    MissingArguments,
    TrialNotFound,
)
from moorage.protocol.measurements import MEASUREMENT_BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage import Experiment


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as opened:
        yield opened


def with_trials(storage: Storage, count: int = 1, **fields: object) -> Experiment:
    experiment = storage.create_experiment(**{"name": "e", **fields})
    storage.register_trials(experiment, [{"x": place} for place in range(count)])
    return experiment


def loss(value: float, step: int = 0, **more: object) -> dict[str, object]:
    return {"name": "loss", "value": value, "step": step, **more}


def values(found: list[Measurement]) -> list[float]:
    return [one.value for one in found]


# Attempts


def test_each_execution_adds_an_attempt(storage: Storage) -> None:
    experiment = with_trials(storage)
    first = storage.reserve_trial(experiment, worker="w1", resource="gpu0")
    started = storage.start_attempt(first)
    assert (started.number, started.worker, started.resource, started.outcome) == (1, "w1", "gpu0", None)
    assert storage.fetch_attempts(first) == [started]
    storage.set_trial_status(first, "interrupted")
    storage.end_attempt(first, "interrupted", "power cut")
    second = storage.reserve_trial(experiment, worker="w2")
    storage.start_attempt(second, Resource(name="gpu1"))
    storage.end_attempt(second, "completed")
    attempts = storage.fetch_attempts(second.id, experiment)
    assert [(one.number, one.worker, one.resource, one.outcome, one.error) for one in attempts] == [
        (1, "w1", "gpu0", "interrupted", "power cut"),
        (2, "w2", "gpu1", "completed", None),
    ]
    assert all(one.started <= one.ended for one in attempts)
    assert storage.fetch_attempts(uid=second.id) == attempts


def test_an_attempt_is_started_once_and_ended_once(storage: Storage) -> None:
    trial = storage.reserve_trial(with_trials(storage))
    assert len(storage.fetch_attempts(trial)) == 1
    storage.start_attempt(trial)
    storage.start_attempt(trial, resource="gpu0")
    assert [one.resource for one in storage.fetch_attempts(trial)] == ["gpu0"]
    storage.end_attempt(trial, "completed")
    storage.end_attempt(trial, "completed", "in time")
    assert storage.fetch_attempts(trial)[0].error == "in time"
    with pytest.raises(FailedUpdate, match="has ended already: completed"):
        storage.end_attempt(trial, "broken")
    assert storage.fetch_attempts(trial)[0].outcome == "completed"


def test_wrong_attempts(memory: Storage) -> None:
    experiment = with_trials(memory, 2)
    trial = memory.reserve_trial(experiment)
    memory.start_attempt(trial)
    for wrong, error in ((5, InvalidType), (None, MissingArguments), (Trial(params={}), MissingArguments)):
        with pytest.raises(error):
            memory.start_attempt(wrong)
        with pytest.raises(error):
            memory.end_attempt(wrong, "completed")
    with pytest.raises(InvalidType, match="resource"):
        memory.start_attempt(trial, resource=5)
    with pytest.raises(InvalidType, match="error"):
        memory.end_attempt(trial, "broken", error=ValueError())
    with pytest.raises(InvalidArgument, match="outcome"):
        memory.end_attempt(trial, "")
    with pytest.raises(moorage.errors.ReservationLost):
        memory.start_attempt(memory.fetch_pending_trials(experiment)[0])
    with pytest.raises(TrialNotFound):
        memory.fetch_attempts("nobody", experiment)
    assert memory.fetch_attempts(trial)[0].outcome is None


def test_an_attempt_is_started_and_ended_by_the_id_of_its_trial(storage: Storage) -> None:
    trial = storage.reserve_trial(with_trials(storage, 1))
    assert storage.start_attempt(trial.id).number == trial.token
    storage.end_attempt(uid=trial.id, outcome="broken", error="why", experiment_uid=trial.experiment)
    (attempt,) = storage.fetch_attempts(trial)
    assert (attempt.outcome, attempt.error) == ("broken", "why")
    with pytest.raises(TrialNotFound):
        storage.start_attempt("nobody")


def test_a_measurement_of_another_trial_is_refused(memory: Storage) -> None:
    experiment = with_trials(memory, 2)
    first, second = memory.reserve_trial(experiment), memory.reserve_trial(experiment)
    memory.add_measurements(first, [{"name": "loss", "value": 1.0}])
    (taken,) = memory.fetch_measurements(first)
    with pytest.raises(ConflictingArguments, match=f"names trial '{first.id}'.*is added to trial '{second.id}'"):
        memory.add_measurements(second, [taken])
    assert memory.fetch_measurements(second) == []


# Measurements


def test_measurements_come_in_order_of_name_and_step(storage: Storage) -> None:
    trial = storage.reserve_trial(with_trials(storage))
    late = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    added = storage.add_measurements(
        trial,
        [
            loss(0.1, step=10),
            loss(0.9, step=-1),
            loss(0.5, step=2, time=late),
            loss(0.6, step=2, time=late - datetime.timedelta(microseconds=1)),
            {"name": "accuracy", "value": 1, "step": 99},
            Measurement(name="loss", value=0.3, step=3),
            {"name": "Loss", "value": np.float32(0.25)},
        ],
    )
    assert added == 7
    found = storage.fetch_measurements(trial)
    assert [(one.name, one.value) for one in found] == [
        ("Loss", 0.25),
        ("accuracy", 1.0),
        ("loss", 0.9),
        ("loss", 0.5),
        ("loss", 0.6),
        ("loss", 0.3),
        ("loss", 0.1),
    ]
    assert all((one.trial, one.experiment, one.attempt) == (trial.id, trial.experiment, 1) for one in found)
    assert values(storage.fetch_measurements(trial, name="accuracy")) == [1.0]
    assert values(storage.fetch_measurements(trial, name="loss", where={"step": {"$gte": 3}})) == [0.3, 0.1]
    assert values(storage.fetch_measurements(trial.id, where={"value": {"$lt": 0.25}})) == [0.1]
    assert storage.fetch_measurements(trial, name="none") == []


def test_no_float_is_changed(storage: Storage) -> None:
    trial = storage.reserve_trial(with_trials(storage))
    given = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e-310]
    storage.add_measurements(trial, [loss(value, step) for step, value in enumerate(given)])
    found = values(storage.fetch_measurements(trial))
    assert [value.hex() for value in found] == [value.hex() for value in given]
    assert values(storage.fetch_measurements(trial, where={"value": {"$gt": 1}})) == [math.inf, 1.7976931348623157e308]


def test_thousands_in_one_call_and_in_several_parts(storage: Storage) -> None:
    trial = storage.reserve_trial(with_trials(storage))
    count = MEASUREMENT_BATCH + 3
    assert storage.add_measurements(trial, (loss(step / 2, step) for step in range(count))) == count
    assert values(storage.fetch_measurements(trial)) == [step / 2 for step in range(count)]


def test_several_trials_and_whole_experiments(storage: Storage) -> None:
    experiment, other = with_trials(storage, 3), with_trials(storage, 3, name="other")
    trials = [storage.reserve_trial(experiment) for _ in range(3)]
    elsewhere = storage.reserve_trial(other)
    for place, trial in enumerate([*trials, elsewhere]):
        storage.add_measurements(trial, [loss(place * 10 + step, step) for step in (1, 0)])
    assert values(storage.fetch_measurements(trials=[trials[2], trials[0], trials[2]])) == [20, 21, 0, 1]
    assert values(storage.fetch_measurements(trials=[elsewhere, trials[1]])) == [30, 31, 10, 11]
    assert values(storage.fetch_measurements(trials=(one.id for one in trials), experiment_uid=experiment)) == [
        *(0, 1),
        *(10, 11),
        *(20, 21),
    ]
    found = storage.fetch_measurements(experiment=experiment.id, name="loss")
    assert [one.trial for one in found] == sorted(one.trial for one in found)
    assert sorted(values(found)) == [0, 1, 10, 11, 20, 21]
    assert storage.fetch_measurements(trials=[]) == []
    assert values(storage.fetch_measurements(elsewhere.id, experiment_uid=other)) == [30, 31]


def test_many_trials_are_asked_for_in_parts(storage: Storage) -> None:
    experiment = with_trials(storage, 1203)
    trials = storage.fetch_trials(experiment)
    for place in (0, 600, 1202):
        storage.add_measurements(trials[place], [loss(place)])
    assert values(storage.fetch_measurements(trials=trials)) == [0, 600, 1202]


def test_adding_the_same_measurements_again_adds_nothing(storage: Storage) -> None:
    """So a caller may repeat a call of which it got no answer."""
    trial = storage.reserve_trial(with_trials(storage))
    measurements = [Measurement(name="loss", value=float(step), step=step) for step in range(3)]
    for _ in range(2):
        storage.add_measurements(trial, measurements)
    assert values(storage.fetch_measurements(trial)) == [0.0, 1.0, 2.0]


def test_a_measurement_belongs_to_one_trial(storage: Storage) -> None:
    experiment = with_trials(storage, 2)
    first, second = storage.reserve_trial(experiment), storage.reserve_trial(experiment)
    measurement = Measurement(name="loss", value=1.0)
    storage.add_measurements(first, [measurement])
    with pytest.raises(InvalidArgument, match=f"was added to trial {first.id!r} already; make another Measurement"):
        storage.add_measurements(second, [Measurement(name="loss", value=2.0), measurement])
    assert values(storage.fetch_measurements(first)) == [1.0]
    assert values(storage.fetch_measurements(second)) == [2.0], "the others are added, with transactions and without"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (5, InvalidType, "must be a list of Measurements or dicts, not int"),
        ("loss", InvalidType, "not str"),
        ({"name": "loss", "value": 1}, InvalidType, "not dict"),
        (Measurement(name="loss", value=1.0), InvalidType, "not Measurement"),
        ([5], InvalidType, "a measurement is a Measurement or a dict, not int: 5"),
        ([{"name": "loss"}], MissingArguments, "needs a name and a value: {'name': 'loss'}"),
        ([{"value": 1}], MissingArguments, "needs a name and a value"),
        ([{"name": "loss", "value": 1, "epoch": 2}], InvalidArgument, "no field 'epoch'"),
        ([{"name": "loss", "value": "1"}], InvalidType, "must be a number, not str: '1'"),
        ([{"name": "loss", "value": None}], InvalidType, "not NoneType"),
        ([{"name": "loss", "value": True}], InvalidType, "not bool"),
        ([{"name": "loss", "value": 10**400}], InvalidArgument, "too large for a float"),
        ([{"name": "loss", "value": 1j}], InvalidType, "not complex"),
        ([{"name": "", "value": 1}], InvalidArgument, "must not be empty"),
        ([{"name": "loss", "value": 1, "step": 2**70}], InvalidArgument, "Measurement.step"),
        ([{"name": "loss", "value": 1, "step": 0.5}], InvalidType, "Measurement.step"),
        ([{"name": "loss", "value": 1, "time": "now"}], InvalidType, "Measurement.time"),
    ],
)
def test_wrong_measurements_add_nothing(memory: Storage, given: object, error: type[Exception], says: str) -> None:
    trial = memory.reserve_trial(with_trials(memory))
    more = [loss(1)] if isinstance(given, list) else []
    with pytest.raises(error, match=says):
        memory.add_measurements(trial, more + given if more else given)
    assert memory.fetch_measurements(trial) == []


def test_measurements_are_asked_for_in_one_way(memory: Storage) -> None:
    experiment = with_trials(memory)
    trial = memory.reserve_trial(experiment)
    with pytest.raises(MissingArguments, match="asked for by one of"):
        memory.fetch_measurements()
    for fields in ({"trials": [trial]}, {"experiment": experiment}):
        with pytest.raises(ConflictingArguments, match="asked for by one of"):
            memory.fetch_measurements(trial, **fields)
    with pytest.raises(ConflictingArguments):
        memory.fetch_measurements(trials=[], experiment=experiment)
    for wrong in (5, "abc", trial):
        with pytest.raises(InvalidType, match="trials must be a list"):
            memory.fetch_measurements(trials=wrong)
    with pytest.raises(InvalidType, match="name"):
        memory.fetch_measurements(trial, name=5)
    with pytest.raises(TrialNotFound):
        memory.fetch_measurements("nobody", experiment_uid=experiment)
    assert memory.add_measurements(trial, []) == 0
    with pytest.raises(TrialNotFound):
        memory.add_measurements("nobody", [], experiment_uid=experiment)
    with pytest.raises(TrialNotFound):
        memory.add_measurements("nobody", [loss(1)], experiment_uid=experiment)


def test_a_trial_that_is_not_reserved_takes_measurements_too(storage: Storage) -> None:
    experiment = with_trials(storage)
    (trial,) = storage.fetch_trials(experiment)
    storage.add_measurements(trial, [loss(1)])
    storage.add_measurements(trial.id, [loss(2)])
    assert [(one.value, one.attempt) for one in storage.fetch_measurements(trial, where={"attempt": 0})] == [
        (1.0, 0),
        (2.0, 0),
    ]
