"""The reference driver: overrides mean what the defaults mean, and indexes find what a full search finds."""

from __future__ import annotations

import contextlib
import gc
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import moorage
from doubles import in_threads
from moorage import Capability, Document, Driver, Increment
from moorage.errors import ConfigurationError, SchemaMismatch, StorageClosed, UniqueViolation, Unsupported
from moorage.filters import Comparison, Order, equal, matches
from moorage.memory import MemoryDriver
from moorage.schema import ALGORITHM_LOCKS, EXPERIMENTS, SCHEMA, TRIALS, Collection, Field, Schema
from moorage.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.filters import Filter

THINGS = Collection(
    name="things",
    fields=(
        Field("group", "string"),
        Field("name", "string"),
        Field("place", "integer"),
        Field("score", "number"),
        Field("open", "boolean"),
        Field("more", "json"),
    ),
    unique=(("name",), ("group", "place")),
    indexes=(("group", "open", "score"), ("group", "score"), ("open",)),
    tallies=(("group", "open"),),
)
THINGS_SCHEMA = Schema(version=1, collections=(THINGS,))


class PlainDriver(MemoryDriver):
    """The same driver with every default in place of its override."""

    get = Driver.get
    count = Driver.count
    tally = Driver.tally
    patch = Driver.patch
    claim = Driver.claim


IDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
GROUPS = st.sampled_from([None, "g", "h"])
NAMES = st.sampled_from([None, "n", "m", "o", "p"])
PLACES = st.sampled_from([None, 0, 1, 2])
SCORES = st.sampled_from([None, -1.5, 0.0, 1, 2.5])
OPENS = st.sampled_from([None, True, False])
MORE = st.sampled_from([None, {}, {"x": 1}, {"x": {"y": "z"}, "x.y": 2}])
VALUES = {"group": GROUPS, "name": NAMES, "place": PLACES, "score": SCORES, "open": OPENS}
BODIES = st.fixed_dictionaries({**VALUES, "more": MORE}, optional={"beyond": st.sampled_from([1, "x", [1]])})
ORDERED = ["group", "name", "place", "score"]


def comparisons_of(field: str) -> st.SearchStrategy[Comparison]:
    values = VALUES[field]
    words = ["=", "!="] if field == "open" else ["=", "!=", "<", "<=", ">", ">="]
    one = st.builds(Comparison, st.just(field), st.sampled_from(words), values)
    return one | st.builds(Comparison, st.just(field), st.just("in"), st.lists(values, max_size=3).map(tuple))


COMPARISONS = st.one_of(
    *(comparisons_of(field) for field in VALUES),
    st.builds(Comparison, st.just("id"), st.sampled_from(["=", ">=", "<"]), IDS),
    st.builds(Comparison, st.just("id"), st.just("in"), st.lists(IDS, max_size=3).map(tuple)),
    st.builds(Comparison, st.just("revision"), st.just("="), st.integers(1, 3)),
    st.builds(Comparison, st.sampled_from(["more.x", "more.x.y"]), st.just("="), st.sampled_from([None, 1, 2, "z"])),
)
FILTERS = st.lists(COMPARISONS, max_size=3).map(tuple)
ORDERS = st.lists(
    st.builds(Order, st.sampled_from(ORDERED), st.booleans()), max_size=2, unique_by=lambda one: one.field
)
LIMITS = st.none() | st.integers(0, 4)
CHANGES = st.dictionaries(st.sampled_from(["score", "open", "group", "name"]), st.none(), min_size=1).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
)


def sort_key(document: Document, field: str) -> tuple[bool, object]:
    value = document.id if field == "id" else document.body.get(field)
    return value is not None, value if value is not None else 0


