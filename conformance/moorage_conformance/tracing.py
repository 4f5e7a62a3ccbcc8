"""System calls of other processes, seen, made to fail, or made fatal by strace.

A `Trace` is attached to processes that run already, and counts from then on. So whatever they did to start is not
counted, and how often a call was made in one run tells where another run of the same writes can be cut off.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

from moorage_conformance.checking import SuiteError, Unjudged

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

WRITES = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate", "copy_file_range"),
    *("sendto", "sendmsg", "sendmmsg", "sendfile", "recvfrom", "recvmsg"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("fsync", "fdatasync", "sync_file_range", "msync"),
)
"""By which a write reaches the disk or a server, or its answer comes back."""

SPACE_TAKEN = ("write", "writev", "pwrite64", "pwritev", "pwritev2", "fallocate", "copy_file_range", "sendfile")
"""Those that fail where the disk is full."""

_OPENS = ("open", "openat", "openat2")
_FLUSHES = ("fsync", "fdatasync", "syncfs", "sync", "msync", *_OPENS, *SPACE_TAKEN)
_ATTACH_SECONDS = 20.0
_STARTED = re.compile(r"^(?P<thread>\d+) +(?P<time>\d+\.\d+) (?P<name>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<thread>\d+) +(?P<time>\d+\.\d+) <\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_RESULT = re.compile(r"= (?P<result>-?\d+|0x[0-9a-f]+|\?).*?(?:<(?P<seconds>\d+\.\d+)>)?$")
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, -1


@attrs.frozen(kw_only=True)
class Call:
    """One system call.

    Attributes:
        process: the id of the thread that made it.
        name: of the call.
        number: how many of this name the thread had made, this one included, since the trace was attached.
        arguments: as strace shows them.
        result: what it returned; None where it never did.
        began: when, on the wall clock.
        ended: when, on the wall clock; None where it never did.
    """

    process: int
    name: str
    number: int
    arguments: str
    result: int | None
    began: float
    ended: float | None

    @property
    def descriptor(self) -> int | None:
        """The file descriptor that is its first argument, if one is."""
        found = re.match(r"\d+", self.arguments)
        return int(found[0]) if found else None

    @property
    def is_report(self) -> bool:
        """Whether a worker made it to tell its check something."""
        return self.name in ("write", "writev") and self.descriptor in (1, 2)


def allow() -> None:
    """Let any process of this user trace the calling one, where the kernel (its Yama module) asks for that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)


