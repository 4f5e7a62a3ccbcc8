"""What a driver is asked to match: comparisons of fields, joined by AND.

A user's query, a dict in the customary operator style, is parsed here against the fields that a collection declares. A
driver only ever sees `Comparison` objects whose field is known and whose value is plain, so nothing can be injected.

Meaning, the same on every backend:

- null (None, or a path that does not exist) equals null and nothing else; it is unequal to everything else;
- ``<``, ``<=``, ``>``, ``>=`` match only values of the same kind (number with number, text with text), never null;
- a boolean is not a number; texts compare by code point; ``in`` is true where one of the values is equal;
- a value that databases have no type for compares as what it stands for: infinities, integers of any size and numpy's
  scalars as numbers, times as their ISO 8601 text in UTC; NaN equals NaN; sets have no order;
- where a path can be read in several ways (``a.b`` is the key ``a.b``, and ``b`` inside ``a``), one of its values is
  enough, and for ``!=`` none may be equal; a key that is no text is named by its JSON (``1``, ``true``).
"""

from __future__ import annotations

import datetime
import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs

from moorage import codec
from moorage.comparing import Operator, compare, lookup, meets, values_at
from moorage.errors import EncodingError, InvalidQuery, shown

if TYPE_CHECKING:
    from moorage.codec import Plain
    from moorage.schema import Collection, Field

__all__ = ["Comparison", "Filter", "Operator", "Order", "compare", "equal", "lookup", "matches", "parse", "suggest"]


@attrs.frozen
class Comparison:
    """One comparison of a field with a value.

    Attributes:
        field: a declared field, ``id`` or ``revision``, or a dotted path into a declared field of kind ``json``.
        operator: how the two are compared.
        value: what the field is compared with; for ``in`` a tuple of such values.
    """

    field: str
    operator: Operator
    value: Plain | tuple[Plain, ...]

    @property
    def is_path(self) -> bool:
        """Whether the field is a path into a document of kind ``json``."""
        return "." in self.field


Filter: TypeAlias = tuple[Comparison, ...]


@attrs.frozen
class Order:
    """Sort by a declared field or the id; null comes first, or last where ``descending``. Equals come in any order."""

    field: str
    descending: bool = False


def equal(**fields: Plain) -> Filter:
    """A filter that asks each field for equality with a value."""
    return tuple(Comparison(name, "=", value) for name, value in fields.items())


def matches(wanted: Filter, identifier: str, revision: int, body: Mapping[str, Plain]) -> bool:
    """Whether a document meets every comparison."""
    for one in wanted:
        if one.field == "id":
            met = compare(identifier, one.operator, one.value)
        elif one.field == "revision":
            met = compare(revision, one.operator, one.value)
        else:
            met = meets(values_at(body, one.field), one.operator, one.value)
        if not met:
            return False
    return True


_OPERATORS: dict[str, Operator] = {
    "$eq": "=",
    "$ne": "!=",
    "$lt": "<",
    "$lte": "<=",
    "$gt": ">",
    "$gte": ">=",
    "$in": "in",
}
_KNOWN_OPERATORS = (*_OPERATORS, "$nin")


def suggest(word: object, known: Sequence[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word[:80], known, n=1) if isinstance(word, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""


def parse(
    query: object, collection: Collection, *, names: Mapping[str, str] | None = None, argument: str = "where"
) -> Filter:
    """A user's query as a filter.

    Args:
        query: None, or a mapping from a field, or a dotted path into one, to a value or to a mapping of operators
            (``$eq $ne $lt $lte $gt $gte $in $nin``). All must hold.
        collection: which fields there are.
        names: how users call fields that are stored under another name.
        argument: what the caller's argument is called, for the message.

    Raises:
        InvalidQuery: an unknown field or operator (the message names the known ones), or a value that this field
            cannot be compared with.
    """
    if query is None:
        return ()
    if not isinstance(query, Mapping):
        raise InvalidQuery(
            f"{argument} must be a dict such as {{'status': 'new'}}, not {type(query).__name__}: {shown(query)}"
        )
    public = dict(names or {})
    fields = {field.name: field for field in collection.fields if field.public}
    hidden = set(public.values())
    known = sorted([*public, *(name for name in fields if name not in hidden), *(["id"] * ("id" not in public))])
    found: list[Comparison] = []
    for name, condition in query.items():
        head, dot, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
        stored = public.get(head, head)
        field = fields.get(stored)
        if head not in known or (field is None and stored != "id"):
            listed = ", ".join(_as_written(one, fields.get(one)) for one in known)
            raise InvalidQuery(
                f"{argument} names an unknown field {shown(name)}.{suggest(head, known)} "
                f"The fields of {collection.name} are: {listed}"
            )
        if dot and (field is None or field.kind != "json"):
            raise InvalidQuery(f"{argument}: {head!r} holds no inner fields, so {name!r} cannot be asked for")
        if field is not None and field.kind == "json" and not dot:
            raise InvalidQuery(f"{argument}: name an inner field of {head!r}, as in '{head}.name'")
        path = f"{stored}.{rest}" if dot else stored
        found += _conditions(path, condition, None if dot else field, argument)
    return tuple(found)


def _as_written(name: str, field: Field | None) -> str:
    return f"{name}.NAME" if field is not None and field.kind == "json" else name


def _conditions(path: str, condition: object, field: Field | None, argument: str) -> list[Comparison]:
    if not (isinstance(condition, Mapping) and any(isinstance(key, str) and key.startswith("$") for key in condition)):
        return [Comparison(path, "=", _plain(path, condition, field, argument))]
    found: list[Comparison] = []
    for word, value in condition.items():
        if word in ("$in", "$nin"):
            if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, (Sequence, set, frozenset)):
                raise InvalidQuery(f"{argument}: {word} of {path!r} takes a list, not {shown(value)}")
            values = tuple(_plain(path, one, field, argument) for one in value)
            if word == "$in":
                found.append(Comparison(path, "in", values))
            else:
                found += [Comparison(path, "!=", one) for one in values]
        elif word in _OPERATORS:
            found.append(Comparison(path, _OPERATORS[word], _plain(path, value, field, argument)))
        else:
            raise InvalidQuery(
                f"{argument}: unknown operator {shown(word)} for {path!r:.80}.{suggest(word, _KNOWN_OPERATORS)} "
                f"The operators are: {', '.join(_KNOWN_OPERATORS)}"
            )
    return found


_TAKES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "text": (str,),
    "time": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
}


def _plain(path: str, value: object, field: Field | None, argument: str) -> Plain:
    """The value as it is stored, checked against the kind of a declared field."""
    # As in params and results; a text of a derived class as that text.
    value = codec.simplify(value)
    value = str.__str__(value) if isinstance(value, str) else value
    try:
        if field is not None and field.kind == "time" and isinstance(value, datetime.datetime):
            value = codec.encode_time(value)
        elif field is not None and field.kind == "number" and isinstance(value, float) and math.isinf(value):
            value = math.copysign(sys.float_info.max, value)  # as it is stored
        plain = codec.encode(value)
    except EncodingError as error:
        raise InvalidQuery(f"{argument}: {path!r} cannot be compared with {shown(value)}: {error}") from error
    if field is None or plain is None:
        return plain
    if not isinstance(plain, _TAKES[field.kind]) or (isinstance(plain, bool) and field.kind != "boolean"):
        raise InvalidQuery(
            f"{argument}: {path!r} is compared with {field.kind} values, "
            f"not with {shown(value)} ({type(value).__name__})"
        )
    return plain
