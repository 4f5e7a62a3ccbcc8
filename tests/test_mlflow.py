"""The MLflow driver: against the reference, under lost replies and faster rivals, and what people see of it."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import moorage
import moorage_mlflow.driver
import moorage_mlflow.ledger
import moorage_mlflow.mirror
from mlflow_register import Register, RegisterLink
from moorage.codec import dumps
from moorage.driver import Capability, Document, Increment
from moorage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    SchemaMismatch,
    StorageClosed,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
    Unsupported,
)
from moorage.filters import Comparison, Order, equal
from moorage.memory import MemoryDriver
from moorage.plugins import plugins
from moorage.schema import SCHEMA as MOORAGE_SCHEMA
from moorage.schema import Field, Schema
from moorage.url import StorageURL
from moorage_mlflow.driver import MLflowDriver, Settings
from moorage_mlflow.ledger import SIZE, VALUE_LIMIT
from moorage_mlflow.link import address
from moorage_mlflow.picture import clean, run_picture
from things import THINGS, thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow_register import Fault, Run
    from moorage.filters import Filter

SCHEMA = Schema(version=3, collections=(THINGS,))
DEFAULTS = Settings(namespace="moorage", read_only=False, timeout=2.0, waiting=False, repair_after=60.0, settle=10.0)


@pytest.fixture
def register() -> Register:
    return Register()


@pytest.fixture
def opened(register: Register) -> Iterator[Callable[..., MLflowDriver]]:
    """Opens drivers on one register, each as another process would."""
    drivers: list[MLflowDriver] = []

    def open_(schema: Schema | None = SCHEMA, **changes: object) -> MLflowDriver:
        driver = MLflowDriver(RegisterLink(register), attrs.evolve(DEFAULTS, **changes))  # type: ignore[arg-type]
        drivers.append(driver)
        if schema is not None:
            driver.setup(schema)
        return driver

    yield open_
    for driver in drivers:
        driver.close()


@pytest.fixture
def driver(opened: Callable[..., MLflowDriver]) -> MLflowDriver:
    return opened()


def link_of(driver: MLflowDriver) -> RegisterLink:
    link = driver._link
    assert isinstance(link, RegisterLink)
    return link


# Against the reference

IDENTIFIERS = ["a", "b", "", "é", "\U00010000", "x" * 600]
names = st.sampled_from(["", "a", "a ", "\x01", "\U00010000", None])
ranks = st.sampled_from([0, 1, 2**63 - 1, -(2**63), None])
flags = st.sampled_from([True, False, None])
identifiers = st.sampled_from(IDENTIFIERS)
bodies = st.fixed_dictionaries(
    {
        "name": names,
        "rank": ranks,
        "score": st.sampled_from([0.0, 5e-324, 1.5, -1e300, None]),
        "flag": flags,
        "note": st.sampled_from(["", "line\nbreak  ", "long é" * 2000, None]),
        "total": st.sampled_from([0, 10**15, None]),
        "extra": st.sampled_from([[], {}, {"b": 1, "a": [1.0, True, None, -0.0]}, {"a": {"b": 2}}, None]),
    },
    optional={"undeclared": st.sampled_from([-0.0, 1, 1.0, True, None, "", {"z": 1, "a": 2}])},
)
values = {
    "id": identifiers,
    "name": names,
    "rank": ranks,
    "score": st.sampled_from([0, 1.5, None]),
    "flag": flags,
    "extra.a.b": st.sampled_from([2, None]),
}


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    field = draw(st.sampled_from(list(values)))
    operator = draw(st.sampled_from(["=", "=", "!=", "<", ">=", "in"]))
    if operator == "in":
        return Comparison(field, "in", tuple(draw(st.lists(values[field], max_size=3))))
    return Comparison(field, operator, draw(values[field]))  # type: ignore[arg-type]


filters = st.lists(comparisons(), min_size=1, max_size=2).map(tuple)
changes = st.fixed_dictionaries(
    {},
    optional={
        "flag": flags,
        "note": st.just("changed"),
        "extra": st.sampled_from([{"a": {"b": 2}}, [], None]),
        "total": st.builds(Increment, st.sampled_from([1, -1, 10**15])),
        "name": names,
    },
)


def plain(result: object) -> object:
    """A result in which 0 differs from -0.0, and 1 from 1.0 and True; keys that are not declared are in order."""
    if isinstance(result, Document):
        declared = {one.name for one in THINGS.fields}
        body = {name: value for name, value in result.body.items() if value is not None or name not in declared}
        first = sorted((name, dumps(value)) for name, value in body.items() if name in declared)
        return result.id, result.revision, first, [(n, dumps(v)) for n, v in body.items() if n not in declared]
    return [plain(one) for one in result] if isinstance(result, list) else result


def outcome(call: Callable[..., object], *arguments: object) -> object:
    try:
        return plain(call(*arguments))
    except UniqueViolation as error:
        return error.key


class Machine(RuleBasedStateMachine):
    """The same calls to the reference, and to either of two drivers that share a log; a third one opens at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.register = Register()
        self.reference = MemoryDriver()
        self.drivers = [MLflowDriver(RegisterLink(self.register), DEFAULTS) for _ in range(2)]
        for one in (self.reference, *self.drivers):
            one.setup(SCHEMA)
        self.turns = itertools.cycle(self.drivers)

    def same(self, name: str, *arguments: object) -> None:
        expected = outcome(getattr(self.reference, name), THINGS, *arguments)
        driver = next(self.turns)
        assert outcome(getattr(driver, name), THINGS, *arguments) == expected

    @initialize(each=st.lists(bodies, min_size=len(IDENTIFIERS), max_size=len(IDENTIFIERS)))
    def fill(self, each: list[dict[str, object]]) -> None:
        self.same("insert", [thing(name, **body) for name, body in zip(IDENTIFIERS, each, strict=True)])

    @rule(documents=st.lists(st.builds(Document, identifiers, bodies), min_size=1, max_size=5))
    def insert(self, documents: list[Document]) -> None:
        self.same("insert", documents)

    @rule(document=st.builds(Document, identifiers, bodies), late=st.sampled_from([-1, 0, 0, 1]))
    def swap(self, document: Document, late: int) -> None:
        stored = self.reference.get(THINGS, document.id)
        self.same("swap", document, late + (stored.revision if stored else 1))

    @rule(where=filters.filter(lambda where: where[0].operator in ("=", "in")))
    def delete(self, where: Filter) -> None:
        self.same("delete", where)

    @rule(identifier=identifiers, where=filters, changes=changes)
    def patch(self, identifier: str, where: Filter, changes: dict[str, object]) -> None:
        self.same("patch", (*equal(id=identifier), *where), changes)

    @rule(where=filters, flag=flags)
    def patch_many(self, where: Filter, flag: bool | None) -> None:
        self.same("patch", where, {"flag": flag, "total": Increment()})

    @rule(where=filters, down=st.booleans(), changes=changes)
    def claim(self, where: Filter, down: bool, changes: dict[str, object]) -> None:
        self.same("claim", where, changes, [Order("score", down), Order("id")])

    @rule(where=filters, limit=st.sampled_from([None, 0, 1, 2]))
    def find(self, where: Filter, limit: int | None) -> None:
        self.same("find", where, [Order("name"), Order("id")], limit)

    @rule(where=filters, name=names)
    def count(self, where: Filter, name: str | None) -> None:
        self.same("count", where)
        self.same("tally", where, "flag")
        self.same("tally", equal(name=name), "flag")

    @invariant()
    def all_is_the_same(self) -> None:
        self.same("find", (), [Order("id")], None)

    def teardown(self) -> None:
        late = MLflowDriver(RegisterLink(self.register), DEFAULTS)
        late.setup(SCHEMA)
        expected = outcome(self.reference.find, THINGS, (), [Order("id")])
        assert outcome(late.find, THINGS, (), [Order("id")]) == expected
        for one in (late, *self.drivers):
            one.close()


