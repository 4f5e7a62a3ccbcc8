"""The reference driver: documents in the memory of one process, shared by its threads.

``memory://`` is a storage of its own each time it is opened; ``memory://name`` is the same one for all who open it in
this process. It makes lookups as fast as the declared indexes allow, and keeps rows compact: a tuple of the declared
fields, with JSON text where a field is a list or a dict, so that nothing is ever shared with a caller.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

from sortedcontainers import SortedList

from holdfast.codec import dumps, loads
from holdfast.driver import Capability, Document, Driver, Instant, Refusal, changed
from holdfast.errors import ConfigurationError, SchemaMismatch, StorageClosed, UniqueViolation, Unsupported
from holdfast.filters import Comparison, Filter, compare, lookup
from holdfast.plugins import Backend, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from holdfast.codec import Plain
    from holdfast.driver import Changes
    from holdfast.filters import Order
    from holdfast.plugins import OptionValue
    from holdfast.schema import Collection, Schema
    from holdfast.url import StorageURL


class _Null:
    """Less than everything else: how null is sorted."""

    def __lt__(self, other: object) -> bool:
        return other is not self

    def __gt__(self, other: object) -> bool:
        return False


class _Last:
    """Greater than everything else: the end of a range."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return other is not self


_NULL, _LAST = _Null(), _Last()
_Key: TypeAlias = tuple[object, ...]
_Row: TypeAlias = tuple["Plain", ...]


