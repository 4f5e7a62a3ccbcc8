"""The records of the journal: one line for each write, with its length, its number, and a checksum at its end.

::

    31 1 [["trials",{"id":"a","revision":2}]] 5d2f1c07

A write that was cut off leaves a beginning of a line, and that is told apart from damage. The numbers go on from one
journal to the next: a record that is copied into the next one stays as it is.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from moorage.codec import loads, to_text

if TYPE_CHECKING:
    from moorage.codec import Plain

CHECKSUM = 9
"""Bytes at the end of a record that no other record ends with: its checksum and the end of its line."""
_UNWRITTEN = bytes(16)
"""After a power failure: of a block that the disk never got, of which the edge may be all that concerns a record; no
record holds a single zero byte."""
_BEGINNING = re.compile(rb"\d+( (\d+( .*)?)?)?", re.DOTALL)
_LENGTH = re.compile(rb"(\d{1,15}) \d+ ")


def pack(number: int, content: Plain) -> bytes:
    """A record.

    Args:
        number: one more than that of the record before.
        content: anything; none of its texts may hold a lone surrogate.
    """
    text = to_text(content).encode()
    line = b"%d %d %s" % (len(text), number, text)
    return b"%s %08x\n" % (line, zlib.crc32(line))


def unpack(data: bytes, number: int) -> tuple[list[Plain], int]:
    """The whole records at the beginning of some bytes, and how many bytes they take.

    Args:
        data: of a journal, from the beginning of a record.
        number: of the first record.
    """
    found: list[Plain] = []
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = data[start:end]
        parts = line[:-CHECKSUM].split(b" ", 2)
        if not _is_whole(line) or parts[1] != b"%d" % (number + len(found)):
            break
        found.append(loads(parts[2].decode()))
        start = end + 1
    return found, start


def first(data: bytes) -> tuple[Plain, int, int] | None:
    """What the first record says, its number, and how many bytes it takes; None where there is no whole one."""
    line, newline, _ = data.partition(b"\n")
    if not newline or not _is_whole(line):
        return None
    _, number, text = line[:-CHECKSUM].split(b" ", 2)
    return loads(text.decode()), int(number), len(line) + 1


def is_cut_off(rest: bytes) -> bool:
    """Whether a write that was cut off explains what follows the last whole record; if not, it is damaged."""
    if any(_is_whole(line) for line in rest.split(b"\n")[:-1]):
        return False
    if _UNWRITTEN in rest or rest.startswith(b"\0") or rest.endswith(b"\0"):
        return True
    if rest.endswith(b"\n") or not _BEGINNING.fullmatch(rest):
        return False
    length = _LENGTH.match(rest)
    return length is None or len(rest) < length.end() + int(length[1]) + CHECKSUM + 1


def _is_whole(line: bytes) -> bool:
    parts = line[:-CHECKSUM].split(b" ", 2)
    return (
        len(parts) == 3
        and parts[0] == b"%d" % len(parts[2])
        and line[-CHECKSUM:] == b" %08x" % zlib.crc32(line[:-CHECKSUM])
    )
