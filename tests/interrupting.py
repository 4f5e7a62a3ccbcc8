"""Ctrl-C at every line and after every call: what a primitive leaves behind wherever it is interrupted."""

from __future__ import annotations

import dis
import functools
import linecache
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType
    from typing import Any


def at_every_line(call: Callable[[], object], package: str) -> Iterator[int]:
    """Call again and again, each time interrupted one place later within a package, until it comes to its end.

    The places are the beginnings of lines, and where Python lets signals in: when a call has come back.

    Yields after each interruption, to look at what it has left; and first after a call that was not interrupted, for
    what a first call keeps (a statement, say) would make the later ones shorter.

    Args:
        call: what is interrupted; it must be possible to call it again.
        package: the part of a path that names the files whose lines count.
    """
    call()
    yield 0
    position = 0
    while True:
        position += 1
        if not _interrupted(call, package, position):
            return
        yield position


@functools.cache
def _is_after_call(code: CodeType, before: int | None, now: int) -> bool:
    """Whether a call has just come back, and what is raised now goes to the handler of that call.

    Python raises within the call; where another handler is in force behind it, a trace cannot stand in for that.
    """
    if before is None or _operations(code)[before] not in ("CALL", "CALL_FUNCTION_EX", "CALL_KW"):
        return False
    return _handler(code, before) == _handler(code, now)


@functools.cache
def _operations(code: CodeType) -> dict[int, str]:
    return {one.offset: one.opname for one in dis.get_instructions(code)}


@functools.cache
def _handler(code: CodeType, offset: int) -> int | None:
    entries = dis.Bytecode(code).exception_entries
    return next((one.target for one in entries if one.start <= offset < one.end), None)


def _is_seam(frame: FrameType) -> bool:
    """Whether a line is a ``with`` or a ``try``.

    They are traced where no handler is in force, but Python lets no signal in there: a ``with`` once more when its
    block is left, before the exit, and a ``try`` on an instruction that does nothing.
    """
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return line.startswith("with ") or line.partition("#")[0].strip() == "try:"


def _is_finalizing(frame: FrameType | None) -> bool:
    """Whether this is part of a finalizer: Python drops what is raised there, and goes on elsewhere."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _interrupted(call: Callable[[], object], package: str, position: int) -> bool:
    left = position
    last: dict[FrameType, int] = {}

    def on_line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        del argument
        frame.f_trace_opcodes = True
        has_called = False
        if event == "opcode":
            has_called = _is_after_call(frame.f_code, last.get(frame), frame.f_lasti)
            last[frame] = frame.f_lasti
        if (event == "line" and not _is_seam(frame)) or has_called:
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return on_line

    def on_call(frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        return on_line if package in frame.f_code.co_filename and not _is_finalizing(frame) else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return left <= 0