def test_primitives_do_what_the_reference_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moorage_mlflow.ledger, "SIZE", 3)
    monkeypatch.setattr(moorage_mlflow.driver, "_CHECKPOINT_SMALLEST", 4000)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            database=None,
            max_examples=int(os.environ.get("MOORAGE_EXAMPLES", "40")),
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
        ),
    )


# The log


def test_a_write_without_rivals_is_one_request(driver: MLflowDriver) -> None:
    link = link_of(driver)
    driver.insert(THINGS, [thing("a", total=1), thing("b")])
    link.calls.clear()
    assert driver.patch(THINGS, equal(id="a"), {"total": Increment()}) == 1
    assert driver.claim(THINGS, equal(id="b", flag=None), {"flag": True}) is not None
    assert link.calls == ["log_param", "log_param"]


def test_a_read_is_one_request_however_long_the_log_is(driver: MLflowDriver) -> None:
    for number in range(2 * SIZE + 3):
        driver.insert(THINGS, [thing(f"{number}")])
    link = link_of(driver)
    link.calls.clear()
    assert driver.count(THINGS) == 2 * SIZE + 3
    assert link.calls == ["params"]


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns end when they are over, however slow the machine."""
    monkeypatch.setattr(moorage_mlflow.driver, "_BEGIN", 60.0)
    monkeypatch.setattr(moorage_mlflow.driver, "_IDLE", 60.0)


def increment(driver: MLflowDriver, times: int = 1) -> None:
    for _ in range(times):
        assert driver.patch(THINGS, equal(id="a"), {"total": Increment()}) == 1


def setting(driver: MLflowDriver, total: int) -> threading.Thread:
    """Sets the total in the background."""
    thread = threading.Thread(target=lambda: driver.patch(THINGS, equal(id="a"), {"total": total}), daemon=True)
    thread.start()
    return thread


def wait_until_asked(driver: MLflowDriver, author: MLflowDriver) -> None:
    while driver._place(author._ledger.author) is None:
        time.sleep(0.001)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("entries", [1, 3])
def test_the_others_wait_for_whoever_asks_for_a_turn(opened: Callable[..., MLflowDriver], entries: int) -> None:
    slow, fast = opened(), opened()
    slow.insert(THINGS, [thing("a", total=0)])
    slow._ledger.ask(entries)
    fast.find(THINGS)
    last = setting(fast, 100)
    increment(slow, entries)
    last.join(30)
    assert [one.body["total"] for one in slow.find(THINGS)] == [100]
    assert fast._turns == slow._turns == []


@pytest.mark.usefixtures("patience")
def test_turns_come_in_the_order_of_asking(opened: Callable[..., MLflowDriver]) -> None:
    first, second, third = opened(), opened(), opened()
    first.insert(THINGS, [thing("a", total=0)])
    first._ledger.ask(2)
    for one in (first, second, third):
        one.find(THINGS)
    increment(first)
    second.find(THINGS)
    second._ledger.ask(1)
    for one in (first, second, third):
        one.find(THINGS)
    writing = [setting(third, 300), setting(second, 200)]
    time.sleep(0.05)
    increment(first)
    for thread in writing:
        thread.join(30)
    bodies = [entry for run in link_of(first).register.runs.values() for entry in run.params.items()]
    written = [text for name, text in sorted(bodies) if name.isdecimal()]
    assert ['"total":1}' in written[2], '"total":2}' in written[3]] == [True, True]
    assert ['"total":200}' in written[4], '"total":300}' in written[5]] == [True, True]


def test_nobody_waits_for_the_dead_for_long(
    opened: Callable[..., MLflowDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.driver, "_BEGIN", 0.05)
    monkeypatch.setattr(moorage_mlflow.driver, "_IDLE", 0.05)
    dead, living = opened(), opened()
    dead.insert(THINGS, [thing("a", total=0)])
    dead._ledger.ask(5)
    living.find(THINGS)
    assert len(living._turns) == 1
    increment(living)
    dead.find(THINGS)
    increment(dead)
    dead._ledger.ask(5)
    increment(dead)
    living.find(THINGS)
    increment(living)
    assert [one.body["total"] for one in living.find(THINGS)] == [4]


def test_whether_a_turn_goes_on_is_looked_up(
    opened: Callable[..., MLflowDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.driver, "_IDLE", 0.05)
    writing, waiting = opened(), opened()
    writing.insert(THINGS, [thing("a", total=0)])
    writing._ledger.ask(9)
    waiting.find(THINGS)
    increment(writing)
    waiting.find(THINGS)
    time.sleep(0.06)
    link_of(waiting).calls.clear()
    increment(waiting)
    assert link_of(waiting).calls[0] == "params"


@pytest.mark.usefixtures("patience")
def test_nobody_waits_for_one_who_has_got_on_before_its_turn(opened: Callable[..., MLflowDriver]) -> None:
    first, second = opened(), opened()
    first.insert(THINGS, [thing("a", total=0)])
    first._ledger.ask(5)
    increment(first)
    second.find(THINGS)
    assert second._turns == []
    increment(second)


@pytest.mark.usefixtures("patience")
def test_what_was_asked_before_does_not_hold_up_who_comes_later(opened: Callable[..., MLflowDriver]) -> None:
    gone = opened()
    gone.insert(THINGS, [thing("a", total=0)])
    gone._ledger.ask(5)
    late = opened()
    increment(late)
    assert late._turns == []


@pytest.mark.usefixtures("patience")
def test_who_asks_at_the_end_of_a_run_is_heard(
    opened: Callable[..., MLflowDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.ledger, "SIZE", 3)
    asking, writing, reading = opened(), opened(), opened()
    asking.insert(THINGS, [thing("a", total=0)])
    writing.find(THINGS)
    asking._ledger.ask(1)
    increment(writing, 2)
    assert [one.author for one in writing._ledger.asks] == [asking._ledger.author], "who goes on has read it"
    asking.find(THINGS)
    asking._ledger.ask(1)
    reading.find(THINGS)
    assert [one.author for one in reading._turns] == [asking._ledger.author]


def test_a_request_for_a_turn_that_was_changed_is_damage(driver: MLflowDriver) -> None:
    link_of(driver).log_param(driver._ledger.run, "ask 000000000 somebody", '["somebody"]')
    with pytest.raises(StorageDamaged, match="ask 000000000 somebody"):
        driver.find(THINGS)


@pytest.mark.usefixtures("patience")
def test_who_always_wins_looks_whether_others_have_asked(
    opened: Callable[..., MLflowDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.ledger, "SIZE", 10**6)  # at the next run it would look anyway
    monkeypatch.setattr(moorage_mlflow.driver, "_LOOK", 0.01)
    monkeypatch.setattr(moorage_mlflow.driver, "_PAUSE", 60.0)
    asking, streaming = opened(), opened()
    asking.insert(THINGS, [thing("a", total=0)])
    increment(streaming)
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            streaming.patch(THINGS, equal(id="a"), {"total": Increment()})

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    asking._ledger.ask(1)
    wait_until_asked(streaming, asking)
    over.set()
    increment(asking)
    thread.join(30)
    assert not thread.is_alive()


def test_a_writer_that_is_always_overtaken_gets_on(
    opened: Callable[..., MLflowDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.driver, "_ASK_AFTER", 0.2)
    slow, fast = opened(), opened()
    slow.insert(THINGS, [thing("a", total=0), thing("b", total=0)])
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            fast.patch(THINGS, equal(id="a"), {"total": Increment()})

    # Each of its requests takes as long as some of the other's.
    link_of(fast).before = lambda verb: time.sleep(0.01)
    link_of(slow).before = lambda verb: time.sleep(0.03)
    writing = threading.Thread(target=write)
    writing.start()
    try:
        assert slow.patch(THINGS, equal(id="b"), {"total": Increment()}) == 1
    finally:
        over.set()
        writing.join(30)
    assert any(name.startswith("ask ") for run in link_of(slow).register.runs.values() for name in run.params)


def test_whoever_is_overtaken_does_it_again_on_the_new_state(opened: Callable[..., MLflowDriver]) -> None:
    slow, fast = opened(), opened()
    slow.insert(THINGS, [thing("a", total=0), thing("b", total=0)])
    overtakings = iter(range(5))

    def overtake(verb: str) -> None:
        if verb == "log_param" and next(overtakings, None) is not None:
            fast.patch(THINGS, equal(id="a"), {"total": Increment(10)})

    link_of(slow).before = overtake
    assert slow.patch(THINGS, equal(id="a"), {"total": Increment()}) == 1
    link_of(slow).before = lambda verb: None
    assert slow.get(THINGS, "a") == fast.get(THINGS, "a")
    document = fast.get(THINGS, "a")
    assert document is not None
    assert (document.body["total"], document.revision) == (51, 7)


def test_what_is_claimed_by_another_meanwhile_is_not_claimed_twice(opened: Callable[..., MLflowDriver]) -> None:
    slow, fast = opened(), opened()
    slow.insert(THINGS, [thing("a", rank=1), thing("b", rank=2)])
    taken: list[str] = []

    def overtake(verb: str) -> None:
        if verb == "log_param" and not taken:
            taken.append("")
            found = fast.claim(THINGS, equal(flag=None), {"flag": True}, [Order("rank")])
            assert found is not None
            taken.append(found.id)

    link_of(slow).before = overtake
    mine = slow.claim(THINGS, equal(flag=None), {"flag": True}, [Order("rank")])
    assert mine is not None
    assert (mine.id, taken[1]) == ("b", "a")
    assert slow.claim(THINGS, equal(flag=None), {"flag": True}, [Order("rank")]) is None


def test_unique_keys_hold_against_what_this_process_has_not_read_yet(opened: Callable[..., MLflowDriver]) -> None:
    one, other = opened(), opened()
    one.insert(THINGS, [thing("a", name="n", rank=1)])
    assert [(refused.id, refused.key) for refused in other.insert(THINGS, [thing("b", name="n", rank=1)])] == [
        ("b", ("name", "rank"))
    ]
    other.insert(THINGS, [thing("c", name="n", rank=2)])
    with pytest.raises(UniqueViolation):
        one.patch(THINGS, equal(id="a"), {"rank": 2})
    other.delete(THINGS, equal(id="c"))
    assert one.patch(THINGS, equal(id="a"), {"rank": 2}) == 1, "what was deleted elsewhere is in nobody's way"


@pytest.mark.parametrize("fault", ["lost request", "lost reply"])
@pytest.mark.parametrize("verb", ["log_param", "params"])
def test_one_lost_message_of_a_write_is_resolved_and_done_once(driver: MLflowDriver, verb: str, fault: Fault) -> None:
    driver.insert(THINGS, [thing("a", total=0)])
    faults = iter([fault])
    link_of(driver).fault = lambda called: next(faults, None) if called == "log_param" else None
    if verb == "params":
        link_of(driver).fault = lambda called: next(faults, None) if called in ("log_param", "params") else None
    assert driver.patch(THINGS, equal(id="a"), {"total": Increment()}) == 1
    document = driver.get(THINGS, "a")
    assert document is not None
    assert document.body["total"] == 1


def test_a_write_that_cannot_be_resolved_says_so_and_is_seen_if_it_happened(
    opened: Callable[..., MLflowDriver],
) -> None:
    driver, other = opened(timeout=0.05), opened()
    driver.insert(THINGS, [thing("a", total=0)])
    gone: list[str] = []

    def fault(verb: str) -> Fault:
        gone.append(verb)
        return "lost reply" if len(gone) == 1 else "refused connection"

    link_of(driver).fault = fault
    with pytest.raises(OutcomeUnknown):
        driver.patch(THINGS, equal(id="a"), {"total": Increment()})
    with pytest.raises(Unavailable):
        driver.patch(THINGS, equal(id="a"), {"total": Increment()})
    link_of(driver).fault = lambda verb: None
    for one in (other, driver):
        document = one.get(THINGS, "a")
        assert document is not None
        assert document.body["total"] == 1


def test_what_nobody_received_is_unavailable_and_leaves_no_trace(driver: MLflowDriver) -> None:
    driver.insert(THINGS, [thing("a", total=0)])
    link_of(driver).fault = lambda verb: "refused connection"
    for call in (
        lambda: driver.patch(THINGS, equal(id="a"), {"total": 5}),
        lambda: driver.insert(THINGS, [thing("b")]),
        lambda: driver.find(THINGS),
    ):
        with pytest.raises(Unavailable):
            call()
    link_of(driver).fault = lambda verb: None
    assert [(one.id, one.body["total"]) for one in driver.find(THINGS)] == [("a", 0)]


def test_a_late_request_of_a_loser_changes_nothing(opened: Callable[..., MLflowDriver], register: Register) -> None:
    """What was given up may still arrive: then either it has won its entry, or it is refused."""
    one, other = opened(timeout=0.05), opened()
    one.insert(THINGS, [thing("a", total=0)])
    kept: list[tuple[str, str, str]] = []
    link = link_of(one)
    original = link.log_param

    def keep(run: str, name: str, value: str) -> None:
        kept.append((run, name, value))
        raise OutcomeUnknown("on its way")

    link.log_param = keep  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        one.patch(THINGS, equal(id="a"), {"total": 7})
    del link.log_param
    other.patch(THINGS, equal(id="a"), {"total": 1})
    with pytest.raises(moorage_mlflow.ledger.Refused):
        original(*kept[0])
    for driver in (one, other):
        found = driver.get(THINGS, "a")
        assert found is not None
        assert found.body["total"] == 1


@pytest.mark.parametrize("size", [VALUE_LIMIT - 100, VALUE_LIMIT, 40_000, 2_500_000])
def test_long_values_come_back_whole(opened: Callable[..., MLflowDriver], size: int) -> None:
    one, other = opened(), opened()
    text = ('é"\\\n\U0001f30a' * (size // 5 + 1))[:size]
    one.insert(THINGS, [thing("a", note=text)])
    found = other.get(THINGS, "a")
    assert found is not None
    assert found.body["note"] == text
    late = opened()
    assert late.get(THINGS, "a") == found


def test_a_new_process_starts_from_a_checkpoint(
    opened: Callable[..., MLflowDriver], register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.driver, "_CHECKPOINT_SMALLEST", 3000)
    monkeypatch.setattr(moorage_mlflow.driver, "_CHECKPOINT_LARGEST", 3000)
    driver = opened()
    idle = opened()
    for number in range(400):
        driver.insert(THINGS, [thing(f"{number}", total=number)])
        if driver._checkpointing is not None:
            driver._checkpointing.join()
        driver.patch(THINGS, equal(id=f"{number}"), {"flag": True})
    late = opened()
    link = link_of(late)
    assert late.count(THINGS, equal(flag=True)) == 400
    assert link.calls.count("params") < 30, "it did not read 800 entries, 40 to a run"
    assert late.get(THINGS, "7") == driver.get(THINGS, "7")
    aside = [one for one in register.runs.values() if not one.active and one.name.startswith("entries")]
    assert aside, "runs before the last checkpoint but one are marked as deleted"
    for key, one in list(register.runs.items()):
        if not one.active:
            del register.runs[key]  # as `mlflow gc` does
    assert idle.count(THINGS) == 400, "who was away for long begins anew"
    assert idle.insert(THINGS, [thing("new")]) == []
    assert late.count(THINGS) == 401


def test_a_checkpoint_that_was_cut_off_is_no_checkpoint(
    opened: Callable[..., MLflowDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.driver, "_CHECKPOINT_SMALLEST", 3000)
    driver = opened()
    link_of(driver).fault = lambda verb: "lost reply" if verb == "log_batch" else None
    for number in range(100):
        driver.insert(THINGS, [thing(f"{number}")])
    assert opened().count(THINGS) == 100


def test_large_writes_get_their_turn(opened: Callable[..., MLflowDriver]) -> None:
    """Others are always faster than a change of many documents, unless it asks them to wait."""
    large, small = opened(), opened()
    large.insert(THINGS, [thing(f"{number}", total=0) for number in range(300)])
    link_of(large).before = link_of(small).before = lambda verb: time.sleep(0.002)
    stop = threading.Event()
    done = Counter[str]()

    def hurry() -> None:
        while not stop.is_set():
            small.patch(THINGS, equal(id="0"), {"total": Increment()})
            done["small"] += 1

    hurrying = threading.Thread(target=hurry)
    hurrying.start()
    try:
        for _ in range(5):
            assert large.patch(THINGS, (), {"flag": True}) == 300
    finally:
        stop.set()
        hurrying.join()
    found = large.get(THINGS, "0")
    assert found is not None
    assert found.body["total"] == done["small"] > 0


# Transactions


def test_a_transaction_is_one_entry_and_undone_as_one(driver: MLflowDriver) -> None:
    link = link_of(driver)
    link.calls.clear()
    with driver.transaction():
        driver.insert(THINGS, [thing("a", total=1)])
        assert driver.patch(THINGS, equal(id="a"), {"total": Increment()}) == 1
        assert driver.count(THINGS) == 1
    assert link.calls == ["params", "log_param"]
    with contextlib.suppress(KeyError), driver.transaction():
        driver.delete(THINGS, ())
        raise KeyError
    assert driver.count(THINGS) == 1


def test_a_transaction_survives_what_does_not_concern_it_and_nothing_else(
    opened: Callable[..., MLflowDriver],
) -> None:
    one, other = opened(), opened()
    one.insert(THINGS, [thing("a", total=0), thing("b", total=0)])
    for identifier, survives in (("b", True), ("a", False)):
        overtakings = iter(range(3))

        def overtake(verb: str, identifier: str = identifier, overtakings: Iterator[int] = overtakings) -> None:
            if verb == "log_param" and next(overtakings, None) is not None:
                other.patch(THINGS, equal(id=identifier), {"total": Increment()})

        link_of(one).before = overtake

        def change(identifier: str = identifier) -> None:
            with one.transaction():
                found = one.get(THINGS, "a")
                assert found is not None
                total = found.body["total"]
                assert isinstance(total, int)
                one.insert(THINGS, [thing(f"seen {total} beside {identifier}")])

        if survives:
            change()
        else:
            with pytest.raises(Unavailable):
                change()
    link_of(one).before = lambda verb: None
    assert [one.id for one in other.find(THINGS, (Comparison("id", ">", "s"),))] == ["seen 0 beside b"]


# Opening


def test_many_may_be_the_first(register: Register) -> None:
    drivers = [MLflowDriver(RegisterLink(register), DEFAULTS) for _ in range(6)]
    barrier = threading.Barrier(6)

    def begin(driver: MLflowDriver) -> None:
        barrier.wait()
        driver.setup(SCHEMA)
        driver.insert(THINGS, [thing(f"{id(driver)}")])

    threads = [threading.Thread(target=begin, args=(one,)) for one in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.count(THINGS) for one in drivers} == {6}
    active = [one.name for one in register.experiments.values() if one.active]
    assert active == ["Moorage ledger"]
    for one in drivers:
        one.close()


class _TwoWinners(RegisterLink):
    """As MLflow's file store: params are checked, but not under a lock."""

    def log_param(self, run: str, name: str, value: str) -> None:
        self._do("log_param", lambda: self._active(run).params.update({name: value}))


