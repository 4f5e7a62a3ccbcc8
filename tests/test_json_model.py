"""Two drivers on one JSON file, which fold, close and open as they like, against the reference in memory."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from moorage.codec import dumps
from moorage.driver import Document, Increment
from moorage.errors import UniqueViolation
from moorage.filters import Comparison, Order, equal
from moorage.memory import MemoryDriver
from moorage_json import reading
from test_json import SCHEMA, THINGS, open_driver

if TYPE_CHECKING:
    from moorage.filters import Filter
    from moorage_json.driver import JSONDriver

IDENTIFIERS = ["a", "b", "", "é", "\U00010000", '"\\\n', "x" * 600]
identifiers = st.sampled_from(IDENTIFIERS)
names = st.sampled_from(["", "a", "a\x01", "\uffff", "\u2028", None])
ranks = st.sampled_from([0, 1, 2**53 + 1, 2**63 - 1, -(2**63), None])
flags = st.sampled_from([True, False, None])
loose = st.sampled_from(
    [-0.0, 1, 1.0, True, None, 5e-324, 1.7976931348623157e308, "\x7f\u2029", [[]], {"z": 1, "a": {}}]
)
bodies = st.fixed_dictionaries(
    {"name": names, "rank": ranks, "open": flags, "extra": st.sampled_from([None, [], {}, {"a.b": 1, "a": {"b": 2}}])},
    optional={"loose": loose, "id": loose, "body": loose, "long": st.just({"x": ["long"] * 40})},
)
filters = st.one_of(
    st.builds(lambda value: equal(open=value), flags),
    st.builds(lambda value: equal(id=value), identifiers),
    st.builds(lambda many: (Comparison("id", "in", tuple(many)),), st.lists(identifiers, max_size=3)),
    st.builds(lambda value: (Comparison("rank", ">=", value),), ranks),
    st.builds(lambda value: equal(**{"extra.a.b": value}), st.sampled_from([1, 2, None])),
    st.just(()),
)
changes = st.fixed_dictionaries(
    {}, optional={"open": flags, "extra": st.just({"new": [1]}), "rank": st.just(Increment(0))}
)


class Machine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "runs.json"
        self.reference = MemoryDriver()
        self.reference.setup(SCHEMA)
        self.drivers: list[JSONDriver] = [open_driver(self.path, durability="fast") for _ in range(2)]
        self.turns = itertools.cycle([0, 1, 1, 0, 1])

    def teardown(self) -> None:
        for driver in self.drivers:
            driver.close()
        if self.drivers:
            assert [one.name for one in self.path.parent.iterdir()] == ["runs.json"]
        self.folder.cleanup()

    def same(self, verb: str, *arguments: object) -> object:
        results: list[object] = []
        for driver in (self.reference, self.drivers[next(self.turns)]):
            try:
                results.append(plain(getattr(driver, verb)(THINGS, *arguments)))
            except UniqueViolation as error:
                results.append(error.key)
        assert results[0] == results[1], (verb, arguments)
        return results[0]

    @rule(documents=st.lists(st.builds(Document, identifiers, bodies), max_size=4))
    def insert(self, documents: list[Document]) -> None:
        self.same("insert", documents)

    @rule(identifier=identifiers, body=bodies, late=st.sampled_from([0, 0, 1]))
    def swap(self, identifier: str, body: dict[str, object], late: int) -> None:
        stored = self.reference.get(THINGS, identifier)
        self.same("swap", Document(identifier, body), late + (stored.revision if stored else 1))  # type: ignore[arg-type]

    @rule(where=filters)
    def delete(self, where: Filter) -> None:
        self.same("delete", where)

    @rule(where=filters, change=changes)
    def patch(self, where: Filter, change: dict[str, object]) -> None:
        self.same("patch", where, change)

    @rule(identifier=identifiers, name=names)
    def rename(self, identifier: str, name: str | None) -> None:
        self.same("patch", equal(id=identifier), {"name": name})

    @rule(where=filters, change=changes, down=st.booleans())
    def claim(self, where: Filter, change: dict[str, object], down: bool) -> None:
        self.same("claim", where, change, [Order("rank", down), Order("id", down)])

    @rule(where=filters, down=st.booleans(), limit=st.sampled_from([None, 0, 2]))
    def read(self, where: Filter, down: bool, limit: int | None) -> None:
        self.same("find", where, [Order("open", down), Order("id", down)], limit)
        self.same("count", where)
        self.same("tally", where, "open")

    @rule(body=bodies, where=filters, keep=st.booleans())
    def together(self, body: dict[str, object], where: Filter, keep: bool) -> None:
        for driver in (self.reference, self.drivers[next(self.turns)]):
            try:
                with driver.transaction():
                    driver.delete(THINGS, where)
                    driver.insert(THINGS, [Document("t", dict(body))])  # type: ignore[arg-type]
                    driver.delete(THINGS, equal(id="a"))
                    if not keep:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                assert not keep

    @rule(which=st.integers(0, 1))
    def fold(self, which: int) -> None:
        self.drivers[which]._file._reader.fold_at = 0

    @rule(which=st.integers(0, 1), alone=st.booleans())
    def open_again(self, which: int, alone: bool) -> None:
        for place in (0, 1) if alone else (which,):
            self.drivers[place].close()
        for place in (0, 1) if alone else (which,):
            self.drivers[place] = open_driver(self.path, durability="fast")

    @invariant()
    def all_is_the_same(self) -> None:
        if hasattr(self, "drivers"):
            for _ in range(2):
                self.same("find", (), [Order("id")])


def plain(result: object) -> object:
    """A result in which 0 differs from -0.0, 1 from 1.0, and the order of keys counts."""
    if isinstance(result, Document):
        return result.id, result.revision, dumps(result.body)
    return [plain(one) for one in result] if isinstance(result, list) else result


assert reading._SMALLEST_FOLD > 10**5, "folding is what the rule of that name asks for"
TestAgainstTheReference = Machine.TestCase
TestAgainstTheReference.settings = settings(
    max_examples=int(os.environ.get("MOORAGE_EXAMPLES", "60")), stateful_step_count=30
)
