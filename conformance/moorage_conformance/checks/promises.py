"""Level 1: threads, transactions and the clock."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from moorage.driver import Document, Increment, Instant
from moorage.errors import UniqueViolation
from moorage.filters import Comparison, Order, equal
from moorage_conformance.checking import check
from moorage_conformance.comparing import canonical_set, difference
from moorage_conformance.target import ITEMS, NOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.driver import Driver
    from moorage_conformance.context import Context
    from moorage_conformance.worker import Job

T = TypeVar("T")

_THREADS = 8

_TOLERANCE = 0.25
"""Seconds; a clock may be coarse, or be read through a network."""


def _at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """What each returns, begun together in threads of their own; the first error is raised."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        barrier.wait()
        return action()

    with concurrent.futures.ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(run, one) for one in actions]]


@check("THREAD-1")
def threads_share_a_driver(context: Context) -> None:
    """Eight threads claim, increment, swap and insert through one driver; nothing may be lost or handed out twice."""
    driver = context.open()
    todo = [Document(f"i{place:03}", {"family": "f", "flag": True, "place": place}) for place in range(160)]
    driver.insert(ITEMS, [*todo, Document("counter", {"amount": None}), Document("swapped", {"amount": 0})])

    def claim() -> list[str]:
        found: list[str] = []
        while (one := driver.claim(ITEMS, equal(family="f", flag=True), {"flag": False}, [Order("place")])) is not None:
            found.append(one.id)
        return found

    claimed = [identifier for one in _at_once([claim] * _THREADS) for identifier in one]
    twice = sorted({one for one in claimed if claimed.count(one) > 1})
    context.require(not twice, "THREAD-1", f"{len(twice)} documents were claimed by two threads, such as {twice[:3]}")
    context.equal("THREAD-1", sorted(claimed), [one.id for one in todo], "the claimed documents")

    def count() -> None:
        for _ in range(25):
            context.equal("THREAD-1", driver.patch(ITEMS, equal(id="counter"), {"amount": Increment()}), 1, "a patch")

    def swap() -> None:
        for _ in range(5):
            done = False
            while not done:
                stored = driver.get(ITEMS, "swapped")
                assert stored is not None
                amount = stored.body["amount"]
                assert isinstance(amount, int)
                done = driver.swap(ITEMS, Document("swapped", {"amount": amount + 1}), stored.revision)

    _at_once([count] * _THREADS)
    counter = driver.find(ITEMS, equal(id="counter"))[0]
    found = counter.body["amount"], counter.revision
    context.equal("THREAD-1", found, (25 * _THREADS, 25 * _THREADS + 1), "increments by threads, and the revision")
    _at_once([swap] * _THREADS)
    swapped = driver.find(ITEMS, equal(id="swapped"))[0]
    found = swapped.body["amount"], swapped.revision
    context.equal("THREAD-1", found, (5 * _THREADS, 5 * _THREADS + 1), "swaps by threads, and the revision")

    def insert() -> list[str]:
        documents = [Document(f"n{place}", {"family": "g", "name": f"{place}"}) for place in range(30)]
        refused = [driver.insert(ITEMS, [one]) for one in documents]
        return [one.id for one, some in zip(documents, refused, strict=True) if not some]

    def read() -> list[str]:
        for _ in range(10):
            driver.find(ITEMS, equal(family="f"), [Order("place")], 20)
            driver.tally(ITEMS, equal(family="f"), "tag")
        return []

    stored = [identifier for one in _at_once([insert, insert, read, insert, insert, read]) for identifier in one]
    context.equal("THREAD-1", sorted(stored), sorted(f"n{place}" for place in range(30)), "inserted documents")
    context.equal("THREAD-1", driver.count(ITEMS, equal(family="g")), 30, "inserted documents, counted")


class _LeftByError(Exception):
    """Leaves a transaction."""


def _stored(driver: Driver) -> tuple[dict[str, str], ...]:
    return tuple({one.id: repr((one.revision, one.body)) for one in driver.find(kind)} for kind in (ITEMS, NOTES))


def _filled() -> list[Document]:
    return [
        Document(f"i{place}", {"family": "f", "name": f"n{place}", "tag": "t", "place": place, "flag": True})
        for place in range(8)
    ]


def _steps(driver: Driver) -> None:
    """One write of each kind."""
    driver.insert(ITEMS, [Document("new", {"family": "g", "name": "n"}), Document("i0", {})])
    driver.insert(NOTES, [Document("new", {"title": "t"})])
    driver.swap(ITEMS, Document("i1", {"family": "f", "name": "swapped"}), 1)
    driver.patch(ITEMS, (Comparison("place", "<", 4),), {"tag": "patched", "amount": Increment(3)})
    driver.claim(ITEMS, equal(flag=True), {"flag": False}, [Order("place", descending=True)])
    driver.delete(ITEMS, equal(id="i2"))


