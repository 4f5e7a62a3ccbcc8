"""What a stored value means in a comparison: the reference for every driver.

Stored values are plain, see `moorage.codec`; what is wrapped in a tag compares as what it stands for. Where a path can
be read in several ways, each of them counts, so that nothing that is stored is out of reach of a query.
"""

from __future__ import annotations

import decimal
import math
import operator
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from moorage import codec
from moorage.errors import StorageDamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from moorage.codec import Plain

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "in"]

_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SCALARS = frozenset({str, int, float, bool, type(None)})


def readings(stored: Plain, path: str) -> Iterator[Plain]:
    """The values at a dotted path, in each way in which it can be read; none where there is none.

    Names may hold dots, so ``a.b`` is the key ``a.b`` as well as ``b`` inside ``a``: the longest name comes first. A
    name stands for a key as the codec stores it. Paths do not lead into lists.
    """
    found = codec.inside(stored)
    if found is None:
        return
    for key in codec.named_keys(path):
        if key in found:
            yield found[key]
    end = path.rfind(".")
    while end >= 0:
        for key in codec.named_keys(path[:end]):
            if key in found:
                yield from readings(found[key], path[end + 1 :])
        end = path.rfind(".", 0, end)


def lookup(body: Mapping[str, Plain], path: str) -> Plain:
    """The first of the values at a dotted path; None where there is none."""
    return next(iter(values_at(body, path)), None)


def values_at(body: Mapping[str, Plain], field: str) -> list[Plain]:
    """What a body has at a field, or at a path in each way in which it can be read; nothing where there is none."""
    found = [body[field]] if field in body else []
    head, dot, rest = field.partition(".")
    if dot and head in body:
        found += readings(body[head], rest)
    return found


def meets(found: Sequence[Plain], how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
    """Whether one of the values that a path has compares in this way; for ``!=`` whether none is equal."""
    several = found or (None,)
    return (all if how == "!=" else any)(compare(one, how, value) for one in several)


def compare(stored: Plain, how: Operator, value: Plain | tuple[Plain, ...]) -> bool:
    """Whether a stored value compares in this way."""
    if how == "in":
        return isinstance(value, tuple) and any(_same(stored, one) for one in value)
    if isinstance(value, tuple):
        return how == "!="
    if how == "=":
        return _same(stored, value)
    if how == "!=":
        return not _same(stored, value)
    left, right = codec.comparable(stored), codec.comparable(value)
    kind = _kind(left)
    return kind in ("number", "str") and kind == _kind(right) and _ORDERINGS[how](left, right)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float, decimal.Decimal)):
        return "number"
    return type(value).__name__


def _same(stored: Plain, value: Plain) -> bool:
    kind = type(stored)
    if kind is type(value) and kind in _SCALARS:
        return stored == value
    left, right = codec.comparable(stored), codec.comparable(value)
    if _kind(left) != _kind(right):
        return False
    if isinstance(left, list):
        others = cast("list[Plain]", right)
        return len(left) == len(others) and all(map(_same, left, others))
    if isinstance(left, dict):
        return _same_dicts(left, cast("dict[str, Plain]", right))
    if isinstance(left, float) and math.isnan(left):
        return right != right
    return left == right


def _same_dicts(left: dict[str, Plain], right: dict[str, Plain]) -> bool:
    left, right = codec.inside(left) or left, codec.inside(right) or right
    if left.keys() != right.keys():
        return False
    return all(
        _same_members(one, right[key]) if key in codec.SETS else _same(one, right[key]) for key, one in left.items()
    )


def _same_members(left: Plain, right: Plain) -> bool:
    """Whether two sets have the same members, in whatever order they were stored."""
    if not isinstance(left, list) or not isinstance(right, list) or len(left) != len(right):
        return False
    if sorted(left, key=codec.dumps) == sorted(right, key=codec.dumps):
        return True
    try:
        return codec.decode({"~frozenset": left}) == codec.decode({"~frozenset": right})
    except StorageDamaged:
        return False
