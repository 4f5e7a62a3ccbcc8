"""Whatever a verb is given: one clear error of Moorage, or correct storage; and what was stored stays intact."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest

import moorage
from comparing import identical
from moorage import Experiment, Measurement, MoorageError, Storage, Trial
from moorage.schema import SCHEMA

CYCLE: list[object] = []
CYCLE.append(CYCLE)
DEEP: object = 1
for _ in range(50_000):
    DEEP = [DEEP]


class Hostile:
    """Fails whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = object.__hash__


WEIRD: dict[str, object] = {
    "none": None,
    "true": True,
    "integer": 5,
    "negative": -1,
    "2**70": 2**70,
    "too many digits": 10**5000,
    "float": 0.5,
    "nan": math.nan,
    "infinity": math.inf,
    "bytes": b"x",
    "empty": "",
    "nul": "a\0b",
    "surrogate": "a\ud800",
    "megabyte": "x" * 2**20,
    "list": ["x"],
    "empty list": [],
    "tuple": (1, 2),
    "set": {1},
    "dict": {"a": 1},
    "dict of other keys": {1: 2, None: 3},
    "operators": {"$gt": 5},
    "cycle": CYCLE,
    "deep": DEEP,
    "object": object(),
    "class": int,
    "function": len,
    "generator": (one for one in ()),
    "array": np.arange(3),
    "scalar": np.float64(1),
    "naive time": datetime.datetime(2020, 1, 1),
    "hostile": Hostile(),
    "complex": 1j,
}