def test_a_store_in_which_a_param_has_two_winners_is_refused(register: Register) -> None:
    driver = MLflowDriver(_TwoWinners(register), DEFAULTS)
    with pytest.raises(ConfigurationError, match="SQL database"):
        driver.setup(SCHEMA)


def test_a_store_of_files_is_refused_by_name(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegisterLink, "store_kind", lambda self: "FileStore")
    driver = MLflowDriver(RegisterLink(register), DEFAULTS)
    with pytest.raises(ConfigurationError, match="keeps its runs in files"):
        driver.setup(SCHEMA)
    assert register.experiments == {}


def test_versions(opened: Callable[..., MLflowDriver]) -> None:
    old = opened()
    old.insert(THINGS, [thing("a", total=1)])
    newer = attrs.evolve(THINGS, fields=(*THINGS.fields, Field("color", "string")), unique=(("color",),))
    new = opened(None)
    with pytest.raises(SchemaMismatch) as caught:
        new.setup(Schema(version=4, collections=(newer,)))
    assert (caught.value.stored, caught.value.supported) == (3, 4)
    new.setup(Schema(version=4, collections=(newer,)), upgrade=True)
    assert new.patch(newer, equal(id="a"), {"color": "red"}) == 1
    assert new.count(newer, equal(color="red")) == 1
    for call in (lambda: old.find(THINGS), lambda: old.insert(THINGS, [thing("b")])):
        with pytest.raises(SchemaMismatch):
            call()
    with pytest.raises(SchemaMismatch):
        opened(None).setup(SCHEMA, upgrade=True)