@check("TRANSACTION-1")
def a_transaction_is_done_or_undone(context: Context) -> None:
    """Does writes of each kind in transactions, some of which an exception leaves, and looks at what is stored."""
    driver, other = context.open(), context.open()
    driver.insert(ITEMS, _filled())
    before = _stored(driver)
    for kind in (_LeftByError, KeyboardInterrupt, UniqueViolation):
        with contextlib.suppress(_LeftByError, KeyboardInterrupt, UniqueViolation), driver.transaction():
            _steps(driver)
            if kind is UniqueViolation:
                driver.patch(ITEMS, equal(id="i4"), {"name": "n5"})
            raise kind("left")
        for one in (driver, other):
            what = f"what is stored after {kind.__name__} has left a transaction"
            context.require(_stored(one) == before, "TRANSACTION-1", f"{what} is not what was there before")
            context.equal("TRANSACTION-1", one.count(ITEMS, equal(family="f")), 8, f"{what}, counted")
            context.equal("TRANSACTION-1", one.tally(ITEMS, equal(family="f"), "tag"), {"t": 8}, f"{what}, by value")
    error = _LeftByError("left")
    what = "an exception that leaves a transaction"
    with context.raises("TRANSACTION-1", _LeftByError, what) as caught, driver.transaction():
        raise error
    context.require(
        caught[0] is error, "TRANSACTION-1", "another exception leaves the transaction than was raised in it"
    )
    refused = driver.insert(ITEMS, [Document("new", {"family": "f", "name": "swapped"})])
    context.equal("TRANSACTION-1", refused, [], "what is refused because of what was undone")
    driver.delete(ITEMS, equal(id="new"))

    reference = context.open(context.fresh_url())
    reference.insert(ITEMS, _filled())
    _steps(reference)
    with driver.transaction():
        _steps(driver)
    for one in (driver, other):
        for kind in (ITEMS, NOTES):
            wrong = difference(canonical_set(kind, one.find(kind)), canonical_set(kind, reference.find(kind)))
            context.require(not wrong, "TRANSACTION-1", f"what is stored after a transaction: {wrong}")
    with driver.transaction():
        refused = driver.insert(ITEMS, [Document("later", {"family": "g", "name": "n"}), Document("last", {})])
        driver.insert(NOTES, [Document("last", {"title": "last"})])
    context.equal("TRANSACTION-1", [one.id for one in refused], ["later"], "what is refused in a transaction")
    context.require(
        other.get(ITEMS, "last") and other.get(NOTES, "last"),
        "TRANSACTION-1",
        "what was written after a refusal in the same transaction is not stored",
    )
    driver.insert(ITEMS, [Document("outside", {})])
    context.require(other.get(ITEMS, "outside"), "TRANSACTION-1", "what is written after a transaction is not stored")


@check("TRANSACTION-2")
def a_transaction_sees_its_own_writes(context: Context) -> None:
    """Reads by every primitive what was written before in the same transaction."""
    driver = context.open()
    driver.insert(ITEMS, _filled())

    def seen(actual: object, expected: object, what: str) -> None:
        context.equal("TRANSACTION-2", actual, expected, f"{what}, inside the transaction")

    with driver.transaction():
        new = [Document("new", {"family": "f", "name": "new", "tag": "u", "place": -1, "flag": True})]
        driver.insert(ITEMS, new)
        found = driver.get(ITEMS, "new")
        seen(found and found.id, "new", "an inserted document, by get")
        first = driver.find(ITEMS, equal(family="f", flag=True), [Order("place")], 1)
        seen([one.id for one in first], ["new"], "an inserted document, by find")
        seen(driver.count(ITEMS, equal(family="f")), 9, "documents counted after an insert")
        seen(driver.tally(ITEMS, equal(family="f"), "tag"), {"t": 8, "u": 1}, "documents by value after an insert")
        refused = driver.insert(ITEMS, [Document("new", {}), Document("newer", {"family": "f", "name": "new"})])
        keys = sorted(tuple(one.key) for one in refused)
        seen(keys, [("family", "name"), ("id",)], "the refusals of an id and a key that were just taken")
        seen(driver.patch(ITEMS, equal(id="new"), {"amount": Increment(2)}), 1, "a patch of what was just inserted")
        seen(driver.patch(ITEMS, equal(amount=2), {"amount": Increment(2)}), 1, "a patch of what was just patched")
        claimed = driver.claim(ITEMS, equal(flag=True), {"flag": False}, [Order("place")])
        seen(claimed and (claimed.id, claimed.revision, claimed.body["amount"]), ("new", 4, 4), "the claimed document")
        claimed = driver.claim(ITEMS, equal(flag=True), {"flag": False}, [Order("place")])
        seen(claimed and claimed.id, "i0", "the next claimed document")
        seen(driver.swap(ITEMS, Document("new", {"family": "f", "name": "swapped"}), 4), True, "a swap of it")
        seen(driver.swap(ITEMS, Document("new", {"family": "f"}), 4), False, "a swap of a revision that is gone")
        seen(driver.insert(ITEMS, [Document("next", {"family": "f", "name": "new"})]), [], "what a freed key refuses")
        seen(driver.delete(ITEMS, (Comparison("place", ">=", 4),)), 4, "deleted documents")
        seen(driver.get(ITEMS, "i5"), None, "a deleted document, by get")
        seen(driver.count(ITEMS, equal(family="f")), 6, "documents counted after a deletion")
        seen(driver.insert(ITEMS, [Document("i5", {})]), [], "what is refused of a deleted id")
    context.equal("TRANSACTION-2", driver.count(ITEMS), 7, "documents after the transaction")


