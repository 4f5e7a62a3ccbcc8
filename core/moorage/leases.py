"""How long ago something showed a sign of life, told without ever comparing wall clocks.

Where the storage has a clock that all its users share, that clock decides. Elsewhere each user watches: what has not
changed for as long as it was looked at, on the watcher's own monotonic clock, has shown no sign of life.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, cast

from moorage.driver import Capability
from moorage.filters import Comparison
from moorage.records import utcnow

if TYPE_CHECKING:
    import datetime

    from moorage.codec import Plain
    from moorage.driver import Document
    from moorage.filters import Filter
    from moorage.waist import Waist

_WATCHED = 10_000

if hasattr(time, "CLOCK_BOOTTIME"):

    def elapsed() -> float:
        """Seconds on a clock that never goes back, and goes on while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:  # pragma: no cover - systems without it

    def elapsed() -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()


class Leases:
    """Stamps signs of life, and tells how old they are."""

    def __init__(self, waist: Waist) -> None:
        self._waist = waist
        self._shared = Capability.SERVER_CLOCK in waist.driver.capabilities
        self._seen: OrderedDict[str, tuple[object, float]] = OrderedDict()
        self._lock = threading.Lock()

    def stamp(self) -> dict[str, Plain]:
        """The fields ``clock`` and ``beat`` of a sign of life that is given now."""
        if not self._shared:
            return {"clock": None, "beat": None}
        now = self._waist.now()
        return {"clock": now.clock, "beat": now.seconds}

    def stamp_at(self, moment: datetime.datetime | None) -> dict[str, Plain]:
        """The fields of a sign of life that a user dates: as long ago as the user says."""
        stamp = self.stamp()
        if moment is None:
            return {"clock": None, "beat": None}
        if stamp["beat"] is not None:
            stamp["beat"] = cast("float", stamp["beat"]) - max(0.0, (utcnow() - moment).total_seconds())
        return stamp

    def silent(self, timeout: float) -> list[Filter]:
        """Filters that between them find all documents that gave no sign of life for so long, and perhaps others."""
        if not self._shared:
            return [()]
        now = self._waist.now()
        expired = Comparison("beat", "<", now.seconds - timeout)
        return [(Comparison("clock", "!=", now.clock),), (Comparison("clock", "=", now.clock), expired)]

    def age(self, document: Document) -> float:
        """Seconds since the last sign of life of a trial, a lock or a resource; infinite where it never gave one."""
        body = document.body
        if body.get("heartbeat") is None:
            return math.inf
        if self._shared and body.get("clock") is not None:
            now = self._waist.now()
            if now.clock != body["clock"] or body.get("beat") is None:
                return math.inf
            return max(0.0, now.seconds - cast("float", body["beat"]))
        return self.watch(document.id, (body.get("holder"), body.get("token"), body["heartbeat"]))

    def watch(self, key: str, sign: object) -> float:
        """Seconds for which this user has seen the same sign under this key; 0 at the first look."""
        now = elapsed()
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or seen[0] != sign:
                self._seen[key] = seen = (sign, now)
                if len(self._seen) > _WATCHED:
                    self._seen.popitem(last=False)
            return now - seen[1]