def test_read_only_reads_and_creates_nothing(opened: Callable[..., MLflowDriver], register: Register) -> None:
    with pytest.raises(StorageDamaged):
        opened(read_only=True)
    assert register.experiments == {}
    driver = opened()
    driver.insert(THINGS, [thing("a")])
    reader = opened(read_only=True)
    link_of(reader).calls.clear()
    assert reader.count(THINGS) == 1
    with pytest.raises(StorageReadOnly):
        reader.insert(THINGS, [thing("b")])
    with pytest.raises(StorageReadOnly):
        reader.delete(THINGS, ())
    reader.close()
    assert set(link_of(reader).calls) <= {"params"}


def test_what_is_not_ours_is_not_taken_for_ours(opened: Callable[..., MLflowDriver], register: Register) -> None:
    RegisterLink(register).create_experiment("Moorage ledger", {"mlflow.note.content": "by hand"})
    with pytest.raises(StorageDamaged, match="not Moorage's"):
        opened()


def test_a_deleted_ledger_is_not_taken_for_an_empty_storage(
    opened: Callable[..., MLflowDriver], register: Register
) -> None:
    opened().insert(THINGS, [thing("a")])
    key, _ = register.named("Moorage ledger")
    RegisterLink(register).delete_experiment(key)
    with pytest.raises(StorageDamaged, match="restore"):
        opened()


