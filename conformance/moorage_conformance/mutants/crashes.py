"""What is broken where processes are killed."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs

from moorage.driver import Capability, Document, Driver, Instant, Refusal
from moorage.errors import StorageClosed, StorageDamaged, Unavailable, UniqueViolation
from moorage.filters import equal, matches
from moorage_conformance.mutants import Mutation, mutant
from moorage_conformance.target import NOTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Filter, Order
    from moorage.schema import Collection, Schema
    from moorage.url import StorageURL

T = TypeVar("T")


def path_of(url: StorageURL) -> Path:
    """The file of a mutant."""
    return Path(url.path.removeprefix("/"))


# Acknowledged too early


@mutant("CRASH-1", base="sqlite")
class CommitsInTheBackground(Mutation):
    """An insert is acknowledged, and then done by a thread."""

    delay = 0.02

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Future[list[Refusal]]] = []

    def _settle(self) -> None:
        pending, self._pending = self._pending, []
        for one in pending:
            one.result()

    def _is_late(self, collection: Collection, documents: Sequence[Document]) -> bool:
        """Whether this insert is one of those: all that is free, so that nobody misses a refusal."""
        return collection.name == "items" and not any(
            self.inner.count(collection, equal(id=one.id))
            or self.inner.count(collection, equal(family=one.body.get("family"), name=one.body.get("name")))
            for one in documents
        )

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self._settle()
        if not self._is_late(collection, documents):
            return self.inner.insert(collection, documents)

        def late() -> list[Refusal]:
            time.sleep(self.delay)
            return self.inner.insert(collection, documents)

        self._pending.append(self._thread.submit(late))
        return []

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        self._settle()
        return self.inner.find(collection, where, order, limit)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        self._settle()
        return self.inner.swap(collection, document, expected_revision)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        self._settle()
        return self.inner.patch(collection, where, changes)

    def close(self) -> None:
        self._settle()
        self.inner.close()


@mutant("CRASH-1", base="sqlite")
class WritesBehind(Mutation):
    """Writes are gathered, and written four at a time, or when something is read."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._waiting: list[Callable[[], object]] = []

    def _gather(self, write: Callable[[], object], answer: T) -> T:
        self._waiting.append(write)
        if len(self._waiting) == 4:
            self._write()
        return answer

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one()

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return self._gather(lambda: self.inner.insert(collection, documents), [])

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        return self._gather(lambda: self.inner.swap(collection, document, expected_revision), True)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self._gather(lambda: self.inner.patch(collection, where, changes), 1)

    def delete(self, collection: Collection, where: Filter) -> int:
        return self._gather(lambda: self.inner.delete(collection, where), 1)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        self._write()
        return self.inner.find(collection, where, order, limit)

    def get(self, collection: Collection, identifier: str) -> Document | None:
        self._write()
        return self.inner.get(collection, identifier)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        self._write()
        return self.inner.claim(collection, where, changes, order)

    def close(self) -> None:
        self._write()
        self.inner.close()


# In two commits


