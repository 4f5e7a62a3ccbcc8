"""When two documents are the same: stricter than ``==``, and as lenient as the specification is."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from moorage.codec import dumps
from moorage.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moorage.codec import Plain
    from moorage.driver import Document
    from moorage.schema import Collection

Canonical: TypeAlias = tuple[str, int, tuple[tuple[str, str], ...]]
"""An id, a revision, and the fields with their values as JSON."""

_BRIEF = 200
"""Characters of a value that are shown."""


def canonical_body(collection: Collection, body: Mapping[str, Plain]) -> tuple[tuple[str, str], ...]:
    """A body of which two are equal where a driver may give one for the other.

    Null is left out of declared fields, numbers of declared fields of kind ``number`` are floats without the sign of
    zero, and for the rest 1, 1.0, True, and 0.0 and -0.0 differ, as do dicts whose keys have another order.
    """
    found: list[tuple[str, str]] = []
    for name, value in sorted(body.items()):
        field = collection.field(name)
        if field is not None and value is None:
            continue
        if field is not None and field.kind == "number" and type(value) in (int, float):
            value = float(cast("float", value)) + 0.0
        found.append((name, dumps(value)))
    return tuple(found)


def canonical(collection: Collection, document: Document) -> Canonical:
    """A document of which two are equal where a driver may give one for the other."""
    return document.id, document.revision, canonical_body(collection, document.body)


def canonical_set(collection: Collection, documents: Iterable[Document]) -> list[Canonical]:
    """Documents, whatever their order was."""
    return sorted(canonical(collection, one) for one in documents)


def difference(actual: Iterable[Canonical], expected: Iterable[Canonical]) -> str:
    """In what documents differ, in a line; empty where they do not. Their order does not matter."""
    found, wanted = {one[0]: one for one in actual}, {one[0]: one for one in expected}
    for identifier, one in wanted.items():
        other = found.get(identifier)
        if other is None:
            return f"document {shown(identifier)} is missing (there are {len(found)}, and {len(wanted)} are expected)"
        if one[2] != other[2]:
            fields, stored = dict(one[2]), dict(other[2])
            name = next(name for name in {**fields, **stored} if fields.get(name) != stored.get(name))
            told = _told(fields.get(name, "nothing"), stored.get(name, "nothing"))
            return f"field {name!r} of {shown(identifier)} should be {told}"
        if one[1] != other[1]:
            return f"document {shown(identifier)} should have revision {one[1]}, and has {other[1]}"
    more = sorted(found.keys() - wanted.keys())
    return f"document {shown(more[0])} should not be there" if more else ""


def _told(expected: str, actual: str) -> str:
    if max(len(expected), len(actual)) <= _BRIEF:
        return f"{expected}, and is {actual}"
    place = next(
        (place for place, (one, other) in enumerate(zip(expected, actual, strict=False)) if one != other),
        min(len(expected), len(actual)),
    )
    start = max(0, place - 20)
    return (
        f"{len(expected)} characters of JSON, and is {len(actual)}; from character {start} on "
        f"{expected[start : start + 60]!a}, and is {actual[start : start + 60]!a}"
    )
