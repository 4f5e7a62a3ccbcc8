"""Where a collection is kept in Redis, and which part of it a filter needs.

An index is a sorted set of members that all have the same score, so that Redis sorts them as bytes. A member is one
text for each field of the index, then one for the id: these texts sort as the values do, and none begins another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias, cast

from moorage.codec import dumps, loads
from moorage.driver import Document, Increment
from moorage.errors import StorageDamaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Comparison, Filter, Order
    from moorage.schema import Collection

Request: TypeAlias = "dict[str, object]"
Scalar: TypeAlias = "str | int | float | bool | None"

_NULL, _BEYOND_NULL, _END = "0", "1", "~"
_RESIDUE = 0x800
_LUA_EXACT = 10**15


def sort_key(value: Plain) -> str:
    """A text that sorts as the value does among its kind: null first, then booleans, numbers, texts, and the rest.

    Equal numbers have equal texts, whether int or float. An integer that no float equals is written as the nearest
    float and what is left of it. Texts end with a NUL, which they never hold.
    """
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return "2" if value else "1"
    if isinstance(value, (int, float)):
        near = float(value) + 0.0  # which turns -0.0 into 0.0
        bits = cast("int", struct.unpack(">Q", struct.pack(">d", near))[0])
        ordered = bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63
        residue = value - int(near) if isinstance(value, int) else 0
        return f"3{ordered:016x}{residue + _RESIDUE:03x}"
    return f"4{value}\0" if isinstance(value, str) else "5"


def from_sort_key(key: str) -> Scalar:
    """The value of a sort key; an integer where it is one that no float equals, else a float."""
    if key[0] != "3":
        return {"0": None, "1": False, "2": True}.get(key[0], key[1:-1])
    ordered = int(key[1:17], 16)
    bits = ordered ^ 1 << 63 if ordered >> 63 else ordered ^ (2**64 - 1)
    near = cast("float", struct.unpack(">d", struct.pack(">Q", bits))[0])
    residue = int(key[17:], 16) - _RESIDUE
    return int(near) + residue if residue else near


def identifier_of(member: bytes) -> str:
    """The id at the end of a member of an index, after which stands its length."""
    return member[-5 - int(member[-4:], 16) : -5].decode()


def write_document(document: Document, revision: int) -> str:
    """A document as JSON; write.lua relies on each field having a line of its own."""
    fields = ",".join(f"\n{dumps(name)}:{dumps(value)}" for name, value in document.body.items())
    return f'{{"revision":{revision},"body":{{{fields}\n}}}}'


def read_document(identifier: str, text: bytes) -> Document:
    """The inverse of `write_document`."""
    try:
        stored = cast("dict[str, Plain]", loads(text.decode()))
        return Document(identifier, cast("dict[str, Plain]", stored["body"]), cast("int", stored["revision"]))
    except (UnicodeDecodeError, LookupError, TypeError) as error:
        raise StorageDamaged(f"the document {identifier!r:.80} in Redis is damaged: {text[:80]!r}") from error


def _texts(value: Scalar) -> list[str]:
    """All the JSON texts of values that equal this one: 1 may be stored as 1.0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return [dumps(value)]
    if value == 0:
        return ["0", "0.0", "-0.0"]
    near = float(value)
    return sorted({dumps(form) for form in (value, near, int(near)) if form == value})


def tests_of(where: Filter) -> Plain:
    """A filter as write.lua understands it; None where it takes more than equality with scalars."""
    tests: list[Plain] = []
    for one in where:
        values = one.value if isinstance(one.value, tuple) else (one.value,)
        if one.operator not in ("=", "!=", "in") or one.is_path or not all(_is_scalar(each) for each in values):
            return None
        scalars = cast("tuple[Scalar, ...]", values)
        if one.field == "id":
            name, texts = one.field, [each for each in scalars if isinstance(each, str)]
        else:
            name = one.field if one.field == "revision" else dumps(one.field)
            texts = [text for each in scalars for text in _texts(each)]
        tests.append([name, one.operator == "!=", cast("list[Plain]", texts)])
    return tests


@dataclass(frozen=True)
class Lookup:
    """What to read in order to answer a filter: all that match, and perhaps more.

    Attributes:
        index: the key of a sorted set.
        ranges: of its members, each from the first text to before the second.
        identifiers: the ids themselves, where the filter names them.
        ordered: whether the members come in the order that is asked for.
        backwards: whether they do so from the end.
        exact: whether all members of the ranges match.
    """

    index: str
    ranges: list[tuple[str, str]]
    identifiers: list[str] | None = None
    ordered: bool = False
    backwards: bool = False
    exact: bool = False


