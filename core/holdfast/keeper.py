"""One background thread per storage that gives signs of life: heartbeats of trials, renewals of locks."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("holdfast")


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
    """Does duties at their intervals, one after the other, in one daemon thread that lives while there are any."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._condition = threading.Condition()
        self._queue: list[tuple[float, int, Duty]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._current: Duty | None = None

    def add(self, action: Callable[[], bool], interval: float) -> Duty:
        """Call ``action`` every ``interval`` seconds, first after one interval, until it returns False or is cancelled.

        An action that raises is logged, and called again.
        """
        if self._process != os.getpid():
            self._reset()
        duty = Duty(self, action, interval)
        with self._condition:
            heapq.heappush(self._queue, (time.monotonic() + interval, next(self._order), duty))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="holdfast-keeper", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        return duty

    def wait_for(self, duty: Duty) -> None:
        """Wait until this duty is not under way."""
        if self._process != os.getpid():
            return
        with self._condition:
            self._condition.notify_all()
            while self._current is duty and threading.current_thread() is not self._thread:
                self._condition.wait()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._queue = [entry for entry in self._queue if entry[2].active]
                heapq.heapify(self._queue)
                if not self._queue:
                    self._thread = None
                    return
                due, _, duty = self._queue[0]
                wait = due - time.monotonic()
                if wait > 0:
                    self._condition.wait(wait)
                    continue
                heapq.heappop(self._queue)
                self._current = duty
            goes_on = True
            try:
                goes_on = duty.action()
            except Exception:  # a failing duty is reported and tried again; the others must go on
                logger.exception("a heartbeat or a renewal failed; it is tried again in %.3g s", duty.interval)
            with self._condition:
                self._current = None
                if goes_on and duty.active:
                    heapq.heappush(self._queue, (time.monotonic() + duty.interval, next(self._order), duty))
                self._condition.notify_all()
