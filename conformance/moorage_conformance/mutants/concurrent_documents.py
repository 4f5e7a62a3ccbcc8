"""What is broken where many processes are at work on the same documents."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import queue
import random
import socket
import struct
import threading
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from moorage.driver import Capability, Document, Increment, changed
from moorage.errors import StorageError, Unavailable
from moorage.filters import Comparison, equal
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes, Driver, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection, Schema
    from moorage.url import StorageURL

T = TypeVar("T")

WIDER = 0.002
"""Seconds for which a race is held open, so that each run finds it."""


class Beside(Mutation):
    """A driver that knows where it may put files of its own."""

    place: str

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        driver = super().open(url, read_only)
        assert isinstance(driver, Beside)
        driver.place = url.path[1:]
        return driver

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock that all processes share; whether it was had."""
        file = os.open(f"{self.place}.{name}", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            yield False
            return
        try:
            yield True
        finally:
            os.close(file)


# Reads


class _Cached(Mutation):
    """Keeps what it has read for a moment."""

    lasting = 0.03

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._kept: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def kept(self, key: str, read: Callable[[], T]) -> T:
        now = time.monotonic()
        if key not in self._kept or now - self._kept[key][0] > self.lasting:
            self._kept[key] = (now, read())
        return cast("T", self._kept[key][1])


@mutant("SHARED-1", base="sqlite")
class CachedGets(_Cached):
    """Each process keeps documents that it has read by id for 30 ms, and forgets them when it writes itself."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        return self.kept(f"{collection.name}/{identifier}", lambda: self.inner.get(collection, identifier))

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        self._kept.clear()
        return self.inner.swap(collection, document, expected_revision)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self._kept.clear()
        return self.inner.insert(collection, documents)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        self._kept.clear()
        return self.inner.patch(collection, where, changes)

    def delete(self, collection: Collection, where: Filter) -> int:
        self._kept.clear()
        return self.inner.delete(collection, where)


@mutant("SHARED-1", base="sqlite")
class OldSnapshots(_Cached):
    """Queries are answered from a snapshot that a process renews when it is 30 ms old."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        key = f"{collection.name}/{where}/{order}/{limit}"
        return self.kept(key, lambda: self.inner.find(collection, where, order, limit))


@mutant("SHARED-1", base="sqlite")
class CountsFromStatistics(_Cached):
    """Counts are those of statistics, which are renewed every 30 ms."""

    def count(self, collection: Collection, where: Filter = ()) -> int:
        return self.kept(f"{collection.name}/{where}", lambda: self.inner.count(collection, where))


@mutant("SHARED-1", base="sqlite")
class PatchesAreWrittenLater(Mutation):
    """A patch is acknowledged before it is written, which a thread does 10 ms later."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        matching = self.inner.count(collection, where)

        def write() -> None:
            time.sleep(0.01)
            with contextlib.suppress(Exception):
                self.inner.patch(collection, where, changes)

        threading.Thread(target=write).start()
        return matching


# Setting up, opening, forking


@mutant("SHARED-2", base="sqlite")
class SetupsRace(Beside):
    """Setting up looks whether the tables exist, and fails where another process creates them at the same moment."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        mark = Path(f"{self.place}.created")
        if not mark.exists():
            time.sleep(10 * WIDER)
            self.inner.setup(schema, upgrade=upgrade)
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                raise StorageError("table items already exists") from None
            return
        self.inner.setup(schema, upgrade=upgrade)


@mutant("SHARED-2", base="sqlite")
class SetupStartsAnew(Beside):
    """Of two processes that both find an empty storage, the later one empties it again."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        mark = Path(f"{self.place}.created")
        new = not mark.exists()
        self.inner.setup(schema, upgrade=upgrade)
        if new:
            time.sleep(random.uniform(0, 20 * WIDER))
            for collection in schema.collections:
                self.inner.delete(collection, ())
            mark.touch()


class _Sent(Mutation):
    """Sends each call to a thread that has the connection."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {Capability.TRANSACTIONS}

    def send(self, name: str, *arguments: object) -> Any:
        raise AssertionError(name)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return cast("list[Refusal]", self.send("insert", collection, documents))

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        return cast("list[Document]", self.send("find", collection, where, order, limit))

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        return cast("bool", self.send("swap", collection, document, expected_revision))

    def delete(self, collection: Collection, where: Filter) -> int:
        return cast("int", self.send("delete", collection, where))

    def get(self, collection: Collection, identifier: str) -> Document | None:
        return cast("Document | None", self.send("get", collection, identifier))

    def count(self, collection: Collection, where: Filter = ()) -> int:
        return cast("int", self.send("count", collection, where))

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return cast("int", self.send("patch", collection, where, changes))

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return cast("Document | None", self.send("claim", collection, where, changes, order))


@mutant("SHARED-3", base="sqlite")
class ForkSharesTheConnection(_Sent):
    """After a fork parent and child send their calls over the same connection, and get each other's replies."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._client, self._server = socket.socketpair()
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while (asked := _receive(self._server)) is not None:
            name, arguments = asked
            try:
                reply: object = getattr(self.inner, name)(*arguments)
            except Exception as error:
                reply = error
            _transmit(self._server, reply)

    def send(self, name: str, *arguments: object) -> Any:
        with self._lock:
            _transmit(self._client, (name, arguments))
            reply = _receive(self._client)
        if isinstance(reply, Exception):
            raise reply
        return reply


def _transmit(end: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    end.sendall(struct.pack(">I", len(data)) + data)


def _receive(end: socket.socket) -> Any:
    head = end.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    (size,) = struct.unpack(">I", head)
    return pickle.loads(end.recv(size, socket.MSG_WAITALL))  # noqa: S301


@mutant("SHARED-3", base="sqlite")
class ForkLosesTheThread(_Sent):
    """All calls are done by a thread, which a forked child does not have."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._calls: queue.SimpleQueue[tuple[str, tuple[object, ...], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            name, arguments, replies = self._calls.get()
            try:
                replies.put(getattr(self.inner, name)(*arguments))
            except Exception as error:
                replies.put(error)

    def send(self, name: str, *arguments: object) -> Any:
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls.put((name, arguments, replies))
        reply = replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply


@mutant("SHARED-3", base="sqlite")
class ForkKeepsALock(Mutation):
    """A lock that another thread holds at the moment of a fork stays locked in the child."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        with self._lock:
            time.sleep(WIDER)
            return self.inner.insert(collection, documents)


@mutant("SHARED-4", base="sqlite")
class BusyIsFatal(Beside):
    """Who opens the storage while another one does is told that it is busy, by an error that nobody repeats."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        with self.locked("setup", wait=False) as free:
            if not free:
                raise StorageError("database is locked")
            time.sleep(WIDER)
            self.inner.setup(schema, upgrade=upgrade)


@mutant("SHARED-4", base="sqlite")
class BusyTransactionsFail(Beside):
    """A transaction that meets another one fails at once, by an error that nobody repeats."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.locked("write", wait=False) as free:
            if not free:
                raise StorageError("database is locked")
            with self.inner.transaction():
                yield


@mutant("SHARED-4", base="sqlite")
class OpeningIsUnavailable(Beside):
    """Opening raises `Unavailable` where another process has just begun to close the storage."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        with self.locked("close", wait=False) as free:
            if not free:
                raise Unavailable("the last checkpoint is under way")
        self.inner.setup(schema, upgrade=upgrade)

    def close(self) -> None:
        with self.locked("close"):
            time.sleep(5 * WIDER)
            self.inner.close()


# Compare-and-set, increments, claims


class _SwapChecksThenWrites(Mutation):
    """A swap compares the revision, and then writes without comparing it."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        found = self.inner.get(collection, document.id)
        if found is None or found.revision != expected_revision:
            return False
        time.sleep(WIDER)
        cleared: dict[str, Plain] = dict.fromkeys(found.body)
        return self.inner.patch(collection, equal(id=document.id), {**cleared, **document.body}) > 0


@mutant("SWAP-4", base="sqlite")
class SwapChecksThenWrites(_SwapChecksThenWrites):
    """A swap compares the revision, and then writes without comparing it."""


@mutant("SWAP-4", base="sqlite")
class SwapByAReplica(_Cached):
    """A swap compares the revision that a replica has, which is 30 ms late, and may refuse the one that is right."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        stored = self.kept(f"{collection.name}/{document.id}", lambda: self.inner.get(collection, document.id))
        if stored is None or stored.revision != expected_revision:
            return False
        return self.inner.swap(collection, document, expected_revision)


@mutant("SWAP-5", base="sqlite")
class SwapTriesAgain(Mutation):
    """A swap that is refused is repeated with the revision that is stored now, until it succeeds."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        while not self.inner.swap(collection, document, expected_revision):
            found = self.inner.get(collection, document.id)
            if found is None or found.revision < expected_revision:
                return False
            expected_revision = found.revision
        return True


@mutant("SWAP-5", base="sqlite")
class SwapWithoutComparing(_SwapChecksThenWrites):
    """A swap compares the revision before it opens the transaction in which it writes."""


@mutant("PATCH-4", base="sqlite")
class IncrementsByReadAndWrite(Mutation):
    """An increment reads the number, adds to it, and writes the sum."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if not any(isinstance(value, Increment) for value in changes.values()):
            return self.inner.patch(collection, where, changes)
        found = self.inner.find(collection, where)
        time.sleep(WIDER)
        for one in found:
            after = changed(one.body, changes)
            self.inner.patch(collection, equal(id=one.id), {name: after[name] for name in changes})
        return len(found)


@mutant("PATCH-4", base="sqlite")
class IncrementsAreRepeated(Beside):
    """A patch that meets another one is done, and then repeated as if it had failed."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        with self.locked("patch", wait=False) as free:
            done = self.inner.patch(collection, where, changes)
            time.sleep(WIDER)
        return done if free else self.inner.patch(collection, where, changes)


@mutant("CLAIM-3", base="sqlite")
class ClaimByReadThenWrite(Mutation):
    """A claim reads the first match and then writes it, whoever has claimed it in between."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        found = self.inner.find(collection, where, order, 1)
        if not found:
            return None
        self.inner.patch(collection, equal(id=found[0].id), changes)
        found[0].body = changed(found[0].body, changes)
        found[0].revision += 1
        return found[0]


@mutant("CLAIM-3", base="sqlite")
class ClaimsFromAPrefetchedBatch(Mutation):
    """A claim takes from a batch that the process has read ahead, and writes what it takes without asking again."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._ahead: list[Document] = []

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if not self._ahead:
            self._ahead = self.inner.find(collection, where, order, 8)
        if not self._ahead:
            return None
        one = self._ahead.pop(0)
        self.inner.patch(collection, equal(id=one.id), changes)
        return Document(one.id, changed(one.body, changes), one.revision + 1)


@mutant("CLAIM-4", base="sqlite")
class ClaimSkipsWhatIsLocked(Beside):
    """A claim skips documents on which any other write is going on, and says None where that leaves none."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        found = self.inner.find(collection, where)
        done = 0
        for one in found:
            with self.locked(one.id):
                time.sleep(WIDER / 2)
                done += self.inner.patch(collection, (Comparison("id", "=", one.id), *where), changes)
        return done

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        for one in self.inner.find(collection, where, order, 16):
            with self.locked(one.id, wait=False) as free:
                if not free:
                    continue
                taken = self.inner.claim(collection, (Comparison("id", "=", one.id), *where), changes)
            if taken is not None:
                return taken
        return None


@mutant("CLAIM-4", base="sqlite")
class ClaimGivesUp(Mutation):
    """A claim that finds its document changed when it wants to write says None, and does not look again."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        found = self.inner.find(collection, where, order, 1)
        if not found:
            return None
        one = found[0]
        after = Document(one.id, changed(one.body, changes), one.revision + 1)
        return after if self.inner.swap(collection, after, one.revision) else None


# Inserting and deleting the same


@mutant("INSERT-9", base="sqlite")
class InsertChecksThenWrites(Mutation):
    """An insertion looks whether the id is taken, and then stores the document over whatever is there by then."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        taken = {one.id for one in documents if self.inner.get(collection, one.id) is not None}
        time.sleep(WIDER)
        refused = self.inner.insert(collection, documents)
        late = [one for one in refused if one.key == ("id",) and one.id not in taken]
        for one in late:
            self.inner.patch(collection, equal(id=one.id), documents[one.position].body)
        return [one for one in refused if one not in late]


@mutant("INSERT-9", base="sqlite")
class DuplicatesAreSwallowed(Mutation):
    """An insertion looks for the unique key, and what is refused by the database after that is taken for stored."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        taken = {
            (one.id, key)
            for one in documents
            for key in collection.unique
            if all(one.body.get(name) is not None for name in key)
            and self.inner.count(collection, equal(**{name: one.body.get(name) for name in key}))
        }
        time.sleep(WIDER)
        refused = self.inner.insert(collection, documents)
        return [one for one in refused if one.key == ("id",) or (one.id, one.key) in taken]


@mutant("DELETE-3", base="sqlite")
class DeletionsAreCountedBefore(Mutation):
    """A deletion counts what matches, and then deletes it."""

    def delete(self, collection: Collection, where: Filter) -> int:
        matching = self.inner.count(collection, where)
        time.sleep(WIDER)
        self.inner.delete(collection, where)
        return matching


# Whole documents, whole counts, whole transactions


@mutant("FIND-10", base="sqlite")
class WritesInTwoSteps(Mutation):
    """A swap writes the declared texts first, and the rest in a second statement."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        texts = {field.name for field in collection.fields if field.kind in ("string", "text")}
        some = {name: value for name, value in document.body.items() if name in texts}
        if not self.inner.patch(collection, equal(id=document.id, revision=expected_revision), some):
            return False
        time.sleep(WIDER)
        return self.inner.patch(collection, equal(id=document.id), document.body) > 0


@mutant("FIND-10", base="sqlite")
class ReadsInTwoSteps(Mutation):
    """A read gets the large texts of a document by a second statement."""

    def get(self, collection: Collection, identifier: str) -> Document | None:
        found = self.inner.get(collection, identifier)
        time.sleep(WIDER)
        again = self.inner.get(collection, identifier)
        if found is not None and again is not None:
            texts = {field.name for field in collection.fields if field.kind == "text"}
            found.body |= {name: value for name, value in again.body.items() if name in texts}
        return found


@mutant("TALLY-2", base="sqlite")
class TalliesByManyStatements(Mutation):
    """A tally finds the values first, and then counts each by a statement of its own."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        values = self.inner.tally(collection, where, field)
        counts: dict[str | float | bool | None, int] = {}
        for value in values:
            time.sleep(WIDER / 2)
            counts[value] = self.inner.count(collection, (*where, Comparison(field, "=", value)))
        return {value: count for value, count in counts.items() if count}


@mutant("TALLY-2", base="sqlite")
class TalliesScanAnIndexThatMoves(Mutation):
    """A tally reads an index in parts, so that a document that moves meanwhile is counted twice, or not at all."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        counts: dict[str | float | bool | None, int] = {}
        for value in sorted(self.inner.tally(collection, where, field), key=str):
            found = self.inner.find(collection, (*where, Comparison(field, "=", value)))
            if found:
                counts[value] = len(found)
        return counts


@mutant("TRANSACTION-3", base="sqlite")
class TransactionsAreUndoneByHand(Mutation):
    """In a transaction each write is seen at once, and what was there before is written back where it is left."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._undo: list[Callable[[], object]] | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._undo = []
        try:
            yield
        except BaseException:
            for step in reversed(self._undo):
                step()
            raise
        finally:
            self._undo = None

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if self._undo is None:
            return self.inner.patch(collection, where, changes)
        for one in self.inner.find(collection, where):
            before = {name: one.body.get(name) for name in changes}
            self._undo.append(partial(self.inner.patch, collection, equal(id=one.id), before))
        return self.inner.patch(collection, where, changes)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if self._undo is not None:
            names = tuple(one.id for one in documents)
            self._undo.append(partial(self.inner.delete, collection, (Comparison("id", "in", names),)))
        return self.inner.insert(collection, documents)


@mutant("TRANSACTION-3", base="sqlite")
class TransactionsCommitHalfway(Mutation):
    """The insertion of a document commits the transaction in which it is made, and begins another."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._open: contextlib.AbstractContextManager[None] | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._open = self.inner.transaction()
        self._open.__enter__()
        try:
            yield
        except BaseException as error:
            self._open.__exit__(type(error), error, error.__traceback__)
            raise
        else:
            self._open.__exit__(None, None, None)
        finally:
            self._open = None

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        if self._open is not None:
            self._open.__exit__(None, None, None)
            time.sleep(WIDER)
            self._open = self.inner.transaction()
            self._open.__enter__()
        return refused


# Fairness


@mutant("FAIR-1", base="sqlite")
class WhoWaitsWaitsLonger(Beside):
    """Who finds the storage busy waits twice as long each time, and never less again."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._wait = 0.02

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        while True:
            with self.locked("write", wait=False) as free:
                if free:
                    return self.inner.patch(collection, where, changes)
            time.sleep(self._wait)
            self._wait = min(2 * self._wait, 5.0)
