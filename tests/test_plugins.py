"""Discovery of plugins, ours and strangers', sound and broken; and observers, who never break a write."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

import moorage
from moorage.plugins import Plugins, plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moorage import Event, Storage


class Observer:
    """Remembers what it is told, and fails where it should."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failing = False

    @moorage.hookimpl
    def moorage_event(self, event: Event) -> None:
        self.events.append(event)
        if self.failing:
            raise RuntimeError("an observer's own failure")

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


@pytest.fixture
def observer() -> Iterator[Observer]:
    watching = Observer()
    plugins().register(watching)
    yield watching
    plugins().unregister(watching)


def live(storage: Storage) -> None:
    experiment = storage.create_experiment(name="observed")
    storage.register_trial(experiment, {"x": 1.0})
    trial = storage.reserve_trial(experiment)
    assert trial is not None
    with storage.running(trial) as run:
        run.results(objective=1.0)
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state(1)
    with (
        pytest.raises(moorage.errors.LockLost),
        storage.acquire_algorithm_lock(experiment),
    ):
        storage.break_algorithm_lock(experiment)


def test_observers_are_told_in_order(observer: Observer) -> None:
    with moorage.connect("memory://") as storage:
        live(storage)
    assert observer.names() == [
        "ExperimentCreated",
        "TrialStatusChanged",
        "TrialStatusChanged",
        "TrialStatusChanged",
        "AlgorithmLockAcquired",
        "AlgorithmLockReleased",
        "AlgorithmLockAcquired",
        "AlgorithmLockLost",
    ]
    changes = [event for event in observer.events if isinstance(event, moorage.TrialStatusChanged)]
    assert [(one.before, one.after) for one in changes] == [
        (None, "new"),
        (None, "reserved"),
        ("reserved", "completed"),
    ]


def test_a_failing_observer_is_logged_and_breaks_nothing(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    observer.failing = True
    with caplog.at_level(logging.ERROR, "moorage"), moorage.connect("memory://") as storage:
        live(storage)
        experiment = storage.fetch_experiments()[0]
        assert storage.count_completed_trials(experiment) == 1
    assert len(observer.events) == 8
    assert "an observer's own failure" in caplog.text


def package(folder: Path, name: str, entry: str, code: str) -> None:
    """A distribution with an entry point, laid out as pip would."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[moorage]\n{name} = {entry}\n")


def run(folder: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_plugin_that_fails_to_import_is_reported_and_breaks_nothing_else(tmp_path: Path) -> None:
    package(tmp_path, "cracked", "cracked", "raise RuntimeError('split down the middle')\n")
    package(tmp_path, "missing_module", "there_is_no_such_module", "")
    code = """
        import moorage, moorage.plugins
        with moorage.connect("memory://") as storage:
            storage.create_experiment(name="fine")
        for broken in moorage.plugins.plugins().broken:
            print(broken.name, broken.reason)
    """
    printed = run(tmp_path, code)
    assert "cracked RuntimeError: split down the middle" in printed
    assert "missing_module ModuleNotFoundError" in printed


def test_a_strangers_backend_is_found_by_its_entry_point(tmp_path: Path) -> None:
    package(
        tmp_path,
        "stranger",
        "stranger",
        """
        from moorage import Backend, hookimpl

        def open_it(url, options, read_only):
            from moorage.memory import MemoryDriver
            assert options == {"colour": "blue"} and url.host == "somewhere"
            return MemoryDriver()

        @hookimpl
        def moorage_backends():
            from moorage import Option
            return [Backend(name="stranger", schemes=("strange",), description="of a stranger", open=open_it,
                            options=(Option(name="colour", default="red"),))]
        """,
    )
    code = """
        import moorage
        with moorage.connect("strange://somewhere?colour=blue") as storage:
            print(storage.create_experiment(name="far").name)
    """
    assert run(tmp_path, code).strip() == "far"


def test_a_backend_that_cannot_be_announced_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Confused:
        @moorage.hookimpl
        def moorage_backends(self) -> list[moorage.Backend]:
            raise KeyError("nothing here")

    found = Plugins()
    found.register(Confused(), "confused")
    assert found.backends == {}
    assert [(one.name, one.reason) for one in found.broken] == [("confused", "KeyError: 'nothing here'")]
