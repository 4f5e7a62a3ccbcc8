"""Records: what they accept, how ids are derived, and that they come back from every storage as they went in."""

from __future__ import annotations

import copy
import datetime
import enum
import math
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comparing import assert_same_record, identical
from moorage import (
    Attempt,
    Benchmark,
    Experiment,
    Measurement,
    Param,
    Params,
    Resource,
    Result,
    Results,
    Trial,
    TrialStatus,
    derive_trial_id,
)
from moorage.errors import EncodingError, InvalidArgument, InvalidType, MoorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage import Storage

EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=45))
MOMENT = datetime.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=EAST)
ON_EVERY_STORAGE = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Name(str, enum.Enum):  # noqa: UP042
    ALPHA = "alpha"


class Level(enum.IntEnum):
    ONE = 1
    TWO = 2


# What fields accept

MAKERS: dict[str, Callable[..., object]] = {
    "experiment": lambda **fields: Experiment(**{"name": "e", **fields}),
    "trial": lambda **fields: Trial(**{"params": {"x": 1}, **fields}),
    "attempt": lambda **fields: Attempt(**{"id": "a", "experiment": "e", "trial": "t", "number": 1, **fields}),
    "measurement": lambda **fields: Measurement(**{"name": "loss", "value": 0.5, **fields}),
    "resource": lambda **fields: Resource(**{"name": "gpu", **fields}),
    "benchmark": lambda **fields: Benchmark(**{"name": "b", **fields}),
}
SHORT_TEXTS = [
    ("experiment", "id"),
    ("experiment", "name"),
    ("experiment", "user"),
    ("experiment", "parent"),
    ("trial", "id"),
    ("trial", "experiment"),
    ("trial", "worker"),
    ("trial", "parent"),
    ("trial", "resource"),
    ("attempt", "experiment"),
    ("attempt", "trial"),
    ("attempt", "worker"),
    ("attempt", "resource"),
    ("attempt", "outcome"),
    ("measurement", "id"),
    ("measurement", "name"),
    ("measurement", "trial"),
    ("measurement", "experiment"),
    ("resource", "id"),
    ("resource", "name"),
    ("resource", "kind"),
    ("resource", "holder"),
    ("benchmark", "id"),
    ("benchmark", "name"),
]
LONG_TEXTS = [
    ("experiment", "error"),
    ("experiment", "working_directory"),
    ("trial", "error"),
    ("trial", "working_directory"),
    ("attempt", "error"),
]
TIMES = [
    ("experiment", "created"),
    ("experiment", "started"),
    ("experiment", "ended"),
    ("trial", "submit_time"),
    ("trial", "start_time"),
    ("trial", "end_time"),
    ("trial", "heartbeat"),
    ("attempt", "started"),
    ("attempt", "ended"),
    ("measurement", "time"),
    ("resource", "heartbeat"),
    ("benchmark", "created"),
]
INTEGERS = [
    ("experiment", "version", 0),
    ("experiment", "max_trials", 1),
    ("experiment", "max_broken", 1),
    ("trial", "token", 0),
    ("attempt", "number", 0),
    ("measurement", "step", -(2**63)),
    ("measurement", "attempt", 0),
    ("resource", "token", 0),
]
SECONDS = [("experiment", "heartbeat_timeout"), ("resource", "lease")]
NAMES = [
    ("experiment", "space"),
    ("experiment", "algorithm"),
    ("experiment", "metadata"),
    ("resource", "labels"),
    ("benchmark", "metadata"),
]


def refused(record: str, field: str, value: object) -> str:
    """The message with which a value is refused; it names the field."""
    with pytest.raises((InvalidArgument, InvalidType)) as caught:
        MAKERS[record](**{field: value})
    message = str(caught.value)
    assert field in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize(("record", "field"), SHORT_TEXTS + LONG_TEXTS)
def test_texts(record: str, field: str) -> None:
    assert getattr(MAKERS[record](**{field: "naïve 🧪 'quoted' / .$"}), field) == "naïve 🧪 'quoted' / .$"
    assert "'a\\x00b'" in refused(record, field, "a\0b")
    assert "surrogate" in refused(record, field, "a\ud800b")
    assert "not int: 5" in refused(record, field, 5)
    assert "not bytes" in refused(record, field, b"x")


