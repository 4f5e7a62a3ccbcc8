"""Single values that databases have no type for: times, decimals, paths, large numbers."""

from __future__ import annotations

import datetime
import decimal
import pathlib
from typing import TYPE_CHECKING, cast

from moorage.codec.text import decode_bytes, encode_bytes, is_clean
from moorage.errors import EncodingError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.codec.text import Plain

INT_LIMIT = 2**63
"""Integers from here on do not fit in 64 bits."""


def encode_time(value: datetime.datetime) -> str:
    """An aware datetime as ISO 8601 text in UTC of fixed width (32 characters), so that texts order as times do."""
    value = exact_time(value)
    if value.utcoffset() is None:
        raise EncodingError(f"a time needs a time zone, and {value!r} has none; use datetime.now(datetime.UTC)")
    try:
        return value.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    except OverflowError:
        raise EncodingError(f"{value!r} is not between the years 1 and 9999 in UTC") from None


def decode_time(text: str) -> datetime.datetime:
    """The inverse of `encode_time`."""
    return datetime.datetime.fromisoformat(text)


def exact_time(value: datetime.datetime) -> datetime.datetime:
    """A time of a derived class (of pandas, say) as Python's own.

    Raises:
        EncodingError: something would be lost: it has nanoseconds, or is no time at all.
    """
    if type(value) is datetime.datetime:
        return value
    try:
        exact = datetime.datetime(
            value.year,
            value.month,
            value.day,
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            value.tzinfo,
            fold=value.fold,
        )
    except (TypeError, ValueError):
        exact = None
    if exact is None or getattr(value, "nanosecond", False):
        kind = type(value)
        raise EncodingError(
            f"a {kind.__module__}.{kind.__qualname__} cannot be stored as a time without loss: {shown(value)}"
        )
    return exact


def encode_text(text: str) -> Plain:
    """A text, under a tag where databases do not keep it."""
    return text if is_clean(text) else {"~text": encode_bytes(text.encode("utf-8", "surrogatepass"))}


def _decode_text(content: Plain) -> str:
    return decode_bytes(content).decode("utf-8", "surrogatepass")


def encode_float(number: float) -> Plain:
    """A float that is not finite."""
    return {"~float": repr(number)}


def encode_int(number: int) -> Plain:
    """An integer, under a tag where it does not fit in 64 bits."""
    return number if -INT_LIMIT <= number < INT_LIMIT else {"~int": hex(number)}


def _encode_datetime(value: object) -> Plain:
    moment = exact_time(cast("datetime.datetime", value))
    if moment.utcoffset() is not None:
        return {"~time": encode_time(moment)}
    if moment.tzinfo is not None:
        raise EncodingError(f"a time whose zone has no offset cannot be stored: {shown(value)}")
    return {"~naive": _folded(moment.isoformat(timespec="microseconds"), moment.fold)}


def _folded(text: str, fold: int) -> Plain:
    """A local time as text; the second of two equal ones, when clocks are turned back, is told apart."""
    return [text, 1] if fold else text


def _unfolded(content: Plain) -> tuple[str, int]:
    if isinstance(content, list):
        text, fold = content
        return cast("str", text), int(cast("int", fold))
    return cast("str", content), 0


def _decode_naive(content: Plain) -> datetime.datetime:
    text, fold = _unfolded(content)
    return datetime.datetime.fromisoformat(text).replace(fold=fold)


def _encode_clock(value: object) -> Plain:
    moment = cast("datetime.time", value)
    if moment.tzinfo is not None and type(moment.tzinfo) is not datetime.timezone:
        raise EncodingError(
            f"a datetime.time in the zone {shown(moment.tzinfo)} cannot be stored: the zone would be lost; "
            "give it without a zone, or as a datetime"
        )
    return {"~clock": _folded(moment.isoformat(timespec="microseconds"), moment.fold)}


def _decode_clock(content: Plain) -> datetime.time:
    text, fold = _unfolded(content)
    return datetime.time.fromisoformat(text).replace(fold=fold)


def _encode_duration(value: object) -> Plain:
    span = cast("datetime.timedelta", value)
    return {"~duration": [span.days, span.seconds, span.microseconds]}


def _decode_duration(content: Plain) -> datetime.timedelta:
    days, seconds, microseconds = cast("list[int]", content)
    return datetime.timedelta(days, seconds, microseconds)


def _decode_decimal(content: Plain) -> decimal.Decimal:
    try:
        return decimal.Decimal(cast("str", content))
    except decimal.InvalidOperation as error:
        raise ValueError(str(content)) from error


def _path_text(content: Plain) -> str:
    return _decode_text(content["~text"]) if isinstance(content, dict) else cast("str", content)


ENCODERS: dict[type, Callable[[object], Plain]] = {
    bytes: lambda value: {"~bytes": encode_bytes(cast("bytes", value))},
    datetime.datetime: _encode_datetime,
    datetime.date: lambda value: {"~date": cast("datetime.date", value).isoformat()},
    datetime.time: _encode_clock,
    datetime.timedelta: _encode_duration,
    decimal.Decimal: lambda value: {"~decimal": str(value)},
    pathlib.PosixPath: lambda value: {"~path": encode_text(str(value))},
    pathlib.WindowsPath: lambda value: {"~path": encode_text(str(value))},
    pathlib.PurePosixPath: lambda value: {"~posixpath": encode_text(str(value))},
    pathlib.PureWindowsPath: lambda value: {"~windowspath": encode_text(str(value))},
}
"""How values of exactly these types are encoded."""

DECODERS: dict[str, Callable[[Plain], object]] = {
    "~float": lambda content: float(cast("str", content)),
    "~int": lambda content: int(cast("str", content), 16),
    "~text": _decode_text,
    "~bytes": decode_bytes,
    "~time": lambda content: decode_time(cast("str", content)),
    "~naive": _decode_naive,
    "~date": lambda content: datetime.date.fromisoformat(cast("str", content)),
    "~clock": _decode_clock,
    "~duration": _decode_duration,
    "~decimal": _decode_decimal,
    "~path": lambda content: pathlib.Path(_path_text(content)),
    "~posixpath": lambda content: pathlib.PurePosixPath(_path_text(content)),
    "~windowspath": lambda content: pathlib.PureWindowsPath(_path_text(content)),
}


def _local_text(content: Plain) -> str:
    return _unfolded(content)[0]


COMPARABLE: dict[str, Callable[[Plain], object]] = {
    **{tag: DECODERS[tag] for tag in ("~float", "~int", "~text", "~decimal")},
    **dict.fromkeys(("~time", "~date"), lambda content: content),
    **dict.fromkeys(("~naive", "~clock"), _local_text),
    **dict.fromkeys(("~path", "~posixpath", "~windowspath"), _path_text),
}
"""What the content of a tag stands for in a comparison: a number, or a text."""