Verb = "Callable[[Storage, object], object]"
VERBS: dict[str, Verb] = {
    "create_experiment": lambda storage, value: storage.create_experiment(value),
    "create_experiment(name)": lambda storage, value: storage.create_experiment(name=value),
    "create_experiment(id)": lambda storage, value: storage.create_experiment(name="n", id=value),
    "create_experiment(version)": lambda storage, value: storage.create_experiment(name="e", version=value),
    "create_experiment(space)": lambda storage, value: storage.create_experiment(name="n", space=value),
    "create_experiment(metadata)": lambda storage, value: storage.create_experiment(name="n", metadata={"a": value}),
    "create_experiment(heartbeat_timeout)": lambda storage, value: storage.create_experiment(
        name="n", heartbeat_timeout=value
    ),
    "create_experiment(unknown)": lambda storage, value: storage.create_experiment(name="n", unknown=value),
    "create_experiment(status)": lambda storage, value: storage.create_experiment(name="n", status=value),
    "fetch_experiments": lambda storage, value: storage.fetch_experiments(value),
    "fetch_experiments(name)": lambda storage, value: storage.fetch_experiments({"name": value}),
    "fetch_experiments(operator)": lambda storage, value: storage.fetch_experiments({"version": {"$gt": value}}),
    "fetch_experiments(in)": lambda storage, value: storage.fetch_experiments({"name": {"$in": value}}),
    "fetch_experiments(path)": lambda storage, value: storage.fetch_experiments({"metadata.a": value}),
    "fetch_experiments(selection)": lambda storage, value: storage.fetch_experiments(selection=value),
    "fetch_experiments(selected)": lambda storage, value: storage.fetch_experiments(selection=[value]),
    "get_experiment": lambda storage, value: storage.get_experiment(value),
    "get_experiment(uid)": lambda storage, value: storage.get_experiment(uid=value),
    "update_experiment": lambda storage, value: storage.update_experiment(value, user="x"),
    "update_experiment(where)": lambda storage, value: storage.update_experiment("e", value, user="x"),
    "update_experiment(user)": lambda storage, value: storage.update_experiment("e", user=value),
    "update_experiment(status)": lambda storage, value: storage.update_experiment("e", status=value),
    "start_experiment": lambda storage, value: storage.start_experiment(value),
    "end_experiment": lambda storage, value: storage.end_experiment("e", value),
    "delete_experiment": lambda storage, value: storage.delete_experiment(value),
    "log_error": lambda storage, value: storage.log_error("e", value),
    "create_benchmark": lambda storage, value: storage.create_benchmark(value),
    "create_benchmark(targets)": lambda storage, value: storage.create_benchmark(name="n", targets=value),
    "fetch_benchmark": lambda storage, value: storage.fetch_benchmark(value),
    "delete_benchmark": lambda storage, value: storage.delete_benchmark(value),
    "register_trial": lambda storage, value: storage.register_trial("e", value),
    "register_trial(param)": lambda storage, value: storage.register_trial("e", {"a": value}),
    "register_trial(name)": lambda storage, value: storage.register_trial("e", [{"name": value, "value": 1}]),
    "register_trials": lambda storage, value: storage.register_trials("e", value),
    "register_trials(experiment)": lambda storage, value: storage.register_trials(value, [{"a": 1}]),
    "register_trials(duplicates)": lambda storage, value: storage.register_trials("e", [], duplicates=value),
    "get_trial": lambda storage, value: storage.get_trial(value),
    "get_trial(experiment_uid)": lambda storage, value: storage.get_trial("t0", value),
    "fetch_trials": lambda storage, value: storage.fetch_trials(value),
    "fetch_trials(where)": lambda storage, value: storage.fetch_trials("e", value),
    "fetch_trials(order)": lambda storage, value: storage.fetch_trials("e", order=value),
    "fetch_trials(limit)": lambda storage, value: storage.fetch_trials("e", limit=value),
    "iterate_trials(batch)": lambda storage, value: list(storage.iterate_trials("e", batch=value)),
    "fetch_trials_by_status": lambda storage, value: storage.fetch_trials_by_status("e", value),
    "count_trials": lambda storage, value: storage.count_trials("e", where=value),
    "best_trial": lambda storage, value: storage.best_trial(value),
    "reserve_trial": lambda storage, value: storage.reserve_trial(value),
    "reserve_trial(worker)": lambda storage, value: storage.reserve_trial("f", worker=value),
    "reserve_trial(resource)": lambda storage, value: storage.reserve_trial("f", resource=value),
    "set_trial_status": lambda storage, value: storage.set_trial_status("t0", value),
    "set_trial_status(was)": lambda storage, value: storage.set_trial_status("t0", "new", was=value),
    "set_trial_status(heartbeat)": lambda storage, value: storage.set_trial_status("t1", "suspended", value),
    "set_trial_status(error)": lambda storage, value: storage.set_trial_status("t1", "broken", error=value),
    "update_trial": lambda storage, value: storage.update_trial(value, worker="x"),
    "update_trial(results)": lambda storage, value: storage.update_trial("t1", results=value),
    "update_trial(end_time)": lambda storage, value: storage.update_trial("t1", end_time=value),
    "update_trials": lambda storage, value: storage.update_trials("e", value, worker="x"),
    "update_trials(worker)": lambda storage, value: storage.update_trials("e", worker=value),
    "delete_trials": lambda storage, value: storage.delete_trials("f", value),
    "push_trial_results": lambda storage, value: storage.push_trial_results("t0", value),
    "push_trial_results(objective)": lambda storage, value: storage.push_trial_results("t0", {"objective": value}),
    "push_trial_results(statistic)": lambda storage, value: storage.push_trial_results("t0", {"a": value}),
    "push_trial_results(status)": lambda storage, value: storage.push_trial_results("t0", {}, status=value),
    "retrieve_result": lambda storage, value: storage.retrieve_result(value),
    "update_heartbeat": lambda storage, value: storage.update_heartbeat(value),
    "running": lambda storage, value: storage.running(value),
    "start_attempt": lambda storage, value: storage.start_attempt(value),
    "end_attempt": lambda storage, value: storage.end_attempt(value, "x"),
    "end_attempt(outcome)": lambda storage, value: storage.end_attempt(storage.get_trial("t0"), value),
    "fetch_attempts": lambda storage, value: storage.fetch_attempts(value),
    "add_measurements": lambda storage, value: storage.add_measurements("t0", value),
    "add_measurements(one)": lambda storage, value: storage.add_measurements("t0", [value]),
    "add_measurements(value)": lambda storage, value: storage.add_measurements("t0", [{"name": "a", "value": value}]),
    "add_measurements(name)": lambda storage, value: storage.add_measurements("t0", [{"name": value, "value": 1}]),
    "add_measurements(step)": lambda storage, value: storage.add_measurements(
        "t0", [{"name": "a", "value": 1, "step": value}]
    ),
    "fetch_measurements": lambda storage, value: storage.fetch_measurements(value),
    "fetch_measurements(trials)": lambda storage, value: storage.fetch_measurements(trials=value),
    "fetch_measurements(name)": lambda storage, value: storage.fetch_measurements("t0", name=value),
    "fetch_measurements(where)": lambda storage, value: storage.fetch_measurements("t0", where=value),
    "add_resource": lambda storage, value: storage.add_resource(value),
    "add_resource(labels)": lambda storage, value: storage.add_resource(name="n", labels=value),
    "fetch_resources": lambda storage, value: storage.fetch_resources(value),
    "take_resource": lambda storage, value: storage.take_resource(value),
    "take_resource(id)": lambda storage, value: storage.take_resource(id=value),
    "take_resource(lease)": lambda storage, value: storage.take_resource("gpu", "x", lease=value),
    "renew_resource": lambda storage, value: storage.renew_resource(value),
    "free_resource": lambda storage, value: storage.free_resource(value),
    "free_resources": lambda storage, value: storage.free_resources(value),
    "remove_resource": lambda storage, value: storage.remove_resource(value),
    "initialize_algorithm_lock": lambda storage, value: storage.initialize_algorithm_lock(value),
    "initialize_algorithm_lock(config)": lambda storage, value: storage.initialize_algorithm_lock("f", value),
    "acquire_algorithm_lock(timeout)": lambda storage, value: storage.acquire_algorithm_lock("e", timeout=value),
    "acquire_algorithm_lock(retry_interval)": lambda storage, value: storage.acquire_algorithm_lock(
        "e", retry_interval=value
    ),
    "release_algorithm_lock": lambda storage, value: storage.release_algorithm_lock(value),
    "get_algorithm_lock_info": lambda storage, value: storage.get_algorithm_lock_info(value),
    "break_algorithm_lock": lambda storage, value: storage.break_algorithm_lock(value),
    "delete_algorithm_lock": lambda storage, value: storage.delete_algorithm_lock(value),
    "require": lambda storage, value: storage.require(value),
}


