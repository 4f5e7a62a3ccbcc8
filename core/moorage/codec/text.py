"""Plain values as JSON text, and the texts that databases keep."""

from __future__ import annotations

import binascii
import json
from typing import TypeAlias, cast

import orjson

from moorage.errors import StorageDamaged, shown

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

DEPTH = 90
"""How deeply lists and dicts of plain values may be nested; neither backends nor readers have trouble with it."""

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: Plain) -> str:
    """Compact JSON text of a plain value: the same text for the same value, in every process and release."""
    return _compact(value)


def to_text(value: Plain) -> str:
    """Compact JSON text of a plain value, several times as fast as `dumps`, to be stored and read again by `loads`.

    Texts of two values are not to be compared: which form a float is written in (1e16, 1e+16) may change.
    """
    return orjson.dumps(value).decode()


def loads(text: str) -> Plain:
    """The plain value of a JSON text.

    Raises:
        StorageDamaged: the text is not JSON.
    """
    try:
        return cast("Plain", orjson.loads(text))
    except ValueError as error:
        raise StorageDamaged(f"a stored text is not JSON ({error}): {shown(text)}") from error


def is_clean(text: str) -> bool:
    """Whether every database keeps this text: no NUL, no lone surrogate."""
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def encode_bytes(data: bytes) -> str:
    """Bytes as text: base64."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_bytes(text: Plain) -> bytes:
    """The inverse of `encode_bytes`.

    Raises:
        ValueError: it is no base64; `TypeError`: it is no text.
    """
    return binascii.a2b_base64(cast("str", text), strict_mode=True)
