"""The reference driver: documents in the memory of one process, shared by its threads.

``memory://`` is a storage of its own each time it is opened; ``memory://name`` is the same one for all who open it in
this process.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moorage.driver import Capability, Driver, Instant
from moorage.errors import (
    ConfigurationError,
    StorageClosed,
    StorageDamaged,
    StorageReadOnly,
    Unsupported,
)
from moorage.plugins import Backend, hookimpl
from moorage.table import Table, TableDriver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorage.plugins import OptionValue
    from moorage.schema import Collection, Schema
    from moorage.url import StorageURL


class _Store:
    """What a named memory storage shares between those who open it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tables: dict[str, Table] = {}
        self.version: int | None = None


_named: dict[str, _Store] = {}


class MemoryDriver(TableDriver):
    """Documents in memory; see the module."""

    name = "memory"
    capabilities = frozenset({Capability.TRANSACTIONS, Capability.SERVER_CLOCK})

    def __init__(self, store: _Store | None = None, *, read_only: bool = False) -> None:
        super().__init__()
        self._store = store or _Store()
        self._read_only = read_only
        self._process = os.getpid()
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise StorageClosed("this storage is closed; connect again")

    def _table(self, collection: Collection) -> Table:
        self._check_open()
        if os.getpid() != self._process:
            raise Unsupported(
                "memory:// lives in one process; choose another backend, such as sqlite:///hpo.db, to share it"
            )
        return self._store.tables[collection.name]

    def _writable(self, collection: Collection) -> Table:
        if self._read_only:
            raise StorageReadOnly("this memory storage was opened read-only; connect without read_only to write")
        return self._table(collection)

    @contextmanager
    def reading(self, collection: Collection) -> Iterator[Table]:
        """See `TableDriver.reading`."""
        with self._store.lock:
            yield self._table(collection)

    @contextmanager
    def writing(self, collection: Collection) -> Iterator[Table]:
        """See `TableDriver.writing`."""
        with self._store.lock:
            yield self._writable(collection)

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`."""
        with self._store.lock:
            self._check_open()
            stored, tables = self._store.version, self._store.tables
            older = stored is not None and not schema.accepts(stored, "memory://", upgrade=upgrade)
            missing = [one for one in schema.collections if older or one.name not in tables]
            if self._read_only and (stored is None or missing):
                raise StorageDamaged(
                    "this memory storage holds no complete Moorage storage, and it was opened read-only; open it once "
                    "for writing"
                )
            tables.update({one.name: _made(one, tables.get(one.name)) for one in missing})
            self._store.version = schema.version

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Driver.transaction`."""
        with self._store.lock:
            self._check_open()
            with self.undoing():
                yield

    def now(self) -> Instant:
        """See `Driver.now`: the monotonic clock of this process."""
        return Instant("process", time.monotonic())

    def close(self) -> None:
        """See `Driver.close`."""
        self._closed = True


def _made(collection: Collection, before: Table | None) -> Table:
    """A table with the documents of an older one.

    Raises:
        StorageDamaged: two of them share a unique key that is new.
    """
    table = Table(collection)
    if before is not None:
        for document in (before.document(identifier, row) for identifier, row in before.rows.items()):
            row = table.row(document.body, document.revision)
            if (broken := table.breaks(document.id, row)) is not None:
                raise StorageDamaged(
                    f"this memory storage cannot be upgraded: two documents of {collection.name} share "
                    f"({', '.join(broken)})"
                )
            table.put(document.id, row)
    return table


def _name(url: StorageURL) -> str:
    if url.path not in ("", "/") or url.username is not None:
        raise ConfigurationError(f"a memory storage is memory:// or memory://name, not {url}")
    return url.host or ""


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    name = _name(url)
    if read_only:
        return MemoryDriver(_named.get(name), read_only=True)
    return MemoryDriver(_named.setdefault(name, _Store()) if name else None)


def _erase(url: StorageURL, options: Mapping[str, OptionValue]) -> None:
    _named.pop(_name(url), None)


@hookimpl
def moorage_backends() -> list[Backend]:
    """The reference backend."""
    return [
        Backend(
            name="memory",
            schemes=("memory",),
            description="one process, threads; gone when it ends",
            open=_open,
            example="memory://",
            url=lambda fields: f"memory://{fields.get('name', '')}",
            level=1,
            erase=_erase,
        )
    ]
