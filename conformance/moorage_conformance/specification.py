"""The written specification, read from ``SPEC.md``: the page that people read is the one that the suite goes by."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

import moorage
from moorage.errors import InvalidArgument
from moorage.filters import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LEVELS: Mapping[int, str] = {1: "Core", 2: "Concurrent", 3: "Crash-safe", 4: "Distributed"}

CONDITIONS = ("shared", "durable", "transactions", "server_clock", "local", "network", "password")
"""What a requirement may depend on; the page says what each means."""

FIRST_RELEASE = "0.1"

_ITEM = re.compile(
    r"^- \*\*(?P<id>[A-Z]+-[0-9]+)\*\* \((?P<strength>MUST|SHOULD)(?:, (?P<condition>[a-z_]+))?"
    r"(?:, since (?P<since>[0-9]+\.[0-9]+))?\) (?P<text>.+)$"
)
_LEVEL = re.compile(r"^## Level (?P<level>[0-9]+): ")


@attrs.frozen(kw_only=True)
class Requirement:
    """One numbered requirement.

    Attributes:
        id: its number, such as ``CLAIM-3``; never given to another one.
        level: from 1 to 4.
        strength: a MUST decides whether the level is reached; a SHOULD is reported.
        condition: one of `CONDITIONS`; it holds for backends that meet it. None where it holds for all.
        since: the minor release that brought it.
        text: the sentences.
    """

    id: str
    level: int
    strength: Literal["MUST", "SHOULD"]
    condition: str | None = None
    since: str = FIRST_RELEASE
    text: str

    @property
    def group(self) -> str:
        """The word before the number."""
        return self.id.partition("-")[0]

    @property
    def decides(self) -> bool:
        """Whether a level depends on it: it is a MUST, and not provisional."""
        return self.strength == "MUST" and not self.provisional

    @property
    def provisional(self) -> bool:
        """Whether it is too new to decide: it came with the minor release that is installed, and not with the first."""
        return self.since not in (FIRST_RELEASE, "") and _minor(self.since) >= _minor(moorage.__version__)


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def page() -> Path:
    """Where ``SPEC.md`` is: beside this module in a wheel, one folder above in a checkout."""
    here = Path(__file__).parent
    return next(path for path in (here / "SPEC.md", here.parent / "SPEC.md") if path.exists())


def parse(text: str) -> dict[str, Requirement]:
    """The requirements of a page, in its order.

    Raises:
        InvalidArgument: an item that cannot be read, a number that is used twice, or a requirement outside of a level.
    """
    found: dict[str, Requirement] = {}
    level = 0
    for paragraph in _paragraphs(text):
        if heading := _LEVEL.match(paragraph):
            level = int(heading["level"])
        if not paragraph.startswith("- **"):
            continue
        item = _ITEM.match(paragraph)
        if item is None or level not in LEVELS or item["condition"] not in (None, *CONDITIONS):
            raise InvalidArgument(f"the specification has an item that cannot be read: {paragraph[:80]!r}")
        if item["id"] in found:
            raise InvalidArgument(f"the specification has two requirements {item['id']}")
        fields = {name: value for name, value in item.groupdict().items() if value is not None}
        found[item["id"]] = Requirement(level=level, **fields)  # type: ignore[arg-type]
    return found


def _paragraphs(text: str) -> Iterable[str]:
    """Lines, with those that continue an item joined to it."""
    current = ""
    for line in text.splitlines():
        if line.startswith("  ") and current:
            current += " " + line.strip()
            continue
        if current:
            yield current
        current = line.rstrip()
    yield current


@functools.cache
def specification() -> Mapping[str, Requirement]:
    """All requirements by number, in the order of the page."""
    return parse(page().read_text(encoding="utf-8"))


def requirement(identifier: str) -> Requirement:
    """The requirement of this number.

    Raises:
        InvalidArgument: there is none.
    """
    known = specification()
    if identifier not in known:
        raise InvalidArgument(f"there is no requirement {identifier!r:.80}.{suggest(identifier, list(known))}")
    return known[identifier]
