"""One background thread per storage that gives signs of life: heartbeats of trials, renewals of locks."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("moorage")

IDLE = 10.0
"""Seconds after which a thread without duties ends."""

_TIDY = 64


class Duty:
    """Something done at an interval until it is cancelled."""

    def __init__(self, keeper: Keeper, action: Callable[[], bool], interval: float) -> None:
        self._keeper = keeper
        self.action = action
        self.interval = interval
        self.active = True

    def cancel(self) -> None:
        """Do it no more. One that is under way is waited for, unless it is the caller itself."""
        self.active = False
        self._keeper.wait_for(self)


class Keeper:
    """Does duties at their intervals, one after the other, in one daemon thread.

    The thread starts with the first duty and ends when there was none for `IDLE` seconds. Most duties are cancelled
    long before their first time: so neither adding nor cancelling one wakes the thread, unless it must be done earlier
    than the thread wakes anyway.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._condition = threading.Condition()
        self._queue: list[tuple[float, int, Duty]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = math.inf
        self._current: Duty | None = None
        self._tidy_at = _TIDY
        self._closed = False

    def add(self, action: Callable[[], bool], interval: float) -> Duty:
        """Call ``action`` every ``interval`` seconds, first after one interval, until it returns False or is cancelled.

        An action that raises is logged, and called again.
        """
        if self._process != os.getpid():
            self._reset()
        duty = Duty(self, action, interval)
        due = time.monotonic() + interval
        with self._condition:
            heapq.heappush(self._queue, (due, next(self._order), duty))
            if len(self._queue) >= self._tidy_at:
                self._queue = [entry for entry in self._queue if entry[2].active]
                heapq.heapify(self._queue)
                self._tidy_at = max(_TIDY, 2 * len(self._queue))
            if self._thread is None:
                self._closed = False
                self._wakes_at = due
                self._thread = threading.Thread(target=self._run, name="moorage-keeper", daemon=True)
                self._thread.start()
            elif due < self._wakes_at:
                self._condition.notify_all()
        return duty

    def wait_for(self, duty: Duty) -> None:
        """Wait until this duty is not under way."""
        if self._process != os.getpid():
            return
        with self._condition:
            while self._current is duty and threading.current_thread() is not self._thread:
                self._condition.wait()

    def close(self) -> None:
        """Do nothing more, and end the thread."""
        if self._process != os.getpid():
            return
        with self._condition:
            self._closed = True
            self._queue.clear()
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _next(self) -> Duty | None:
        """Wait for the next duty that is due; None when the thread shall end."""
        with self._condition:
            while True:
                while self._queue and not self._queue[0][2].active:
                    heapq.heappop(self._queue)
                now = time.monotonic()
                if self._queue and self._queue[0][0] <= now:
                    self._wakes_at = now
                    self._current = heapq.heappop(self._queue)[2]
                    return self._current
                idle = not self._queue
                self._wakes_at = now + IDLE if idle else self._queue[0][0]
                woken = not self._closed and self._condition.wait(self._wakes_at - now)
                if self._closed or (idle and not woken and not self._queue):
                    self._thread = None
                    return None

    def _run(self) -> None:
        while (duty := self._next()) is not None:
            goes_on = True
            try:
                goes_on = duty.action()
            except Exception:  # a failing duty is reported and tried again; the others must go on
                logger.exception("a heartbeat or a renewal failed; it is tried again in %.3g s", duty.interval)
            with self._condition:
                self._current = None
                if goes_on and duty.active and not self._closed:
                    heapq.heappush(self._queue, (time.monotonic() + duty.interval, next(self._order), duty))
                self._condition.notify_all()