@pytest.mark.parametrize(("record", "field"), SHORT_TEXTS)
def test_short_texts_have_a_limit_and_are_not_empty(record: str, field: str) -> None:
    limit = 128 if field in ("id", "experiment", "trial") else 255
    assert len(getattr(MAKERS[record](**{field: "🧪" * limit}), field)) == limit
    assert f"{limit} is the most" in refused(record, field, "x" * (limit + 1))
    assert "must not be empty" in refused(record, field, "")


@pytest.mark.parametrize(("record", "field"), LONG_TEXTS)
def test_long_texts_have_no_limit(record: str, field: str) -> None:
    assert len(getattr(MAKERS[record](**{field: "x" * 2**20}), field)) == 2**20


@pytest.mark.parametrize(("record", "field"), TIMES)
def test_times(record: str, field: str) -> None:
    stored = getattr(MAKERS[record](**{field: MOMENT}), field)
    assert stored == MOMENT
    assert stored.tzinfo is datetime.UTC
    assert stored.microsecond == 999_999
    assert "time zone" in refused(record, field, datetime.datetime(2024, 1, 1))
    assert "not str" in refused(record, field, "2024-01-01")
    assert "not float" in refused(record, field, 17e8)
    west = datetime.timezone(datetime.timedelta(hours=-5))
    assert "9999" in refused(record, field, datetime.datetime.max.replace(tzinfo=west))


@pytest.mark.parametrize(("record", "field", "least"), INTEGERS)
def test_integers(record: str, field: str, least: int) -> None:
    for value in (least, 7, 2**63 - 1):
        assert getattr(MAKERS[record](**{field: value}), field) == value
    for value in (least - 1, 2**63, 2**70, 10**6000):
        assert "2**63 - 1" in refused(record, field, value)
    for value in (True, 1.0, "1", math.nan):
        assert "must be an int" in refused(record, field, value)


@pytest.mark.parametrize(("record", "field"), SECONDS)
def test_seconds(record: str, field: str) -> None:
    for value in (1, 0.5, 2**70, np.float64(3)):
        stored = getattr(MAKERS[record](**{field: value}), field)
        assert stored == value
        assert type(stored) is float
    for value in (0, -1, math.nan, math.inf, -math.inf, 10**400):
        assert "finite and greater than 0" in refused(record, field, value)
    for value in (True, "1", [1]):
        assert "must be a number" in refused(record, field, value)


@pytest.mark.parametrize(("record", "field"), NAMES)
def test_mappings(record: str, field: str) -> None:
    value = {"a.b": [1, {"c": None}], "$x": "y", "🧪'\"/\\": 1}
    assert getattr(MAKERS[record](**{field: value}), field) == value
    for wrong in ([("a", 1)], "a", 5):
        assert "must be a dict" in refused(record, field, wrong)
    refused(record, field, {1: 2})
    refused(record, field, {"": 2})
    refused(record, field, {"a\0": 2})


def test_texts_and_numbers_of_derived_classes_become_plain() -> None:
    """A driver is promised plain values; what a database library does with an enumeration differs."""
    experiment = Experiment(name=Name.ALPHA, version=Level.TWO, user=np.str_("me"), heartbeat_timeout=np.float64(5))
    assert [type(one) for one in (experiment.name, experiment.version, experiment.user)] == [str, int, str]
    assert (experiment.name, experiment.version, experiment.user) == ("alpha", 2, "me")
    assert type(experiment.heartbeat_timeout) is float
    assert type(Trial(params={"x": 1}, token=Level.TWO, worker=Name.ALPHA).worker) is str
    assert type(Measurement(name=Name.ALPHA, value=1.0, step=Level.TWO).step) is int


def test_statuses() -> None:
    assert Trial(params={}, status="broken").status is TrialStatus.BROKEN
    for make in (lambda status: Trial(params={}, status=status), lambda status: Experiment(name="e", status=status)):
        for wrong in ("complete", 5, None, [], ""):
            with pytest.raises(InvalidArgument, match=r"status must be one of .*(new|created)"):
                make(wrong)
    with pytest.raises(InvalidArgument, match="Did you mean 'completed'"):
        Trial(params={}, status="complete")


