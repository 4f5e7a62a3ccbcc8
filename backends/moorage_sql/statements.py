"""Statements by shape: what SQLAlchemy compiles once, and the order in which its parameters are then handed over.

A *shape* is a filter without its values: fields, operators, and the type of each value. Compiling costs up to a
millisecond, so each shape is compiled once and kept as text; a call then only puts its values in order.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import attrs

from moorage.codec import to_text
from moorage.driver import Increment
from moorage.errors import InvalidQuery
from moorage.filters import Comparison, Order
from moorage_sql.tables import Cell, RowFormat, build_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import BindParameter, ColumnElement, Executable, Index, MetaData, Select, Table
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.elements import SQLCoreOperations
    from sqlalchemy.types import TypeEngine

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Filter, Operator
    from moorage.schema import Collection, Kind
    from moorage_sql.tables import ColumnTypes, Naming

Parameter: TypeAlias = "Cell | list[Cell]"
ShapeOne: TypeAlias = tuple[str, str, object, int]
Shape: TypeAlias = tuple[ShapeOne, ...]
Locking: TypeAlias = Literal["", "skip"]

MANY = 256
"""Lists of ``in`` that are longer than this are handed over as one parameter."""
TOO_MANY = 16384
"""Where that is not possible, those longer than this are compared in Python."""
MANY_STATEMENTS = 2000
"""So many compiled shapes are kept for each collection; then the cache starts anew."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


@attrs.frozen
class Statement:
    """A statement as the database driver takes it.

    Attributes:
        sql: the text.
        picks: for each placeholder the position of its value among those of the call; None where they are the same.
    """

    sql: str
    picks: tuple[int, ...] | None

    def arguments(self, values: Sequence[Parameter]) -> Sequence[Parameter]:
        """The values of a call in the order of the placeholders."""
        return values if self.picks is None else [values[pick] for pick in self.picks]


@attrs.frozen
class Condition:
    """A filter taken apart.

    Attributes:
        shape: what is asked of the database, without values.
        values: those values.
        residual: comparisons that only Python can make (paths into JSON).
        never: whether nothing can match.
    """

    shape: Shape
    values: list[Parameter]
    residual: Filter
    never: bool


class Flavour(abc.ABC):
    """What differs between the SQL of databases.

    Attributes:
        booleans_are_integers: whether a boolean comes back as 0 or 1.
        guidance: how the planner is brought to use the index that fits: by itself, by a hint that names it, or by
            asking for a range of one value, which only that index has in order.
        lacks_statistics: whether the planner chooses without knowing the data, so that an order must be hidden from it
            (by a unary plus) where another index is better.
        quotation_mark: what stands around a name.
        types: what columns are made of.
    """

    booleans_are_integers: bool = True
    guidance: Literal["none", "hint", "range"] = "none"
    lacks_statistics: bool = False
    quotation_mark: str = '"'
    types: ColumnTypes

    @abc.abstractmethod
    def dialect(self) -> Dialect:
        """SQLAlchemy's dialect, made at the first use (importing it is slow)."""

    def order(self, column: ColumnElement[object], *, descending: bool) -> ColumnElement[object]:
        """Ordered so that null comes first, or last where descending."""
        return column.desc() if descending else column.asc()

    @abc.abstractmethod
    def among(self, column: ColumnElement[object], many: BindParameter[object]) -> ColumnElement[bool]:
        """Whether the column equals one of many values, given as one parameter (see `pack`)."""

    @abc.abstractmethod
    def pack(self, values: list[Cell]) -> Parameter:
        """Many values as one parameter; None where this database cannot take them so."""

    def index(self, name: str, table: Table, fields: Sequence[str], *, unique: bool) -> Index:
        """An index that serves equality on the leading fields and an order on the last."""
        from sqlalchemy import Index

        return Index(name, *(table.c[field] for field in fields), unique=unique)