class Machine(RuleBasedStateMachine):
    """Two drivers, one with overrides and one without, are told the same."""

    @initialize()
    def open(self) -> None:
        self.quick, self.plain = MemoryDriver(), PlainDriver()
        for driver in (self.quick, self.plain):
            driver.setup(THINGS_SCHEMA)

    def both(self, verb: str, *arguments: object) -> object:
        results = []
        for driver in (self.quick, self.plain):
            try:
                results.append(getattr(driver, verb)(THINGS, *arguments))
            except UniqueViolation as error:
                results.append(error.key)
        assert results[0] == results[1], (verb, arguments)
        return results[0]

    def everything(self) -> list[Document]:
        return sorted(self.quick.find(THINGS), key=lambda one: one.id)

    @rule(documents=st.lists(st.builds(Document, IDS, BODIES), max_size=3))
    def insert(self, documents: list[Document]) -> None:
        stored = {one.id: one for one in self.everything()}
        refused = {one.position: one for one in self.both("insert", documents)}
        for position, document in enumerate(documents):
            if document.id in stored:
                assert refused[position].key == ("id",)
            elif position not in refused:
                body = {**dict.fromkeys(field.name for field in THINGS.fields), **document.body}
                stored[document.id] = Document(document.id, body, 1)
        assert {one.id: one for one in self.everything()} == stored

    @rule(identifier=IDS, body=BODIES, revision=st.integers(1, 4))
    def swap(self, identifier: str, body: dict[str, object], revision: int) -> None:
        before = self.quick.get(THINGS, identifier)
        swapped = self.both("swap", Document(identifier, body), revision)
        after = self.quick.get(THINGS, identifier)
        if before is None or before.revision != revision:
            assert swapped is False
        if swapped is True:
            assert (after.revision, after.body["score"]) == (revision + 1, body["score"])
        else:
            assert after == before

    @rule(where=FILTERS)
    def delete(self, where: Filter) -> None:
        expected = sum(matches(where, one.id, one.revision, one.body) for one in self.everything())
        assert self.both("delete", where) == expected

    @rule(where=FILTERS, changes=CHANGES)
    def patch(self, where: Filter, changes: dict[str, object]) -> None:
        """Of one document, because what several do to a unique key depends on their order."""
        for one in self.everything():
            self.both("patch", (Comparison("id", "=", one.id), *where), changes)

    @rule(where=FILTERS, by=st.integers(-2, 3))
    def increment(self, where: Filter, by: int) -> None:
        self.both("patch", (*where, *equal(group=None)), {"place": Increment(by)})

    @rule(where=FILTERS, changes=CHANGES, order=st.sampled_from(ORDERED), descending=st.booleans())
    def claim(self, where: Filter, changes: dict[str, object], order: str, descending: bool) -> None:
        changes = {name: value for name, value in changes.items() if name != "name"} | {"open": False}
        where = (*where, *equal(open=True))
        changes.pop("group", None)
        self.both("claim", where, changes, [Order(order, descending), Order("id")])

    @rule(where=FILTERS, order=ORDERS, limit=LIMITS)
    def find(self, where: Filter, order: list[Order], limit: int | None) -> None:
        order = [*order, Order("id", descending=bool(order) and order[-1].descending)]
        expected = [one for one in self.everything() if matches(where, one.id, one.revision, one.body)]
        for one in reversed(order):
            expected.sort(key=lambda document, field=one.field: sort_key(document, field), reverse=one.descending)
        assert self.quick.find(THINGS, where, order, limit) == expected[:limit]
        unordered = self.quick.find(THINGS, where)
        assert sorted(one.id for one in unordered) == sorted(one.id for one in expected)

    @rule(where=FILTERS)
    def count(self, where: Filter) -> None:
        expected = sum(matches(where, one.id, one.revision, one.body) for one in self.everything())
        assert self.both("count", where) == expected

    @rule(group=GROUPS, is_open=OPENS)
    def count_by_tally(self, group: str | None, is_open: bool | None) -> None:
        self.both("count", equal(group=group, open=is_open))
        self.both("tally", equal(group=group), "open")

    @rule(where=FILTERS, field=st.sampled_from(ORDERED))
    def tally(self, where: Filter, field: str) -> None:
        self.both("tally", where, field)

    @rule(identifier=IDS)
    def get(self, identifier: str) -> None:
        self.both("get", identifier)

    @rule(body=BODIES, where=FILTERS, changes=CHANGES, identifier=IDS)
    def undone(self, body: dict[str, object], where: Filter, changes: dict[str, object], identifier: str) -> None:
        before = self.everything()
        with contextlib.suppress(ZeroDivisionError), self.quick.transaction():
            self.quick.insert(THINGS, [Document(identifier, body)])
            for one in self.everything():
                with contextlib.suppress(UniqueViolation):
                    self.quick.patch(THINGS, (Comparison("id", "=", one.id), *where), changes)
            with self.quick.transaction():
                self.quick.delete(THINGS, where)
            raise ZeroDivisionError
        assert self.everything() == before

    @rule(body=BODIES, where=FILTERS)
    def done_together(self, body: dict[str, object], where: Filter) -> None:
        for driver in (self.quick, self.plain):
            with driver.transaction():
                driver.delete(THINGS, where)
                driver.insert(THINGS, [Document("t", body)])

    @invariant()
    def both_hold_the_same(self) -> None:
        if hasattr(self, "plain"):
            assert self.everything() == sorted(self.plain.find(THINGS), key=lambda one: one.id)

    @invariant()
    def unique_keys_are_unique(self) -> None:
        if hasattr(self, "quick"):
            for fields in THINGS.unique:
                keys = [tuple(one.body[name] for name in fields) for one in self.everything()]
                whole = [key for key in keys if None not in key]
                assert len(whole) == len(set(whole))

    @invariant()
    def every_index_holds_every_row_once(self) -> None:
        if hasattr(self, "quick"):
            table = self.quick._store.tables["things"]
            for index in table.indexes.values():
                assert sorted(key[-1] for key in index) == sorted(table.rows)


