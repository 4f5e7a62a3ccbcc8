"""How documents lie in Redis: sort keys, lookups in indexes, batches in parts."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from moorage import Document, Driver, Increment
from moorage import schema as moorage_schema
from moorage.errors import OutcomeUnknown, Unavailable
from moorage.filters import Comparison, Order, equal, matches
from moorage.schema import Collection, Field, Schema

from moorage_redis.layout import Layout, from_sort_key, identifier_of, sort_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RedisServer

THINGS = Collection(
    name="things",
    fields=(
        Field("name", "string"),
        Field("rank", "integer"),
        Field("score", "number"),
        Field("flag", "boolean"),
        Field("note", "text"),
        Field("total", "integer"),
        Field("extra", "json"),
    ),
    unique=(("name", "rank"),),
    indexes=(("flag", "score", "name"), ("name", "rank"), ("score",)),
    tallies=(("name", "flag"),),
)
SCHEMA = Schema(version=moorage_schema.SCHEMA.version, collections=(THINGS,))

NAMES = ["", "a", "a\x01", "ab", "é", "\uffff", "\U00010000", '"\\\n', "~", "4" * 255]
RANKS = [0, 1, -1, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1]
SCORES = [0.0, -0.0, 5e-324, -5e-324, 1.0, 1.5, -2.25, 2.0**53, 1.7976931348623157e308, -1e300]
TOTALS = [0, 1, 10**14, 10**15, 2**60, -(2**60)]
EXTRAS = [[], {}, {"a": []}, {"a": {"b": 1}, "a.b": 2}, {"a": {"b": 1.0}}, [1, [2.0, None]], "x", 2**63 - 1]
IDENTIFIERS = ["a", "b", "", "é", "\U00010000", "\uffff", "x" * 600]


def test_deleted_documents_leave_nothing_behind(quick_server: RedisServer, open_driver: Callable[..., Driver]) -> None:
    driver = open_driver(f"{quick_server.url}?namespace=emptied")
    driver.setup(SCHEMA)
    documents = [
        Document(identifier, {"name": name, "rank": rank, "flag": True, "score": 0.5, "extra": {"a": 1}})
        for identifier, name, rank in zip(IDENTIFIERS, NAMES, RANKS, strict=False)
    ]
    assert driver.insert(THINGS, documents) == []
    assert driver.claim(THINGS, equal(flag=True), {"flag": None, "name": None}) is not None
    assert driver.patch(THINGS, equal(flag=True), {"score": -0.0, "total": Increment()}) == len(documents) - 1
    assert driver.swap(THINGS, Document("a", {"name": "another", "flag": False}), 2)
    assert driver.delete(THINGS, equal(id="b")) == 1
    assert driver.delete(THINGS, ()) == len(documents) - 1
    with quick_server.client() as client:
        assert [key for key in client.scan_iter("emptied*") if not key.endswith(b":schema")] == []


@pytest.mark.parametrize("values", [RANKS, SCORES, [*RANKS, *SCORES], NAMES, [True, False]])
def test_sort_keys_sort_as_values_do(values: list[object]) -> None:
    for left, right in itertools.product(values, repeat=2):
        assert (sort_key(left) < sort_key(right)) == (left < right), (left, right)
        assert (sort_key(left) == sort_key(right)) == (left == right), (left, right)
        assert (sort_key(left).encode() < sort_key(right).encode()) == (left < right), (left, right)
    for value in values:
        assert from_sort_key(sort_key(value)) == value
        assert sort_key(None) < sort_key(value)


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_a_member_of_an_index_ends_with_its_id(driver: Driver, server: RedisServer, url: str, identifier: str) -> None:
    from moorage.schema import SCHEMA, TRIALS

    driver.insert(TRIALS, [Document(identifier, {"experiment": "e", "sequence": 4})])
    layout = Layout(TRIALS, url.partition("namespace=")[2], str(SCHEMA.version))
    with server.client() as client:
        for key in layout.indexes.values():
            (member,) = client.zrangebylex(key, "-", "+")
            assert identifier_of(member) == identifier


def test_a_lookup_reads_everything_that_matches() -> None:
    layout = Layout(THINGS, "n", "1")
    documents = [
        Document(f"{name}{rank}{score}{flag}", {"name": name, "rank": rank, "score": score, "flag": flag})
        for name in ("a", "ab", "~", "\U00010000", None)
        for rank in (0, 2**63 - 1, None)
        for score in (-0.0, 1.5, None)
        for flag in (True, False, None)
    ]
    operators = ("=", "!=", "<", "<=", ">", ">=")
    for first, second in itertools.product(operators, repeat=2):
        for name, score, flag in itertools.product(("ab", None), (0, None), (True, None)):
            where = (Comparison("flag", "=", flag), Comparison("score", first, score), Comparison("name", second, name))
            lookup = layout.look_up(where)
            fields = next(fields for fields, key in layout.indexes.items() if key == lookup.index)
            for one in documents:
                member = "".join(sort_key(one.body[field]) for field in fields) + sort_key(one.id)
                inside = any(lower <= member < upper for lower, upper in lookup.ranges)
                assert inside or not matches(where, one.id, 1, one.body), (where, lookup, one)


def test_a_document_keeps_its_keys_in_order_and_gets_new_ones_at_the_end(driver: Driver) -> None:
    from moorage.schema import TRIALS

    body = {"zeta": [], "experiment": "e", "pending": True, "alpha": {"b": {}, "a": []}}
    driver.insert(TRIALS, [Document("t", body), Document("empty", {})])
    for identifier in ("t", "empty"):
        driver.patch(TRIALS, equal(id=identifier), {"worker": "w", "pending": False, "token": Increment(), "beat": 0.5})
    patched, empty = driver.get(TRIALS, "t"), driver.get(TRIALS, "empty")
    assert patched is not None
    assert list(patched.body) == [*body, "worker", "token", "beat"]
    assert empty == Document("empty", {"worker": "w", "pending": False, "token": 1, "beat": 0.5}, 2)


def test_large_batches_go_in_parts_and_are_refused_by_position(driver: Driver) -> None:
    from moorage.schema import TRIALS

    documents = [Document(f"{number % 900}", {"experiment": "e", "sequence": number}) for number in range(1000)]
    refused = driver.insert(TRIALS, documents)
    assert [(one.position, one.id, one.key) for one in refused] == [(900 + n, f"{n}", ("id",)) for n in range(100)]
    found = driver.find(TRIALS, equal(experiment="e"), [Order("sequence", descending=True)])
    assert [one.body["sequence"] for one in found] == list(reversed(range(900)))
    assert driver.patch(TRIALS, equal(experiment="e"), {"status": "x"}) == 900
    assert driver.tally(TRIALS, equal(experiment="e"), "status") == Counter({"x": 900})
    assert driver.delete(TRIALS, (Comparison("sequence", "<", 450),)) == 450
    assert driver.count(TRIALS, equal(experiment="e")) == driver.count(TRIALS) == 450


def test_a_batch_that_breaks_off_halfway_has_an_unknown_outcome(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moorage.schema import TRIALS

    link = driver._link
    write, calls = link.write, itertools.count()

    def break_off(*arguments: str) -> object:
        if next(calls):
            raise Unavailable("gone")
        return write(*arguments)

    monkeypatch.setattr(link, "write", break_off)
    documents = [Document(f"{number}", {"experiment": "e", "sequence": number}) for number in range(600)]
    with pytest.raises(OutcomeUnknown):
        driver.insert(TRIALS, documents)
    assert driver.count(TRIALS) == 250
    with pytest.raises(Unavailable):
        driver.insert(TRIALS, documents)
    monkeypatch.undo()
    assert len(driver.insert(TRIALS, documents)) == 250


def test_a_document_of_many_megabytes_is_kept(driver: Driver) -> None:
    from moorage.schema import ALGORITHM_LOCKS

    body = {"state": "é\n" * 4_000_000, "token": 2**53 + 1}
    driver.insert(ALGORITHM_LOCKS, [Document("e", body)])
    assert driver.patch(ALGORITHM_LOCKS, equal(id="e", token=2**53 + 1), {"holder": "me", "token": Increment()}) == 1
    assert driver.get(ALGORITHM_LOCKS, "e") == Document("e", {**body, "token": 2**53 + 2, "holder": "me"}, 2)
