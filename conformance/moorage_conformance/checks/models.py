"""Level 1: random sequences of calls, against the reference in memory and against the defaults of `Driver`."""

from __future__ import annotations

import abc
import contextlib
import datetime
import random as random_module
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs
import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from moorage import codec, connect
from moorage.config import find_settings, open_driver
from moorage.driver import Capability, Document, Driver, Increment, Refusal
from moorage.errors import MoorageError, UniqueViolation, shown
from moorage.filters import Comparison, Filter, Order, equal, lookup
from moorage.records import (
    AlgorithmState,
    Attempt,
    Benchmark,
    Experiment,
    Measurement,
    Resource,
    Trial,
    derive_trial_id,
)
from moorage.schema import SCHEMA
from moorage.statuses import ExperimentStatus, TrialStatus
from moorage_conformance.checking import SuiteError, Unjudged, Violation, check
from moorage_conformance.comparing import canonical
from moorage_conformance.target import ITEMS, ITEMS_SCHEMA, NOTES

if TYPE_CHECKING:
    from moorage import Storage
    from moorage.codec import Plain
    from moorage.schema import Collection
    from moorage_conformance.context import Context

SECONDS = 6.0
"""How long new sequences are tried, in seconds of work of this process: waiting does not count."""

WAITING = 20.0
"""Seconds for which they are tried at the most, waiting included, when there were enough of them."""

LEAST, MOST = 20, 400
"""How many sequences are tried; with fewer than the least nothing is known."""

PATIENCE = 200.0
"""Seconds after which a backend is too slow for the least; one behind a web server took 80 alone, and more than 120
beside other work."""

SHRINKING = 10.0
"""Seconds for which a sequence that fails is made smaller."""

STEPS = 25
"""How many steps a sequence has, of one call or a few."""

NUMBERS = st.integers(0, 2**24 - 1)
"""Of steps. Of larger ranges Hypothesis prefers the small numbers, and most sequences would be the same."""


# What is common to the machines


class _DifferenceError(AssertionError):
    """The sides are not the same."""


class _EnoughError(BaseException):
    """Ends the search; no exception that Hypothesis takes for a failure."""


@attrs.define
class _Search:
    """What the runs of a machine have in common.

    Attributes:
        context: of the check.
        began: when, on the monotonic clock.
        worked: how long this thread had worked then.
        examples: sequences that were begun.
        over: whether there was no more time; Hypothesis does not know why the last sequence ended early.
        failed: one that failed.
        finding: what was found in it.
    """

    context: Context
    began: float = attrs.field(factory=time.monotonic)
    worked: float = attrs.field(factory=time.thread_time)
    examples: int = 0
    over: bool = False
    failed: _Machine | None = None
    finding: str = ""

    def begin(self) -> None:
        """Count another sequence, or end the search."""
        passed, worked = time.monotonic() - self.began, time.thread_time() - self.worked
        enough = self.examples >= LEAST and (worked > SECONDS or passed > WAITING)
        self.over = enough or passed > PATIENCE or self.failed is not None
        if self.over:
            raise _EnoughError
        self.examples += 1


class _Call(abc.ABC):
    """A call that a machine has made, so that it can be made again."""

    @abc.abstractmethod
    def repeat(self, machine: Any) -> None:
        """Make it again, and compare the answers."""

    @abc.abstractmethod
    def lines(self) -> list[str]:
        """It as a user would write it."""

    def simpler(self) -> Iterator[_Call]:
        """Some calls that do less."""
        yield from ()


M = TypeVar("M", bound="_Machine")


@attrs.frozen
class _Action:
    """One kind of step, and how often it is taken."""

    weight: int
    function: Callable[[Any, _Draw], None]


def _action(weight: int) -> Callable[[Callable[[M, _Draw], None]], _Action]:
    return lambda function: _Action(weight, function)


class _Machine(RuleBasedStateMachine):
    """Makes the same calls on two sides and compares the answers.

    Hypothesis chooses the number of each step. What the step does is drawn from it and from what is stored: drawing all
    by Hypothesis takes ten times as long, and little of it concerns what is stored. So it cannot make a sequence that
    fails smaller either; `_smaller` does, by the calls that were made.
    """

    search: ClassVar[_Search]

    def __init__(self) -> None:
        super().__init__()
        self.search.begin()
        self.calls: list[_Call] = []
        self.actions: list[_Action] = []
        self.numbers: Counter[int] = Counter()

    def draw(self, number: int) -> _Draw:
        """What draws for a step; something else each time that Hypothesis repeats a number."""
        self.numbers[number] += 1
        return _Draw(f"{self.search.context.seed}/{number}/{self.numbers[number]}")

    @initialize(number=NUMBERS)
    def set_up(self, number: int) -> None:
        draw = self.draw(number)
        # Not all kinds of steps in each sequence: some faults show only where others do not interfere.
        known = [one for kind in type(self).__mro__ for one in vars(kind).values() if isinstance(one, _Action)]
        self.actions = [one for one in known if draw.random() < 0.7] or known
        self.empty()
        self.begin(draw)

    @classmethod
    def repeat(cls, calls: Sequence[_Call]) -> tuple[_Machine, str] | None:
        """Make calls again, from the beginning; the machine that came to a difference, and the difference."""
        machine = cls.__new__(cls)
        machine.calls = []
        machine.empty()
        try:
            for one in calls:
                one.repeat(machine)
        except _DifferenceError as error:
            return machine, str(error)
        except SuiteError:  # what fails on the reference as well shows nothing
            return None
        finally:
            machine.teardown()
        return None

    @abc.abstractmethod
    def empty(self) -> None:
        """Nothing is stored on either side."""

    @abc.abstractmethod
    def begin(self, draw: _Draw) -> None:
        """Store something to begin with."""

    @rule(number=NUMBERS)
    def step(self, number: int) -> None:
        draw = self.draw(number)
        draw.choices(self.actions, [one.weight for one in self.actions])[0].function(self, draw)

    def differ(self, finding: str) -> None:
        """The sides are not the same."""
        self.search.failed, self.search.finding = self, finding
        raise _DifferenceError(finding)

    def compare(self, reference: object, tested: object) -> None:
        """Both have given an answer."""
        if reference != tested:
            self.differ(f"expected {_shown(reference)}, got {_shown(tested)}")


