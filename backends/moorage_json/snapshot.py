"""The file that people read: plain, indented JSON as tinydb lays it out, a table for each collection.

The first table, ``moorage``, has one document: a checksum of all that follows it, and what else the storage must know
of itself: ``storage`` tells it from every other one, and ``journal`` and ``records`` say that everything is in it up to
that record of that journal. Who edits the file by hand removes the line with the checksum; such a file is checked value
by value instead.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs

from moorage.codec import is_clean
from moorage.errors import StorageDamaged, shown
from moorage_json import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import NoReturn

    from moorage.codec import Plain

HEAD = "moorage"
"""The name of the table that describes the storage."""
Stored: TypeAlias = "dict[str, Plain]"
Tables: TypeAlias = "dict[str, dict[str, Stored]]"

_START = b'{\n  "moorage": {\n    "1": {\n      "checksum": "'
_CHECKSUM = re.compile(re.escape(_START) + rb'([0-9a-f]{8})",\n')
_HEAD_END = b"\n    }\n  }"
_LONGEST_HEAD = 4096
_KNOWN = frozenset(("checksum", "generation", "schema", "storage", "journal", "records"))
_LINE = 100
"""Lists and dicts of more characters are written on several lines."""
_BUFFER = 2**20
_INTEGERS = range(-(2**63), 2**63)

_inline = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_indented = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=2).encode


@attrs.frozen
class Snapshot:
    """The content of a file.

    Attributes:
        head: what the storage must know of itself, without the checksum.
        tables: the other tables, with their documents by number.
        is_edited: whether somebody took the checksum out.
    """

    head: Stored
    tables: Tables
    is_edited: bool


def write(file: int, head: Mapping[str, Plain], tables: Iterable[tuple[str, Iterable[tuple[str, Stored]]]]) -> None:
    """Write a whole file, which is open and empty; it is not flushed.

    Raises:
        OSError: as ``os.write`` does.
    """
    disk.write(file, _START + b'00000000",\n')
    checksum, waiting = 0, bytearray()
    for text in _texts(head, tables):
        waiting += text.encode()
        if len(waiting) > _BUFFER:
            checksum = zlib.crc32(waiting, checksum)
            disk.write(file, waiting)
            waiting.clear()
    checksum = zlib.crc32(waiting, checksum)
    disk.write(file, waiting)
    disk.write(file, b"%08x" % checksum, len(_START))


def _texts(head: Mapping[str, Plain], tables: Iterable[tuple[str, Iterable[tuple[str, Stored]]]]) -> Iterator[str]:
    yield f"{_fields(head)}\n    }}\n  }}"
    for name, documents in tables:
        yield f",\n  {_inline(name)}: {{"
        separator, end = "", ""
        for number, document in documents:
            yield f'{separator}\n    "{number}": {{\n{_fields(document)}\n    }}'
            separator, end = ",", "\n  "
        yield f"{end}}}"
    yield "\n}\n"


def _fields(document: Mapping[str, Plain]) -> str:
    return ",\n".join([f"      {_inline(name)}: {_value(value)}" for name, value in document.items()])


def _value(value: Plain) -> str:
    text = _inline(value)
    if len(text) > _LINE and isinstance(value, (list, dict)):
        return _indented(value).replace("\n", "\n      ")
    return text


def parse(data: bytes, path: str) -> Snapshot:
    """The content of a file.

    Raises:
        StorageDamaged: it is not JSON, or not that of a Moorage storage, or not what was written.
    """
    if not data:
        raise StorageDamaged(f"{path} is empty; remove it to begin a new storage there, or restore it from a backup")
    found = _CHECKSUM.match(data)
    is_whole = found is not None and zlib.crc32(memoryview(data)[found.end() :]) == int(found[1], 16)
    try:
        if is_whole:
            content = json.loads(data)
        else:
            content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StorageDamaged(f"{path} is not JSON, or was cut short: {error}. Restore it from a backup") from error
    if not isinstance(content, dict):
        raise StorageDamaged(f"{path} is no Moorage storage: it holds {shown(content)}")
    heads = content.pop(HEAD, None)
    head = heads.get("1") if isinstance(heads, dict) else None
    if not isinstance(head, dict) or not _is_integer(head.get("generation")):
        raise StorageDamaged(f"{path} is no Moorage storage: its table {HEAD!r} does not say so; name another file")
    records, names = head.get("records", 0), (head.get("storage", ""), head.get("journal", ""))
    if not all(isinstance(one, str) for one in names) or not (records == 0 or _is_integer(records)):
        raise StorageDamaged(f"{path}: its table {HEAD!r} is not as it was written; restore it from a backup")
    if unknown := sorted(set(head) - _KNOWN):
        raise StorageDamaged(
            f"{path}: its table {HEAD!r} has an unknown field {unknown[0]!r}; restore it from a backup"
        )
    for name, documents in content.items():
        if not isinstance(documents, dict) or not all(isinstance(one, dict) for one in documents.values()):
            raise StorageDamaged(f"{path}: {name!r} is no table of documents, but {shown(documents)}")
    written = head.pop("checksum", None)
    if written is not None and not is_whole:
        raise StorageDamaged(
            f"{path} is not as it was written. If you edited it, remove the line with the checksum "
            f"({shown(written)}) from its beginning and open it again; if not, restore it from a backup"
        )
    if written is None and not _is_plain(content):
        raise StorageDamaged(f"{path} was edited, and holds a number beyond 64 bits, or a text with NUL or a half sign")
    return Snapshot(head, cast("Tables", content), written is None)


def peek(file: int) -> Stored:
    """What the file of a storage knows of itself, without reading all of it; nothing where it was edited."""
    beginning, end, _ = disk.read(file, 0, _LONGEST_HEAD).partition(_HEAD_END)
    if not end or not beginning.startswith(_START):
        return {}
    try:
        return cast("Stored", json.loads(beginning + b"}}}")[HEAD]["1"])
    except ValueError:
        return {}


def may_be(data: bytes) -> bool:
    """Whether some bytes are, or once were, the file of a storage: it may be empty, cut short, or edited."""
    if data.startswith(_START[: len(data)]):
        return True
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and HEAD in content


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{shown(twice)} stands twice in the same place")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(is_clean(name) and _is_plain(one) for name, one in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return is_clean(value)
    return not isinstance(value, (int, float)) or (
        math.isfinite(value) if isinstance(value, float) else value in _INTEGERS
    )