def clock_reader(job: Job) -> None:
    """Reads the clock when told to, and says what it shows."""
    driver = job.driver()
    job.ready()
    while job.wait() == "read":
        now = driver.now()
        job.say([now.clock, now.seconds])


@check("CLOCK-1")
def the_clock_never_goes_back(context: Context) -> None:
    """Reads the clock by several drivers, threads and processes; none goes back, and all show the same time."""
    readings: dict[str, float] = {}
    last: tuple[str, float, float, float] | None = None

    def told(by: str, instant: Instant, began: float) -> None:
        nonlocal last
        ended = time.monotonic()
        kinds = f"{type(instant.clock).__name__} and {type(instant.seconds).__name__}"
        context.require(kinds == "str and float", "CLOCK-1", f"a reading consists of {kinds}, not of str and float")
        back = readings.get(by, instant.seconds) - instant.seconds
        context.require(back <= 0, "CLOCK-1", f"the clock went back by {back} s, read by {by}")
        readings[by] = instant.seconds
        if last is not None:
            context.equal("CLOCK-1", instant.clock, last[0], f"the name of the clock, read by {by}")
            passed = instant.seconds - last[1]
            least, most = began - last[3] - _TOLERANCE, ended - last[2] + _TOLERANCE
            context.require(
                least <= passed <= most,
                "CLOCK-1",
                f"{by} reads a time {passed:.3f} s after the last reading of another, {most - _TOLERANCE:.3f} s ago",
            )
        last = instant.clock, instant.seconds, began, ended

    def read(driver: Driver, by: str) -> None:
        began = time.monotonic()
        told(by, driver.now(), began)

    def read_often() -> None:
        before = first.now().seconds
        for _ in range(20):
            now = first.now().seconds
            context.require(now >= before, "CLOCK-1", f"the clock went back by {before - now} s, read by a thread")
            before = now

    first = context.open()
    drivers = {"the first driver": first, "the second driver": context.open(), "the third driver": context.open()}
    for _ in range(30):
        for by, driver in drivers.items():
            read(driver, by)
    _at_once([read_often] * 4)
    first.insert(ITEMS, [Document("a", {})])
    drivers["the second driver"].close()
    read(first, "the first driver")
    time.sleep(2 * _TOLERANCE)
    read(context.open(), "a driver that was opened later")
    if "shared" in context.conditions:
        processes = context.start(clock_reader, 2)
        for process in itertools.islice(itertools.cycle(processes), 20):
            began = time.monotonic()
            process.tell("read")
            name, seconds = process.next()
            told(f"process {process.name}", Instant(name, seconds), began)
            read(first, "the first driver")
        for process in processes:
            process.tell("stop")
        context.join(processes)


@check("CLOCK-2")
def the_clock_goes_on(context: Context) -> None:
    """Reads the clock before and after a wait; it must have gone on by what has passed, within half a second."""
    driver = context.open()
    driver.now()
    for wait in (1.5, 0.75):
        began = time.monotonic()
        first = driver.now().seconds
        started = time.monotonic()
        time.sleep(wait)
        ending = time.monotonic()
        passed = driver.now().seconds - first
        ended = time.monotonic()
        least, most = ending - started - _TOLERANCE, ended - began + _TOLERANCE
        context.require(
            least <= passed <= most,
            "CLOCK-2",
            f"the clock went on by {passed:.3f} s while {ending - started:.3f} to {ended - began:.3f} s passed",
        )