def _shown(value: object) -> str:
    return f"{value!r:.700}"


def _smaller(machine: type[_Machine], calls: list[_Call], finding: str) -> tuple[list[_Call], str]:
    """As few and as simple calls as can be found in time that still come to a difference; and the difference."""
    ends = time.monotonic() + SHRINKING
    before: list[str] = []
    while before != (before := [line for one in calls for line in one.lines()]):
        for place in reversed(range(len(calls))):
            rest = calls[:place], calls[place + 1 :]
            variants: list[list[_Call]] = [[], *([one] for one in calls[place].simpler())]
            while variants and time.monotonic() < ends:
                variant = variants.pop(0)
                found = machine.repeat([*rest[0], *variant, *rest[1]])
                if found is None:
                    continue
                calls, finding = found[0].calls, found[1]
                if not variant or len(calls) <= place:
                    break
                rest = calls[:place], calls[place + 1 :]
                variants = [[one] for one in calls[place].simpler()]
            if len(calls) <= place:
                break
    return calls, finding


def _explore(context: Context, requirement: str, machine: type[_Machine]) -> None:
    """Try sequences until time is over or one fails; a failing one is made as small as time allows."""
    search = _Search(context)
    machine = type(machine.__name__, (machine,), {"search": search})
    hypothesis.seed(context.seed)(machine)
    limits = settings(
        database=None,
        deadline=None,
        derandomize=False,
        max_examples=MOST,
        phases=(Phase.generate,),
        print_blob=False,
        report_multiple_bugs=False,
        stateful_step_count=STEPS,
        suppress_health_check=list(HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    error: BaseException | None = None
    try:
        run_state_machine_as_test(machine, settings=limits)
    except _EnoughError:
        pass
    except (SuiteError, Violation):
        raise
    except Exception as raised:
        error = raised
    if search.failed is not None:
        calls, finding = _smaller(machine, search.failed.calls, search.finding)
        steps = "\n".join(f"  {line}" for one in calls for line in one.lines())
        raise Violation(requirement, f"{finding}, from the last of these calls:\n{steps}")
    if error is not None and not search.over:
        raise error
    if search.examples < LEAST:
        raise Unjudged(f"only {search.examples} sequences were tried in {PATIENCE:g} s, and {LEAST} mean something")


# Documents


class _UndoError(Exception):
    """Leaves a transaction."""


IDS = ("a", "b", "B", "é", "a ", "\U00010000", "c", "d", "e\u0301", "\uffff")
TEXTS: Mapping[str, Sequence[str | None]] = {
    "family": (None, "f", "F", "g"),
    "name": (None, "", "n", "N", "n ", "é", "e\u0301"),
    "tag": (None, "t", "T", "tu", "\uffff", "\U00010000"),
    "note": (None, "", "line\nbreak", '","flag":true', "n" * 300),
    "moment": (None, *(f"2024-05-01T10:00:00.00000{digit}+00:00" for digit in range(3))),
}
INTEGERS = (None, 0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63))
AMOUNTS = (None, 0, 1, -5, 2**40)
FLOATS = (None, 0.0, -0.0, 0.5, 1.0, -2.25, 5e-324, 2.0**53, 1.7976931348623157e308, -1e300)
FLAGS = (None, True, False)
DATA: Sequence[Any] = (
    *(None, {}, [], {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": None}, {"a": 0.5}, {"a": []}, [{"a": 1}]),
    *({"a": {"b": 2}}, {"a": {"b": "x"}, "a.b": 3}, {"a": {"b": None}}, {"b": 1, "a": 2, "c": [1, {"a": True}]}),
)
LABELS: Sequence[Any] = (None, ["x"], [], {}, {"k": "v"}, {"k": "w", "l": 2})
BEYOND: Sequence[Any] = (None, -0.0, 0, 1, 1.0, True, "", [[]], {"z": 1, "a": 2}, 2**63 - 1)

FIELDS: Mapping[str, Sequence[Any]] = {
    **TEXTS,
    "place": INTEGERS,
    "amount": AMOUNTS,
    "score": FLOATS,
    "flag": FLAGS,
    "data": DATA,
    "labels": LABELS,
}
KEY = ("family", "name")

_COMPARED: Mapping[str, Sequence[Any]] = {
    **TEXTS,
    "id": (*IDS, "none"),
    "revision": (1, 2, 3),
    "place": (*INTEGERS, 0.5, 1.0, 2.0**53),
    "amount": (*AMOUNTS, 2, 3, -4.5),
    "score": (*FLOATS, 0, 1, 2**53 + 1),
    "data.a": (None, 1, 0.5, "1", 2, True),
    "data.a.b": (None, 2, 3, "x"),
    "labels.k": (None, "v", "w"),
    "flag": FLAGS,
    "data": (None,),
    "labels": (None,),
}
_PATCHED = ("tag", "note", "place", "amount", "score", "flag", "moment", "data", "labels")


class _Draw(random_module.Random):
    """Draws what the calls are given; mostly such that it concerns the documents that are stored."""

    def value(self, field: str) -> Any:
        """For a body: mostly one of a few, so that comparisons match and unique keys collide."""
        values = FIELDS[field]
        return self.choice(values[:4] if self.random() < 0.6 else values)

    def body(self) -> dict[str, Plain]:
        """A body."""
        found: dict[str, Plain] = {name: self.value(name) for name in FIELDS if self.random() < 0.8}
        if self.random() < 0.3:
            found["beyond"] = self.choice(BEYOND)
        return found

    def document(self) -> Document:
        """A document of one of a few ids."""
        return Document(self.choice(IDS), self.body(), self.choice((1, 1, 7)))

    def some(self, most: int) -> list[Document]:
        """Some documents."""
        return [self.document() for _ in range(self.randint(1, most))]

    def comparison(
        self, stored: Sequence[Document], field: str | None = None, operator: str | None = None
    ) -> Comparison:
        """A comparison, mostly with what a stored document has."""
        field = field or self.choice(tuple(_COMPARED))
        near = self.choice(stored) if stored and self.random() < 0.7 else None

        def value() -> Any:
            if near is None or field in ("data", "labels"):
                return self.choice(_COMPARED[field])
            return {"id": near.id, "revision": near.revision}.get(field, lookup(near.body, field))

        compared = value()
        if isinstance(compared, (list, dict)):
            compared = None
        known: tuple[str, ...] = ("=", "=", "=", "!=", "in")
        if not isinstance(compared, bool) and field not in ("flag", "data", "labels"):
            known += ("<", "<=", ">", ">=")
        operator = operator or self.choice(known)
        if operator == "in":
            others = self.choices(_COMPARED[field], k=self.randrange(3))
            compared = tuple(self.sample([compared, *others], len(others) + 1)) if self.random() < 0.9 else ()
        return Comparison(field, operator, compared)  # type: ignore[arg-type]  # one of them

    def filter(self, stored: Sequence[Document]) -> Filter:
        """What the declared indexes serve, or anything."""
        prefix = self.choice(((), (), ("family",), ("family", "flag"), ("family", "tag"), ("tag",)))
        near = [self.choice(stored)] if stored else []
        found = [self.comparison(near, field, "=") for field in prefix]
        found += [self.comparison(near if self.random() < 0.7 else stored) for _ in range(self.choice((0, 1, 1, 2, 3)))]
        return tuple(found if self.random() < 0.7 else self.sample(found, len(found)))

    def order(self) -> list[Order]:
        """Some fields to sort by."""
        fields = self.sample([*TEXTS, "place", "amount", "score"], self.choice((0, 1, 1, 2)))
        down = self.random() < 0.5
        return [Order(field, down if self.random() < 0.7 else not down) for field in fields]

    def total(self) -> list[Order]:
        """An order in which no two documents are equal."""
        order = self.order()
        return [*order, Order("id", self.choice((order[0].descending if order else False, self.random() < 0.5)))]

    def experiment(self) -> str:
        """The id of an experiment, mostly of one that there is."""
        return self.choice((*EXPERIMENTS[:1] * 6, *EXPERIMENTS[1:2] * 3, *EXPERIMENTS))

    def part(self, fields: dict[str, Any], share: float = 0.4) -> dict[str, Any]:
        """Some of these fields."""
        return {name: value for name, value in fields.items() if self.random() < share}

    def limit(self) -> int | None:
        """Mostly none."""
        return self.choice((None, None, 0, 1, 2, 3))

    def changes(self, *, key: bool = False) -> dict[str, Any]:
        """Changes of some fields; with ``key`` of those of the unique key, too."""
        names = self.sample(_PATCHED, self.choice((0, 1, 1, 2, 3)))
        found: dict[str, Any] = {name: self.value(name) for name in names}
        if self.random() < 0.4:
            found["amount"] = Increment(self.choice((1, -1, 0, 10**6)))
        if key:
            found |= {name: self.value(name) for name in KEY if self.random() < 0.4}
        return found


_WRITES = ("insert", "swap", "delete", "patch", "patch_one", "claim", "replace", "take_over")
_PRIMITIVES = ("get", "count", "tally", "patch", "claim")


class _Side:
    """A driver, of which some primitives may be replaced by the defaults.

    Args:
        open_: opens it.
        defaults: the primitives that are replaced.
    """

    def __init__(self, open_: Callable[[], Driver], defaults: Sequence[str] = ()) -> None:
        self._open = open_
        self.defaults = defaults
        self.driver = open_()

    def reopen(self) -> None:
        """Close it and open it again."""
        self.driver.close()
        self.driver = self._open()

    def empty(self) -> None:
        """Delete all documents."""
        for collection in (ITEMS, NOTES):
            self.driver.delete(collection, ())

    def call(self, verb: str, *arguments: Any) -> Any:
        """Call a primitive; a key that is taken is an answer."""
        try:
            if verb in self.defaults:
                return getattr(Driver, verb)(self.driver, *arguments)
            return getattr(self.driver, verb)(*arguments)
        except UniqueViolation as error:
            return "UniqueViolation", tuple(error.key)


@attrs.frozen
class _Primitive(_Call):
    """A call of a primitive."""

    verb: str
    arguments: tuple[Any, ...]
    ties: bool = False

    def repeat(self, machine: _DriverMachine) -> None:
        if self.ties:
            machine.same_but_for_ties(*self.arguments[1:])
        else:
            machine.same(self.verb, *self.arguments)

    def lines(self) -> list[str]:
        return [f"driver.{self.verb}({', '.join(map(_written, self.arguments))})"]

    def simpler(self) -> Iterator[_Call]:
        if len(self.arguments) < 2 or not isinstance(self.arguments[1], (list, tuple)):
            return
        collection, some, *rest = self.arguments
        for place, one in enumerate(some):
            if isinstance(one, Comparison) and one.field == "id":  # what makes sure that one document is changed
                continue
            yield attrs.evolve(self, arguments=(collection, (*some[:place], *some[place + 1 :]), *rest))
            for name in one.body if isinstance(one, Document) else ():
                body = {other: value for other, value in one.body.items() if other != name}
                less = (*some[:place], Document(one.id, body), *some[place + 1 :])
                yield attrs.evolve(self, arguments=(collection, less, *rest))


@attrs.frozen
class _Transaction(_Call):
    """Calls in a transaction."""

    calls: list[_Call]
    left: bool

    def repeat(self, machine: _DriverMachine) -> None:
        with machine.together(left=self.left):
            for one in self.calls:
                one.repeat(machine)

    def lines(self) -> list[str]:
        found = ["with driver.transaction():", *(f"    {line}" for one in self.calls for line in one.lines())]
        return [*found, "    raise Exception"] if self.left else found

    def simpler(self) -> Iterator[_Call]:
        for place in range(len(self.calls)):
            yield _Transaction([*self.calls[:place], *self.calls[place + 1 :]], self.left)
        for place, one in enumerate(self.calls):
            for less in one.simpler():
                yield _Transaction([*self.calls[:place], less, *self.calls[place + 1 :]], self.left)


@attrs.frozen
class _Reopening(_Call):
    """Closing, and opening again."""

    def repeat(self, machine: _DriverMachine) -> None:
        machine.calls.append(self)
        machine.tested.reopen()

    def lines(self) -> list[str]:
        return ["driver.close(); driver = open_again()"]


class _DriverMachine(_Machine):
    reference: ClassVar[_Side]
    tested: ClassVar[_Side]

    def empty(self) -> None:
        """Delete all documents."""
        self.reference.empty()
        self.tested.empty()

    def begin(self, draw: _Draw) -> None:
        """Insert some documents."""
        sides = self.reference, self.tested
        self.transactional = all(Capability.TRANSACTIONS in one.driver.capabilities for one in sides)
        self.same("insert", ITEMS, draw.some(9))
        self.look()

    def both(self, call: _Primitive) -> tuple[Any, Any]:
        """The answers of both sides, once they are in the same form."""
        verb, arguments = call.verb, call.arguments
        self.calls.append(call)
        answers: list[Any] = []
        for side in (self.reference, self.tested):
            try:
                answers.append(_plain(arguments[0], side.call(verb, *arguments)))
            except Exception as error:
                if side is self.reference:
                    raise SuiteError(f"the reference fails at {call.lines()[0]}: {error!r}") from error
                self.differ(f"expected {_shown(answers[0])}, and it raised {type(error).__name__}: {error}")
        return answers[0], answers[1]

    def same(self, verb: str, *arguments: Any) -> Any:
        """The answer that both sides have given."""
        reference, tested = self.both(_Primitive(verb, arguments))
        self.compare(reference, tested)
        return tested

    def same_but_for_ties(self, where: Filter, order: Sequence[Order], limit: int | None) -> None:
        """Equals come in any order, so that only the values by which they are ordered are compared."""
        reference, tested = self.both(_Primitive("find", (ITEMS, where, order, limit), ties=True))
        if limit is None:
            self.compare(sorted(reference), sorted(tested))
        fields = {one.field for one in order}
        keys = [[[pair for pair in one[2] if pair[0] in fields] for one in found] for found in (reference, tested)]
        self.compare(*keys)
        allowed = _plain(ITEMS, self.reference.driver.find(ITEMS, where))
        if any(one not in allowed for one in tested) or len(set(tested)) < len(tested):
            self.differ(f"expected documents out of {_shown(allowed)}, each once, got {_shown(tested)}")

    @contextlib.contextmanager
    def together(self, *, left: bool) -> Iterator[None]:
        """A transaction on both sides; an exception leaves it where ``left``."""
        before, self.calls = self.calls, []
        try:
            with (
                contextlib.suppress(_UndoError),
                self.reference.driver.transaction(),
                self.tested.driver.transaction(),
            ):
                yield
                if left:
                    raise _UndoError
        finally:
            self.calls = [*before, _Transaction(self.calls, left)]

    def look(self) -> None:
        """Compare all that is stored."""
        self.same("find", ITEMS, (), [Order("id")])

    @property
    def stored(self) -> list[Document]:
        """What the reference has."""
        return self.reference.driver.find(ITEMS, (), [Order("id")])

    def write(self, draw: _Draw, verb: str) -> None:
        """A write of one kind."""
        stored = self.stored
        if verb == "insert":
            self.same("insert", ITEMS, draw.some(5))
        elif verb == "swap":
            document = draw.document()
            revision = next((one.revision for one in stored if one.id == document.id), 1)
            self.same("swap", ITEMS, document, revision + draw.choice((0, 0, 0, 0, 1, -1)))
        elif verb == "delete":
            self.same("delete", ITEMS, draw.filter(stored))
        elif verb == "patch":
            self.same("patch", ITEMS, draw.filter(stored), draw.changes())
        elif verb == "patch_one":
            # Of one document, because what several do to a unique key depends on their order.
            where = (*equal(id=draw.choice(IDS)), *(draw.filter(stored) if draw.random() < 0.5 else ()))
            self.same("patch", ITEMS, where, draw.changes(key=True))
        elif verb == "replace":
            document = draw.document()
            self.same("delete", ITEMS, equal(id=document.id))
            self.same("insert", ITEMS, [document])
        elif verb == "take_over":
            keyed = [one for one in stored if None not in (one.body.get(name) for name in KEY)]
            if keyed:
                owner, document = draw.choice(keyed), draw.document()
                name = draw.choice(KEY)
                self.same("patch", ITEMS, equal(id=owner.id), {name: draw.choice((None, draw.value(name)))})
                document.body |= {one: owner.body[one] for one in KEY}
                self.same("insert", ITEMS, [document])
        else:
            self.same("claim", ITEMS, draw.filter(stored), draw.changes(key=draw.random() < 0.5), draw.total())

    @_action(12)
    def write_and_look(self, draw: _Draw) -> None:
        self.write(draw, draw.choice((*_WRITES, "claim", "patch_one")))
        self.look()
        if stored := sorted(self.stored, key=lambda one: one.revision)[-4:]:
            # By an index, a tally and an id, which a write may forget to bring up to date.
            body = draw.choice(stored).body
            where = equal(family=body.get("family"), flag=body.get("flag"))
            self.same("find", ITEMS, where, [Order("place"), Order("id")], draw.limit())
            self.same("count", ITEMS, equal(family=body.get("family"), tag=body.get("tag")))
        self.same("get", ITEMS, draw.choice(IDS))

    @_action(6)
    def find(self, draw: _Draw) -> None:
        stored = self.stored
        for _ in range(3):
            where = draw.filter(stored)
            self.same("find", ITEMS, where, draw.total(), draw.limit())
            self.same("count", ITEMS, where)

    @_action(3)
    def find_with_ties(self, draw: _Draw) -> None:
        self.same_but_for_ties(draw.filter(self.stored), draw.order(), draw.limit())

    @_action(3)
    def tally(self, draw: _Draw) -> None:
        self.same("tally", ITEMS, draw.filter(self.stored), draw.choice((*TEXTS, "place", "amount", "flag", "labels")))
        family, tag = draw.value("family"), draw.value("tag")
        self.same("tally", ITEMS, equal(family=family), "tag")
        self.same("count", ITEMS, equal(family=family, tag=tag))
        self.same("get", ITEMS, draw.choice(IDS))

    @_action(1)
    def use_another_collection(self, draw: _Draw) -> None:
        bodies = [{"title": draw.value("name"), "place": draw.value("place")} for _ in range(draw.randint(1, 3))]
        self.same("insert", NOTES, [Document(draw.choice(IDS), body) for body in bodies])
        self.same("delete", NOTES, equal(title=draw.value("name")))
        self.same("find", NOTES, (), [Order("id")])
        self.look()

    @_action(3)
    def transact(self, draw: _Draw) -> None:
        if not self.transactional:
            return
        with self.together(left=draw.random() < 0.5):
            for _ in range(draw.randint(1, 5)):
                self.write(draw, draw.choice(_WRITES))
                if draw.random() < 0.5:
                    self.look()
        self.look()

    @_action(1)
    def reopen(self, draw: _Draw) -> None:
        del draw
        _Reopening().repeat(self)
        self.look()


def _plain(collection: Collection, answer: Any) -> Any:
    """An answer in a form in which equal ones are equal."""
    if isinstance(answer, Document):
        return canonical(collection, answer)
    if isinstance(answer, list) and answer and isinstance(answer[0], Refusal):
        return sorted((one.position, one.id, tuple(one.key)) for one in answer)
    if isinstance(answer, list):
        return [_plain(collection, one) for one in answer]
    if isinstance(answer, dict):
        return {(type(value).__name__, value): count for value, count in answer.items()}
    return answer


def _written(argument: object) -> str:
    """An argument as one would write it."""
    if argument is ITEMS or argument is NOTES:
        return "ITEMS" if argument is ITEMS else "NOTES"
    return repr(argument)


@check("DRIVER-1", limit=300)
def sequences_do_what_they_do_in_memory(context: Context) -> None:
    """Makes random calls of all primitives on the driver and on the reference in memory, and compares the answers."""
    context.open()
    sides = {
        "reference": _Side(lambda: open_driver(find_settings("memory://"), schema=ITEMS_SCHEMA)[0]),
        "tested": _Side(context.open),
    }
    _explore(context, "DRIVER-1", type("DriverMachine", (_DriverMachine,), sides))


@check("DRIVER-2", limit=300)
def overrides_do_what_the_defaults_do(context: Context) -> None:
    """Makes random calls on a driver, and on one whose overrides are replaced by the defaults of `Driver`."""
    driver = context.open()
    overridden = [
        name for name in _PRIMITIVES if getattr(getattr(driver, name), "__func__", None) is not getattr(Driver, name)
    ]
    if not overridden:
        return
    url = context.fresh_url()
    sides = {"reference": _Side(lambda: context.open(url), overridden), "tested": _Side(context.open)}
    _explore(context, "DRIVER-2", type("OverrideMachine", (_DriverMachine,), sides))


# The storage protocol

EXPERIMENTS = ("e1", "e2", "e3")
MOMENTS = tuple(datetime.datetime(2024, 5, day, 12, 30, 0, 1, datetime.UTC) for day in (1, 2, 3))
PARAMS: Sequence[Mapping[str, object]] = (
    *({"x": 0.5}, {"x": 1}, {"x": 1.0}, {"x": True}, {"x": "é"}, {"x": "e\u0301"}, {"x": [1, 2]}, {"x": None}),
    *({"x": {"y": 1}}, {"x": 2**70, "z": b"\x00"}, {"x": float("inf")}, {"x": -3, "x.y": 2}, {}),
)
RESULTS: Sequence[Mapping[str, object]] = (
    *({"objective": 0.5}, {"objective": 0.5, "loss": [1, 2]}, {"objective": -1}, {"objective": float("nan")}),
    *({"objective": float("inf")}, {"accuracy": 0.9}, {}, {"objective": 1e300, "note": "é"}),
)
METADATA: Sequence[Mapping[str, object]] = (
    *({}, {"a": (1, 2.0, float("nan"))}, {"a": {1: b"x"}, "b": {3}}, {"t": MOMENTS[0], "big": 2**80}),
)
STATES: Sequence[object] = (
    None,
    0,
    "y" * 20_000,
    {"a": [1, 2.5, True]},
    "x" * 20_000,
    [float("nan"), b"\xff"],
    {"seed": 2**64},
)
WORKERS = ("w1", "w2")
ERRORS = (None, "why", "e" * 20_000)
QUERIES: Sequence[Mapping[str, object] | None] = (
    *(None, {}, {"status": "new"}, {"status": {"$in": ["new", "interrupted"]}}, {"status": {"$ne": "completed"}}),
    *({"status": {"$nin": ["broken", "new"]}}, {"objective": {"$lt": 0.5}}, {"objective": {"$gte": 0.5}}),
    *({"objective": None}, {"objective": {"$gt": -1, "$lte": 0.5}}, {"params.x": 1}, {"params.x": True}),
    *({"params.x": {"$gt": 0}}, {"params.x.y": {"$in": [1, 2, None]}}, {"params.x": {"$in": ["é", 0.5]}}),
    *({"results.accuracy": {"$gt": 0.5}}, {"worker": "w1"}, {"worker": None}, {"token": {"$gte": 1}}, {"error": None}),
    *({"id": derive_trial_id({"x": 1})}, {"id": {"$in": [derive_trial_id({"x": 1}), derive_trial_id({}), "none"]}}),
    *({"status": "reserved", "worker": "w2"}, {"status": "completed", "objective": {"$lte": 1e300}}, {"nothing": 1}),
    *({"status": {"$like": "n%"}}, {"token": "one"}),
)
ORDERS: Sequence[Any] = (
    *(None, "objective", "-objective", ["status", "-objective"], ["worker", "-token"], "-sequence", "id", "nothing"),
)
SELECTIONS = (None, None, ("id", "status", "params.x"), ("objective", "results.objective", "token"))


@attrs.frozen
class _Pair:
    """A record that each side has returned."""

    reference: Any
    tested: Any


_TIMES = {
    Trial: ("submit_time", "start_time", "end_time", "heartbeat"),
    Experiment: ("started", "ended"),
    Attempt: ("started", "ended"),
    Resource: ("heartbeat",),
    AlgorithmState: ("acquired", "heartbeat", "age"),
}
_RANDOM = {AlgorithmState: ("holder",)}
_RECORDS = (Trial, Experiment, Attempt, Resource, AlgorithmState, Benchmark, Measurement)


def _neutral(answer: Any) -> Any:
    """An answer without what is different each time: times of now, and names made of chance."""
    kind = type(answer)
    if kind in _RECORDS:
        found: list[tuple[str, Any]] = []
        for field in attrs.fields(kind):
            value = getattr(answer, field.name)
            if value is not None and field.name in (*_TIMES.get(kind, ()), *_RANDOM.get(kind, ())):
                value = "something"
            elif field.name in ("lease", "ttl", "heartbeat_timeout", "value") and isinstance(value, (int, float)):
                value = float(value) + 0.0
            found.append((field.name, _neutral(value)))
        return kind.__name__, tuple(found)
    if isinstance(answer, str):
        return re.sub(r"no heartbeat for \d+ s", "no heartbeat for some time", str.__str__(answer))
    if isinstance(answer, list):
        return [_neutral(one) for one in answer]
    if isinstance(answer, Mapping):
        told = tuple(answer.types.items()) if hasattr(answer, "types") else ()
        return [(_neutral(name), _neutral(value)) for name, value in answer.items()], told
    if isinstance(answer, (bool, int)) or answer is None:
        return answer
    return codec.dumps(codec.encode(answer))


@attrs.frozen
class _Verb(_Call):
    """A call of a verb of the protocol, or a few."""

    written: str
    call: Callable[[Storage, Callable[[Any], Any]], Any]

    def repeat(self, machine: _StorageMachine) -> None:
        machine.on_both(self.written, self.call)

    def lines(self) -> list[str]:
        return [self.written]


class _StorageMachine(_Machine):
    tested: ClassVar[Storage]

    def empty(self) -> None:
        """Both sides have nothing."""
        self.reference = connect("memory://")
        for collection in SCHEMA.collections:
            self.tested.driver.delete(collection, ())

    def begin(self, draw: _Draw) -> None:
        """Both sides have two experiments and some trials."""
        self.held: list[_Pair] = []
        self.taken: list[_Pair] = []
        self.measured = 0
        for place, identifier in enumerate(EXPERIMENTS[:2]):
            self.same(
                "create_experiment",
                id=identifier,
                name=draw.choice(("a", "A")),
                version=place + 1,
                user="u",
                created=MOMENTS[place],
                algorithm={"random": {"seed": 1}},
            )
            self.same("register_trials", identifier, draw.sample(PARAMS, 4), duplicates="skip")
            for number in range(4):
                given, results = {"number": number}, draw.choice(RESULTS)
                record = Trial(params=given, results=results, status="completed", submit_time=MOMENTS[0])
                self.same("register_trial", identifier, record)
        for _ in range(3):
            self.hold(self.same("reserve_trial", "e1", draw.choice(WORKERS)))

    def teardown(self) -> None:
        if hasattr(self, "reference"):
            self.reference.close()

    # Calls

    def on_both(self, written: str, call: Callable[[Storage, Callable[[Any], Any]], Any]) -> _Pair:
        """Do something on both sides and compare; each side gets its own records for pairs."""
        self.calls.append(_Verb(written, call))
        raw: list[Any] = []
        answers: list[Any] = []
        for name, storage in (("reference", self.reference), ("tested", self.tested)):

            def own(value: Any, name: str = name) -> Any:
                return getattr(value, name) if isinstance(value, _Pair) else value

            try:
                answer = call(storage, own)
                if isinstance(answer, Iterator):
                    answer = list(answer)
                raw.append(answer)
                answers.append(_neutral(answer))
            except MoorageError as error:
                raw.append(None)
                answers.append(type(error).__name__)
            except Exception as error:
                if name == "reference":
                    raise SuiteError(f"the reference fails at {written}: {error!r}") from error
                self.differ(f"expected {_shown(answers[0])}, and it raised {type(error).__name__}: {error}")
        self.compare(*answers)
        return _Pair(*raw)

    def same(self, verb: str, *arguments: Any, **fields: Any) -> _Pair:
        """Call a verb of the protocol on both sides."""
        given = [*map(_argument, arguments), *(f"{name}={_argument(value)}" for name, value in fields.items())]
        return self.on_both(
            f"storage.{verb}({', '.join(given)})",
            lambda storage, own: getattr(storage, verb)(
                *map(own, arguments), **{name: own(value) for name, value in fields.items()}
            ),
        )

    def look(self, experiment: str = EXPERIMENTS[0]) -> None:
        """Compare the trials of an experiment."""
        self.same("fetch_trials", experiment)
        self.same("count_trials", experiment)

    def hold(self, pair: _Pair) -> None:
        """Remember trials that were returned, as their holder does."""
        for reference, tested in zip(_listed(pair.reference), _listed(pair.tested), strict=False):
            self.held = [_Pair(reference, tested), *self.held][:6]

    def trial(self, draw: _Draw) -> tuple[Any, dict[str, Any]]:
        """How a trial is named: by a record that was returned before, or by its id."""
        if self.held and draw.random() < 0.6:
            return draw.choice(self.held), {}
        identifier = derive_trial_id(draw.choice(PARAMS))
        return identifier, {} if draw.random() < 0.4 else {"experiment_uid": draw.experiment()}

    # Experiments and benchmarks

    @_action(2)
    def create_experiment(self, draw: _Draw) -> None:
        self.same(
            "create_experiment",
            id=draw.choice(EXPERIMENTS),
            name=draw.choice(("a", "A", "b", "é")),
            version=draw.randint(1, 2),
            user=None,
            metadata=draw.choice(METADATA),
            created=draw.choice(MOMENTS),
            exist_ok=draw.random() < 0.5,
        )
        self.same("fetch_experiments")

    @_action(3)
    def update_experiment(self, draw: _Draw) -> None:
        experiment = draw.experiment()
        fields = draw.part(
            {
                "name": draw.choice(("a", "A", "b")),
                "version": draw.randint(1, 2),
                "status": draw.choice(tuple(ExperimentStatus)),
                "metadata": draw.choice(METADATA),
                "max_trials": draw.choice((None, 3)),
            }
        )
        others = [one for one in self.reference.fetch_experiments() if one.id != experiment]
        if others and draw.random() < 0.3:
            fields |= {"name": others[0].name, "version": others[0].version}
        where = draw.choice((None, None, {"status": "running"}, {"version": {"$lt": 2}}))
        self.same("update_experiment", experiment, where, force=draw.random() < 0.5, **fields)
        if draw.random() < 0.5:
            self.same("log_error", experiment, draw.choice(("first", "second", "e" * 20_000)))
            self.same("start_experiment", experiment)
            self.same("end_experiment", experiment, draw.choice(("finished", "stopped", "failed", "running")))
        query = draw.choice(
            (
                None,
                {"name": "a"},
                {"version": {"$gte": 2}},
                {"status": {"$ne": "created"}},
                {"metadata.a": None},
                {"x": 1},
            )
        )
        self.same("fetch_experiments")
        self.same("fetch_experiments", query, draw.choice((None, ["id", "name", "status"])))

    @_action(1)
    def delete_experiment(self, draw: _Draw) -> None:
        experiment = draw.choice(EXPERIMENTS)
        self.same("delete_experiment", experiment)
        self.same("get_experiment", experiment)
        self.same("fetch_measurements", experiment=experiment)
        self.same("get_algorithm_lock_info", experiment)
        self.look(experiment)

    @_action(1)
    def change_benchmarks(self, draw: _Draw) -> None:
        identifier, name = draw.choice(("b1", "b2")), draw.choice(("a", "b", "B"))
        self.same("create_benchmark", id=identifier, name=name, targets=[1, ("x",)], created=MOMENTS[0])
        if draw.random() < 0.5:
            self.same("delete_benchmark", draw.choice(("b1", "b2")))
        self.same("fetch_benchmark", {"name": {"$in": ["a", "b"]}})

    # Trials

    @_action(3)
    def register_trials(self, draw: _Draw) -> None:
        params = draw.choices(PARAMS, k=draw.randint(1, 5))
        self.hold(self.same("register_trials", draw.experiment(), params, duplicates=draw.choice(("raise", "skip"))))
        if draw.random() < 0.6:
            record = Trial(
                params=draw.choice(PARAMS),
                results=draw.choice(RESULTS),
                status=draw.choice(("completed", "completed", "completed", "broken", "new", "reserved")),
                submit_time=MOMENTS[1],
                end_time=MOMENTS[2],
            )
            self.hold(self.same("register_trial", draw.experiment(), record))
        self.look()

    @_action(5)
    def reserve_and_push(self, draw: _Draw) -> None:
        resource = draw.choice((None, "gpu"))
        self.hold(self.same("reserve_trial", draw.experiment(), draw.choice(WORKERS), resource))
        if self.held and draw.random() < 0.7:
            status, error = draw.choice((None, "completed", "completed", "broken", "new")), draw.choice(ERRORS)
            self.same("push_trial_results", self.held[0], draw.choice(RESULTS), status=status, error=error)
        self.look()

    @_action(5)
    def change_trial(self, draw: _Draw) -> None:
        trial, where = self.trial(draw)
        verb = draw.choice(("push", "status", "update", "update", "heartbeat"))
        if verb == "push":
            status = draw.choice((None, "completed", "broken"))
            self.same("push_trial_results", trial, draw.choice(RESULTS), status=status, **where)
        elif verb == "status":
            was, status = draw.choice((None, *TrialStatus)), draw.choice(tuple(TrialStatus))
            self.same("set_trial_status", trial, status, was=was, force=draw.random() < 0.4, **where)
        elif verb == "heartbeat":
            self.same("update_heartbeat", trial, **where)
        else:
            fields = draw.part(
                {
                    "status": draw.choice(tuple(TrialStatus)),
                    "results": draw.choice(RESULTS),
                    "worker": draw.choice((None, *WORKERS)),
                    "end_time": draw.choice((None, *MOMENTS)),
                    "error": draw.choice(("", *ERRORS)),
                }
            )
            query, force = draw.choice((None, None, *QUERIES)), draw.random() < 0.4
            self.hold(self.same("update_trial", trial, query, force=force, **fields, **where))
        self.look()

    @_action(4)
    def change_trials(self, draw: _Draw) -> None:
        experiment = draw.experiment()
        if draw.random() < 0.3:
            self.same("delete_trials", experiment, draw.choice(QUERIES[2:]))
        else:
            fields = draw.part(
                {"status": draw.choice(tuple(TrialStatus)), "worker": draw.choice((None, *WORKERS)), "parent": "p"}, 0.6
            )
            force = draw.random() < 0.5
            self.same("update_trials", experiment, draw.choice(QUERIES), force=force, **fields)
        self.look(experiment)

    @_action(2)
    def lose_trials(self, draw: _Draw) -> None:
        """A reserved trial without any heartbeat counts as lost, whatever clock the storage has."""
        experiment = draw.experiment()
        trial, where = self.trial(draw)
        self.same("update_trial", trial, {"status": "reserved"}, heartbeat=None, **where)
        self.same("fetch_lost_trials", experiment)
        if draw.random() < 0.6:
            self.same("recover_lost_trials", experiment)
        self.look(experiment)

    @_action(5)
    def query_trials(self, draw: _Draw) -> None:
        experiment = draw.experiment()
        for _ in range(3):
            where, order = draw.choice(QUERIES), draw.choice(ORDERS)
            self.same("fetch_trials", experiment, where, draw.choice(SELECTIONS), order, draw.limit())
            self.same("count_trials", experiment, where=where if where is not None else {})
        self.same("best_trial", experiment, draw.random() < 0.5)
        self.same("iterate_trials", experiment, draw.choice(QUERIES), batch=2)
        trial, named = self.trial(draw)
        self.hold(self.same("get_trial", trial, **named))
        self.same("retrieve_result", trial, **named)

    @_action(3)
    def query_by_status(self, draw: _Draw) -> None:
        experiment = draw.experiment()
        self.same("fetch_trials_by_status", experiment, draw.choice(tuple(TrialStatus)))
        self.same("fetch_pending_trials", experiment)
        self.same("fetch_noncompleted_trials", experiment)
        self.same("count_completed_trials", experiment)
        self.same("count_broken_trials", experiment)
        self.same("best_trial", experiment, draw.random() < 0.5)

    # Attempts and measurements

    @_action(2)
    def attempt(self, draw: _Draw) -> None:
        trial, where = self.trial(draw)
        self.same("start_attempt", trial, "gpu", **where)
        if draw.random() < 0.6:
            self.same("end_attempt", trial, draw.choice(("completed", "broken")), "why", **where)
        self.same("fetch_attempts", trial, **where)

    @_action(2)
    def measure(self, draw: _Draw) -> None:
        trial, where = self.trial(draw)
        given: list[Measurement] = []
        for _ in range(draw.randrange(5)):
            self.measured += draw.random() < 0.9  # or else the id of an older one
            given.append(
                Measurement(
                    id=f"m{self.measured}",
                    name=draw.choice(("loss", "Loss")),
                    value=draw.choice((0.5, -0.0, float("nan"), float("-inf"), 1e-320)),
                    step=draw.randrange(4),
                    time=draw.choice(MOMENTS),
                )
            )
        self.same("add_measurements", trial, given, **where)
        self.same("fetch_measurements", trial, **where)
        query = draw.choice((None, {"step": {"$gte": 1, "$lt": 3}}, {"value": {"$lt": 0.5}}, {"attempt": 0}))
        self.same("fetch_measurements", experiment=draw.experiment(), name=draw.choice((None, "loss")), where=query)

    # Resources

    @_action(2)
    def change_resources(self, draw: _Draw) -> None:
        identifier = draw.choice(("r1", "r2", "r3"))
        if draw.random() < 0.7:
            name, kind = draw.choice(("gpu0", "gpu1", "GPU0")), draw.choice(("gpu", "cpu"))
            self.same("add_resource", id=identifier, name=name, kind=kind, labels=draw.choice(METADATA))
        else:
            self.same("remove_resource", identifier)
        self.same("fetch_resources")

    @_action(3)
    def use_resources(self, draw: _Draw) -> None:
        kind, identifier = draw.choice((None, "gpu", "gpu", "cpu")), draw.choice((None, None, "r1", "r2"))
        taken = self.same("take_resource", kind, draw.choice(WORKERS), 600, id=identifier)
        if taken.reference is not None and taken.tested is not None:
            self.taken = [taken, *self.taken][:4]
        if draw.random() < 0.6:
            given = draw.choice(self.taken) if self.taken else "r1"
            holder = draw.choice((None, *WORKERS)) if self.taken else "w1"
            self.same(draw.choice(("renew_resource", "free_resource", "free_resource")), given, holder)
        if draw.random() < 0.2:
            self.same("free_resources", draw.choice(WORKERS))
        self.same("fetch_resources", kind, draw.choice((None, True, False)))
        self.same("fetch_resources")

    # The algorithm lock

    @_action(4)
    def hold_lock(self, draw: _Draw) -> None:
        experiment, state = draw.experiment(), draw.choice(STATES)
        way = draw.choice(("save", "save", "save", "save", "release", "fail", "delete", "break"))

        def hold(storage: Storage, own: Callable[[Any], Any]) -> list[object]:
            del own
            seen: list[object] = []
            with contextlib.suppress(_UndoError), storage.acquire_algorithm_lock(experiment, timeout=5) as lock:
                seen += [lock.state, lock.token, lock.configuration, lock.locked]
                try:
                    with storage.acquire_algorithm_lock(experiment, timeout=0):
                        seen.append("held twice")
                except MoorageError as error:
                    seen.append(type(error).__name__)
                info = storage.get_algorithm_lock_info(experiment)
                seen += [info.locked, info.token, info.state]
                lock.set_state(state)
                if way == "release":
                    storage.release_algorithm_lock(experiment, {"released": True})
                elif way == "fail":
                    raise _UndoError
                elif way == "delete":
                    seen.append(storage.delete_algorithm_lock(experiment))
                elif way == "break":
                    seen.append(storage.break_algorithm_lock(experiment))
            return seen

        self.on_both(f"# the lock of {experiment!r} is held, and {shown(state)} set; at the end: {way}", hold)
        self.same("get_algorithm_lock_info", experiment)

    @_action(1)
    def change_lock(self, draw: _Draw) -> None:
        experiment = draw.experiment()
        verbs = ("initialize", "initialize", "break", "delete", "release")
        self.same(f"{draw.choice(verbs)}_algorithm_lock", experiment)
        self.same("get_algorithm_lock_info", experiment)


def _listed(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer] if isinstance(answer, Trial) else []


def _argument(value: object) -> str:
    if isinstance(value, _Pair):
        record = value.reference
        return f"<{type(record).__name__} {record.id!r:.40} as returned with token {record.token}>"
    return f"{value!r:.200}"


@check("STORAGE-1", limit=300)
def the_protocol_does_what_it_does_in_memory(context: Context) -> None:
    """Makes random calls of the storage protocol on this backend and on the reference, and compares the answers."""
    storage = context.storage()
    if not storage.is_empty():
        raise SuiteError(f"the namespace of {context.target.parsed} is not empty")
    _explore(context, "STORAGE-1", type("StorageMachine", (_StorageMachine,), {"tested": storage}))