@pytest.mark.parametrize("damage", ["not json", '{"by":"x.1"}', '{"by":"x.1","do":[["=","things","nobody",2,{}]]}'])
def test_a_damaged_entry_is_said_to_be_one(
    opened: Callable[..., MLflowDriver], register: Register, damage: str
) -> None:
    driver = opened()
    ledger = driver._ledger
    RegisterLink(register).log_param(ledger.run, f"{ledger.position:09d}", damage)
    with pytest.raises(StorageDamaged):
        driver.find(THINGS)
    with pytest.raises(StorageDamaged):
        opened()


def test_namespaces_do_not_see_each_other(opened: Callable[..., MLflowDriver]) -> None:
    one, other = opened(namespace="one"), opened(namespace="other")
    one.insert(THINGS, [thing("a")])
    assert other.count(THINGS) == 0
    other.erase()
    assert one.count(THINGS) == 1
    assert opened(namespace="other").count(THINGS) == 0


def test_closing_twice_is_harmless_and_closed_is_closed(opened: Callable[..., MLflowDriver]) -> None:
    driver = opened()
    driver.insert(THINGS, [thing("a")])
    before = threading.active_count()
    driver.close()
    driver.close()
    assert threading.active_count() <= before
    for call in (
        lambda: driver.find(THINGS),
        lambda: driver.insert(THINGS, [thing("b")]),
        lambda: driver.setup(SCHEMA),
    ):
        with pytest.raises(StorageClosed):
            call()


