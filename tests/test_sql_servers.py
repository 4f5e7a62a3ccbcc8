"""PostgreSQL and MariaDB: broken connections, wrong passwords, plans and locks."""

from __future__ import annotations

import threading
import time
import traceback
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import moorage
from moorage.driver import Capability, Increment
from moorage.errors import ConfigurationError, InvalidArgument, OutcomeUnknown, StorageDamaged, Unavailable
from moorage.filters import equal
from moorage.plugins import plugins
from moorage.protocol.asking import IN_QUEUE
from moorage.schema import SCHEMA as MOORAGE_SCHEMA
from moorage.schema import TRIALS
from moorage.url import StorageURL
from moorage_sql.server import ServerDriver, ServerLink, hosts
from servers import SERVERS
from test_sql_driver import SCHEMA, THINGS, connect, everything, thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.driver import Driver
    from servers import Server

pytestmark = pytest.mark.parametrize("shared_backend_name", ["postgresql", "mysql"])


@pytest.fixture
def url(shared_storage_url: str) -> str:
    return shared_storage_url


@pytest.fixture
def driver(url: str) -> Iterator[ServerDriver]:
    opened = connect(url)
    assert isinstance(opened, ServerDriver)
    opened.setup(SCHEMA)
    yield opened
    opened.close()


def link_of(driver: Driver) -> ServerLink:
    assert isinstance(driver, ServerDriver)
    link = driver.links()[0]
    assert isinstance(link, ServerLink)
    return link


def session(driver: Driver) -> object:
    own = "SELECT pg_backend_pid()" if driver.name == "postgresql" else "SELECT connection_id()"
    return link_of(driver).read(own)[0][0]


def kill(victim: object, by: Driver) -> None:
    """End another session, as an administrator or a restart does."""
    statement = "SELECT pg_terminate_backend({})" if by.name == "postgresql" else "KILL {}"
    link_of(by).command(statement.format(victim))
    time.sleep(0.2)


def test_a_connection_that_broke_while_idle_is_replaced_unseen(driver: Driver, url: str) -> None:
    other = connect(url)
    first = session(driver)
    kill(first, other)
    assert driver.insert(THINGS, [thing("a")]) == []
    assert session(driver) != first
    other.close()


def test_a_connection_that_breaks_while_writing_leaves_the_outcome_unknown(driver: Driver, url: str) -> None:
    driver.insert(THINGS, [thing("a")])
    other = connect(url)
    victim = session(driver)
    raised: list[BaseException] = []

    blocker = connect(url)

    def end_it() -> None:
        time.sleep(0.5)
        kill(victim, blocker)

    killer = threading.Thread(target=end_it)
    with other.transaction():
        other.patch(THINGS, equal(id="a"), {"rank": 1})
        killer.start()
        try:
            driver.patch(THINGS, equal(id="a"), {"rank": Increment()})
        except OutcomeUnknown as error:
            raised.append(error)
    killer.join()
    assert len(raised) == 1
    assert driver.patch(THINGS, equal(id="a"), {"rank": Increment()}) == 1
    found = driver.get(THINGS, "a")
    assert found is not None
    assert found.body["rank"] == 2
    other.close()
    blocker.close()


def test_a_connection_that_breaks_in_a_transaction_undoes_it(driver: Driver, url: str) -> None:
    other = connect(url)
    session(other)
    with pytest.raises(Unavailable), driver.transaction():  # noqa: PT012
        driver.insert(THINGS, [thing("a")])
        kill(session(driver), other)
        driver.insert(THINGS, [thing("b")])
    assert everything(driver) == {}
    with pytest.raises((Unavailable, OutcomeUnknown)), driver.transaction():  # noqa: PT012
        driver.insert(THINGS, [thing("a")])
        kill(session(driver), other)
    assert everything(driver) == {}
    other.close()


