"""Removing a whole storage, and storages that share one database by the prefix of their tables."""

from __future__ import annotations

import contextlib
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

import moorage
from moorage.driver import Document, Increment
from moorage.errors import (
    ConfigurationError,
    DuplicateExperiment,
    MoorageError,
    SchemaMismatch,
    StorageDamaged,
    StorageError,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.filters import Order, equal
from moorage.plugins import plugins
from moorage.schema import Collection, Field, Schema
from moorage.url import StorageURL
from moorage_sql.server import ServerDriver, ServerLink
from test_sql_driver import SCHEMA, THINGS, connect, thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = "x" * 30
PREFIXES = ["", "a_", "a_b_", "7", LONGEST]
"""One of them begins another, one must be quoted, and one makes names too long for a database."""
servers = pytest.mark.parametrize("shared_backend_name", ["postgresql", "mysql"])


def erase(url: str, **options: object) -> None:
    parsed = StorageURL.parse(url)
    backend = plugins().backend(parsed.scheme)
    if backend.erase is None:
        pytest.skip(f"the {backend.name} backend leaves that to the user")
    backend.erase(parsed, backend.read_options({**parsed.query, **options}))


def fill(storage: moorage.Storage, **results: float) -> None:
    """A completed trial, a reserved one, a new one, and something of everything else."""
    experiment = storage.create_experiment(name="tides", exist_ok=True)
    storage.register_trials(experiment, [{"depth": depth} for depth in range(3)])
    trial = storage.reserve_trial(experiment)
    assert trial is not None
    storage.add_measurements(trial, [{"name": "loss", "value": 0.5}])
    storage.push_trial_results(trial, {"objective": 1.0, **results}, status="completed")
    storage.reserve_trial(experiment)
    storage.add_resource(name="gpu0", kind="gpu")
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state(results)


def tides(storage: moorage.Storage) -> moorage.Experiment:
    (found,) = storage.fetch_experiments({"name": "tides"})
    return found


@pytest.fixture
def whole_url(storage_url: str, backend_name: str) -> Iterator[str]:
    """The URL of a storage that can be opened again."""
    url = f"memory://{secrets.token_hex(8)}" if backend_name == "memory" else storage_url
    yield url
    if backend_name == "memory":
        erase(url)


@pytest.fixture
def url(shared_storage_url: str) -> str:
    return shared_storage_url


@contextlib.contextmanager
def looking(url: str) -> Iterator[ServerLink]:
    """A connection for looking at the database itself."""
    driver = connect(url)
    link = driver._link()  # type: ignore[attr-defined]
    assert isinstance(link, ServerLink)
    yield link
    driver.close()


def in_database(url: str) -> set[str]:
    """The names of all that anybody has created in a database, but for what a table brings along unasked."""
    queries = (
        [
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 't'",
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
            "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal",
            "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typelem = 0",
        ]
        if url.startswith("postgresql")
        else [
            "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
            "SELECT routine_name FROM information_schema.routines WHERE routine_schema = database()",
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = database()",
        ]
    )
    with looking(url) as link:
        return {str(name) for query in queries for (name,) in link.read(query)}


# On every backend


def test_nothing_is_left_of_what_was_erased(whole_url: str) -> None:
    with moorage.connect(whole_url) as storage:
        fill(storage)
    erase(whole_url)
    with pytest.raises((StorageDamaged, ConfigurationError)):
        moorage.connect(whole_url, read_only=True)
    with moorage.connect(whole_url) as storage:
        assert storage.is_empty()
        assert storage.fetch_resources() == []
        fill(storage)
        experiment = tides(storage)
        assert storage.count_trials(experiment)[moorage.TrialStatus.COMPLETED] == 1


def test_erasing_what_is_not_there_is_fine_and_creates_nothing(whole_url: str) -> None:
    erase(whole_url)
    erase(whole_url)
    with pytest.raises((StorageDamaged, ConfigurationError)):
        moorage.connect(whole_url, read_only=True)
    moorage.connect(whole_url).close()
    erase(whole_url)
    erase(whole_url)
    with moorage.connect(whole_url) as storage:
        assert storage.is_empty()


# Files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hpo.db"


def test_all_files_of_an_sqlite_storage_go_and_no_other(file: Path) -> None:
    storage = moorage.connect(f"sqlite:///{file}")
    fill(storage)
    gate = Path(f"{file}-gate")
    gate.touch()
    beside = [file.with_name("hpo.db.backup"), file.with_name("hpo2.db"), Path(f"{file}-notes")]
    for one in beside:
        one.touch()
    assert {one.name for one in file.parent.iterdir()} >= {"hpo.db", "hpo.db-wal", "hpo.db-shm", "hpo.db-gate"}
    storage.close()
    Path(f"{file}-wal").touch()
    Path(f"{file}-shm").touch()
    Path(f"{file}-journal").touch()
    erase(f"sqlite:///{file}")
    assert sorted(file.parent.iterdir()) == sorted(beside)


def test_an_sqlite_storage_that_is_erased_creates_no_folder(tmp_path: Path) -> None:
    erase(f"sqlite:///{tmp_path}/nowhere/hpo.db")
    (tmp_path / "file").touch()
    erase(f"sqlite:///{tmp_path}/file/hpo.db")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_log_that_outlived_its_database_is_not_taken_into_the_next(file: Path) -> None:
    with moorage.connect(f"sqlite:///{file}") as storage:
        fill(storage)
        log = Path(f"{file}-wal").read_bytes()
    assert len(log) > 4096
    file.unlink()
    Path(f"{file}-wal").write_bytes(log)
    with moorage.connect(f"sqlite:///{file}") as storage:
        assert storage.is_empty()


def test_a_file_of_somebody_else_is_not_removed(file: Path) -> None:
    import sqlite3

    file.write_text("my thesis")
    with pytest.raises(StorageDamaged, match=r"hpo\.db is not a Moorage storage"):
        erase(f"sqlite:///{file}")
    assert file.read_text() == "my thesis"
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.executescript("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
    with pytest.raises(StorageDamaged, match="remove it yourself"):
        erase(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file)) as other:
        assert other.execute("SELECT x FROM mine").fetchall() == [(1,)]
    with pytest.raises(ConfigurationError, match="folder"):
        erase(f"sqlite:///{file.parent}")


@pytest.mark.parametrize("damage", ["tail", "middle", "empty"])
def test_a_damaged_sqlite_storage_can_be_erased(file: Path, damage: str) -> None:
    with moorage.connect(f"sqlite:///{file}") as storage:
        fill(storage)
    whole = file.read_bytes()
    file.write_bytes(
        {"tail": whole[:5000], "middle": whole[:100] + b"\xff" * 8000 + whole[8100:], "empty": b""}[damage]
    )
    erase(f"sqlite:///{file}")
    assert not file.exists()


# Databases


@servers
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_server_is_left_as_it_was(url: str, prefix: str) -> None:
    before = in_database(url)
    with moorage.connect(url, prefix=prefix) as storage:
        fill(storage)
    created = in_database(url) - before
    assert created
    assert all(name.startswith(prefix) and len(name) <= 63 for name in created)
    erase(url, prefix=prefix)
    assert in_database(url) == before


@servers
def test_what_others_keep_in_the_database_stays(url: str, shared_backend_name: str) -> None:
    with moorage.connect(url) as storage:
        fill(storage)
    theirs = [
        "mine",
        "moorage_trials_mine",
        "moorage_trials_tally_mine",
        "trials",
        "b_trials",
        "moorage_schema_of_mine",
    ]
    with looking(url) as link:
        for name in theirs:
            link.command(f"CREATE TABLE {name} (x INTEGER)")
            link.command(f"INSERT INTO {name} VALUES (1)")
        if shared_backend_name == "postgresql":
            link.command(
                "CREATE FUNCTION tr_trials_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
            )
            link.command(
                "CREATE TRIGGER tr_trials_audit AFTER INSERT ON moorage_trials EXECUTE FUNCTION tr_trials_audit()"
            )
            theirs.append("tr_trials_audit")
    erase(url)
    assert in_database(url) == set(theirs)
    with looking(url) as link:
        assert [link.read(f"SELECT x FROM {name}") for name in theirs[:6]] == [[(1,)]] * 6


@servers
def test_a_table_that_others_depend_on_is_explained_and_the_rest_goes_later(url: str, shared_backend_name: str) -> None:
    with moorage.connect(url) as storage:
        fill(storage)
    with looking(url) as link:
        if shared_backend_name == "postgresql":
            link.command("CREATE VIEW mine AS SELECT * FROM moorage_trials")
        else:
            collation = link.read(
                "SELECT collation_name FROM information_schema.columns "
                "WHERE table_schema = database() AND table_name = 'moorage_trials' AND column_name = 'id'"
            )[0][0]
            link.command(
                f"CREATE TABLE mine (x VARCHAR(600) COLLATE {collation}, "
                "FOREIGN KEY (x) REFERENCES moorage_trials (id))"
            )
    with pytest.raises(StorageError, match=r"depends on table moorage_trials|foreign key"):
        erase(url)
    with looking(url) as link:
        assert link.read("SELECT count(*) FROM moorage_trials") == [(3,)]
        link.command("DROP VIEW mine" if shared_backend_name == "postgresql" else "DROP TABLE mine")
    erase(url)
    assert in_database(url) == set()


@servers
def test_a_table_without_a_schema_is_not_ours(url: str) -> None:
    with looking(url) as link:
        link.command("CREATE TABLE moorage_trials (x INTEGER)")
    erase(url)
    with looking(url) as link:
        assert link.read("SELECT count(*) FROM moorage_trials") == [(0,)]


@servers
def test_a_setup_that_was_cut_short_is_finished_or_erased(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = in_database(url)
    command = ServerLink.command

    def attempt(prefix: str, most: int) -> int:
        """Set up with so many commands; how many there were."""
        made = 0

        def counted(self: ServerLink, sql: str) -> None:
            nonlocal made
            if made == most:
                raise KeyboardInterrupt
            command(self, sql)
            made += 1

        driver = connect(url, prefix=prefix)
        monkeypatch.setattr(ServerLink, "command", counted)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                driver.setup(SCHEMA)
        finally:
            monkeypatch.setattr(ServerLink, "command", command)
            driver.close()
        return made

    needed = attempt("whole_", -1)
    assert needed > 4
    erase(url, prefix="whole_")
    for most in range(needed):
        assert attempt("part_", most) == most
        erase(url, prefix="part_")
        assert in_database(url) == before
        assert attempt("part_", most) == most
        driver = connect(url, prefix="part_")
        with pytest.raises((StorageDamaged, SchemaMismatch)):
            connect(url, prefix="part_", read_only=True).setup(SCHEMA)
        driver.setup(SCHEMA)
        assert driver.insert(THINGS, [thing("a", group="g", state="s")]) == []
        assert driver.count(THINGS, equal(group="g", state="s")) == 1
        driver.close()
        erase(url, prefix="part_")
        assert in_database(url) == before


@pytest.mark.parametrize("shared_backend_name", ["mysql"])
def test_an_erasure_that_was_cut_short_is_finished(url: str) -> None:
    with moorage.connect(url) as storage:
        fill(storage)
    with looking(url) as link:
        link.command("DROP TABLE moorage_algorithm_locks, moorage_experiments, moorage_trials")
    erase(url)
    assert in_database(url) == set()


# Prefixes


@servers
def test_storages_of_different_prefixes_do_not_notice_each_other(url: str) -> None:
    with contextlib.ExitStack() as stack:
        storages = [stack.enter_context(moorage.connect(url, prefix=prefix)) for prefix in PREFIXES]
        for number, storage in enumerate(storages):
            assert storage.is_empty()
            fill(storage, mark=float(number))
        for number, storage in enumerate(storages):
            with pytest.raises(DuplicateExperiment):
                storage.create_experiment(name="tides")
            experiment = tides(storage)
            counts = {status.value: count for status, count in storage.count_trials(experiment).items() if count}
            assert counts == {"completed": 1, "reserved": 1, "new": 1}
            best = storage.best_trial(experiment)
            assert best is not None
            assert best.results["mark"] == number
            assert storage.get_algorithm_lock_info(experiment).state == {"mark": float(number)}
            trial = storage.reserve_trial(experiment)
            assert trial is not None
            assert trial.params == {"depth": 2}
            assert storage.reserve_trial(experiment) is None
        storages[1].delete_experiment(tides(storages[1]))
        assert [len(storage.fetch_experiments()) for storage in storages] == [1, 0, 1, 1, 1]
    for prefix in PREFIXES[:-1]:
        erase(url, prefix=prefix)
        with pytest.raises(StorageDamaged):
            moorage.connect(url, prefix=prefix, read_only=True)
    with moorage.connect(url, prefix=LONGEST) as last:
        assert last.count_trials(tides(last))[moorage.TrialStatus.RESERVED] == 2


@servers
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_changes_no_primitive(url: str, prefix: str) -> None:
    other, driver = connect(url, prefix="other_"), connect(url, prefix=prefix)
    for one in (other, driver):
        one.setup(SCHEMA)
        documents = [thing(f"{n}", group="g", state="new", open=True, rank=n) for n in range(300)]
        assert one.insert(THINGS, [*documents, thing("unique", title_key="k", rank_key=1)]) == []
    assert [one.key for one in driver.insert(THINGS, [thing("0"), thing("x", title_key="k", rank_key=1)])] == [
        ("id",),
        ("title_key", "rank_key"),
    ]
    with pytest.raises(UniqueViolation) as broken:
        driver.patch(THINGS, equal(id="0"), {"title_key": "k", "rank_key": 1})
    assert broken.value.key == ("title_key", "rank_key")
    claimed = driver.claim(THINGS, equal(group="g", open=True), {"open": False, "state": "done"}, [Order("rank")])
    assert claimed is not None
    assert claimed.id == "0"
    assert driver.patch(THINGS, equal(id="1"), {"rank": Increment(5), "state": "done"}) == 1
    assert driver.swap(THINGS, Document("2", {"group": "g", "state": "done"}), 1)
    assert driver.delete(THINGS, equal(id="3")) == 1
    assert driver.tally(THINGS, equal(group="g"), "state") == {"done": 3, "new": 296}
    assert other.tally(THINGS, equal(group="g"), "state") == {"new": 300}
    driver.close()
    other.close()


@servers
def test_names_that_are_too_long_for_a_database_stay_apart(url: str) -> None:
    long = "c" * 60
    fields = (Field(f"{long}_one", "string"), Field(f"{long}_two", "string"))
    keys = tuple((field.name,) for field in fields)
    collections = tuple(
        Collection(name, fields, unique=keys, indexes=keys, tallies=keys) for name in (long, f"{long}d")
    )
    schema = Schema(1, collections)
    drivers = [connect(url, prefix=prefix) for prefix in ("x" * 30, "x" * 29 + "y")]
    for driver in drivers:
        driver.setup(schema)
    for number, (driver, collection) in enumerate((driver, one) for driver in drivers for one in collections):
        assert driver.insert(collection, [thing("a", **{field.name: f"{number}" for field in fields})]) == []
        assert driver.count(collection, equal(**{fields[0].name: f"{number}"})) == 1
        assert driver.count(collection, equal(**{fields[1].name: f"{number}"})) == 1
    assert {len(name) for name in in_database(url)} <= set(range(64))
    erase(url, prefix="x" * 30)
    left = [drivers[1].get(one, "a") for one in collections]
    assert [one.body[fields[0].name] for one in left if one is not None] == ["2", "3"]
    erase(url, prefix="x" * 29 + "y")
    assert in_database(url) == set()
    for driver in drivers:
        driver.close()


@servers
def test_one_storage_is_upgraded_and_the_other_is_not(url: str) -> None:
    young = Schema(
        version=4,
        collections=(
            attrs.evolve(
                THINGS,
                fields=(*THINGS.fields, Field("color", "string")),
                indexes=(*THINGS.indexes, ("color", "rank")),
                tallies=(*THINGS.tallies, ("color",)),
            ),
            Collection(name="more", fields=(Field("color", "string"),), tallies=(("color",),)),
        ),
    )
    things = young.collections[0]
    old = {prefix: connect(url, prefix=prefix) for prefix in ("a_", "b_")}
    for driver in old.values():
        driver.setup(SCHEMA)
        driver.insert(THINGS, [thing("a", color="blue", rank=1)])
    new = connect(f"{url}?prefix=a_")
    with pytest.raises(SchemaMismatch, match=r"version 3.*prefix=a_"):
        new.setup(young)
    new.setup(young, upgrade=True)
    assert [one.id for one in new.find(things, equal(color="blue"))] == ["a"]
    assert new.count(things, equal(color="blue")) == 1
    new.insert(young.collections[1], [thing("a", color="red")])
    with pytest.raises(SchemaMismatch, match=r"version 4.*prefix=a_|prefix=a_.*version 4"):
        old["a_"].setup(SCHEMA)
    old["b_"].setup(SCHEMA)
    with pytest.raises(SchemaMismatch, match=r"prefix=b_.*version 3"):
        connect(url, prefix="b_").setup(young)
    erase(url, prefix="a_")
    assert all(name.startswith("b_") for name in in_database(url))
    found = old["b_"].get(THINGS, "a")
    assert found is not None
    assert found.body["color"] == "blue"
    for driver in (*old.values(), new):
        driver.close()


@servers
def test_a_setup_waits_for_one_of_the_same_prefix_alone(url: str) -> None:
    busy = connect(url, prefix="a_")
    assert isinstance(busy, ServerDriver)
    with busy._exclusive(busy._link()):
        connect(url, prefix="b_", statement_timeout=2.0).setup(SCHEMA)
        with pytest.raises(Unavailable):
            connect(url, prefix="a_", statement_timeout=1.0).setup(SCHEMA)
    busy.close()


@servers
def test_many_set_up_two_prefixes_at_once(url: str) -> None:
    errors: list[MoorageError] = []
    ready = threading.Barrier(6)

    def open_it(prefix: str, number: int) -> None:
        driver = connect(url, prefix=prefix)
        ready.wait(60)
        try:
            driver.setup(SCHEMA)
            driver.insert(THINGS, [thing(f"{number}")])
        except MoorageError as error:
            errors.append(error)
        driver.close()

    threads = [threading.Thread(target=open_it, args=("ab"[number % 2], number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(one.id for one in connect(url, prefix="a").find(THINGS)) == ["0", "2", "4"]
    assert sorted(one.id for one in connect(url, prefix="b").find(THINGS)) == ["1", "3", "5"]


@pytest.mark.parametrize(
    "prefix", ["Tides", "a-b", "a b", "a.", "x" * 31, "é", "'; DROP TABLE trials; --", "a%s", "٣", "a\n", '"', "`"]
)
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_prefix_that_no_table_should_have_is_refused(scheme: str, prefix: str) -> None:
    pytest.importorskip({"postgresql": "psycopg", "mysql": "pymysql"}[scheme])
    with pytest.raises(ConfigurationError, match=r"'prefix' takes at most 30 of the characters a-z 0-9 _, not"):
        moorage.connect(f"{scheme}://user@127.0.0.1:1/database", prefix=prefix)


# A memory storage that is opened read-only


def test_a_memory_storage_opened_read_only_refuses_every_write() -> None:
    url = f"memory://{secrets.token_hex(8)}"
    driver = connect(url)
    driver.setup(SCHEMA)
    driver.insert(THINGS, [thing("a", rank=1)])
    viewer = connect(url, read_only=True)
    viewer.setup(SCHEMA)
    writes: list[Callable[[], object]] = [
        lambda: viewer.insert(THINGS, [thing("b")]),
        lambda: viewer.swap(THINGS, thing("a"), 1),
        lambda: viewer.patch(THINGS, equal(id="a"), {"rank": 2}),
        lambda: viewer.claim(THINGS, equal(id="a"), {"rank": 2}),
        lambda: viewer.delete(THINGS, equal(id="a")),
    ]
    for write in writes:
        with pytest.raises(StorageReadOnly, match="read-only"):
            write()
        with pytest.raises(StorageReadOnly), viewer.transaction():
            write()
    assert [(one.id, one.revision, one.body["rank"]) for one in viewer.find(THINGS)] == [("a", 1, 1)]
    driver.patch(THINGS, equal(id="a"), {"rank": 3})
    found = viewer.get(THINGS, "a")
    assert found is not None
    assert found.body["rank"] == 3
    erase(url)


def test_a_memory_storage_opened_read_only_is_not_created() -> None:
    url = f"memory://{secrets.token_hex(8)}"
    for where in ("memory://", url):
        with pytest.raises(StorageDamaged, match="read-only"):
            moorage.connect(where, read_only=True)
    with moorage.connect(url) as storage:
        storage.create_experiment(name="tides")
    with moorage.connect(url, read_only=True) as view:
        assert [one.name for one in view.fetch_experiments()] == ["tides"]
    erase(url)