TestOverridesAgainstDefaults = Machine.TestCase
TestOverridesAgainstDefaults.settings = settings(max_examples=100, stateful_step_count=30)


@pytest.fixture
def driver() -> Iterator[MemoryDriver]:
    opened = MemoryDriver()
    opened.setup(SCHEMA)
    yield opened
    opened.close()


def test_nothing_is_shared_with_the_caller(driver: MemoryDriver) -> None:
    body: dict[str, object] = {"metadata": {"a": [1]}, "name": "e", "beyond": [1]}
    driver.insert(EXPERIMENTS, [Document("a", body)])
    body["metadata"]["a"].append(2)
    body["beyond"].append(2)
    found = driver.get(EXPERIMENTS, "a")
    found.body["metadata"]["a"].append(3)
    found.body["beyond"].append(3)
    stored = driver.get(EXPERIMENTS, "a")
    assert (stored.body["metadata"], stored.body["beyond"]) == ({"a": [1]}, [1])


def test_a_unique_key_with_null_is_never_in_conflict(driver: MemoryDriver) -> None:
    documents = [Document(str(place), {"name": None, "version": 1}) for place in range(3)]
    assert driver.insert(EXPERIMENTS, documents) == []
    driver.insert(EXPERIMENTS, [Document("a", {"name": "x", "version": 1}), Document("b", {"name": "y", "version": 1})])
    with pytest.raises(UniqueViolation) as caught:
        driver.patch(EXPERIMENTS, equal(id="b"), {"name": "x"})
    assert caught.value.key == ("name", "version")
    with pytest.raises(UniqueViolation):
        driver.swap(EXPERIMENTS, Document("b", {"name": "x", "version": 1}), 1)
    assert driver.get(EXPERIMENTS, "b") == Document("b", {**driver.get(EXPERIMENTS, "b").body, "name": "y"}, 1)
    driver.delete(EXPERIMENTS, equal(id="a"))
    assert driver.patch(EXPERIMENTS, equal(id="b"), {"name": "x"}) == 1


def test_another_thread_sees_nothing_of_a_transaction_that_is_undone(driver: MemoryDriver) -> None:
    def work(place: int) -> int:
        for _ in range(50):
            if place:
                assert driver.find(TRIALS) == []
                continue
            with contextlib.suppress(ZeroDivisionError), driver.transaction():
                driver.insert(TRIALS, [Document("a", {})])
                raise ZeroDivisionError
        return driver.count(TRIALS)

    assert in_threads(3, work) == [0, 0, 0]


def test_a_named_storage_is_shared_and_an_unnamed_one_is_not() -> None:
    with moorage.connect("memory://mine") as one, moorage.connect("memory://mine") as other:
        one.create_experiment(name="e")
        assert [found.name for found in other.fetch_experiments()] == ["e"]
        other.delete_experiment(other.fetch_experiments()[0])
        with moorage.connect("memory://") as unnamed:
            assert unnamed.is_empty()
    for wrong in ("memory://mine/path", "memory://me:secret@mine"):
        with pytest.raises(ConfigurationError, match="memory:// or memory://name") as caught:
            moorage.connect(wrong)
        assert "secret" not in str(caught.value)