def test_a_measured_value_is_a_float() -> None:
    for value in (math.nan, math.inf, -math.inf, 5e-324):
        assert Measurement(name="loss", value=value).value is value
    for number in (1, np.float64(1), np.float32(1), np.int8(1), Level.ONE):
        assert identical(Measurement(name="loss", value=number).value, 1.0)
    for wrong in (True, "1", None, np.True_, 10**400, [1.0], np.ones(2)):
        with pytest.raises(InvalidType, match="must be a float"):
            Measurement(name="loss", value=wrong)


def test_unknown_fields_are_refused_by_every_record() -> None:
    for make in MAKERS.values():
        with pytest.raises(TypeError, match="colour"):
            make(colour="red")


# Frozen, comparable, hashable, copied


@pytest.mark.parametrize("record", MAKERS)
def test_records_are_frozen_hashable_and_copied(record: str) -> None:
    made = MAKERS[record]()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.id = "other"
    with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
        made.colour = "red"
    for same in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made)), attrs.evolve(made)):
        assert same == made
        assert hash(same) == hash(made)
        assert {same: 1}[made] == 1
    assert attrs.evolve(made, id="other") != made


def test_params_are_an_immutable_mapping() -> None:
    params = Params({"b": 1, "a": 0.5})
    assert list(params) == ["b", "a"]
    assert dict(**params) == {"b": 1, "a": 0.5}
    assert params == {"a": 0.5, "b": 1}
    assert len(params) == 2
    assert "a" in params
    assert params.get("c") is None
    with pytest.raises(KeyError):
        params["c"]
    with pytest.raises(TypeError):
        params["a"] = 1
    with pytest.raises(TypeError):
        del params["a"]
    params.types["a"] = "integer"
    assert params.types == {"b": "integer", "a": "real"}
    assert repr(params) == "Params({'b': 1, 'a': 0.5})"
    assert params.records == (
        Param(name="b", type="integer", value=1),
        Param(name="a", type="real", value=0.5),
    )


def test_params_copy_what_they_are_given() -> None:
    given_values = {"a": 1}
    params = Params(given_values)
    given_values["a"] = 2
    assert params["a"] == 1


def test_types_of_params_follow_the_values_and_what_is_told() -> None:
    given_values = {"real": 1.0, "integer": 1, "flag": True, "text": "x", "none": None, "list": [1]}
    assert Params(given_values).types == {
        "real": "real",
        "integer": "integer",
        "flag": "categorical",
        "text": "categorical",
        "none": "categorical",
        "list": "categorical",
    }
    told = Params(
        {"lr": 1, "units": 3.0, "epochs": 9, "flag": True}, {"lr": "real", "units": "integer", "epochs": "fidelity"}
    )
    assert (type(told["lr"]), type(told["units"]), type(told["flag"])) == (float, int, bool)
    assert told.types == {"lr": "real", "units": "integer", "epochs": "fidelity", "flag": "categorical"}
    assert Params(told).types == told.types


def test_numpy_scalars_become_python_values() -> None:
    params = Params({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.str_("x"), "e": np.array(2)})
    assert [type(value) for value in params.values()] == [float, int, bool, str, int]


def test_params_are_given_as_records_and_dicts_too() -> None:
    params = Params([{"name": "a", "type": "fidelity", "value": 3}, Param(name="b", type="real", value=2)])
    assert params.types == {"a": "fidelity", "b": "real"}
    assert params == {"a": 3, "b": 2.0}
    assert Params(params.records) == params
    assert Results([Result(name="loss", type="objective", value=1)]).objective == 1.0


