"""What every test stands on: a storage of its own, and nothing of the developer's surroundings.

A test that takes ``storage`` or ``storage_url`` runs once on every backend; ``shared_storage_url`` leaves out
those that processes cannot share. ``@pytest.mark.parametrize("backend_name", [...])`` narrows the choice for
one test (``shared_backend_name`` for the shared ones).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from servers import SERVERS, MLflow, MongoDB, MySQL, PostgreSQL, Server, ServerUnavailableError, SQLServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moorage import Storage

BACKENDS = ("memory", "sqlite", "json", "postgresql", "mysql", "mongodb", "mlflow")
SHARED_BACKENDS = ("sqlite", "json", "postgresql", "mysql", "mongodb", "mlflow")
SQL_BACKENDS = ("sqlite", "postgresql", "mysql")

# How fast a machine is decides no test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

ServerT = TypeVar("ServerT", bound=Server)

SLOW_BACKENDS = ("mongodb", "mlflow")
"""Those whose tests take minutes; they run where ``--moorage-backends`` names them."""

_CHOICES = {"backend_name": BACKENDS, "shared_backend_name": SHARED_BACKENDS, "sql_backend_name": SQL_BACKENDS}
_STARTED = pytest.StashKey[dict[str, str]]()
_SKIPPED = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--moorage-backends",
        metavar="NAMES",
        help=f"run the tests of storages on these backends only, separated by commas: {', '.join(BACKENDS)}; "
        f"all for all of them; by default all but {', '.join(SLOW_BACKENDS)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control lets its background jobs ignore Ctrl-C, and so would every process started here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_STARTED] = {}
    config.stash[_SKIPPED] = {}
    selected = _selected_backends(config)
    if unknown := sorted(selected - set(BACKENDS)):
        raise pytest.UsageError(f"--moorage-backends: {', '.join(unknown)} is none of {', '.join(BACKENDS)}")
    required = _required_servers()
    known = (*SERVERS, "index")
    if unknown := sorted(required - set(known)):
        raise pytest.UsageError(f"MOORAGE_REQUIRE: {', '.join(unknown)} is none of {', '.join(known)}")
    chosen = config.getoption("--moorage-backends") is not None
    if chosen and (excluded := sorted((required & set(BACKENDS)) - selected)):
        raise pytest.UsageError(f"MOORAGE_REQUIRE asks for {', '.join(excluded)}, --moorage-backends excludes it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    selected = _selected_backends(metafunc.config)
    marked = {
        name.strip() for marker in metafunc.definition.iter_markers("parametrize") for name in _argument_names(marker)
    }
    for argument, backends in _CHOICES.items():
        if argument in metafunc.fixturenames and argument not in marked:
            metafunc.parametrize(argument, [name for name in backends if name in selected])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of slow backends that were not chosen; ``-m conformance`` chooses by itself."""
    left_out = tuple(f"test_{name}" for name in SLOW_BACKENDS if name not in _selected_backends(config))
    excluded = [item for item in items if item.path.name.startswith(left_out)] if left_out else []
    if excluded:
        config.hook.pytest_deselected(items=excluded)
        items[:] = [item for item in items if item not in excluded]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of pytest-xdist says of its servers."""
    del error
    for key, told in zip((_STARTED, _SKIPPED), getattr(node, "workeroutput", {}).get("servers", ()), strict=False):
        node.config.stash[key] |= told


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = [session.config.stash[_STARTED], session.config.stash[_SKIPPED]]


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
        terminalreporter.line(f"{name}: left out; --moorage-backends={name} runs it, --moorage-backends=all runs all")


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No storage or profile of the developer's own, and no file left in the checkout."""
    monkeypatch.delenv("MOORAGE_STORAGE", raising=False)
    monkeypatch.delenv("MOORAGE_PROFILE", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgresql_server(pytestconfig: pytest.Config) -> Iterator[PostgreSQL]:
    """The PostgreSQL server that the tests share; whoever wants to kill one takes ``private_server``."""
    yield from _serve(PostgreSQL.from_environment(), pytestconfig)


@pytest.fixture(scope="session")
def mysql_server(pytestconfig: pytest.Config) -> Iterator[MySQL]:
    """The MariaDB server that the tests share; whoever wants to kill one takes ``private_server``."""
    yield from _serve(MySQL.from_environment(), pytestconfig)


@pytest.fixture(scope="session")
def mongodb_server(pytestconfig: pytest.Config) -> Iterator[MongoDB]:
    """The MongoDB server that the tests share."""
    yield from _serve(MongoDB.from_environment(), pytestconfig)


@pytest.fixture(scope="session")
def mlflow_server(pytestconfig: pytest.Config) -> Iterator[MLflow]:
    """The MLflow server that the tests share; each storage is a namespace of it."""
    yield from _serve(MLflow.from_environment(), pytestconfig)


@pytest.fixture
def private_server(pytestconfig: pytest.Config) -> Iterator[Callable[[str], Server]]:
    """Starts a server for this test alone, by its name: it may be killed, paused and restarted."""
    yield from _start_private(pytestconfig)


@pytest.fixture(scope="class")
def private_server_of_class(pytestconfig: pytest.Config) -> Iterator[Callable[[str], Server]]:
    """Like ``private_server``, for all tests of a class."""
    yield from _start_private(pytestconfig)


def _start_private(pytestconfig: pytest.Config) -> Iterator[Callable[[str], Server]]:
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
def sql_storage_url(sql_backend_name: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Like ``storage_url``, on the backends that speak SQL."""
    yield from _fresh_url(sql_backend_name, request)


@pytest.fixture
def fresh_storage_url(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a new, empty storage on the backend of a name, as often as it is asked for."""
    with contextlib.ExitStack() as stack:
        yield lambda backend: stack.enter_context(contextlib.contextmanager(_fresh_url)(backend, request))


@pytest.fixture
def storage(storage_url: str) -> Iterator[Storage]:
    """An open storage, new and empty, on each backend in turn."""
    import moorage

    with moorage.connect(storage_url) as opened:
        yield opened


def _fresh_url(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if backend not in _selected_backends(request.config):
        pytest.skip(f"{backend} is left out by --moorage-backends")
    if backend == "memory":
        yield "memory://"
    elif backend == "sqlite":
        yield f"sqlite:///{_fresh_path(request)}/hpo.db"
    elif backend == "json":
        yield f"json:///{_fresh_path(request)}/runs.json"
    else:
        server: SQLServer | MongoDB | MLflow = request.getfixturevalue(f"{backend}_server")
        url = server.create_database()
        yield url
        server.drop_database(url)


def _fresh_path(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("tmp_path") / f"storage-{secrets.token_hex(4)}"
    folder.mkdir()
    return folder


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
    """Start it; where that is impossible on this machine, skip, or fail if MOORAGE_REQUIRE asks for it."""
    try:
        server.start()
        return
    except ServerUnavailableError as error:
        reason = str(error)
    if server.name in _required_servers():
        pytest.fail(f"MOORAGE_REQUIRE asks for {server.name}, but {reason}", pytrace=False)
    config.stash[_SKIPPED][server.name] = reason
    pytest.skip(f"{server.name}: {reason}")


def _selected_backends(config: pytest.Config) -> set[str]:
    option: str | None = config.getoption("--moorage-backends")
    if option is None:
        return set(BACKENDS) - set(SLOW_BACKENDS)
    return set(BACKENDS) if option == "all" else _names(option)


def _required_servers() -> set[str]:
    names = _names(os.environ.get("MOORAGE_REQUIRE", ""))
    return names | {"documentdb"} if "mongodb" in names else names


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _argument_names(marker: pytest.Mark) -> list[str]:
    names = marker.args[0] if marker.args else marker.kwargs["argnames"]
    return names.split(",") if isinstance(names, str) else list(names)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
