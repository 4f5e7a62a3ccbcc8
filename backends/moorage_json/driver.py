"""The driver: all documents in tables in memory, each write in the journal, and what others wrote read from there."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, cast

from moorage import forks
from moorage.driver import Capability, Instant
from moorage.errors import (
    ConfigurationError,
    SchemaMismatch,
    StorageClosed,
    StorageDamaged,
    StorageError,
    StorageReadOnly,
    Unavailable,
    shown,
)
from moorage.files import NETWORK_FILE_SYSTEMS, boot_clock, file_system, path_of
from moorage.schema import Collection, Schema
from moorage.table import Table, TableDriver
from moorage_json import snapshot
from moorage_json.snapshot import Snapshot
from moorage_json.storage import FAR_BEHIND, JournalStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorage.codec import Plain
    from moorage.plugins import OptionValue
    from moorage.schema import Field
    from moorage.table import Row
    from moorage.url import StorageURL
    from moorage_json.reading import Change
    from moorage_json.snapshot import Stored

_PATIENCE = 5.0
"""Seconds to wait for other threads before a fork, and before closing."""
_TRIES = 5
"""How often what others have written is read before the lock is taken, until it is read where they wait for it."""
_OWN = ("id", "revision", "body")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "text": (str,),
    "time": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class NumberedTable(Table):
    """A table whose rows have the numbers by which tinydb knows them; they stay when others come and go."""

    def __init__(self, collection: Collection) -> None:
        super().__init__(collection)
        self.numbers: dict[str, int] = {}
        self.last = 0

    def put(self, identifier: str, row: Row | None) -> Row | None:
        """See `Table.put`."""
        if row is None:
            self.numbers.pop(identifier, None)
        elif identifier not in self.numbers:
            self.last += 1
            self.numbers[identifier] = self.last
        return super().put(identifier, row)

    def stored(self, identifier: str) -> Stored:
        """A row as it is written: its id, its revision, and its body without what is null by itself."""
        document = self.document(identifier, self.rows[identifier])
        own: Stored = {"id": identifier, "revision": document.revision}
        body = {name: value for name, value in document.body.items() if value is not None or name not in self.position}
        if any(name in body for name in _OWN):
            return {**own, "body": body}
        return {**own, **body}

    def take(self, stored: Stored) -> None:
        """Put a row as it is written."""
        self.put(cast("str", stored["id"]), self.read(stored))

    def read(self, stored: Stored) -> Row:
        """The row of a document as it is written."""
        body = stored.get("body")
        if not isinstance(body, dict) or len(stored) != len(_OWN):
            body = {name: value for name, value in stored.items() if name not in ("id", "revision")}
        return self.row(body, cast("int", stored["revision"]))

    def fill_numbered(self, documents: Mapping[str, Stored]) -> None:
        """Take over all documents of a table that is empty, by the numbers that they have."""
        self.fill({cast("str", document["id"]): self.read(document) for document in documents.values()})
        self.numbers = dict(zip(self.rows, map(int, documents), strict=True))
        self.last = max(self.numbers.values(), default=0)


class JSONDriver(TableDriver):
    """A Moorage storage in one JSON file."""

    name = "json"

    def __init__(self, url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> None:
        """Look at the place; nothing is created yet.

        Raises:
            ConfigurationError: the URL names no usable file, or one on a network file system.
        """
        super().__init__()
        self._path = path_of(url, ".json")
        self._read_only = read_only
        durable, network = options["durability"] == "full", bool(options["network"])
        busy_timeout = float(cast("float", options["busy_timeout"]))
        if busy_timeout < 0:
            raise ConfigurationError(f"option 'busy_timeout' must be 0 seconds or more, not {busy_timeout:g}")
        folder = Path(self._path).parent
        if not folder.is_dir():
            raise ConfigurationError(f"{url}: there is no folder {str(folder)!r}; create it first")
        try:
            is_folder = Path(self._path).is_dir()
        except OSError as error:
            raise ConfigurationError(f"{url}: {error.strerror}; name another file") from error
        if is_folder:
            raise ConfigurationError(f"{url}: {self._path!r} is a folder; name a file in it")
        kind = file_system(self._path)
        if kind in NETWORK_FILE_SYSTEMS and not network:
            raise ConfigurationError(
                f"{self._path} is on a network file system ({kind}), where locks cannot be trusted and what others "
                "write is seen late: trials would be handed out twice. Use a local disk or a server "
                "(postgresql://, mysql://), or add ?network=true if only one machine uses it"
            )
        self._boot = None if network else boot_clock()
        capabilities = {Capability.SHARED, Capability.TRANSACTIONS}
        if durable:
            capabilities.add(Capability.DURABLE)
        if self._boot is not None:
            capabilities.add(Capability.SERVER_CLOCK)
        self.capabilities = frozenset(capabilities)
        self._busy_timeout = busy_timeout
        self._file = JournalStorage(self._path, durable=durable, busy_timeout=busy_timeout, read_only=read_only)
        self._schema = Schema(0, ())
        self._head: Stored = {}
        self._tables: dict[str, NumberedTable] = {}
        self._closed = False
        self._is_quiet = False
        self._forget_locks()
        weakref.finalize(self, self._file.close).atexit = False
        _drivers.add(self)
        forks.watch(self)

    def _forget_locks(self) -> None:
        # Whoever wants to write waits in turn, and holds the tables only while it does: readers need not wait for it.
        self._turn = threading.RLock()
        self._mutex = threading.RLock()

    # Preparation

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`; all is read, and nothing written where nothing is missing."""
        with self._turn, self._mutex:
            self._check_open()
            self._schema = schema
            found = self._file.load()
            if found is None and self._read_only:
                raise ConfigurationError(f"there is no file {self._path!r}, so it cannot be read")
            if found is not None and self._is_current(found[0], upgrade=upgrade):
                self._fill(*found)
                return
            if self._read_only:
                raise StorageReadOnly(f"{self._path} was opened read-only, so it cannot be upgraded")
            with self._file.locked():
                found = self._file.load()
                self._fill(*(found or (Snapshot({}, {}, is_edited=False), [])))
                if found is None or not self._is_current(found[0], upgrade=upgrade):
                    self._head["schema"] = schema.version
                    self._file.rewrite(self._head, self._all())

    def _is_current(self, content: Snapshot, *, upgrade: bool = False) -> bool:
        stored = content.head.get("schema")
        if not isinstance(stored, int):
            raise StorageDamaged(f"{self._path} is no Moorage storage: it names no schema version; name another file")
        is_current = self._schema.accepts(stored, f"json:///{self._path}", upgrade=upgrade)
        if "storage" not in content.head and not upgrade:
            raise SchemaMismatch(
                f"{self._path} was written by an older release of Moorage: run `moorage upgrade json:///{self._path}`",
                stored=stored,
                supported=self._schema.version,
            )
        return is_current and "storage" in content.head

    def _fill(self, content: Snapshot, changes: list[Change]) -> None:
        self._head = content.head
        self._tables = {one.name: NumberedTable(one) for one in self._schema.collections}
        for name, documents in content.tables.items():
            table = self._table(name)
            self._check(table, documents, thoroughly=content.is_edited)
            table.fill_numbered(documents)
        for change in changes:
            self._apply(change)

    def _check(self, table: NumberedTable, documents: Mapping[str, Stored], *, thoroughly: bool) -> None:
        """Whether the documents of the snapshot, which a hand may have changed, can be those of this table."""
        found: set[Plain] = set()
        probe = Table(table.collection)
        for number, document in documents.items():
            identifier, revision = document.get("id"), document.get("revision")
            wrong: str | None = None
            if not number.isdecimal() or str(int(number)) != number:
                wrong = " needs a whole number for its name"
            elif not isinstance(identifier, str) or type(revision) is not int or revision < 1:
                wrong = " needs an id that is a text, and a revision of 1 or more"
            elif identifier in found:
                wrong = f" has the id {shown(identifier)}, which another one has already"
            elif thoroughly:
                wrong = _misfit(table, document)
                row = table.read(document)
                if wrong is None and (broken := probe.breaks(identifier, row)) is not None:
                    wrong = f" has the same {' and '.join(broken)} as another one"
                probe.put(identifier, row)
            if wrong is not None:
                raise StorageDamaged(f"{self._path}: document {shown(number)} of {table.collection.name!r}{wrong}")
            found.add(identifier)

    def _table(self, name: str) -> NumberedTable:
        """The table of this name; one of a collection that was not declared is kept as it is."""
        if name not in self._tables:
            self._tables[name] = NumberedTable(Collection(name=name, fields=()))
        return self._tables[name]

    def _apply(self, change: Change) -> None:
        name, stored = change
        table = self._table(name)
        if isinstance(stored, str):
            table.put(stored, None)
        else:
            table.take(stored)

    # Access

    def _check_open(self) -> None:
        if self._closed:
            raise StorageClosed(f"the storage {self._path} is closed; connect again")

    def _refresh(self, limit: int | None = None, *, may_load: bool = True) -> bool:
        """Read what others have written; False where that is more than ``limit`` bytes, or must all be loaded."""
        try:
            news = self._file.news(limit)
            if news is None and not may_load:
                return False
            if news is None:
                self._reload()
            else:
                for change in news:
                    self._apply(change)
        except BaseException:
            self._file.forget()
            raise
        return True

    def _reload(self) -> None:
        found = self._file.load()
        if found is None:
            raise StorageDamaged(f"{self._path} was deleted or moved away while it was in use")
        self._is_current(found[0])
        self._fill(*found)

    @contextlib.contextmanager
    def _waiting(self, lock: threading.RLock) -> Iterator[None]:
        if not lock.acquire(timeout=self._busy_timeout):
            raise Unavailable(
                f"{self._path}: another thread of this process has been in a transaction, or waiting for one, for "
                f"{self._busy_timeout:g} s"
            )
        try:
            yield
        finally:
            lock.release()

    def _existing(self, collection: Collection) -> Table:
        table = self._tables.get(collection.name)
        if table is None:
            raise StorageDamaged(f"{self._path} has no table {collection.name!r}; was the storage set up?")
        return table

    @contextlib.contextmanager
    def reading(self, collection: Collection) -> Iterator[Table]:
        """See `TableDriver.reading`."""
        with self._waiting(self._mutex):
            self._check_open()
            if self.changes is None:
                self._refresh()
            yield self._existing(collection)

    @contextlib.contextmanager
    def writing(self, collection: Collection) -> Iterator[Table]:
        """See `TableDriver.writing`; one record of the journal, which is written when the block ends."""
        if self._read_only:
            self._check_open()
            raise StorageReadOnly(f"{self._path} was opened read-only; connect without read_only to write")
        with self.transaction():
            yield self._existing(collection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Driver.transaction`; others who want to write wait until it ends, and so do readers of this process."""
        if self._read_only:
            self._check_open()
            yield
            return
        with self._waiting(self._turn):
            if self.changes is not None:
                with self.undoing():
                    yield
                return
            self._check_open()
            with contextlib.ExitStack() as held:
                self._lock(held)
                try:
                    with self.undoing() as changes:
                        yield
                        if changes:
                            self._file.append(_final(changes))
                except BaseException as error:
                    if not isinstance(error, Exception):  # an interrupt, perhaps in the middle of a change
                        self._file.forget()
                    raise
                is_folding = self._file.is_due and self._begin_fold()
            if is_folding:
                with contextlib.suppress(StorageError), self._waiting(self._mutex):
                    # Where it fails, all is in the journal, and it is tried again.
                    self._file.fold(self._head, self._all(), self._apply)

    def _lock(self, held: contextlib.ExitStack) -> None:
        """Keep all others from writing, with tables that are current.

        What takes long is read before: nobody waits for this process while it loads the file.
        """
        is_behind = self._file.is_far_behind
        for left in reversed(range(_TRIES)):
            if is_behind:
                with self._waiting(self._mutex):
                    self._refresh()
            held.enter_context(self._file.locked())
            held.enter_context(self._waiting(self._mutex))
            if self._refresh(FAR_BEHIND if left else None, may_load=not left):
                return
            held.close()
            is_behind = True

    def _begin_fold(self) -> bool:
        with contextlib.suppress(StorageError):
            return self._file.begin_fold()
        return False

    def _all(self) -> Iterator[tuple[str, Iterator[tuple[str, Stored]]]]:
        """What stands in the file: each table, and its documents by number."""
        for name, table in self._tables.items():
            yield name, ((str(table.numbers[one]), table.stored(one)) for one in table.rows)

    def now(self) -> Instant:
        """The kernel's clock since boot, with the id of that boot."""
        if self._boot is None:
            return super().now()
        self._check_open()
        return Instant(self._boot, time.clock_gettime(time.CLOCK_BOOTTIME))

    def close(self) -> None:
        """See `Driver.close`; the last one who has the storage open folds the journal into the file."""
        if not self._turn.acquire(timeout=_PATIENCE):
            self._closed = True
            return
        try:
            with self._mutex:
                if self._closed:
                    return
                self._closed = True
                with contextlib.suppress(StorageError, ConfigurationError):  # then all stays in the journal
                    if self._tables and self._file.is_last():
                        with self._file.locked():
                            self._refresh()
                            if self._file.has_records:
                                self._file.fold_last(self._head, self._all())
                self._file.close()
                self._tables = {}
        finally:
            self._turn.release()

    # A child has the files and the tables of its parent, but not its locks.

    def before_fork(self) -> None:
        """Wait until no thread is in the middle of a change."""
        self._is_quiet = self._mutex.acquire(timeout=_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Let the threads go on."""
        if self._is_quiet:
            self._is_quiet = False
            self._mutex.release()

    def after_fork_in_child(self) -> None:
        """Let go of what the parent has locked; what it was changing is not this process's to finish."""
        self._forget_locks()
        self._file.release()
        if not self._is_quiet or self.changes is not None:
            self.changes = None
            self._file.forget()


def _misfit(table: Table, document: Stored) -> str | None:
    """What a declared field has that it cannot have."""
    for field in table.collection.fields:
        value = document.get(field.name)
        if value is not None and not _fits(field, value):
            return f": {field.name!r} is of kind {field.kind}, and cannot be {shown(value)}"
    return None


def _fits(field: Field, value: Plain) -> bool:
    if field.kind == "json":
        return True
    return isinstance(value, _TYPES[field.kind]) and isinstance(value, bool) == (field.kind == "boolean")


def _final(changes: list[tuple[Table, str, Row | None]]) -> list[Change]:
    """What each document that was touched has become."""
    touched = {(id(table), identifier): cast("NumberedTable", table) for table, identifier, _ in changes}
    return [
        (table.collection.name, table.stored(identifier) if identifier in table.rows else identifier)
        for (_, identifier), table in touched.items()
    ]


def erase(url: StorageURL) -> None:
    """Remove the file of a storage, and those that belong to it; that there is none is fine.

    Raises:
        ConfigurationError: the URL names no file.
        StorageDamaged: the file is there, and it is no Moorage storage.
        StorageReadOnly: this user may not remove it.
    """
    path = Path(path_of(url, ".json"))
    if path.is_dir():
        raise ConfigurationError(f"{url}: {str(path)!r} is a folder; name a file in it")
    try:
        if path.exists() and not snapshot.may_be(path.read_bytes()):
            raise StorageDamaged(f"{path} is not a Moorage storage, so it stays; remove it yourself if you mean it")
        # The journal goes first: alone it would be taken for what is left of a storage.
        for suffix in ("-journal", "-journal-new", "-journal-damaged", "-new", "", "-lock"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        raise StorageReadOnly(f"{error.filename} cannot be removed: {error.strerror}") from error


_drivers: weakref.WeakSet[JSONDriver] = weakref.WeakSet()


def _close_all() -> None:
    """At the end of the process: who opens the file then shall find everything in it."""
    for driver in list(_drivers):
        driver.close()


atexit.register(_close_all)
