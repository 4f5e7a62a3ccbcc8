"""From Python values to plain ones, which every database keeps exactly, and back.

Plain is: str, 64-bit int, finite float, bool, None, list, and dict with str keys. Everything else is wrapped in a dict
with one key, a *tag*: ``~`` and the name of the type. There is no pickle: a stored pickle is code that runs on load.

A key of a user's dict stands for itself, so that queries find what is behind it, unless it could be taken for a tag or
cannot be stored: ``~x`` is stored as ``~~x``, and what is no text, or no clean one, as ``~=`` and its JSON (``~=1``).
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import TYPE_CHECKING, TypeAlias, cast

from moorage.errors import EncodingError, StorageDamaged, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

TAG = "~"
_KEYS = ("~~", "~=")
"""How keys begin that are no tags."""
DEPTH = 90
"""How deeply lists and dicts of plain values may be nested; neither backends nor readers have trouble with it."""
_INT_LIMIT = 2**63
_SUPPORTED = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, aware datetime, "
    "and numpy scalars and arrays"
)


def encode_time(value: datetime.datetime) -> str:
    """An aware datetime as ISO 8601 text in UTC of fixed width (32 characters), so that texts order as times do."""
    if value.utcoffset() is None:
        raise EncodingError(f"a time needs a time zone, and {value!r} has none; use datetime.now(datetime.UTC)")
    try:
        return value.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    except OverflowError:
        raise EncodingError(f"{value!r} is not between the years 1 and 9999 in UTC") from None


def decode_time(text: str) -> datetime.datetime:
    """The inverse of `encode_time`."""
    return datetime.datetime.fromisoformat(text)


def is_clean(text: str) -> bool:
    """Whether every database keeps this text: no NUL, no lone surrogate."""
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(text: Plain) -> bytes:
    return base64.b64decode(cast("str", text), validate=True)


def encode(value: object) -> Plain:
    """The plain form of a value.

    Raises:
        EncodingError: a type that could not be brought back exactly, or a value nested too deeply (or in itself).
    """
    return _encode(value, DEPTH)


def _encode(value: object, left: int) -> Plain:
    """The plain form of a value, with at most ``left`` lists and dicts nested in each other."""
    kind = type(value)
    if kind is float:
        number = cast("float", value)
        if math.isfinite(number):
            return number
        return {"~float": repr(number)}
    if kind is str:
        text = cast("str", value)
        return text if is_clean(text) else {"~text": _base64(text.encode("utf-8", "surrogatepass"))}
    if kind is int:
        whole = cast("int", value)
        return whole if -_INT_LIMIT <= whole < _INT_LIMIT else {"~int": hex(whole)}
    if value is None or kind is bool:
        return cast("bool | None", value)
    if left <= 0:
        raise EncodingError(
            f"a value is nested too deeply to be stored ({DEPTH} levels at most), or contains itself: "
            f"the innermost is a {kind.__qualname__}"
        )
    if kind is dict:
        return _encode_dict(cast("dict[object, object]", value), left)
    if kind is list:
        return _encode_each(cast("list[object]", value), left)
    if kind is tuple:
        return {"~tuple": _encode_each(cast("Iterable[object]", value), left - 1)}
    if kind is set or kind is frozenset:
        members = _encode_each(cast("Iterable[object]", value), left - 1)
        members.sort(key=dumps)  # the same set is stored as the same text by every process
        return {"~set" if kind is set else "~frozenset": cast("Plain", members)}
    if kind is bytes:
        return {"~bytes": _base64(cast("bytes", value))}
    if isinstance(value, datetime.datetime):
        return {"~time": encode_time(value)}
    if kind.__module__.partition(".")[0] == "numpy":
        return _encode_numpy(value, left)
    raise EncodingError(
        f"a {kind.__module__}.{kind.__qualname__} cannot be stored: {shown(value)}. Convert it to one of: {_SUPPORTED}"
    )


def _encode_each(values: Iterable[object], left: int) -> list[Plain]:
    return [_encode(one, left - 1) for one in values]


def _encode_dict(value: dict[object, object], left: int) -> Plain:
    encoded = {_encode_key(key, left - 1): _encode(one, left - 1) for key, one in value.items()}
    if len(encoded) == len(value):
        return encoded
    # Keys that are equal once they are stored, and not before: several NaN.
    return {"~dict": [[_encode(one, left - 3), _encode(other, left - 3)] for one, other in value.items()]}


def _encode_key(key: object, left: int) -> str:
    if type(key) is str and is_clean(key):
        return key if not key.startswith(TAG) else f"~{key}"
    return f"~={dumps(_encode(key, left))}"


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
        if tag == "~dict" and isinstance(content, list):
            return dict(_stored_pair(one) for one in content if isinstance(one, list) and len(one) == 2)
        if tag.startswith(TAG) and not tag.startswith(_KEYS):
            return None
    return value


def _stored_pair(pair: list[Plain]) -> tuple[str, Plain]:
    key, value = pair
    if isinstance(key, str):
        return named_keys(key)[0], value
    return f"~={dumps(key)}", value


def _encode_numpy(value: object, left: int) -> Plain:
    import numpy as np

    if isinstance(value, np.ndarray) and type(value) is np.ndarray:
        if value.dtype == np.dtype(object):
            items = _encode_each(value.ravel().tolist(), left - 2)
            return {"~array": {"dtype": "O", "shape": list(value.shape), "items": items}}
        return {
            "~array": {
                "dtype": _dtype(value.dtype),
                "shape": list(value.shape),
                "data": _base64(value.tobytes()),
            }
        }
    if isinstance(value, np.str_):  # as text, because numpy drops NULs at the end of its buffers
        return {"~scalar": {"dtype": "U", "value": _encode(value[:], left)}}
    if isinstance(value, np.bytes_):
        return {"~scalar": {"dtype": "S", "value": _encode(value[:], left)}}
    if isinstance(value, np.generic):
        return {"~scalar": {"dtype": _dtype(value.dtype), "data": _base64(value.tobytes())}}
    raise EncodingError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be stored: {shown(value)}")


def _dtype(dtype: np.dtype[np.generic]) -> Plain:
    """A dtype of which all is told by its description, in words of numpy's own file format."""
    import numpy as np

    try:
        stored = dtype.str if dtype.names is None else encode(np.lib.format.dtype_to_descr(dtype))
        if not dtype.hasobject and _decode_dtype(stored) == dtype:
            return stored
    except ValueError:  # fields that overlap
        pass
    raise EncodingError(f"a numpy.ndarray, or a scalar, of dtype {shown(dtype)} cannot be stored")


