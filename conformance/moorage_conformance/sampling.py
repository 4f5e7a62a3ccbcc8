"""A part of what is shown by many like runs: another one each time, and in so many times all of it."""

from __future__ import annotations

import zlib

import attrs

from moorage.errors import InvalidArgument, shown


@attrs.frozen
class Sample:
    """One of several parts into which names fall, whatever there is besides them.

    Attributes:
        part: which, from 1.
        parts: how many there are.
    """

    part: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Sample:
        """Read ``2/5``.

        Raises:
            InvalidArgument: it is not of that form.
        """
        part, _, parts = text.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            raise InvalidArgument(f"a sample is written as PART/PARTS, 2/5 say, not {shown(text)}")
        return cls(int(part), int(parts))

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.part}/{self.parts}"

    def holds(self, name: str) -> bool:
        """Whether this part has the name."""
        return zlib.crc32(name.encode()) % self.parts == self.part - 1
