"""Stand-ins that several test modules share: a driver that fails on demand, and threads that report their errors."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import pytest

from moorage import Capability, Driver, Instant, Storage
from moorage.errors import OutcomeUnknown, Unavailable
from moorage.memory import MemoryDriver
from moorage.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moorage import Changes, Document, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection, Schema

T = TypeVar("T")

Fault: TypeAlias = Literal["unavailable", "unknown without effect", "unknown with effect"]
FAULTS: tuple[Fault, ...] = ("unavailable", "unknown without effect", "unknown with effect")


class FaultyDriver(Driver):
    """A driver that hands each call to another one, and fails where it was told to.

    Each mutation has a number: calls of insert, swap, patch, claim and delete, and the end of a transaction.

    Args:
        inner: who does the work.
        without: capabilities that are not declared.

    Attributes:
        faults: what happens at which mutation; numbers count from the last `begin`.
        always: what happens at every call, readings included.
        calls: what was called, as ``(verb, collection)``.
        after: called after each mutation has taken effect, before its reply is lost or given.
    """

    name = "faulty"

    def __init__(self, inner: Driver | None = None, *, without: Sequence[Capability] = ()) -> None:
        self.inner = MemoryDriver() if inner is None else inner
        self.capabilities = self.inner.capabilities - set(without)
        self.after: Callable[[str, str], None] = lambda verb, collection: None
        self.always: Fault | None = None
        self.begin({})

    def begin(self, faults: Mapping[int, Fault]) -> None:
        """Count from zero again, with these faults."""
        self.faults = dict(faults)
        self.mutations = 0
        self.calls: list[tuple[str, str]] = []

    def _fault(self) -> Fault | None:
        fault = self.always or self.faults.get(self.mutations)
        self.mutations += 1
        return fault

    def _mutate(self, verb: str, collection: str, call: Callable[[], T]) -> T:
        self.calls.append((verb, collection))
        fault = self._fault()
        _fail_before(fault, verb)
        result = call()
        self.after(verb, collection)
        _fail_after(fault, verb)
        return result

    def _read(self, verb: str, collection: str) -> None:
        self.calls.append((verb, collection))
        if self.always:
            raise Unavailable(f"no answer to {verb}")

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        self.inner.setup(schema, upgrade=upgrade)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return self._mutate("insert", collection.name, lambda: self.inner.insert(collection, documents))

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        self._read("find", collection.name)
        return self.inner.find(collection, where, order, limit)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        return self._mutate("swap", collection.name, lambda: self.inner.swap(collection, document, expected_revision))

    def delete(self, collection: Collection, where: Filter) -> int:
        return self._mutate("delete", collection.name, lambda: self.inner.delete(collection, where))

    def close(self) -> None:
        self.inner.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.inner.transaction():
            yield
            fault = self._fault()
            _fail_before(fault, "commit")
        _fail_after(fault, "commit")

    def now(self) -> Instant:
        return self.inner.now()


class OverridingFaultyDriver(FaultyDriver):
    """The same, with the overrides of the driver below in place of the defaults."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        self._read("get", collection.name)
        return self.inner.get(collection, identifier)

    def count(self, collection: Collection, where: Filter = ()) -> int:
        self._read("count", collection.name)
        return self.inner.count(collection, where)

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        self._read("tally", collection.name)
        return self.inner.tally(collection, where, field)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self._mutate("patch", collection.name, lambda: self.inner.patch(collection, where, changes))

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return self._mutate("claim", collection.name, lambda: self.inner.claim(collection, where, changes, order))


def _fail_before(fault: Fault | None, verb: str) -> None:
    if fault == "unavailable":
        raise Unavailable(f"{verb} was not done")
    if fault == "unknown without effect":
        raise OutcomeUnknown(f"no answer to {verb}")


def _fail_after(fault: Fault | None, verb: str) -> None:
    if fault == "unknown with effect":
        raise OutcomeUnknown(f"no answer to {verb}")


def storage_over(driver: Driver, **options: float) -> Storage:
    """A storage over a driver of the test's own."""
    driver.setup(SCHEMA)
    return Storage(driver, **options)


def in_threads(count: int, action: Callable[[int], T]) -> list[T]:
    """What an action returns in each of several threads that begin at once; the first error is raised."""
    barrier = threading.Barrier(count)

    def run(place: int) -> T:
        barrier.wait(timeout=30)
        return action(place)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def needs_clock(storage: Storage) -> None:
    """Skip where silence is observed and not dated: a heartbeat of long ago is then as good as one of this moment."""
    if Capability.SERVER_CLOCK not in storage.driver.capabilities:
        pytest.skip("this backend has no clock that its users share")


def forked_while_threads_write(insert: Callable[[str], object], forks: int) -> int:
    """How many forked children could insert, each forked in the midst of the inserts of two threads.

    Args:
        insert: is given a name that it has not had before; those of children begin with ``child``.
        forks: how many children, one after the other.
    """
    stop = threading.Event()

    def write(number: int) -> None:
        for place in itertools.count():
            if stop.is_set():
                return
            insert(f"{number} {place}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    done = 0
    try:
        for number in range(forks):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    insert(f"child {number}")
                    status = 0
                finally:
                    os._exit(status)
            done += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return done
