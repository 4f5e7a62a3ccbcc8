"""SQLite: what it costs, how it shares a file, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from interrupting import at_every_line
from moorage.driver import Capability, Document, Increment
from moorage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.filters import Comparison, Order, equal
from moorage.schema import SCHEMA as MOORAGE_SCHEMA
from moorage.schema import TRIALS
from moorage_sql.sqlite import SQLiteDriver, SQLiteLink, file_system
from test_sql_driver import SCHEMA, THINGS, connect, everything, full, thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def open_driver(path: Path, **options: object) -> SQLiteDriver:
    driver = connect(f"sqlite:///{path}", **options)
    assert isinstance(driver, SQLiteDriver)
    return driver


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hpo.db"


@pytest.fixture
def driver(path: Path) -> Iterator[SQLiteDriver]:
    opened = open_driver(path)
    opened.setup(SCHEMA)
    yield opened
    opened.close()


def connection_of(driver: SQLiteDriver) -> sqlite3.Connection:
    link = driver.links()[0]
    assert isinstance(link, SQLiteLink)
    link.open()
    connection = link._connection
    assert connection is not None
    return connection


def traced(driver: SQLiteDriver) -> list[str]:
    statements: list[str] = []
    connection_of(driver).set_trace_callback(lambda text: statements.append(" ".join(text.split())))
    return statements


# What it costs


def test_a_get_is_one_select(driver: SQLiteDriver) -> None:
    driver.insert(THINGS, [thing("a")])
    statements = traced(driver)
    driver.get(THINGS, "a")
    assert [one.split()[0] for one in statements] == ["SELECT"]


@pytest.mark.parametrize("call", ["claim", "patch", "swap", "insert", "delete"])
def test_a_write_is_one_statement_in_one_transaction(driver: SQLiteDriver, call: str) -> None:
    driver.insert(THINGS, [thing("a", open=True, rank=1)])
    calls = {
        "claim": lambda: driver.claim(THINGS, equal(open=True), {"rank": Increment()}, [Order("rank")]),
        "patch": lambda: driver.patch(THINGS, equal(open=True), {"rank": 2}),
        "swap": lambda: driver.swap(THINGS, thing("a"), 1),
        "insert": lambda: driver.insert(THINGS, [thing("b")]),
        "delete": lambda: driver.delete(THINGS, equal(id="a")),
    }
    statements = traced(driver)
    calls[call]()
    statements = list(dict.fromkeys(statements))  # One that fires triggers is traced again for each.
    assert statements[0] == "BEGIN IMMEDIATE"
    assert statements[-1] == "COMMIT"
    verb = {"insert": "INSERT", "delete": "DELETE"}.get(call, "UPDATE")
    assert [one.split()[0] for one in statements[1:-1]] == [verb]


def test_setup_of_a_complete_storage_is_one_select(driver: SQLiteDriver) -> None:
    statements = traced(driver)
    driver.setup(SCHEMA)
    assert [one.split()[0] for one in statements] == ["SELECT"]


def test_many_documents_are_one_transaction(driver: SQLiteDriver) -> None:
    statements = traced(driver)
    driver.insert(THINGS, [thing(f"{place}") for place in range(500)])
    assert [one for one in statements if "BEGIN" in one or "COMMIT" in one] == ["BEGIN IMMEDIATE", "COMMIT"]


def test_a_count_by_tally_reads_no_documents(driver: SQLiteDriver) -> None:
    statements = traced(driver)
    driver.count(THINGS, equal(group="g", state="s"))
    driver.count(THINGS, equal(group="g"))
    assert "FROM things " not in statements[0]
    plans = connection_of(driver).execute(f"EXPLAIN QUERY PLAN {statements[1]}").fetchall()
    assert not [plan for plan in plans if "SCAN things" in plan[3] and "INDEX" not in plan[3]]


def test_the_claim_of_a_trial_uses_the_index_and_sorts_nothing(tmp_path: Path) -> None:
    driver = open_driver(tmp_path / "trials.db")
    driver.setup(MOORAGE_SCHEMA)
    driver.insert(TRIALS, [thing(f"{place}", experiment="e", pending=True, sequence=place) for place in range(5)])
    statements = traced(driver)
    where = equal(experiment="e", pending=True)
    claimed = driver.claim(TRIALS, where, {"pending": False, "status": "reserved"}, [Order("sequence")])
    assert claimed is not None
    assert claimed.id == "0"
    update = next(one for one in statements if one.startswith("UPDATE"))
    steps = [step[3] for step in connection_of(driver).execute(f"EXPLAIN QUERY PLAN {update}")]
    assert any(
        "INDEX moorage_ix_trials_experiment_pending_sequence (experiment=? AND pending=?)" in step for step in steps
    )
    assert not any("SCAN" in step or "TEMP B-TREE" in step for step in steps)
    driver.close()


def test_connecting_imports_no_orm_and_announcing_nothing_of_sqlalchemy(driver: SQLiteDriver, path: Path) -> None:
    code = (
        "import sys; import moorage_sql.plugin as p; p.moorage_backends(); "
        "assert 'sqlalchemy' not in sys.modules; "
        "from test_sql_driver import connect, SCHEMA, THINGS; "
        f"d = connect('sqlite:///{path}'); d.setup(SCHEMA); "
        "assert 'sqlalchemy' not in sys.modules; "
        "d.count(THINGS); assert 'sqlalchemy.orm' not in sys.modules; d.close()"
    )
    folder = os.path.dirname(__file__)  # noqa: PTH120
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": folder}, timeout=60)


def test_the_log_does_not_grow_without_bound(driver: SQLiteDriver, path: Path) -> None:
    driver.insert(THINGS, [thing("a")])
    for place in range(3000):
        driver.patch(THINGS, equal(id="a"), {"title": f"{place}" * 200})
    assert os.stat(f"{path}-wal").st_size < 16 * 2**20  # noqa: PTH116


# Options and URLs


@pytest.mark.parametrize(("option", "level"), [("full", 2), ("fast", 1)])
def test_durability(path: Path, option: str, level: int) -> None:
    driver = open_driver(path, durability=option)
    connection = connection_of(driver)
    assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (Capability.DURABLE in driver.capabilities) == (option == "full")
    driver.close()


def test_each_thread_has_the_durability_asked_for(driver: SQLiteDriver) -> None:
    levels = []

    def look() -> None:
        driver.count(THINGS)
        levels.append([link.read("PRAGMA synchronous") for link in driver.links()])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert levels == [[[(2,)], [(2,)]]]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "no file"),
        ("sqlite:///", "no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://host/x.db", "host"),
        ("sqlite:///missing/folder/x.db", "folder.*missing"),
        ("sqlite:///.", "is a folder"),
        ("sqlite:///x.db?durability=half", "durability"),
        ("sqlite:///x.db?durabilty=full", "Did you mean 'durability'"),
        ("sqlite:///x.db?busy_timeout=-1", "busy_timeout"),
    ],
)
def test_a_wrong_url_is_explained(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        connect(url)


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = connect("sqlite:///here #1?.db".replace("?", "%3F").replace("#", "%23"))
    driver.setup(SCHEMA)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    thread = threading.Thread(target=lambda: driver.insert(THINGS, [thing("a")]))
    thread.start()
    thread.join()
    assert driver.get(THINGS, "a") is not None
    assert (tmp_path / "here #1?.db").is_file()
    driver.close()


def test_a_file_system_of_the_network_is_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/root rw\n"
        "23 22 0:21 / /home rw,relatime shared:1 - nfs4 server:/home rw\n"
        "24 23 0:22 / /home/my\\040disk rw - xfs /dev/sdb rw\n"
    )
    assert file_system("/var/x.db", str(table)) == "ext4"
    assert file_system("/homely/x.db", str(table)) == "ext4"
    assert file_system("/home/me/x.db", str(table)) == "nfs4"
    assert file_system("/home/my disk/x.db", str(table)) == "xfs"
    assert file_system("/x", str(tmp_path / "missing")) is None
    monkeypatch.setattr("moorage_sql.sqlite.file_system", lambda _: "nfs4")
    with pytest.raises(ConfigurationError, match=r"nfs4.*network=true"):
        open_driver(path)
    assert not path.exists()
    driver = open_driver(path, network=True)
    driver.setup(SCHEMA)
    assert driver.insert(THINGS, [thing("a"), thing("b")]) == []
    assert connection_of(driver).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert Capability.SERVER_CLOCK not in driver.capabilities
    driver.close()


# What is not a storage


def test_a_text_file_is_not_a_database(path: Path) -> None:
    path.write_text("learning_rate,loss\n" * 100)
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StorageDamaged, match="is not an SQLite database"):
            connect(f"sqlite:///{path}", read_only=read_only).setup(SCHEMA)
    assert path.read_bytes() == before


def test_a_damaged_file_is_reported(driver: SQLiteDriver, path: Path) -> None:
    driver.insert(THINGS, [thing(f"{place}", title="x" * 500) for place in range(200)])
    driver.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    again = open_driver(path)
    with pytest.raises(StorageDamaged):  # noqa: PT012
        again.setup(SCHEMA)
        again.find(THINGS)
    again.close()


def test_other_tables_may_be_beside_but_not_in_the_way(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE customers (name)")
    driver = open_driver(path)
    driver.setup(SCHEMA)
    driver.close()
    with sqlite3.connect(path) as other:
        other.executescript("DROP TABLE moorage_schema")
    other.close()
    driver = open_driver(path)
    with pytest.raises(StorageDamaged, match=r"'moorage_things'.*not a Moorage storage"):
        driver.setup(SCHEMA)
    driver.close()


def test_an_empty_file_becomes_a_storage_but_not_read_only(path: Path) -> None:
    path.touch()
    viewer = connect(f"sqlite:///{path}", read_only=True)
    with pytest.raises(StorageDamaged, match="open it once for writing"):
        viewer.setup(SCHEMA)
    viewer.close()
    assert path.stat().st_size == 0
    driver = open_driver(path)
    driver.setup(SCHEMA)
    driver.close()


def test_read_only_creates_no_file(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no file"):
        connect(f"sqlite:///{path}", read_only=True)
    assert not path.exists()


def test_a_storage_that_was_never_set_up(path: Path) -> None:
    driver = open_driver(path)
    with pytest.raises(StorageDamaged, match="no such table"):
        driver.get(THINGS, "a")
    driver.close()


# Disks


def in_a_process(code: str, path: Path, *, as_nobody: bool = False) -> str:
    """Run code that prints; without the privileges of root where asked for."""
    drop = BECOME_NOBODY if as_nobody else ""
    folder = os.path.dirname(__file__)  # noqa: PTH120
    found = subprocess.run(
        [sys.executable, "-c", f"{drop}path = {str(path)!r}\n{code}"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
        cwd="/",
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


# All is imported before, because nobody may not be allowed to read it.
BECOME_NOBODY = """
import os, tempfile
from test_sql_driver import connect, SCHEMA, THINGS, thing
with tempfile.TemporaryDirectory() as folder:
    driver = connect(f"sqlite:///{folder}/x.db")
    driver.setup(SCHEMA)
    driver.insert(THINGS, [thing("a")])
    driver.close()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