def test_capabilities(driver: MLflowDriver) -> None:
    assert driver.capabilities == {Capability.SHARED, Capability.TRANSACTIONS}
    with pytest.raises(Unsupported):
        driver.now()


# What people see


def shown_runs(register: Register, name: str) -> dict[str, Run]:
    return {run.tags["moorage.trial"]: run for run in register.runs_of(name)}


@pytest.fixture
def storages(register: Register) -> Iterator[Callable[..., moorage.Storage]]:
    made: list[moorage.Storage] = []

    def make(**changes: object) -> moorage.Storage:
        driver = MLflowDriver(RegisterLink(register), attrs.evolve(DEFAULTS, **changes))  # type: ignore[arg-type]
        driver.setup(MOORAGE_SCHEMA)
        made.append(moorage.Storage(driver))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_study_is_there_as_an_mlflow_user_expects(
    storages: Callable[..., moorage.Storage], register: Register
) -> None:
    storage = storages()
    experiment = storage.create_experiment(name="digits", metadata={"team": "kelp"})
    storage.create_experiment(name="digits", version=2)
    storage.register_trials(experiment, [{"x": number, "opt": {"lr": 0.1}, "name": "a" * 7000} for number in range(5)])
    done = storage.reserve_trial(experiment, worker="w")
    broken, running, again = (storage.reserve_trial(experiment) for _ in range(3))
    assert done is not None
    assert broken is not None
    assert running is not None
    assert again is not None
    storage.add_measurements(done, [{"name": "loss", "step": step, "value": 1 / (step + 1)} for step in range(2500)])
    storage.add_measurements(done, [{"name": "loss", "step": 2500, "value": math.nan}])
    storage.push_trial_results(done, {"objective": 0.5, "loss": 0.25, "word": "fine"}, status="completed")
    storage.set_trial_status(broken, "broken")
    storage.set_trial_status(again, "interrupted")
    storage.close()
    assert {one.name for one in register.experiments.values()} == {"Moorage ledger", "digits", "digits (version 2)"}
    _, seen = register.named("digits")
    assert seen.tags["moorage.metadata"] == '{"team":"kelp"}'
    runs = shown_runs(register, "digits")
    assert {key: run.status for key, run in runs.items()} == {
        done.id: "FINISHED",
        broken.id: "FAILED",
        running.id: "RUNNING",
        again.id: "SCHEDULED",
    }
    run = runs[done.id]
    assert run.name == done.id
    assert {name: run.params[name] for name in ("x", "opt.lr")} == {"x": "0", "opt.lr": "0.1"}
    assert len(run.params["name"]) == 6000
    assert run.params["name"].endswith("…")
    loss = sorted((one for one in run.metrics if one.name == "loss"), key=lambda one: (one.step, one.time))
    assert [one.step for one in loss[:2501]] == list(range(2501))
    assert (loss[-1].step, loss[-1].value) == (2500, 0.25)
    assert [one.value for one in run.metrics if one.name == "objective"] == [0.5]
    assert run.tags["moorage.result.word"] == "fine"
    assert run.tags["mlflow.user"] == "w"
    assert run.end is not None


