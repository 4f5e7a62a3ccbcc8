"""The MongoDB driver against the reference in memory, and what is peculiar to it: keys, values, clients, schema."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import multiprocessing
import os
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import moorage
import things
from comparing import identical
from doubles import forked_while_threads_write
from moorage.codec import dumps
from moorage.driver import Capability, Document, Driver, Increment
from moorage.errors import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    SchemaMismatch,
    StorageClosed,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
    Unsupported,
)
from moorage.filters import Comparison, Order, equal, matches
from moorage.memory import MemoryDriver
from moorage.plugins import plugins
from moorage.schema import SCHEMA as MOORAGE_SCHEMA
from moorage.schema import TRIALS, Collection, Field, Schema
from moorage.url import StorageURL
from things import thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.codec import Plain
    from moorage.filters import Filter
    from moorage_mongodb.driver import MongoDriver

pymongo = pytest.importorskip("pymongo")

THINGS = attrs.evolve(things.THINGS, unique=(*things.THINGS.unique, ("note",)))
SCHEMA = Schema(version=3, collections=(THINGS,))
ON_MONGODB = pytest.mark.parametrize("shared_backend_name", ["mongodb"])

KEYS = [
    "",
    "$",
    "$gt",
    "$ref",
    "$id",
    "a",
    "a.b",
    ".",
    "..",
    "a.",
    "%",
    "%2E",
    "%24a",
    "_id",
    "revision",
    "0",
    "é",
    "\x01",
]
NAMES = ["", "a", "a\x01", "a ", "A", "ä", "\uffff", "\U00010000", "$name", "$$NOW", "{'$gt': ''}", None]
RANKS = [0, 1, -1, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), None]
SCORES = [0.0, -0.0, 5e-324, 1.0, 1.5, -2.25, 2.0**53, 2.0**63, -1e300, None]
EXTRAS: list[Any] = [
    *({key: 1} for key in KEYS),
    *({"a": {key: 1}} for key in KEYS),
    {"a": {"b": 1}, "a.b": None},
    {"a": [{"b": 1}]},
    [{"a": {"b": 1}}, {"b": 1}],
    {"a": {"b": [1]}},
    {"a": {"b": [[1]]}},
    {"a": {"b": 1.0}},
    {"a": {"b": True}},
    {"a": {"b": 2}},
    {"a": {"b": "1"}},
    {"a": {"b": {}}},
    [1, [2.0, None]],
    {},
    [],
    "a",
    2**63 - 1,
    None,
]
PATHS = ["extra", *(f"extra.{key}" for key in KEYS), *(f"extra.a.{key}" for key in KEYS), "extra.a.b.c", "extra." * 300]
IDENTIFIERS = ["a", "b", "", "$id", "é", "\U00010000", "x" * 600]


def connect(url: str, *, read_only: bool = False, **options: object) -> MongoDriver:
    parsed = StorageURL.parse(url)
    return plugins().backend(parsed.scheme).connect(parsed, options, read_only=read_only)  # type: ignore[return-value]


def erase(url: str, **options: object) -> None:
    backend = plugins().backend("mongodb")
    assert backend.erase is not None
    backend.erase(StorageURL.parse(url), backend.read_options(options))


def without_null(body: dict[str, Plain]) -> dict[str, Plain]:
    declared = {field.name for field in THINGS.fields}
    return {name: value for name, value in body.items() if value is not None or name not in declared}


@pytest.fixture
def url(shared_storage_url: str) -> str:
    return shared_storage_url


@pytest.fixture
def database(url: str) -> Iterator[Any]:
    """The database as another client sees it."""
    with pymongo.MongoClient(url) as client:
        yield client.get_default_database()


@pytest.fixture
def driver(url: str) -> Iterator[MongoDriver]:
    opened = connect(url)
    opened.setup(SCHEMA)
    yield opened
    opened.close()


# Against the reference

few = {
    "name": st.sampled_from(["", "a", "a\x01", "\uffff", "\U00010000", "$name", None]),
    "rank": st.sampled_from([0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), None]),
    "score": st.sampled_from([0.0, -0.0, 5e-324, 1.5, 2.0**53, -1e300, None]),
    "flag": st.sampled_from([True, False, None]),
    "note": st.sampled_from(["n", "$note", "long" * 3000, None, None, None]),
    "total": st.sampled_from([0, 1, 2**31 - 1, -(2**31), 2**60, None]),
}
identifiers = st.sampled_from(IDENTIFIERS)
bodies = st.fixed_dictionaries(
    {**few, "extra": st.sampled_from(EXTRAS)},
    optional={key: st.sampled_from([-0.0, 1, 1.0, True, None, [[]], {"$x": {"a.b": 2}, "a": 1}]) for key in KEYS},
)
values = {
    "id": identifiers,
    "revision": st.integers(1, 3),
    **few,
    "rank": few["rank"] | st.sampled_from([0.0, 2.0**53, 0.5]),
    "score": few["score"] | st.sampled_from([0, 2**53 + 1]),
}
inner = st.sampled_from([1, 1.0, True, 2, "1", None, [1], {}, {"b": 1}, 0.5])


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    field = draw(st.sampled_from([*values, "extra.a", "extra.a.b", *PATHS]))
    operator = draw(st.sampled_from(["=", "=", "=", "!=", "<", "<=", ">", ">=", "in"]))
    value = values.get(field, inner)
    if operator == "in":
        return Comparison(field, "in", tuple(draw(st.lists(value, max_size=3))))
    return Comparison(field, operator, draw(value))  # type: ignore[arg-type]


filters = st.lists(comparisons(), min_size=1, max_size=3).map(tuple)
orders = st.lists(
    st.builds(Order, st.sampled_from(["name", "rank", "score", "flag", "note"]), st.booleans()), max_size=2
).flatmap(lambda some: st.booleans().map(lambda down: [*some, Order("id", down)]))
small_changes = st.fixed_dictionaries(
    {},
    optional={
        "flag": few["flag"],
        "score": few["score"],
        "extra": st.sampled_from(EXTRAS),
        "total": st.builds(Increment, st.sampled_from([1, -1, 0, 10**15])),
    },
)
all_changes = st.tuples(
    small_changes, st.fixed_dictionaries({}, optional={key: few[key] for key in ("name", "rank", "note")})
).map(lambda both: {**both[0], **both[1]})


def outcome(call: Callable[..., object], *arguments: object) -> object:
    try:
        return exactly(call(*arguments))
    except UniqueViolation as error:
        return error.key


def exactly(result: object) -> object:
    """A result in which 1 differs from 1.0 and from True, and an absent declared field is null.

    The zero of a number field has no sign.
    """
    if isinstance(result, Document):
        body = without_null(result.body)
        if body.get("score") == 0:
            body["score"] = 0.0
        return result.id, result.revision, {name: dumps(value) for name, value in body.items()}
    return [exactly(one) for one in result] if isinstance(result, list) else result


@contextlib.contextmanager
def by_one_command(driver: MongoDriver, once: bool) -> Iterator[None]:
    """Change several documents by one command, wherever this runs: nobody else writes meanwhile."""
    before = driver._is_mongodb
    driver._is_mongodb = before or once
    yield
    driver._is_mongodb = before


class Machine(RuleBasedStateMachine):
    """The same calls to the reference, to the driver, and to the driver with the defaults in place of its overrides."""

    fast: MongoDriver
    plain: MongoDriver

    def __init__(self) -> None:
        super().__init__()
        self.reference = MemoryDriver()
        self.reference.setup(SCHEMA)

    def same(self, name: str, *arguments: object) -> None:
        default = getattr(Driver, name)
        ours = getattr(type(self.plain), name) if hasattr(default, "__isabstractmethod__") else default
        expected = outcome(getattr(self.reference, name), THINGS, *arguments)
        assert outcome(getattr(self.fast, name), THINGS, *arguments) == expected
        assert outcome(ours, self.plain, THINGS, *arguments) == expected

    @initialize(each=st.lists(bodies, min_size=len(IDENTIFIERS), max_size=len(IDENTIFIERS)))
    def fill(self, each: list[dict[str, Plain]]) -> None:
        self.same("insert", [Document(*one) for one in zip(IDENTIFIERS, each, strict=True)])

    @rule(documents=st.lists(st.builds(Document, identifiers, bodies), min_size=1, max_size=6))
    def insert(self, documents: list[Document]) -> None:
        self.same("insert", documents)

    @rule(document=st.builds(Document, identifiers, bodies), late=st.sampled_from([-1, 0, 0, 1]))
    def swap(self, document: Document, late: int) -> None:
        stored = self.reference.get(THINGS, document.id)
        self.same("swap", document, late + (stored.revision if stored else 1))

    @rule(where=filters.filter(lambda where: where[0].operator in ("=", "in")), once=st.booleans())
    def delete(self, where: Filter, once: bool) -> None:
        with by_one_command(self.fast, once):
            self.same("delete", where)

    @rule(where=filters, changes=small_changes, once=st.booleans())
    def patch(self, where: Filter, changes: dict[str, object], once: bool) -> None:
        with by_one_command(self.fast, once and "extra" not in changes):
            self.same("patch", where, changes)

    @rule(identifier=identifiers, where=filters, changes=all_changes)
    def patch_one(self, identifier: str, where: Filter, changes: dict[str, object]) -> None:
        self.same("patch", (*equal(id=identifier), *where), changes)

    @rule(where=filters, order=orders, changes=all_changes)
    def claim(self, where: Filter, order: list[Order], changes: dict[str, object]) -> None:
        self.same("claim", where, changes, order)

    @rule(where=filters | st.just(()), order=orders, limit=st.sampled_from([None, 0, 1, 2]))
    def find(self, where: Filter, order: list[Order], limit: int | None) -> None:
        self.same("find", where, order, limit)

    @rule(where=filters | st.just(()), field=st.sampled_from(["name", "flag", "score", "rank", "extra"]))
    def count(self, where: Filter, field: str) -> None:
        self.same("count", where)
        self.same("tally", where, field)

    @rule(identifier=identifiers)
    def get(self, identifier: str) -> None:
        self.same("get", identifier)

    @invariant()
    def all_is_the_same(self) -> None:
        self.same("find", (), [Order("id")], None)

    def teardown(self) -> None:
        for one in (self.fast, self.plain):
            one.delete(THINGS, ())


@ON_MONGODB
def test_primitives_and_overrides_do_what_the_reference_does(driver: MongoDriver, url: str) -> None:
    Machine.fast, Machine.plain = driver, connect(url, prefix="plain.")
    Machine.plain.setup(SCHEMA)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            database=None,
            max_examples=int(os.environ.get("MOORAGE_EXAMPLES", "25")),
            stateful_step_count=20,
            suppress_health_check=list(HealthCheck),
        ),
    )
    Machine.plain.close()


@ON_MONGODB
def test_what_lies_on_a_path_is_compared_as_the_reference_does(driver: MongoDriver) -> None:
    documents = [thing(f"{place:03d}", extra=extra) for place, extra in enumerate(EXTRAS)]
    documents += [Document(f"own {key}", {f"extra.{key}": 1}) for key in ("a", "a.b", "$gt")]
    driver.insert(THINGS, documents)
    for path, operator, value in itertools.product(PATHS, ("=", "!=", "<=", "in"), (1, True, None, "1", [1], {"b": 1})):
        where = (Comparison(path, operator, (value, 2) if operator == "in" else value),)  # type: ignore[arg-type]
        expected = sorted(one.id for one in documents if matches(where, one.id, 1, one.body))
        assert sorted(one.id for one in driver.find(THINGS, where)) == expected, where


@ON_MONGODB
def test_values_are_compared_and_sorted_as_the_reference_does(driver: MongoDriver) -> None:
    documents = [thing(f"{place}", name=name) for place, name in enumerate(NAMES)]
    documents += [thing(f"{100 + place}", rank=rank) for place, rank in enumerate(RANKS)]
    documents += [thing(f"{200 + place}", score=score) for place, score in enumerate(SCORES)]
    assert driver.insert(THINGS, documents) == []
    reference = MemoryDriver()
    reference.setup(SCHEMA)
    reference.insert(THINGS, documents)
    for field, some in (("name", NAMES), ("rank", [*RANKS, 0.5, 2.0**53]), ("score", [*SCORES, 1, 2**53 + 1])):
        for operator, value in itertools.product(("=", "!=", "<", "<=", ">", ">="), some):
            where = (Comparison(field, operator, value),)  # type: ignore[arg-type]
            order = [Order(field, operator in ("<", ">=")), Order("id")]
            expected = [one.id for one in reference.find(THINGS, where, order)]
            assert [one.id for one in driver.find(THINGS, where, order)] == expected, where
            assert driver.count(THINGS, where) == len(expected)


@ON_MONGODB
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    body=st.dictionaries(
        st.sampled_from(KEYS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.sampled_from(NAMES),
            lambda some: st.lists(some, max_size=3) | st.dictionaries(st.sampled_from(KEYS), some, max_size=3),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_every_body_comes_back_exactly_and_with_its_keys_in_order(driver: MongoDriver, body: dict[str, Plain]) -> None:
    body = {name: value for name, value in body.items() if THINGS.field(name) is None}
    driver.delete(THINGS, ())
    driver.insert(THINGS, [Document("a", body), Document("b", {})])
    assert driver.swap(THINGS, Document("b", body), 1)
    for identifier in "ab":
        found = driver.get(THINGS, identifier)
        assert found is not None
        assert identical(found.body, body)
        assert dumps(found.body) == dumps(body)  # in order
    assert driver.patch(THINGS, equal(id="a"), {"extra": body}) == 1
    patched = driver.get(THINGS, "a")
    assert patched is not None
    assert dumps(patched.body["extra"]) == dumps(body)


@ON_MONGODB
def test_nesting_as_deep_as_the_codec_allows(driver: MongoDriver) -> None:
    deep: Plain = 1
    for level in range(moorage.codec.DEPTH):
        deep = [deep] if level % 2 else {"$.": deep}
    driver.insert(THINGS, [thing("a", extra=deep)])
    found = driver.get(THINGS, "a")
    assert found is not None
    assert found.body["extra"] == deep


@ON_MONGODB
def test_documents_are_laid_out_for_people(url: str, database: Any) -> None:
    with moorage.connect(url) as storage:
        experiment = storage.create_experiment(name="tides")
        storage.register_trial(experiment, {"optimizer.lr": 0.1, "$x": {"": 2**40}})
    (trial,) = database["trials"].find()
    assert trial["params"] == {"optimizer%2Elr": 0.1, "%24x": {"%": 2**40}}
    assert trial["status"] == "new"
    assert trial["revision"] == 1
    assert datetime.datetime.fromisoformat(trial["submit_time"]).tzinfo is not None
    assert None not in trial.values()
    (stored,) = database["moorage_schema"].find()
    assert stored["collections"].keys() == {one.name for one in MOORAGE_SCHEMA.collections}
    assert set(database.list_collection_names()) == {"moorage_schema", *stored["collections"]}


@ON_MONGODB
def test_a_change_to_an_equal_value_of_another_type_is_made(driver: MongoDriver) -> None:
    driver.insert(THINGS, [thing("a", flag=True)])
    values: list[Any] = [{"a": 1}, {"a": 1.0}, {"a": True}, {"a": -0.0}, {"a": 0.0}, {"a": 0}, [1], [1.0], 1, 1.0, True]
    for before, value in itertools.pairwise(values):
        for write in (
            lambda value=value: driver.patch(THINGS, equal(id="a"), {"extra": value}),
            lambda value=value: driver.claim(THINGS, equal(flag=True), {"extra": value}),
            lambda value=value: driver.patch(THINGS, equal(flag=True), {"extra": value}),
        ):
            driver.patch(THINGS, equal(id="a"), {"extra": before})
            write()
            found = driver.get(THINGS, "a")
            assert found is not None
            assert identical(found.body["extra"], value)


# Unique keys


@ON_MONGODB
def test_a_batch_refuses_what_conflicts_with_what_came_before(driver: MongoDriver) -> None:
    driver.insert(THINGS, [thing("old", name="n", rank=0, note="taken")])
    refused = driver.insert(
        THINGS,
        [
            thing("a", name="n", rank=1),
            thing("b", name="n", rank=1.0),  # equal to an int, and so refused
            thing("old", name="other", rank=1),
            thing("a", name="late", rank=1),
            thing("c", name="n", rank=0),
            thing("d", note="taken"),
            thing("e", name="n", rank=None),
            thing("f", name="n"),
        ],
    )
    assert [(one.position, one.id, one.key) for one in refused] == [
        (1, "b", ("name", "rank")),
        (2, "old", ("id",)),
        (3, "a", ("id",)),
        (4, "c", ("name", "rank")),
        (5, "d", ("note",)),
    ]
    assert {one.id for one in driver.find(THINGS)} == {"old", "a", "e", "f"}


@ON_MONGODB
def test_a_unique_key_is_named_by_every_write_that_breaks_it(driver: MongoDriver) -> None:
    driver._is_mongodb = True  # so that several documents are changed by one command, wherever this runs
    driver.insert(THINGS, [thing("a", name="n", rank=0, note="x"), thing("b", name="n", rank=1, flag=True)])
    breaking: list[tuple[dict[str, Plain | Increment], tuple[str, ...]]] = [
        ({"rank": 0}, ("name", "rank")),
        ({"rank": Increment(-1)}, ("name", "rank")),
        ({"note": "x"}, ("note",)),
    ]
    body: dict[str, Plain] = {"name": "n", "rank": 1, "flag": True}
    for changes, key in breaking:
        for write in (
            lambda changes=changes: driver.patch(THINGS, equal(id="b"), changes),
            lambda changes=changes: driver.patch(THINGS, equal(flag=True), changes),
            lambda changes=changes: driver.claim(THINGS, equal(flag=True), changes),
            lambda changes=changes: driver.swap(THINGS, Document("b", moorage.driver.changed(body, changes)), 1),
        ):
            with pytest.raises(UniqueViolation) as caught:
                write()
            assert caught.value.key == key
    assert driver.get(THINGS, "b") == Document("b", body, 1)
    driver.insert(THINGS, [thing(f"many {place}", total=1) for place in range(3)])
    with pytest.raises(UniqueViolation) as caught:
        driver.patch(THINGS, equal(total=1), {"note": "one key for three"})
    assert caught.value.key == ("note",)
    assert not driver.swap(THINGS, Document("b", body), 2**63 - 1)
    assert not driver.swap(THINGS, Document("b", body), 2**70)


@ON_MONGODB
def test_large_batches_go_in_parts_and_are_refused_by_position(driver: MongoDriver) -> None:
    documents = [thing(f"{number % 2100}", total=number, flag=True) for number in range(2500)]
    refused = driver.insert(THINGS, documents)
    assert [(one.position, one.id, one.key) for one in refused] == [(2100 + n, f"{n}", ("id",)) for n in range(400)]
    found = driver.find(THINGS, equal(flag=True), [Order("total", descending=True)])
    assert [one.body["total"] for one in found] == list(reversed(range(2100)))
    assert driver.patch(THINGS, equal(flag=True), {"flag": False}) == 2100
    assert driver.tally(THINGS, (), "flag") == {False: 2100}
    assert driver.delete(THINGS, (Comparison("extra.a", "=", None), Comparison("total", "<", 1050))) == 1050
    assert driver.count(THINGS) == 1050


@ON_MONGODB
def test_a_document_that_is_too_large_is_refused(driver: MongoDriver) -> None:
    driver.insert(THINGS, [thing("a")])
    for write in (
        lambda: driver.insert(THINGS, [thing("b", loose="x" * 17_000_000)]),
        lambda: driver.swap(THINGS, thing("a", loose="x" * 17_000_000), 1),
    ):
        with pytest.raises(InvalidArgument, match="large"):
            write()
    assert driver.find(THINGS) == [Document("a", {}, 1)]
    with pytest.raises(InvalidArgument):
        driver.insert(THINGS, [thing("b", rank=2**63)])


@ON_MONGODB
def test_no_two_documents_of_one_command_share_a_key(driver: MongoDriver) -> None:
    bodies: list[dict[str, Plain]] = [{"note": "x"}, {"note": "y"}, {"note": "x"}, {}, {}, {"name": "n", "rank": 1}]
    documents = [Document(f"{place}", body) for place, body in enumerate(bodies)]
    documents += [Document("0", {}), thing("last", name="n", rank=1.0)]
    assert [(start, len(part)) for start, part in driver._batches(THINGS, documents)] == [(0, 2), (2, 5), (7, 1)]


# Races


def claim_all(url: str, results: multiprocessing.Queue[list[str]], start: threading.Barrier) -> None:
    driver = connect(url)
    driver.setup(SCHEMA)
    start.wait(60)
    refused = driver.insert(THINGS, [thing(f"{place:03d}", flag=True, total=place) for place in range(150)])
    taken = []
    while (one := driver.claim(THINGS, equal(flag=True), {"flag": False}, [Order("total")])) is not None:
        taken.append(one.id)
    left = driver.count(THINGS, equal(flag=True))  # nothing: None means that nothing matches
    swapped = sum(driver.swap(THINGS, Document(f"{place:03d}", {"total": 1}), 2) for place in range(0, 150, 3))
    driver.close()
    results.put([f"{150 - len(refused)}", f"{left}", f"{swapped}", *taken])


@ON_MONGODB
def test_processes_set_up_insert_claim_and_swap_at_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    start = context.Barrier(4)
    processes = [context.Process(target=claim_all, args=(url, results, start)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert sum(int(answer[0]) for answer in answers) == 150
    assert {answer[1] for answer in answers} == {"0"}
    assert sum(int(answer[2]) for answer in answers) == 50
    assert sorted(name for answer in answers for name in answer[3:]) == [f"{place:03d}" for place in range(150)]


@ON_MONGODB
def test_a_claim_that_lost_what_it_looked_at_looks_again(driver: MongoDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.insert(THINGS, [thing("a", flag=True)])
    claim, calls = pymongo.collection.Collection.find_one_and_update, []

    def unlucky(self: object, *arguments: object, **keywords: object) -> object:
        calls.append(arguments)
        return None if len(calls) < 3 else claim(self, *arguments, **keywords)

    monkeypatch.setattr(pymongo.collection.Collection, "find_one_and_update", unlucky)
    claimed = driver.claim(THINGS, equal(flag=True), {"flag": False})
    assert claimed == Document("a", {"flag": False}, 2)
    assert driver.claim(THINGS, equal(flag=True), {"flag": False}) is None
    assert len(calls) == 4


@ON_MONGODB
def test_nothing_that_matches_is_passed_over_while_others_write_to_it(driver: MongoDriver) -> None:
    driver.insert(THINGS, [thing(f"{place}", total=0) for place in range(6)])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for place in range(6):
                driver.patch(THINGS, equal(id=f"{place}"), {"score": 1.0})

    writers = [threading.Thread(target=write) for _ in range(3)]
    for one in writers:
        one.start()
    try:
        for _ in range(25):
            assert driver.patch(THINGS, equal(id="0"), {"total": Increment()}) == 1
            assert driver.patch(THINGS, (Comparison("total", "!=", None),), {"flag": True}) == 6
        assert driver.delete(THINGS, equal(id="0")) == 1
        assert driver.delete(THINGS, equal(flag=True)) == 5
    finally:
        stop.set()
        for one in writers:
            one.join()
    assert driver.find(THINGS) == []


@ON_MONGODB
def test_counts_add_up_while_documents_change(driver: MongoDriver) -> None:
    driver.insert(THINGS, [thing(f"{place:03d}", flag=True, score=float(place)) for place in range(300)])
    stop = threading.Event()
    failures: list[object] = []

    def change() -> None:
        flag = True
        while not stop.is_set():
            with contextlib.suppress(Unavailable):  # two such patches may be in each other's way
                driver.patch(THINGS, equal(flag=flag), {"flag": not flag})
            flag = not flag

    changers = [threading.Thread(target=change) for _ in range(2)]
    for one in changers:
        one.start()
    for _ in range(30):
        counts = driver.tally(THINGS, (), "flag")
        found = driver.find(THINGS, (Comparison("flag", "in", (True, False)),))
        if sum(counts.values()) != 300 or len({one.id for one in found}) != len(found) or len(found) != 300:
            failures.append((counts, len(found)))
    stop.set()
    for one in changers:
        one.join()
    assert failures == []


# Clients


@ON_MONGODB
def test_a_live_client_is_used_and_stays_open(url: str) -> None:
    from moorage_mongodb.driver import MongoDriver

    with pymongo.MongoClient(url, retryWrites=connect_retries(url), tz_aware=True, w=1) as client:
        name = client.get_default_database().name
        driver = MongoDriver(client, name, prefix="live.")
        driver.setup(MOORAGE_SCHEMA)
        with moorage.Storage(driver) as storage:
            experiment = storage.create_experiment(name="tides")
            storage.register_trial(experiment, {"depth": 1})
            assert storage.reserve_trial(experiment) is not None
        with pytest.raises(StorageClosed):
            driver.count(TRIALS)
        assert client.get_default_database()["live.trials"].count_documents({}) == 1

        again = MongoDriver(client, name, prefix="live.")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                again.count(TRIALS)
            except Unsupported as error:
                status = 0 if "fork" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert again.count(TRIALS) == 1
        client.close()
        with pytest.raises(StorageClosed):
            again.count(TRIALS)


def connect_retries(url: str) -> bool:
    """Whether this server keeps the outcomes of retried writes."""
    driver = connect(url)
    retries = driver._link.retries_writes
    driver.close()
    return retries


@ON_MONGODB
def test_a_client_that_would_repeat_writes_is_refused_where_outcomes_are_not_kept(url: str) -> None:
    from moorage_mongodb.driver import MongoDriver

    if connect_retries(url):
        pytest.skip("this server keeps the outcomes of retried writes")
    with pymongo.MongoClient(url) as client, pytest.raises(ConfigurationError, match="retryWrites=false"):
        MongoDriver(client, "x")
    with pytest.raises(ConfigurationError, match="retryWrites=false"):
        connect(url, retryWrites=True)


@ON_MONGODB
def test_a_forked_child_makes_a_client_of_its_own(driver: MongoDriver) -> None:
    driver.insert(THINGS, [thing("a")])
    parents = driver._link.client
    child = os.fork()
    if child == 0:
        status = 1
        try:
            driver.insert(THINGS, [thing("b")])
            status = 0 if driver.get(THINGS, "b") and driver._link.client is not parents else 2
            driver.close()
        finally:
            os._exit(status)
    driver.insert(THINGS, [thing("c")])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(one.id for one in driver.find(THINGS)) == ["a", "b", "c"]
    assert driver._link.client is parents


@ON_MONGODB
def test_a_fork_while_threads_write(driver: MongoDriver) -> None:
    assert forked_while_threads_write(lambda name: driver.insert(THINGS, [thing(name)]), 5) == 5
    assert sum(one.id.startswith("child") for one in driver.find(THINGS)) == 5


@ON_MONGODB
def test_capabilities_and_the_clock(driver: MongoDriver, url: str) -> None:
    assert driver.capabilities == {Capability.SHARED, Capability.DURABLE, Capability.SERVER_CLOCK}
    with pytest.raises(Unsupported):
        driver.transaction()
    other = connect(url)
    readings = [each.now() for _ in range(20) for each in (driver, other)]
    other.close()
    assert {one.clock for one in readings} == {"mongodb"}
    for own in (readings[::2], readings[1::2]):
        assert [one.seconds for one in own] == sorted(one.seconds for one in own)
    # The clocks of two clients of one machine differ by no more than the time that asking takes.
    here = datetime.datetime.now(datetime.UTC).timestamp()
    assert all(abs(one.seconds - here) < 60 for one in readings)


# Opening


@ON_MONGODB
def test_prefixes_and_databases_keep_storages_apart(url: str, database: Any) -> None:
    database["mine"].insert_one({"_id": 1})
    first, second = connect(url), connect(url, prefix="b.")
    for one in (first, second):
        one.setup(SCHEMA)
    first.insert(THINGS, [thing("a")])
    assert second.insert(THINGS, [thing("a", flag=True)]) == []
    assert first.count(THINGS, equal(flag=True)) == 0
    erase(url)
    erase(url)
    assert sorted(database.list_collection_names()) == ["b.moorage_schema", "b.things", "mine"]
    assert second.count(THINGS) == 1
    erase(url, prefix="b.")
    assert database.list_collection_names() == ["mine"]
    for one in (first, second):
        one.close()


@ON_MONGODB
def test_another_version_is_refused_and_an_older_one_upgraded(url: str, driver: MongoDriver) -> None:
    driver.insert(THINGS, [Document("a", {"name": "n", "fresh": None}), Document("b", {"fresh": 4, "name": "m"})])
    for version, advice in ((2, "newer Moorage"), (4, "moorage upgrade")):
        with pytest.raises(SchemaMismatch, match=advice) as caught:
            driver.setup(Schema(version, (THINGS,)))
        assert (caught.value.stored, caught.value.supported) == (3, version)
    with pytest.raises(SchemaMismatch):
        driver.setup(Schema(2, (THINGS,)), upgrade=True)
    wider = Collection(
        "things",
        (*THINGS.fields, Field("fresh", "integer")),
        unique=(*THINGS.unique, ("fresh",)),
        indexes=(*THINGS.indexes, ("fresh", "rank")),
    )
    viewer = connect(url, read_only=True)
    with pytest.raises(StorageDamaged, match="read-only"):
        viewer.setup(Schema(4, (wider,)), upgrade=True)
    viewer.close()
    new = Schema(4, (wider, Collection("others", (Field("x", "integer"),))))
    driver.setup(new, upgrade=True)
    driver.setup(new)
    assert driver.patch(wider, (), {"name": None}) == 2
    assert driver.patch(wider, equal(id="a"), {"fresh": Increment(3)}) == 1
    assert [one.id for one in driver.find(wider, (), [Order("fresh")])] == ["a", "b"]
    with pytest.raises(UniqueViolation):
        driver.patch(wider, equal(id="a"), {"fresh": 4})
    with pytest.raises(SchemaMismatch):
        driver.setup(SCHEMA)


@ON_MONGODB
def test_an_upgrade_that_a_unique_key_forbids_is_explained(driver: MongoDriver) -> None:
    driver.insert(THINGS, [Document("a", {"score": 1.0}), Document("b", {"score": 1.0})])
    strict = Collection("things", THINGS.fields, unique=(("score",),))
    with pytest.raises(StorageDamaged, match="unique"):
        driver.setup(Schema(4, (strict,)), upgrade=True)
    driver.setup(SCHEMA)
    assert driver.count(THINGS) == 2


@ON_MONGODB
def test_a_setup_that_died_is_finished_and_others_collections_are_left_alone(
    url: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = connect(url)
    monkeypatch.setattr(first, "_create", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        first.setup(SCHEMA)
    second = connect(url)
    second.setup(SCHEMA)
    assert "unique_name_rank" in database["things"].index_information()
    database["moorage_schema"].drop()
    with pytest.raises(StorageDamaged, match="'things' already"):
        second.setup(SCHEMA)
    database["moorage_schema"].insert_one({"_id": "schema", "version": "three"})
    with pytest.raises(StorageDamaged, match="not a Moorage storage"):
        second.setup(SCHEMA)
    for one in (first, second):
        one.close()


@ON_MONGODB
def test_read_only_creates_and_changes_nothing(url: str, database: Any) -> None:
    viewer = connect(url, read_only=True)
    with pytest.raises(StorageDamaged, match="read-only"):
        viewer.setup(SCHEMA)
    assert database.list_collection_names() == []
    with connect_and_fill(url) as driver:
        viewer.setup(SCHEMA)
        assert viewer.get(THINGS, "a") == Document("a", {}, 1)
        for write in (
            lambda: viewer.insert(THINGS, [thing("b")]),
            lambda: viewer.delete(THINGS, ()),
            lambda: viewer.patch(THINGS, (), {"rank": 1}),
            lambda: viewer.claim(THINGS, (), {"rank": 1}),
            lambda: viewer.swap(THINGS, thing("a"), 1),
            viewer.erase,
        ):
            with pytest.raises(StorageReadOnly, match="read-only"):
                write()
        assert driver.find(THINGS) == [Document("a", {}, 1)]
    viewer.close()
    viewer.close()
    for call in (lambda: viewer.get(THINGS, "a"), lambda: viewer.insert(THINGS, [thing("b")]), viewer.now):
        with pytest.raises((StorageClosed, StorageReadOnly)):
            call()


class connect_and_fill:  # noqa: N801
    """A driver with one document, closed at the end."""

    def __init__(self, url: str) -> None:
        self.driver = connect(url)

    def __enter__(self) -> MongoDriver:
        self.driver.setup(SCHEMA)
        self.driver.insert(THINGS, [thing("a")])
        return self.driver

    def __exit__(self, *exception: object) -> None:
        self.driver.close()


@ON_MONGODB
def test_documents_of_others_are_reported(driver: MongoDriver, database: Any) -> None:
    database["things"].insert_one({"_id": 7, "name": "intruder"})
    with pytest.raises(StorageDamaged, match="not Moorage's"):
        driver.find(THINGS)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mongodb://host", "names no database"),
        ("mongodb://host/", "names no database"),
        ("mongodb://host/d?timeout=-1", "seconds"),
        ("mongodb://host/d?connect_timeout=0", "seconds"),
        ("mongodb://host/d?replicaset=x", "replicaSet"),
        ("mongodb://host/d?prefix=$x", "prefix"),
        ("mongodb://host/d?prefix=system.", "prefix"),
        ("mongodb://host/d?authMechanism=no", "authMechanism"),
        ("mongodb://host:99999/d", "cannot be used"),
        ("mongodb://user:s3cret@host/a%2Eb", "without spaces"),
        ("mongodb+srv://u:s3cret@host:1/d", "cannot be used"),
        ({"type": "mongodb", "host": "h"}, "needs a database"),
        ({"type": "mongodb", "hots": "h", "database": "d"}, "hots"),
    ],
)
def test_a_wrong_url_is_explained(url: str | dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        moorage.connect(url)
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_server_that_is_not_there_is_unavailable_and_shows_no_password() -> None:
    with pytest.raises(Unavailable) as caught:
        connect("mongodb://user:s3cret@127.0.0.1:1/d", connect_timeout=0.1)
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_configuration_table_becomes_a_url() -> None:
    backend = plugins().backend("mongodb")
    assert backend.url is not None
    table = {"user": "a@b", "password": "p:/?#", "host": "::1", "port": 7, "database": "x-y"}
    parsed = StorageURL.parse(backend.url(table))
    assert (parsed.username, parsed.password, parsed.host, parsed.path) == ("a@b", "p:/?#", "[::1]:7", "/x-y")
    assert backend.url({"host": "a:1,b:2", "database": "d"}) == "mongodb://a:1,b:2/d"
    assert backend.url({"host": "cluster.example", "srv": True, "database": "d"}) == "mongodb+srv://cluster.example/d"


def test_announcing_the_backend_imports_nothing_of_pymongo() -> None:
    import subprocess
    import sys

    code = "import sys, moorage_mongodb.plugin; sys.exit('pymongo' in sys.modules or 'bson' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@ON_MONGODB
def test_the_claim_of_a_trial_uses_an_index(url: str, database: Any) -> None:
    driver = connect(url)
    driver.setup(MOORAGE_SCHEMA)
    driver.insert(TRIALS, [Document(f"{n}", {"experiment": "e", "pending": True, "sequence": n}) for n in range(2000)])
    query = driver._layout(TRIALS).condition(equal(experiment="e", pending=True)).query
    driver.close()
    plan = str(database["trials"].find(query).sort("sequence", 1).limit(1).explain()["queryPlanner"]["winningPlan"])
    assert "IXSCAN" in plan
    assert "COLLSCAN" not in plan


def errors() -> list[tuple[Exception, type[Exception], type[Exception], type[Exception]]]:
    """What is raised; what it means while reading, while writing one document, and while writing several."""
    from pymongo import errors as raised

    def failure(code: int) -> Exception:
        return raised.OperationFailure("m", code, {"errmsg": "m"})

    return [
        (raised.ServerSelectionTimeoutError("m"), Unavailable, Unavailable, Unavailable),
        (raised.ServerSelectionTimeoutError("[SSL: CERTIFICATE_VERIFY_FAILED]"), *[ConfigurationError] * 3),
        (raised.WaitQueueTimeoutError("m"), Unavailable, Unavailable, Unavailable),
        (raised.AutoReconnect("m"), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (raised.NetworkTimeout("m"), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (raised.NotPrimaryError("m"), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (raised.ExecutionTimeout("m", 50), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (raised.WTimeoutError("m", 64), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (raised.WriteConcernError("m", 100), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (failure(112), Unavailable, Unavailable, OutcomeUnknown),
        (failure(246), Unavailable, Unavailable, OutcomeUnknown),
        (failure(11602), Unavailable, OutcomeUnknown, OutcomeUnknown),
        (failure(14031), StorageFull, StorageFull, OutcomeUnknown),
        (failure(13), ConfigurationError, StorageReadOnly, StorageReadOnly),
        (failure(18), ConfigurationError, ConfigurationError, ConfigurationError),
        (failure(10334), InvalidArgument, InvalidArgument, InvalidArgument),
        (failure(2), StorageError, StorageError, StorageError),
        (raised.DocumentTooLarge("m"), InvalidArgument, InvalidArgument, InvalidArgument),
        (raised.InvalidOperation("Cannot use MongoClient after close"), StorageClosed, StorageClosed, StorageClosed),
        (raised.ConfigurationError("m"), ConfigurationError, ConfigurationError, ConfigurationError),
    ]


@pytest.mark.parametrize(("error", "reading", "one", "several"), errors(), ids=lambda value: None)
def test_errors_of_pymongo_are_translated_by_what_they_leave_open(
    error: Exception, reading: type[Exception], one: type[Exception], several: type[Exception]
) -> None:
    from moorage_mongodb.link import Link

    link = Link(lambda: pymongo.MongoClient(connect=False), timeout=1, shown="mongodb://h/d")
    for expected, writing, many in ((reading, False, False), (one, True, False), (several, True, True)):
        translated = link.translated(error, writing=writing, several=many)
        assert type(translated) is expected
        assert str(translated).startswith("mongodb://h/d: ")
