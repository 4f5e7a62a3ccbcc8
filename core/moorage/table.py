"""Documents in the memory of one process, in tables with the declared indexes, and a driver made of such tables.

Rows are compact: a tuple of the declared fields, with JSON text where a field is a list or a dict, so that nothing is
ever shared with a caller. Lookups are as fast as the declared indexes allow. The reference driver keeps its documents
here and nowhere else; one that keeps them in a file has here what it found there.
"""

from __future__ import annotations

import abc
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

from sortedcontainers import SortedList

from moorage.codec import loads, to_text
from moorage.comparing import compare, meets, values_at
from moorage.driver import Document, Driver, Refusal, changed
from moorage.errors import UniqueViolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Comparison, Filter, Order
    from moorage.schema import Collection


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
_SHORT = 24
"""Characters of a text that is likely to be that of many rows."""
Key: TypeAlias = tuple[object, ...]
Row: TypeAlias = tuple["Plain", ...]


class Table:
    """The rows of one collection: revision, declared fields, and what else the body holds as JSON text.

    It is not safe for several threads; who uses it takes care of that.

    Attributes:
        collection: the declaration.
        rows: by id, in the order in which they came.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.names = tuple(field.name for field in collection.fields)
        self.position = {name: place + 1 for place, name in enumerate(self.names)}
        self.json = frozenset(field.name for field in collection.fields if field.kind == "json")
        self._json_places = tuple(self.position[name] for name in self.names if name in self.json)
        self._shared_places = tuple(self.position[field.name] for field in collection.fields if field.kind == "string")
        self.rows: dict[str, Row] = {}
        self.indexes: dict[tuple[str, ...], SortedList[Key]] = {
            fields: SortedList() for fields in (("id",), *collection.indexes, *collection.unique)
        }
        self.unique: dict[tuple[str, ...], dict[Key, str]] = {fields: {} for fields in collection.unique}
        self.tallies: dict[tuple[str, ...], Counter[Key]] = {fields: Counter() for fields in collection.tallies}

    def row(self, body: Mapping[str, Plain], revision: int) -> Row:
        """A body as a row; it is not stored yet."""
        values: list[Plain] = [revision, *map(body.get, self.names)]
        for place in self._json_places:
            if values[place] is not None:
                values[place] = to_text(values[place])
        for place in self._shared_places:  # what many rows have is kept once
            value = values[place]
            if type(value) is str and (len(value) < _SHORT or self.names[place - 1] == "experiment"):
                values[place] = sys.intern(value)
        rest = None
        if not body.keys() <= self.position.keys():
            rest = to_text({name: value for name, value in body.items() if name not in self.position})
        values.append(rest)
        return tuple(values)

    def document(self, identifier: str, row: Row) -> Document:
        """A row as a document, which shares nothing with it; declared fields come first, null where they are absent."""
        body: dict[str, Plain] = dict(zip(self.names, row[1:-1], strict=True))
        for name in self.json:
            text = body[name]
            if text is not None:
                body[name] = loads(cast("str", text))
        if row[-1] is not None:
            body.update(cast("dict[str, Plain]", loads(cast("str", row[-1]))))
        return Document(identifier, body, cast("int", row[0]))

    def value(self, identifier: str, row: Row, field: str) -> Plain:
        """What a row has at a field."""
        if field == "id":
            return identifier
        if field == "revision":
            return row[0]
        place = self.position.get(field)
        if place is not None and field not in self.json:
            return row[place]
        return self._part(identifier, row, field).get(field)

    def _part(self, identifier: str, row: Row, field: str) -> dict[str, Plain]:
        """The part of a body in which a field, or a path, leads somewhere."""
        head = field.partition(".")[0]
        if head in self.json:
            text = row[self.position[head]]
            part: dict[str, Plain] = {} if text is None else {head: loads(cast("str", text))}
            return part if row[-1] is None else {**part, **cast("dict[str, Plain]", loads(cast("str", row[-1])))}
        return self.document(identifier, row).body

    def key(self, identifier: str, row: Row, fields: Iterable[str]) -> Key:
        """The values of a row at some fields, so that they can be sorted."""
        return tuple(
            _NULL if value is None else value for value in (self.value(identifier, row, name) for name in fields)
        )

    def breaks(self, identifier: str, row: Row) -> tuple[str, ...] | None:
        """The unique key that this row would break."""
        for fields, taken in self.unique.items():
            key = self.key(identifier, row, fields)
            if _NULL not in key and taken.get(key, identifier) != identifier:
                return fields
        return None

    def put(self, identifier: str, row: Row | None) -> Row | None:
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
            if before is not None and taken.get(old_key := self.key(identifier, before, fields)) == identifier:
                del taken[old_key]
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

    def fill(self, rows: Mapping[str, Row]) -> None:
        """Store all rows of a table that is empty: as `put` with each, and much faster."""
        self.rows = dict(rows)
        for fields in self.indexes:
            values = self._keys(fields)
            self.indexes[fields] = SortedList((*key, identifier) for key, identifier in zip(values, rows, strict=True))
        for fields in self.unique:
            keys = zip(self._keys(fields), rows, strict=True)
            self.unique[fields] = {key: identifier for key, identifier in keys if _NULL not in key}
        for fields in self.tallies:
            self.tallies[fields] = Counter(self._keys(fields))

    def _keys(self, fields: tuple[str, ...]) -> Iterable[Key]:
        """`key` of each row."""
        columns: list[Iterable[object]] = []
        for name in fields:
            if name == "id":
                columns.append(self.rows)
            elif (place := self.position.get(name)) is None or name in self.json:
                columns.append([self.key(identifier, row, (name,))[0] for identifier, row in self.rows.items()])
            else:
                columns.append([_NULL if row[place] is None else row[place] for row in self.rows.values()])
        return zip(*columns, strict=True)

    def meets(self, identifier: str, row: Row, where: Filter) -> bool:
        """Whether a row meets every comparison."""
        return all(
            meets(values_at(self._part(identifier, row, one.field), one.field), one.operator, one.value)
            if one.is_path
            else compare(self.value(identifier, row, one.field), one.operator, one.value)
            for one in where
        )

    def candidates(self, where: Filter, order: Sequence[Order]) -> tuple[Iterator[str], bool]:
        """The ids that may match, by the index that fits best; and whether they come in the order that is asked for."""
        exact = {one.field: one.value for one in where if one.operator == "="}
        if isinstance(identifier := exact.get("id"), str):
            return iter([identifier]), len(order) == 0
        for one in where:
            if one.field == "id" and one.operator == "in":
                among = dict.fromkeys(map(str, cast("tuple[Plain, ...]", one.value)))
                return iter(among), len(order) == 0
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
        try:
            keys = self.indexes[fields].irange(tuple(start), tuple(end), reverse=backwards)
        except TypeError:  # a value of another kind than the field's has no place among its keys
            return iter(list(self.rows)), not wanted
        return (cast("str", key[-1]) for key in keys), ordered

    def select(self, where: Filter, order: Sequence[Order], limit: int | None) -> list[str]:
        """The ids of the rows that match, as `Driver.find` says."""
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
                    key=lambda identifier: self.key(identifier, self.rows[identifier], (one.field,)),
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


class TableDriver(Driver):
    """The primitives over tables; a subclass says how a table is reached, and what else a change takes."""

    def __init__(self) -> None:
        self.changes: list[tuple[Table, str, Row | None]] | None = None

    @abc.abstractmethod
    def reading(self, collection: Collection) -> AbstractContextManager[Table]:
        """A table with all that was acknowledged, which nobody changes inside the block."""

    @abc.abstractmethod
    def writing(self, collection: Collection) -> AbstractContextManager[Table]:
        """A table with all that was acknowledged, which nobody else reads or changes inside the block."""

    def put(self, table: Table, identifier: str, row: Row | None) -> None:
        """Store a row, or remove it; inside `undoing` it is remembered."""
        before = table.put(identifier, row)
        if self.changes is not None:
            self.changes.append((table, identifier, before))

    @contextmanager
    def undoing(self) -> Iterator[list[tuple[Table, str, Row | None]]]:
        """Inside a block of writing: undo what was put where an exception leaves the block; blocks may be nested.

        Yields:
            What was put since the outermost block began, in order: the table, the id, and the row before.
        """
        outer = self.changes
        changes = [] if outer is None else outer
        start = len(changes)
        self.changes = changes
        try:
            yield changes
        except BaseException:
            for table, identifier, before in reversed(changes[start:]):
                table.put(identifier, before)
            del changes[start:]
            raise
        finally:
            self.changes = outer

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`."""
        refused: list[Refusal] = []
        with self.writing(collection) as table:
            for position, document in enumerate(documents):
                row = table.row(document.body, 1)
                broken = ("id",) if document.id in table.rows else table.breaks(document.id, row)
                if broken is None:
                    self.put(table, document.id, row)
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
        with self.reading(collection) as table:
            rows = [(identifier, table.rows[identifier]) for identifier in table.select(where, order, limit)]
        return [table.document(identifier, row) for identifier, row in rows]

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`."""
        with self.writing(collection) as table:
            stored = table.rows.get(document.id)
            if stored is None or stored[0] != expected_revision:
                return False
            self._replace(table, document.id, document.body, expected_revision + 1)
            return True

    def _replace(self, table: Table, identifier: str, body: Mapping[str, Plain], revision: int) -> None:
        row = table.row(body, revision)
        broken = table.breaks(identifier, row)
        if broken is not None:
            raise UniqueViolation(broken)
        self.put(table, identifier, row)

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`."""
        with self.writing(collection) as table:
            found = table.select(where, (), None)
            for identifier in found:
                self.put(table, identifier, None)
        return len(found)

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`; counts by the fields of a tally are kept up to date."""
        with self.reading(collection) as table:
            exact = {one.field: one.value for one in where if one.operator == "=" and one.value is not None}
            for fields, counts in table.tallies.items():
                if set(exact) == set(fields) and len(where) == len(fields):
                    return counts[tuple(exact[name] for name in fields)]
            return len(table.select(where, (), None))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`; kept up to date where the collection declares it."""
        with self.reading(collection) as table:
            exact = {one.field: one.value for one in where if one.operator == "=" and one.value is not None}
            for fields, counts in table.tallies.items():
                if fields[-1] == field and set(exact) == set(fields[:-1]) and len(where) == len(exact):
                    prefix = tuple(exact[name] for name in fields[:-1])
                    kept = {key[-1]: count for key, count in counts.items() if key[:-1] == prefix and count}
                    return {None if value is _NULL else cast("str", value): count for value, count in kept.items()}
            return super().tally(collection, where, field)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`."""
        with self.writing(collection) as table:
            found = table.select(where, (), None)
            for identifier in found:
                document = table.document(identifier, table.rows[identifier])
                self._replace(table, identifier, changed(document.body, changes), document.revision + 1)
        return len(found)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`."""
        with self.writing(collection) as table:
            found = table.select(where, order, 1)
            if not found:
                return None
            document = table.document(found[0], table.rows[found[0]])
            self._replace(table, found[0], changed(document.body, changes), document.revision + 1)
            return table.document(found[0], table.rows[found[0]])
