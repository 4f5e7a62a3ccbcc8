"""Sequences of writes that are known in advance, so that what must be stored after each of them is known as well.

A worker does a sequence step by step and says before and after each one. Whatever happens to it, the check replays the
same steps on the reference driver: each document must be as after the last step that was acknowledged, or, if the next
one had begun, as after that one.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from moorage.driver import Document, Increment, Refusal
from moorage.filters import Order, equal
from moorage.memory import MemoryDriver
from moorage_conformance.target import ITEMS, ITEMS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorage.codec import Plain
    from moorage.driver import Driver
    from moorage_conformance.context import Context
    from moorage_conformance.worker import Job

Step: TypeAlias = Callable[["Driver"], object]
State: TypeAlias = "dict[str, Document]"

FAMILY_STEPS = 48
"""After so many steps the documents of a sequence belong to another family, so that none grows large."""

_KINDS = ("insert", "swap", "patch", "insert", "claim", "delete")
_BATCH = 4
_LARGE = 24_000
_ORDER = [Order("place")]


def mirror() -> MemoryDriver:
    """An empty reference driver."""
    driver = MemoryDriver()
    driver.setup(ITEMS_SCHEMA)
    return driver


def text(seed: str, size: int) -> str:
    """Characters that differ from those of any other seed, all along."""
    return f"{seed}:{zlib.crc32(seed.encode()):08x} ".ljust(40, "=") * (size // 40 + 1)


def body(family: str, place: int, version: int) -> dict[str, Plain]:
    """The body of a document: every field tells the version that it is of."""
    seed = f"{family}/{place}/{version}"
    return {
        "family": family,
        "name": f"n{place}",
        "tag": f"t{place % 3}",
        "note": text(seed, _LARGE if place % _BATCH == 0 else 80),
        "place": place,
        "amount": version,
        "score": version + 0.5,
        "flag": True,
        "data": {"version": version, "sum": zlib.crc32(seed.encode())},
        "labels": [seed, version],
        "undeclared": seed,
    }


def family_of(name: str, number: int) -> tuple[str, int]:
    """The family that a step of a sequence is about, and its number in that."""
    return f"{name}.{number // FAMILY_STEPS}", number % FAMILY_STEPS


def step(family: str, number: int, known: MemoryDriver, *, single: bool = False) -> Step:
    """One write, always the same after the same ones before.

    Args:
        family: the documents that it is about.
        number: its place in the sequence, from 0.
        known: what all steps before have left behind.
        single: whether it writes one document at a time.
    """
    chance = random.Random(f"{family}/{number}")
    kind = _KINDS[number % len(_KINDS)]
    stored = known.find(ITEMS, equal(family=family), _ORDER)
    if kind == "insert" or len(stored) < 2:
        places = [number * _BATCH + one for one in range(1 if single else _BATCH)]
        documents = [Document(f"{family}/{place}", body(family, place, number)) for place in places]
        return lambda driver: driver.insert(ITEMS, documents)
    chosen = chance.choice(stored)
    mine = equal(id=chosen.id)
    if kind == "swap":
        chosen = next((one for one in stored if _place(one) % _BATCH == 0), chosen)  # a large one
        place = chosen.body["place"]
        assert isinstance(place, int)
        after = Document(chosen.id, body(family, place, number))
        return lambda driver: driver.swap(ITEMS, after, chosen.revision)
    changes: dict[str, Plain | Increment] = {
        "amount": Increment(1000),
        "note": text(f"{family}/{kind}/{number}", _LARGE // 2),
        "score": number + 0.25,
        "data": {"version": number, "sum": 0},
        "tag": f"t{number % 3}",
    }
    if kind == "patch":
        where = mine if single else equal(family=family, tag=chosen.body["tag"])
        return lambda driver: driver.patch(ITEMS, where, changes)
    if kind == "claim":
        changes["flag"] = False
        return lambda driver: driver.claim(ITEMS, equal(family=family, flag=True), changes, _ORDER)
    return lambda driver: driver.delete(ITEMS, equal(family=family, name=chosen.body["name"]))


def perform(job: Job, driver: Driver, name: str, steps: int | None = None, *, single: bool = False) -> None:
    """Do a sequence, or go on for ever; say ``[number, false]`` before each step, and ``[number, true]`` after it."""
    number = 0
    known = mirror()
    while steps is None or number < steps:
        family, place = family_of(name, number)
        write = step(family, place, known, single=single)
        job.say([number, False])
        write(driver)
        job.say([number, True])
        write(known)
        number += 1


def progress(said: Sequence[object]) -> tuple[int, int]:
    """How many steps were acknowledged and how many were begun, from what a worker said."""
    steps = [(one[0], one[1]) for one in said if isinstance(one, list)]
    done = max((number + 1 for number, acknowledged in steps if acknowledged), default=0)
    begun = max((number + 1 for number, _ in steps), default=0)
    return done, begun


def state(driver: Driver, family: str) -> State:
    """The documents of a family."""
    return {one.id: one for one in driver.find(ITEMS, equal(family=family))}


def same(stored: Document | None, expected: Document | None) -> bool:
    """Whether both are the same, where an absent field is null."""
    if stored is None or expected is None:
        return stored is expected
    return stored.revision == expected.revision and _present(stored.body) == _present(expected.body)


def _present(of: Mapping[str, Plain]) -> dict[str, Plain]:
    return {name: value for name, value in of.items() if value is not None}


class Judge:
    """Compares what is stored with what workers were told.

    Args:
        context: of the check.
        lost: the requirement that a missing acknowledged write violates.
        torn: the requirement that a state that no write left behind violates.
    """

    def __init__(self, context: Context, *, lost: str, torn: str) -> None:
        self._context = context
        self._lost = lost
        self._torn = torn

    def sequence(self, driver: Driver, name: str, done: int, begun: int, what: str) -> None:
        """Judge all families of a sequence of which so many steps were acknowledged and begun."""
        for start in range(0, max(begun, 1), FAMILY_STEPS):
            family, _ = family_of(name, start)
            known = mirror()
            states: list[State] = [{}]
            for place in range(min(begun - start, FAMILY_STEPS)):
                step(family, place, known)(known)
                states.append(state(known, family))
            acknowledged = max(0, min(done - start, FAMILY_STEPS))
            self.family(driver, family, states, acknowledged, what)

    def family(self, driver: Driver, family: str, states: Sequence[State], acknowledged: int, what: str) -> None:
        """Judge one family.

        Args:
            driver: a fresh one.
            family: its name.
            states: what it was at first, and what it is after each step that was begun.
            acknowledged: how many steps of these were acknowledged; the last one is the only one that may not be.
            what: has happened to the worker.
        """
        stored = state(driver, family)
        before, after = states[acknowledged], states[-1]
        for identifier in sorted({*before, *after, *stored}):
            found = stored.get(identifier)
            if same(found, before.get(identifier)) or same(found, after.get(identifier)):
                continue
            if found is None or any(same(found, one.get(identifier)) for one in states):
                was = "is missing" if found is None else f"has its old revision {found.revision}"
                self._context.fail(
                    self._lost, f"{what}, document {identifier!r} {was}, though a later write was acknowledged"
                )
            assert found is not None
            self._context.fail(self._torn, f"{what}, document {identifier!r} {_odd(found, before, after)}")
        self._agree(driver, family, stored, what)
        self._gone(driver, family, states, stored, what)

    def _agree(self, driver: Driver, family: str, stored: State, what: str) -> None:
        """Counts, indexes and unique keys say the same as all documents, one by one."""
        equal_to = self._context.equal
        mine = equal(family=family)
        scanned = {one.id: one for one in driver.find(ITEMS) if one.body.get("family") == family}
        equal_to(self._torn, sorted(stored), sorted(scanned), f"{what}, the documents that an index finds")
        by_place = sorted(scanned.values(), key=lambda one: _place(one))
        found = [one.id for one in driver.find(ITEMS, mine, _ORDER)]
        equal_to(self._torn, found, [one.id for one in by_place], f"{what}, the documents in order")
        flagged = [one.id for one in driver.find(ITEMS, (*mine, *equal(flag=True)), _ORDER)]
        expected = [one.id for one in by_place if one.body.get("flag")]
        equal_to(self._torn, flagged, expected, f"{what}, the documents with a flag")
        equal_to(self._torn, driver.count(ITEMS, mine), len(scanned), f"{what}, the count")
        tags = Counter(one.body.get("tag") for one in scanned.values())
        tally = driver.tally(ITEMS, mine, "tag")
        equal_to(
            self._torn, dict(sorted(tally.items(), key=str)), dict(sorted(tags.items(), key=str)), f"{what}, the tally"
        )
        for tag in ("t0", "t1", "t2"):
            counted = driver.count(ITEMS, equal(family=family, tag=tag))
            equal_to(self._torn, counted, tags[tag], f"{what}, the count of one tag")
        for one in by_place[:2] + by_place[-2:]:
            equal_to(self._torn, driver.get(ITEMS, one.id), one, f"{what}, the document of an id")
            named = driver.find(ITEMS, equal(family=family, name=one.body["name"]))
            equal_to(self._torn, [found.id for found in named], [one.id], f"{what}, the document of a unique key")
            again = Document(f"{one.id}/again", {"family": family, "name": one.body["name"]})
            refused = driver.insert(ITEMS, [again])
            expected_refusal = [Refusal(0, again.id, ("family", "name"))]
            equal_to(self._torn, refused, expected_refusal, f"{what}, inserting a unique key that is taken")

    def _gone(self, driver: Driver, family: str, states: Sequence[State], stored: State, what: str) -> None:
        """The ids and unique keys of documents that were deleted can be taken again."""
        gone = {identifier for one in states for identifier in one} - set(stored)
        last = set(states[-1]) - set(stored)
        for identifier in sorted(last) + sorted(gone - last)[:2]:
            self._context.equal(self._torn, driver.get(ITEMS, identifier), None, f"{what}, a deleted document")
            again = Document(identifier, {"family": family, "name": f"n{identifier.rpartition('/')[2]}"})
            self._context.equal(self._torn, driver.insert(ITEMS, [again]), [], f"{what}, inserting a deleted document")
            driver.delete(ITEMS, equal(id=identifier))


def _place(document: Document) -> int:
    place = document.body.get("place")
    return place if isinstance(place, int) else -1


def _odd(found: Document, before: State, after: State) -> str:
    """Which of its fields are of which write."""
    if found.id not in before and found.id not in after:
        return "was written by nobody"
    told = []
    for name, states in (("before", before), ("after", after)):
        expected = states.get(found.id)
        if expected is not None:
            fields = sorted(
                one for one in {*found.body, *expected.body} if found.body.get(one) != expected.body.get(one)
            )
            told.append(
                f"differs from the one {name} in {[*fields, *['revision'] * (found.revision != expected.revision)]}"
            )
    return " and ".join(told)
