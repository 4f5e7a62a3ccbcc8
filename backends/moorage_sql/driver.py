"""The driver for SQL databases: the primitives of the waist, in statements."""

from __future__ import annotations

import abc
import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, cast

from moorage import forks
from moorage.driver import Capability, Changes, Document, Driver, Refusal
from moorage.errors import (
    StorageClosed,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.filters import Comparison, Filter, Order, matches
from moorage_sql.link import Conflict, Link, MissingTable
from moorage_sql.statements import Plan
from moorage_sql.tables import ANNOUNCED, SCHEMA_ROW, Naming, build_schema_table, tally_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import MetaData
    from sqlalchemy.sql.ddl import ExecutableDDLElement

    from moorage.codec import Plain
    from moorage.schema import Collection, Schema
    from moorage_sql.statements import Condition, Flavour, Parameter, Shape
    from moorage_sql.tables import Cell

_CHUNK = 250
_ATTEMPTS = 100


class SQLDriver(Driver):
    """What all SQL databases have in common; a dialect adds how to connect and what its catalogue is called.

    Each thread has a connection of its own, opened at its first call. A forked child never touches those of its parent.
    """

    capabilities: frozenset[Capability] = frozenset()
    has_tallies = True
    """Whether triggers keep counts."""

    def __init__(self, flavour: Flavour, *, shown: str, read_only: bool, naming: Naming | None = None) -> None:
        """Remember how to connect.

        Args:
            flavour: how statements are written.
            shown: the URL for messages, without its secrets.
            read_only: whether every write is refused.
            naming: how tables are called; by default without a prefix.
        """
        self.flavour = flavour
        self.naming = naming or Naming()
        self.shown = shown
        self.read_only = read_only
        self._metadata: MetaData | None = None
        self._plans: dict[str, Plan] = {}
        self._closed = False
        self._reset()
        forks.watch(self)

    # Connections

    @abc.abstractmethod
    def _connect(self) -> Link:
        """A connection for the calling thread, not open yet."""

    def _reset(self) -> None:
        self._local = threading.local()
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._mutex = threading.Lock()

    def _link(self) -> Link:
        try:
            return cast("Link", self._local.link)
        except AttributeError:
            return self._new_link()

    def _new_link(self) -> Link:
        if self._closed:
            raise StorageClosed(f"the storage {self.shown} is closed")
        link = self._connect()
        with self._mutex:
            self._links.add(link)
        self._local.link = link
        if self._closed:
            link.close()
        return link

    def links(self) -> list[Link]:
        """The open connections of all threads."""
        with self._mutex:
            return list(self._links)

    def close(self) -> None:
        """Close the connections of all threads; a transaction that is under way elsewhere is undone."""
        self._closed = True
        for link in self.links():
            link.unwanted = True
            if link.lock.acquire(timeout=5):
                try:
                    if not link.depth:
                        link.close()
                finally:
                    link.lock.release()

    def before_fork(self) -> None:
        """Called in the parent."""

    def after_fork_in_parent(self) -> None:
        """Called in the parent."""

    def after_fork_in_child(self) -> None:
        """Called in the child: forget the parent's connections, and never close them."""
        _inherited.extend(self._links)
        _inherited.append(self._local)
        self._reset()

    # Preparation

    def _plan(self, collection: Collection) -> Plan:
        plan = self._plans.get(collection.name)
        if plan is None or (plan.collection is not collection and plan.collection != collection):
            from sqlalchemy import MetaData

            plan = Plan(collection, self.flavour, self.naming, MetaData())
            self._plans[collection.name] = plan
        return plan

    def _must_write(self) -> None:
        if self.read_only:
            raise StorageReadOnly(f"the storage {self.shown} was opened read-only")

    @abc.abstractmethod
    def _exclusive(self, link: Link) -> AbstractContextManager[None]:
        """Keep every other process from changing tables; a transaction where the database has transactional DDL."""

    @abc.abstractmethod
    def _tables(self, link: Link) -> set[str]:
        """The names of the tables that exist."""

    @abc.abstractmethod
    def _columns(self, link: Link, table: str) -> set[str]:
        """The names of the columns of a table."""

    @abc.abstractmethod
    def _indexes(self, link: Link, table: str) -> set[str]:
        """The names of the indexes of a table."""

    def _create_tally(self, link: Link, plan: Plan, fields: tuple[str, ...]) -> None:
        """Create the table of counts and its triggers, and count what is there."""

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`; one SELECT where nothing is missing."""
        link = self._link()
        stored = self._versions(link)
        if stored is None and (former := self._versions(link, self.naming.former)) is not None:
            schema.accepts(former.get(SCHEMA_ROW, 0), self.shown, upgrade=upgrade)
        elif self._is_complete(stored, schema, upgrade=upgrade):
            return
        if self.read_only:
            raise StorageDamaged(
                f"{self.shown} holds no complete Moorage storage, and it was opened read-only; open it once for writing"
            )
        with self._exclusive(link):
            tables = self._tables(link)
            if upgrade and self.naming.former.schema in tables and self.naming.schema not in tables:
                self._take_over(link, schema, tables)
                tables = self._tables(link)
            stored = self._versions(link) if self.naming.schema in tables else None
            if self._is_complete(stored, schema, upgrade=upgrade):
                return
            if stored is None:
                taken = sorted(tables.intersection(map(self.naming.table, self._names(schema))))
                if taken:
                    raise StorageDamaged(
                        f"{self.shown} has a table {taken[0]!r} already, and no {self.naming.schema!r}: it is not a "
                        "Moorage storage. Use another database, or rename that table"
                    )
            self._create(link, schema, tables, stored)

    def _versions(self, link: Link, naming: Naming | None = None) -> dict[str, int] | None:
        """The version of the schema and of each collection; None where there is no schema table."""
        mark = self.flavour.quotation_mark  # SQLAlchemy's own quoting would have to be imported first
        try:
            rows = link.read(f"SELECT name, version FROM {mark}{(naming or self.naming).schema}{mark}")
        except MissingTable:
            return None
        return cast("dict[str, int]", dict(cast("list[tuple[str, int]]", rows)))

    def _take_over(self, link: Link, schema: Schema, tables: set[str]) -> None:
        """Give the tables of a storage of schema 1 the names that they have now; the schema's own one last.

        Where that is no transaction, a call that was cut short leaves the schema under its former name, or has ended.
        """
        former = self.naming.former
        for collection in schema.collections:
            for fields in self._plan(collection).format.string_tallies if self.has_tallies else ():
                if former.tally(collection, fields) in tables:
                    self._drop_tally(link, former, collection, fields)
        names = [(former.table(one.name), self.naming.table(one.name)) for one in schema.collections]
        moved = [(old, new) for old, new in names if old != new and old in tables]
        self._rename(link, [*moved, (former.schema, self.naming.schema)])

    def _rename(self, link: Link, tables: Sequence[tuple[str, str]]) -> None:
        quote = self.flavour.dialect().identifier_preparer.quote
        for old, new in tables:
            link.command(f"ALTER TABLE {quote(old)} RENAME TO {quote(new)}")

    def _drop_tally(self, link: Link, naming: Naming, collection: Collection, fields: tuple[str, ...]) -> None:
        """Drop the table of counts and its triggers, as a naming calls them."""

    def _drop_index(self, link: Link, table: str, name: str) -> None:
        del table
        link.command(f"DROP INDEX {self.flavour.dialect().identifier_preparer.quote(name)}")

    def _is_complete(self, stored: dict[str, int] | None, schema: Schema, *, upgrade: bool) -> bool:
        version = (stored or {}).get(SCHEMA_ROW, ANNOUNCED)
        if stored is None or version == ANNOUNCED:
            return False
        if not schema.accepts(version, self.shown, upgrade=upgrade):
            return False
        return all(stored.get(collection.name, ANNOUNCED) != ANNOUNCED for collection in schema.collections)

    def _create(self, link: Link, schema: Schema, tables: set[str], stored: dict[str, int] | None) -> None:
        from sqlalchemy import MetaData
        from sqlalchemy.schema import CreateIndex, CreateTable

        if stored is None:
            self._run(link, CreateTable(build_schema_table(self.naming.schema, self.flavour.types, MetaData())))
        self._announce(link, schema, stored or {})
        for collection in schema.collections:
            plan = self._plan(collection)
            table = plan.table
            added: set[str] = set()
            if table.name in tables:
                added = {field.name for field in collection.fields} - self._columns(link, table.name)
                for field in collection.fields:
                    if field.name in added:
                        self._add_column(link, plan, field.name)
            else:
                self._run(link, CreateTable(table))
            existing = self._indexes(link, table.name)
            declared = {cast("str", index.name) for index in plan.indexes()}
            for name in sorted(existing - declared):
                if self.naming.is_index(name) or self.naming.former.is_index(name):
                    self._drop_index(link, table.name, name)
            for index in plan.indexes():
                if index.name not in existing:
                    self._run(link, CreateIndex(index))
            if added:
                self._adopt(link, plan, added)
            if self.has_tallies:
                for fields in plan.format.string_tallies:
                    if self.naming.tally(collection, fields) not in tables:
                        self._create_tally(link, plan, fields)
                    self._record(link, tally_name(collection, fields), schema.version)
            self._record(link, collection.name, schema.version)
        self._record(link, SCHEMA_ROW, schema.version)

    def _add_column(self, link: Link, plan: Plan, name: str) -> None:
        from sqlalchemy.schema import CreateColumn

        dialect = self.flavour.dialect()
        table = dialect.identifier_preparer.format_table(plan.table)
        column = str(CreateColumn(plan.table.c[name]).compile(dialect=dialect))
        link.command(f"ALTER TABLE {table} ADD COLUMN {column}")

    def _adopt(self, link: Link, plan: Plan, added: set[str]) -> None:
        """Move what was stored beside the declared fields into the columns that are new."""
        statement, swap = plan.with_undeclared(), plan.swap()
        for row in link.read(statement.sql):
            document = plan.format.read(row)
            if not added.isdisjoint(document.body):
                values = [*plan.format.write(document), document.revision]
                link.write(swap.sql, swap.arguments(values), risky=True)

    def _names(self, schema: Schema) -> list[str]:
        """What has a table: the collections, and the tallies where triggers keep them."""
        found: list[str] = []
        for one in schema.collections:
            tallies = self._plan(one).format.string_tallies if self.has_tallies else ()
            found += [one.name, *(tally_name(one, fields) for fields in tallies)]
        return found

    def _announce(self, link: Link, schema: Schema, stored: dict[str, int]) -> None:
        """Record what will be created, so that nothing is there unrecorded even where creating is no transaction."""
        rows = ", ".join(
            f"('{name}', {ANNOUNCED:d})" for name in (*self._names(schema), SCHEMA_ROW) if name not in stored
        )
        if rows:
            link.write(f"INSERT INTO {self._schema_table} (name, version) VALUES {rows}", ())

    def _record(self, link: Link, name: str, version: int) -> None:
        link.write(f"UPDATE {self._schema_table} SET version = {version:d} WHERE name = '{name}'", ())

    @property
    def _schema_table(self) -> str:
        mark = self.flavour.quotation_mark  # SQLAlchemy's own quoting would have to be imported first
        return f"{mark}{self.naming.schema}{mark}"

    def _run(self, link: Link, element: ExecutableDDLElement) -> None:
        link.command(str(element.compile(dialect=self.flavour.dialect())))

    # Reading

    def get(self, collection: Collection, identifier: str) -> Document | None:
        """The document of this id, or None."""
        plan = self._plan(collection)
        rows = self._link().read(plan.get().sql, (identifier,))
        return plan.format.read(rows[0]) if rows else None

    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """See `Driver.find`; paths into JSON are compared here, row by row, until the limit is reached."""
        plan = self._plan(collection)
        condition = plan.condition(where)
        limited = limit is not None and not condition.residual
        statement = plan.find(condition.shape, order, limited=limited)
        if condition.never or (limit is not None and limit <= 0):
            return []
        values = [*condition.values, limit] if limited else condition.values
        arguments = statement.arguments(values)
        link = self._link()
        read = plan.format.read
        if not condition.residual:
            return [read(row) for row in link.read(statement.sql, arguments)]
        found: list[Document] = []
        with link.lock, contextlib.closing(link.stream(statement.sql, arguments)) as rows:
            for row in rows:
                document = read(row)
                if matches(condition.residual, document.id, document.revision, document.body):
                    found.append(document)
                    if len(found) == limit:
                        break
        return found

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """How many documents match; from the counts that triggers keep, where the filter allows it."""
        plan = self._plan(collection)
        condition = plan.condition(where)
        if condition.never:
            return 0
        link = self._link()
        if condition.residual:
            return len(self.find(collection, where))
        tally = self._tally(plan, condition.shape) if self.has_tallies else None
        statement = plan.count(condition.shape) if tally is None else plan.tally(tally, condition.shape)
        rows = link.read(statement.sql, statement.arguments(condition.values))
        return int(cast("int", rows[0][0]))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`; one statement, from the counts that triggers keep, where the filter allows it."""
        plan = self._plan(collection)
        condition = plan.condition(where)
        kind = plan.format.kinds.get(field)
        if condition.residual or kind in (None, "json"):
            return super().tally(collection, where, field)
        if condition.never:
            return {}
        kept = None
        if self.has_tallies and all(how == "=" and of is str for _, how, of, _ in condition.shape):
            asked = sorted([*(one[0] for one in condition.shape), field])
            kept = next((fields for fields in plan.format.string_tallies if sorted(fields) == asked), None)
        statement = plan.counts_by(field, condition.shape, kept)
        rows = self._link().read(statement.sql, statement.arguments(condition.values))
        counts: dict[str | float | bool | None, int] = {}
        for value, total in rows:
            if total:
                plain = bool(value) if kind == "boolean" and value is not None else cast("str | float | None", value)
                counts[plain] = int(cast("int", total))
        return counts

    def _tally(self, plan: Plan, shape: Shape) -> tuple[str, ...] | None:
        """The tally that answers this count: the filter asks its leading fields for texts, and nothing else."""
        if not shape or not all((how == "=" and of is str) or (how == "in" and not of) for _, how, of, _ in shape):
            return None
        asked = sorted(one[0] for one in shape)
        for fields in plan.format.string_tallies:
            if asked == sorted(fields[: len(asked)]):
                return fields
        return None

    # Writing

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`; all that can be inserted go in one transaction."""
        self._must_write()
        plan = self._plan(collection)
        statement = plan.insert()
        rows: list[Sequence[Parameter]] = [statement.arguments(plan.format.write(one)) for one in documents]
        pending = list(range(len(documents)))
        refused: list[Refusal] = []
        link = self._link()
        for _ in range(_ATTEMPTS):
            try:
                if len(pending) > 1:
                    self._insert_many(link, plan, [rows[place] for place in pending])
                elif pending:
                    link.write(statement.sql, rows[pending[0]], risky=True)
            except Conflict:
                again = self._conflicts(link, plan, documents, pending)
            else:
                return sorted(refused, key=lambda one: one.position)
            refused += again
            gone = {one.position for one in again}
            pending = [place for place in pending if place not in gone]
        raise Unavailable(f"{collection.name}: others keep inserting and deleting the same documents")

    def _insert_many(self, link: Link, plan: Plan, rows: Sequence[Sequence[Parameter]]) -> None:
        """Insert all rows or none."""
        link.write_many(plan.insert().sql, rows)

    def _conflicts(
        self, link: Link, plan: Plan, documents: Sequence[Document], pending: Sequence[int]
    ) -> list[Refusal]:
        """Those of a batch that cannot be inserted; each of the others would have been, one after the other."""
        keys: list[tuple[str, ...]] = [("id",), *plan.collection.unique]
        taken: dict[tuple[str, ...], set[tuple[Plain, ...]]] = {
            key: self._taken(link, plan, key, [_key_of(documents[place], key) for place in pending]) for key in keys
        }
        refused: list[Refusal] = []
        for place in pending:
            document = documents[place]
            mine = [(key, _key_of(document, key)) for key in keys]
            broken = next((key for key, values in mine if values in taken[key]), None)
            if broken is not None:
                refused.append(Refusal(place, document.id, broken))
                continue
            for key, values in mine:
                if None not in values:
                    taken[key].add(values)
        return refused

    def _taken(
        self, link: Link, plan: Plan, key: tuple[str, ...], wanted: Sequence[tuple[Plain, ...]]
    ) -> set[tuple[Plain, ...]]:
        """Those values of a unique key that are stored already."""
        complete = {values for values in wanted if None not in values}
        first = list({values[0] for values in complete})
        found: set[tuple[Plain, ...]] = set()
        for start in range(0, len(first), _CHUNK):
            condition = plan.condition((Comparison(key[0], "in", tuple(first[start : start + _CHUNK])),))
            if condition.never or condition.residual:
                continue
            statement = plan.select(key, condition.shape)
            rows = link.read(statement.sql, statement.arguments(condition.values))
            found.update(cast("tuple[Plain, ...]", tuple(row)) for row in rows)
        return complete & found

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`."""
        self._must_write()
        plan = self._plan(collection)
        statement = plan.swap()
        values: list[Cell] = plan.format.write(document)
        values.append(expected_revision)
        try:
            risky = bool(collection.unique)
            return self._link().write(statement.sql, statement.arguments(values), risky=risky) > 0
        except Conflict as conflict:
            raise UniqueViolation(self._broken_key(plan, conflict)) from conflict.__cause__

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`; one statement, unless the filter has paths into JSON."""
        self._must_write()
        plan = self._plan(collection)
        made = plan.changes(changes)
        condition = plan.condition(where)
        if made is None or condition.residual:
            return super().patch(collection, where, changes)
        if condition.never:
            return 0
        statement = plan.patch(made[0], condition.shape)
        values = made[1] + condition.values
        try:
            risky = bool(collection.unique)
            return self._link().write(statement.sql, statement.arguments(values), risky=risky)
        except Conflict as conflict:
            raise UniqueViolation(self._broken_key(plan, conflict)) from conflict.__cause__

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`; one transaction, unless the filter has paths into JSON."""
        self._must_write()
        plan = self._plan(collection)
        made = plan.changes(changes)
        condition = plan.condition(where)
        if made is None or condition.residual:
            return super().claim(collection, where, changes, order)
        if condition.never:
            return None
        try:
            return self._claim(plan, made, condition, changes, order)
        except Conflict as conflict:
            raise UniqueViolation(self._broken_key(plan, conflict)) from conflict.__cause__

    def _claim(
        self,
        plan: Plan,
        made: tuple[object, list[Parameter]],
        condition: Condition,
        changes: Changes,
        order: Sequence[Order],
    ) -> Document | None:
        """Claim by one statement, with the means of this database."""
        statement = plan.claim(made[0], condition.shape, order, locking="")
        arguments = statement.arguments(made[1] + condition.values)
        rows = self._link().write_returning(statement.sql, arguments, risky=bool(plan.collection.unique))
        return plan.format.read(rows[0]) if rows else None

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`; one statement, unless the filter has paths into JSON."""
        self._must_write()
        plan = self._plan(collection)
        condition = plan.condition(where)
        if condition.never:
            return 0
        if condition.residual:
            return sum(self._delete_one(collection, found, where) for found in self.find(collection, where))
        statement = plan.delete(condition.shape)
        return self._link().write(statement.sql, statement.arguments(condition.values))

    def _delete_one(self, collection: Collection, found: Document, where: Filter) -> bool:
        """Delete a document as long as it matches."""
        current: Document | None = found
        while current is not None:
            exact = (Comparison("id", "=", current.id), Comparison("revision", "=", current.revision))
            if self.delete(collection, exact):
                return True
            current = next(iter(self.find(collection, (exact[0], *where), limit=1)), None)
        return False

    def _broken_key(self, plan: Plan, conflict: Conflict) -> tuple[str, ...]:
        """Which unique key a conflict is about."""
        collection = plan.collection
        if conflict.fields:
            return next((key for key in collection.unique if key == conflict.fields), conflict.fields)
        if conflict.index in plan.unique_names:
            return plan.unique_names[conflict.index]
        return collection.unique[0] if collection.unique else ("id",)

    def transaction(self) -> AbstractContextManager[None]:
        """See `Driver.transaction`; one inside another can be undone by itself."""
        return self._link().atomic()


def _key_of(document: Document, key: tuple[str, ...]) -> tuple[Plain, ...]:
    return tuple(document.id if name == "id" else document.body.get(name) for name in key)


_inherited: list[object] = []
"""What a forked child has from its parent: kept, because closing it would disturb the parent."""