class _Table:
    """The rows of one collection: revision, declared fields, and what else the body holds as JSON text."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.names = tuple(field.name for field in collection.fields)
        self.position = {name: place + 1 for place, name in enumerate(self.names)}
        self.json = frozenset(field.name for field in collection.fields if field.kind == "json")
        self.rows: dict[str, _Row] = {}
        self.indexes: dict[tuple[str, ...], SortedList[_Key]] = {
            fields: SortedList() for fields in (("id",), *collection.indexes, *collection.unique)
        }
        self.unique: dict[tuple[str, ...], dict[_Key, str]] = {fields: {} for fields in collection.unique}
        self.tallies: dict[tuple[str, ...], Counter[_Key]] = {fields: Counter() for fields in collection.tallies}
        self._common: dict[str, str] = {}

    def row(self, body: Mapping[str, Plain], revision: int) -> _Row:
        values: list[Plain] = [revision]
        for name in self.names:
            value = body.get(name)
            if isinstance(value, str):
                value = self._common.setdefault(value, value) if len(value) < 24 or name == "experiment" else value
            values.append(dumps(value) if name in self.json and value is not None else value)
        rest = {name: value for name, value in body.items() if name not in self.position}
        values.append(dumps(rest) if rest else None)
        return tuple(values)

    def document(self, identifier: str, row: _Row) -> Document:
        body: dict[str, Plain] = dict(zip(self.names, row[1:-1], strict=True))
        for name in self.json:
            text = body[name]
            if text is not None:
                body[name] = loads(cast("str", text))
        if row[-1] is not None:
            body.update(cast("dict[str, Plain]", loads(cast("str", row[-1]))))
        return Document(identifier, body, cast("int", row[0]))

    def value(self, identifier: str, row: _Row, field: str) -> Plain:
        if field == "id":
            return identifier
        if field == "revision":
            return row[0]
        place = self.position.get(field)
        if place is not None and field not in self.json:
            return row[place]
        return lookup(self.document(identifier, row).body, field)

    def key(self, identifier: str, row: _Row, fields: Iterable[str]) -> _Key:
        return tuple(
            _NULL if value is None else value for value in (self.value(identifier, row, name) for name in fields)
        )

    def breaks(self, identifier: str, row: _Row) -> tuple[str, ...] | None:
        """The unique key that this row would break."""
        for fields, taken in self.unique.items():
            key = self.key(identifier, row, fields)
            if _NULL not in key and taken.get(key, identifier) != identifier:
                return fields
        return None

    def put(self, identifier: str, row: _Row | None) -> _Row | None:
        """Store a row, or remove it; returns the one before."""
        before = self.rows.pop(identifier, None) if row is None else self.rows.get(identifier)
        for fields, index in self.indexes.items():
            old = None if before is None else (*self.key(identifier, before, fields), identifier)
            new = None if row is None else (*self.key(identifier, row, fields), identifier)
            if old != new:
                if old is not None:
                    index.remove(old)
                if new is not None:
                    index.add(new)
        for fields, taken in self.unique.items():
            if before is not None:
                taken.pop(self.key(identifier, before, fields), None)
            if row is not None and _NULL not in (key := self.key(identifier, row, fields)):
                taken[key] = identifier
        for fields, counts in self.tallies.items():
            if before is not None:
                counts[self.key(identifier, before, fields)] -= 1
            if row is not None:
                counts[self.key(identifier, row, fields)] += 1
        if row is not None:
            self.rows[identifier] = row
        return before

    def meets(self, identifier: str, row: _Row, where: Filter) -> bool:
        return all(compare(self.value(identifier, row, one.field), one.operator, one.value) for one in where)

    def candidates(self, where: Filter, order: Sequence[Order]) -> tuple[Iterator[str], bool]:
        """The ids that may match, by the index that fits best; and whether they come in the order that is asked for."""
        exact = {one.field: one.value for one in where if one.operator == "="}
        if isinstance(identifier := exact.get("id"), str):
            return iter([identifier]), len(order) == 0
        wanted = tuple(one.field for one in order)
        best: tuple[int, bool, tuple[str, ...]] = (0, not wanted, ())
        for fields in self.indexes:
            prefix = 0
            while prefix < len(fields) and fields[prefix] in exact:
                prefix += 1
            sorted_by = fields[prefix:] + (("id",) if "id" not in fields else ())
            ordered = wanted in (sorted_by, sorted_by[: len(wanted)]) and len({one.descending for one in order}) <= 1
            ranged = any(one.field == fields[prefix] for one in where) if prefix < len(fields) else False
            if (prefix, ordered, ranged) > (best[0], best[1], False) and (prefix or ordered or ranged):
                best = (prefix, ordered, fields)
        count, ordered, fields = best
        if not fields:
            return iter(list(self.rows)), not wanted
        start: list[object] = [_NULL if exact[name] is None else exact[name] for name in fields[:count]]
        end = [*start, _LAST]
        if count < len(fields):
            start, end = _narrowed(start, end, [one for one in where if one.field == fields[count]])
        backwards = bool(order) and ordered and order[0].descending
        keys = self.indexes[fields].irange(tuple(start), tuple(end), reverse=backwards)
        return (cast("str", key[-1]) for key in keys), ordered

    def select(self, where: Filter, order: Sequence[Order], limit: int | None) -> list[str]:
        found: list[str] = []
        if limit == 0:
            return found
        identifiers, ordered = self.candidates(where, order)
        for identifier in identifiers:
            row = self.rows.get(identifier)
            if row is not None and self.meets(identifier, row, where):
                found.append(identifier)
                if ordered and limit is not None and len(found) == limit:
                    return found
        if not ordered:
            for one in reversed(order):
                found.sort(
                    key=lambda identifier, name=one.field: self.key(identifier, self.rows[identifier], (name,)),  # type: ignore[misc]
                    reverse=one.descending,
                )
        return found[:limit]


def _narrowed(
    start: list[object], end: list[object], ranges: Iterable[Comparison]
) -> tuple[list[object], list[object]]:
    """The part of an index in which values can meet the comparisons of its next field."""
    for one in ranges:
        if one.operator in (">", ">=") and len(start) == len(end) - 1 and one.value is not None:
            start = [*start, one.value]
        elif one.operator in ("<", "<=") and one.value is not None:
            end = [*end[:-1], one.value, _LAST]
            break
    return start, end


class _Store:
    """What a named memory storage shares between those who open it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tables: dict[str, _Table] = {}
        self.version: int | None = None


_named: dict[str, _Store] = {}


