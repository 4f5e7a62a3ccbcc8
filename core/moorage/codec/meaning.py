"""What plain forms mean to a query: which keys a name stands for, and what a value compares as."""

from __future__ import annotations

import decimal
import math
from typing import TYPE_CHECKING, TypeAlias, cast

from moorage.codec import scalars
from moorage.codec.arrays import decode_array, decode_scalar, python_scalar
from moorage.codec.plain import KEYS, TAG, decode
from moorage.codec.text import Plain, dumps, encode_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

Comparable: TypeAlias = "Plain | decimal.Decimal"

MAPPINGS = ("~dict", "~ordered", "~default", "~named")
"""Tags into which a path leads."""

SETS = frozenset({"~set", "~frozenset"})
"""Tags of what has no order."""

_JSON_BEGINS = frozenset("-0123456789tfn{")
"""How the JSON of a key begins that is no text."""


def named_keys(name: str) -> tuple[str, ...]:
    """The keys that a name in a path may stand for, as they are stored: that text, or what has it for its JSON."""
    key = f"~{name}" if name.startswith(TAG) else name
    return (key, f"~={name}") if name[:1] in _JSON_BEGINS else (key,)


def inside(value: Plain) -> dict[str, Plain] | None:
    """The keys, as they are stored, and values of what was a mapping when it was encoded; None for all else."""
    if type(value) is not dict:
        return None
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag.startswith(TAG) and not tag.startswith(KEYS):
            return _content(tag, content)
    return value


def _content(tag: str, content: Plain) -> dict[str, Plain] | None:
    if tag == "~dict" and isinstance(content, list):
        return dict(_stored_pair(one) for one in content if isinstance(one, list) and len(one) == 2)
    if tag == "~ordered":
        return inside(content)
    if tag in ("~default", "~named") and isinstance(content, dict):
        return inside(content.get("items"))
    return None


def _stored_pair(pair: list[Plain]) -> tuple[str, Plain]:
    key, value = pair
    return (named_keys(key)[0] if isinstance(key, str) else f"~={dumps(key)}"), value


def comparable(value: Plain) -> Comparable:
    """What a plain form stands for, if that is a number, a text, or one like it (a time); the form itself otherwise."""
    if type(value) is not dict or len(value) != 1:
        return value
    ((tag, content),) = value.items()
    stands_for = _COMPARABLE.get(tag)
    if stands_for is None:
        return value
    try:
        found = stands_for(content)
    except (ValueError, TypeError, LookupError):
        return value
    if type(found) is bytes:
        return {"~bytes": encode_bytes(found)}
    if isinstance(found, decimal.Decimal):
        return found if found.is_finite() else (value if found.is_nan() else math.copysign(math.inf, found))
    return found if isinstance(found, (bool, int, float, str)) else value


def _array_value(content: Plain) -> object:
    shape = cast("dict[str, Plain]", content)["shape"]
    return python_scalar(decode_array(content, decode)) if shape == [] else None


_COMPARABLE: dict[str, Callable[[Plain], object]] = {
    **scalars.COMPARABLE,
    "~scalar": lambda content: python_scalar(decode_scalar(content, decode)),
    "~array": _array_value,
}