def test_trials_that_wait_are_shown_where_that_is_wanted(
    storages: Callable[..., moorage.Storage], register: Register
) -> None:
    storage = storages(waiting=True)
    experiment = storage.create_experiment(name="digits")
    storage.register_trials(experiment, [{"x": number} for number in range(3)])
    storage.close()
    assert [run.status for run in register.runs_of("digits")] == ["SCHEDULED"] * 3


def test_what_is_deleted_goes_and_its_name_is_free(
    storages: Callable[..., moorage.Storage], register: Register
) -> None:
    for _ in range(2):
        storage = storages()
        experiment = storage.create_experiment(name="digits")
        storage.register_trials(experiment, [{"x": number} for number in range(3)])
        trials = [storage.reserve_trial(experiment) for _ in range(3)]
        storage.close()
        assert len(register.runs_of("digits")) == 3
        storage = storages()
        assert trials[0] is not None
        storage.delete_trials(experiment, where={"id": trials[0].id})
        storage.close()
        assert len(register.runs_of("digits")) == 2
        storage = storages()
        storage.delete_experiment(experiment)
        storage.close()
        assert [one.name for one in register.experiments.values() if one.active] == ["Moorage ledger"]


def test_the_users_own_experiments_and_runs_are_left_alone(
    storages: Callable[..., moorage.Storage], register: Register
) -> None:
    link = RegisterLink(register)
    theirs = link.create_experiment("digits", {"owner": "somebody"})
    their_run = link.create_run(theirs, "by hand", {"a": "b"}, 1)
    before = attrs.evolve(register.runs[their_run])
    storage = storages()
    experiment = storage.create_experiment(name="digits")
    storage.register_trials(experiment, [{"x": 1}])
    storage.reserve_trial(experiment)
    storage.close()
    assert register.experiments[theirs] == type(register.experiments[theirs])("digits", tags={"owner": "somebody"})
    assert register.runs[their_run] == before
    assert len(register.runs_of(f"digits ({experiment.id[:8]})")) == 1


