"""What every test stands on: a storage of its own, and nothing of the developer's surroundings.

A test that takes ``storage`` or ``storage_url`` runs once on every backend; ``shared_storage_url`` leaves out
those that processes cannot share. ``@pytest.mark.parametrize("backend_name", [...])`` narrows the choice for
one test (``shared_backend_name`` for the shared ones).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import pytest

from servers import SERVERS, MySQL, PostgreSQL, Server, ServerUnavailableError, SQLServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from holdfast import Storage

BACKENDS = ("memory", "sqlite", "postgresql", "mysql")
SHARED_BACKENDS = ("sqlite", "postgresql", "mysql")

ServerT = TypeVar("ServerT", bound=Server)

_CHOICES = {"backend_name": BACKENDS, "shared_backend_name": SHARED_BACKENDS}
_STARTED = pytest.StashKey[dict[str, str]]()
_SKIPPED = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--holdfast-backends",
        metavar="NAMES",
        help=f"run the tests of storages on these backends only, separated by commas: {', '.join(BACKENDS)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STARTED] = {}
    config.stash[_SKIPPED] = {}
    selected = _selected_backends(config)
    if unknown := sorted(selected - set(BACKENDS)):
        raise pytest.UsageError(f"--holdfast-backends: {', '.join(unknown)} is none of {', '.join(BACKENDS)}")
    required = _required_servers()
    if unknown := sorted(required - set(SERVERS)):
        raise pytest.UsageError(f"HOLDFAST_REQUIRE: {', '.join(unknown)} is none of {', '.join(SERVERS)}")
    if excluded := sorted((required & set(BACKENDS)) - selected):
        raise pytest.UsageError(f"HOLDFAST_REQUIRE asks for {', '.join(excluded)}, --holdfast-backends excludes it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    selected = _selected_backends(metafunc.config)
    marked = {
        name.strip() for marker in metafunc.definition.iter_markers("parametrize") for name in _argument_names(marker)
    }
    for argument, backends in _CHOICES.items():
        if argument in metafunc.fixturenames and argument not in marked:
            metafunc.parametrize(argument, [name for name in backends if name in selected])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    started, skipped = config.stash[_STARTED], config.stash[_SKIPPED]
    excluded = [name for name in BACKENDS if name not in _selected_backends(config)]
    if started or skipped or excluded:
        terminalreporter.section("servers and backends")
    for name, description in started.items():
        terminalreporter.line(f"{name}: {description}")
    for name, reason in skipped.items():
        terminalreporter.line(f"{name}: skipped, {reason}")
    for name in excluded:
        terminalreporter.line(f"{name}: left out by --holdfast-backends")


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No storage or profile of the developer's own, and no file left in the checkout."""
    monkeypatch.delenv("HOLDFAST_STORAGE", raising=False)
    monkeypatch.delenv("HOLDFAST_PROFILE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgresql_server(pytestconfig: pytest.Config) -> Iterator[PostgreSQL]:
    """The PostgreSQL server that the tests share; whoever wants to kill one takes ``private_server``."""
    yield from _serve(PostgreSQL.from_environment(), pytestconfig)


@pytest.fixture(scope="session")
def mysql_server(pytestconfig: pytest.Config) -> Iterator[MySQL]:
    """The MariaDB server that the tests share; whoever wants to kill one takes ``private_server``."""
    yield from _serve(MySQL.from_environment(), pytestconfig)


@pytest.fixture
def private_server(pytestconfig: pytest.Config) -> Iterator[Callable[[str], Server]]:
    """Starts a server for this test alone, by its name: it may be killed, paused and restarted."""
    servers: list[Server] = []

    def start(name: str) -> Server:
        server = SERVERS[name]()
        servers.append(server)
        _start(server, pytestconfig)
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
def storage_url(backend_name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new, empty storage, on each backend in turn; gone after the test."""
    yield from _fresh_url(backend_name, request)


@pytest.fixture
def shared_storage_url(shared_backend_name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Like ``storage_url``, on the backends that several processes can share."""
    yield from _fresh_url(shared_backend_name, request)


@pytest.fixture
def storage(storage_url: str) -> Iterator[Storage]:
    """An open storage, new and empty, on each backend in turn."""
    import holdfast

    with holdfast.connect(storage_url) as opened:
        yield opened


def _fresh_url(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if backend not in _selected_backends(request.config):
        pytest.skip(f"{backend} is left out by --holdfast-backends")
    if backend == "memory":
        yield "memory://"
    elif backend == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('tmp_path')}/hpo.db"
    else:
        server: SQLServer = request.getfixturevalue(f"{backend}_server")
        url = server.create_database()
        yield url
        server.drop_database(url)


def _serve(server: ServerT, config: pytest.Config) -> Iterator[ServerT]:
    _start(server, config)
    origin = (
        f"started in {server.start_seconds:.1f} s" if server.is_private else f"given by {server.environment_variable()}"
    )
    config.stash[_STARTED][server.name] = f"{server.title} {server.version}, {origin}"
    try:
        yield server
    finally:
        server.stop()


def _start(server: Server, config: pytest.Config) -> None:
    """Start it; where that is impossible on this machine, skip, or fail if HOLDFAST_REQUIRE asks for it."""
    try:
        server.start()
        return
    except ServerUnavailableError as error:
        reason = str(error)
    if server.name in _required_servers():
        pytest.fail(f"HOLDFAST_REQUIRE asks for {server.name}, but {reason}", pytrace=False)
    config.stash[_SKIPPED][server.name] = reason
    pytest.skip(f"{server.name}: {reason}")


def _selected_backends(config: pytest.Config) -> set[str]:
    option: str | None = config.getoption("--holdfast-backends")
    return set(BACKENDS) if option is None else _names(option)


def _required_servers() -> set[str]:
    return _names(os.environ.get("HOLDFAST_REQUIRE", ""))


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _argument_names(marker: pytest.Mark) -> list[str]:
    names = marker.args[0] if marker.args else marker.kwargs["argnames"]
    return names.split(",") if isinstance(names, str) else list(names)
