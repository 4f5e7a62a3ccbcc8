"""Drivers across a fork: a child has its parent's memory, but neither its threads nor a right to its connections."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 5.0
"""Seconds for which a fork waits for what other threads are doing."""


class Forked(Protocol):
    """What is told of forks."""

    def before_fork(self) -> None:
        """Called in the parent, before."""

    def after_fork_in_parent(self) -> None:
        """Called in the parent, after."""

    def after_fork_in_child(self) -> None:
        """Called in the child, before anything else runs there."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(one: Forked) -> None:
    """Tell this one of every fork of this process, for as long as it lives."""
    _watched.add(one)


class Calls:
    """Calls that a fork waits for, and that wait for the end of a fork.

    A child never gets a lock that another thread of its parent held, be it one of a library. So whoever calls such a
    library does it in `running`, and holds all others back around a fork. A call must not begin another one.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all calls; for a child, whose threads are gone."""
        self._changed = threading.Condition()
        self._running = 0
        self._is_held = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a call."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_held)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def hold(self) -> bool:
        """Let no further call begin, and wait up to `PATIENCE` for those that run; whether all have ended."""
        with self._changed:
            self._is_held = True
            return self._changed.wait_for(lambda: not self._running, PATIENCE)

    def release(self) -> None:
        """Let calls begin again."""
        with self._changed:
            self._is_held = False
            self._changed.notify_all()


def _before() -> None:
    for one in list(_watched):
        one.before_fork()


def _after_in_parent() -> None:
    for one in list(_watched):
        one.after_fork_in_parent()


def _after_in_child() -> None:
    for one in list(_watched):
        one.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
