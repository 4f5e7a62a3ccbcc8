"""numpy's arrays and scalars; numpy is imported where there are some."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from moorage.codec.text import DEPTH, decode_bytes, encode_bytes
from moorage.errors import EncodingError, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    import numpy as np

    from moorage.codec.text import Plain

    Encode: TypeAlias = Callable[[object, int], Plain]
    Decode: TypeAlias = Callable[[Plain], object]


def is_numpy(kind: type) -> bool:
    """Whether a class is numpy's."""
    return kind.__module__.partition(".")[0] == "numpy"


def python_scalar(value: object) -> object:
    """What a numpy scalar, or an array without dimensions, holds as Python has it; all else as it is."""
    if not is_numpy(type(value)) or getattr(value, "ndim", None) != 0:
        return value
    held = cast("np.generic", value).item()
    return held if type(held) in (bool, int, float, str, bytes) else value


ENCODERS: dict[type, Callable[[Any, int, Encode, Decode], Plain]] = {}
"""How those of numpy's classes are encoded that were met before."""


def encode_numpy(value: Any, left: int, encode: Encode, decode: Decode) -> Plain:
    """An array or a scalar; ``encode`` is asked for what is inside, with ``left`` levels left."""
    import numpy as np

    kind = type(value)
    if kind is np.ndarray:
        encoder: Callable[[Any, int, Encode, Decode], Plain] = _encode_array
    elif issubclass(kind, np.character):
        encoder = _encode_characters
    elif issubclass(kind, (np.number, np.bool_)) and not issubclass(kind, np.timedelta64):
        encoder = functools.partial(_encode_number, _encode_dtype(value.dtype, encode, decode))
    elif issubclass(kind, np.generic):
        encoder = _encode_scalar
    else:
        raise EncodingError(f"a {kind.__module__}.{kind.__qualname__} cannot be stored: {shown(value)}")
    ENCODERS[kind] = encoder
    return encoder(value, left, encode, decode)


def _encode_array(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], left: int, encode: Encode, decode: Decode
) -> Plain:
    dtype = array.dtype
    if dtype.char == "O":
        items: list[Plain] = [encode(one, left - 3) for one in array.ravel().tolist()]
        return {"~array": {"dtype": "O", "shape": list(array.shape), "items": items}}
    told = _encode_dtype(dtype, encode, decode)
    return {"~array": {"dtype": told, "shape": list(array.shape), "data": encode_bytes(array.tobytes())}}


def _encode_characters(value: np.str_ | np.bytes_, left: int, encode: Encode, decode: Decode) -> Plain:
    del decode
    # As text, because numpy drops NULs at the end of its buffers.
    return {"~scalar": {"dtype": value.dtype.char, "value": encode(value[:], left)}}


def _encode_number(told: Plain, value: np.generic, left: int, encode: Encode, decode: Decode) -> Plain:
    """A scalar of a class that has one dtype."""
    del left, encode, decode
    return {"~scalar": {"dtype": told, "data": encode_bytes(value.tobytes())}}


def _encode_scalar(value: np.generic, left: int, encode: Encode, decode: Decode) -> Plain:
    del left
    return {"~scalar": {"dtype": _encode_dtype(value.dtype, encode, decode), "data": encode_bytes(value.tobytes())}}


def _encode_dtype(dtype: np.dtype[np.generic], encode: Encode, decode: Decode) -> Plain:
    """A dtype of which all is told by its description, in words of numpy's own file format."""
    try:
        if dtype.names is None:
            return _simple_dtype(dtype)
        import numpy as np

        stored = encode(np.lib.format.dtype_to_descr(dtype), DEPTH)
        if not dtype.hasobject and _decode_dtype(stored, decode) == dtype:
            return stored
    except ValueError:  # fields that overlap
        pass
    raise EncodingError(f"a numpy.ndarray, or a scalar, of dtype {shown(dtype)} cannot be stored")


@functools.lru_cache(maxsize=64)
def _simple_dtype(dtype: np.dtype[np.generic]) -> str:
    if dtype.hasobject or _dtype_of(dtype.str) != dtype:
        raise ValueError(dtype.str)
    return dtype.str


@functools.lru_cache(maxsize=64)
def _dtype_of(text: str) -> np.dtype[np.generic]:
    import numpy as np

    return np.dtype(text)


def _decode_dtype(stored: Plain, decode: Decode) -> np.dtype[np.generic]:
    if isinstance(stored, str):
        return _dtype_of(stored)
    import numpy as np

    return np.lib.format.descr_to_dtype(cast("list[tuple[str, str]]", decode(stored)))


def decode_array(content: Plain, decode: Decode) -> object:
    """The inverse of `encode_numpy` for arrays."""
    parts = cast("dict[str, Any]", content)
    shape = tuple(parts["shape"])
    if parts["dtype"] != "O":
        flat = _frombuffer()(decode_bytes(parts["data"]), dtype=_decode_dtype(parts["dtype"], decode))
        return flat.reshape(shape).copy()
    import numpy as np

    items = parts["items"]
    array = np.empty(len(items), dtype=object)
    for place, one in enumerate(items):
        array[place] = decode(one)
    return array.reshape(shape)


def decode_scalar(content: Plain, decode: Decode) -> object:
    """The inverse of `encode_numpy` for scalars."""
    parts = cast("dict[str, Any]", content)
    dtype = _decode_dtype(parts["dtype"], decode)
    if "value" in parts:
        return dtype.type(decode(parts["value"]))
    return _frombuffer()(decode_bytes(parts["data"]), dtype=dtype)[0]


@functools.cache
def _frombuffer() -> Any:
    import numpy as np

    return np.frombuffer
