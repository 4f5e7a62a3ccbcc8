"""Ideas of which backends have been made that look right, and are right as long as one process is at work.

Each is a whole backend of its own, and no wrapper of a correct one; a third, to claim by reading and then writing, is
`moorage_conformance.mutants.concurrent_documents.ClaimByReadThenWrite`.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from moorage.codec import dumps, loads
from moorage.driver import Capability, Document, Driver, Refusal
from moorage.errors import (
    ConfigurationError,
    SchemaMismatch,
    StorageClosed,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.filters import lookup, matches
from moorage_conformance.mutants import mutant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moorage.filters import Filter, Order
    from moorage.schema import Collection, Schema
    from moorage.url import StorageURL


class Idea(Driver):
    """Reads all documents of a collection, looks for those that are meant, and writes what has changed.

    Args:
        path: of its file.
        read_only: whether it refuses to write.
    """

    capabilities = frozenset({Capability.SHARED})

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._closed = False
        self._lock = threading.RLock()

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Self:
        # Beside the place that the URL names, which belongs to a correct backend.
        opened = cls(Path(f"{url.path[1:]}.{cls.name}"), read_only)
        try:
            if not opened.path.parent.is_dir():
                raise ConfigurationError(f"{url}: there is no folder {str(opened.path.parent)!r}")
            opened.version()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"{url} cannot be opened: {error}") from error
        return opened

    @abc.abstractmethod
    def load(self, collection: str) -> dict[str, Document]:
        """All documents of a collection by id."""

    @abc.abstractmethod
    def save(self, collection: str, changes: Mapping[str, Document | None]) -> list[str]:
        """Write documents, or delete those given as None; the ids that were refused."""

    @abc.abstractmethod
    def version(self) -> int | None:
        """The stored version of the schema."""

    @abc.abstractmethod
    def create(self, version: int) -> None:
        """Store the version of the schema."""

    @contextlib.contextmanager
    def _working(self, *, writing: bool) -> Iterator[None]:
        if self._closed:
            raise StorageClosed("this storage is closed")
        if writing and self.read_only:
            raise StorageReadOnly("this storage was opened read-only")
        with self._lock:
            yield

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        with self._working(writing=False):
            stored = self.version()
            if stored == schema.version:
                return
            if stored is not None and (stored > schema.version or not upgrade):
                raise SchemaMismatch(
                    f"this storage has schema version {stored}, not {schema.version}",
                    stored=stored,
                    supported=schema.version,
                )
            if self.read_only:
                raise StorageReadOnly("this storage was opened read-only, and is not complete")
            self.create(schema.version)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        with self._working(writing=True):
            stored = self.load(collection.name)
            taken = {key: {_key(one, key) for one in stored.values()} for key in collection.unique}
            refused: list[Refusal] = []
            new: dict[str, Document] = {}
            places: dict[str, int] = {}
            for place, one in enumerate(documents):
                broken = [
                    key for key in collection.unique if _key(one, key) is not None and _key(one, key) in taken[key]
                ]
                if one.id in stored or one.id in new:
                    refused.append(Refusal(place, one.id, ("id",)))
                elif broken:
                    refused.append(Refusal(place, one.id, broken[0]))
                else:
                    new[one.id] = Document(one.id, one.body)
                    places[one.id] = place
                    for key in collection.unique:
                        taken[key].add(_key(one, key))
            refused += [Refusal(places[name], name, ("id",)) for name in self.save(collection.name, new)]
            return sorted(refused, key=lambda one: one.position)

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        with self._working(writing=False):
            stored = self.load(collection.name).values()
        found = [one for one in stored if matches(where, one.id, one.revision, one.body)]
        for by in reversed(order):
            found.sort(key=lambda one: _sortable(one, by.field), reverse=by.descending)
        return found if limit is None else found[: max(0, limit)]

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        with self._working(writing=True):
            stored = self.load(collection.name)
            current = stored.pop(document.id, None)
            if current is None or current.revision != expected_revision:
                return False
            for key in collection.unique:
                value = _key(document, key)
                if value is not None and any(_key(one, key) == value for one in stored.values()):
                    raise UniqueViolation(key)
            after = Document(document.id, document.body, expected_revision + 1)
            return not self.save(collection.name, {document.id: after})

    def delete(self, collection: Collection, where: Filter) -> int:
        with self._working(writing=True):
            gone = [one.id for one in self.find(collection, where)]
            self.save(collection.name, dict.fromkeys(gone))
            return len(gone)

    def close(self) -> None:
        self._closed = True


def _key(document: Document, names: tuple[str, ...]) -> str | None:
    """The values of a unique key, None where one of them is null."""
    values = [document.body.get(name) for name in names]
    return None if None in values else dumps(values)


def _sortable(document: Document, field: str) -> tuple[Any, ...]:
    if field in ("id", "revision"):
        return (1, getattr(document, field))
    value = lookup(document.body, field)
    return (0,) if value is None else (1, value)


@mutant("INSERT-9", base="sqlite")
class UnlockedJsonFile(Idea):
    """All documents are in one JSON file, which is read, changed in memory and rewritten, without a lock."""

    name = "json"

    def _read(self) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {"version": None, "collections": {}}

    def _write(self, content: dict[str, Any]) -> None:
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}")
        beside.write_text(dumps(cast("Any", content)), encoding="utf-8")
        beside.replace(self.path)

    def version(self) -> int | None:
        return cast("int | None", self._read()["version"])

    def create(self, version: int) -> None:
        self._write({**self._read(), "version": version})

    def load(self, collection: str) -> dict[str, Document]:
        return {
            name: Document(name, body, revision)
            for name, (revision, body) in self._read()["collections"].get(collection, {}).items()
        }

    def save(self, collection: str, changes: Mapping[str, Document | None]) -> list[str]:
        content = self._read()
        rows = content["collections"].setdefault(collection, {})
        for name, one in changes.items():
            if one is None:
                rows.pop(name, None)
            else:
                rows[name] = [one.revision, one.body]
        self._write(content)
        return []


@mutant("SWAP-5", base="sqlite")
class SqliteDefaultTransactionMode(Idea):
    """Documents are in SQLite, as Python opens it by default: a transaction begins with what is written, not read."""

    name = "sqlite3"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(self._connect()) as connection:
            try:
                with connection:
                    yield connection
            except sqlite3.OperationalError as error:
                raise Unavailable(str(error)) from error

    def version(self) -> int | None:
        with self._connected() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'version'").fetchall():
                return None
            rows: list[tuple[int]] = connection.execute("SELECT max(number) FROM version").fetchall()
        return rows[0][0]

    def create(self, version: int) -> None:
        with self._connected() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS version (number INTEGER)")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS documents "
                "(collection TEXT, id TEXT, revision INTEGER, body TEXT, PRIMARY KEY (collection, id))"
            )
            connection.execute("INSERT INTO version VALUES (?)", (version,))

    def load(self, collection: str) -> dict[str, Document]:
        with self._connected() as connection:
            rows = connection.execute("SELECT id, body, revision FROM documents WHERE collection = ?", (collection,))
            return {name: Document(name, cast("Any", loads(body)), revision) for name, body, revision in rows}

    def save(self, collection: str, changes: Mapping[str, Document | None]) -> list[str]:
        refused: list[str] = []
        with self._connected() as connection:
            for name, one in changes.items():
                if one is None:
                    connection.execute("DELETE FROM documents WHERE collection = ? AND id = ?", (collection, name))
                elif one.revision == 1:
                    row = (collection, name, 1, dumps(one.body))
                    if not connection.execute("INSERT OR IGNORE INTO documents VALUES (?, ?, ?, ?)", row).rowcount:
                        refused.append(name)
                else:
                    values = (one.revision, dumps(one.body), collection, name)
                    connection.execute(
                        "UPDATE documents SET revision = ?, body = ? WHERE collection = ? AND id = ?", values
                    )
        return refused
