"""What is broken in threads, transactions and clocks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import attrs

from moorage.driver import Document, Driver, Increment, changed
from moorage.filters import equal
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from moorage.driver import Changes, Instant, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection


@mutant("THREAD-1", base="memory")
class ThreadsClaimTheSame(Mutation):
    """A claim finds the first match and then patches it, while other threads may do the same."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        found = self.inner.find(collection, where, order, 1)
        if not found:
            return None
        time.sleep(0.001)
        self.inner.patch(collection, equal(id=found[0].id), changes)
        return self.inner.get(collection, found[0].id)


@mutant("THREAD-1", base="memory")
class ThreadsLoseIncrements(Mutation):
    """An increment reads the value, adds to it, and writes the sum."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        time.sleep(0.001)
        for one in found:
            sums = {
                name: changed(one.body, changes)[name] for name, value in changes.items() if type(value) is Increment
            }
            self.inner.patch(collection, equal(id=one.id), {**changes, **sums})
        return len(found)


@mutant("THREAD-1", base="memory")
class ThreadsSwapTheSame(Mutation):
    """A swap compares the revision, and then writes whatever the revision is by now."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.inner.get(collection, document.id)
        if stored is None or stored.revision != expected_revision:
            return False
        time.sleep(0.001)
        while not self.inner.swap(collection, document, stored.revision):
            stored = self.inner.get(collection, document.id)
            if stored is None:
                return False
        return True


@mutant("THREAD-1", base="sqlite")
class OneThreadOnly(Mutation):
    """A driver works only in the thread that opened it, as a connection of sqlite3 does by default."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.thread = threading.get_ident()

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if threading.get_ident() != self.thread:
            raise RuntimeError("SQLite objects created in a thread can only be used in that same thread")
        return self.inner.claim(collection, where, changes, order)


@mutant("TRANSACTION-1", base="memory")
class NothingIsUndone(Mutation):
    """A transaction is declared, and undoes nothing where an exception leaves it."""

    def transaction(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


@mutant("TRANSACTION-1", base="memory")
class OnlyOrdinaryErrorsUndo(Mutation):
    """A transaction that KeyboardInterrupt leaves is done, with what was called until then."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        left: BaseException | None = None
        with self.inner.transaction():
            try:
                yield
            except Exception:
                raise
            except BaseException as error:
                left = error
        if left is not None:
            raise left


@mutant("TRANSACTION-1", base="sqlite")
class InsertsOutsideOfTransactions(Mutation):
    """Inserts go over a connection of their own, and are not undone."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.late: list[tuple[Collection, Sequence[Document]]] = []

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self.late.append((collection, documents))
        return self.inner.insert(collection, documents)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.late.clear()
        try:
            with self.inner.transaction():
                yield
        finally:
            for collection, documents in self.late:
                self.inner.insert(collection, documents)


@mutant("TRANSACTION-1", base="memory")
class ErrorsAreSwallowed(Mutation):
    """A transaction that an exception leaves is undone, and the exception ends there."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with contextlib.suppress(Exception), self.inner.transaction():
            yield


class _RefusedError(Exception):
    pass


@mutant("TRANSACTION-1", base="memory")
class RefusalsUndo(Mutation):
    """A transaction in which a document was refused is undone when it ends, without a word."""

    refused = False

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        self.refused = self.refused or bool(refused)
        return refused

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.refused = False
        with contextlib.suppress(_RefusedError), self.inner.transaction():
            yield
            if self.refused:
                raise _RefusedError


class _Snapshot(Mutation):
    """Some reads inside a transaction see what was stored before it."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.before: dict[str, Document] | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        from moorage_conformance.target import ITEMS

        with self.inner.transaction():
            self.before = {one.id: one for one in self.inner.find(ITEMS)}
            try:
                yield
            finally:
                self.before = None


@mutant("TRANSACTION-2", base="memory")
class CountsOfBefore(_Snapshot):
    """Counts inside a transaction are those of before it."""

    def count(self, collection: Collection, where: Filter = ()) -> int:
        return self.inner.count(collection, where) if self.before is None else len(self.before)


@mutant("TRANSACTION-2", base="memory")
class DocumentsOfBefore(_Snapshot):
    """`get` inside a transaction returns what was stored before it."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        return self.inner.get(collection, identifier) if self.before is None else self.before.get(identifier)


@mutant("TRANSACTION-2", base="memory")
class PatchesMissWhatIsNew(_Snapshot):
    """A patch inside a transaction misses the documents that were inserted in it."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if self.before is None:
            return self.inner.patch(collection, where, changes)
        known = [one.id for one in self.inner.find(collection, where) if one.id in self.before]
        return sum(self.inner.patch(collection, equal(id=one), changes) for one in known)


@mutant("CLOCK-1", base="memory")
class ClockGoesBack(Mutation):
    """The clock is corrected now and then, and goes back by a millisecond."""

    readings = 0

    def now(self) -> Instant:
        self.readings += 1
        now = self.inner.now()
        return attrs.evolve(now, seconds=now.seconds - 0.001) if self.readings % 10 == 0 else now


@mutant("CLOCK-1", base="sqlite")
class ClockOfTheProcess(Mutation):
    """Each process names a clock of its own."""

    def now(self) -> Instant:
        return attrs.evolve(self.inner.now(), clock=f"process {os.getpid()}")


@mutant("CLOCK-1", base="memory")
class ClockSinceOpening(Mutation):
    """The clock counts from the moment when the driver was opened."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.opened = inner.now().seconds

    def now(self) -> Instant:
        now = self.inner.now()
        return attrs.evolve(now, seconds=now.seconds - self.opened)


@mutant("CLOCK-1", base="sqlite")
class ClocksOfProcessesDiffer(Mutation):
    """The clock counts the time that this process has lived, under a name that all have in common."""

    def now(self) -> Instant:
        return attrs.evolve(self.inner.now(), seconds=time.monotonic() - _BEGAN)


_BEGAN = time.monotonic()


@mutant("CLOCK-2", base="memory")
class ClockStandsStill(Mutation):
    """The clock is read once and remembered."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.read = inner.now()

    def now(self) -> Instant:
        return self.read


@mutant("CLOCK-2", base="memory")
class ClockInMilliseconds(Mutation):
    """The clock counts milliseconds, not seconds."""

    def now(self) -> Instant:
        now = self.inner.now()
        return attrs.evolve(now, seconds=now.seconds * 1000)


@mutant("CLOCK-2", base="memory")
class ClockOfWork(Mutation):
    """The clock counts the time that the process has worked, so that it stands still while the process waits."""

    def now(self) -> Instant:
        return attrs.evolve(self.inner.now(), seconds=time.process_time())
