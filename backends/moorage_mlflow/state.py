"""The documents that the log describes, in tables in memory, and the changes of which its entries are made.

A change is a list:

- ``["+", collection, id, revision, body]`` puts a document,
- ``["=", collection, id, revision, fields]`` gives one new values in some fields,
- ``["-", collection, id]`` removes one,
- ``["schema", version]`` is said at the beginning and at upgrades.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, cast

import attrs

from moorage.errors import StorageDamaged
from moorage.schema import Collection, Field, Schema
from moorage.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from moorage.codec import Plain
    from moorage.driver import Document
    from moorage.table import Row

    Change = list[object]

MIRRORS = Collection(
    name="mlflow_mirrors",
    fields=(Field("run", "string"), Field("shown", "string"), Field("measured", "integer"), Field("within", "string")),
)
"""Where in MLflow a document is shown: the id is ``collection/id``, ``run`` the id of a run or an experiment there,
``shown`` the digest of its picture, ``measured`` how many measurements are shown, ``within`` a trial's experiment."""

EXPERIMENTS, TRIALS, MEASUREMENTS = "experiments", "trials", "measurements"


@attrs.frozen
class Touch:
    """A document that was changed.

    Attributes:
        collection: its collection.
        id: its id.
        kind: whether it is new, changed, or gone.
        group: the experiment and the trial that a trial or a measurement belongs to.
    """

    collection: str
    id: str
    kind: Literal["new", "changed", "gone"]
    group: tuple[str, str] = ("", "")


class State:
    """All documents of a storage, as far as the log has been read.

    Attributes:
        schema: what this process declares.
        version: of the schema, as the log says.
        tables: by the name of the collection.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.version = schema.version
        self.tables: dict[str, Table] = {one.name: Table(one) for one in (*schema.collections, MIRRORS)}

    def table(self, name: str) -> Table:
        """A table; one that is not declared here is kept all the same, for others who know it."""
        if name not in self.tables:
            self.tables[name] = Table(Collection(name=name, fields=()))
        return self.tables[name]

    def declares(self, schema: Schema) -> bool:
        """Whether these collections are the ones that the tables were made for."""
        return all(one.name in self.tables and self.tables[one.name].collection == one for one in schema.collections)

    def check_version(self, shown: str) -> None:
        """Refuse a storage of another version.

        Raises:
            SchemaMismatch: somebody has upgraded it, or it is older.
        """
        self.schema.accepts(self.version, shown)

    def get(self, name: str, identifier: str) -> Document | None:
        """A document."""
        table = self.tables[name]
        row = table.rows.get(identifier)
        return None if row is None else table.document(identifier, row)

    def describe(self, changes: Iterable[tuple[Table, str, Row | None]]) -> tuple[list[Change], list[Touch]]:
        """What was put into the tables, as changes for an entry, and the documents that it touches."""
        first: dict[tuple[str, str], Row | None] = {}
        for table, identifier, before in changes:
            first.setdefault((table.collection.name, identifier), before)
        described: list[Change] = []
        touched: list[Touch] = []
        for (name, identifier), before in first.items():
            table = self.tables[name]
            after = table.rows.get(identifier)
            if after is not None and before is not None:
                touched.append(_touch(table, identifier, after, "changed"))
                described.append(_difference(table, identifier, before, after))
            elif after is not None:
                touched.append(_touch(table, identifier, after, "new"))
                described.append(["+", name, identifier, after[0], _short(table, identifier, after)])
            elif before is not None:
                touched.append(_touch(table, identifier, before, "gone"))
                described.append(["-", name, identifier])
        return described, touched

    def apply(self, changes: Iterable[Sequence[object]]) -> list[Touch]:
        """Do what an entry says.

        Raises:
            StorageDamaged: it does not fit.
        """
        touched: list[Touch] = []
        for one in changes:
            try:
                if one[0] == "schema":
                    self.version = cast("int", one[1])
                else:
                    touched.append(self._apply(one))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise StorageDamaged(f"an entry of the log does not fit: {one!r:.120} ({error!r})") from error
        return touched

    def _apply(self, change: Sequence[object]) -> Touch:
        word, name, identifier = (cast("str", one) for one in change[:3])
        table = self.table(name)
        if word == "-":
            gone = table.put(identifier, None)
            if gone is None:
                raise KeyError(identifier)
            return _touch(table, identifier, gone, "gone")
        revision, fields = cast("int", change[3]), cast("Mapping[str, Plain]", change[4])
        if word == "+":
            body = dict(fields)
        elif word == "=":
            body = {**table.document(identifier, table.rows[identifier]).body, **fields}
        else:
            raise ValueError(word)
        row = table.row(body, revision)
        if (broken := table.breaks(identifier, row)) is not None:
            raise ValueError(f"the key ({', '.join(broken)}) is taken")
        before = table.put(identifier, row)
        return _touch(table, identifier, row, "new" if before is None else "changed")

    def lines(self) -> Iterator[str]:
        """All of it as text, from which `load` makes it again; documents in the order in which they came."""
        yield json.dumps(["schema", self.version])
        for name, table in self.tables.items():
            for identifier, row in table.rows.items():
                yield json.dumps(["+", name, identifier, row[0], _short(table, identifier, row)], separators=(",", ":"))

    def load(self, lines: Iterable[str]) -> list[Touch]:
        """Take over what `lines` gave.

        Raises:
            StorageDamaged: it makes no sense.
        """
        touched: list[Touch] = []
        for text in lines:
            try:
                change = json.loads(text)
            except ValueError as error:
                raise StorageDamaged(f"a line of a checkpoint cannot be read: {text!r:.80}") from error
            touched += self.apply([change])
        return touched


def _short(table: Table, identifier: str, row: Row) -> dict[str, Plain]:
    """A body without the declared fields that are null."""
    body = table.document(identifier, row).body
    return {name: value for name, value in body.items() if value is not None or name not in table.position}


def _difference(table: Table, identifier: str, before: Row, after: Row) -> Change:
    name = table.collection.name
    if before[-1] != after[-1]:
        return ["+", name, identifier, after[0], _short(table, identifier, after)]
    body = table.document(identifier, after).body
    fields = {
        field: body[field]
        for field, place in table.position.items()
        if before[place] != after[place] or type(before[place]) is not type(after[place])
    }
    return ["=", name, identifier, after[0], fields]


def _touch(table: Table, identifier: str, row: Row, kind: Literal["new", "changed", "gone"]) -> Touch:
    name = table.collection.name
    if name in (TRIALS, MEASUREMENTS) and "trial" in table.position and "experiment" in table.position:
        group = (str(row[table.position["experiment"]]), str(row[table.position["trial"]]))
        return Touch(name, identifier, kind, group)
    return Touch(name, identifier, kind)
