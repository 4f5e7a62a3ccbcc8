"""Every primitive against the reference in memory, and every override against the defaults of `Driver`."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING

import holdfast
import pytest
from holdfast import Document, Driver, Increment
from holdfast import schema as holdfast_schema
from holdfast.codec import dumps
from holdfast.errors import OutcomeUnknown, Unavailable, UniqueViolation
from holdfast.filters import Comparison, Filter, Order, equal, matches
from holdfast.schema import Collection, Field, Schema
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from holdfast_redis.layout import Layout, from_sort_key, identifier_of, sort_key

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
SCHEMA = Schema(version=holdfast_schema.SCHEMA.version, collections=(THINGS,))

NAMES = ["", "a", "a\x01", "ab", "é", "\uffff", "\U00010000", '"\\\n', "~", "4" * 255]
RANKS = [0, 1, -1, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1]
SCORES = [0.0, -0.0, 5e-324, -5e-324, 1.0, 1.5, -2.25, 2.0**53, 1.7976931348623157e308, -1e300]
TOTALS = [0, 1, 10**14, 10**15, 2**60, -(2**60)]
EXTRAS = [[], {}, {"a": []}, {"a": {"b": 1}, "a.b": 2}, {"a": {"b": 1.0}}, [1, [2.0, None]], "x", 2**63 - 1]
IDENTIFIERS = ["a", "b", "", "é", "\U00010000", "\uffff", "x" * 600]

# Few values, so that filters match and unique keys collide; `test_sort_keys_sort_as_values_do` goes through all.
names = st.sampled_from(["", "a", "a\x01", "\uffff", "\U00010000", None])
ranks = st.sampled_from([0, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), None])
scores = st.sampled_from([0.0, -0.0, 5e-324, 1.5, 2.0**53, -1e300, None])
identifiers = st.sampled_from(IDENTIFIERS)
flags = st.sampled_from([True, False, None])
bodies = st.fixed_dictionaries(
    {
        "name": names,
        "rank": ranks,
        "score": scores,
        "flag": flags,
        "note": st.sampled_from(["", "line\nbreak", '",\n"flag":true', "long" * 3000, None]),
        "total": st.sampled_from([*TOTALS, None]),
        "extra": st.sampled_from([*EXTRAS, None]),
        "undeclared": st.sampled_from([-0.0, 10**18 + 1, "", [[]], {"z": 1, "a": 2}]),
    }
)
values = {
    "id": identifiers,
    "revision": st.integers(1, 3),
    "name": names,
    "rank": ranks | st.sampled_from([0.0, 2.0**53, 0.5]),
    "score": scores | st.sampled_from([0, 2**53 + 1]),
    "flag": flags,
    "note": st.sampled_from(["", "line\nbreak", None]),
    "total": st.sampled_from([*TOTALS, 1.0, None]),
    "extra.a.b": st.sampled_from([1, 2, None]),
    "extra.a": st.sampled_from([None, 1]),
}


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    field = draw(st.sampled_from(list(values)))
    operator = draw(st.sampled_from(["=", "=", "=", "!=", "<", "<=", ">", ">=", "in"]))
    if operator == "in":
        return Comparison(field, "in", tuple(draw(st.lists(values[field], max_size=3))))
    return Comparison(field, operator, draw(values[field]))  # type: ignore[arg-type]


filters = st.lists(comparisons(), min_size=1, max_size=2).map(tuple)
orders = st.lists(
    st.builds(Order, st.sampled_from(["name", "rank", "score", "flag", "note"]), st.booleans()), max_size=2
).flatmap(lambda some: st.booleans().map(lambda down: [*some, Order("id", down)]))
small_changes = st.fixed_dictionaries(
    {},
    optional={
        "flag": flags,
        "score": scores,
        "note": st.just("changed"),
        "total": st.builds(Increment, st.sampled_from([1, -1, 0, 10**15])),
    },
)
all_changes = st.tuples(small_changes, st.fixed_dictionaries({}, optional={"name": names, "rank": values["rank"]})).map(
    lambda both: {**both[0], **{name: value for name, value in both[1].items() if not isinstance(value, float)}}
)


class Machine(RuleBasedStateMachine):
    """The same calls to the reference, to the driver, and to the driver with the defaults in place of its overrides."""

    open: Callable[..., Driver]
    url: str
    number = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        run = next(self.number)
        self.reference = holdfast.connect("memory://").driver
        self.fast = type(self).open(f"{self.url}.{run}.fast")
        self.plain = type(self).open(f"{self.url}.{run}.plain")
        for one in (self.reference, self.fast, self.plain):
            one.setup(SCHEMA)

    def same(self, name: str, *arguments: object) -> None:
        default = getattr(Driver, name)
        ours = getattr(type(self.plain), name) if hasattr(default, "__isabstractmethod__") else default
        expected = outcome(getattr(self.reference, name), THINGS, *arguments)
        assert outcome(getattr(self.fast, name), THINGS, *arguments) == expected
        assert outcome(ours, self.plain, THINGS, *arguments) == expected

    @initialize(each=st.lists(bodies, min_size=len(IDENTIFIERS), max_size=len(IDENTIFIERS)))
    def fill(self, each: list[dict[str, object]]) -> None:
        self.same("insert", [Document(*one) for one in zip(IDENTIFIERS, each, strict=True)])

    @rule(documents=st.lists(st.builds(Document, identifiers, bodies), min_size=1, max_size=6))
    def insert(self, documents: list[Document]) -> None:
        self.same("insert", documents)

    @rule(document=st.builds(Document, identifiers, bodies), late=st.sampled_from([-1, 0, 0, 1]))
    def swap(self, document: Document, late: int) -> None:
        stored = self.reference.get(THINGS, document.id)
        self.same("swap", document, late + (stored.revision if stored else 1))

    @rule(where=filters.filter(lambda where: where[0].operator in ("=", "in")))
    def delete(self, where: Filter) -> None:
        self.same("delete", where)

    @rule(where=filters, changes=small_changes)
    def patch(self, where: Filter, changes: dict[str, object]) -> None:
        self.same("patch", where, changes)

    @rule(identifier=identifiers, where=filters, changes=all_changes)
    def patch_one(self, identifier: str, where: Filter, changes: dict[str, object]) -> None:
        self.same("patch", (*equal(id=identifier), *where), changes)

    @rule(where=filters, order=orders, changes=all_changes)
    def claim(self, where: Filter, order: list[Order], changes: dict[str, object]) -> None:
        self.same("claim", where, changes, order)

    @rule(flag=flags, more=filters | st.just(()), down=st.booleans(), changes=all_changes)
    def claim_by_index(self, flag: bool | None, more: Filter, down: bool, changes: dict[str, object]) -> None:
        order = [Order(name, down) for name in ("score", "name", "id")]
        self.same("claim", (*equal(flag=flag), *more), changes, order)

    @rule(where=filters, order=orders, limit=st.sampled_from([None, 0, 1, 2]))
    def find(self, where: Filter, order: list[Order], limit: int | None) -> None:
        self.same("find", where, order, limit)

    @rule(where=filters, field=st.sampled_from(["name", "flag", "score", "rank"]))
    def count(self, where: Filter, field: str) -> None:
        self.same("count", where)
        self.same("tally", where, field)

    @rule(name=names, flag=flags)
    def count_by_tally(self, name: str | None, flag: bool | None) -> None:
        self.same("count", equal(name=name))
        self.same("count", (*equal(name=name), Comparison("flag", "in", (flag, True))))
        self.same("tally", equal(name=name), "flag")

    @rule(identifier=identifiers)
    def get(self, identifier: str) -> None:
        self.same("get", identifier)

    @invariant()
    def all_is_the_same(self) -> None:
        self.same("find", (), [Order("id")], None)

    def teardown(self) -> None:
        for one in (self.fast, self.plain):
            one.delete(THINGS, ())
            one.close()


def plain(result: object) -> object:
    """A result in which 0 differs from -0.0, and 1 from 1.0."""
    if isinstance(result, Document):
        return result.id, result.revision, sorted((name, dumps(value)) for name, value in result.body.items())
    return [plain(one) for one in result] if isinstance(result, list) else result


def outcome(call: Callable[..., object], *arguments: object) -> object:
    try:
        return plain(call(*arguments))
    except UniqueViolation as error:
        return error.key


def test_primitives_and_overrides_do_what_the_reference_does(
    quick_server: RedisServer, open_driver: Callable[..., Driver]
) -> None:
    Machine.open, Machine.url = staticmethod(open_driver), f"{quick_server.url}?namespace=model"
    run_state_machine_as_test(
        Machine,
        settings=settings(
            database=None,
            max_examples=int(os.environ.get("HOLDFAST_EXAMPLES", "60")),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with quick_server.client() as client:
        left = [key.decode() for key in client.scan_iter("model.*") if not key.endswith(b":schema")]
    assert left == [], "deleted documents leave something behind"


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
    from holdfast.schema import SCHEMA, TRIALS

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
    from holdfast.schema import TRIALS

    body = {"zeta": [], "experiment": "e", "pending": True, "alpha": {"b": {}, "a": []}}
    driver.insert(TRIALS, [Document("t", body), Document("empty", {})])
    for identifier in ("t", "empty"):
        driver.patch(TRIALS, equal(id=identifier), {"worker": "w", "pending": False, "token": Increment(), "beat": 0.5})
    patched, empty = driver.get(TRIALS, "t"), driver.get(TRIALS, "empty")
    assert patched is not None
    assert list(patched.body) == [*body, "worker", "token", "beat"]
    assert empty == Document("empty", {"worker": "w", "pending": False, "token": 1, "beat": 0.5}, 2)


def test_large_batches_go_in_parts_and_are_refused_by_position(driver: Driver) -> None:
    from holdfast.schema import TRIALS

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
    from holdfast.schema import TRIALS

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
    from holdfast.schema import ALGORITHM_LOCKS

    body = {"state": "é\n" * 4_000_000, "token": 2**53 + 1}
    driver.insert(ALGORITHM_LOCKS, [Document("e", body)])
    assert driver.patch(ALGORITHM_LOCKS, equal(id="e", token=2**53 + 1), {"holder": "me", "token": Increment()}) == 1
    assert driver.get(ALGORITHM_LOCKS, "e") == Document("e", {**body, "token": 2**53 + 2, "holder": "me"}, 2)