def test_a_closed_storage_says_so() -> None:
    storage = moorage.connect("memory://")
    storage.close()
    storage.close()
    with pytest.raises(StorageClosed, match="connect again"):
        storage.fetch_experiments()


def test_another_version_of_the_schema_is_refused(driver: MemoryDriver) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        driver.setup(Schema(version=SCHEMA.version + 1, collections=SCHEMA.collections))
    assert (caught.value.stored, caught.value.supported) == (SCHEMA.version, SCHEMA.version + 1)


def test_the_clock_never_goes_back(driver: MemoryDriver) -> None:
    readings = [driver.now() for _ in range(1000)]
    assert readings == sorted(readings, key=lambda one: one.seconds)
    assert len({one.clock for one in readings}) == 1


def test_what_is_not_declared_is_refused() -> None:
    assert MemoryDriver.capabilities == {Capability.TRANSACTIONS, Capability.SERVER_CLOCK}
    with pytest.raises(Unsupported, match="has no transactions"):
        Driver.transaction(MemoryDriver())
    with pytest.raises(Unsupported, match="has no clock"):
        Driver.now(MemoryDriver())


def in_child(storage: moorage.Storage) -> int:
    """0 where a child process is refused, and tells what to use."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            storage.fetch_experiments()
        except Unsupported as error:
            status = 0 if "sqlite:///" in str(error) else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_process_is_refused() -> None:
    with moorage.connect("memory://") as storage:
        assert in_child(storage) == 0
        assert storage.is_empty()


def test_a_trial_takes_at_most_two_kilobytes() -> None:
    count = 2000
    with moorage.connect("memory://") as storage:
        experiment = storage.create_experiment(name="e")
        params = [{"lr": place / 7, "units": place, "activation": "relu"} for place in range(count)]
        storage.register_trials(experiment, params[:100])
        gc.collect()
        tracemalloc.start()
        storage.register_trials(experiment, params[100:])
        for _ in range(200):
            trial = storage.reserve_trial(experiment, worker="worker")
            storage.push_trial_results(trial, {"objective": 0.5, "accuracy": 0.25}, status="completed")
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert used / (count - 100) <= 2048


@pytest.mark.parametrize("verb", ["reserve", "get", "count", "best", "lost", "measure", "lock"])
def test_no_verb_looks_at_more_rows_the_more_trials_there_are(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]
    meets = Table.meets

    def counted(self: object, *arguments: object) -> bool:
        looked[0] += 1
        return meets(self, *arguments)

    monkeypatch.setattr(Table, "meets", counted)

    def rows(count: int) -> int:
        with moorage.connect("memory://") as storage:
            experiment = storage.create_experiment(name="e")
            storage.register_trials(experiment, [{"x": place} for place in range(count)])
            for _ in range(count // 2):
                trial = storage.reserve_trial(experiment)
                storage.push_trial_results(trial, {"objective": trial.params["x"]}, status="completed")
            trial = storage.reserve_trial(experiment)
            looked[0] = 0
            {
                "reserve": lambda: storage.reserve_trial(experiment),
                "get": lambda: storage.get_trial(trial.id),
                "count": lambda: storage.count_trials(experiment),
                "best": lambda: (storage.best_trial(experiment), storage.best_trial(experiment, maximize=True)),
                "lost": lambda: storage.recover_lost_trials(experiment),
                "measure": lambda: storage.add_measurements(trial, [{"name": "loss", "value": 1}]),
                "lock": lambda: storage.acquire_algorithm_lock(experiment).__enter__(),
            }[verb]()
            return looked[0]

    assert rows(20) == rows(400) <= 12


def test_declarations_are_complete() -> None:
    for collection in SCHEMA.collections:
        names = {field.name for field in collection.fields} | {"id"}
        for fields in (*collection.unique, *collection.indexes, *collection.tallies):
            assert set(fields) <= names
        assert len(names) == len(collection.fields) + 1
    assert ALGORITHM_LOCKS.field("queue") is not None
    assert ALGORITHM_LOCKS.field("nothing") is None
