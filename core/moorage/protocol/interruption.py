"""Interruptions of a worker: where they may come, and where they must wait until a trial has come to its end."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_NAMES = tuple(name for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))
_NONE = object()


class Terminated(SystemExit):
    """SIGTERM: the process ends with the code 143 when nothing catches it, as it would have without a handler."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interruption:
    """Holds Ctrl-C and SIGTERM back while a trial begins and ends, and lets them interrupt the user's code between.

    An interruption at any other line would leave a reserved trial, or an end that is half told. It is held in the main
    thread alone, where Python runs handlers, and only where the process has no handler of its own: Ctrl-C as Python has
    it, SIGTERM as the system has it. A second Ctrl-C while one is held back goes through at once: the storage may hang.

    Args:
        sigterm: whether SIGTERM is turned into an interruption at all.
    """

    def __init__(self, *, sigterm: bool) -> None:
        self._sigterm = sigterm
        self._replaced: dict[int, Any] = {}
        self._held = True
        self._pending: int | None = None
        self._raised: BaseException | None = None

    def begin(self) -> None:
        """Take over the signals; they are held back until `allow`."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, default in self._ours():
            if signal.getsignal(number) is default:
                self._replaced[number] = default
                signal.signal(number, self._on_signal)

    def _ours(self) -> list[tuple[int, object]]:
        found: list[tuple[int, object]] = [(signal.SIGINT, signal.default_int_handler)]
        return [*found, (signal.SIGTERM, signal.SIG_DFL)] if self._sigterm else found

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if (self._held or _is_inside(frame)) and self._pending is None:
            self._pending = number
            return
        self._raise(number)

    def _raise(self, number: int) -> None:
        self._raised = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        raise self._raised

    def allow(self) -> None:
        """Let interruptions through from here on; one that was held back comes now."""
        self._held = False
        self._deliver()

    def hold(self) -> None:
        """Hold them back again."""
        self._held = True

    def end(self) -> None:
        """Give the signals back; one that was held back comes now."""
        for number, handler in self._replaced.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._replaced = {}
        self._deliver()

    def _deliver(self) -> None:
        number, self._pending = self._pending, None
        if number is not None:
            self._raise(number)

    def from_outside(self, error: BaseException) -> bool:
        """Whether somebody outside of the user's code asked for this end."""
        return error is self._raised or isinstance(error, (KeyboardInterrupt, Terminated, GeneratorExit))

    def told(self, error: BaseException) -> str:
        """What interrupted, for people to read."""
        return "SIGTERM" if isinstance(error, Terminated) else type(error).__name__


_inside: set[object] = set()


def uninterrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function in whose frames no interruption is raised."""
    _inside.add(function.__code__)
    return function


def _is_inside(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _inside:
            return True
        frame = frame.f_back
    return False