OPEN_AND_WRITE = """
from test_sql_driver import connect, SCHEMA, THINGS, thing
try:
    driver = connect(f"sqlite:///{path}")
    driver.setup(SCHEMA)
    driver.insert(THINGS, [thing("a")])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs to be root, to become somebody else")
@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_or_file_without_permission(path: Path, exists: bool) -> None:
    for parent in path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    if exists:
        driver = open_driver(path)
        driver.setup(SCHEMA)
        driver.close()
    said = in_a_process(OPEN_AND_WRITE, path, as_nobody=True)
    assert said.startswith("StorageReadOnly")
    assert "may not write" in said
    assert str(path.parent) in said


def test_a_file_that_may_only_be_read(driver: SQLiteDriver, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.insert(THINGS, [thing("a")])
    driver.close()
    monkeypatch.setattr(SQLiteDriver, "prepare", lambda self, connection: connection.execute("PRAGMA query_only = 1"))
    reader = open_driver(path)
    with pytest.raises(StorageReadOnly):
        reader.insert(THINGS, [thing("b")])
    assert reader.get(THINGS, "a") is not None
    reader.close()


FILL = """
import resource, signal
from test_sql_driver import connect, SCHEMA, THINGS, thing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
driver = connect(f"sqlite:///{path}")
driver.setup(SCHEMA)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
done = 0
try:
    for place in range(1000):
        driver.insert(THINGS, [thing(f"{place}", title="x" * 5000, group="g", state="s")])
        done += 1