def fill(storage: Storage) -> Storage:
    storage.create_experiment(id="e", name="e", metadata={"a": 1})
    storage.create_experiment(id="f", name="f")
    storage.register_trials("e", [Trial(id=f"t{place}", params={"x": place}) for place in range(3)])
    storage.register_trials("f", [Trial(id=f"u{place}", params={"x": place}) for place in range(3)])
    trial = storage.reserve_trial("e", worker="me")
    storage.start_attempt(trial)
    storage.add_measurements(trial, [Measurement(name="loss", value=0.5)])
    storage.add_resource(id="r", name="r", kind="gpu")
    storage.create_benchmark(id="b", name="b")
    with storage.acquire_algorithm_lock("e") as algorithm:
        algorithm.set_state({"a": 1})
    return storage


def assert_intact(storage: Storage) -> None:
    """All that is stored can be read and decoded, by every reading verb."""
    for experiment in storage.fetch_experiments():
        for trial in storage.fetch_trials(experiment):
            storage.fetch_attempts(trial)
            assert Trial(
                **{name: getattr(trial, name) for name in ("id", "params", "status", "results", "token")}
            ).params.types
        storage.fetch_measurements(experiment=experiment)
    assert identical(storage.get_algorithm_lock_info("e").configuration, {})
    assert len(storage.fetch_resources()) >= 1
    assert len(storage.fetch_benchmark()) >= 1
    for collection in SCHEMA.collections:
        storage.driver.find(collection)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_anything_or_refuses_it_clearly(verb: str) -> None:
    for name, value in WEIRD.items():
        with moorage.connect("memory://") as storage:
            fill(storage)
            try:
                VERBS[verb](storage, value)
            except MoorageError as error:
                message = str(error)
                assert 10 < len(message) < 1500, name
            if storage.fetch_experiments({"id": "e"}):
                assert_intact(storage)


NAMES = {
    "quotes": 'it\'s "quoted" `so` -- ; DROP TABLE trials',
    "slashes": "../a/b\\c",
    "dots": "..a.b.",
    "dollars": "$where.$gt",
    "emoji": "🧪👩‍🔬",
    "accents": "éé",
    "percent": "%s %(x)s {0} {x} :name ?",
    "spaces": "  a \t\n b ",
    "tilde": "a~tuple",
    "at": "a@b#1",
    "long": "🧪" * 128,
    "right to left": "שלום",
    "controls": "\x01\x1b[31m\x7f\u2028\ufeff",
    "null word": "null",
    "number": "1e5",
}


def test_awkward_names_are_stored_and_found_everywhere(storage: Storage) -> None:
    for place, name in enumerate(NAMES.values()):
        experiment = storage.create_experiment(
            id=name, name=name, user=name, space={name: name}, metadata={name: {name: name}}, working_directory=name
        )
        assert storage.get_experiment(name) == experiment
        trial = storage.register_trial(name, Trial(id=name, params={name: name, "place": place}))
        assert storage.fetch_trials(experiment, {f"params.{name}": name}) == [trial]
        assert storage.fetch_trials(experiment, {"id": name, "params.place": place}) == [trial]
        reserved = storage.reserve_trial(name, worker=name, resource=name)
        assert (reserved.id, reserved.worker, reserved.resource) == (name, name, name)
        storage.start_attempt(reserved)
        storage.add_measurements(reserved, [{"name": name, "value": place}])
        storage.push_trial_results(reserved, {name: name, "objective": place}, status="completed", error=name)
        assert storage.retrieve_result(reserved)[name] == name
        assert [one.name for one in storage.fetch_measurements(reserved, name=name)] == [name]
        assert storage.fetch_attempts(reserved)[0].worker == name
        resource = storage.add_resource(id=name, name=name, kind=name, labels={name: name})
        assert storage.take_resource(name, name).id == resource.id
        with storage.acquire_algorithm_lock(name) as algorithm:
            algorithm.set_state({name: name})
        assert storage.get_algorithm_lock_info(name).state == {name: name}
        storage.log_error(name, name)
    for name in NAMES.values():
        (found,) = storage.fetch_experiments({"name": name, "user": name, "error": name, "working_directory": name})
        assert (found.id, dict(found.space), dict(found.metadata)) == (name, {name: name}, {name: {name: name}})
        assert storage.count_completed_trials(name) == 1
        assert storage.best_trial(name).id == name
        storage.delete_experiment(name)
    assert storage.fetch_experiments() == []
    assert storage.free_resources(NAMES["quotes"]) == 1


