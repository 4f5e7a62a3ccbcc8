"""What runs in a worker process: ``python -m moorage_conformance.worker``, with its job as JSON on the first line.

A role is a function of one argument, a `Job`. It says what it has seen, a JSON value a line, after the storage has
acknowledged it: so whatever stands in its output when it is killed must be stored.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import queue
import random
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage import Storage
    from moorage.driver import Driver
    from moorage.schema import Schema
    from moorage_conformance.histories import Recorder


class Job:
    """What a role is given.

    Attributes:
        url: of the storage.
        name: of this process.
        arguments: of the role.
        random: seeded by the run, the check and the name.
        recorder: of the history, where the check wants one.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.url: str = given["url"]
        self.name: str = given["name"]
        self.arguments: dict[str, Any] = given["arguments"]
        self.random = random.Random(given["seed"])
        self._recording: str | None = given["recording"]
        self._recorder: Recorder | None = None
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._say = threading.Lock()
        self.stopped = threading.Event()
        """Set when the check has said ``stop``."""

    @property
    def recorder(self) -> Recorder:
        """The recorder of this process."""
        if self._recorder is None:
            from moorage_conformance.histories import Recorder

            assert self._recording is not None, "the check did not ask for a recording"
            self._recorder = Recorder(self._recording, process=self.name)
        return self._recorder

    def driver(self, schema: Schema | None = None, *, url: str | None = None) -> Driver:
        """A driver of its own, set up with the schema of the driver's checks."""
        from moorage.config import find_settings, open_driver
        from moorage_conformance.target import ITEMS_SCHEMA

        return open_driver(find_settings(url or self.url), schema=schema or ITEMS_SCHEMA)[0]

    def storage(self, **options: float) -> Storage:
        """A storage of its own."""
        import moorage

        given: dict[str, Any] = dict(options)
        opened: Storage = moorage.connect(self.url, **given)
        return opened

    def say(self, value: object) -> None:
        """Tell the check something; it is in the kernel's hands when this returns."""
        line = (json.dumps(value) + "\n").encode()
        with self._say:
            os.write(1, line)

    def wait(self) -> str:
        """The next line from the check."""
        return self._heard.get()

    def ready(self) -> None:
        """Say that all is open, and wait for the word to begin."""
        self.say("ready")
        self.wait()

    def listen(self) -> None:
        """Hear the check; end when it is gone."""
        for line in sys.stdin:
            word = line.strip()
            if word == "stop":
                self.stopped.set()
            self._heard.put(word)
        os._exit(0)


def find(role: str) -> Callable[[Job], None]:
    """The function that ``module:name`` names."""
    module, _, name = role.partition(":")
    found: Callable[[Job], None] = getattr(importlib.import_module(module), name)
    return found


def main() -> None:
    """Do the job that stands on the first line of the standard input."""
    given = json.loads(sys.stdin.readline())
    shift = given["clock_shift"]
    if shift:
        import time_machine

        # Wall clocks only: what tells how long something lasted is left alone.
        target = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=shift)
        time_machine.travel(target, tick=True).start()
    job = Job(given)
    threading.Thread(target=job.listen, daemon=True, name="listener").start()
    status = 0
    try:
        from moorage_conformance.target import register

        register(given["plugins"])
        find(given["role"])(job)
    except BaseException as error:
        from moorage.url import mask

        told = mask(f"{type(error).__name__}: {error}")
        job.say({"worker_error": {"error": told, "traceback": mask(traceback.format_exc())}})
        status = 70
    sys.stdout.flush()
    # Without waiting for threads of a backend that was not closed, as after a crash.
    os._exit(status)


if __name__ == "__main__":
    main()