@pytest.mark.parametrize("wrapper", [Params, Results])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (5, "must be a dict"),
        ("abc", "must be a dict"),
        (b"abc", "must be a dict"),
        ([5], "must be a dict or a record"),
        ([{"name": "a"}], "a name, a type and a value"),
        ([{"name": "a", "value": 1, "more": 2}], "a name, a type and a value"),
        ([{"name": "a", "value": 1}, {"name": "a", "value": 2}], "'a' is given twice"),
        ([{"name": ["a"], "value": 1}], "must be a str"),
        ([{"name": ["a"], "type": "real", "value": 1}], "must be a str"),
        ([{"name": "a", "type": "magic", "value": 1}], "'magic'"),
        ([{"name": "a", "type": [], "value": 1}], r"\[\]"),
        ({1: 2}, "must be a str"),
        ({"": 2}, "must not be empty"),
        ({"\0": 2}, "NUL"),
        ({"x" * 256: 1}, "255 is the most"),
    ],
)
def test_wrong_params_and_results(wrapper: type[Params | Results], wrong: object, says: str) -> None:
    with pytest.raises((InvalidArgument, InvalidType), match=says):
        wrapper(wrong)


def test_results_have_one_objective_which_is_a_number() -> None:
    results = Results({"objective": 1, "accuracy": 0.5})
    assert results.objective == 1.0
    assert type(results.objective) is float
    assert results.types == {"objective": "objective", "accuracy": "statistic"}
    assert results.records[0] == Result(name="objective", type="objective", value=1.0)
    assert Results({"loss": 2}).objective is None
    assert Results({"loss": np.float32(2)}, {"loss": "objective"}).objective == 2.0
    for wrong in (True, "1", None, [1]):
        with pytest.raises(InvalidType, match="objective"):
            Results({"objective": wrong})
    with pytest.raises(InvalidArgument, match="too large"):
        Results({"objective": 10**400})
    with pytest.raises(InvalidArgument, match="one objective"):
        Results({"a": 1, "b": 2}, {"a": "objective", "b": "objective"})


@pytest.mark.parametrize("wrong", [0, False, "", 5])
def test_results_of_a_trial_are_checked_even_if_they_are_false(wrong: object) -> None:
    with pytest.raises(InvalidType, match="results must be a dict"):
        Trial(params={}, results=wrong)


# Ids

