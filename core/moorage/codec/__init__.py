"""From Python values to plain ones, which every database keeps exactly, and back.

Plain is: str, 64-bit int, finite float, bool, None, list, and dict with str keys. Everything else is wrapped in a dict
with one key, a *tag*: ``~`` and the name of the type. There is no pickle: a stored pickle is code that runs on load.

A key of a user's dict stands for itself, so that queries find what is behind it, unless it could be taken for a tag or
cannot be stored: ``~x`` is stored as ``~~x``, and what is no text, or no clean one, as ``~=`` and its JSON (``~=1``).

What comes back is what was given, of the same type, with these exceptions: a time comes back in UTC, and a member of an
enumeration of texts or numbers (`enum.StrEnum`, `enum.IntEnum`) as that text or number. A named tuple is of its own
class where that has been imported already, and of one with the same name and fields elsewhere. An instance of any other
derived class is refused, unless exactly that class was given to `register`.
"""

from __future__ import annotations

from moorage.codec.meaning import MAPPINGS, SETS, comparable, inside, named_keys
from moorage.codec.plain import TAG, decode, encode, simplify
from moorage.codec.registry import Unregistered, register
from moorage.codec.scalars import decode_time, encode_time, exact_time
from moorage.codec.text import DEPTH, Plain, dumps, is_clean, loads, to_text

__all__ = [
    "DEPTH",
    "MAPPINGS",
    "SETS",
    "TAG",
    "Plain",
    "Unregistered",
    "comparable",
    "decode",
    "decode_time",
    "dumps",
    "encode",
    "encode_time",
    "exact_time",
    "inside",
    "is_clean",
    "loads",
    "named_keys",
    "register",
    "simplify",
    "to_text",
]