class MemoryDriver(Driver):
    """Documents in memory; see the module."""

    name = "memory"
    capabilities = frozenset({Capability.TRANSACTIONS, Capability.SERVER_CLOCK})

    def __init__(self, store: _Store | None = None) -> None:
        self._store = store or _Store()
        self._process = os.getpid()
        self._closed = False
        self._undo: list[tuple[_Table, str, _Row | None]] | None = None

    def _table(self, collection: Collection) -> _Table:
        if self._closed:
            raise StorageClosed("this storage is closed; connect again")
        if os.getpid() != self._process:
            raise Unsupported(
                "memory:// lives in one process; choose another backend, such as sqlite:///hpo.db, to share it"
            )
        return self._store.tables[collection.name]

    def _put(self, table: _Table, identifier: str, row: _Row | None) -> None:
        before = table.put(identifier, row)
        if self._undo is not None:
            self._undo.append((table, identifier, before))

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`."""
        with self._store.lock:
            stored = self._store.version
            if stored is not None and stored != schema.version:
                raise SchemaMismatch(
                    f"this memory storage has schema version {stored}, not {schema.version}",
                    stored=stored,
                    supported=schema.version,
                )
            self._store.version = schema.version
            for collection in schema.collections:
                self._store.tables.setdefault(collection.name, _Table(collection))

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`."""
        refused: list[Refusal] = []
        with self._store.lock:
            table = self._table(collection)
            for position, document in enumerate(documents):
                row = table.row(document.body, 1)
                broken = ("id",) if document.id in table.rows else table.breaks(document.id, row)
                if broken is None:
                    self._put(table, document.id, row)
                else:
                    refused.append(Refusal(position, document.id, broken))
        return refused

    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """See `Driver.find`."""
        with self._store.lock:
            table = self._table(collection)
            rows = [(identifier, table.rows[identifier]) for identifier in table.select(where, order, limit)]
        return [table.document(identifier, row) for identifier, row in rows]

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`."""
        with self._store.lock:
            table = self._table(collection)
            stored = table.rows.get(document.id)
            if stored is None or stored[0] != expected_revision:
                return False
            self._replace(table, document.id, document.body, expected_revision + 1)
            return True

    def _replace(self, table: _Table, identifier: str, body: Mapping[str, Plain], revision: int) -> None:
        row = table.row(body, revision)
        broken = table.breaks(identifier, row)
        if broken is not None:
            raise UniqueViolation(broken)
        self._put(table, identifier, row)

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`."""
        with self._store.lock:
            table = self._table(collection)
            found = table.select(where, (), None)
            for identifier in found:
                self._put(table, identifier, None)
        return len(found)

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`; counts by the fields of a tally are kept up to date."""
        with self._store.lock:
            table = self._table(collection)
            exact = {one.field: one.value for one in where if one.operator == "=" and one.value is not None}
            for fields, counts in table.tallies.items():
                if set(exact) == set(fields) and len(where) == len(fields):
                    return counts[tuple(exact[name] for name in fields)]
            return len(table.select(where, (), None))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`; kept up to date where the collection declares it."""
        with self._store.lock:
            table = self._table(collection)
            exact = {one.field: one.value for one in where if one.operator == "=" and one.value is not None}
            for fields, counts in table.tallies.items():
                if fields[-1] == field and set(exact) == set(fields[:-1]) and len(where) == len(exact):
                    prefix = tuple(exact[name] for name in fields[:-1])
                    kept = {key[-1]: count for key, count in counts.items() if key[:-1] == prefix and count}
                    return {None if value is _NULL else cast("str", value): count for value, count in kept.items()}
            return super().tally(collection, where, field)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`."""
        with self._store.lock:
            table = self._table(collection)
            found = table.select(where, (), None)
            for identifier in found:
                document = table.document(identifier, table.rows[identifier])
                self._replace(table, identifier, changed(document.body, changes), document.revision + 1)
        return len(found)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`."""
        with self._store.lock:
            table = self._table(collection)
            found = table.select(where, order, 1)
            if not found:
                return None
            document = table.document(found[0], table.rows[found[0]])
            self._replace(table, found[0], changed(document.body, changes), document.revision + 1)
            return table.document(found[0], table.rows[found[0]])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Driver.transaction`."""
        with self._store.lock:
            if self._undo is not None:
                yield
                return
            self._undo = []
            try:
                yield
            except BaseException:
                for table, identifier, before in reversed(self._undo):
                    table.put(identifier, before)
                raise
            finally:
                self._undo = None

    def now(self) -> Instant:
        """See `Driver.now`: the monotonic clock of this process."""
        return Instant("process", time.monotonic())

    def close(self) -> None:
        """See `Driver.close`."""
        self._closed = True


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    if url.path not in ("", "/") or url.username is not None:
        raise ConfigurationError(f"a memory storage is memory:// or memory://name, not {url}")
    return MemoryDriver(_named.setdefault(url.host, _Store()) if url.host else None)


@hookimpl
def holdfast_backends() -> list[Backend]:
    """The reference backend."""
    return [
        Backend(
            name="memory",
            schemes=("memory",),
            description="one process, threads; gone when it ends",
            open=_open,
            example="memory://",
            url=lambda fields: f"memory://{fields.get('name', '')}",
        )
    ]
