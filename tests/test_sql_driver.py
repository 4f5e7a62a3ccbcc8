"""The SQL driver on each of its databases, against the reference of filters and the defaults of the waist."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doubles import forked_while_threads_write
from moorage.driver import Capability, Document, Driver, Increment, changed
from moorage.errors import (
    InvalidArgument,
    SchemaMismatch,
    StorageClosed,
    StorageDamaged,
    StorageReadOnly,
    UniqueViolation,
)
from moorage.filters import Comparison, Order, equal, matches
from moorage.plugins import plugins
from moorage.schema import Collection, Field, Schema
from moorage.url import StorageURL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage.codec import Plain
    from moorage.filters import Filter

THINGS = Collection(
    name="things",
    fields=(
        Field("group", "string"),
        Field("state", "string"),
        Field("title", "text"),
        Field("rank", "integer"),
        Field("weight", "number"),
        Field("open", "boolean"),
        Field("time", "time"),
        Field("details", "json"),
    ),
    unique=(("title_key", "rank_key"),),
    indexes=(("group", "open", "rank"), ("group", "rank")),
    tallies=(("group", "state"),),
)
THINGS = Collection(
    name="things",
    fields=(*THINGS.fields, Field("title_key", "string"), Field("rank_key", "integer")),
    unique=THINGS.unique,
    indexes=THINGS.indexes,
    tallies=THINGS.tallies,
)
SCHEMA = Schema(version=3, collections=(THINGS,))
NAMES = tuple(field.name for field in THINGS.fields)


def connect(url: str, *, read_only: bool = False, **options: object) -> Driver:
    parsed = StorageURL.parse(url)
    return plugins().backend(parsed.scheme).connect(parsed, options, read_only=read_only)


def thing(identifier: str, **body: Plain) -> Document:
    return Document(identifier, dict(body))


@contextlib.contextmanager
def undone(driver: Driver, error: type[BaseException] = ZeroDivisionError) -> Iterator[None]:
    """A transaction that an exception undoes."""
    with contextlib.suppress(error), driver.transaction():
        yield
        raise error


def full(**body: Plain) -> dict[str, Plain]:
    return {**dict.fromkeys(NAMES), **body}


@pytest.fixture
def url(sql_storage_url: str) -> str:
    return sql_storage_url


@pytest.fixture
def driver(url: str) -> Iterator[Driver]:
    opened = connect(url)
    opened.setup(SCHEMA)
    yield opened
    opened.close()


# What is stored comes back


FLOATS = [0.0, -0.0, 0.1, 1e-308, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 2.0**53 + 2, 1 / 3]


@pytest.mark.parametrize("number", FLOATS)
def test_floats_come_back_bit_by_bit(driver: Driver, number: float) -> None:
    driver.insert(THINGS, [thing("a", weight=number, details={"x": number}, loose=[number])])
    found = driver.get(THINGS, "a")
    assert found is not None
    details, loose = found.body["details"], found.body["loose"]
    assert isinstance(details, dict)
    assert isinstance(loose, list)
    stored = [found.body["weight"], details["x"], loose[0]]
    assert stored == [number] * 3
    if driver.name == "mysql" and number == 0:
        del stored[0]  # MySQL and MariaDB have no negative zero.
    assert [one.hex() for one in stored if isinstance(one, float)] == [number.hex()] * len(stored)
    assert driver.count(THINGS, equal(weight=number)) == 1


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63), 2**53 + 1])
def test_integers_come_back_exactly(driver: Driver, number: int) -> None:
    driver.insert(THINGS, [thing("a", rank=number, details=[number])])
    found = driver.get(THINGS, "a")
    assert found is not None
    assert found.body["rank"] == number
    assert type(found.body["rank"]) is int
    assert found.body["details"] == [number]
    assert driver.count(THINGS, equal(rank=number)) == 1


TEXTS = [
    "",
    " ",
    "a",
    "A",
    "a ",
    "ä",
    "a\u0308",
    "ß",
    "\U0001f40b",
    "\uffff",
    "\\",
    "'; DROP TABLE things; --",
    "%s",
    "%(x)s",
    "?",
    ":p0",
    "%",
    "\n\t\r",
    "x" * 255,
]


def test_texts_come_back_and_are_told_apart(driver: Driver) -> None:
    documents = [
        thing(f"{place} {text}", group=text, title=text * 3, details={text: text}, **{f"loose{text}": text})
        for place, text in enumerate(TEXTS)
    ]
    assert driver.insert(THINGS, documents) == []
    for document, text in zip(documents, TEXTS, strict=True):
        found = driver.get(THINGS, document.id)
        assert found is not None
        assert found.body == full(**document.body)
        assert [one.id for one in driver.find(THINGS, equal(group=text))] == [document.id]
        assert driver.count(THINGS, (Comparison("group", "in", (text,)),)) == 1
    by_code_point = [one.body["group"] for one in driver.find(THINGS, (), [Order("group")])]
    assert by_code_point == sorted(TEXTS)


def test_an_identifier_of_600_characters(driver: Driver) -> None:
    long = "\U0001f40b" * 600
    assert driver.insert(THINGS, [thing(long, group="g" * 255, state="é" * 255)]) == []
    assert driver.get(THINGS, long) is not None
    assert driver.get(THINGS, long[:-1]) is None


@pytest.mark.parametrize("body", [{"group": "x" * 256}, {"group": "x" * 255 + " "}, {"time": "0" * 33}])
def test_a_text_that_is_too_long_is_refused(driver: Driver, body: dict[str, Plain]) -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        driver.insert(THINGS, [Document("a", body)])
    driver.insert(THINGS, [thing("b")])
    with pytest.raises(InvalidArgument, match="at most"):
        driver.patch(THINGS, equal(id="b"), body)
    assert driver.count(THINGS) == 1


@pytest.mark.parametrize("body", [{"group": 1}, {"rank": "1"}, {"rank": 1.0}, {"open": 1}, {"weight": True}])
def test_a_value_of_another_kind_is_refused(driver: Driver, body: dict[str, Plain]) -> None:
    with pytest.raises(InvalidArgument, match="values, not"):
        driver.insert(THINGS, [Document("a", body)])
    assert driver.get(THINGS, "a") is None


def test_a_large_document(driver: Driver) -> None:
    text = "é'\\" * 500_000
    driver.insert(THINGS, [thing("a", title=text, details={"text": text})])
    found = driver.get(THINGS, "a")
    assert found is not None
    assert found.body["title"] == text


def test_bodies_are_not_shared(driver: Driver) -> None:
    inner: dict[str, Plain] = {"x": [1]}
    driver.insert(THINGS, [thing("a", open=True, details=inner, loose=inner)])
    changes: dict[str, Plain] = {"details": {"y": [2]}, "open": False}
    claimed = driver.claim(THINGS, equal(open=True), changes)
    assert claimed is not None
    assert claimed.body["details"] == {"y": [2]}
    assert claimed.body["details"] is not changes["details"]
    assert claimed.body["loose"] == inner
    assert claimed.body["loose"] is not inner


# Against the reference

words = st.sampled_from(["a", "b", "B", "ä", "", "a "])
whole = st.integers(-3, 3) | st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)])
numbers = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0**53, 1e300, -1.5])
plain_details = st.none() | st.fixed_dictionaries({}, optional={"x": st.none() | words | numbers, "y": whole})
bodies = st.fixed_dictionaries(
    {},
    optional={
        "group": st.none() | words,
        "state": st.none() | words,
        "title": st.none() | words,
        "rank": st.none() | whole,
        "weight": st.none() | numbers,
        "open": st.none() | st.booleans(),
        "details": plain_details,
        "loose": st.none() | words | whole,
    },
)
values = st.none() | words | whole | numbers | st.booleans() | st.sampled_from([1.5, -0.5, 2.0**63, 1e308])
comparisons = st.builds(
    Comparison,
    st.sampled_from(["id", "revision", "group", "title", "rank", "weight", "open", "details.x", "details.y"]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    values,
) | st.builds(
    Comparison,
    st.sampled_from(["id", "revision", "group", "state", "rank", "weight", "open", "details.x"]),
    st.just("in"),
    st.lists(values, max_size=4).map(tuple),
)
filters = st.lists(comparisons, max_size=3).map(tuple)
changes_made = st.fixed_dictionaries(
    {},
    optional={
        "state": st.none() | words,
        "rank": st.none() | st.integers(-5, 5) | st.builds(Increment, st.integers(-2, 2)),
        "open": st.none() | st.booleans(),
        "details": plain_details,
        "weight": st.none() | numbers,
    },
)
fields = st.sampled_from(["id", "group", "rank", "weight", "open", "revision"])


def sort_key(document: Document, order: Order) -> tuple[bool, object]:
    special: dict[str, Plain] = {"id": document.id, "revision": document.revision}
    value = special.get(order.field, document.body.get(order.field))
    return (value is not None, 0 if value is None else value)


def sort(documents: Sequence[Document], order: Sequence[Order]) -> list[Document]:
    found = list(documents)
    for one in reversed(order):
        found.sort(key=lambda document, by=one: sort_key(document, by), reverse=one.descending)  # type: ignore[misc]
    return found


def meeting(documents: Sequence[Document], where: Filter) -> list[Document]:
    return [one for one in documents if matches(where, one.id, one.revision, one.body)]


def refill(driver: Driver, given_bodies: Sequence[dict[str, Plain]]) -> list[Document]:
    driver.delete(THINGS, ())
    documents = [Document(f"{place:03d}", full(**body)) for place, body in enumerate(given_bodies)]
    assert driver.insert(THINGS, documents) == []
    return documents


def everything(driver: Driver) -> dict[str, Document]:
    return {one.id: one for one in driver.find(THINGS)}


relaxed = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@relaxed
@given(st.lists(bodies, max_size=8), filters, st.lists(st.builds(Order, fields, st.booleans()), max_size=2), st.data())
def test_find_and_count_agree_with_the_reference(
    driver: Driver,
    given_bodies: list[dict[str, Plain]],
    where: Filter,
    order: list[Order],
    data: st.DataObject,
) -> None:
    documents = refill(driver, given_bodies)
    order = [*order, Order("id")]
    expected = sort(meeting(documents, where), order)
    assert driver.find(THINGS, where, order) == expected
    limit = data.draw(st.integers(0, 4))
    assert driver.find(THINGS, where, order, limit) == expected[:limit]
    assert driver.count(THINGS, where) == len(expected)
    assert driver.count(THINGS, where) == Driver.count(driver, THINGS, where)


@relaxed
@given(st.lists(bodies, max_size=8), filters, changes_made)
def test_patch_agrees_with_the_reference(
    driver: Driver, given_bodies: list[dict[str, Plain]], where: Filter, changes: dict[str, Plain | Increment]
) -> None:
    documents = {one.id: one for one in refill(driver, given_bodies)}
    expected = dict(documents)
    for one in meeting(list(documents.values()), where):
        # An increment beyond 64 bits is for the caller to avoid.
        if isinstance(changes.get("rank"), Increment) and abs(one.body["rank"] or 0) > 2**60:  # type: ignore[arg-type]
            return
        expected[one.id] = Document(one.id, changed(one.body, changes), one.revision + 1)
    touched = sum(expected[name] is not documents[name] for name in documents)
    assert driver.patch(THINGS, where, changes) == touched
    assert everything(driver) == expected
    refill(driver, given_bodies)
    assert Driver.patch(driver, THINGS, where, changes) == touched
    assert everything(driver) == expected


@relaxed
@given(st.lists(bodies, max_size=8), filters, st.builds(Order, fields, st.booleans()))
def test_claim_agrees_with_the_reference(
    driver: Driver, given_bodies: list[dict[str, Plain]], where: Filter, by: Order
) -> None:
    documents = refill(driver, given_bodies)
    order = [by, Order("id")]
    changes: dict[str, Plain | Increment] = {"state": "b", "details": {"x": 0.5}, "open": False}
    expected = sort(meeting(documents, where), order)
    for claim in (driver.claim, lambda *given: Driver.claim(driver, *given)):
        refill(driver, given_bodies)
        claimed = claim(THINGS, where, changes, order)
        if not expected:
            assert claimed is None
            continue
        first = expected[0]
        assert claimed == Document(first.id, changed(first.body, changes), first.revision + 1)
        assert driver.get(THINGS, first.id) == claimed


@relaxed
@given(st.lists(bodies, max_size=8), filters)
def test_delete_agrees_with_the_reference(driver: Driver, given_bodies: list[dict[str, Plain]], where: Filter) -> None:
    documents = refill(driver, given_bodies)
    gone = {one.id for one in meeting(documents, where)}
    assert driver.delete(THINGS, where) == len(gone)
    assert everything(driver).keys() == {one.id for one in documents} - gone


steps = st.one_of(
    st.tuples(st.just("insert"), bodies),
    st.tuples(st.just("patch"), filters, changes_made),
    st.tuples(st.just("delete"), filters),
    st.tuples(st.just("swap"), bodies),
    st.tuples(st.just("undone"), filters),
)


@relaxed
@given(st.lists(steps, max_size=12))
def test_counts_kept_by_triggers_are_those_of_the_documents(driver: Driver, taken: list[tuple[object, ...]]) -> None:
    driver.delete(THINGS, ())
    for place, step in enumerate(taken):
        match step:
            case ("insert", dict(body)):
                driver.insert(THINGS, [Document(f"{place}", body), Document(f"{place}b", {**body, "state": "b"})])
            case ("patch", tuple(where), dict(changes)):
                changes.pop("rank", None)
                driver.patch(THINGS, where, changes)
            case ("delete", tuple(where)):
                driver.delete(THINGS, where)
            case ("swap", dict(body)):
                for one in driver.find(THINGS, limit=1):
                    driver.swap(THINGS, Document(one.id, body), one.revision)
            case ("undone", tuple(where)):
                with undone(driver):
                    driver.patch(THINGS, where, {"state": "a"})
                    driver.delete(THINGS, equal(group="a"))
    documents = driver.find(THINGS)
    for group in ("a", "b", "ä", ""):
        where = equal(group=group)
        assert driver.count(THINGS, where) == len(meeting(documents, where))
        for state in ("a", "b", "", None):
            where = equal(group=group, state=state)
            assert driver.count(THINGS, where) == len(meeting(documents, where))
        where = (*equal(group=group), Comparison("state", "in", ("a", "b", "a ")))
        assert driver.count(THINGS, where) == len(meeting(documents, where))


@pytest.mark.parametrize("many", [200, 300, 20_000])
def test_long_lists_of_values(driver: Driver, many: int) -> None:
    documents = [thing(f"{place}", rank=place, weight=place / 8, group=f"{place}'") for place in range(40)]
    driver.insert(THINGS, documents)
    for field, listed in {
        "id": [f"{place}" for place in range(0, many, 2)],
        "rank": list(range(0, many, 2)),
        "weight": [place / 4 for place in range(many // 2)],
        "group": [f"{place}'" for place in range(0, many, 2)],
    }.items():
        where = (Comparison(field, "in", (*listed, None)),)
        assert driver.count(THINGS, where) == 20, field
        assert len(driver.find(THINGS, where, limit=3)) == 3


# Unique keys


def test_a_batch_refuses_what_conflicts_and_inserts_the_rest(driver: Driver) -> None:
    driver.insert(THINGS, [thing("a", title_key="x", rank_key=1)])
    refused = driver.insert(
        THINGS,
        [
            thing("b", title_key="x", rank_key=1),
            thing("a", title_key="x", rank_key=1),
            thing("c", title_key="x", rank_key=2),
            thing("d", title_key="x", rank_key=2),
            thing("b", title_key="y", rank_key=2),
            thing("b", title_key="z", rank_key=2),
            thing("e", title_key="x", rank_key=None),
            thing("f", title_key="x", rank_key=None),
            thing("a", title_key="w", rank_key=2),
            thing("g", title_key="w", rank_key=2),
        ],
    )
    key = ("title_key", "rank_key")
    assert [(one.position, one.id, one.key) for one in refused] == [
        (0, "b", key),
        (1, "a", ("id",)),
        (3, "d", key),
        (5, "b", ("id",)),
        (8, "a", ("id",)),
    ]
    assert sorted(everything(driver)) == ["a", "b", "c", "e", "f", "g"]


def test_a_single_document_that_conflicts(driver: Driver) -> None:
    assert driver.insert(THINGS, []) == []
    driver.insert(THINGS, [thing("a", title_key="x", rank_key=1)])
    assert [one.key for one in driver.insert(THINGS, [thing("a")])] == [("id",)]
    assert [one.key for one in driver.insert(THINGS, [thing("b", title_key="x", rank_key=1)])] == [
        ("title_key", "rank_key")
    ]


@pytest.mark.parametrize("inside", [False, True])
def test_a_unique_key_holds_for_every_write(driver: Driver, inside: bool) -> None:
    driver.insert(THINGS, [thing("a", title_key="it's", rank_key=1), thing("b", title_key="it's", rank_key=2)])

    def attempts() -> None:
        with pytest.raises(UniqueViolation) as caught:
            driver.swap(THINGS, thing("b", title_key="it's", rank_key=1), 1)
        assert caught.value.key == ("title_key", "rank_key")
        with pytest.raises(UniqueViolation):
            driver.patch(THINGS, equal(id="b"), {"rank_key": 1})
        with pytest.raises(UniqueViolation):
            driver.claim(THINGS, equal(id="b"), {"rank_key": 1})
        assert len(driver.insert(THINGS, [thing("c", title_key="it's", rank_key=1), thing("d")])) == 1

    if inside:
        with driver.transaction():
            attempts()
    else:
        attempts()
    assert sorted(everything(driver)) == ["a", "b", "d"]
    assert driver.get(THINGS, "b") == Document("b", full(title_key="it's", rank_key=2))


def test_swap_compares_the_revision(driver: Driver) -> None:
    driver.insert(THINGS, [thing("a", rank=1)])
    assert driver.swap(THINGS, Document("a", {"rank": 2}, 99), 1)
    assert not driver.swap(THINGS, Document("a", {"rank": 3}), 1)
    assert not driver.swap(THINGS, Document("b", {"rank": 3}), 1)
    assert driver.get(THINGS, "a") == Document("a", full(rank=2), 2)


# Transactions


def test_a_transaction_is_all_or_nothing(driver: Driver) -> None:
    with driver.transaction():
        driver.insert(THINGS, [thing("a"), thing("b")])
        with undone(driver):
            driver.delete(THINGS, ())
        assert driver.count(THINGS) == 2
        with driver.transaction():
            driver.delete(THINGS, equal(id="b"))
    assert sorted(everything(driver)) == ["a"]
    with undone(driver, KeyboardInterrupt):
        driver.delete(THINGS, ())
    assert sorted(everything(driver)) == ["a"]


def test_a_transaction_belongs_to_its_thread(driver: Driver) -> None:
    seen: list[int] = []
    with driver.transaction():
        driver.insert(THINGS, [thing("a")])
        reader = threading.Thread(target=lambda: seen.append(driver.count(THINGS)))
        reader.start()
        reader.join()
    assert seen == [0]
    assert driver.count(THINGS) == 1


# Preparation


def test_setup_is_repeated_without_effect(driver: Driver, url: str) -> None:
    driver.insert(THINGS, [thing("a")])
    driver.setup(SCHEMA)
    again = connect(url)
    again.setup(SCHEMA)
    assert again.get(THINGS, "a") is not None
    again.close()


def test_another_version_is_refused(driver: Driver) -> None:
    with pytest.raises(SchemaMismatch, match=r"version 3.*supports 2.*newer") as newer:
        driver.setup(Schema(2, (THINGS,)), upgrade=True)
    assert (newer.value.stored, newer.value.supported) == (3, 2)
    with pytest.raises(SchemaMismatch, match=r"version 3.*needs 4.*moorage upgrade") as older:
        driver.setup(Schema(4, (THINGS,)))
    assert (older.value.stored, older.value.supported) == (3, 4)


def test_upgrade_adds_what_is_missing_and_moves_values(url: str) -> None:
    small = Collection("things", (Field("group", "string"), Field("details", "json")))
    driver = connect(url)
    driver.setup(Schema(1, (small,)))
    driver.insert(small, [thing("a", group="g", state="s", rank=5, loose=1), thing("b"), thing("c", group="g")])
    for _ in range(2):
        driver.setup(Schema(3, (THINGS,)), upgrade=True)
    assert [one.id for one in driver.find(THINGS, equal(state="s", rank=5))] == ["a"]
    found = driver.get(THINGS, "a")
    assert found is not None
    assert found.body == full(group="g", state="s", rank=5, loose=1)
    assert driver.count(THINGS, equal(group="g")) == 2
    assert driver.count(THINGS, equal(group="g", state="s")) == 1
    assert driver.insert(THINGS, [thing("x", title_key="k", rank_key=1), thing("y", title_key="k", rank_key=1)])
    driver.close()


def test_a_collection_that_is_new_at_the_same_version_is_created(driver: Driver) -> None:
    other = Collection("others", (Field("x", "integer"),))
    driver.setup(Schema(3, (THINGS, other)))
    assert driver.insert(other, [thing("a", x=1)]) == []


def test_read_only(driver: Driver, url: str) -> None:
    driver.insert(THINGS, [thing("a")])
    viewer = connect(url, read_only=True)
    viewer.setup(SCHEMA)
    assert viewer.get(THINGS, "a") is not None
    for write in (
        lambda: viewer.insert(THINGS, [thing("b")]),
        lambda: viewer.delete(THINGS, ()),
        lambda: viewer.patch(THINGS, (), {"rank": 1}),
        lambda: viewer.claim(THINGS, (), {"rank": 1}),
        lambda: viewer.swap(THINGS, thing("a"), 1),
    ):
        with pytest.raises(StorageReadOnly, match="read-only"):
            write()
    with viewer.transaction():
        assert viewer.count(THINGS) == 1
        with pytest.raises(StorageReadOnly):
            viewer.delete(THINGS, ())
    with pytest.raises(StorageDamaged, match="read-only"):
        viewer.setup(Schema(3, (THINGS, Collection("others", ()))))
    viewer.close()
    assert driver.count(THINGS) == 1


def test_after_close(url: str) -> None:
    driver = connect(url)
    driver.setup(SCHEMA)
    held = threading.Event()
    done = threading.Event()
    raised: list[BaseException] = []

    def other() -> None:
        driver.count(THINGS)
        held.set()
        done.wait(30)
        try:
            driver.count(THINGS)
        except StorageClosed as error:
            raised.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(30)
    driver.close()
    driver.close()
    done.set()
    thread.join()
    assert len(raised) == 1
    for call in (
        lambda: driver.get(THINGS, "a"),
        lambda: driver.insert(THINGS, [thing("a"), thing("b")]),
        lambda: driver.claim(THINGS, (), {"rank": 1}),
        lambda: driver.transaction().__enter__(),
    ):
        with pytest.raises(StorageClosed):
            call()


def test_capabilities_and_clock(driver: Driver) -> None:
    assert {Capability.SHARED, Capability.TRANSACTIONS, Capability.SERVER_CLOCK} <= driver.capabilities
    readings = [driver.now() for _ in range(50)]
    assert len({one.clock for one in readings}) == 1
    assert all(math.isfinite(one.seconds) for one in readings)
    assert [one.seconds for one in readings] == sorted(one.seconds for one in readings)


# Threads and processes


def test_each_document_is_claimed_by_one_thread_alone(driver: Driver) -> None:
    driver.insert(THINGS, [thing(f"{place:03d}", open=True, rank=place) for place in range(120)])
    claimed: list[str] = []

    def work() -> None:
        while (one := driver.claim(THINGS, equal(open=True), {"open": False}, [Order("rank")])) is not None:
            claimed.append(one.id)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [f"{place:03d}" for place in range(120)]


def test_connections_of_threads_that_ended_are_closed(driver: Driver) -> None:
    driver.count(THINGS)
    for _ in range(30):
        thread = threading.Thread(target=lambda: driver.count(THINGS))
        thread.start()
        thread.join()
    assert len(driver.links()) == 1  # type: ignore[attr-defined]


def set_up_and_claim(url: str, results: multiprocessing.Queue[list[str]], start: threading.Barrier) -> None:
    start.wait(60)
    driver = connect(url)
    driver.setup(SCHEMA)
    refused = driver.insert(THINGS, [thing(f"{place:03d}", open=True, rank=place, group="g") for place in range(60)])
    claimed = []
    while (one := driver.claim(THINGS, equal(group="g", open=True), {"open": False}, [Order("rank")])) is not None:
        claimed.append(one.id)
    driver.close()
    results.put([f"inserted {60 - len(refused)}", *claimed])


def test_processes_create_insert_and_claim_at_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    start = context.Barrier(6)
    processes = [context.Process(target=set_up_and_claim, args=(url, results, start)) for _ in range(6)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)
    claimed = [name for answer in answers for name in answer[1:]]
    assert sorted(claimed) == [f"{place:03d}" for place in range(60)]
    assert sum(int(answer[0].split()[1]) for answer in answers) == 60


def write_until_killed(url: str, acknowledged: multiprocessing.connection.Connection) -> None:
    driver = connect(url)
    for place in range(1_000_000):
        name = f"{os.getpid()} {place}"
        driver.insert(THINGS, [thing(f"{name} a", group=name, state="s"), thing(f"{name} b", group=name, state="s")])
        acknowledged.send(name)


def test_acknowledged_writes_survive_kill_and_no_half_is_seen(driver: Driver, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    writers = []
    for _ in range(2):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=write_until_killed, args=(url, sender))
        process.start()
        sender.close()
        writers.append((process, receiver))
    names = []
    for process, receiver in writers:
        names += [receiver.recv() for _ in range(20)]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        try:
            while True:
                names.append(receiver.recv())
        except (EOFError, OSError):
            pass
    stored = set(everything(driver))
    assert {f"{name} {half}" for name in names for half in "ab"} <= stored
    groups = {name.rpartition(" ")[0] for name in stored}
    assert stored == {f"{name} {half}" for name in groups for half in "ab"}
    assert all(driver.count(THINGS, equal(group=name)) == 2 for name in names[-5:])


def test_a_forked_child_has_connections_of_its_own(driver: Driver) -> None:
    driver.insert(THINGS, [thing("a")])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            driver.insert(THINGS, [thing("b")])
            status = 0 if driver.get(THINGS, "b") is not None else 2
        finally:
            os._exit(status)
    driver.insert(THINGS, [thing("c")])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(everything(driver)) == ["a", "b", "c"]


def test_a_fork_while_threads_write(driver: Driver) -> None:
    assert forked_while_threads_write(lambda name: driver.insert(THINGS, [thing(name)]), 5) == 5
    assert sum(name.startswith("child") for name in everything(driver)) == 5