class Layout:
    """Where one collection is kept, under one version of the schema."""

    def __init__(self, collection: Collection, namespace: str, state: str) -> None:
        """Name the keys; ``state`` is that of the schema under which they are written, see `RedisDriver.setup`."""
        place = f"{namespace}:{state.rpartition('>')[2]}:{collection.name}"
        self.collection = collection
        self.documents = f"{namespace}:documents:{collection.name}"
        # Each index ends with the id anyway; the one of no other field is that of ids.
        indexes = dict.fromkeys(tuple(takewhile(lambda name: name != "id", one)) for one in ((), *collection.indexes))
        self.indexes = {fields: f"{place}:index:{','.join(fields) or 'id'}" for fields in indexes}
        self.tallies = {fields: f"{place}:tally:{','.join(fields)}:" for fields in collection.tallies}
        keys = (*self.indexes, *collection.unique, *collection.tallies)
        self.fields = {name: number for number, name in enumerate(dict.fromkeys(one for key in keys for one in key), 1)}

        def places(fields: Sequence[str]) -> list[Plain]:
            return [self.fields[name] for name in fields]

        self.spec = dumps(
            {
                "schema": f"{namespace}:schema",
                "state": state,
                "documents": self.documents,
                "entries": f"{place}:entries",
                "indexes": [[key, places(fields)] for fields, key in self.indexes.items()],
                "unique": [[f"{place}:unique:{','.join(fields)}", places(fields)] for fields in collection.unique],
                "tallies": [[key, places(fields[:-1]), *places(fields[-1:])] for fields, key in self.tallies.items()],
            }
        )

    def entries(self, document: Document) -> list[Plain]:
        """The sort keys of the fields that indexes, unique keys and tallies are made of, and the id before them."""
        return [document.id, [sort_key(document.body.get(name)) for name in self.fields]]

    def changes(self, changes: Changes) -> Request | None:
        """Changes as write.lua understands them; None where it cannot: it would have to add up a sort key."""
        texts: list[Plain] = []
        entries: list[Plain] = []
        for name, value in changes.items():
            if isinstance(value, Increment):
                if name in self.fields or abs(value.by) >= _LUA_EXACT:
                    return None
                texts.append([dumps(name), False, value.by])
                continue
            texts.append([dumps(name), dumps(value)])
            if name in self.fields:
                entries.append([self.fields[name], sort_key(value)])
        return {"changes": texts, "entries": entries}

    def look_up(self, where: Filter, order: Sequence[Order] = (), *, limited: bool = False) -> Lookup:
        """The index that fits best: most equalities, then, for a few documents, the order, then a range."""
        for one in where:
            if one.field == "id" and one.operator in ("=", "in"):
                values = one.value if isinstance(one.value, tuple) else (one.value,)
                names = list(dict.fromkeys(value for value in values if isinstance(value, str)))
                ranges = [(key, key + _END) for key in map(sort_key, names)]
                return Lookup(self.indexes[()], ranges, names, ordered=not order or len(names) <= 1)
        exact = {one.field: one.value for one in where if one.operator == "=" and not isinstance(one.value, tuple)}
        best: tuple[tuple[int, bool, bool], Lookup] | None = None
        for fields, key in self.indexes.items():
            prefix = 0
            while prefix < len(fields) and fields[prefix] in exact:
                prefix += 1
            start = "".join(sort_key(exact[name]) for name in fields[:prefix])
            rest = (*fields[prefix:], "id")
            ranges = _ranges(start, [one for one in where if one.field == rest[0]])
            narrowed = ranges != [(start, start + _END)]
            in_order = tuple(one.field for one in order) == rest[: len(order)]
            ordered = in_order and len({one.descending for one in order}) <= 1 and (len(ranges) <= 1 or not order)
            score = (prefix, ordered, narrowed) if limited else (prefix, narrowed, ordered)
            if best is None or score > best[0]:
                scalars = all(_is_scalar(exact[name]) for name in fields[:prefix])
                backwards = ordered and any(one.descending for one in order)
                whole = prefix == len(where) and scalars
                best = score, Lookup(key, ranges, ordered=ordered, backwards=backwards, exact=whole)
        assert best is not None  # noqa: S101  (there is always the index of ids)
        return best[1]

    def tally(self, where: Filter, field: str | None = None) -> tuple[str, Filter] | None:
        """The hash of counts that answers this filter, and the comparisons left for the last field of its tally.

        Args:
            where: must ask the leading fields of a tally for equality, and may compare its last one.
            field: by which the counts are wanted; None for their sum.
        """
        for fields, key in self.tallies.items():
            last = tuple(one for one in where if one.field == fields[-1])
            leading = {one.field: one.value for one in where if one.operator == "=" and one not in last}
            complete = set(leading) == set(fields[:-1]) and len(leading) + len(last) == len(where)
            if complete and field in (None, fields[-1]) and all(_is_scalar(value) for value in leading.values()):
                return key + "".join(sort_key(cast("Plain", leading[name])) for name in fields[:-1]), last
        return None


def _is_scalar(value: object) -> bool:
    return not isinstance(value, (list, dict, tuple))


def _ranges(start: str, comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """The parts of an index, behind a prefix, in which values can meet the comparisons of the next field."""
    lower, upper = start, start + _END
    for one in comparisons:
        if isinstance(one.value, tuple):
            return [(key, key + _END) for key in sorted({start + sort_key(value) for value in one.value})]
        key = start + sort_key(one.value)
        kind, following = (start + chr(ord(key[len(start)]) + step) for step in (0, 1))
        if one.operator in (">", ">="):
            lower, upper = max(lower, key), min(upper, following)
        elif one.operator in ("<", "<="):
            lower, upper = max(lower, kind), min(upper, key + _END)
        elif one.operator == "!=" and one.value is None:
            lower = max(lower, start + _BEYOND_NULL)
    return [(lower, upper)]