def test_a_deadlock_is_temporary(driver: Driver, url: str) -> None:
    driver.insert(THINGS, [thing("a", rank=0), thing("b", rank=0)])
    other = connect(url)
    meet = threading.Barrier(2)
    failed: list[BaseException] = []

    def both(who: Driver, names: str) -> None:
        try:
            with who.transaction():
                who.patch(THINGS, equal(id=names[0]), {"rank": Increment()})
                meet.wait(30)
                who.patch(THINGS, equal(id=names[1]), {"rank": Increment()})
        except Unavailable as error:
            failed.append(error)

    threads = [threading.Thread(target=both, args=given) for given in ((driver, "ab"), (other, "ba"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(failed) == 1
    assert sorted(str(one.body["rank"]) for one in everything(driver).values()) == ["1", "1"]
    other.close()


def test_a_claim_waits_for_what_others_have_locked(driver: Driver, url: str) -> None:
    driver.insert(THINGS, [thing("a", open=True)])
    other = connect(url)
    answers: list[object] = []
    claiming = threading.Thread(target=lambda: answers.append(driver.claim(THINGS, equal(open=True), {"open": False})))
    try:
        with other.transaction():
            other.patch(THINGS, equal(id="a"), {"open": False})
            claiming.start()
            time.sleep(0.3)
            assert answers == []
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    claiming.join(30)
    assert [getattr(one, "id", None) for one in answers] == ["a"]
    other.close()


def test_a_statement_that_takes_too_long_is_given_up(driver: Driver, url: str) -> None:
    driver.insert(THINGS, [thing("a", rank=0)])
    hasty = connect(url, statement_timeout=1.0)
    with driver.transaction():
        driver.patch(THINGS, equal(id="a"), {"rank": 1})
        with pytest.raises(Unavailable):
            hasty.patch(THINGS, equal(id="a"), {"rank": 2})
    assert hasty.patch(THINGS, equal(id="a"), {"rank": 3}) == 1
    hasty.close()


def wrong(url: str, **parts: str | int) -> str:
    split = urlsplit(url)
    user, _, host = split.netloc.rpartition("@")
    user = str(parts.get("user", user))
    port = parts.get("port", split.port)
    return f"{split.scheme}://{user}@{host.partition(':')[0]}:{port}/{parts.get('database', split.path[1:])}"


def test_a_wrong_password_or_database_is_explained_without_the_password(url: str) -> None:
    secret = "xyzzy-correct-horse"
    for bad in (wrong(url, user=f"stranger:{secret}"), wrong(url, database="not_there")):
        with pytest.raises(ConfigurationError) as caught:
            connect(bad)
        said = "".join(traceback.format_exception_only(caught.value))
        assert secret not in said
        assert secret not in repr(caught.value.__cause__)


def test_a_server_that_does_not_answer_is_unavailable(url: str) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        connect(wrong(url, port=1))


@pytest.mark.parametrize("tail", ["", "/"])
def test_a_url_without_a_database(url: str, tail: str) -> None:
    with pytest.raises(ConfigurationError, match="no database"):
        connect(url.rpartition("/")[0] + tail)


def test_hosts_and_ports(url: str) -> None:
    del url
    assert hosts(StorageURL.parse("postgresql://u@a,b:5433/d")) == (["a", "b"], ["", "5433"])
    assert hosts(StorageURL.parse("postgresql://u@[::1]:5433/d")) == (["::1"], ["5433"])
    assert hosts(StorageURL.parse("postgresql://u@%2Fvar%2Frun/d")) == (["/var/run"], [""])
    assert hosts(StorageURL.parse("postgresql:///d")) == ([], [])
    for bad in ("h:x", "h:0", "h:99999"):
        with pytest.raises(ConfigurationError):
            hosts(StorageURL.parse(f"postgresql://{bad}/d"))


def test_a_configuration_table_becomes_a_url(url: str, shared_backend_name: str) -> None:
    backend = plugins().backend(shared_backend_name)
    assert backend.url is not None
    split, parsed = urlsplit(url), StorageURL.parse(url)
    table = {"host": split.hostname, "port": split.port, "user": parsed.username, "database": parsed.path[1:]}
    built = backend.url({**table, "password": parsed.password} if parsed.password else table)
    driver = connect(built)
    driver.setup(SCHEMA)
    driver.close()
    awkward = StorageURL.parse(backend.url({"user": "a@b", "password": "p:/?#", "host": "::1", "database": "x y"}))
    assert (awkward.username, awkward.password, awkward.host, awkward.path) == ("a@b", "p:/?#", "[::1]", "/x y")
    with pytest.raises(ConfigurationError, match="database"):
        backend.url({"host": "h"})
    with pytest.raises(ConfigurationError, match="hots"):
        backend.url({"hots": "h", "database": "d"})


def test_durability_is_what_the_server_does(driver: Driver) -> None:
    assert Capability.DURABLE in driver.capabilities


UNSAFE = {"postgresql": ["-c", "fsync=off"], "mysql": ["--innodb-flush-method=nosync"]}


def test_a_server_that_flushes_nothing_is_not_called_durable(
    shared_backend_name: str, private_server: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = SERVERS[shared_backend_name]
    command = kind._command
    monkeypatch.setattr(
        kind, "_command", lambda self, directory: [*command(self, directory), *UNSAFE[shared_backend_name]]
    )
    driver = connect(private_server(shared_backend_name).url)
    assert Capability.DURABLE not in driver.capabilities
    driver.close()


def test_tables_of_others_are_not_taken_over(url: str) -> None:
    driver = connect(url)
    link_of(driver).command("CREATE TABLE moorage_things (x INTEGER)")
    with pytest.raises(StorageDamaged, match=r"'moorage_things'.*not a Moorage storage"):
        driver.setup(SCHEMA)
    driver.close()


def test_a_document_that_is_too_large_for_the_server(driver: Driver) -> None:
    if driver.name != "mysql":
        pytest.skip("PostgreSQL takes up to 1 GB")
    with pytest.raises(InvalidArgument, match=r"more than|larger|max_allowed_packet"):
        driver.insert(THINGS, [thing("a", title="x" * 20_000_000)])
    assert driver.insert(THINGS, [thing("b")]) == []


def test_the_claim_of_a_trial_uses_the_index(url: str) -> None:
    driver = connect(url)
    assert isinstance(driver, ServerDriver)
    driver.setup(MOORAGE_SCHEMA)
    trials = [thing(f"{place}", experiment="e", pending=True, sequence=place) for place in range(3000)]
    driver.insert(TRIALS, trials)
    driver.patch(TRIALS, (), {"pending": True})
    link = link_of(driver)
    link.command("ANALYZE moorage_trials" if driver.name == "postgresql" else "ANALYZE TABLE moorage_trials")
    plan = driver._plan(TRIALS)
    condition = plan.condition(equal(experiment="e", pending=True))
    made = plan.changes({"pending": False})
    assert made is not None
    if driver.name == "postgresql":
        statement = plan.claim(made[0], condition.shape, IN_QUEUE, locking="skip")
        arguments = statement.arguments(made[1] + condition.values)
    else:
        link.drop()
        statement = plan.lock_first(condition.shape, IN_QUEUE)
        arguments = statement.arguments(condition.values)
    steps = "\n".join(str(row) for row in link.read(f"EXPLAIN {statement.sql}", arguments))
    assert "moorage_ix_trials_experiment_pending_sequence" in steps
    assert "Sort" not in steps
    assert "filesort" not in steps
    driver.close()


def rows_read(driver: Driver) -> int:
    """How many rows of trials the server has read so far, for this connection or for all."""
    link = link_of(driver)
    if driver.name == "mysql":
        found = link.read("SHOW SESSION STATUS LIKE 'Handler\\_read\\_%'")
        return sum(int(str(value)) for _, value in found)
    link.read("SELECT pg_stat_force_next_flush()")
    of_trials = "FROM pg_stat_user_tables WHERE relname = 'moorage_trials' AND schemaname = current_schema()"
    return int(str(link.read(f"SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) {of_trials}")[0][0]))


def test_a_reservation_reads_as_few_rows_whatever_is_pending(url: str) -> None:
    read: list[int] = []
    with moorage.connect(url) as storage:
        for number in (20, 2000):
            experiment = storage.create_experiment(name=f"of {number}")
            storage.register_trials(experiment, [{"x": float(place)} for place in range(number)])
            storage.reserve_trial(experiment)
            before = rows_read(storage.driver)
            for _ in range(5):
                assert storage.reserve_trial(experiment) is not None
            read.append(rows_read(storage.driver) - before)
    assert 5 <= read[0] < 100
    assert read[1] <= read[0] + 5


def test_clocks_of_two_connections_agree(driver: Driver, url: str) -> None:
    other = connect(url)
    first, second = driver.now(), other.now()
    assert first.clock == second.clock
    assert abs(second.seconds - first.seconds) < 5
    other.close()
