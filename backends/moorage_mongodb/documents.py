"""How a document lies in MongoDB, and how filters and changes are said in its language.

A stored document is the body with ``_id`` and ``revision`` before it. Of a key, what MongoDB gives a meaning of its own
is escaped as in a URL: ``.`` is ``%2E``, ``%`` is ``%25``, a leading ``$`` is ``%24``, the empty key is ``%``. Times
stay texts, as the core writes them: a date of BSON would lose their microseconds. A declared field that is null is left
out, so that counters start from nothing and unique indexes pass over it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import unquote

import attrs
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry
from bson.int64 import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel

from moorage.codec import MAPPINGS, named_keys
from moorage.driver import Document, Increment
from moorage.errors import StorageDamaged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Comparison, Filter, Order
    from moorage.schema import Collection

Stored: TypeAlias = dict[str, Any]
"""A document, a filter or an update, as pymongo takes it."""

_SPECIAL = re.compile(r"[%.]|\A\$")
_MOST_DOTS = 3
_OWN = frozenset({"_id", "revision"})
_OPERATORS = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte", "in": "$in"}


class _Integers(TypeDecoder):
    """64-bit integers come back as Python's own."""

    bson_type = Int64

    def transform_bson(self, value: Any) -> int:
        return int(value)


CODEC: CodecOptions[Stored] = CodecOptions(type_registry=TypeRegistry([_Integers()]))


def encode_key(key: str) -> str:
    """A key of a dict as a name that MongoDB takes for nothing but a name."""
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", key) if key else "%"


def decode_key(name: str) -> str:
    """The inverse of `encode_key`."""
    if "%" not in name:
        return name
    return "" if name == "%" else unquote(name)


def encode(value: Plain) -> Plain:
    """A value with all keys inside it escaped."""
    if isinstance(value, dict):
        return {encode_key(key): encode(one) for key, one in value.items()}
    return [encode(one) for one in value] if isinstance(value, list) else value


def decode(value: Plain) -> Plain:
    """The inverse of `encode`."""
    if isinstance(value, dict):
        return {decode_key(name): decode(one) for name, one in value.items()}
    return [decode(one) for one in value] if isinstance(value, list) else value


def read_document(stored: Stored) -> Document:
    """The document that `Layout.write` was given.

    Raises:
        StorageDamaged: other software wrote it.
    """
    identifier, revision = stored.pop("_id", None), stored.pop("revision", None)
    if not isinstance(identifier, str) or not isinstance(revision, int):
        raise StorageDamaged(f"a stored document is not Moorage's: _id {identifier!r:.80}, revision {revision!r:.80}")
    body: dict[str, Plain] = {}
    for name, value in stored.items():
        body[name if "%" not in name else decode_key(name)] = decode(value) if type(value) in (dict, list) else value
    return Document(identifier, body, revision)


@attrs.frozen
class Condition:
    """What MongoDB is asked, and what is left to compare here.

    Attributes:
        query: finds all that match, and perhaps more.
        residual: the comparisons that must be made again on what was found.
        identifier: the one id that can match, where the filter names it.
        never: nothing can match.
    """

    query: Stored
    residual: Filter
    identifier: str | None
    never: bool


