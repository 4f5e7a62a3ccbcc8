"""Storages that the release before wrote: refused with the command that upgrades them, upgraded, and read whole."""

from __future__ import annotations

import datetime
import gzip
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import moorage
from moorage import transfer
from moorage.config import find_settings, open_driver
from moorage.errors import SchemaMismatch
from moorage.schema import SCHEMA
from moorage_sql.driver import SQLDriver
from moorage_sql.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage import Storage

DATA = Path(__file__).resolve().parent / "data" / "release-0.1"
MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
SQL = ("sqlite", "postgresql", "mysql")


def content(name: str) -> bytes:
    return gzip.decompress((DATA / f"{name}.gz").read_bytes())


def restore(url: str, backend: str) -> None:
    """Put what the release before wrote where this URL is."""
    if backend == "sqlite":
        Path(find_settings(url).url.path[1:] if url.startswith("sqlite:////") else url).write_bytes(
            content("storage.db")
        )
        return
    driver = moorage.plugins.plugins().backend(find_settings(url).url.scheme).connect(find_settings(url).url, {})
    assert isinstance(driver, SQLDriver)
    link = driver._link()
    text = content(f"{backend}.sql").decode()
    if backend == "postgresql":
        text = text.replace("public.", "").replace("SELECT pg_catalog.set_config('search_path', '', false);", "")
        link.command(text)
    else:
        for statement in text.split(";\n"):
            if statement.strip():
                link.command(statement.replace("%", "%%") if "%" in statement else statement)
    driver.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moorage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def check(storage: Storage) -> None:
    """All that the release before stored, by today's verbs."""
    digits, empty = storage.fetch_experiments()
    assert (digits.id, digits.name, digits.version, digits.status) == ("digits", "digits", 1, "created")
    assert (digits.max_trials, digits.heartbeat_timeout, digits.created) == (50, 86400.0, MOMENT)
    assert (digits.max_attempts, digits.tags, digits.directions, digits.metadata) == (None, [], {}, {"note": "äöü"})
    assert (empty.id, empty.version) == ("empty", 2)
    trials = storage.fetch_trials(digits)
    assert [(one.id, one.number) for one in trials] == [("t0", 0), ("t1", 1), ("t2", 2), ("t3", 3), ("strange", 4)]
    assert [str(one.status) for one in trials] == ["completed", "completed", "broken", "reserved", "new"]
    assert [one.objective for one in trials] == [0.25, math.inf, None, None, None]
    assert trials[0].results == {"objective": 0.25, "accuracy": 0.9, "extra": (1, 2)}
    assert trials[0].params == {"lr": 0.1, "depth": 1}
    assert trials[4].params == {"~odd": 1, "x": (1, None, b"bytes"), "name": "é"}
    assert [one.metadata for one in trials] == [{}] * 5
    assert trials[2].error == "no reason"
    values = [one.value for one in storage.fetch_measurements(trials[0])]
    assert (values[0], math.isnan(values[1]), math.copysign(1, values[2])) == (0.5, True, -1.0)
    assert [(one.number, one.outcome, one.worker) for one in storage.fetch_attempts(trials[1])] == [
        (1, "interrupted", "worker-1"),
        (2, "completed", "worker-2"),
    ]
    assert [(one.name, one.holder, one.labels) for one in storage.fetch_resources()] == [
        ("gpu0", None, {"memory": 40}),
        ("gpu1", "worker-4", {}),
    ]
    assert [one.name for one in storage.fetch_benchmark()] == ["bench"]
    assert storage.get_algorithm_lock_info(digits).state == {"seed": 7, "seen": ["t0", "t1"]}
    assert storage.get_algorithm_lock_info(empty).state == "x" * 600_000
    best = storage.best_trial(digits)
    assert best is not None
    assert best.id == "t0"
    assert storage.count_trials(digits)["completed"] == 2


def use(storage: Storage) -> None:
    """What is stored goes on to be used."""
    added = storage.register_trial("digits", {"lr": 0.2})
    assert added.number == 5
    assert storage.register_trial("empty", {"lr": 0.2}).number == 0
    held = storage.get_trial("t3", "digits")
    storage.add_measurements(held, [{"name": "loss", "value": 1.0}])
    storage.push_trial_results(held, {"objective": 3}, status="completed")
    assert [(one.number, one.outcome) for one in storage.fetch_attempts(held)] == [(1, "completed")]
    reserved = storage.reserve_trial("digits")
    assert reserved is not None
    assert (reserved.id, reserved.token) == ("strange", 1)


@pytest.mark.parametrize("backend", SQL)
def test_a_storage_of_the_release_before_is_upgraded(backend: str, fresh_storage_url: Callable[[str], str]) -> None:
    url = fresh_storage_url(backend)
    restore(url, backend)
    for read_only in (False, True):
        with pytest.raises(SchemaMismatch, match=r"has schema version 1.*run `moorage upgrade") as refused:
            moorage.connect(url, read_only=read_only)
        assert (refused.value.stored, refused.value.supported) == (1, SCHEMA.version)
    told = run("upgrade", url)
    assert told.returncode == 0, told.stderr
    assert "from schema 1 to 2" in told.stdout
    assert "already current" in run("upgrade", url).stdout
    with moorage.connect(url, read_only=True) as view:
        check(view)  # type: ignore[arg-type]
    with moorage.connect(url) as storage:
        check(storage)
        use(storage)


@pytest.mark.parametrize("backend", SQL)
def test_an_upgrade_that_was_cut_short_is_finished(
    backend: str, fresh_storage_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    commands = 0
    monkeypatch.setattr(Link, "__del__", lambda self: None)
    for number in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        url = fresh_storage_url(backend)
        restore(url, backend)
        settings = find_settings(url)
        commands = 0
        with monkeypatch.context() as patched:
            for kind in type(driver_link(url)).__mro__[:-2]:
                if "command" in kind.__dict__ and kind is not Link:
                    patched.setattr(kind, "command", cut_short(kind.command, number, Killed))
            try:
                open_driver(settings, upgrade=True)[0].close()
            except Killed:
                commands += 1
        told = run("upgrade", url)
        assert told.returncode == 0, told.stderr
        with moorage.connect(url) as storage:
            check(storage)
            use(storage)
        if not commands:
            return


def driver_link(url: str) -> Link:
    place = find_settings(url).url
    driver = moorage.plugins.plugins().backend(place.scheme).connect(place, {})
    assert isinstance(driver, SQLDriver)
    link = driver._link()
    driver.close()
    return link


def cut_short(command: Callable[[Link, str], None], number: int, error: type[BaseException]) -> Callable[..., None]:
    left = number

    def counted(self: Link, sql: str) -> None:
        nonlocal left
        if sql.startswith(("ALTER", "CREATE", "DROP", "RENAME")):
            if left == 0:
                raise error
            left -= 1
        command(self, sql)

    return counted


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_two_may_upgrade_at_once(backend: str, fresh_storage_url: Callable[[str], str]) -> None:
    url = fresh_storage_url(backend)
    restore(url, backend)
    command = [sys.executable, "-m", "moorage", "upgrade", url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    with moorage.connect(url) as storage:
        check(storage)
        use(storage)


def test_a_dump_of_the_release_before_is_loaded(storage: Storage) -> None:
    dump = content("storage.jsonl")
    loaded = transfer.load(storage, io.BytesIO(dump))
    assert (loaded.documents, loaded.conflicting) == (21, 0)
    check(storage)
    again = transfer.load(storage, io.BytesIO(dump))
    assert (again.documents, again.present, again.conflicting) == (0, 21, 0)
    use(storage)
