"""Calls that a fork waits for."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from moorage import forks


def begin(calls: forks.Calls, until: threading.Event) -> tuple[threading.Thread, threading.Event]:
    """A thread in a call; the event says that the call has begun."""
    begun = threading.Event()

    def call() -> None:
        with calls.running():
            begun.set()
            until.wait()

    thread = threading.Thread(target=call)
    thread.start()
    return thread, begun


def test_a_fork_waits_for_calls_and_calls_for_the_end_of_the_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, over = forks.Calls(), threading.Event()
    first, begun = begin(calls, over)
    begun.wait()
    with monkeypatch.context() as patched:
        patched.setattr(forks, "PATIENCE", 0.01)
        assert not calls.hold()
    threading.Timer(0.05, over.set).start()
    assert calls.hold()
    first.join()
    second, begun = begin(calls, over)
    assert not begun.wait(0.1)
    calls.release()
    second.join()
    assert begun.is_set()


@pytest.mark.filterwarnings("ignore")
def test_a_child_forgets_the_calls_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE", 0.01)
    calls, over = forks.Calls(), threading.Event()
    thread, begun = begin(calls, over)
    begun.wait()
    calls.hold()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        status = 1
        try:
            calls.reset()
            with calls.running():
                pass
            status = 0 if calls.hold() else 2
        finally:
            os._exit(status)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