class Plan:
    """All that is known of one collection: its rows, its table, and the statements compiled so far."""

    def __init__(self, collection: Collection, flavour: Flavour, naming: Naming, metadata: MetaData) -> None:
        self.collection = collection
        self.flavour = flavour
        self.naming = naming
        self.format = RowFormat(collection, booleans_are_integers=flavour.booleans_are_integers)
        self._kinds: dict[str, Kind] = {**self.format.kinds, "id": "string", "revision": "integer"}
        self._metadata = metadata
        self._table: Table | None = None
        self._statements: dict[object, Statement] = {}
        self.unique_names = {naming.unique(collection, key): key for key in collection.unique}

    @property
    def table(self) -> Table:
        """SQLAlchemy's table."""
        if self._table is None:
            name = self.naming.table(self.collection.name)
            self._table = build_table(name, self.collection, self.flavour.types, self._metadata)
        return self._table

    def indexes(self) -> list[Index]:
        """The indexes of the table, unique ones first."""
        collection, flavour, naming = self.collection, self.flavour, self.naming
        found = [
            flavour.index(naming.unique(collection, key), self.table, key, unique=True) for key in collection.unique
        ]
        for fields in collection.indexes:
            found.append(flavour.index(naming.index(collection, fields), self.table, fields, unique=False))
        return found

    # Filters

    def condition(self, where: Filter) -> Condition:
        """Take a filter apart into what the database and what Python compares."""
        shape: list[ShapeOne] = []
        values: list[Parameter] = []
        residual: list[Comparison] = []
        kinds = self._kinds
        for one in where:
            field, value = one.field, one.value
            kind = kinds.get(field)
            of = type(value)
            if kind is None or kind == "json":
                if kind is None or value is not None or one.operator not in ("=", "!="):
                    residual.append(one)
                else:
                    shape.append((field, one.operator, of, 0))
            elif of is tuple:
                if not self._members(one, kind, shape, values, residual):
                    return Condition((), [], (), True)
            elif (of is float and kind == "integer") or (of is int and kind == "number"):
                exact = _exact(field, kind, one.operator, cast("float", value))
                if exact is False:
                    return Condition((), [], (), True)
                if exact is not True:
                    shape.append((field, exact.operator, type(exact.value), 0))
                    if exact.value is not None:
                        values.append(cast("Cell", exact.value))
            elif value is None or of in _SAME_KIND[kind]:
                if (value is None or of is bool) and one.operator not in ("=", "!="):
                    return Condition((), [], (), True)
                shape.append((field, one.operator, of, 0))
                if value is not None:
                    values.append(cast("Cell", value))
            elif one.operator != "!=":
                return Condition((), [], (), True)
        return Condition(tuple(shape), values, tuple(residual), False)

    def _members(
        self,
        one: Comparison,
        kind: Kind,
        shape: list[ShapeOne],
        values: list[Parameter],
        residual: list[Comparison],
    ) -> bool:
        """Add the values of an ``in`` that may equal this field; whether there are any."""
        given = cast("tuple[Plain, ...]", one.value)
        if one.operator != "in":
            return one.operator == "!="
        null = None in given
        found: list[Cell] = []
        same = _SAME_KIND[kind]
        for value in given:
            if type(value) in same:
                found.append(cast("Cell", value))
            elif type(value) in (int, float) and kind in ("integer", "number"):
                exact = _exact(one.field, kind, "=", cast("float", value))
                if not isinstance(exact, bool):
                    found.append(cast("Cell", exact.value))
        found = list(dict.fromkeys(found))
        if not found and not null:
            return False
        packed = self.flavour.pack(found) if len(found) > MANY else None
        if packed is not None:
            values.append(packed)
            shape.append((one.field, "in", null, -1))
        elif len(found) <= TOO_MANY:
            # Few sizes make few shapes: the list is filled up with its last value to a power of two.
            size = 1 << (len(found) - 1).bit_length() if found else 0
            values += found + found[-1:] * (size - len(found))
            shape.append((one.field, "in", null, size))
        else:
            residual.append(one)
        return True

    def _where(
        self, shape: Shape, names: _Names, table: Table | None = None, *, as_range: str | None = None
    ) -> list[ColumnElement[bool]]:
        """SQLAlchemy's conditions for a shape; each value gets the next name."""
        from sqlalchemy import BigInteger, Boolean, Double, String, or_

        bind_types: dict[str, TypeEngine[object]] = {
            "integer": cast("TypeEngine[object]", BigInteger()),
            "number": cast("TypeEngine[object]", Double()),
            "boolean": cast("TypeEngine[object]", Boolean()),
        }
        columns = (self.table if table is None else table).c
        found: list[ColumnElement[bool]] = []
        for field, operator, of, size in shape:
            column = cast("ColumnElement[object]", columns[field])
            type_ = bind_types.get(self._kinds[field], cast("TypeEngine[object]", String()))
            if operator == "in":
                members: list[ColumnElement[bool]] = []
                if size < 0:
                    members.append(self.flavour.among(column, names.next(None)))
                elif size == 1:
                    members.append(column == names.next(type_))
                elif size:
                    members.append(column.in_([names.next(type_) for _ in range(size)]))
                if of:
                    members.append(column.is_(None))
                found.append(or_(*members))
            elif of is type(None):
                found.append(column.is_(None) if operator == "=" else column.is_not(None))
            elif operator == "!=":
                found.append(column.is_distinct_from(names.next(type_)))
            elif operator == "=":
                value = names.next(type_)
                if field == as_range:
                    found += [column >= value, column <= value]
                else:
                    found.append(column == value)
            else:
                found.append(column.op(operator, is_comparison=True)(names.next(type_)))
        return found

    def _order(self, order: Sequence[Order], *, bare: bool = True) -> list[ColumnElement[object]]:
        """What to sort by; where not ``bare``, so that no index is taken for it."""
        found: list[ColumnElement[object]] = []
        for one in order:
            if self._kinds.get(one.field, "json") == "json":
                raise InvalidQuery(f"{self.collection.name} cannot be ordered by {one.field!r}")
            column = cast("ColumnElement[object]", self.table.c[one.field])
            if not bare:
                from sqlalchemy import literal_column

                column = literal_column(f"+{self.flavour.dialect().identifier_preparer.quote(one.field)}")
            found.append(self.flavour.order(column, descending=one.descending))
        return found

    def _first(
        self, statement: Select[Any], shape: Shape, names: _Names, order: Sequence[Order], suffix: ColumnElement[object]
    ) -> Select[Any]:
        """The first rows in order that match.

        Where an index gives them one after the other, its use is enforced: planners prefer one that has the order alone
        when they believe that a match comes soon, and then walk over every row that is done with.
        """
        guidance = self.flavour.guidance
        index = None if guidance == "none" else self._index_for(shape, order)
        if index is None:
            found = statement.where(*self._where(shape, names)).order_by(*self._order(order))
        elif guidance == "hint":
            name = self.flavour.dialect().identifier_preparer.quote(self.naming.index(self.collection, index))
            found = statement.with_hint(self.table, f"FORCE INDEX ({name})")
            found = found.where(*self._where(shape, names)).order_by(*self._order(order))
        else:
            # No other index has this order, as long as the planner does not see that the field is constant.
            last = index[index.index(order[0].field) - 1]
            ordered = self._order((Order(last, descending=order[0].descending), *order))
            found = statement.where(*self._where(shape, names, as_range=last)).order_by(*ordered)
        return found.suffix_with(suffix)

    def _index_for(self, shape: Shape, order: Sequence[Order]) -> tuple[str, ...] | None:
        """The index that has two or more fields asked for equality, followed by those of the order."""
        equal = {field for field, operator, of, _ in shape if operator == "=" and of is not type(None)}
        wanted = tuple(one.field for one in order)
        if not wanted or len({one.descending for one in order}) > 1:
            return None
        for index in self.collection.indexes:
            start = index.index(wanted[0]) if wanted[0] in index else 0
            if start > 1 and equal.issuperset(index[:start]) and index[start : start + len(wanted)] == wanted:
                return index
        return None

    # Statements

    def insert(self) -> Statement:
        """Insert a row of `RowFormat.write`."""
        found = self._statements.get("insert")
        if found is None:
            from sqlalchemy import insert

            names = _Names()
            values = {column.name: names.next(_bind_type(column.type)) for column in self.table.columns}
            found = self._keep("insert", insert(self.table).values(values))
        return found

    def swap(self) -> Statement:
        """Replace the row of this id and revision; values: those of `RowFormat.write`, then the revision expected."""
        found = self._statements.get("swap")
        if found is None:
            from sqlalchemy import literal_column, update

            names = _Names()
            table = self.table
            identifier = names.next(_bind_type(table.c.id.type))
            names.next(None)
            values: dict[str, SQLCoreOperations[object]] = {
                name: names.next(_bind_type(table.c[name].type)) for name in self.format.columns[2:]
            }
            expected = names.next(_bind_type(table.c.revision.type))
            values["revision"] = table.c.revision + literal_column("1")
            statement = update(table).values(values).where(table.c.id == identifier, table.c.revision == expected)
            found = self._keep("swap", statement)
        return found

    def get(self) -> Statement:
        """The row of an id."""
        found = self._statements.get("get")
        if found is None:
            from sqlalchemy import String, select

            identifier = _Names().next(cast("TypeEngine[object]", String()))
            found = self._keep("get", select(self.table).where(self.table.c.id == identifier))
        return found

    def find(self, shape: Shape, order: Sequence[Order], *, limited: bool) -> Statement:
        """Rows that match; values: those of the filter, then the limit."""
        key = ("find", shape, tuple((one.field, one.descending) for one in order), limited)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import BigInteger, select

            names = _Names()
            if limited:
                limit = _limit(_Names(len(_values(shape))).next(cast("TypeEngine[object]", BigInteger())))
                found = self._keep(key, self._first(select(self.table), shape, names, order, limit))
            else:
                sorted_after = self.flavour.lacks_statistics and self._is_better_sorted(shape, order)
                statement = select(self.table).where(*self._where(shape, names))
                found = self._keep(key, statement.order_by(*self._order(order, bare=not sorted_after)))
        return found

    def _is_better_sorted(self, shape: Shape, order: Sequence[Order]) -> bool:
        """Whether an index has more leading fields asked for equality than the best of those that have the order.

        Without statistics a planner takes the one that saves it the sorting, and walks over all that does not match.
        """
        equal = {field for field, operator, of, _ in shape if operator == "=" and of is not type(None)}
        if not order:
            return False

        def prefix(index: tuple[str, ...]) -> int:
            return next((place for place, field in enumerate(index) if field not in equal), len(index))

        indexes = self.collection.indexes
        sorting = [prefix(index) for index in indexes if index[prefix(index) :][:1] == (order[0].field,)]
        return bool(sorting) and max(map(prefix, indexes)) > max(sorting)

    def select(self, fields: tuple[str, ...], shape: Shape) -> Statement:
        """These columns of the rows that match."""
        key = ("select", fields, shape)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import select

            columns = [self.table.c[field] for field in fields]
            found = self._keep(key, select(*columns).where(*self._where(shape, _Names())))
        return found

    def exists(self, shape: Shape) -> Statement:
        """One row where any matches."""
        key = ("exists", shape)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import select

            matching = self._where(shape, _Names())
            found = self._keep(key, select(self.table.c.id).where(*matching).suffix_with(_limit_one()))
        return found

    def with_undeclared(self) -> Statement:
        """The rows that hold more than the declared fields."""
        from sqlalchemy import select

        return self._keep("undeclared", select(self.table).where(self.table.c.body.is_not(None)))

    def count(self, shape: Shape) -> Statement:
        """How many rows match."""
        key = ("count", shape)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import func, select

            statement = select(func.count()).select_from(self.table).where(*self._where(shape, _Names()))
            found = self._keep(key, statement)
        return found

    def delete(self, shape: Shape) -> Statement:
        """Delete the rows that match."""
        key = ("delete", shape)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import delete

            found = self._keep(key, delete(self.table).where(*self._where(shape, _Names())))
        return found

    def changes(self, changes: Changes) -> tuple[object, list[Parameter]] | None:
        """The shape of changes and their values; None where SQL cannot make them."""
        shape: list[tuple[str, bool]] = []
        values: list[Parameter] = []
        kinds = self.format.kinds
        for name, value in changes.items():
            kind = kinds.get(name)
            if kind is None:
                return None
            if isinstance(value, Increment):
                if kind != "integer":
                    return None
                shape.append((name, True))
                values.append(value.by)
            else:
                self.format.check(name, kind, value)
                shape.append((name, False))
                values.append(to_text(value) if kind == "json" and value is not None else cast("Cell", value))
        return tuple(shape), values

    def _assignments(self, changes: object, names: _Names) -> dict[str, SQLCoreOperations[object]]:
        from sqlalchemy import func, literal_column

        table = self.table
        found: dict[str, SQLCoreOperations[object]] = {}
        for name, increment in cast("tuple[tuple[str, bool], ...]", changes):
            value = names.next(_bind_type(table.c[name].type))
            if increment:
                found[name] = func.coalesce(table.c[name], literal_column("0")) + value
            else:
                found[name] = value
        found["revision"] = table.c.revision + literal_column("1")
        return found

    def patch(self, changes: object, shape: Shape) -> Statement:
        """Change the rows that match; values: those of the changes, then those of the filter."""
        key = ("patch", changes, shape)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import update

            names = _Names()
            values = self._assignments(changes, names)
            found = self._keep(key, update(self.table).values(values).where(*self._where(shape, names)))
        return found

    def claim(self, changes: object, shape: Shape, order: Sequence[Order], *, locking: Locking) -> Statement:
        """Change the first row that matches and return it; values as for `patch`.

        With ``locking`` the row is locked first, past those that others have locked.
        """
        key = ("claim", changes, shape, tuple((one.field, one.descending) for one in order), locking)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import select, update

            names = _Names()
            table = self.table
            values = self._assignments(changes, names)
            suffix = _limit_one("FOR UPDATE SKIP LOCKED" if locking else "")
            chosen = self._first(select(table.c.id), shape, names, order, suffix)
            if locking:
                first = chosen.cte("chosen")
                statement = update(table).values(values).where(table.c.id == first.c.id)
            else:
                statement = update(table).values(values).where(table.c.id == chosen.scalar_subquery())
            found = self._keep(key, statement.returning(*table.c))
        return found

    def lock_first(self, shape: Shape, order: Sequence[Order]) -> Statement:
        """The first row that matches and that nobody else has locked, locked."""
        key = ("lock", shape, tuple((one.field, one.descending) for one in order))
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import select

            suffix = _limit_one("FOR UPDATE SKIP LOCKED")
            found = self._keep(key, self._first(select(self.table), shape, _Names(), order, suffix))
        return found

    def tally(self, fields: tuple[str, ...], shape: Shape) -> Statement:
        """How many rows match, from the table of counts.

        The shape compares leading fields of the tally with texts. Rows with a null in a tally are in no count, so those
        with a null further on are counted beside it; an index finds them.
        """
        key = ("tally", fields, shape)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import func, literal_column, or_, select

            tally = self._tally_table(fields)
            total = func.coalesce(func.sum(tally.c.total), literal_column("0"))
            kept = select(total).where(*self._where(shape, _Names(), tally)).scalar_subquery()
            asked = {one[0] for one in shape}
            rest = [self.table.c[name] for name in fields if name not in asked]
            if rest:
                again = self._where(shape, _Names())
                nulls = select(func.count()).select_from(self.table)
                nulls = nulls.where(*again, or_(*(column.is_(None) for column in rest)))
                found = self._keep(key, select(kept + nulls.scalar_subquery()))
            else:
                found = self._keep(key, select(kept))
        return found

    def _tally_table(self, fields: tuple[str, ...]) -> Table:
        from sqlalchemy import Column, MetaData
        from sqlalchemy import Table as SQLTable

        return SQLTable(
            self.naming.tally(self.collection, fields),
            MetaData(),
            *(Column(name, self.table.c[name].type) for name in fields),
            Column("total", self.table.c.revision.type),
        )

    def counts_by(self, field: str, shape: Shape, kept: tuple[str, ...] | None) -> Statement:
        """How many of the rows that match have each value of a column, from the table of counts where one is kept.

        There, the shape compares all other fields of the tally with texts; rows with a null are counted beside it.
        """
        key = ("counts", field, shape, kept)
        found = self._statements.get(key)
        if found is None:
            from sqlalchemy import func, select

            column = self.table.c[field]
            rows = select(column, func.count()).where(*self._where(shape, _Names())).group_by(column)
            if kept is not None:
                tally = self._tally_table(kept)
                sums = select(tally.c[field], func.sum(tally.c.total)).where(*self._where(shape, _Names(), tally))
                found = self._keep(key, sums.group_by(tally.c[field]).union_all(rows.where(column.is_(None))))
            else:
                found = self._keep(key, rows)
        return found

    def _keep(self, key: object, statement: Executable) -> Statement:
        compiled = statement.compile(dialect=self.flavour.dialect())  # type: ignore[attr-defined]
        places = tuple(int(name[1:]) for name in compiled.positiontup or ())
        picks = None if places == tuple(range(len(places))) else places
        if len(self._statements) >= MANY_STATEMENTS:
            self._statements.clear()
        kept = self._statements[key] = Statement(str(compiled), picks)
        return kept