SAME = [
    ({"a": 1, "b": 2.5}, {"b": 2.5, "a": 1}),
    ({"a": 1}, {"a": 1.0}),
    ({"a": 1}, {"a": np.int64(1)}),
    ({"a": 1}, {"a": np.float32(1)}),
    ({"a": 0.0}, {"a": -0.0}),
    ({"a": 0}, {"a": -0.0}),
    ({"a": True}, {"a": np.bool_(True)}),
    ({"a": math.nan}, {"a": np.float64("nan")}),
    ({"a": [1, 2]}, {"a": (1.0, 2.0)}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2.0, "x": 1.0}}),
    ({"a": {1: "x"}}, {"a": {1.0: "x"}}),
    ({"a": 2**70}, {"a": float(2**70)}),
    ({"a": {3, 1}}, {"a": {1.0, 3.0}}),
]
DIFFERENT = [
    ({"a": 1}, {"a": True}),
    ({"a": 1}, {"a": "1"}),
    ({"a": 0}, {"a": None}),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, {}),
    ({"a": math.inf}, {"a": -math.inf}),
    ({"a": math.nan}, {"a": "nan"}),
    ({"a": [1, [2]]}, {"a": [[1], 2]}),
    ({"a": {}}, {"a": []}),
    ({"a": 0.1}, {"a": 0.1 + 2**-55}),
    ({"a": "x", "b": "y"}, {"a": "y", "b": "x"}),
    ({"ab": 1}, {"a": "b"}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_params_have_the_same_id(one: dict[str, object], other: dict[str, object]) -> None:
    assert derive_trial_id(one) == derive_trial_id(other)
    assert Trial(params=one).id == derive_trial_id(one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_params_have_different_ids(one: dict[str, object], other: dict[str, object]) -> None:
    assert derive_trial_id(one) != derive_trial_id(other)


def test_an_id_is_short_and_never_changes_between_releases() -> None:
    assert derive_trial_id({"lr": 0.1, "units": 3, "act": "relu"}) == "62fd12fe3eb3a93abb00923c4a28d17f"
    assert derive_trial_id({}) == "4f53cda18c2baa0c0354bb5f9a3ecbe5"


def test_ids_do_not_depend_on_the_process() -> None:
    program = (
        "from moorage import derive_trial_id\n"
        "print(derive_trial_id({'a': frozenset({'x', 'y', 'z', 'w'}), 'b': {1, 2, 'q'}, 'c': {('a', 1), None}}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@given(
    st.dictionaries(st.text("abc.", min_size=1, max_size=3), st.integers(-5, 5) | st.floats() | st.text(max_size=3)),
    st.randoms(),
)
def test_the_order_of_params_does_not_matter(params: dict[str, object], random: object) -> None:
    names = list(params)
    random.shuffle(names)
    assert derive_trial_id({name: params[name] for name in names}) == derive_trial_id(params)


def test_params_that_cannot_be_stored_have_no_id() -> None:
    cyclic: list[object] = []
    cyclic.append(cyclic)
    deep: object = 1
    for _ in range(10_000):
        deep = [deep]
    for wrong in (object(), cyclic, deep, {"a": cyclic}, (cyclic,)):
        with pytest.raises(EncodingError):
            Trial(params={"a": wrong})


def test_an_explicit_id_wins() -> None:
    assert Trial(id="mine", params={"a": 1}).id == "mine"


# There and back, on every backend

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40)
TIME = st.datetimes(
    min_value=datetime.datetime(1000, 1, 2),
    max_value=datetime.datetime(9998, 12, 30),
    timezones=st.sampled_from([datetime.UTC, EAST, datetime.timezone.min]),
)
INTEGER = st.integers(0, 2**63 - 1)
FLOAT = st.floats()
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FLOAT, st.text(max_size=10), st.binary(max_size=9), TIME),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MAPPING = st.dictionaries(TEXT, VALUE, max_size=4)
EXPERIMENTS = st.builds(
    Experiment,
    name=TEXT,
    version=INTEGER,
    user=st.none() | TEXT,
    status=st.sampled_from(["created", "running", "stopping", "stopped", "finished", "failed"]),
    space=MAPPING,
    algorithm=MAPPING,
    metadata=MAPPING,
    max_trials=st.none() | st.integers(1, 2**63 - 1),
    max_broken=st.none() | st.integers(1, 9),
    heartbeat_timeout=st.floats(min_value=5e-324, max_value=sys.float_info.max),
    working_directory=st.none() | TEXT,
    parent=st.none() | TEXT,
    error=st.none() | TEXT,
    created=TIME,
    started=st.none() | TIME,
    ended=st.none() | TIME,
)
TRIALS = st.builds(
    Trial,
    params=MAPPING.map(Params),
    status=st.sampled_from([one for one in TrialStatus if one is not TrialStatus.RESERVED]),
    results=st.one_of(
        st.just({}),
        st.builds(lambda objective, more: Results({**more, "objective": objective}), FLOAT, MAPPING),
        st.builds(lambda loss: Results({"loss": loss}, {"loss": "objective"}), FLOAT),
        st.builds(lambda value: Results({"slope": value}, {"slope": "gradient"}), VALUE),
    ),
    submit_time=TIME,
    start_time=st.none() | TIME,
    end_time=st.none() | TIME,
    heartbeat=st.none() | TIME,
    worker=st.none() | TEXT,
    parent=st.none() | TEXT,
    working_directory=st.none() | TEXT,
    resource=st.none() | TEXT,
    error=st.none() | TEXT,
    token=INTEGER,
)


def emptied(storage: Storage) -> Storage:
    """The storage without what a failed example may have left."""
    for experiment in storage.fetch_experiments():
        storage.delete_experiment(experiment)
    for resource in storage.fetch_resources():
        storage.remove_resource(resource)
    for benchmark in storage.fetch_benchmark():
        storage.delete_benchmark(benchmark)
    return storage


@ON_EVERY_STORAGE
@given(experiment=EXPERIMENTS)
def test_experiments_come_back(storage: Storage, experiment: Experiment) -> None:
    emptied(storage)
    created = storage.create_experiment(experiment)
    assert_same_record(created, experiment)
    assert_same_record(storage.get_experiment(uid=experiment.id), experiment)