class Layout:
    """One collection."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.kinds = {field.name: field.kind for field in collection.fields}

    def write(self, document: Document, revision: int) -> Stored:
        """A document as it is stored."""
        stored: Stored = {"_id": document.id, "revision": revision}
        for key, value in document.body.items():
            if value is not None or key not in self.kinds:
                name = f"%{ord(key[0]):02X}{key[1:]}" if key in _OWN else encode_key(key)
                stored[name] = encode(value) if type(value) in (dict, list) else value
        return stored

    def indexes(self) -> list[IndexModel]:
        """The indexes of a collection; a unique one holds only documents that have all fields of its key."""
        found = [_index(fields) for fields in self.collection.indexes]
        for fields in self.collection.unique:
            whole = {name: {"$exists": True} for name in fields}
            found.append(_index(fields, "unique_", unique=True, partialFilterExpression=whole))
            if len(fields) > 1 and fields[:-1] not in self.collection.indexes:
                found.append(_index(fields[:-1]))  # for lookups by a part of the key, which a partial index cannot do
        return found

    def update(self, changes: Changes) -> Stored:
        """Changes as an update; the revision grows with them."""
        made: Stored = {"$inc": {"revision": 1}}
        for name, value in changes.items():
            if isinstance(value, Increment):
                made["$inc"][name] = value.by
            elif value is None:
                made.setdefault("$unset", {})[name] = ""
            else:
                made.setdefault("$set", {})[name] = encode(value)
        return made

    def sort(self, order: Sequence[Order]) -> list[tuple[str, int]]:
        """An order; MongoDB sorts null and what is missing before everything else, as the waist does."""
        keys: dict[str, int] = {}
        for one in order:  # of a field that comes twice, the first decides
            keys.setdefault("_id" if one.field == "id" else one.field, DESCENDING if one.descending else ASCENDING)
        return list(keys.items())

    def condition(self, where: Filter) -> Condition:
        """A filter as a query.

        Lists and dicts are compared here, and so is what lies on a path: MongoDB looks into lists where the waist does
        not. It is asked for a superset of them wherever that is possible.
        """
        query: Stored = {}
        all_of: list[Stored] = []
        residual: list[Comparison] = []
        identifier: str | None = None
        never = False

        def add(name: str, how: str, value: object) -> None:
            if how in query.setdefault(name, {}):
                all_of.append({name: {how: value}})
            else:
                query[name][how] = value

        for one in where:
            name = "_id" if one.field == "id" else one.field
            if one.is_path or (name not in _OWN and self.kinds.get(name, "json") == "json"):
                residual.append(one)
                if (superset := _superset(one)) is not None:
                    all_of.append(superset)
                continue
            value: object = one.value
            if isinstance(value, tuple):
                value = [each for each in value if not isinstance(each, (list, dict))]
            elif one.operator not in ("=", "!="):
                never = never or value is None or isinstance(value, (bool, list, dict))
            elif isinstance(value, (list, dict)):
                never = never or one.operator == "="
                continue
            elif name == "_id" and one.operator == "=" and isinstance(value, str):
                identifier = value
            add(name, _OPERATORS[one.operator], value)
        if all_of:
            query["$and"] = all_of
        return Condition(query, tuple(residual), identifier, never)


def _index(fields: Sequence[str], before: str = "", **options: object) -> IndexModel:
    return IndexModel([(name, ASCENDING) for name in fields], name=before + "_".join(fields), **options)


def _superset(one: Comparison) -> Stored | None:
    """What everything fulfils that fulfils a comparison with a list, a dict, or what lies on a path; None if unknown.

    What lies there may also be in a dict with a tag, which only the core can read.
    """
    values = one.value if isinstance(one.value, tuple) else (one.value,)
    if one.operator == "!=" or any(value is None or isinstance(value, (list, dict)) for value in values):
        return None
    if one.operator not in ("=", "in") and any(isinstance(value, bool) for value in values):
        return None
    field, _, path = one.field.partition(".")
    if path.count(".") > _MOST_DOTS:
        return None
    how, value = _OPERATORS[one.operator], list(values) if one.operator == "in" else cast("Plain", one.value)
    names = {encode_key(one.field): None}
    wrapped: dict[str, None] = {}
    for keys in _key_paths(path):
        parts = [field, *map(encode_key, keys)]
        names[".".join(parts)] = None
        wrapped |= {".".join((*parts[:end], encode_key(tag))): None for end in range(1, len(parts)) for tag in MAPPINGS}
    wanted: list[Stored] = [{name: condition} for name in names for condition in ({how: value}, {"$type": "object"})]
    return {"$or": [*wanted, *({name: {"$exists": True}} for name in wrapped)]}


def _key_paths(path: str) -> Iterator[tuple[str, ...]]:
    """The keys that a path may stand for: each name in it may hold dots."""
    for key in named_keys(path):
        yield (key,)
    end = path.find(".")
    while end >= 0:
        for key in named_keys(path[:end]):
            yield from ((key, *rest) for rest in _key_paths(path[end + 1 :]))
        end = path.find(".", end + 1)
