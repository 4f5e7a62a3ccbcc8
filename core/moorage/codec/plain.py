"""Values to plain ones and back: what is walked through, and who encodes what is found on the way."""

from __future__ import annotations

import datetime
import enum
from typing import TYPE_CHECKING, Any, cast

from moorage.codec import arrays, containers, scalars
from moorage.codec.registry import BY_KIND, BY_TAG, PREFIX, Registered, Unregistered, named
from moorage.codec.scalars import INT_LIMIT, encode_float, encode_int, encode_text
from moorage.codec.text import DEPTH, dumps, is_clean, loads
from moorage.errors import EncodingError, StorageDamaged, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.codec.text import Plain

TAG = "~"
KEYS = ("~~", "~=")
"""How keys begin that are no tags."""

_SUPPORTED = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, OrderedDict, defaultdict, named tuples, "
    "datetime, date, time, timedelta, Decimal, Path, enumerations of texts or numbers, numpy scalars and arrays"
)


def encode(value: object) -> Plain:
    """The plain form of a value, which shares nothing with it.

    Raises:
        EncodingError: a type that could not be brought back exactly, or a value nested too deeply (or in itself).
    """
    return _encode(value, DEPTH)


# On the way of every value: types are told apart by `type`, which mypy does not follow, and a cast would be a call.