class _Names:
    """Hands out parameters named after the position of their value: p0, p1 and so on."""

    def __init__(self, start: int = 0) -> None:
        self._count = start

    def next(self, type_: TypeEngine[object] | None) -> BindParameter[object]:
        from sqlalchemy import bindparam

        name = f"p{self._count}"
        self._count += 1
        return bindparam(name, type_=type_)


def _values(shape: Shape) -> range:
    """The positions that the values of a filter take."""
    return range(sum(abs(size) if how == "in" else of is not type(None) for _, how, of, size in shape))


def _bind_type(column_type: TypeEngine[object]) -> TypeEngine[object]:
    """The type of a parameter for a column: without a collation, which belongs to the column."""
    from sqlalchemy import String

    return cast("TypeEngine[object]", String()) if isinstance(column_type, String) else column_type


def _limit(value: BindParameter[object]) -> ColumnElement[object]:
    # SQLAlchemy's own LIMIT adds a second parameter for the offset on SQLite.
    from sqlalchemy import text

    return cast("ColumnElement[object]", text(f"LIMIT :{value.key}").bindparams(value))


def _limit_one(rest: str = "") -> ColumnElement[object]:
    from sqlalchemy import text

    return cast("ColumnElement[object]", text(f"LIMIT 1 {rest}".rstrip()))