class Trace:
    """Follows processes, their threads and their children while the ``with`` block lasts.

    Args:
        processes: their ids.
        output: the file that strace writes.
        calls: the names of the system calls; those that this machine does not have are left out.
        inject: what happens to which of them: by name as in strace's option ``inject``, such as
            ``signal=KILL:when=3``. Strace counts for each thread and each name.

    Raises:
        Unjudged: there is no strace, or it may not trace them.
    """

    def __init__(
        self, processes: Sequence[int], output: Path, calls: Sequence[str], inject: Mapping[str, str] | None = None
    ) -> None:
        program = shutil.which("strace") if sys.platform == "linux" else None
        if program is None:
            raise Unjudged("this needs strace: install strace (Linux only)")
        names = ",".join(f"?{name}" for name in calls)
        command = [
            program,
            "-f",
            "-ttt",
            "-T",
            "-s",
            "0",
            "-o",
            str(output),
            "-e",
            f"trace={names}",
            "-e",
            "signal=none",
        ]
        for name, what in (inject or {}).items():
            command += ["-e", f"inject=?{name}:{what}"]
        for process in processes:
            command += ["-p", str(process)]
        self._processes = processes
        self._output = output
        self._command = command
        self._told = output.with_suffix(".messages")
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._output.write_text("")
        with self._told.open("wb") as told:
            self._running = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        deadline = time.monotonic() + _ATTACH_SECONDS
        while True:
            said = self._told.read_text(errors="replace")
            # All its threads are stopped when this is said, and go on under strace.
            if all(f"Process {process} attached" in said for process in self._processes):
                return self
            if self._running.poll() is not None or time.monotonic() > deadline:
                self.detach()
                why = (said.strip().splitlines() or ["it says nothing"])[-1]
                raise Unjudged(
                    f"strace may not trace: {why} (kernel.yama.ptrace_scope=0, root, or a container with SYS_PTRACE)"
                )
            time.sleep(0.005)

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Let the processes go on alone."""
        if self._running is not None:
            self._running.terminate()
            try:
                self._running.wait(_ATTACH_SECONDS)
            except subprocess.TimeoutExpired:
                self._running.kill()
                self._running.wait()

    def calls(self) -> list[Call]:
        """What was called, in order."""
        found: list[Call] = []
        numbers: dict[tuple[int, str], int] = {}
        waiting: dict[int, int] = {}
        for line in self._output.read_text(errors="replace").splitlines():
            if started := _STARTED.match(line):
                thread, name, rest = int(started["thread"]), started["name"], started["rest"]
                numbers[thread, name] = number = numbers.get((thread, name), 0) + 1
                call = Call(
                    process=thread,
                    name=name,
                    number=number,
                    arguments=rest.partition(" <unfinished")[0],
                    result=None,
                    began=float(started["time"]),
                    ended=None,
                )
                if rest.endswith("<unfinished ...>"):
                    waiting[thread] = len(found)
                    found.append(call)
                else:
                    found.append(_ended(call, rest))
            elif resumed := _RESUMED.match(line):
                place = waiting.pop(int(resumed["thread"]), None)
                if place is not None:
                    found[place] = _ended(found[place], resumed["rest"])
        return found


def _ended(call: Call, rest: str) -> Call:
    result = _RESULT.search(rest)
    if result is None or result["result"] == "?":
        return call
    ended = None if result["seconds"] is None else call.began + float(result["seconds"])
    return attrs.evolve(call, result=int(result["result"], 0), ended=ended)


def cuts(calls: Sequence[Call], most: int, chance: random.Random) -> list[tuple[str, int]]:
    """Places at which such a run can be cut off: the names of calls, and their numbers.

    Two thirds are calls that follow one of another name, or a report: there ends what belongs together. The others are
    any calls. Both are spread evenly.

    Args:
        calls: of a whole run.
        most: how many places; all of them, where there are fewer.
        chance: decides which, where there are more.
    """
    turns: dict[tuple[str, int], None] = {}
    others: dict[tuple[str, int], None] = {}
    before = ""
    for call in calls:
        if not call.is_report:
            (others if call.name == before else turns)[call.name, call.number] = None
        before = "" if call.is_report else call.name
    further = [one for one in others if one not in turns]
    chosen = _spread(list(turns), max(most * 2 // 3, most - len(further)), chance)
    return chosen + _spread(further, most - len(chosen), chance)


def _spread(places: Sequence[tuple[str, int]], most: int, chance: random.Random) -> list[tuple[str, int]]:
    count, first = min(most, len(places)), chance.random()
    return [places[int((number + first) * len(places) / count)] for number in range(count)]


# Flushes


def synchronous_files(process: int) -> set[int]:
    """The descriptors that are open so that each write to them is a flush."""
    found: set[int] = set()
    try:
        entries = list(Path(f"/proc/{process}/fdinfo").iterdir())
    except OSError as error:
        raise SuiteError(f"the open files of process {process} cannot be listed: {error}") from error
    for entry in entries:
        try:
            flags = re.search(r"^flags:\s+([0-7]+)$", entry.read_text(), re.MULTILINE)
        except OSError:  # closed meanwhile
            continue
        if flags and int(flags[1], 8) & os.O_DSYNC:
            found.add(int(entry.name))
    return found


def flush_trace(processes: Sequence[int], output: Path) -> Trace:
    """A trace of what `flushes` reads."""
    return Trace(processes, output, _FLUSHES)


def flushes(calls: Sequence[Call], synchronous: Mapping[int, set[int]]) -> list[Call]:
    """The calls after which data was on stable storage: flushes, and writes to files that were opened for that.

    Args:
        calls: of a `flush_trace`.
        synchronous: by the id of a process, the descriptors that were open so before.
    """
    opened: set[tuple[int, int | None]] = {
        (process, one) for process, all_of_it in synchronous.items() for one in all_of_it
    }
    groups = {thread: _process_of(thread) for thread in {call.process for call in calls}}
    found: list[Call] = []
    for call in calls:
        if call.result is None or call.result < 0 or call.ended is None:
            continue
        if call.name in _OPENS:
            file = (groups[call.process], call.result)
            if "SYNC" in call.arguments:
                opened.add(file)
            else:
                opened.discard(file)
        elif call.name in SPACE_TAKEN:
            if (groups[call.process], call.descriptor) in opened or re.search(r"RWF_D?SYNC", call.arguments):
                found.append(call)
        elif call.name != "msync" or "MS_SYNC" in call.arguments:
            found.append(call)
    return found


def _process_of(thread: int) -> int:
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:  # it has ended
        return thread
    found = re.search(r"^Tgid:\s+(\d+)$", status, re.MULTILINE)
    return int(found[1]) if found else thread