def test_what_a_killed_process_did_not_draw_is_drawn_by_another(
    storages: Callable[..., moorage.Storage], register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = storages(settle=0.0)
    draws_nothing(killed)
    experiment = killed.create_experiment(name="digits")
    killed.register_trials(experiment, [{"x": 1}, {"x": 2}])
    first = killed.reserve_trial(experiment)
    assert first is not None
    killed.push_trial_results(first, {"objective": 0.5}, status="completed")
    killed.close()
    assert "digits" not in {one.name for one in register.experiments.values()}
    monkeypatch.setattr(moorage_mlflow.mirror, "_STRANGER", 1)
    other = storages(repair_after=0.05)
    other.fetch_trials(experiment)
    wait_until(lambda: _has(register, "digits") and register.runs_of("digits"))
    other.close()
    assert [run.status for run in register.runs_of("digits")] == ["FINISHED"]


def test_a_run_that_was_drawn_but_not_noted_is_found_again(
    storages: Callable[..., moorage.Storage], register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = storages(settle=0.0)
    draws_nothing(killed)
    experiment = killed.create_experiment(name="digits")
    killed.register_trials(experiment, [{"x": 1}])
    trial = killed.reserve_trial(experiment)
    assert trial is not None
    killed.close()
    link = RegisterLink(register)
    place = link.create_experiment("digits", {"moorage.experiment": experiment.id})
    link.create_run(place, trial.id, {"moorage.trial": trial.id}, 1)
    monkeypatch.setattr(moorage_mlflow.mirror, "_STRANGER", 1)
    other = storages(repair_after=0.05)
    other.fetch_trials(experiment)
    wait_until(lambda: "x" in register.runs_of("digits")[0].params)
    other.close()
    (run,) = register.runs_of("digits")
    assert run.params == {"x": "1"}


def test_a_fault_while_drawing_costs_nothing_but_time(
    storages: Callable[..., moorage.Storage], register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moorage_mlflow.mirror, "_RETRY", 0.01)
    storage = storages()
    link = storage.driver._link  # type: ignore[attr-defined]
    faults = itertools.cycle(["lost reply", None, "lost request", None, None])
    link.fault = lambda verb: next(faults) if verb in ("log_batch", "update_run", "tag_experiment") else None
    experiment = storage.create_experiment(name="digits")
    storage.register_trials(experiment, [{"x": number} for number in range(6)])
    for _ in range(6):
        trial = storage.reserve_trial(experiment)
        assert trial is not None
        storage.push_trial_results(trial, {"objective": trial.params["x"]}, status="completed")
    wait_until(lambda: _has(register, "digits") and sum(one.end is not None for one in register.runs_of("digits")) == 6)
    storage.close()
    runs = register.runs_of("digits")
    assert sorted(run.params["x"] for run in runs) == list("012345")
    assert {run.status for run in runs} == {"FINISHED"}


def draws_nothing(storage: moorage.Storage) -> None:
    """From now on nobody listens to what this storage would show in MLflow, as if it had been killed before."""
    drawing = {"create_experiment", "create_run", "log_batch", "update_run", "tag_experiment"}
    link = storage.driver._mirror._link  # type: ignore[attr-defined]
    link.fault = lambda verb: "refused connection" if verb in drawing else None


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def _has(register: Register, name: str) -> bool:
    return any(one.name == name for one in register.experiments.values())


@pytest.mark.parametrize(
    ("given", "expected"),
    [("lr", "lr"), ("a b", "a b"), ("", "_"), ("..", "__"), ("a/../b", "a____b"), ("/x", "_x"), ("x" * 300, "x" * 250)],
)
def test_names_are_made_such_that_mlflow_takes_them(given: str, expected: str) -> None:
    assert clean(given) == expected


def test_names_that_become_the_same_stay_apart() -> None:
    body = {"trial": "t", "status": "new", "params": {"a?": 1, "a!": 2, "a_": 3}, "submit_time": None}
    assert run_picture(Document("t@e", body)).params == {"a_": "1", "a__2": "2", "a__3": "3"}  # type: ignore[arg-type]


# URLs


def test_urls_and_options() -> None:
    backend = plugins().backend("mlflow+http")
    assert backend.name == "mlflow"
    assert backend.url is not None
    assert backend.url({"host": "::1", "port": 5000, "user": "a@b", "password": "p/w", "path": "ml"}) == (
        "mlflow+http://a%40b:p%2Fw@[::1]:5000/ml"
    )
    assert address("[::1]:80", "/ml/", secure=False) == ("::1", 80, "/ml")
    assert address("host", "", secure=True) == ("host", 443, "")
    with pytest.raises(ConfigurationError, match="port"):
        address("host:x", "", secure=False)
    for url in ("mlflow+http:///x", "mlflow+http://h?namespace=a%20b", "mlflow+sqlite:///", "mlflow+http://h?nope=1"):
        parsed = StorageURL.parse(url)
        with pytest.raises(ConfigurationError):
            plugins().backend(parsed.scheme).connect(parsed, {})


def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        moorage.connect("mlflow+http://user:s3cret@127.0.0.1:9", retry_timeout=0.1)


def test_the_plugin_is_light() -> None:
    code = (
        "import moorage_mlflow.plugin, moorage_mlflow.viewer, sys;"
        "print([name for name in ('mlflow', 'sqlalchemy', 'http.client', 'ssl') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