_SAME_KIND: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "text": (str,),
    "time": (str,),
    "integer": (int,),
    "number": (float,),
    "boolean": (bool,),
}


def _exact(field: str, kind: Kind, operator: Operator, value: float) -> Comparison | bool:
    """A comparison of an integer column with a float, or of a float column with an int, without rounding.

    True where every value matches, False where none does; a null matches ``!=`` and nothing else here.
    """
    if kind == "integer":
        low, high = math.floor(value), math.ceil(value)
        whole = low == high
        if operator in ("=", "!="):
            if not whole or not _INT64_MIN <= low <= _INT64_MAX:
                return operator == "!="
            return Comparison(field, operator, low)
        bound = {"<": high, ">=": high, "<=": low, ">": low}[operator]
        if bound > _INT64_MAX:
            return Comparison(field, "!=", None) if operator in ("<", "<=") else False
        if bound < _INT64_MIN:
            return Comparison(field, "!=", None) if operator in (">", ">=") else False
        return Comparison(field, operator, bound)
    near = float(value)
    if near == value:
        return Comparison(field, operator, near)
    if operator in ("=", "!="):
        return operator == "!="
    # The nearest float lies beside the value, and no float between them: on which side it lies decides.
    if operator in ("<", "<="):
        return Comparison(field, "<" if near > value else "<=", near)
    return Comparison(field, ">" if near < value else ">=", near)
