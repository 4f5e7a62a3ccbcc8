"""Oríon, which needs an older Python: driven from here, in an interpreter of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.startup import timing

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.clock import Timing

_SCRIPT = Path(__file__).with_name("orion_peer.py")


class Absent(Exception):
    """There is no Oríon to be measured; says why."""


class Orion:
    """A PickledDB with pending trials; see `benchmarks.orion_peer`.

    Args:
        interpreter: a Python that has Oríon.
        path: of the file that it makes.
        size: how many trials are stored.

    Raises:
        Absent: there is no such interpreter, or it has no Oríon.
    """

    def __init__(self, interpreter: str | None, path: Path, size: int) -> None:
        if interpreter is None:
            raise Absent("not asked for: --orion-python PATH names a Python that has Oríon")
        if shutil.which(interpreter) is None:
            raise Absent(f"there is no {interpreter}")
        self._process = subprocess.Popen(
            [interpreter, _SCRIPT, path, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        greeting = self._answer()
        if not isinstance(greeting, dict):
            _, errors = self._process.communicate()
            lines = errors.strip().splitlines()
            raise Absent(f"not installed: {lines[-1] if lines else 'no reason given'}")
        self.version = str(greeting["version"])

    def time(self, count: int) -> Timing:
        """Reserve so many trials, give them results and complete them."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return timing(self._answer())

    def _answer(self) -> object:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