@ON_EVERY_STORAGE
@given(trials=st.lists(TRIALS, max_size=4, unique_by=lambda trial: trial.id))
def test_trials_come_back(storage: Storage, trials: list[Trial]) -> None:
    emptied(storage)
    experiment = storage.create_experiment(name="e")
    registered = storage.register_trials(experiment, trials)
    expected = [attrs.evolve(one, experiment=experiment.id, number=place) for place, one in enumerate(trials)]
    for one, other in zip(registered, expected, strict=True):
        assert_same_record(one, other)
        assert one.params.types == other.params.types
    for one, other in zip(storage.fetch_trials(experiment), expected, strict=True):
        assert_same_record(one, other)
        assert one.params.types == other.params.types
        assert one.results.types == other.results.types
        assert identical(one.objective, other.objective)


@ON_EVERY_STORAGE
@given(
    values=st.lists(st.tuples(TEXT, FLOAT, st.integers(-(2**63), 2**63 - 1), TIME), min_size=1, max_size=6),
    error=st.none() | TEXT,
    worker=TEXT,
)
def test_measurements_and_attempts_come_back(
    storage: Storage, values: list[tuple[str, float, int, datetime.datetime]], error: str | None, worker: str
) -> None:
    emptied(storage)
    experiment = storage.create_experiment(name="e")
    storage.register_trial(experiment, {"x": 1})
    trial = storage.reserve_trial(experiment, worker=worker)
    given_records = [Measurement(name=name, value=value, step=step, time=time) for name, value, step, time in values]
    storage.add_measurements(trial, given_records)
    expected = {one.id: attrs.evolve(one, trial=trial.id, experiment=experiment.id, attempt=1) for one in given_records}
    stored = storage.fetch_measurements(trial)
    assert len(stored) == len(expected)
    for one in stored:
        assert_same_record(one, expected[one.id])
    started = storage.start_attempt(trial, resource="🧪")
    assert_same_record(storage.fetch_attempts(trial)[0], started)
    storage.end_attempt(trial, "broken", error)
    (ended,) = storage.fetch_attempts(trial)
    assert_same_record(ended, attrs.evolve(started, outcome="broken", error=error, ended=ended.ended))


@ON_EVERY_STORAGE
@given(resource=st.builds(Resource, name=TEXT, kind=TEXT, labels=MAPPING))
def test_resources_come_back(storage: Storage, resource: Resource) -> None:
    emptied(storage)
    assert_same_record(storage.add_resource(resource), resource)
    assert_same_record(storage.fetch_resources()[0], resource)
    taken = storage.take_resource(id=resource.id, holder="🧪", lease=3)
    assert_same_record(storage.fetch_resources()[0], taken)
    assert (taken.holder, taken.lease, taken.token) == ("🧪", 3.0, 1)


@ON_EVERY_STORAGE
@given(
    benchmark=st.builds(
        Benchmark,
        name=TEXT,
        algorithms=st.lists(VALUE, max_size=3),
        targets=st.lists(VALUE, max_size=3),
        metadata=MAPPING,
        created=TIME,
    )
)
def test_benchmarks_come_back(storage: Storage, benchmark: Benchmark) -> None:
    emptied(storage)
    assert_same_record(storage.create_benchmark(benchmark), benchmark)
    assert_same_record(storage.fetch_benchmark({"name": benchmark.name})[0], benchmark)


def test_arrays_in_params_and_results_come_back(storage: Storage) -> None:
    weights = np.arange(6.0).reshape(2, 3)
    experiment = storage.create_experiment(name="e", metadata={"mask": weights > 1})
    storage.register_trial(experiment, {"weights": weights})
    trial = storage.reserve_trial(experiment)
    assert np.array_equal(trial.params["weights"], weights)
    storage.push_trial_results(trial, {"slope": {"name": weights}}, status="completed")
    assert np.array_equal(storage.retrieve_result(trial)["slope"]["name"], weights)
    assert np.array_equal(storage.get_experiment(experiment).metadata["mask"], weights > 1)


def test_errors_of_records_are_errors_of_moorage_and_of_python() -> None:
    with pytest.raises(MoorageError) as caught:
        Experiment(name=5)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(MoorageError) as caught:
        Experiment(name="")
    assert isinstance(caught.value, ValueError)