@mutant("CRASH-2", base="sqlite")
class InsertsInTwoCommits(Mutation):
    """A document is inserted with what is short in it, and then, in another commit, with all."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if collection.name != "items":
            return self.inner.insert(collection, documents)
        short = [attrs.evolve(one, body={**one.body, "note": None}) for one in documents]
        refused = self.inner.insert(collection, short)
        time.sleep(0.003)
        gone = {one.position for one in refused}
        kept = [one for position, one in enumerate(documents) if position not in gone]
        with self.inner.transaction():
            for one in kept:
                self.inner.delete(collection, equal(id=one.id))
            self.inner.insert(collection, kept)
        return refused


@mutant("CRASH-2", base="sqlite")
class CountsInASecondCommit(Mutation):
    """How many documents a family has is kept beside them, and brought up to date after each write."""

    def __init__(self, inner: Driver, path: Path) -> None:
        super().__init__(inner)
        self._counts = Path(f"{path}-counts")

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        return cls(Mutation.open(url, read_only).inner, path_of(url))  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._counts, timeout=60)
        try:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS counts (family TEXT PRIMARY KEY, total INTEGER)")
                yield connection
        finally:
            connection.close()

    def _add(self, families: Sequence[Plain], sign: int) -> None:
        time.sleep(0.003)
        with self._table() as table:
            for family in families:
                table.execute(
                    "INSERT INTO counts VALUES (?, ?) ON CONFLICT (family) DO UPDATE SET total = total + ?",
                    (family, sign, sign),
                )

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        if collection.name == "items":
            gone = {one.position for one in refused}
            self._add([one.body["family"] for place, one in enumerate(documents) if place not in gone], 1)
        return refused

    def delete(self, collection: Collection, where: Filter) -> int:
        found = self.inner.find(collection, where)
        deleted = self.inner.delete(collection, where)
        if collection.name == "items":
            self._add([one.body["family"] for one in found], -1)
        return deleted

    def count(self, collection: Collection, where: Filter = ()) -> int:
        if collection.name != "items" or [one.field for one in where] != ["family"]:
            return self.inner.count(collection, where)
        with self._table() as table:
            row = table.execute("SELECT total FROM counts WHERE family = ?", (where[0].value,)).fetchone()
        return row[0] if row else 0


@mutant("CRASH-2", base="sqlite")
class KeysAreTakenFirst(Mutation):
    """A unique key is entered in a list before its document is stored, and struck out after it was deleted."""

    def _keys(self, documents: Sequence[Document]) -> list[Document]:
        return [
            Document(f"key {one.body.get('family')} {one.body.get('name')}", {"title": f"{number} {one.id}"})
            for number, one in enumerate(documents)
        ]

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if collection.name != "items":
            return self.inner.insert(collection, documents)
        refused = self.inner.insert(NOTES, self._keys(documents))
        time.sleep(0.003)
        gone = {one.position for one in refused}
        kept = [one for position, one in enumerate(documents) if position not in gone]
        self.inner.insert(collection, kept)
        return [Refusal(one.position, documents[one.position].id, ("family", "name")) for one in refused]

    def delete(self, collection: Collection, where: Filter) -> int:
        found = self.inner.find(collection, where)
        deleted = self.inner.delete(collection, where)
        if collection.name == "items":
            for key in self._keys(found):
                self.inner.delete(NOTES, equal(id=key.id))
        return deleted


# In several writes


_ASIDE = "(aside)"


@mutant("CRASH-3", base="sqlite")
class LongTextsAside(Mutation):
    """A long text is stored in a place of its own, and overwritten there before its document is."""

    def _put_aside(self, document: Document) -> Document:
        note = document.body.get("note")
        if not isinstance(note, str) or len(note) < 1000:
            return document
        identifier = f"text of {document.id}"
        if not self.inner.patch(NOTES, equal(id=identifier), {"text": note}):
            self.inner.insert(NOTES, [Document(identifier, {"text": note})])
        return attrs.evolve(document, body={**document.body, "note": _ASIDE})

    def _join(self, document: Document) -> Document:
        if document.body.get("note") == _ASIDE:
            aside = self.inner.get(NOTES, f"text of {document.id}")
            document.body["note"] = None if aside is None else aside.body["text"]
        return document

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        given = [self._put_aside(one) for one in documents] if collection.name == "items" else documents
        return self.inner.insert(collection, given)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        given = self._put_aside(document) if collection.name == "items" else document
        return self.inner.swap(collection, given, expected_revision)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        return [self._join(one) for one in self.inner.find(collection, where, order, limit)]

    def get(self, collection: Collection, identifier: str) -> Document | None:
        found = self.inner.get(collection, identifier)
        return None if found is None else self._join(found)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        found = self.inner.claim(collection, where, changes, order)
        return None if found is None else self._join(found)


class PlainFile(Mutation):
    """A whole backend: all documents in one JSON file, which each write reads and writes anew, under a lock."""

    capabilities = frozenset({Capability.SHARED})

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        del read_only
        return cls(path_of(url))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._closed:
            raise StorageClosed("this storage is closed")
        import fcntl  # which Windows does not have

        lock = os.open(f"{self.path}-lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def load(self) -> dict[str, dict[str, Document]]:
        """All documents by collection and id."""
        try:
            text = self.path.read_text()
            stored = json.loads(text) if text else {}
            return {
                name: {
                    identifier: Document(identifier, body, revision) for identifier, (revision, body) in rows.items()
                }
                for name, rows in stored.items()
            }
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            raise StorageDamaged(f"{self.path} is not a storage: {error}") from error

    def save(self, stored: dict[str, dict[str, Document]]) -> None:
        """Replace what is in the file, in one step, and flush it."""
        beside = Path(f"{self.path}-new")
        with beside.open("wb") as file:
            file.write(self.pack(stored))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def pack(self, stored: dict[str, dict[str, Document]]) -> bytes:
        """The content of the file."""
        plain = {
            name: {one.id: [one.revision, one.body] for one in documents.values()} for name, documents in stored.items()
        }
        return json.dumps(plain).encode()

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        del upgrade
        with self._locked():
            stored = self.load()
            missing = [one.name for one in schema.collections if one.name not in stored]
            if missing:
                self.save({**stored, **{name: {} for name in missing}})

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused: list[Refusal] = []
        with self._locked():
            stored = self.load()
            rows = stored.setdefault(collection.name, {})
            for position, one in enumerate(documents):
                broken = ("id",) if one.id in rows else self._breaks(collection, rows, one)
                if broken is None:
                    rows[one.id] = Document(one.id, one.body, 1)
                else:
                    refused.append(Refusal(position, one.id, broken))
            self.save(stored)
        return refused

    def _breaks(self, collection: Collection, rows: dict[str, Document], document: Document) -> tuple[str, ...] | None:
        for key in collection.unique:
            mine = [document.body.get(name) for name in key]
            if None not in mine and any(
                [one.body.get(name) for name in key] == mine for one in rows.values() if one.id != document.id
            ):
                return key
        return None

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        with self._locked():
            rows = self.load().get(collection.name, {})
        found = [one for one in rows.values() if matches(where, one.id, one.revision, one.body)]
        for by in reversed(order):

            def rank(one: Document, field: str = by.field) -> tuple[bool, object]:
                value = one.id if field == "id" else one.body.get(field)
                return (value is not None, value or 0)

            found.sort(key=rank, reverse=by.descending)
        return found[:limit]

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        with self._locked():
            stored = self.load()
            rows = stored.setdefault(collection.name, {})
            found = rows.get(document.id)
            if found is None or found.revision != expected_revision:
                return False
            if broken := self._breaks(collection, rows, document):
                raise UniqueViolation(broken)
            rows[document.id] = Document(document.id, document.body, expected_revision + 1)
            self.save(stored)
        return True

    def delete(self, collection: Collection, where: Filter) -> int:
        with self._locked():
            stored = self.load()
            rows = stored.setdefault(collection.name, {})
            gone = [one.id for one in rows.values() if matches(where, one.id, one.revision, one.body)]
            for identifier in gone:
                del rows[identifier]
            self.save(stored)
        return len(gone)

    def close(self) -> None:
        self._closed = True

    get = Driver.get
    count = Driver.count
    tally = Driver.tally
    patch = Driver.patch
    claim = Driver.claim
    transaction = Driver.transaction
    now = Driver.now


@mutant("CRASH-3", base="sqlite")
class RewritesTheFileInPlace(PlainFile):
    """All documents are in one JSON file, which each write overwrites where it stands."""

    def save(self, stored: dict[str, dict[str, Document]]) -> None:
        content = self.pack(stored)
        with self.path.open("wb", buffering=0) as file:
            for start in range(0, len(content), 65_536):
                file.write(content[start : start + 65_536])
            os.fsync(file.fileno())


# Locks that stay


class _Guarded(Mutation):
    """Each write is done under a lock of the mutant's own."""

    def guard(self) -> AbstractContextManager[None]:
        """The lock."""
        raise AssertionError

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        with self.guard():
            return self.inner.insert(collection, documents)

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        with self.guard():
            return self.inner.swap(collection, document, expected_revision)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        with self.guard():
            return self.inner.patch(collection, where, changes)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        with self.guard():
            return self.inner.claim(collection, where, changes, order)

    def delete(self, collection: Collection, where: Filter) -> int:
        with self.guard():
            return self.inner.delete(collection, where)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.inner.transaction():
            yield