def decode(value: Plain) -> object:
    """The value that `encode` was given.

    Raises:
        StorageDamaged: a tag that this release does not know, or whose content makes no sense.
    """
    kind = type(value)
    if kind is dict:
        inner = cast("dict[str, Plain]", value)
        if len(inner) == 1:
            ((key, content),) = inner.items()
            if key.startswith(TAG) and not key.startswith(_KEYS):
                return _decode_tagged(key, content)
        return {_decode_key(key) if key.startswith(TAG) else key: decode(one) for key, one in inner.items()}
    if kind is list:
        return [decode(one) for one in cast("list[Plain]", value)]
    return value


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
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise StorageDamaged(f"a stored value has the unknown tag {tag!r}; was it written by a newer Moorage?")
    try:
        return decoder(content)
    except (ValueError, TypeError, LookupError) as error:
        raise StorageDamaged(f"a stored value with the tag {tag!r} is damaged: {shown(content)}") from error


def _decode_array(content: Plain) -> object:
    import numpy as np

    parts = cast("dict[str, Plain]", content)
    shape = tuple(cast("list[int]", parts["shape"]))
    if parts["dtype"] == "O":
        items = cast("list[Plain]", parts["items"])
        array = np.empty(len(items), dtype=object)
        for place, one in enumerate(items):
            array[place] = decode(one)
        return array.reshape(shape)
    data = _unbase64(parts["data"])
    return np.frombuffer(data, dtype=_decode_dtype(parts["dtype"])).reshape(shape).copy()


def _decode_scalar(content: Plain) -> object:
    import numpy as np

    parts = cast("dict[str, Plain]", content)
    dtype = _decode_dtype(parts["dtype"])
    if "value" in parts:
        return dtype.type(decode(parts["value"]))
    return np.frombuffer(_unbase64(parts["data"]), dtype=dtype)[0]


def _decode_dtype(stored: Plain) -> np.dtype[np.generic]:
    import numpy as np

    if isinstance(stored, str):
        return np.dtype(stored)
    return np.lib.format.descr_to_dtype(cast("list[tuple[str, str]]", decode(stored)))


_DECODERS: dict[str, Callable[[Plain], object]] = {
    "~float": lambda content: float(cast("str", content)),
    "~int": lambda content: int(cast("str", content), 16),
    "~text": lambda content: _unbase64(content).decode("utf-8", "surrogatepass"),
    "~bytes": _unbase64,
    "~time": lambda content: decode_time(cast("str", content)),
    "~tuple": lambda content: tuple(decode(one) for one in cast("list[Plain]", content)),
    "~set": lambda content: {decode(one) for one in cast("list[Plain]", content)},
    "~frozenset": lambda content: frozenset(decode(one) for one in cast("list[Plain]", content)),
    "~dict": lambda content: {decode(key): decode(one) for key, one in cast("list[list[Plain]]", content)},
    "~array": _decode_array,
    "~scalar": _decode_scalar,
}


def python_scalar(value: object) -> object:
    """What a numpy scalar, or an array without dimensions, holds as Python has it; all else as it is."""
    if type(value).__module__.partition(".")[0] != "numpy" or getattr(value, "ndim", None) != 0:
        return value
    held = cast("np.generic", value).item()
    return held if type(held) in (bool, int, float, str, bytes) else value


def comparable(value: Plain) -> Plain:
    """What a plain form stands for, if that is a number, a text, or a time (its text); the form itself otherwise."""
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
        return {"~bytes": _base64(found)}
    return found if isinstance(found, (bool, int, float, str)) else value


def _array_value(content: Plain) -> object:
    return python_scalar(_decode_array(content)) if cast("dict[str, Plain]", content)["shape"] == [] else None


_COMPARABLE: dict[str, Callable[[Plain], object]] = {
    **{tag: _DECODERS[tag] for tag in ("~float", "~int", "~text")},
    "~time": lambda content: content,
    "~scalar": lambda content: python_scalar(_decode_scalar(content)),
    "~array": _array_value,
}
SETS = frozenset({"~set", "~frozenset"})
"""Tags of what has no order."""
MAPPINGS = ("~dict",)
"""Tags into which a path leads."""

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_parse = json.JSONDecoder().decode


def dumps(value: Plain) -> str:
    """Compact JSON text of a plain value; drivers that store text use it."""
    return _compact(value)


def loads(text: str) -> Plain:
    """The plain value of a JSON text.

    Raises:
        StorageDamaged: the text is not JSON.
    """
    try:
        return cast("Plain", _parse(text))
    except (ValueError, RecursionError) as error:
        raise StorageDamaged(f"a stored text is not JSON ({error}): {shown(text)}") from error