def _encode(value: Any, left: int) -> Plain:
    """The plain form of a value, with at most ``left`` lists and dicts nested in each other."""
    kind = type(value)
    if kind is float:
        return value if value - value == 0.0 else encode_float(value)
    if kind is str:
        return encode_text(value)
    if kind is int:
        return encode_int(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if left <= 0:
        raise EncodingError(
            f"a value is nested too deeply to be stored ({DEPTH} levels at most), or contains itself: "
            f"the innermost is a {kind.__qualname__}"
        )
    if kind is dict:
        return _encode_dict(value, left - 1)
    if kind is list:
        return _encode_list(value, left - 1)
    container = containers.CONTAINERS.get(kind)
    if container is not None:
        return container(value, left, _encode)
    scalar = scalars.ENCODERS.get(kind)
    if scalar is not None:
        return scalar(value)
    array = arrays.ENCODERS.get(kind)
    if array is not None:
        return array(value, left, _encode, _decode)
    return _encode_other(value, kind, left)


def _encode_list(values: list[Any], left: int) -> Plain:
    kinds = set(map(type, values))
    if len(kinds) == 1:  # the many numbers of a curve are looked at by C
        (kind,) = kinds
        if kind is float:
            total = sum(values)
            if total - total == 0.0:  # one that is not finite would show
                return values[:]
        elif kind is str:
            if is_clean("".join(values)):
                return values[:]
        elif kind is int:
            if min(values) >= -INT_LIMIT and max(values) < INT_LIMIT:
                return values[:]
        elif kind is bool:
            return values[:]
    return [_encode(one, left) for one in values]


def _encode_dict(values: dict[Any, Any], left: int) -> Plain:
    encoded: dict[str, Plain] = {}
    for key, one in values.items():
        kind = type(one)
        if kind is float:
            if one - one != 0.0:
                one = encode_float(one)
        elif kind is str:
            if not one.isascii() or "\0" in one:
                one = encode_text(one)
        elif kind is int:
            if not -INT_LIMIT <= one < INT_LIMIT:
                one = encode_int(one)
        elif kind is not bool and one is not None:
            one = _encode(one, left)
        if type(key) is str and key.isascii() and key[:1] != TAG and "\0" not in key:
            encoded[key] = one
        else:
            encoded[_encode_key(key, left)] = one
    if len(encoded) == len(values):
        return encoded
    # Keys that are equal once they are stored, and not before: several NaN.
    return {"~dict": [[_encode(one, left - 2), _encode(other, left - 2)] for one, other in values.items()]}


def _encode_key(key: object, left: int) -> str:
    if type(key) is str and is_clean(key):
        return key if not key.startswith(TAG) else f"~{key}"
    plain = _encode(key, left)  # a text, where it is a member of an enumeration
    return _encode_key(plain, left) if isinstance(plain, str) else f"~={dumps(plain)}"


def _encode_other(value: object, kind: type, left: int) -> Plain:
    """What is stored by its kind, and no instance of exactly a known class."""
    registered = BY_KIND.get(kind)
    if registered is not None:
        return {PREFIX + registered.tag: _encode(registered.encoded(value), left - 1)}
    if kind is Unregistered:
        kept = cast("Unregistered", value)
        return {PREFIX + kept.tag: _encode(kept.value, left - 1)}
    if arrays.is_numpy(kind):
        return arrays.encode_numpy(value, left, _encode, _decode)
    if isinstance(value, enum.Enum):
        held = _held(value)
        if held is not value:
            return _encode(held, left)
    elif isinstance(value, datetime.datetime):
        return scalars.ENCODERS[datetime.datetime](value)
    elif containers.is_named_tuple(kind):
        return containers.encode_named_tuple(value, left, _encode)
    raise EncodingError(f"a {named(kind)} cannot be stored: {shown(value)}. {_remedy(value)}")


def _held(member: enum.Enum) -> object:
    """The text or number that a member of an enumeration is as well; the member itself where it is none."""
    if isinstance(member, str):
        return str.__str__(member)
    if isinstance(member, (int, float)):
        return int(member) if isinstance(member, int) else float(member)
    return member


def simplify(value: object) -> object:
    """What a numpy scalar, or a member of an enumeration, holds as Python has it; all else as it is.

    So params and results are what people and queries take them for.
    """
    if isinstance(value, enum.Enum):
        return value if type(value) in BY_KIND else _held(value)
    return arrays.python_scalar(value)


def _remedy(value: object) -> str:
    if isinstance(value, enum.Enum):
        return "Store its value or its name, or register the enumeration: moorage.codec.register"
    return f"Convert it to one of: {_SUPPORTED}; or register its class: moorage.codec.register"


def decode(value: Plain) -> object:
    """The value that `encode` was given.

    Raises:
        StorageDamaged: a tag that this release does not know, or whose content makes no sense.
    """
    return _decode(value)


def _decode(value: Any) -> object:
    kind = type(value)
    if kind is dict:
        if len(value) == 1:
            ((key, content),) = value.items()
            if key[:1] == TAG and not key.startswith(KEYS):
                return _decode_tagged(key, content)
        if TAG not in "".join(value):
            if _NESTED.isdisjoint(map(type, value.values())):
                return value.copy()
            return {key: _decode(one) if type(one) in _NESTED else one for key, one in value.items()}
        return {key if key[:1] != TAG else _decode_key(key): _decode(one) for key, one in value.items()}
    if kind is list:
        if _NESTED.isdisjoint(map(type, value)):
            return value[:]
        return [_decode(one) if type(one) in _NESTED else one for one in value]
    return value


_NESTED = frozenset({dict, list})


def _decode_key(stored: str) -> object:
    if stored.startswith("~~"):
        return stored[1:]
    if not stored.startswith("~="):
        raise StorageDamaged(f"a stored dict has the unknown key {shown(stored)}; was it written by a newer Moorage?")
    key = decode(loads(stored[2:]))
    try:
        hash(key)
    except TypeError as error:
        raise StorageDamaged(f"a stored dict has a damaged key: {shown(stored)}") from error
    return key


def _decode_tagged(tag: str, content: Plain) -> object:
    if tag.startswith(PREFIX):
        name = tag.removeprefix(PREFIX)
        registered: Registered | None = BY_TAG.get(name)
        inner = decode(content)
        return Unregistered(name, inner) if registered is None else registered.decoded(inner)
    scalar = scalars.DECODERS.get(tag)
    container = _CONTAINERS.get(tag)
    if scalar is None and container is None:
        raise StorageDamaged(f"a stored value has the unknown tag {tag!r}; was it written by a newer Moorage?")
    try:
        return scalar(content) if scalar is not None else container(content, _decode)  # type: ignore[misc]
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        raise StorageDamaged(f"a stored value with the tag {tag!r} is damaged: {shown(content)}") from error


_CONTAINERS: dict[str, Callable[[Plain, containers.Decode], object]] = {
    **containers.DECODERS,
    "~array": arrays.decode_array,
    "~scalar": arrays.decode_scalar,
}
