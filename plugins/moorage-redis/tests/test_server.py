"""The server: what is declared, what its errors mean, what survives, and how much work a call is."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import moorage
import pytest
from conftest import free_port
from moorage import Capability, Document, Driver, Increment
from moorage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    SchemaMismatch,
    StorageClosed,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unsupported,
)
from moorage.filters import Comparison, Order, equal
from moorage.plugins import plugins
from moorage.schema import SCHEMA, TRIALS, Collection, Field, Schema
from moorage.url import StorageURL

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess
    from multiprocessing.synchronize import Event

    from conftest import RedisServer

    OpenDriver = Callable[..., Driver]

spawn = multiprocessing.get_context("spawn")
IN_ORDER = [Order("sequence")]
PENDING = equal(experiment="e", pending=True)
TAKEN = {"status": "reserved", "pending": False, "token": Increment(), "worker": "w"}


def trials(count: int, start: int = 0) -> list[Document]:
    body = {"experiment": "e", "status": "new", "pending": True, "token": 0, "write": None}
    return [Document(f"e/{number}", {**body, "sequence": number}) for number in range(start, start + count)]


def names(server: RedisServer, url: str) -> list[str]:
    with server.client() as client:
        return sorted(key.decode() for key in client.keys(f"{url.partition('namespace=')[2]}:*"))


# What is declared


@pytest.mark.parametrize(
    ("settings", "durable"),
    [
        ({}, True),
        ({"appendfsync": "everysec"}, False),
        ({"appendonly": "no"}, False),
        ({"no_appendfsync_on_rewrite": "yes"}, False),
    ],
)
def test_only_a_server_that_writes_before_it_answers_is_durable(
    own_server: Callable[..., RedisServer], open_driver: OpenDriver, settings: dict[str, str], durable: bool
) -> None:
    driver = open_driver(own_server(**settings).url)
    assert driver.capabilities >= {Capability.SHARED, Capability.SERVER_CLOCK}
    assert (Capability.DURABLE in driver.capabilities) == durable
    with pytest.raises(Unsupported):
        driver.transaction()


def test_what_a_user_may_not_ask_is_not_declared(
    own_server: Callable[..., RedisServer], open_driver: OpenDriver
) -> None:
    server = own_server()
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "worker", "on", ">swell", "~moorage:*", "+@all", "-@admin", "-@dangerous"
        )
        client.execute_command("ACL", "SETUSER", "reader", "on", ">swell", "~moorage:*", "+@read")
    driver = open_driver(server.url.replace(":kelp%40rock%2F7", "worker:swell"))
    assert driver.capabilities == {Capability.SHARED, Capability.SERVER_CLOCK}
    driver.insert(TRIALS, trials(1))
    assert driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER) is not None
    reader = open_driver(server.url.replace(":kelp%40rock%2F7", "reader:swell"), read_only=True)
    assert len(reader.find(TRIALS, equal(experiment="e"), IN_ORDER)) == 1
    reader = open_driver(server.url.replace(":kelp%40rock%2F7", "reader:swell"))
    with pytest.raises(ConfigurationError, match="permission"):
        reader.insert(TRIALS, trials(1, 5))


def test_a_cache_and_a_cluster_are_refused(own_server: Callable[..., RedisServer]) -> None:
    with pytest.raises(ConfigurationError, match="maxmemory-policy to noeviction"):
        moorage.connect(own_server(maxmemory_policy="allkeys-lru").url)
    with pytest.raises(ConfigurationError, match="Redis cluster"):
        moorage.connect(own_server(cluster_enabled="yes", cluster_port=f"{free_port()}").url)


# Errors


def test_no_password_appears_anywhere(server: RedisServer, url: str, open_driver: OpenDriver) -> None:
    wrong = url.replace("kelp%40rock%2F7", "wrong-kelp")
    with pytest.raises(ConfigurationError, match="password") as refused:
        moorage.connect(wrong)
    with pytest.raises(ConfigurationError) as missing:
        moorage.connect(url.replace(":kelp%40rock%2F7@", ""))
    driver = open_driver(url)
    driver.close()
    with pytest.raises(StorageClosed) as closed:
        driver.get(TRIALS, "x")
    driver.close()
    texts = [repr(driver)]
    for caught in (refused, missing, closed):
        error: BaseException | None = caught.value
        while error is not None:
            texts.append(f"{error} {error!r}")
            error = error.__cause__ or error.__context__
    assert "kelp" not in "".join(texts)
    assert ":***@127.0.0.1" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://127.0.0.1:x/0", "host"),
        ("redis://127.0.0.1/zero", "numbers its databases"),
        ("redis://127.0.0.1/1?db=2", "names database 1"),
        ("redis+unix://host/run/redis.sock", "Unix socket"),
        ("redis://127.0.0.1/0?namespace=a:b", "namespace"),
        ({"type": "redis", "hots": "a"}, "hots"),
    ],
)
def test_a_wrong_url_is_explained(url: str | dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        moorage.connect(url)


def test_a_table_a_socket_and_a_database_number_work(own_server: Callable[..., RedisServer]) -> None:
    folder = own_server().folder
    server = own_server(unixsocket=str(folder / "redis sock"))
    place = {"type": "redis", "password": "kelp@rock/7", "database": 3}
    with moorage.connect({**place, "host": "127.0.0.1", "port": server.port}) as storage:
        storage.create_experiment(name="tides")
    with moorage.connect({**place, "socket": str(folder / "redis sock")}) as storage:
        assert [one.name for one in storage.fetch_experiments()] == ["tides"]
    with pytest.raises(ConfigurationError, match="DB index"):
        moorage.connect({**place, "database": 99, "port": server.port})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl was not found on PATH")
def test_an_encrypted_connection_checks_the_certificate(own_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", "-nodes", *made, *names], cwd=tmp_path, check=True, capture_output=True)
    port = free_port()
    try:
        own_server(
            tls_port=f"{port}",
            tls_cert_file=f"{tmp_path}/cert.pem",
            tls_key_file=f"{tmp_path}/key.pem",
            tls_auth_clients="no",
        )
    except RuntimeError as error:
        pytest.skip(f"this redis-server was built without TLS: {error}")
    table = {"type": "redis", "tls": True, "host": "127.0.0.1", "port": port, "password": "kelp@rock/7"}
    with moorage.connect({**table, "ssl_ca": f"{tmp_path}/cert.pem"}) as storage:
        assert storage.is_empty()
    with pytest.raises(ConfigurationError, match="certificate"):
        moorage.connect(table)


def test_a_server_that_is_away_or_mute_is_unavailable_within_the_timeout(
    own_server: Callable[..., RedisServer], open_driver: OpenDriver
) -> None:
    with socket.socket() as listener:  # it takes connections, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(Unavailable):
            moorage.connect(f"redis://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2, connect_timeout=0.2)
    server = own_server()
    driver = open_driver(server.url, timeout=0.3, connect_timeout=0.3)
    driver.insert(TRIALS, trials(3))
    server.pause()
    with pytest.raises(OutcomeUnknown):
        driver.patch(TRIALS, equal(id="e/0"), {"worker": "late"})
    with pytest.raises(Unavailable):
        driver.get(TRIALS, "e/0")
    server.resume()
    until(lambda: driver.get(TRIALS, "e/0").body.get("worker") == "late")
    server.kill()
    with pytest.raises(Unavailable):
        driver.insert(TRIALS, trials(1, 10))
    server.start()
    driver.get(TRIALS, "e/0")
    server.kill()
    server.start()
    assert driver.insert(TRIALS, trials(1, 10)) == []


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_memory_refuses_whole_documents_and_still_deletes(
    own_server: Callable[..., RedisServer], open_driver: OpenDriver
) -> None:
    server = own_server(maxmemory="4mb")
    driver = open_driver(server.url)
    stored = 0

    def fill() -> None:
        nonlocal stored
        while stored < 1000:
            driver.insert(TRIALS, [Document(f"{stored}", {"experiment": "e", "error": "x" * 50_000})])
            stored += 1

    with pytest.raises(StorageFull, match="memory"):
        fill()
    assert stored > 3
    assert driver.count(TRIALS) == len(driver.find(TRIALS)) == stored
    assert driver.count(TRIALS, equal(experiment="e")) == stored
    assert driver.delete(TRIALS, equal(experiment="e")) == stored
    assert driver.insert(TRIALS, trials(1)) == []


def test_a_replica_takes_no_writes(own_server: Callable[..., RedisServer], open_driver: OpenDriver) -> None:
    primary = own_server(repl_diskless_sync_delay="0")
    replica = own_server(replicaof=f"127.0.0.1 {primary.port}", masterauth="kelp@rock/7")
    driver = open_driver(primary.url)
    driver.insert(TRIALS, trials(2))
    with replica.client() as client:
        until(lambda: client.exists("moorage:documents:trials") == 1)
    copy = open_driver(replica.url)
    assert len(copy.find(TRIALS, PENDING, IN_ORDER)) == 2
    with pytest.raises(StorageReadOnly, match="replica"):
        copy.claim(TRIALS, PENDING, TAKEN, IN_ORDER)


def test_a_busy_server_is_unavailable(own_server: Callable[..., RedisServer], open_driver: OpenDriver) -> None:
    server = own_server(lua_time_limit="50")
    driver = open_driver(server.url)

    def block() -> None:
        with server.client() as client, pytest.raises(Exception, match="killed"):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=block)
    thread.start()
    time.sleep(0.5)
    with pytest.raises(Unavailable, match="busy"):
        driver.insert(TRIALS, trials(1))
    with server.client() as client:
        client.script_kill()
    thread.join()
    assert driver.insert(TRIALS, trials(1)) == []


def test_scripts_come_back_after_they_were_forgotten(server: RedisServer, driver: Driver) -> None:
    driver.insert(TRIALS, trials(2))
    with server.client() as client:
        client.script_flush()
    assert driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER).id == "e/0"


# The schema


def test_a_newer_schema_a_foreign_one_and_an_emptied_server_are_refused(
    server: RedisServer, url: str, open_driver: OpenDriver
) -> None:
    driver = open_driver(url)
    namespace = url.partition("namespace=")[2]
    driver.insert(TRIALS, trials(1))
    with server.client() as client:
        client.set(f"{namespace}:schema", "99")
        with pytest.raises(SchemaMismatch, match="newer"):
            open_driver(url)
        with pytest.raises(SchemaMismatch):
            driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER)
        client.set(f"{namespace}:schema", "kelp")
        with pytest.raises(StorageDamaged, match="kelp"):
            open_driver(url)
        client.delete(f"{namespace}:schema")
        with pytest.raises(StorageDamaged, match="not a Moorage storage"):
            open_driver(url)
        for call in (lambda: driver.insert(TRIALS, trials(1, 1)), lambda: driver.find(TRIALS, PENDING)):
            with pytest.raises(StorageDamaged, match="gone"):
                call()
        client.delete(*names(server, url))
        client.lpush(f"{namespace}:schema", "somebody else's")
        with pytest.raises(StorageDamaged):
            open_driver(url)


def test_read_only_creates_and_changes_nothing(server: RedisServer, url: str, open_driver: OpenDriver) -> None:
    with pytest.raises(StorageDamaged, match="read-only"):
        open_driver(url, read_only=True)
    assert names(server, url) == []
    open_driver(url).insert(TRIALS, trials(1))
    driver = open_driver(url, read_only=True)
    assert driver.count(TRIALS, PENDING) == len(driver.find(TRIALS)) == 1
    for write in (
        lambda: driver.insert(TRIALS, trials(1, 1)),
        lambda: driver.swap(TRIALS, trials(1)[0], 1),
        lambda: driver.patch(TRIALS, PENDING, {"worker": "w"}),
        lambda: driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER),
        lambda: driver.delete(TRIALS, PENDING),
        lambda: driver.delete(TRIALS, (Comparison("sequence", "<", 9),)),
    ):
        with pytest.raises(StorageReadOnly):
            write()


def erase(url: str) -> None:
    parsed = StorageURL.parse(url)
    backend = plugins().backend("redis")
    backend.erase(parsed, backend.read_options(parsed.query))


def test_erasing_removes_all_keys_of_the_namespace_and_no_other(
    server: RedisServer, url: str, open_driver: OpenDriver
) -> None:
    neighbours = [f"{url}{more}" for more in (".", "x")] + [url[:-1]]
    for one in (url, *neighbours):
        open_driver(one).insert(TRIALS, [*trials(700), Document("ä\ud7ff\U0001f30a \n*?[", {"experiment": "ä*"})])
    before = [names(server, one) for one in neighbours]
    assert len(names(server, url)) > 5
    erase(url)
    assert names(server, url) == []
    assert [names(server, one) for one in neighbours] == before
    assert [open_driver(one).count(TRIALS, PENDING) for one in neighbours] == [700] * 3
    erase(url)
    assert names(server, url) == []
    driver = open_driver(url)
    assert driver.find(TRIALS) == []
    assert driver.insert(TRIALS, trials(1)) == []
    consistent(driver)


def test_an_erasure_that_was_cut_short_leaves_no_storage_and_is_finished_by_the_next(
    url: str, server: RedisServer, open_driver: OpenDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = open_driver(url)
    stale.insert(TRIALS, trials(10))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("moorage_redis.driver.RedisDriver._keys", interrupt)
        with pytest.raises(KeyboardInterrupt):
            erase(url)
    assert names(server, url)
    with pytest.raises(StorageDamaged):
        open_driver(url)
    with pytest.raises(StorageDamaged, match="gone"):
        stale.insert(TRIALS, trials(1, 20))
    erase(url)
    assert names(server, url) == []


def test_a_storage_on_a_replica_cannot_be_erased(
    own_server: Callable[..., RedisServer], open_driver: OpenDriver
) -> None:
    server = own_server()
    open_driver(server.url).insert(TRIALS, trials(1))
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StorageReadOnly):
            erase(server.url)
        assert client.exists("moorage:schema", "moorage:documents:trials") == 2


def test_setup_by_many_threads_at_once(url: str, open_driver: OpenDriver) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            open_driver(url).insert(TRIALS, trials(1))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def things(version: int, *more: Field, **rules: tuple[tuple[str, ...], ...]) -> Schema:
    fields = (Field("name", "string"), Field("rank", "integer"), *more)
    return Schema(version=version, collections=(Collection("things", fields, **rules),))


def test_an_older_schema_is_upgraded_with_new_indexes(url: str, server: RedisServer) -> None:
    from moorage import StorageURL
    from moorage.plugins import plugins

    old, new = things(1), things(2, Field("color", "string"), indexes=(("color", "rank"),), tallies=(("color",),))
    parsed = StorageURL.parse(url)
    first, second, third = (plugins().backend("redis").connect(parsed, {}) for _ in range(3))
    first.setup(old)
    first.insert(
        old.collections[0],
        [Document(f"{n}", {"name": "n", "rank": n, "color": ["red", "blue"][n % 2]}) for n in range(700)],
    )
    with pytest.raises(SchemaMismatch, match="moorage upgrade"):
        second.setup(new)
    failed: list[BaseException] = []

    def upgrade(driver: Driver) -> None:
        try:
            driver.setup(new, upgrade=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=upgrade, args=(one,)) for one in (second, third)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    (collection,) = new.collections
    for one in (second, third):
        assert one.tally(collection, (), "color") == {"red": 350, "blue": 350}
        found = one.find(collection, equal(color="blue"), [Order("rank", descending=True)], 2)
        assert [document.body["rank"] for document in found] == [699, 697]
    assert [key for key in names(server, url) if ":1:" in key] == []
    with pytest.raises(SchemaMismatch):
        first.insert(old.collections[0], [Document("late", {})])
    with pytest.raises(SchemaMismatch):
        first.count(old.collections[0])
    for one in (first, second, third):
        one.close()


def test_an_upgrade_that_died_is_finished_and_one_that_cannot_be_is_explained(url: str, server: RedisServer) -> None:
    from moorage import StorageURL
    from moorage.plugins import plugins

    driver = plugins().backend("redis").connect(StorageURL.parse(url), {})
    driver.setup(things(1))
    driver.insert(things(1).collections[0], [Document("a", {"name": "n"}), Document("b", {"name": "n"})])
    with pytest.raises(StorageDamaged, match=r"share \(name\)"):
        driver.setup(things(2, unique=(("name",),)), upgrade=True)
    with pytest.raises(SchemaMismatch):  # half-way
        driver.setup(things(2, unique=(("name",),)))
    driver.setup(things(3, indexes=(("name",),)), upgrade=True)
    assert driver.count(things(3, indexes=(("name",),)).collections[0], equal(name="n")) == 2
    assert [key for key in names(server, url) if ":2:" in key or ":1:" in key] == []
    driver.close()


# Processes


def claim_all(url: str, ready: Event, report: str, unique: str) -> None:
    with moorage.connect(url) as storage:
        ready.wait()
        with Path(report).open("a", encoding="utf-8") as log:
            while (taken := storage.driver.claim(TRIALS, PENDING, {**TAKEN, "worker": unique}, IN_ORDER)) is not None:
                log.write(json.dumps([taken.id, unique]) + "\n")
                log.flush()


def insert_until_it_fails(url: str, report: str, unique: str) -> None:
    with contextlib.suppress(StorageError), moorage.connect(url) as storage:
        for number in range(10**9):
            body = {"experiment": unique, "status": "new", "pending": True, "sequence": number}
            storage.driver.insert(TRIALS, [Document(f"{unique}/{number}", body)])
            storage.driver.patch(TRIALS, equal(id=f"{unique}/{number}"), {"status": "done", "pending": False})
            with Path(report).open("a", encoding="utf-8") as log:
                log.write(f"{number}\n")


def start(target: Callable[..., None], *arguments: object) -> SpawnProcess:
    process = spawn.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def lines(folder: Path, count: int) -> list[list[str]]:
    """Of the reports of that many processes; the last line may have been cut off."""
    reports = [folder / f"{number}" for number in range(count)]
    return [one.read_text(encoding="utf-8").split("\n")[:-1] if one.exists() else [] for one in reports]


def test_four_processes_claim_each_of_two_thousand_once(url: str, driver: Driver, tmp_path: Path) -> None:
    driver.insert(TRIALS, trials(2000))
    ready = spawn.Event()
    processes = [start(claim_all, url, ready, f"{tmp_path}/{n}", f"{n}") for n in range(4)]
    ready.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    claimed = [json.loads(line) for some in lines(tmp_path, 4) for line in some]
    assert len(claimed) == len({name for name, _ in claimed}) == 2000
    for one in driver.find(TRIALS, equal(experiment="e")):
        assert (one.revision, one.body["token"]) == (2, 1)
        assert [one.id, one.body["worker"]] in claimed
    assert driver.tally(TRIALS, equal(experiment="e"), "status") == {"reserved": 2000}


def consistent(driver: Driver, collection: Collection = TRIALS) -> None:
    """Every index and tally says what the documents say."""
    documents = driver.find(collection, (Comparison("revision", ">", 0),))
    for experiment in {one.body["experiment"] for one in documents}:
        own = [one for one in documents if one.body["experiment"] == experiment]
        for status in ("new", "reserved", "done"):
            expected = {one.id for one in own if one.body["status"] == status}
            where = equal(experiment=experiment, status=status)
            assert {one.id for one in driver.find(collection, where)} == expected
            assert driver.count(collection, where) == len(expected)
        assert len(driver.find(collection, equal(experiment=experiment, pending=True))) == sum(
            bool(one.body["pending"]) for one in own
        )


def test_killed_clients_leave_nothing_torn_and_lose_nothing(url: str, driver: Driver, tmp_path: Path) -> None:
    processes = [start(insert_until_it_fails, url, f"{tmp_path}/{n}", f"{n}") for n in range(3)]
    until(lambda: driver.count(TRIALS) > 150, 30)
    for process in processes:
        process.kill()
        process.join()
    for experiment, acknowledged in enumerate(lines(tmp_path, 3)):
        found = {one.id for one in driver.find(TRIALS, equal(experiment=f"{experiment}", status="done"))}
        assert found >= {f"{experiment}/{number}" for number in acknowledged}
    consistent(driver)


def test_acknowledged_writes_survive_a_killed_server(
    own_server: Callable[..., RedisServer], open_driver: OpenDriver, tmp_path: Path
) -> None:
    server = own_server()
    driver = open_driver(server.url)
    processes = [start(insert_until_it_fails, server.url, f"{tmp_path}/{n}", f"{n}") for n in range(3)]
    until(lambda: driver.count(TRIALS) > 150, 30)
    server.kill()
    for process in processes:
        process.join(30)
    server.start()
    for experiment, acknowledged in enumerate(lines(tmp_path, 3)):
        found = {one.id for one in driver.find(TRIALS, equal(experiment=f"{experiment}", status="done"))}
        assert found >= {f"{experiment}/{number}" for number in acknowledged}
    assert driver.insert(TRIALS, trials(1)) == []
    consistent(driver)


def test_a_forked_child_opens_its_own_connection_and_disturbs_nobody(driver: Driver) -> None:
    driver.insert(TRIALS, trials(300))
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for _ in range(100):
                assert driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER) is not None
            driver.close()
            os.write(writable, b"fine")
        finally:
            os._exit(0)
    for _ in range(100):
        assert driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER) is not None
    os.waitpid(pid, 0)
    os.close(writable)
    assert os.read(readable, 10) == b"fine"
    os.close(readable)
    assert driver.count(TRIALS, PENDING) == 100
    assert driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER).revision == 2


def test_threads_share_a_driver(driver: Driver) -> None:
    driver.insert(TRIALS, trials(200))
    claimed: list[str] = []

    def work() -> None:
        while (taken := driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER)) is not None:
            claimed.append(taken.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(one.id for one in trials(200))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket that redis-py had just opened
def test_an_interrupted_call_does_not_leave_its_reply_to_the_next(driver: Driver) -> None:
    driver.insert(TRIALS, trials(2))

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for turn in range(400):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + turn % 20 * 0.00002)
                assert driver.get(TRIALS, "e/0").id == "e/0"
                assert driver.count(TRIALS, PENDING) == 2
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 10


def test_the_clock_is_the_servers_and_never_goes_back(driver: Driver, server: RedisServer) -> None:
    readings = [driver.now() for _ in range(50)]
    assert readings == sorted(readings, key=lambda one: one.seconds)
    with server.client() as client:
        seconds, _ = client.time()
    assert abs(readings[-1].seconds - seconds) < 5
    assert len({one.clock for one in readings}) == 1


# Growth


def work(server: RedisServer, call: Callable[[], object]) -> dict[str, int]:
    """How many commands the server ran for a call, by name; those inside scripts included."""
    with server.client() as client:
        client.config_resetstat()
        call()
        told = client.info("commandstats")
    return {name[8:]: one["calls"] for name, one in told.items() if name[8:] not in ("info", "config|resetstat")}


def test_the_work_of_a_call_does_not_grow_with_what_is_stored(server: RedisServer, driver: Driver) -> None:
    calls: dict[str, Callable[[], object]] = {
        "claim": lambda: driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER),
        "patch": lambda: driver.patch(TRIALS, equal(id="e/70"), {"heartbeat": "now", "token": Increment()}),
        "insert": lambda: driver.insert(TRIALS, trials(1, time.time_ns())),
        "get": lambda: driver.get(TRIALS, "e/70"),
        "best": lambda: driver.find(TRIALS, equal(experiment="e", status="new"), [Order("objective", True)], 1),
        "page": lambda: driver.find(TRIALS, (*PENDING, Comparison("sequence", ">=", 40)), IN_ORDER, 10),
        "count": lambda: driver.count(TRIALS, equal(experiment="e", pending=True)),
        "tally": lambda: driver.tally(TRIALS, equal(experiment="e"), "status"),
        "none": lambda: driver.claim(TRIALS, equal(experiment="other", pending=True), TAKEN, IN_ORDER),
    }
    driver.insert(TRIALS, trials(100))
    driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER)
    few = {name: work(server, call) for name, call in calls.items()}
    driver.insert(TRIALS, trials(8000, 200))
    for _ in range(300):
        driver.claim(TRIALS, PENDING, TAKEN, IN_ORDER)
    many = {name: work(server, call) for name, call in calls.items()}
    assert many == few
    assert few["claim"]["evalsha"] == few["claim"]["zrangebylex"] == 1
    assert sum(few["claim"].values()) < 20
    assert sum(few["get"].values()) == 1


def test_errors_without_a_meaning_of_their_own_are_still_errors_of_the_storage(
    server: RedisServer, url: str, driver: Driver
) -> None:
    with server.client() as client:
        client.set(f"{url.partition('namespace=')[2]}:documents:trials", "spoiled")
    for call in (lambda: driver.get(TRIALS, "x"), lambda: driver.insert(TRIALS, trials(1))):
        with pytest.raises(StorageDamaged, match="other software") as caught:
            call()
        assert isinstance(caught.value, StorageError)
    assert SCHEMA.version > 0
