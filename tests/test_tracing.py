"""The conformance suite's view of system calls: what it reads from strace, and what it makes of it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from moorage_conformance import tracing
from moorage_conformance.checking import Unjudged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# No machine has processes of these ids, which would be asked for the threads that they are.
TOLD = """\
9000070 10.000000 pwrite64(3, ""..., 24, 0) = 24 <0.000010>
9000071 10.000100 write(1, ""..., 8) = 8 <0.000010>
9000070 10.000200 fdatasync(3 <unfinished ...>
9000071 10.000300 pwrite64(5, ""..., 10, 8) = -1 ENOSPC (No space left on device) (INJECTED) <0.000010>
9000070 10.000900 <... fdatasync resumed>) = 0 <0.000600>
9000070 10.001000 pwrite64(3, ""..., 24, 24) = 24 <0.000010>
9000070 10.001100 fsync(4) = -1 EIO (Input/output error) <0.000010>
9000070 10.001200 openat(AT_FDCWD, ""..., O_RDWR|O_CREAT|O_DSYNC, 0666) = 9 <0.000010>
9000070 10.001300 pwrite64(9, ""..., 24, 24) = 24 <0.000010>
9000070 10.001400 pwrite64(9, ""..., 24, 24) = ?
9000070 10.001500 +++ killed by SIGKILL +++
"""
WRITER = """\
import os, sys
from moorage_conformance import tracing
tracing.allow()
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
sys.stdin.readline()
for number in range(3):
    try:
        os.pwrite(file, b"x", number)
        os.fsync(file)
    except OSError as error:
        print(error.errno, flush=True)
print("done", flush=True)
"""


def told(path: Path) -> tracing.Trace:
    path.write_text(TOLD)
    return tracing.Trace([9000070], path, ("write",))


@pytest.fixture
def trace(tmp_path: Path) -> tracing.Trace:
    if shutil.which("strace") is None:
        pytest.skip("the program strace was not found on PATH")
    return told(tmp_path / "trace")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to write three times."""
    if shutil.which("strace") is None:
        pytest.skip("the program strace was not found on PATH")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_calls_are_read_across_threads(trace: tracing.Trace) -> None:
    calls = trace.calls()
    assert [(one.process, one.name, one.number, one.result) for one in calls] == [
        (9000070, "pwrite64", 1, 24),
        (9000071, "write", 1, 8),
        (9000070, "fdatasync", 1, 0),
        (9000071, "pwrite64", 1, -1),
        (9000070, "pwrite64", 2, 24),
        (9000070, "fsync", 1, -1),
        (9000070, "openat", 1, 9),
        (9000070, "pwrite64", 3, 24),
        (9000070, "pwrite64", 4, None),
    ]
    assert calls[2].ended == pytest.approx(10.0008)
    assert calls[-1].ended is None


def test_a_run_can_be_cut_at_each_call_but_a_report(trace: tracing.Trace) -> None:
    calls = trace.calls()
    turns = [("pwrite64", 1), ("fdatasync", 1), ("pwrite64", 2), ("fsync", 1), ("openat", 1), ("pwrite64", 3)]
    assert tracing.cuts(calls, 100, random.Random(1)) == [*turns[:2], *turns[3:], ("pwrite64", 2), ("pwrite64", 4)]


@pytest.mark.parametrize("most", [2, 3, 5, 6])
def test_some_cuts_are_chosen(trace: tracing.Trace, most: int) -> None:
    calls = trace.calls()
    chosen = [tracing.cuts(calls, most, random.Random(seed)) for seed in range(50)]
    assert {len(one) for one in chosen} == {most}
    assert all(len(set(one)) == most for one in chosen)
    assert len({place for one in chosen for place in one}) == 7


def test_what_counts_as_a_flush(trace: tracing.Trace) -> None:
    calls = trace.calls()
    assert [(one.name, one.number) for one in tracing.flushes(calls, {})] == [("fdatasync", 1), ("pwrite64", 3)]
    assert [(one.name, one.number) for one in tracing.flushes(calls, {9000070: {3}})] == [
        *(("pwrite64", 1), ("fdatasync", 1), ("pwrite64", 2), ("pwrite64", 3)),
    ]


def test_files_that_are_opened_to_be_flushed_are_found(tmp_path: Path) -> None:
    plain = os.open(tmp_path / "plain", os.O_RDWR | os.O_CREAT)
    synchronous = os.open(tmp_path / "synchronous", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
    found = tracing.synchronous_files(os.getpid())
    os.close(plain)
    os.close(synchronous)
    assert synchronous in found
    assert plain not in found


def test_a_process_is_killed_at_the_call_that_is_named(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    inject = {"fsync": "signal=KILL:when=2"}
    with tracing.Trace([writer.pid], tmp_path / "trace", ("pwrite64", "fsync"), inject) as trace:
        said, _ = writer.communicate("go\n", timeout=60)
    assert writer.returncode == -9
    assert said == ""
    assert (tmp_path / "file").read_bytes() == b"xx"
    assert [(one.name, one.number) for one in trace.calls()][-1] == ("fsync", 2)


def test_calls_fail_from_the_one_that_is_named_on(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    inject = {"pwrite64": "error=ENOSPC:when=2+"}
    with tracing.Trace([writer.pid], tmp_path / "trace", tracing.SPACE_TAKEN, inject):
        said, _ = writer.communicate("go\n", timeout=60)
    assert said == "28\n28\ndone\n"
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_process_goes_on_alone_afterwards(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    with tracing.Trace([writer.pid], tmp_path / "trace", tracing.WRITES, {"pwrite64": "error=ENOSPC"}):
        pass
    said, _ = writer.communicate("go\n", timeout=60)
    assert said == "done\n"


def test_what_cannot_be_traced_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("strace") is not None:
        with pytest.raises(Unjudged, match="strace may not trace"):
            tracing.Trace([2**22 + 1], tmp_path / "trace", ("write",)).__enter__()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unjudged, match="install strace"):
        tracing.Trace([os.getpid()], tmp_path / "trace", ("write",))