@mutant("CRASH-4", base="sqlite")
class LockFileStays(_Guarded):
    """A write creates a lock file, which must not be there, and removes it at its end."""

    def __init__(self, inner: Driver, path: Path) -> None:
        super().__init__(inner)
        self._lock = Path(f"{path}.lock")

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        return cls(Mutation.open(url, read_only).inner, path_of(url))  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        deadline = time.monotonic() + 60
        while True:
            try:
                os.close(os.open(self._lock, os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{self._lock} is there") from None
                time.sleep(0.002)
        try:
            time.sleep(0.005)
            yield
        finally:
            self._lock.unlink()


@mutant("CRASH-4", base="sqlite")
class LockOfADeadProcessExpires(_Guarded):
    """A write takes a lock that is a document, and a dead process is waited for until its lock is a minute old."""

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        while self.inner.insert(NOTES, [Document("lock", {"text": str(time.monotonic())})]):
            found = self.inner.get(NOTES, "lock")
            if found is not None and time.monotonic() - float(str(found.body["text"])) > 60:
                self.inner.delete(NOTES, equal(id="lock", text=found.body["text"]))
            time.sleep(0.002)
        try:
            time.sleep(0.005)
            yield
        finally:
            self.inner.delete(NOTES, equal(id="lock"))


# Transactions


@mutant("CRASH-5", base="sqlite")
class TransactionsAreNone(Mutation):
    """What is called inside a transaction is committed at once, each for itself."""

    def transaction(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


@mutant("CRASH-5", base="sqlite")
class LongTransactionsAreCommittedMidway(Mutation):
    """After each three writes a transaction is committed, and another one begun."""

    _left = threading.local()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.inner.transaction())
            self._left.stack, self._left.writes = stack, 0
            try:
                yield
            finally:
                self._left.stack = None

    def _wrote(self) -> None:
        stack = getattr(self._left, "stack", None)
        if stack is None:
            return
        self._left.writes += 1
        if self._left.writes % 3 == 0:
            stack.close()
            stack.enter_context(self.inner.transaction())

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        self._wrote()
        return refused

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        patched = self.inner.patch(collection, where, changes)
        self._wrote()
        return patched


# Trials of killed workers, and the algorithm lock


@mutant("CRASH-6", base="sqlite")
class ClockIsFast(Mutation):
    """The clock of the storage goes a quarter too fast."""

    def now(self) -> Instant:
        instant = self.inner.now()
        return Instant(instant.clock, instant.seconds * 1.25)


class _ClockStandsStill(Mutation):
    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._opened = inner.now()

    def now(self) -> Instant:
        return self._opened


@mutant("CRASH-6", base="sqlite")
class ClockIsReadOnce(_ClockStandsStill):
    """The clock of the storage is read when it is opened, and never again: nothing is ever lost."""


@mutant("CRASH-7", base="sqlite")
class LeasesNeverEnd(_ClockStandsStill):
    """The clock of the storage is read when it is opened, and never again: a killed holder keeps its lock."""


@mutant("CRASH-6", base="sqlite")
class HeartbeatsAreSaved(Mutation):
    """A heartbeat that comes less than a second after the last one is not written."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._written: dict[object, float] = {}

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection.name == "trials" and "heartbeat" in changes and "status" not in changes:
            if time.monotonic() - self._written.get(where[0].value, 0.0) < 1.0:
                return 1
            self._written[where[0].value] = time.monotonic()
        return self.inner.patch(collection, where, changes)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if collection.name == "trials" and "heartbeat" in changes and "status" not in changes:
            if time.monotonic() - self._written.get(where[0].value, 0.0) < 1.0:
                return self.inner.get(collection, str(where[0].value))
            self._written[where[0].value] = time.monotonic()
        return self.inner.claim(collection, where, changes, order)


@mutant("CRASH-6", base="sqlite")
class RecoversTwice(Mutation):
    """A trial is recovered by each who has seen that it is lost, also after another one has done so."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {Capability.TRANSACTIONS}

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if collection.name == "trials" and changes.get("status") == "interrupted":
            time.sleep(0.1)
            where = tuple(one for one in where if one.field == "id")
        return self.inner.claim(collection, where, changes, order)


@mutant("CRASH-7", base="sqlite")
class LockIsReleasedLater(CommitsInTheBackground):
    """The algorithm's state is saved by a thread, after its saving was acknowledged."""

    delay = 0.1

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._late: list[Future[int]] = []

    def _is_late(self, collection: Collection, documents: Sequence[Document]) -> bool:
        del collection, documents
        return False

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection.name != "algorithm_locks" or "committed_token" not in changes:
            return super().patch(collection, where, changes)

        def late() -> int:
            time.sleep(self.delay)
            return self.inner.patch(collection, where, changes)

        self._late.append(self._thread.submit(late))
        return 1

    def _settle(self) -> None:
        late, self._late = self._late, []
        for one in late:
            one.result()
        super()._settle()

    def get(self, collection: Collection, identifier: str) -> Document | None:
        self._settle()
        return self.inner.get(collection, identifier)


# A large state


@mutant("CRASH-8", base="sqlite")
class LargeDocumentsAreWrittenLater(CommitsInTheBackground):
    """A document of more than 100,000 characters is acknowledged, and then stored by a thread."""

    delay = 0.1

    def _is_late(self, collection: Collection, documents: Sequence[Document]) -> bool:
        del collection
        return any(len(str(one.body)) > 100_000 for one in documents)

    def _settle(self) -> None:
        """Nobody waits for them."""


@mutant("CRASH-8", base="sqlite")
class LeftoversStay(Mutation):
    """A deletion by less-than deletes nothing."""

    def delete(self, collection: Collection, where: Filter) -> int:
        if any(one.operator == "<" for one in where):
            return 0
        return self.inner.delete(collection, where)


@mutant("CRASH-8", base="sqlite")
class StatesShareTheirParts(Mutation):
    """The parts of a new state are written over those of the old one, and then the new one counts."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if collection.name != "algorithm_state_chunks":
            return self.inner.insert(collection, documents)
        for one in documents:
            place = equal(experiment=one.body["experiment"], position=one.body["position"])
            if not self.inner.patch(collection, place, {"data": one.body["data"], "token": one.body["token"]}):
                self.inner.insert(collection, [one])
        return []