except Exception as error:
    print(type(error).__name__)
print(done)
print(len(driver.find(THINGS)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
driver.insert(THINGS, [thing("after", group="g", state="s")])
print(driver.count(THINGS, (*__import__("moorage.filters").filters.equal(group="g"),)))
"""


def test_a_file_that_cannot_grow(path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    error, done, found, after = in_a_process(FILL, path).split()
    assert error in (OutcomeUnknown.__name__, StorageFull.__name__)
    assert 0 < int(done) < 1000
    assert int(found) == int(done)
    assert int(after) == int(done) + 1
    driver = open_driver(path)
    driver.setup(SCHEMA)
    assert len(everything(driver)) == int(after)
    driver.close()


def test_a_full_disk(small_disk: Path) -> None:
    driver = open_driver(small_disk / "hpo.db")
    driver.setup(SCHEMA)
    done = 0
    with pytest.raises(StorageFull, match="full"):  # noqa: PT012
        for place in range(1000):
            driver.insert(THINGS, [thing(f"{place}", title="x" * 5000)])
            done += 1
    assert done > 0
    assert len(everything(driver)) == done
    with pytest.raises(StorageFull), driver.transaction():
        driver.insert(THINGS, [thing("big", title="x" * 2_000_000)])
    assert len(everything(driver)) == done
    driver.close()


# Sharing


def test_whoever_holds_the_lock_too_long_is_reported(driver: SQLiteDriver, path: Path) -> None:
    other = open_driver(path, busy_timeout=0.2)
    with driver.transaction():
        driver.insert(THINGS, [thing("a")])
        with pytest.raises(Unavailable, match=r"held the write lock for 0\.2 s"):
            other.insert(THINGS, [thing("b")])
        assert other.find(THINGS) == []
    assert other.insert(THINGS, [thing("b")]) == []
    other.close()


@pytest.mark.parametrize("obstacle", ["folder", "held", "gone"])
def test_the_gate_is_not_needed(driver: SQLiteDriver, path: Path, obstacle: str) -> None:
    gate = path.with_name(f"{path.name}-gate")
    holder = None
    if obstacle == "folder":
        gate.mkdir()
    elif obstacle == "held":
        import fcntl

        holder = gate.open("w")
        fcntl.flock(holder, fcntl.LOCK_EX)
    other = open_driver(path, busy_timeout=1.0 if obstacle == "held" else 30.0)
    released = threading.Event()

    def hold() -> None:
        with driver.transaction():
            driver.insert(THINGS, [thing("a")])
            released.set()
            time.sleep(0.05)

    thread = threading.Thread(target=hold)
    thread.start()
    assert released.wait(30)
    assert other.insert(THINGS, [thing("b")]) == []
    thread.join()
    assert sorted(everything(driver)) == ["a", "b"]
    other.close()
    if holder is not None:
        holder.close()


def test_a_transaction_that_the_database_gave_up_is_not_continued(driver: SQLiteDriver) -> None:
    driver.insert(THINGS, [thing("a")])
    with pytest.raises(Unavailable, match="undone"), driver.transaction():  # noqa: PT012
        driver.insert(THINGS, [thing("b")])
        connection_of(driver).set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
        with pytest.raises(Exception, match=r"not authorized|denied|prohibited"):
            driver.insert(THINGS, [thing("c"), thing("c2")])
        connection_of(driver).set_authorizer(None)
        with pytest.raises(Unavailable, match="cannot go on"):
            driver.insert(THINGS, [thing("d")])
    assert sorted(everything(driver)) == ["a"]


def test_a_fork_inside_a_transaction_leaves_the_child_without_the_file(driver: SQLiteDriver, path: Path) -> None:
    with driver.transaction():
        driver.insert(THINGS, [thing("a")])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                try:
                    driver.get(THINGS, "a")
                except Unavailable as error:
                    try:
                        open_driver(path)
                    except Unavailable:
                        status = 0 if "spawn" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert driver.get(THINGS, "a") is not None


def test_the_writes_of_a_child_survive_the_end_of_its_parent_s_connections(driver: SQLiteDriver, path: Path) -> None:
    """A child that trusts the locks it inherited loses the log when the parent, believing to be the last, closes."""
    driver.insert(THINGS, [thing("a")])
    go, ready = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            driver.insert(THINGS, [thing("b")])
            ready.send("written")
            ready.recv()
            driver.insert(THINGS, [thing("c")])
            status = 0
        finally:
            os._exit(status)
    assert go.recv() == "written"
    driver.close()
    first = open_driver(path)
    assert sorted(everything(first)) == ["a", "b"]
    first.insert(THINGS, [thing("d")])
    first.close()
    go.send("on")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = open_driver(path)
    assert sorted(everything(again)) == ["a", "b", "c", "d"]
    again.close()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "log deleted"])
def test_nothing_is_acknowledged_into_a_file_that_was_taken_away(path: Path, how: str) -> None:
    driver = open_driver(path)
    driver.setup(SCHEMA)
    driver.insert(THINGS, [thing("a")])
    if how == "replaced":
        open_driver(path.with_name("new.db")).close()
        path.with_name("new.db").rename(path)
    elif how == "moved":
        path.rename(path.with_name("elsewhere.db"))
    else:
        Path(f"{path}-wal" if how == "log deleted" else path).unlink()
    calls: list[Callable[[], object]] = [
        lambda: driver.insert(THINGS, [thing("b")]),
        lambda: driver.insert(THINGS, [thing("c"), thing("d")]),
        lambda: driver.patch(THINGS, (), {"rank": 1}),
        lambda: driver.claim(THINGS, (), {"rank": 2}),
        lambda: driver.delete(THINGS, ()),
        lambda: driver.get(THINGS, "a"),
        lambda: driver.find(THINGS),
        lambda: driver.count(THINGS),
    ]
    for call in [*calls, *calls]:  # the first error is not the last
        with pytest.raises(StorageDamaged, match="deleted or replaced"):
            call()
    with pytest.raises(StorageDamaged), driver.transaction():
        driver.insert(THINGS, [thing("e")])
    driver.close()


PRIMITIVES: dict[str, Callable[[SQLiteDriver], object]] = {
    "insert": lambda driver: driver.insert(THINGS, [thing("n")]),
    "insert many": lambda driver: driver.insert(THINGS, [thing("n"), thing("m"), thing("a")]),
    "find": lambda driver: driver.find(THINGS, equal(title="x"), [Order("rank")], 2),
    "find along a path": lambda driver: driver.find(THINGS, (Comparison("details.x", "=", 1),)),
    "get": lambda driver: driver.get(THINGS, "a"),
    "count": lambda driver: driver.count(THINGS, equal(title="x")),
    "tally": lambda driver: driver.tally(THINGS, (), "title"),
    "swap": lambda driver: driver.swap(THINGS, thing("a", rank=5), driver.get(THINGS, "a").revision),
    "patch": lambda driver: driver.patch(THINGS, equal(id="a"), {"rank": 7}),
    "claim": lambda driver: driver.claim(THINGS, equal(id="a"), {"rank": 8}, [Order("rank")]),
    "delete": lambda driver: driver.delete(THINGS, equal(id="zzz")),
    "setup": lambda driver: driver.setup(SCHEMA),
    "break a unique key": lambda driver: break_a_unique_key(driver),
    "transaction": lambda driver: in_transaction(driver),
}
TAKEN = {"title_key": "t", "rank_key": 1}


def break_a_unique_key(driver: SQLiteDriver) -> None:
    with contextlib.suppress(UniqueViolation):
        driver.patch(THINGS, equal(id="b"), TAKEN)


def in_transaction(driver: SQLiteDriver) -> None:
    with driver.transaction():
        driver.patch(THINGS, equal(id="a"), {"rank": 1})
        with contextlib.suppress(ZeroDivisionError), driver.transaction():
            driver.patch(THINGS, equal(id="b"), {"rank": 1})
            raise ZeroDivisionError
        driver.insert(THINGS, [thing("n")])


@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("busy", [False, True])
def test_an_interruption_at_any_line_leaves_nothing_held(path: Path, primitive: str, *, busy: bool) -> None:
    """Others write at once, and this process too; nothing half done is seen."""
    driver = open_driver(path)
    driver.setup(SCHEMA)
    driver.insert(THINGS, [thing("a", title_key="t", rank_key=1), thing("b")])
    call = PRIMITIVES[primitive]
    other = sqlite3.connect(path, timeout=0, isolation_level=None)

    def interrupted() -> None:
        if busy:  # the way through the gate
            link = cast("SQLiteLink", driver._link())
            execute = link._execute
            failures = iter([True])

            def refuse_once(sql: str, *arguments: object) -> object:
                if sql.startswith("BEGIN") and next(failures, False):
                    raise busy_error()
                return execute(sql, *arguments)

            link._execute = refuse_once
            try:
                call(driver)
            finally:
                link._execute = execute
        else:
            call(driver)

    positions = []
    for position in at_every_line(interrupted, "moorage_sql"):
        positions.append(position)
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM moorage_things WHERE id IN ('n', 'm')")
        other.execute("COMMIT")
        assert driver._link().depth == 0
        held: list[bool] = []
        lock = driver._link().lock
        looker = threading.Thread(target=lambda lock=lock, held=held: held.append(is_free(lock)))
        looker.start()
        looker.join()
        assert held == [True]
        assert gate_is_free(path)
    assert len(positions) > 5 or primitive == "setup"
    other.close()
    assert driver.insert(THINGS, [thing("z")]) == []
    driver.close()


def is_free(lock: threading.RLock) -> bool:
    if lock.acquire(blocking=False):
        lock.release()
        return True
    return False


def gate_is_free(path: Path) -> bool:
    gate = Path(f"{path}-gate")
    if not gate.exists():
        return True
    with gate.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def busy_error() -> sqlite3.OperationalError:
    """What SQLite says where another has the write lock."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
    return error


def test_a_transaction_that_an_interrupt_left_open_is_no_obstacle(driver: SQLiteDriver) -> None:
    connection_of(driver).execute("BEGIN IMMEDIATE")
    assert driver.insert(THINGS, [thing("a")]) == []
    assert driver.get(THINGS, "a") is not None


def test_a_search_along_a_path_stops_at_the_limit(driver: SQLiteDriver) -> None:
    driver.insert(THINGS, [thing(f"{place:04d}", details={"x": place % 2}) for place in range(2000)])
    read: list[str] = []
    plan = driver._plan(THINGS)
    original = plan.format.read

    def counting(row: tuple[object, ...]) -> Document:
        read.append(str(row[0]))
        return original(row)  # type: ignore[arg-type]

    plan.format.read = counting  # type: ignore[method-assign, assignment]
    found = driver.find(THINGS, (Comparison("details.x", "=", 1),), [Order("id")], limit=2)
    assert [one.id for one in found] == ["0001", "0003"]
    assert len(read) == 4
    assert found[0].body == full(details={"x": 1})
    assert driver.insert(THINGS, [thing("after")]) == []
