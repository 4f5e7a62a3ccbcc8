"""From a collection to a table: columns, indexes, and how documents become rows and rows documents."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs

from moorage.codec import loads, to_text
from moorage.driver import Document
from moorage.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import MetaData, Table
    from sqlalchemy.types import TypeEngine

    from moorage.codec import Plain
    from moorage.schema import Collection, Kind

Cell: TypeAlias = "bool | int | float | str | None"
"""What stands in a column."""
Row: TypeAlias = tuple[Cell, ...]

ID_LENGTH = 600
STRING_LENGTH = 255
TIME_LENGTH = 32
PREFIX = "moorage_"
"""What the names of all tables begin with unless the user says otherwise: others have ``trials``, too."""
SCHEMA_TABLE = "schema"
FORMER_SCHEMA_TABLE = "holdfast_schema"
"""What it was called when storages had the schema 1, and their tables no prefix by default."""
SCHEMA_ROW = "schema"
"""The row of the schema table that holds the version; each other row is named after a table, without its prefix."""
ANNOUNCED = -1
"""The version of what is not there yet, or not wholly."""
RESERVED = frozenset({"id", "revision", "body"})

_TYPES: dict[Kind, tuple[type, ...]] = {
    "string": (str,),
    "text": (str,),
    "time": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "json": (dict, list, str, int, float, bool),
}
_LENGTHS: dict[Kind, int] = {"string": STRING_LENGTH, "time": TIME_LENGTH}
_KNOWN_SIGNATURES = 4096


def short_name(*parts: str) -> str:
    """A name that fits everywhere (PostgreSQL cuts at 63 bytes)."""
    name = "_".join(parts)
    if len(name) <= 60:
        return name
    return f"{name[:51]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def tally_name(collection: Collection, fields: Sequence[str]) -> str:
    """How the table that keeps the counts of documents by these fields is called, without a prefix."""
    return short_name(collection.name, "tally", *fields)


@attrs.frozen
class Naming:
    """What the tables of a storage are called in its database, and what belongs to them.

    Attributes:
        prefix: what all these names begin with; one for each storage of a database.
    """

    prefix: str = PREFIX
    schema_table: str = SCHEMA_TABLE

    @property
    def schema(self) -> str:
        """The table that records the version of the schema."""
        return self.table(self.schema_table)

    @property
    def former(self) -> Naming:
        """What the tables of the same storage were called under schema 1."""
        return Naming("" if self.prefix == PREFIX else self.prefix, FORMER_SCHEMA_TABLE)

    def is_index(self, name: str) -> bool:
        """Whether an index is one that this naming gives."""
        return name.startswith((f"{self.prefix}uq_", f"{self.prefix}ix_"))

    def table(self, name: str) -> str:
        """The table of the collection, or of the tally, of this name."""
        return short_name(self.prefix + name)

    def tally(self, collection: Collection, fields: Sequence[str]) -> str:
        """The table that keeps the counts of documents by these fields."""
        return self.table(tally_name(collection, fields))

    def unique(self, collection: Collection, key: Sequence[str]) -> str:
        """The index of a unique key."""
        return short_name(f"{self.prefix}uq", collection.name, *key)

    def index(self, collection: Collection, fields: Sequence[str]) -> str:
        """An index."""
        return short_name(f"{self.prefix}ix", collection.name, *fields)

    def trigger(self, tally: str, event: str) -> str:
        """The trigger, and the function that it may call, that keeps a tally of this name up to date after an event."""
        return short_name(self.prefix + tally, event)


class ColumnTypes:
    """The types of columns; a dialect changes what its database calls otherwise.

    Attributes:
        collation: what makes texts compare by code point; None where they do already.
        quoted: whether names are told apart by case, and hence written in quotes where needed.
        table_options: keywords for `sqlalchemy.Table`.
    """

    def __init__(self, collation: str | None = None, table_options: dict[str, str] | None = None) -> None:
        self.collation = collation
        self.table_options = table_options or {}

    def string(self, length: int) -> TypeEngine[str]:
        """A text of at most this many characters."""
        from sqlalchemy import String

        return String(length, collation=self.collation)

    def text(self) -> TypeEngine[str]:
        """A text of any length."""
        from sqlalchemy import Text

        return Text(collation=self.collation)

    def number(self) -> TypeEngine[float]:
        """A 64-bit float that comes back bit by bit."""
        from sqlalchemy import Double

        return Double()

    def of(self, kind: Kind) -> TypeEngine[str] | TypeEngine[float] | TypeEngine[int] | TypeEngine[bool]:
        """The type of a declared field."""
        from sqlalchemy import BigInteger, Boolean

        if kind == "string":
            return self.string(STRING_LENGTH)
        if kind == "time":
            return self.string(TIME_LENGTH)
        if kind == "integer":
            return BigInteger()
        if kind == "number":
            return self.number()
        if kind == "boolean":
            return Boolean()
        return self.text()


def build_table(name: str, collection: Collection, types: ColumnTypes, metadata: MetaData) -> Table:
    """The table of a collection, without its indexes (dialects differ there)."""
    from sqlalchemy import BigInteger, Column, Table

    options: dict[str, Any] = dict(types.table_options)
    return Table(
        name,
        metadata,
        Column("id", types.string(ID_LENGTH), primary_key=True),
        Column("revision", BigInteger(), nullable=False),
        *[Column(field.name, types.of(field.kind)) for field in collection.fields],
        Column("body", types.text()),
        **options,
    )


def build_schema_table(name: str, types: ColumnTypes, metadata: MetaData) -> Table:
    """The table that records the version of the schema."""
    from sqlalchemy import BigInteger, Column, Table

    options: dict[str, Any] = dict(types.table_options)
    return Table(
        name,
        metadata,
        Column("name", types.string(STRING_LENGTH), primary_key=True),
        Column("version", BigInteger(), nullable=False),
        **options,
    )


class RowFormat:
    """How the documents of one collection are written as rows and read back.

    A row is: id, revision, one cell for each declared field, and the JSON text of what else the body holds (or null).
    """

    def __init__(self, collection: Collection, *, booleans_are_integers: bool) -> None:
        clash = sorted(RESERVED.intersection(field.name for field in collection.fields))
        if clash:
            raise InvalidArgument(f"collection {collection.name!r} declares the reserved field {clash[0]!r}")
        self.collection = collection
        self.kinds: dict[str, Kind] = {field.name: field.kind for field in collection.fields}
        self.names = tuple(self.kinds)
        self.columns = ("id", "revision", *self.names, "body")
        self._declared = self.kinds.keys()
        self._json = tuple(name for name, kind in self.kinds.items() if kind == "json")
        self._json_places = tuple(place for place, kind in enumerate(self.kinds.values()) if kind == "json")
        self._booleans = tuple(name for name, kind in self.kinds.items() if kind == "boolean" and booleans_are_integers)
        # Servers cut trailing spaces off without a word, so the length is checked here, and alike for all.
        self._limits = tuple(
            (place, _LENGTHS[kind]) for place, kind in enumerate(self.kinds.values()) if kind in _LENGTHS
        )
        self._signatures: set[tuple[type, ...]] = set()

    def write(self, document: Document) -> list[Cell]:
        """The cells of a document, with revision 1.

        Raises:
            InvalidArgument: a declared field holds a value of another kind.
        """
        body = document.body
        values: list[Plain] = list(map(body.get, self.names))
        signature = tuple(map(type, values))
        if signature not in self._signatures:
            self._check(document.id, values, signature)
        for place, most in self._limits:
            text = values[place]
            if text is not None and len(cast("str", text)) > most:
                self._refuse_length(self.names[place], cast("str", text), most)
        if len(document.id) > ID_LENGTH:
            self._refuse_length("id", document.id, ID_LENGTH)
        for place in self._json_places:
            value = values[place]
            if value is not None:
                values[place] = to_text(value)
        if body.keys() <= self._declared:
            extra = None
        else:
            extra = to_text({name: value for name, value in body.items() if name not in self._declared})
        return cast("list[Cell]", [document.id, 1, *values, extra])

    def _check(self, identifier: str, values: list[Plain], signature: tuple[type, ...]) -> None:
        for (name, kind), value in zip(self.kinds.items(), values, strict=True):
            self.check(name, kind, value, f" in {self.collection.name} {identifier!r}")
        if len(self._signatures) < _KNOWN_SIGNATURES:
            self._signatures.add(signature)

    def check(self, name: str, kind: Kind, value: object, where: str = "") -> None:
        """Refuse a value that does not fit the kind of its field."""
        if value is not None and type(value) not in _TYPES[kind]:
            raise InvalidArgument(
                f"field {name!r}{where} holds {kind} values, not {value!r:.80} ({type(value).__name__})"
            )
        if isinstance(value, str) and kind in _LENGTHS and len(value) > _LENGTHS[kind]:
            self._refuse_length(name, value, _LENGTHS[kind])

    def _refuse_length(self, name: str, text: str, most: int) -> None:
        raise InvalidArgument(
            f"{name!r} in {self.collection.name} takes at most {most} characters, not {len(text)}: {text!r:.80}"
        )

    def read(self, row: Sequence[Cell]) -> Document:
        """The document of a row; every declared field stands in its body, None where it is null."""
        body = cast("dict[str, Plain]", dict(zip(self.names, row[2:], strict=False)))
        for name in self._json:
            text = body[name]
            if text is not None:
                body[name] = loads(cast("str", text))
        for name in self._booleans:
            value = body[name]
            if value is not None:
                body[name] = bool(value)
        extra = row[-1]
        if extra is not None:
            body.update(cast("dict[str, Plain]", loads(cast("str", extra))))
        return Document(cast("str", row[0]), body, cast("int", row[1]))

    @functools.cached_property
    def string_tallies(self) -> tuple[tuple[str, ...], ...]:
        """The tallies that a table can keep: all their fields are strings."""
        return tuple(
            tally for tally in self.collection.tallies if all(self.kinds.get(name) == "string" for name in tally)
        )
