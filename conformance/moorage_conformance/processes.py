"""Worker processes, seen from the check that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from moorage_conformance.checking import Violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

START_SECONDS = 60.0


class Process:
    """A process that does one role of a check; it ends by itself when its parent is gone.

    Args:
        job: what it is to do, see `moorage_conformance.worker`.
        wrapper: a command that runs it, such as strace with its options.
        requirement: what is violated where it ends with an error.
    """

    def __init__(self, job: Mapping[str, object], *, wrapper: Sequence[str] = (), requirement: str) -> None:
        self.name = str(job["name"])
        self.requirement = requirement
        self.said: list[Any] = []
        self.error: dict[str, str] | None = None
        self._changed = threading.Condition()
        self._over = False
        self._taken = 0
        self._popen = subprocess.Popen(
            [*wrapper, sys.executable, "-u", "-m", "moorage_conformance.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._wrapped = bool(wrapper)
        self.tell(json.dumps(job))
        threading.Thread(target=self._read, daemon=True, name=f"reader of {self.name}").start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            try:
                value = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            with self._changed:
                if isinstance(value, dict) and "worker_error" in value:
                    self.error = value["worker_error"]
                else:
                    self.said.append(value)
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        """Of the worker, or of the command that wraps it."""
        return self._popen.pid

    def tell(self, line: str) -> None:
        """Send it a line; a process that is gone hears nothing."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass

    def next(self, timeout: float = START_SECONDS) -> Any:
        """The next thing that it says.

        Raises:
            Violation: it ended with an error, or said nothing in time.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(self.said) <= self._taken:
                self.check()
                left = deadline - time.monotonic()
                if self._over or left <= 0:
                    what = "ended early" if self._over else f"said nothing for {timeout:g} s"
                    raise Violation(self.requirement, f"process {self.name} {what}")
                self._changed.wait(left)
            self._taken += 1
            return self.said[self._taken - 1]

    def check(self) -> None:
        """Raise what it ended with."""
        if self.error is not None:
            raise Violation(
                self.requirement, f"in process {self.name}: {self.error['error']}\n{self.error['traceback']}"
            )

    def join(self, timeout: float = 120.0) -> list[Any]:
        """Wait for its end; all that it said since the beginning.

        Raises:
            Violation: it ended with an error, or not in time.
        """
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Violation(self.requirement, f"process {self.name} did not end within {timeout:g} s") from None
        with self._changed:
            while not self._over:
                self._changed.wait(1)
        self._free()
        self.check()
        return self.said

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; with all that it has started where a command wraps it."""
        try:
            if self._wrapped:
                os.killpg(self._popen.pid, number)
            else:
                self._popen.send_signal(number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone and all that it said is here."""
        self.signal(signal.SIGKILL)
        self._popen.wait()
        with self._changed:
            while not self._over:
                self._changed.wait(1)
        self._free()

    def _free(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)
