"""The worker processes of the demonstration: started, killed and stopped, and none left behind."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PATIENCE = 5.0
"""Seconds that a worker has to end its trial in good order, before it is killed."""

_LOOK = 0.5
_TAIL = 25


def end_with(parent: int) -> None:
    """End this process by SIGTERM when its parent has ended, however that came about."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        _thread.interrupt_main(signal.SIGTERM)
        time.sleep(_PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, name="moorage-demo-parent", daemon=True).start()


@attrs.define
class Worker:
    """A worker process.

    Attributes:
        name: as it reserves trials.
        process: of this worker.
        log: the file with all that it writes.
        killed: whether it was killed on purpose.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    killed: bool = False
    _read: int = 0

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it has said anything yet."""
        return self._read > 0

    @property
    def failed(self) -> bool:
        """Whether it has ended by itself, and not in good order."""
        return not self.killed and self.process.poll() not in (None, 0)

    def new_lines(self) -> list[str]:
        """What it has logged since this was last asked."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            text, newline, _ = file.read().rpartition(b"\n")
        self._read += len(text) + len(newline)
        return text.decode("utf-8", "replace").splitlines()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])


class Fleet:
    """Worker processes that end when the block is left, whatever ends it.

    Args:
        experiment: the id of the experiment that they work on.
        logs: the folder of their logs.
        environment: what is different in their environment. The storage is named there and not on the command line,
            which every user of the machine can read.
    """

    def __init__(self, experiment: str, logs: Path, environment: Mapping[str, str]) -> None:
        self._experiment = experiment
        self._logs = logs
        # One thread each: the workers are the parallelism here.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._environment = {**os.environ, **threads, **environment, "PYTHONUNBUFFERED": "1"}
        self.workers: list[Worker] = []

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> Worker:
        """Start one more worker."""
        name = str(len(self.workers) + 1)
        log = self._logs / f"worker-{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "moorage.demo.worker", self._experiment, name, str(os.getpid())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches the parent alone, which then stops its workers
            )
        worker = Worker(name, process, log)
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """End a worker at once (kill -9): it can neither tell anybody nor tidy up."""
        worker.killed = True
        worker.process.kill()
        worker.process.wait()

    def stop(self) -> None:
        """End all workers: asked first, so that their trials become interrupted; killed where that does not help."""
        deadline = time.monotonic() + _PATIENCE
        try:
            for worker in self.workers:
                if worker.alive:
                    worker.process.terminate()
            for worker in self.workers:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:  # a second Ctrl-C included
            for worker in self.workers:
                if worker.alive:
                    worker.process.kill()
                    worker.process.wait()
