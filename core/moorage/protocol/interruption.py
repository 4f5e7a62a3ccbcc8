"""Interruptions of a worker: where they may come, and where they must wait until a trial has come to its end."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

F = TypeVar("F", bound="Callable[..., object]")


class Terminated(SystemExit):
    """SIGTERM: the process ends with the code 143 when nothing catches it, as it would have without a handler."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _Signals:
    """The handlers of this process, shared by all who hold signals back at the moment."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.users = 0
        self.holds = 0
        self.pending: int | None = None
        self.replaced: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def take_over(self, number: int, default: object) -> None:
        """Handle a signal, unless the process has a handler of its own for it."""
        if number not in self.replaced and signal.getsignal(number) is default:
            self.replaced[number] = signal.signal(number, self.handle)

    def give_back(self) -> None:
        """Handle nothing any more."""
        while self.replaced:
            number, handler = self.replaced.popitem()
            if signal.getsignal(number) == self.handle:
                signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Interrupt, or remember that somebody wanted to."""
        if self.process != os.getpid():  # a child of a fork, that has nothing to end
            self.give_back()
            os.kill(os.getpid(), number)
        elif (self.holds or _is_inside(frame)) and self.pending is None:
            self.pending = number
        else:
            _raise(number)

    def deliver(self) -> None:
        """Interrupt now, where somebody wanted to and nobody holds it back."""
        if not self.holds and self.pending is not None:
            number, self.pending = self.pending, None
            _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated


_signals = _Signals()
_inside: set[object] = set()


class Interruption:
    """Holds Ctrl-C and SIGTERM back while a trial begins and ends, and lets them interrupt the user's code between.

    An interruption at any other line would leave a reserved trial, or an end that is half told. It is held in the main
    thread alone, where Python runs handlers, and only where the process has no handler of its own: Ctrl-C as Python has
    it, SIGTERM as the system has it. A second one, while one is held back, goes through at once: the storage may hang.

    Args:
        sigterm: whether SIGTERM is turned into an interruption at all.
    """

    def __init__(self, *, sigterm: bool) -> None:
        self._sigterm = sigterm
        self._is_main = False
        self._holds = False

    def begin(self) -> None:
        """Take over the signals; they are held back until `allow`."""
        global _signals
        if threading.current_thread() is not threading.main_thread():
            return
        if _signals.process != os.getpid():
            _signals = _Signals()
        self._is_main = True
        _signals.users += 1
        self.hold()
        _signals.take_over(signal.SIGINT, signal.default_int_handler)
        if self._sigterm:
            _signals.take_over(signal.SIGTERM, signal.SIG_DFL)

    def allow(self) -> None:
        """Let interruptions through from here on; one that was held back comes now."""
        if self._holds:
            self._holds = False
            _signals.holds -= 1
            _signals.deliver()

    def hold(self) -> None:
        """Hold them back again."""
        if self._is_main and not self._holds:
            self._holds = True
            _signals.holds += 1

    def end(self) -> None:
        """Give the signals back; one that was held back comes now."""
        if not self._is_main:
            return
        self._is_main = False
        _signals.users -= 1
        if not _signals.users:
            _signals.give_back()
        self.allow()

    @staticmethod
    def from_outside(error: BaseException) -> bool:
        """Whether somebody outside of the user's code asked for this end."""
        return isinstance(error, (KeyboardInterrupt, Terminated, GeneratorExit))

    @staticmethod
    def told(error: BaseException) -> str:
        """What interrupted, for people to read."""
        return "SIGTERM" if isinstance(error, Terminated) else type(error).__name__


def uninterrupted(function: F) -> F:
    """Mark a function in whose frames, and below them, no interruption is raised: it holds them back by itself."""
    _inside.add(function.__code__)
    return function


def _is_inside(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _inside:
            return True
        frame = frame.f_back
    return False
