"""numpy's arrays and scalars; numpy is imported where there are some."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

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


def encode_numpy(value: object, left: int, encode: Encode, decode: Decode) -> Plain:
    """An array or a scalar; ``encode`` is asked for what is inside, with ``left`` levels left."""
    import numpy as np

    if type(value) is np.ndarray:
        array = cast("np.ndarray[tuple[int, ...], np.dtype[np.generic]]", value)
        if array.dtype == np.dtype(object):
            items: list[Plain] = [encode(one, left - 3) for one in array.ravel().tolist()]
            return {"~array": {"dtype": "O", "shape": list(array.shape), "items": items}}
        told = _encode_dtype(array.dtype, encode, decode)
        return {"~array": {"dtype": told, "shape": list(array.shape), "data": encode_bytes(array.tobytes())}}
    if isinstance(value, np.str_):  # as text, because numpy drops NULs at the end of its buffers
        return {"~scalar": {"dtype": "U", "value": encode(value[:], left)}}
    if isinstance(value, np.bytes_):
        return {"~scalar": {"dtype": "S", "value": encode(value[:], left)}}
    if isinstance(value, np.generic):
        told = _encode_dtype(value.dtype, encode, decode)
        return {"~scalar": {"dtype": told, "data": encode_bytes(value.tobytes())}}
    raise EncodingError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be stored: {shown(value)}")


def _encode_dtype(dtype: np.dtype[np.generic], encode: Encode, decode: Decode) -> Plain:
    """A dtype of which all is told by its description, in words of numpy's own file format."""
    import numpy as np

    try:
        if dtype.names is None:
            return _simple_dtype(dtype)
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
    import numpy as np

    if isinstance(stored, str):
        return _dtype_of(stored)
    return np.lib.format.descr_to_dtype(cast("list[tuple[str, str]]", decode(stored)))


def decode_array(content: Plain, decode: Decode) -> object:
    """The inverse of `encode_numpy` for arrays."""
    import numpy as np

    parts = cast("dict[str, Plain]", content)
    shape = tuple(cast("list[int]", parts["shape"]))
    if parts["dtype"] == "O":
        items = cast("list[Plain]", parts["items"])
        array = np.empty(len(items), dtype=object)
        for place, one in enumerate(items):
            array[place] = decode(one)
        return array.reshape(shape)
    data = decode_bytes(parts["data"])
    return np.frombuffer(data, dtype=_decode_dtype(parts["dtype"], decode)).reshape(shape).copy()


def decode_scalar(content: Plain, decode: Decode) -> object:
    """The inverse of `encode_numpy` for scalars."""
    import numpy as np

    parts = cast("dict[str, Plain]", content)
    dtype = _decode_dtype(parts["dtype"], decode)
    if "value" in parts:
        return dtype.type(decode(parts["value"]))
    return np.frombuffer(decode_bytes(parts["data"]), dtype=dtype)[0]
