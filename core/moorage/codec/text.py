"""Plain values as JSON text, and the texts that databases keep."""

from __future__ import annotations

import base64
import json
from typing import TypeAlias, cast

from moorage.errors import StorageDamaged, shown

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

DEPTH = 90
"""How deeply lists and dicts of plain values may be nested; neither backends nor readers have trouble with it."""

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
    return base64.b64encode(data).decode("ascii")


def decode_bytes(text: Plain) -> bytes:
    """The inverse of `encode_bytes`.

    Raises:
        ValueError: it is no base64; `TypeError`: it is no text.
    """
    return base64.b64decode(cast("str", text), validate=True)
