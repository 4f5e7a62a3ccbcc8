"""What the MongoDB driver says, and does, when the network between it and the server fails."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest

import moorage
from moorage.driver import Document
from moorage.errors import OutcomeUnknown, Unavailable
from moorage.filters import Order, equal
from moorage.plugins import plugins
from moorage.schema import Collection, Field, Schema
from moorage.url import StorageURL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moorage_mongodb.driver import MongoDriver

pymongo = pytest.importorskip("pymongo")

pytestmark = pytest.mark.parametrize("shared_backend_name", ["mongodb"])

THINGS = Collection("things", (Field("open", "boolean"), Field("rank", "integer")), unique=(("rank",),))
SCHEMA = Schema(version=1, collections=(THINGS,))


class Proxy:
    """Hands bytes on between a client and a server, until it is told to do harm.

    Attributes:
        lost: how many messages have met their end here.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 27017)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        query = f"{parts.query}&directConnection=true" if parts.query else "directConnection=true"
        credentials, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}", query=query).geturl()
        self._sockets: list[socket.socket] = []
        self._working: list[socket.socket] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._word, self._times, self._reply = b"", 0, False
        self._chance = 0.0
        self._random = random.Random(7)
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()
        self._flowing.set()
        self.cut()

    def lose(self, command: str, *, reply: bool, times: int = 1) -> None:
        """Cut the connection at the next requests that name a command; or let them pass, and cut at their replies."""
        self._word, self._times, self._reply = command.encode() + b"\0", times, reply

    def lose_some(self, chance: float) -> None:
        """Cut connections at random, with the requests or with the replies that they were about to carry."""
        self._chance = chance

    def stall(self) -> None:
        """Keep all connections open, take new ones, and hand nothing on."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def cut(self, some: Sequence[socket.socket] | None = None) -> None:
        """Cut all connections, or some."""
        for one in self._sockets if some is None else some:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def refuse(self, *, watched: bool = False) -> None:
        """Cut all connections and take no new ones, for good; where ``watched``, keep those that carry no documents."""
        with contextlib.suppress(OSError):  # closed alone it would still give its last connection to who waits for it
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(self._working if watched else self._sockets)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            doomed = threading.Event()
            for source, target, is_request in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._carry, args=(source, target, doomed, is_request), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, doomed: threading.Event, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                if is_request and THINGS.name.encode() in data:
                    self._working += [source, target]
                if is_request and self._times and self._word in data:
                    self._times -= 1
                    doomed.set()
                if doomed.is_set() and is_request != self._reply:
                    self.lost += 1
                    break
                if self._chance and self._random.random() < self._chance:
                    self.lost += 1
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def proxy(shared_storage_url: str) -> Iterator[Proxy]:
    with Proxy(shared_storage_url) as started:
        yield started


@pytest.fixture
def connect() -> Iterator[Callable[..., MongoDriver]]:
    opened: list[MongoDriver] = []

    def start(url: str, **options: object) -> MongoDriver:
        parsed = StorageURL.parse(url)
        driver: MongoDriver = plugins().backend("mongodb").connect(parsed, options)  # type: ignore[assignment]
        opened.append(driver)
        driver.setup(SCHEMA)
        return driver

    yield start
    for one in opened:
        one.close()


WRITES: dict[str, tuple[str, Callable[[MongoDriver], object]]] = {
    "insert": ("insert", lambda driver: driver.insert(THINGS, [Document("b", {}), Document("c", {})])),
    "swap": ("update", lambda driver: driver.swap(THINGS, Document("a", {"rank": 5}), 1)),
    "patch": ("update", lambda driver: driver.patch(THINGS, (), {"rank": 5})),
    "patch one": ("update", lambda driver: driver.patch(THINGS, equal(id="a"), {"rank": 5})),
    "claim": ("findAndModify", lambda driver: driver.claim(THINGS, equal(open=True), {"open": False})),
    "delete": ("delete", lambda driver: driver.delete(THINGS, ())),
    "delete one": ("delete", lambda driver: driver.delete(THINGS, equal(id="a"))),
}
READS: dict[str, tuple[str, Callable[[MongoDriver], object]]] = {
    "get": ("find", lambda driver: driver.get(THINGS, "a")),
    "find": ("find", lambda driver: driver.find(THINGS)),
    "count": ("aggregate", lambda driver: driver.count(THINGS)),
    "tally": ("aggregate", lambda driver: driver.tally(THINGS, (), "open")),
}
BEFORE = [Document("a", {"open": True}, 1)]


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize("reply", [True, False], ids=["reply lost", "request lost"])
def test_a_write_that_was_cut_off_is_of_unknown_outcome(
    proxy: Proxy, shared_storage_url: str, connect: Callable[..., MongoDriver], verb: str, reply: bool
) -> None:
    witness, driver = connect(shared_storage_url), connect(proxy.url, retryWrites=False)
    witness.insert(THINGS, BEFORE)
    command, write = WRITES[verb]
    proxy.lose(command, reply=reply)
    with pytest.raises(OutcomeUnknown):
        write(driver)
    assert proxy.lost == 1
    if not reply:
        assert witness.find(THINGS) == BEFORE
    assert driver.count(THINGS) == witness.count(THINGS)  # it connects anew


@pytest.mark.parametrize("verb", [verb for verb in WRITES if verb not in ("patch", "delete")])
def test_a_retryable_write_is_repeated_and_done_once(
    proxy: Proxy, shared_storage_url: str, connect: Callable[..., MongoDriver], verb: str
) -> None:
    witness = connect(shared_storage_url)
    if not witness._link.retries_writes:
        pytest.skip("this server does not keep the outcomes of retried writes")
    driver = connect(proxy.url)
    witness.insert(THINGS, BEFORE)
    command, write = WRITES[verb]
    proxy.lose(command, reply=True, times=2)
    assert write(driver) in ([], True, 1, Document("a", {"open": False}, 2))
    assert proxy.lost == 2
    assert all(one.revision <= 2 for one in witness.find(THINGS))


@pytest.mark.parametrize("verb", READS)
def test_a_read_that_was_cut_off_is_repeated(proxy: Proxy, connect: Callable[..., MongoDriver], verb: str) -> None:
    driver = connect(proxy.url)
    driver.insert(THINGS, BEFORE)
    command, read = READS[verb]
    proxy.lose(command, reply=True)
    assert read(driver) in (BEFORE[0], BEFORE, 1, {True: 1})
    assert proxy.lost == 1


@pytest.mark.parametrize("verb", [*WRITES, *READS])
def test_a_half_open_connection_holds_nobody_longer_than_the_timeout(
    proxy: Proxy, shared_storage_url: str, connect: Callable[..., MongoDriver], verb: str
) -> None:
    witness = connect(shared_storage_url)
    driver = connect(proxy.url, timeout=1.0, retryWrites=False)
    witness.insert(THINGS, BEFORE)
    driver._is_mongodb = True  # so that several documents are changed by one command, wherever this runs
    driver.count(THINGS)
    proxy.stall()
    with pytest.raises(OutcomeUnknown if verb in WRITES else Unavailable):
        (WRITES | READS)[verb][1](driver)
    driver.close()  # nor does saying goodbye
    assert witness.find(THINGS) == BEFORE


def test_a_stalled_server_that_comes_back_is_used_again(proxy: Proxy, connect: Callable[..., MongoDriver]) -> None:
    connect(proxy.url).insert(THINGS, BEFORE)
    driver = connect(proxy.url, timeout=1.0)
    proxy.stall()
    with pytest.raises(Unavailable):
        driver.get(THINGS, "a")
    proxy.flow()
    for _ in range(20):  # what was held back comes out first
        with contextlib.suppress(Unavailable):
            assert driver.get(THINGS, "a") == BEFORE[0]
            break
    else:
        pytest.fail("it never came back")


def test_a_server_that_mutely_takes_connections_is_unavailable(
    proxy: Proxy, connect: Callable[..., MongoDriver]
) -> None:
    proxy.stall()
    with pytest.raises(Unavailable):
        connect(proxy.url, connect_timeout=0.5)


def test_where_no_server_answers_nothing_was_written(
    proxy: Proxy, shared_storage_url: str, connect: Callable[..., MongoDriver]
) -> None:
    witness, driver = connect(shared_storage_url), connect(proxy.url, timeout=1.0)
    witness.insert(THINGS, BEFORE)
    proxy.refuse()
    for _ in range(3):
        with pytest.raises((Unavailable, OutcomeUnknown)):  # unknown as long as a connection may have been there
            driver.delete(THINGS, equal(id="a"))
    with pytest.raises(Unavailable):
        driver.get(THINGS, "a")
    assert witness.find(THINGS) == BEFORE


def test_what_was_refused_a_connection_was_not_written(
    proxy: Proxy, shared_storage_url: str, connect: Callable[..., MongoDriver]
) -> None:
    witness, driver = connect(shared_storage_url), connect(proxy.url, timeout=5.0)
    if driver._link.retries_writes:
        pytest.skip("pymongo repeats the write, and does not tell which attempt was refused")
    witness.insert(THINGS, BEFORE)
    assert driver.get(THINGS, "a") is not None
    proxy.refuse(watched=True)  # pymongo's monitor goes on believing that the server is there
    time.sleep(1.2)  # pymongo looks whether a connection is alive when it has rested for a second
    with pytest.raises(Unavailable, match="refused"):
        driver.delete(THINGS, equal(id="a"))
    assert witness.find(THINGS) == BEFORE


def test_work_over_a_bad_network_is_done_once(proxy: Proxy, shared_storage_url: str) -> None:
    count = 40
    with moorage.connect(shared_storage_url) as storage:
        experiment = storage.create_experiment(name="tides")
        storage.register_trials(experiment, [{"depth": float(place)} for place in range(count)])
    taken: list[tuple[str, int]] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with moorage.connect(proxy.url, heartbeat_timeout=600.0) as own:
                while (trial := own.reserve_trial(experiment)) is not None:
                    taken.append((trial.id, trial.token))
                    own.push_trial_results(trial, {"objective": trial.params["depth"]}, status="completed")
        except BaseException as error:
            failures.append(error)

    proxy.lose_some(0.02)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert proxy.lost > 0
    assert len({identifier for identifier, _ in taken}) == len(taken) == count
    with moorage.connect(shared_storage_url) as storage:
        trials = storage.fetch_trials(experiment)
        assert {trial.status for trial in trials} == {moorage.TrialStatus.COMPLETED}
        assert {trial.id for trial in trials} == {identifier for identifier, _ in taken}
        assert all(trial.token == 1 and trial.results["objective"] == trial.params["depth"] for trial in trials)


def test_claims_over_a_bad_network_hand_each_document_out_once(
    proxy: Proxy, shared_storage_url: str, connect: Callable[..., MongoDriver]
) -> None:
    witness = connect(shared_storage_url)
    witness.insert(THINGS, [Document(f"{place:03d}", {"open": True}) for place in range(60)])
    driver = connect(proxy.url, retryWrites=False)
    proxy.lose_some(0.05)
    taken: list[str] = []
    unknown = 0
    while witness.count(THINGS, equal(open=True)):
        try:
            one = driver.claim(THINGS, equal(open=True), {"open": False}, [Order("id")])
        except OutcomeUnknown:
            unknown += 1
        except Unavailable:
            pass
        else:
            taken += [one.id] if one is not None else []
    assert unknown > 0
    assert len(set(taken)) == len(taken)
    assert 60 - unknown <= len(taken) <= 60
    assert all(one.revision == 2 for one in witness.find(THINGS))
