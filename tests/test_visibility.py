"""What a storage accepts is found by the query that asks for it, whatever it is called and whatever it is."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import math
import pathlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import moorage
from comparing import identical
from moorage import MoorageError, Trial, codec
from moorage.errors import EncodingError, InvalidType
from moorage.filters import lookup
from moorage.schema import EXPERIMENTS, TRIALS
from test_codec import VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage import Storage

NAMES = st.one_of(
    st.sampled_from(
        ["~", "~x", "~~", "~=1", "~float", "a.~b", "~a.b", ".", "a.", "$gt", "$x.y", "1", "true", "é", " "]
    ),
    st.text(st.sampled_from("~=.$ab1\"\\'[]% "), min_size=1, max_size=6),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8),
)
KEYS = NAMES | st.sampled_from(["", "\0", "\ud800", 0, 1, -2, 1.5, True, None, 2**70, math.inf, (1, "a"), b"~"])
NESTED = st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


def word(key: object) -> str | None:
    """How a key is named in a path; None where a path cannot name it."""
    if type(key) is str:
        return key if codec.is_clean(key) else None
    if key is None or type(key) is bool:
        return {None: "null", True: "true", False: "false"}[key]
    return repr(key) if type(key) is int and abs(key) < 2**63 else None


def paths(value: object, before: str) -> Iterator[tuple[str, object]]:
    """Each value that can be named, and how."""
    yield before, value
    if type(value) is dict:
        for key, inner in value.items():
            if (name := word(key)) is not None:
                yield from paths(inner, f"{before}.{name}")


def queries(path: str, value: object) -> Iterator[dict[str, object]]:
    yield {path: {"$eq": value}}
    yield {path: {"$in": ["nothing", value]}}
    if not isinstance(value, dict):  # keys with a dollar are operators
        yield {path: value}


@pytest.mark.parametrize("what", ["params", "results", "metadata"])
def test_whatever_a_trial_holds_is_found(storage: Storage, what: str) -> None:
    experiment = storage.create_experiment(name="e")

    @settings(max_examples=25)
    @given(st.dictionaries(NAMES, NESTED, min_size=1, max_size=4))
    @example({"~x": 1, "lr": 0.1})
    @example({"o": {"~x": 1, "lr": 0.1, 1: "one", (1, 2): 3, "\0": 4, "in": {"~y": {"z": 2}}}})
    @example({"a": {"b": 1}, "a.b": 2})
    @example({"a.b": {"c": 1, "c.d": 2}, "a": {"b.c": {"d": 3}, "b": 4}})
    @example({"a": {"a", "b", 1}, "b": [{"~x": frozenset({"y", "z"})}]})
    @example({"a": {math.nan: 1, float("nan"): 2}, "b": math.nan, "c": -math.inf, "d": 2**70})
    @example({"n": np.float64(1.5), "o": {"n": np.float32(0.5), "m": np.int64(3)}})
    def check(values: dict[str, object]) -> None:
        assume(type(values.get("objective")) in (int, float, type(None)) or what != "results")
        given_as: dict[str, object] = {what: values} if what != "params" else {"params": values}
        trial = Trial(id=f"{check.count}", **given_as)  # type: ignore[attr-defined,arg-type]
        check.count += 1  # type: ignore[attr-defined]
        try:
            storage.register_trial(experiment, trial)
        except MoorageError:
            assume(False)
        for name, outer in values.items():
            for path, value in paths(outer, f"{what}.{name}"):
                for query in queries(path, value):
                    found = storage.fetch_trials(experiment, {"id": trial.id, **query})
                    assert [one.id for one in found] == [trial.id], query

    check.count = 0  # type: ignore[attr-defined]
    check()


def test_one_odd_name_hides_no_other(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e", metadata={"~m": 1, "n": {2: "two", "x": np.float64(3)}})
    storage.register_trial(experiment, {"lr": 0.1, "~x": 1, "in": {"a": 5, 1: "one", "~": {"b": 6}}})
    for query in (
        {"params.lr": 0.1},
        {"params.lr": {"$lt": 1}},
        {"params.~x": {"$gte": 1}},
        {"params.in.a": 5},
        {"params.in.1": "one"},
        {"params.in.~.b": 6},
        {"params.in": {"a": 5, 1: "one", "~": {"b": 6}}},
        {"params.in": {"~": {"b": 6}, 1: "one", "a": 5}},
    ):
        (row,) = storage.fetch_trials(experiment, query, selection=["params.lr", "params.~x"])
        assert row == {"params.lr": 0.1, "params.~x": 1}
    for query in ({"params.~~x": 1}, {"params.x": 1}, {"params.in.~": 1}):
        assert storage.fetch_trials(experiment, query) == []
    for query in ({"metadata.~m": 1}, {"metadata.n.2": "two"}, {"metadata.n.x": 3}, {"metadata.n.x": np.float64(3)}):
        assert len(storage.fetch_experiments(query)) == 1


def test_what_databases_have_no_type_for_is_compared_as_what_it_is(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    when = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    values = {"inf": math.inf, "least": -math.inf, "nan": math.nan, "large": 2**70, "one": 1, "half": 0.5, "when": when}
    for name, value in values.items():
        storage.register_trial(experiment, Trial(id=name, params={"x": value, "y": {"z": [value, {value}]}}))

    def found(condition: object, path: str = "params.x") -> set[str]:
        return {one.id for one in storage.fetch_trials(experiment, {path: condition})}

    assert found({"$gt": 1}) == {"inf", "large"}
    assert found({"$lte": 0.5}) == {"half", "least"}
    assert found({"$lt": math.inf}) == {"least", "large", "one", "half"}
    assert found({"$gte": 2**70}) == {"large", "inf"}
    assert found(2.0**70) == {"large"}
    assert found({"$gt": when - datetime.timedelta(seconds=1)}) == {"when"}
    assert found({"$lt": "2026-03-02"}) == {"when"}
    assert found(math.nan) == {"nan"}
    assert found([1.0, {1.0}], "params.y.z") == {"one"}
    assert found([math.inf, {math.inf}], "params.y.z") == {"inf"}


# What earlier releases wrote: a dict with one such key became a list of pairs as a whole.

OLD = [
    ({"~dict": [["~x", 1], ["lr", 0.1]]}, {"~x": 1, "lr": 0.1}),
    ({"~dict": [[1, "a"], ["x", {"~tuple": [1]}]]}, {1: "a", "x": (1,)}),
    ({"o": {"~dict": [[{"~text": "AA=="}, 1], [None, {"~dict": [["~", 2]]}]]}}, {"o": {"\0": 1, None: {"~": 2}}}),
    ({"s": {"~set": ["b", "a"]}, "n": {"~float": "nan"}}, {"s": {"a", "b"}, "n": math.nan}),
]


@pytest.mark.parametrize(("stored", "value"), OLD)
def test_old_forms_are_still_read(stored: codec.Plain, value: dict[object, object]) -> None:
    assert identical(codec.decode(stored), value)


def test_what_an_earlier_release_wrote_is_found(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e", metadata={"a": 1})
    trial = storage.register_trial(experiment, {"lr": 0.1})
    (document,) = storage.driver.find(TRIALS)
    document.body["params"] = {
        "~dict": [["~x", 1], ["lr", 0.1], ["in", {"~dict": [[1, "one"], ["b", {"~set": ["y", "x"]}]]}]]
    }
    assert storage.driver.swap(TRIALS, document, document.revision)
    (stored,) = storage.driver.find(EXPERIMENTS)
    stored.body["metadata"] = {"~dict": [["~a", {"~dict": [[2, 3]]}]]}
    assert storage.driver.swap(EXPERIMENTS, stored, stored.revision)
    assert dict(storage.get_trial(trial).params) == {"~x": 1, "lr": 0.1, "in": {1: "one", "b": {"x", "y"}}}
    for query in (
        {"params.~x": 1},
        {"params.lr": {"$lt": 0.5}},
        {"params.in.1": "one"},
        {"params.in.b": {"x", "y"}},
        {"params.in": {1: "one", "b": {"x", "y"}}},
    ):
        assert len(storage.fetch_trials(experiment, query)) == 1, query
    assert storage.fetch_trials(experiment, {"params.x": 1}) == []
    assert len(storage.fetch_experiments({"metadata.~a.2": 3})) == 1
    assert len(storage.fetch_experiments({"metadata.~a": {2: 3}})) == 1
    # The first change brings it into today's form.
    storage.update_trial(trial, params={"new": 2})
    (document,) = storage.driver.find(TRIALS)
    assert lookup(document.body, "params.~x") == 1
    assert "~dict" not in codec.dumps(document.body["params"])


def test_keys_that_are_equal_only_when_stored_are_all_kept() -> None:
    value = {math.nan: 1, float("nan"): 2, "a": 3}
    stored = codec.encode(value)
    assert repr(codec.decode(stored)) == repr(value)
    with pytest.raises(EncodingError):
        codec.encode({collections.UserDict: 1})


def test_a_set_is_stored_alike_whatever_its_order() -> None:
    assert codec.encode({"b", "a", 1, 0.5}) == codec.encode({0.5, 1, "a", "b"})
    forms = {codec.dumps(codec.encode({frozenset(names): 1})) for names in ("abc", "cba", "bca")}
    assert len(forms) == 1


def test_a_path_means_each_of_its_readings(storage: Storage) -> None:
    storage.create_experiment(name="both", metadata={"a.b": 1, "a": {"b": 2}})
    storage.create_experiment(name="one", metadata={"a": {"b": 1}})
    for condition, expected in (
        (1, {"both", "one"}),
        (2, {"both"}),
        ({"$ne": 2}, {"one"}),
        ({"$gt": 1}, {"both"}),
        ({"$ne": None}, {"both", "one"}),
    ):
        assert {one.name for one in storage.fetch_experiments({"metadata.a.b": condition})} == expected


class Optimizer(enum.StrEnum):
    ADAM = "adam"


class Size(enum.IntEnum):
    LARGE = 3


def test_what_people_write_finds_what_programs_store(storage: Storage) -> None:
    """A path, a day or an optimizer can be asked for by its text, which is all that a command line has."""
    experiment = storage.create_experiment(name="e")
    params = {
        "optimizer": Optimizer.ADAM,
        "size": Size.LARGE,
        "data": pathlib.Path("data/train.csv"),
        "day": datetime.date(2026, 3, 1),
        "at": datetime.datetime(2026, 3, 1, 12),
        "rate": decimal.Decimal("0.25"),
        "options": collections.OrderedDict(b=1, a=collections.defaultdict(list, {"x": 2})),
    }
    trial = storage.register_trial(experiment, params)
    assert trial.params.types["size"] == "integer"
    assert storage.get_trial(trial).params.types == trial.params.types
    assert identical(storage.get_trial(trial).params["data"], params["data"])
    for query in (
        {"params.optimizer": "adam"},
        {"params.optimizer": Optimizer.ADAM},
        {"params.size": 3},
        {"params.size": {"$gte": Size.LARGE}},
        {"params.data": "data/train.csv"},
        {"params.data": pathlib.Path("data/train.csv")},
        {"params.day": "2026-03-01"},
        {"params.day": {"$lt": datetime.date(2026, 3, 2)}},
        {"params.at": {"$gte": "2026-03-01T12"}},
        {"params.rate": 0.25},
        {"params.rate": {"$lt": 0.3}},
        {"params.rate": decimal.Decimal("0.25")},
        {"params.options.b": 1},
        {"params.options.a.x": 2},
        {"params.options": {"a": {"x": 2}, "b": 1}},
    ):
        assert storage.fetch_trials(experiment, query) == [trial], query
    for query in ({"params.data": "data"}, {"params.rate": {"$gt": 0.25}}, {"params.options.c": 1}):
        assert storage.fetch_trials(experiment, query) == []


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as storage:
        yield storage


def test_what_cannot_be_stored_is_refused_by_its_name(memory: Storage) -> None:
    wrong = object()
    experiment = memory.create_experiment(name="e")
    trial = memory.register_trial(experiment, {"x": 1})
    run = memory.reserve_trial(experiment)
    for says, verb in (
        ("param 'p': a builtins.object cannot", lambda: memory.register_trial(experiment, {"x": 1, "p": wrong})),
        ("param 'p': a builtins.object cannot", lambda: Trial(params={"p": [wrong]})),
        ("result 'r'", lambda: memory.update_trial(run, results={"objective": 1.0, "r": {1: wrong}})),
        ("metadata 'm'", lambda: memory.update_trial(run, metadata={"m": wrong})),
        ("metadata 'm'", lambda: memory.create_experiment(name="f", metadata={"a": 1, "m": wrong})),
        ("space 's'", lambda: memory.create_experiment(name="f", space={"s": wrong})),
        ("labels 'l'", lambda: memory.add_resource(name="gpu", labels={"l": wrong})),
        ("algorithms: ", lambda: memory.create_benchmark(name="b", algorithms=[wrong])),
    ):
        with pytest.raises(EncodingError, match=says):
            verb()
    assert memory.get_trial(trial).status == "reserved"


def test_numbers_of_numpy_are_numbers(storage: Storage) -> None:
    experiment = storage.create_experiment(
        name="e", version=np.int64(2), max_trials=np.int32(5), max_broken=np.uint8(2), heartbeat_timeout=np.float32(8)
    )
    assert (experiment.version, experiment.max_trials, experiment.heartbeat_timeout) == (2, 5, 8.0)
    storage.register_trials(experiment, [{"x": np.int64(place)} for place in range(3)])
    trial = storage.reserve_trial(experiment)
    with storage.running(trial) as run:
        run.report(np.float32(0.5), step=np.int64(3))
        run.results(objective=np.float64(0.25))
    (point,) = storage.fetch_measurements(trial)
    assert identical((point.step, point.value), (3, 0.5))
    assert len(storage.fetch_trials(experiment, limit=np.int64(2))) == 2
    assert storage.fetch_trials(experiment, {"token": np.uint16(1)})[0].objective == 0.25
    with storage.acquire_algorithm_lock(experiment, timeout=np.float64(5), retry_interval=np.float32(0.5)) as algorithm:
        assert algorithm.locked
    gpu = storage.add_resource(name="gpu")
    assert storage.take_resource("resource", lease=np.int64(30)).id == gpu.id
    for wrong in (np.True_, True, 1.5, np.float64(2.0), "2", np.ones(2, dtype=int)):
        with pytest.raises(InvalidType, match="limit must be an int"):
            storage.fetch_trials(experiment, limit=wrong)
        if not isinstance(wrong, float):
            with pytest.raises(InvalidType, match="timeout must be a number"):
                storage.acquire_algorithm_lock(experiment, timeout=wrong)