def test_large_and_deep_values_are_stored_whole(storage: Storage) -> None:
    megabyte = "🧪" * 2**18
    nested: object = 1
    for _ in range(moorage.codec.DEPTH - 2):
        nested = [nested]
    experiment = storage.create_experiment(
        name="e", metadata={"text": megabyte, "nested": nested}, working_directory=megabyte, error=megabyte
    )
    stored = storage.get_experiment(experiment)
    assert identical(dict(stored.metadata), {"text": megabyte, "nested": nested})
    assert stored.working_directory == stored.error == megabyte
    trial = storage.register_trial(experiment, {"text": megabyte, "nested": nested, "big": 2**70, "nan": math.nan})
    reserved = storage.reserve_trial(experiment)
    assert identical(dict(reserved.params), dict(trial.params))
    storage.push_trial_results(reserved, {"text": megabyte, "nested": nested, "big": -(2**70)}, status="completed")
    assert storage.retrieve_result(trial) == {"text": megabyte, "nested": nested, "big": -(2**70)}
    assert storage.fetch_trials(experiment, {"params.big": 2**70})[0].id == trial.id
    assert storage.fetch_experiments({"metadata.text": megabyte, "working_directory": megabyte})[0].id == experiment.id
    storage.update_trial(trial.id, error=megabyte)
    assert storage.get_trial(trial).error == megabyte


@pytest.mark.parametrize("value", [2**63, 2**70, -(2**70), 10**400, math.inf, math.nan, 1e300, 0.5, "1", True])
def test_numbers_beyond_a_column_are_refused_or_match_nothing(storage: Storage, value: object) -> None:
    storage.create_experiment(name="e", version=1)
    for word in ("$eq", "$lt", "$gte"):
        for field in ("version", "max_trials", "heartbeat_timeout"):
            try:
                found = storage.fetch_experiments({field: {word: value}})
            except moorage.errors.InvalidQuery:
                continue
            stored = {"version": 1, "max_trials": None, "heartbeat_timeout": 120.0}[field]
            meets = stored is not None and (
                stored == value if word == "$eq" else stored < value if word == "$lt" else stored >= value
            )
            assert bool(found) == meets, (field, word)


def test_a_refusal_in_the_middle_of_a_batch_stores_nothing(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    for wrong in (object(), CYCLE, {"a": {1j}}):
        with pytest.raises(MoorageError):
            storage.register_trials(experiment, [{"x": 1}, {"x": wrong}, {"x": 2}])
    with pytest.raises(MoorageError):
        storage.register_trials(experiment, ({"x": place} if place < 2 else place for place in range(4)))
    assert storage.fetch_trials(experiment) == []
    trial = storage.register_trial(experiment, {"x": 1})
    with pytest.raises(MoorageError):
        storage.add_measurements(trial, [{"name": "loss", "value": 1}, {"name": "loss", "value": "x"}])
    assert storage.fetch_measurements(trial) == []


def test_records_of_another_storage_are_not_found_here(storage: Storage) -> None:
    with moorage.connect("memory://") as other:
        experiment = other.create_experiment(name="e")
        other.register_trial(experiment, {"x": 1})
        trial = other.reserve_trial(experiment)
    for verb in (
        lambda: storage.register_trial(experiment, {"x": 1}),
        lambda: storage.fetch_trials(experiment),
        lambda: storage.reserve_trial(experiment),
        lambda: storage.update_heartbeat(trial),
        lambda: storage.push_trial_results(trial, {}),
        lambda: storage.add_measurements(trial, [{"name": "loss", "value": 1}]),
        lambda: storage.start_attempt(trial),
        lambda: storage.running(trial),
        lambda: storage.acquire_algorithm_lock(experiment).__enter__(),
        lambda: storage.update_experiment(Experiment(name="never stored"), user="x"),
    ):
        with pytest.raises(LookupError) as caught:
            verb()
        assert isinstance(caught.value, MoorageError)
    assert storage.is_empty()
