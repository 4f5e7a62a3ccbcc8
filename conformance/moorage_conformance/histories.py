"""Histories: what several processes asked of a storage, what they were told, and when.

A worker writes each operation down twice, once before the call and once after it, so that a process that is killed in
between leaves behind that it had asked. The files of all workers of one machine make a `History`, which
`moorage_conformance.linearizability` judges. The distinction between "it failed" and "nobody knows" is that of Jepsen
(K. Kingsbury, "Knossos: redis and linearizability", 2013): to call an unknown operation failed finds faults that are
none, and to call it done overlooks some.

Values are kept in the plain form of `moorage.codec`. So NaN equals itself, and whatever a driver can store can be told
apart.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, cast

import attrs

import moorage
from moorage.codec import Plain, dumps, encode, loads
from moorage.errors import (
    InvalidArgument,
    StorageClosed,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
    Unsupported,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")

Outcome: TypeAlias = Literal["ok", "fail", "unknown"]

NOT_HAPPENED = (
    InvalidArgument,
    StorageClosed,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
    Unsupported,
)
"""The errors by which a driver says that a call on one document has changed nothing; after any other nobody knows."""

_FORMAT = "moorage-history-1"
_LINES = "moorage-recording-1"


def _as_tuple(values: Iterable[Plain]) -> tuple[Plain, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Operation:
    """One call of one process, on one key.

    Attributes:
        process: who called. Each does one thing after the other; threads count as processes.
        key: the object that the call was on; operations on different keys have nothing to do with each other.
        call: the name of what was called.
        arguments: what it was given, as plain values.
        result: what it returned, as a plain value; None unless the outcome is ``ok``.
        invoked: when it was called, in nanoseconds of the monotonic clock.
        returned: when it came back; None where the outcome is unknown.
        outcome: ``ok``, it returned (a refusal is a result too: a swap that returns False is ``ok``); ``fail``, it has
            certainly not happened; ``unknown``, a kill or a lost reply cut it off, and it may take effect at any time
            after its invocation, or never.
    """

    process: str = attrs.field(validator=attrs.validators.instance_of(str))
    key: str = attrs.field(validator=attrs.validators.instance_of(str))
    call: str = attrs.field(validator=attrs.validators.instance_of(str))
    arguments: tuple[Plain, ...] = attrs.field(default=(), converter=_as_tuple)
    result: Plain = None
    invoked: int = attrs.field(validator=attrs.validators.instance_of(int))
    returned: int | None = None
    outcome: Outcome = attrs.field(default="ok", validator=attrs.validators.in_(("ok", "fail", "unknown")))

    def __attrs_post_init__(self) -> None:
        if (self.returned is None) != (self.outcome == "unknown"):
            raise InvalidArgument(f"an operation has a time of return unless its outcome is unknown: {shown(self)}")
        if self.returned is not None and self.returned < self.invoked:
            raise InvalidArgument(f"an operation returned before it was invoked: {shown(self)}")

    def __hash__(self) -> int:
        return hash((self.process, self.key, self.call, self.invoked, self.returned))

    def __str__(self) -> str:
        arguments = ", ".join(dumps(one) for one in self.arguments)
        told = {"ok": dumps(self.result), "fail": "failed", "unknown": "?"}[self.outcome]
        return f"{self.process}: {self.call}({arguments}) → {told}"


def _in_order(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    return tuple(sorted(operations, key=lambda one: (one.invoked, one.process, one.key)))


@attrs.frozen(kw_only=True)
class History:
    """What several processes did to the same storage.

    Attributes:
        operations: in the order of invocation.
        model: the name of the model that it is to be judged by.
        seed: of the run that it was recorded in.
        check: the name of the check that recorded it.
        versions: of what took part in the run.
        background: operations that may have happened as they are recorded, at any time after their invocation, or
            never. Empty in what was recorded; `linearizability.minimize` moves here what does not matter.
        midway: whether the first operation found the storage in a state that nobody knows, rather than empty.
    """

    operations: tuple[Operation, ...] = attrs.field(converter=_in_order)
    model: str = ""
    seed: int | None = None
    check: str = ""
    versions: Mapping[str, str] = attrs.field(factory=dict)
    background: tuple[Operation, ...] = attrs.field(default=(), converter=_in_order)
    midway: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the order of their first operation."""
        return tuple(dict.fromkeys(one.key for one in self.operations))

    @property
    def processes(self) -> tuple[str, ...]:
        """All processes, in the order of their first operation."""
        return tuple(dict.fromkeys(one.process for one in self.operations))

    def save(self, path: Path | str) -> None:
        """Write it as one JSON file, an operation per line; a file of this name is replaced in one step."""
        head = {
            "format": _FORMAT,
            "model": self.model,
            "seed": self.seed,
            "check": self.check,
            "versions": dict(self.versions),
        }
        lines = [f'"{name}": {dumps(encode(value))}' for name, value in head.items()]
        lines.append(f'"midway": {dumps(self.midway)}')
        for name, operations in (("operations", self.operations), ("background", self.background)):
            rows = ",\n  ".join(dumps(_row(one)) for one in operations)
            lines.append(f'"{name}": [\n  {rows}\n]' if rows else f'"{name}": []')
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            StorageDamaged: the file holds no history, or one of a format that this release does not know.
        """
        content = loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise StorageDamaged(f"{path} is no history in the format {_FORMAT!r}")
        fields = cast("dict[str, Any]", content)
        try:
            return cls(
                operations=[_operation(one) for one in fields["operations"]],
                model=fields["model"],
                seed=fields["seed"],
                check=fields["check"],
                versions=fields["versions"],
                background=[_operation(one) for one in fields["background"]],
                midway=fields["midway"],
            )
        except (LookupError, TypeError, ValueError) as error:
            raise StorageDamaged(f"the history in {path} is damaged: {error}") from error


def _row(operation: Operation) -> Plain:
    row = attrs.asdict(operation, recurse=False)
    row["arguments"] = list(operation.arguments)
    return cast("Plain", row)


def _operation(row: dict[str, Any]) -> Operation:
    return Operation(**row)


class Pending:
    """An operation that was invoked; exactly one of `ok`, `fail` and `unknown` ends it, and a kill leaves it so."""

    __slots__ = ("_invoked", "_number", "_recorder")

    def __init__(self, recorder: Recorder, number: int, invoked: int) -> None:
        self._recorder = recorder
        self._number = number
        self._invoked = invoked

    def ok(self, result: object = None) -> None:
        """It returned this."""
        now = time.monotonic_ns()
        self._recorder.write(
            {"end": self._number, "invoked": self._invoked, "returned": now, "ok": True, "result": encode(result)}
        )

    def fail(self) -> None:
        """It has certainly not happened."""
        now = time.monotonic_ns()
        self._recorder.write({"end": self._number, "invoked": self._invoked, "returned": now, "ok": False})

    def unknown(self) -> None:
        """Nobody knows whether it happened, or will."""


class Recorder:
    """Writes down the operations of one process as they happen; any of its threads may use it.

    Each line goes to the kernel in one write before the next step is taken, so a kill of the process loses none that
    matters: an operation without a line of invocation was never called. (Nothing is synced: what is recorded need not
    survive the machine.)

    Args:
        path: the file; it must not exist, since operations are numbered in each.
        process: the name of this process; further threads are named ``process/2``, ``process/3`` and so on.

    Raises:
        FileExistsError: there is such a file.
    """

    def __init__(self, path: Path | str, *, process: str) -> None:
        self.path = Path(path)
        self.process = process
        self._numbers = itertools.count(1)
        self._threads = itertools.count(1)
        self._thread = threading.local()
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self.write({"format": _LINES, "process": process, "machine": _machine()})

    def write(self, line: dict[str, Plain]) -> None:
        """Append one line."""
        data = (dumps(line) + "\n").encode()
        if os.write(self._file, data) != len(data):
            raise StorageFull(f"a line of {self.path} could not be written whole; is the disk full?")

    def invoke(self, key: str, call: str, *arguments: object) -> Pending:
        """Write down that this thread is about to call; make the call right after this returns."""
        now = time.monotonic_ns()
        number = next(self._numbers)
        try:
            process = self._thread.name
        except AttributeError:
            place = next(self._threads)
            process = self._thread.name = self.process if place == 1 else f"{self.process}/{place}"
        self.write(
            {
                "begin": number,
                "process": process,
                "key": key,
                "call": call,
                "arguments": encode(list(arguments)),
                "invoked": now,
            }
        )
        # The call comes after this line is written, and an interval that is shorter proves more.
        return Pending(self, number, time.monotonic_ns())

    def run(
        self,
        key: str,
        call: str,
        arguments: Sequence[object],
        function: Callable[[], T],
        told: Callable[[T], object] = lambda value: value,
    ) -> T:
        """Call a function and record it.

        Args:
            key: what it is called on.
            call: its name.
            arguments: what is recorded as its arguments.
            function: what is called.
            told: makes of its result what is recorded.

        Raises:
            BaseException: whatever the function raises. One of `NOT_HAPPENED` is recorded as a failure, and any other
                leaves the outcome unknown.
        """
        pending = self.invoke(key, call, *arguments)
        try:
            value = function()
        except NOT_HAPPENED:
            pending.fail()
            raise
        pending.ok(told(value))
        return value

    def close(self) -> None:
        """Close the file; operations that were not ended stay unknown."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _machine() -> str:
    """What tells apart clocks that cannot be compared: the boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def versions() -> dict[str, str]:
    """The versions that a history should name."""
    return {"moorage": moorage.__version__, "python": platform.python_version()}


def read(
    paths: Iterable[Path | str],
    *,
    model: str = "",
    seed: int | None = None,
    check: str = "",
    further_versions: Mapping[str, str] | None = None,
) -> History:
    """The history that recorders of one machine have written.

    A last line that a kill has torn counts as not written: one of invocation belongs to a call that was never made, and
    one of completion leaves an operation of unknown outcome.

    Raises:
        StorageDamaged: a file is not a recording, or is damaged elsewhere than at its end.
        InvalidArgument: the files come from different machines, or boots, whose clocks cannot be compared.
    """
    operations: list[Operation] = []
    machines: dict[str, str] = {}
    for path in paths:
        machine, found = _read_one(Path(path))
        if machine is not None:
            machines.setdefault(machine, str(path))
        operations += found
    if len(machines) > 1:
        names = " and ".join(sorted(machines.values()))
        raise InvalidArgument(f"{names} were recorded on different machines, or boots; their clocks differ")
    return History(
        operations=operations, model=model, seed=seed, check=check, versions={**versions(), **(further_versions or {})}
    )


def _read_one(path: Path) -> tuple[str | None, Iterable[Operation]]:
    *lines, torn = path.read_bytes().split(b"\n")
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise StorageDamaged(f"line {number} of {path} is not JSON: {shown(line)}") from error
        if not isinstance(content, dict):
            raise StorageDamaged(f"line {number} of {path} is not part of a recording: {shown(line)}")
        parsed.append(content)
    if not parsed:
        if torn and not b'{"format"'.startswith(torn[:9]):
            raise StorageDamaged(f"{path} is not a recording")
        return None, ()
    if parsed[0].get("format") != _LINES:
        raise StorageDamaged(f"{path} is not a recording in the format {_LINES!r}")
    pending: dict[int, Operation] = {}
    ended: list[Operation] = []
    numbers: set[int] = set()
    for number, row in enumerate(parsed[1:], 2):
        try:
            if "begin" in row:
                begun = row.pop("begin")
                pending[begun] = Operation(**row, outcome="unknown")
                if begun in numbers:
                    raise StorageDamaged(
                        f"line {number} of {path} begins operation {begun} again; was the recorder used after a fork?"
                    )
                numbers.add(begun)
            else:
                ended.append(
                    attrs.evolve(
                        pending.pop(row["end"]),
                        invoked=row["invoked"],
                        returned=row["returned"],
                        outcome="ok" if row["ok"] else "fail",
                        result=row.get("result"),
                    )
                )
        except (LookupError, TypeError, ValueError) as error:
            raise StorageDamaged(f"line {number} of {path} makes no sense ({error!r})") from error
    return parsed[0].get("machine"), (*ended, *pending.values())
