"""From Python values to plain ones, which every database keeps exactly, and back.

Plain is: str, 64-bit int, finite float, bool, None, list, and dict with str keys. Everything else is wrapped in a dict
with one key that starts with ``~`` and names the type; a user's dict with such a key is wrapped as well. There is no
pickle: a stored pickle is code that runs on load.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import TYPE_CHECKING, TypeAlias, cast

from holdfast.errors import EncodingError, StorageDamaged

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

TAG = "~"
_INT_LIMIT = 2**63
_SUPPORTED = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, aware datetime, "
    "and numpy scalars and arrays"
)


def encode_time(value: datetime.datetime) -> str:
    """An aware datetime as ISO 8601 text in UTC of fixed width (32 characters), so that texts order as times do."""
    if value.utcoffset() is None:
        raise EncodingError(f"a time needs a time zone, and {value!r} has none; use datetime.now(datetime.UTC)")
    return value.astimezone(datetime.UTC).isoformat(timespec="microseconds")


def decode_time(text: str) -> datetime.datetime:
    """The inverse of `encode_time`."""
    return datetime.datetime.fromisoformat(text)


def _is_clean(text: str) -> bool:
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


def encode(value: object) -> Plain:
    """The plain form of a value.

    Raises:
        EncodingError: a type that could not be brought back exactly, or a value nested too deeply (or in itself).
    """
    try:
        return _encode(value)
    except RecursionError:
        raise EncodingError("a value is nested too deeply to be stored, or contains itself") from None


def _encode(value: object) -> Plain:
    kind = type(value)
    if kind is float:
        number = cast("float", value)
        if math.isfinite(number):
            return number
        return {"~float": repr(number)}
    if kind is str:
        text = cast("str", value)
        return text if _is_clean(text) else {"~text": _base64(text.encode("utf-8", "surrogatepass"))}
    if kind is int:
        whole = cast("int", value)
        return whole if -_INT_LIMIT <= whole < _INT_LIMIT else {"~int": hex(whole)}
    if value is None or kind is bool:
        return cast("bool | None", value)
    if kind is dict:
        return _encode_dict(cast("dict[object, object]", value))
    if kind is list:
        return [_encode(one) for one in cast("list[object]", value)]
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value)
    if isinstance(value, datetime.datetime):
        return {"~time": encode_time(value)}
    if kind.__module__.partition(".")[0] == "numpy":
        return _encode_numpy(value)
    raise EncodingError(
        f"a {kind.__module__}.{kind.__qualname__} cannot be stored: {value!r:.80}. Convert it to one of: {_SUPPORTED}"
    )


def _encode_dict(value: dict[object, object]) -> Plain:
    for key in value:
        if type(key) is not str or key.startswith(TAG) or not _is_clean(key):
            return {"~dict": [[_encode(one), _encode(other)] for one, other in value.items()]}
    return {cast("str", key): _encode(one) for key, one in value.items()}


_ENCODERS: dict[type, Callable[[object], Plain]] = {
    bytes: lambda value: {"~bytes": _base64(cast("bytes", value))},
    tuple: lambda value: {"~tuple": [_encode(one) for one in cast("tuple[object, ...]", value)]},
    set: lambda value: {"~set": [_encode(one) for one in cast("set[object]", value)]},
    frozenset: lambda value: {"~frozenset": [_encode(one) for one in cast("frozenset[object]", value)]},
}


def _encode_numpy(value: object) -> Plain:
    import numpy as np

    if isinstance(value, np.ndarray) and type(value) is np.ndarray:
        if value.dtype.hasobject:
            if value.dtype != np.dtype(object):
                raise EncodingError(f"a numpy array with object fields cannot be stored: dtype {value.dtype!r}")
            items = [_encode(one) for one in value.ravel().tolist()]
            return {"~array": {"dtype": "O", "shape": list(value.shape), "items": items}}
        return {
            "~array": {
                "dtype": _dtype(value.dtype),
                "shape": list(value.shape),
                "data": _base64(value.tobytes()),
            }
        }
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return {"~scalar": {"dtype": _dtype(value.dtype), "data": _base64(value.tobytes())}}
    raise EncodingError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be stored: {value!r:.80}")


def _dtype(dtype: np.dtype[np.generic]) -> Plain:
    return dtype.str if dtype.names is None else _encode(dtype.descr)


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
            if key.startswith(TAG):
                return _decode_tagged(key, content)
        return {key: decode(one) for key, one in inner.items()}
    if kind is list:
        return [decode(one) for one in cast("list[Plain]", value)]
    return value


def _decode_tagged(tag: str, content: Plain) -> object:
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise StorageDamaged(f"a stored value has the unknown tag {tag!r}; was it written by a newer Holdfast?")
    try:
        return decoder(content)
    except (ValueError, TypeError, KeyError) as error:
        raise StorageDamaged(f"a stored value with the tag {tag!r} is damaged: {content!r:.80}") from error


def _decode_array(content: Plain) -> object:
    import numpy as np

    parts = cast("dict[str, Plain]", content)
    shape = tuple(cast("list[int]", parts["shape"]))
    if parts["dtype"] == "O":
        array = np.empty(shape, dtype=object)
        array.ravel()[:] = [decode(one) for one in cast("list[Plain]", parts["items"])]
        return array
    data = base64.b64decode(cast("str", parts["data"]))
    return np.frombuffer(data, dtype=_decode_dtype(parts["dtype"])).reshape(shape).copy()


def _decode_scalar(content: Plain) -> object:
    import numpy as np

    parts = cast("dict[str, Plain]", content)
    return np.frombuffer(base64.b64decode(cast("str", parts["data"])), dtype=_decode_dtype(parts["dtype"]))[0]


def _decode_dtype(stored: Plain) -> np.dtype[np.generic]:
    import numpy as np

    return np.dtype(stored if isinstance(stored, str) else cast("list[tuple[str, str]]", decode(stored)))


_DECODERS: dict[str, Callable[[Plain], object]] = {
    "~float": lambda content: float(cast("str", content)),
    "~int": lambda content: int(cast("str", content), 16),
    "~text": lambda content: base64.b64decode(cast("str", content)).decode("utf-8", "surrogatepass"),
    "~bytes": lambda content: base64.b64decode(cast("str", content)),
    "~time": lambda content: decode_time(cast("str", content)),
    "~tuple": lambda content: tuple(decode(one) for one in cast("list[Plain]", content)),
    "~set": lambda content: {decode(one) for one in cast("list[Plain]", content)},
    "~frozenset": lambda content: frozenset(decode(one) for one in cast("list[Plain]", content)),
    "~dict": lambda content: {decode(key): decode(one) for key, one in cast("list[list[Plain]]", content)},
    "~array": _decode_array,
    "~scalar": _decode_scalar,
}

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
    except ValueError as error:
        raise StorageDamaged(f"a stored text is not JSON ({error}): {text!r:.80}") from error
