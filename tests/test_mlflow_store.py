"""MLflow's store in this process: made whole or not at all, on full disks, damaged, and across forks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

import pytest

import moorage
from doubles import forked_while_threads_write
from moorage.driver import Document
from moorage.errors import ConfigurationError, StorageDamaged, StorageError, StorageFull, Unavailable
from moorage.plugins import plugins
from moorage.schema import RESOURCES, SCHEMA
from moorage.url import StorageURL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moorage.driver import Driver

pytest.importorskip("mlflow.store", reason="MLflow is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


def connect(path: Path, *, read_only: bool = False) -> Driver:
    url = StorageURL.parse(f"mlflow+sqlite:///{path}?settle=0")
    driver = plugins().backend(url.scheme).connect(url, {}, read_only=read_only)
    driver.setup(SCHEMA)
    return driver


def resource(name: str, **body: int) -> Document:
    return Document(name, {"name": name, **body})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mlflow.db"


@pytest.fixture
def driver(path: Path) -> Iterator[Driver]:
    with closing(connect(path)) as opened:
        yield opened


# The first use


def test_a_fresh_store_is_one_file(driver: Driver, path: Path) -> None:
    del driver
    assert {one.name for one in path.parent.iterdir()} <= {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm"}


def test_a_first_use_that_was_cut_short_leaves_no_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    def cut_short(engine: object) -> NoReturn:
        raise OSError(errno.EIO, "the machine stops here")

    with monkeypatch.context() as patched:
        patched.setattr(utils, "_upgrade_db", cut_short)
        with pytest.raises(Unavailable, match="the machine stops here"):
            connect(path)
    assert not path.exists()
    with closing(connect(path)) as driver:
        assert driver.find(RESOURCES) == []


def test_what_a_killed_first_use_has_left_is_swept_up(path: Path) -> None:
    for kind in ("", "-journal", "-wal", "-shm"):
        path.with_name(f"mlflow.db.first-use.db{kind}").write_bytes(b"half a table")
    connect(path).close()
    assert [one.name for one in path.parent.glob("*first-use*")] == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EEXIST])
def test_where_the_disk_knows_no_links_the_tables_are_made_in_place(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with closing(connect(path)) as driver:
        assert driver.insert(RESOURCES, [resource("a")]) == []
    assert [one.name for one in path.parent.glob("*first-use*")] == []


def test_a_file_without_content_becomes_a_store(path: Path) -> None:
    path.touch()
    with closing(connect(path)) as driver:
        assert driver.insert(RESOURCES, [resource("a")]) == []


def test_tables_of_others_in_the_file_stay(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs AS SELECT 1 AS one")
    connect(path).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT one FROM theirs").fetchall() == [(1,)]


def test_who_waits_in_vain_for_another_first_use_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr("moorage_mlflow.store._CREATION", 0.2)
    with path.with_name("mlflow.db.first-use").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"another process has been creating MLflow's tables for 0\.2 s"):
            connect(path)
    connect(path).close()


def test_a_full_disk_refuses_a_new_store_until_there_is_room(small_disk: Path) -> None:
    path = small_disk / "mlflow.db"
    filling = small_disk / "filling"
    filling.write_bytes(bytes(600_000))
    with pytest.raises(StorageFull):
        connect(path)
    assert not path.exists()
    filling.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    with closing(connect(path)) as driver:
        assert driver.insert(RESOURCES, [resource("a")]) == []


def test_what_is_no_store_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    def fail(_: float) -> NoReturn:
        raise AssertionError("MLflow tries it again")

    monkeypatch.setattr(utils, "time", SimpleNamespace(sleep=fail))
    (tmp_path / "text.db").write_text("not a database")
    (tmp_path / "folder.db").mkdir()
    for path in ("text.db", "folder.db", "no/such/folder/mlflow.db", f"{'x' * 300}.db"):
        with pytest.raises(StorageError if path == "text.db" else ConfigurationError):
            moorage.connect(f"mlflow+sqlite:///{tmp_path}/{path}")
    with pytest.raises(StorageDamaged):
        connect(tmp_path / "absent.db", read_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.db", "text.db"]
    assert (tmp_path / "text.db").read_text() == "not a database"


# Damage


def test_a_text_that_is_none_any_more_is_damage(driver: Driver, path: Path) -> None:
    driver.insert(RESOURCES, [resource("a")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE params SET value = CAST(X'7BFFFE' AS TEXT) WHERE value LIKE '%resources%'")
    with pytest.raises(StorageDamaged, match="Could not decode"):
        connect(path)


def test_a_file_that_was_refused_may_be_replaced_by_a_good_one(driver: Driver, path: Path) -> None:
    driver.insert(RESOURCES, [resource("a")])
    driver.close()
    kept = path.read_bytes()
    path.write_bytes(kept[:5000])
    with pytest.raises(StorageDamaged):
        connect(path)
    for one in path.parent.iterdir():
        one.unlink()
    path.write_bytes(kept)
    with closing(connect(path)) as again:
        assert [one.id for one in again.find(RESOURCES)] == ["a"]


# Forks


def test_a_fork_while_threads_write(driver: Driver) -> None:
    assert forked_while_threads_write(lambda name: driver.insert(RESOURCES, [resource(name)]), 5) == 5


def test_the_writes_of_a_child_survive_the_end_of_its_parent_s_connections(driver: Driver, path: Path) -> None:
    """A child that trusts the locks it inherited loses the log when the parent, believing to be the last, closes."""
    driver.insert(RESOURCES, [resource("a")])
    go, ready = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            driver.insert(RESOURCES, [resource("b")])
            ready.send(None)
            ready.recv()
            driver.insert(RESOURCES, [resource("c")])
            status = 0
        finally:
            os._exit(status)
    go.recv()
    driver.close()
    go.send(None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with closing(connect(path)) as again:
        assert {one.id for one in again.find(RESOURCES)} == {"a", "b", "c"}


def in_a_child(driver: Driver) -> int:
    """Fork a child that reads and inserts; what it exits with: 3 where the storage is out of its reach."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            driver.find(RESOURCES)
            status = 0 if driver.insert(RESOURCES, [resource("child")]) == [] else 2
        except Unavailable as error:
            status = 3 if "spawn" in str(error) else 4
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("is_patient", "expected"), [(True, 0), (False, 3)])
def test_a_fork_waits_for_the_calls_of_other_threads(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, *, is_patient: bool, expected: int
) -> None:
    from moorage_mlflow.driver import MLflowDriver
    from moorage_mlflow.store import StoreLink

    assert isinstance(driver, MLflowDriver)
    link = driver._link
    assert isinstance(link, StoreLink)
    begun, over = threading.Event(), threading.Event()

    def write(store: object) -> None:
        # As far as SQLite knows a write is under way.
        with link._store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE params SET value = value")
            begun.set()
            over.wait(0.5 if is_patient else 60)

    monkeypatch.setattr("moorage.forks.PATIENCE", 30 if is_patient else 0.1)
    thread = threading.Thread(target=link._call, args=(write,), kwargs={"writing": True})
    thread.start()
    begun.wait()
    try:
        assert in_a_child(driver) == expected
    finally:
        over.set()
        thread.join()
    assert driver.insert(RESOURCES, [resource("parent")]) == []
    found = {one.id for one in driver.find(RESOURCES)}
    assert found == ({"parent", "child"} if is_patient else {"parent"})
