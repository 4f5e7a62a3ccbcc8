"""Private database servers for the tests.

Each server listens on 127.0.0.1 on a free port, keeps its data in a temporary directory and runs with the
database's own defaults for durability. It is stopped by process id, and only if it was started here; should
the tests be killed, a watcher stops it and removes its data.

A developer starts some by hand, to run tests against them again and again, with

    python tests/servers.py postgresql mysql

which prints one line ``NAME URL`` for each, and keeps them until interrupted.

Three things are not what a careless backend would find convenient: the servers' time zone is not UTC, the
password holds characters that must be quoted in a URL, and MariaDB keeps latin1, its default character set.
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn, Self, TypedDict
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
import tenacity
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    import pymongo

HOST = "127.0.0.1"
USER = "moorage"
PASSWORD = "kelp@rock/7"
DATABASE = "moorage"

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_START_ATTEMPTS = 3
_NOBODY = 65534
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/bin", "/opt/homebrew/bin")
# The pipe to its standard input closes when the tests are gone, however they went.
_WATCHER = 'read -r _; kill -s "$1" "$2"; kill -s CONT "$2"; sleep 1; rm -rf -- "$3"'


class ServerUnavailableError(RuntimeError):
    """This machine lacks what the server needs: its programs, or the Python driver to talk to it."""


class _Account(TypedDict, total=False):
    """The arguments with which ``subprocess`` gives up root."""

    user: int
    group: int
    extra_groups: list[int]


class Server(abc.ABC):
    """One server: a private one, or, given a URL, one that runs already.

    As a context manager it starts at the beginning and stops at the end. A private server can also be killed,
    paused and restarted; it keeps its port and its data, so its URL stays valid. One that was not started
    here refuses that.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    account_name: ClassVar[str]
    driver: ClassVar[str | None]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    watcher_signal: ClassVar[str] = "KILL"
    start_limit: ClassVar[float] = _START_SECONDS

    def __init__(self, url: str | None = None) -> None:
        self.is_private = url is None
        self.version = "unknown"
        self.start_seconds = 0.0
        self._url = url
        self._port = 0
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @classmethod
    def environment_variable(cls) -> str:
        """The variable that names a server to use instead of a private one."""
        return f"MOORAGE_TEST_{cls.name.upper()}"

    @classmethod
    def from_environment(cls) -> Self:
        """The server that ``MOORAGE_TEST_<NAME>`` names, else a private one. It is not started yet."""
        return cls(os.environ.get(cls.environment_variable()) or None)

    @property
    def url(self) -> str:
        """Where the server is, password included; for a server of databases, one that exists."""
        if self._url is not None:
            return self._url
        if not self._port:
            raise RuntimeError(f"the {self.title} server has no URL before its first start")
        return self._private_url()

    @property
    def pid(self) -> int:
        """The process id of a private server that runs."""
        if self._process is None:
            self._refuse_unless_private("has no process id that the tests know")
            raise RuntimeError(f"the {self.title} server does not run")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again after ``kill``; returns once the server answers.

        Raises:
            ServerUnavailableError: a program or the driver is missing.
            RuntimeError: the server did not come up; the message ends with the end of its log.
        """
        if self.driver is not None and importlib.util.find_spec(self.driver) is None:
            raise ServerUnavailableError(f"the Python package {self.driver} is not installed")
        started = time.monotonic()
        if not self.is_private:
            self.version = self._probe()
        elif self._process is None:
            self._require_programs()
            first_time = self._directory is None
            try:
                if self._directory is None:
                    self._directory = self._make_directory()
                    self._initialize(self._directory)
                self._launch(choose_port=first_time)
                if first_time:
                    self._populate()
            except BaseException:
                if first_time:
                    self.stop()
                raise
        self.start_seconds = time.monotonic() - started

    def stop(self) -> None:
        """End a private server in good order and remove its data; twice is fine."""
        try:
            self._shut_down()
        finally:
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None
                self._port = 0

    def halt(self) -> None:
        """End the server in good order and keep its data; ``start`` brings it back on the same port."""
        self._refuse_unless_private("cannot be stopped")
        self._shut_down()

    @property
    def processes(self) -> list[int]:
        """The ids of the server and of all its children."""
        return [self.pid, *_descendants(self.pid)]

    def restart(self) -> None:
        """End the server in good order and start it again, with its data, on the same port."""
        self._refuse_unless_private("cannot be restarted")
        self._shut_down()
        self.start()

    def kill(self) -> None:
        """SIGKILL the server and all its children; ``start`` brings it back with what was durable."""
        self._refuse_unless_private("cannot be killed")
        if self._process is not None:
            descendants = self._signal_tree(signal.SIGKILL)
            self._process.wait()
            _wait_until_gone(descendants, seconds=_STOP_SECONDS)
            self._forget_process()

    def pause(self) -> None:
        """SIGSTOP the server and all its children: connections stay open and nothing answers."""
        self._refuse_unless_private("cannot be paused")
        self._signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after ``pause``."""
        self._refuse_unless_private("cannot be resumed")
        self._signal_tree(signal.SIGCONT)

    @abc.abstractmethod
    def _private_url(self) -> str:
        """The URL of the private server, from its port."""

    @abc.abstractmethod
    def _require_programs(self) -> None:
        """Raise ServerUnavailableError unless every program is there."""

    @abc.abstractmethod
    def _initialize(self, directory: Path) -> None:
        """Prepare an empty directory before the first start."""

    @abc.abstractmethod
    def _command(self, directory: Path) -> Sequence[str | Path]:
        """The command that runs the server in the foreground."""

    @abc.abstractmethod
    def _probe(self) -> str:
        """Ask the server for its version; OSError or SQLAlchemyError while it does not answer."""

    def _populate(self) -> None:  # noqa: B027  (an optional step)
        """What a new server needs once it runs."""

    def _refuse_unless_private(self, refusal: str) -> None:
        if not self.is_private:
            raise RuntimeError(
                f"the {self.title} server of {self.environment_variable()} {refusal}: "
                f"the tests did not start it; use {type(self).__name__}() for a private one"
            )

    def _make_directory(self) -> Path:
        """A new directory that the server's account owns and can reach."""
        account = self._account()
        parents = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")]
        for parent in parents:
            others_may_pass = all(folder.stat().st_mode & 0o001 for folder in (parent, *parent.parents))
            if not account or others_may_pass:
                directory = Path(tempfile.mkdtemp(prefix=f"moorage-{self.name}-", dir=parent))
                if account:
                    os.chown(directory, account["user"], account["group"])
                return directory
        raise RuntimeError(f"user {account['user']} can enter none of {', '.join(map(str, parents))}")

    def _account(self) -> _Account:
        """Who runs the server: oneself; instead of root, which it refuses, its own account or nobody."""
        if os.geteuid() != 0:
            return {}
        try:
            entry = pwd.getpwnam(self.account_name)
        except KeyError:
            return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        """Only what is needed, so that no PG* or MYSQL* variable of the developer's shell interferes."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._directory),
            "TMPDIR": str(self._directory),
            "LC_ALL": "C.UTF-8",
        }

    def _run(self, *command: str | Path) -> None:
        """Run a program to its end, as the server's account."""
        result = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_START_SECONDS,
            check=False,
            **self._account(),
        )
        if result.returncode:
            raise RuntimeError(f"{command[0]} failed with status {result.returncode}:\n{result.stdout}")

    def _launch(self, *, choose_port: bool) -> None:
        """Start the process and wait until it answers; a free port can be taken meanwhile, so try some."""
        attempts = _START_ATTEMPTS if choose_port else 1
        for attempt in range(1, attempts + 1):
            if choose_port:
                self._port = _free_port()
            try:
                self._launch_once()
            except RuntimeError:
                hung = self._process is not None and self._process.poll() is None
                self._shut_down()
                if hung or attempt == attempts:
                    raise
            else:
                return

    def _launch_once(self) -> None:
        assert self._directory is not None
        log_path = self._directory / "server.log"
        with log_path.open("ab") as log:
            process = self._process = subprocess.Popen(
                self._command(self._directory),
                cwd=self._directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account(),
            )
        self._watcher = subprocess.Popen(
            ["sh", "-c", _WATCHER, "sh", self.watcher_signal, str(process.pid), str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + self.start_limit
        while True:
            try:
                self.version = self._probe()
            except (OSError, SQLAlchemyError) as error:
                status = process.poll()
                if status is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                outcome = f"no answer within {self.start_limit:.0f} s" if status is None else f"status {status}"
                ending = log_path.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"the {self.title} server did not start ({outcome}):\n{ending}") from error
            else:
                return

    def _shut_down(self) -> None:
        """End the process, in good order if it lets itself be ended so, and keep the data."""
        if self._process is None:
            return
        self._signal_tree(signal.SIGCONT)
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._forget_process()

    def _forget_process(self) -> None:
        """After its end: nothing is left to watch."""
        self._process = None
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            if self._watcher.stdin is not None:
                self._watcher.stdin.close()
            self._watcher = None

    def _signal_tree(self, number: signal.Signals) -> list[int]:
        """Signal the server and its descendants, which may have left its group; returns the ids of those."""
        if self._process is None:
            return []
        # Stopped while they are counted, so that it has no further children; dead, it would have none at all.
        self._process.send_signal(signal.SIGSTOP)
        descendants = _descendants(self._process.pid)
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        self._process.send_signal(number)
        return descendants


class SQLServer(Server):
    """A server of SQL databases, spoken to through SQLAlchemy."""

    drivername: ClassVar[str]
    version_query: ClassVar[str]
    driver: ClassVar[str]

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url)
        self._engine: sa.Engine | None = None

    def create_database(self) -> str:
        """Create an empty database with a name of its own; returns its URL."""
        name = f"moorage_test_{secrets.token_hex(6)}"
        self._execute_patiently(f"CREATE DATABASE {name}")
        return sa.make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Drop a database that ``create_database`` made, whoever is still connected to it."""
        name = sa.make_url(url).database
        assert name is not None
        assert name.startswith("moorage_test_"), f"{name} is not a database of the tests"
        self._drop(name)

    def _execute_patiently(self, statement: str) -> None:
        """Run a statement that the server refuses while its own background workers are in the database concerned."""
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(sa.exc.DBAPIError),
            wait=tenacity.wait_fixed(0.5),
            stop=tenacity.stop_after_attempt(10),
            reraise=True,
        )(self.execute, statement)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement outside a transaction; returns the rows, if any."""
        if self._engine is None:
            # One connection is kept, since connecting costs more than the statement; it may have died.
            self._engine = sa.create_engine(self.url, pool_size=1, pool_pre_ping=True, isolation_level="AUTOCOMMIT")
        return _execute(self._engine, statement)

    def _shut_down(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        super()._shut_down()

    def _private_url(self) -> str:
        return self._url_as(USER, DATABASE)

    def _url_as(self, user: str, database: str) -> str:
        url = sa.URL.create(self.drivername, user, PASSWORD, HOST, self._port, database)
        return url.render_as_string(hide_password=False)

    def _probe(self) -> str:
        return str(self.execute(self.version_query)[0][0])

    @abc.abstractmethod
    def _drop(self, database: str) -> None:
        """Disconnect everybody from a database and drop it."""


class PostgreSQL(SQLServer):
    """PostgreSQL. Its tests connect as an ordinary role that may create databases."""

    name = "postgresql"
    title = "PostgreSQL"
    account_name = "postgres"
    driver = "psycopg"
    drivername = "postgresql+psycopg"
    version_query = "SHOW server_version"
    stop_signal = signal.SIGINT
    watcher_signal = "QUIT"

    _superuser = "administrator"

    def _require_programs(self) -> None:
        _program("initdb", self._folders())
        _program("postgres", self._folders())

    def _initialize(self, directory: Path) -> None:
        password_file = directory / "password"
        password_file.write_text(PASSWORD)
        self._run(
            _program("initdb", self._folders()),
            f"--pgdata={directory / 'data'}",
            f"--username={self._superuser}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )
        password_file.unlink()

    def _command(self, directory: Path) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": HOST,
            "port": self._port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "Asia/Kolkata",
            "log_timezone": "UTC",
        }
        arguments = [f"--{key}={value}" for key, value in settings.items()]
        return [_program("postgres", self._folders()), "-D", directory / "data", *arguments]

    def _probe(self) -> str:
        if not self.is_private:
            return super()._probe()
        return str(self._execute_as_superuser(self.version_query)[0][0])

    def _populate(self) -> None:
        self._execute_as_superuser(f"CREATE ROLE {USER} LOGIN CREATEDB PASSWORD '{PASSWORD}'")
        self._execute_as_superuser(f"CREATE DATABASE {DATABASE} OWNER {USER}")

    def _drop(self, database: str) -> None:
        self._execute_patiently(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def _execute_as_superuser(self, statement: str) -> list[tuple[object, ...]]:
        url = self._url_as(self._superuser, "postgres")
        return _execute(sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"), statement)

    def _folders(self) -> list[str]:
        """Where Debian keeps the programs of each version; the highest version comes first."""
        folders = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdigit()]
        return [str(folder) for folder in sorted(folders, key=lambda folder: -int(folder.parent.name))]


class MySQL(SQLServer):
    """MySQL in the shape of MariaDB."""

    name = "mysql"
    title = "MariaDB"
    account_name = "mysql"
    driver = "pymysql"
    drivername = "mysql+pymysql"
    version_query = "SELECT VERSION()"

    def _require_programs(self) -> None:
        _program("mariadb-install-db", _SYSTEM_FOLDERS)
        _program("mariadbd", _SYSTEM_FOLDERS)

    def _initialize(self, directory: Path) -> None:
        self._run(
            _program("mariadb-install-db", _SYSTEM_FOLDERS),
            "--no-defaults",
            f"--datadir={directory / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        (directory / "users.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
            f"CREATE USER IF NOT EXISTS {USER}@'{HOST}' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO {USER}@'{HOST}';\n"
        )

    def _command(self, directory: Path) -> Sequence[str | Path]:
        return [
            _program("mariadbd", _SYSTEM_FOLDERS),
            "--no-defaults",
            f"--datadir={directory / 'data'}",
            f"--bind-address={HOST}",
            f"--port={self._port}",
            f"--socket={directory / 'socket'}",
            f"--pid-file={directory / 'pid'}",
            f"--init-file={directory / 'users.sql'}",
            "--max-connections=200",
            "--skip-name-resolve",
            "--default-time-zone=+05:30",
        ]

    def _drop(self, database: str) -> None:
        # Whoever holds a transaction open holds a lock that DROP would wait for.
        for (connection,) in self.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"):
            with contextlib.suppress(SQLAlchemyError):
                self.execute(f"KILL {connection}")
        self.execute(f"DROP DATABASE {database}")


class Redis(Server):
    """Redis, with every write in its append-only file."""

    name = "redis"
    title = "Redis"
    account_name = "redis"
    driver = None

    def _require_programs(self) -> None:
        _program("redis-server", _SYSTEM_FOLDERS)

    def _initialize(self, directory: Path) -> None:
        """An empty directory is all that it needs."""

    def _command(self, directory: Path) -> Sequence[str | Path]:
        settings = {
            "bind": HOST,
            "port": self._port,
            "dir": directory,
            "requirepass": PASSWORD,
            "appendonly": "yes",
            "save": "",
        }
        arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
        return [_program("redis-server", _SYSTEM_FOLDERS), *arguments]

    def _private_url(self) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@{HOST}:{self._port}/0"

    def _probe(self) -> str:
        url = sa.make_url(self.url)
        with socket.create_connection((url.host or HOST, url.port or 6379), timeout=5) as connection:
            if url.password:
                user = f"{url.username} " if url.username else ""
                connection.sendall(f"AUTH {user}{url.password}\r\n".encode())
            connection.sendall(b"INFO server\r\nQUIT\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        version = re.search(rb"redis_version:(\S+)", answer)
        if version is None:
            raise ConnectionError(f"Redis answered {answer[:200]!r}")
        return version[1].decode()


class MongoDB(Server):
    """MongoDB, given by a URL, or else whatever speaks its protocol and is brought up by a script.

    The script prints the server's URI on its last line. It leaves the server running, for whoever calls it next; so
    nothing here stops it, kills it or pauses it.
    """

    name = "mongodb"
    title = "MongoDB's protocol:"
    account_name = "nobody"
    driver = "pymongo"

    _script_variable = "MOORAGE_TEST_MONGODB_UP"
    _folder_variable = "MOORAGE_TEST_MONGODB_FOLDER"
    _first_time_seconds = 900.0

    def create_database(self) -> str:
        """The URL of a database that nobody has used; the server creates it when something is written to it."""
        parts = urlsplit(self.url)
        return parts._replace(path=f"/moorage_test_{secrets.token_hex(6)}").geturl()

    def drop_database(self, url: str) -> None:
        """Drop a database that ``create_database`` named."""
        name = urlsplit(url).path.removeprefix("/")
        assert name.startswith("moorage_test_"), f"{name} is not a database of the tests"
        with self._client() as client:
            client.drop_database(name)

    def stop(self) -> None:
        """Leave it as it is."""

    def _client(self) -> pymongo.MongoClient[dict[str, object]]:
        import pymongo

        return pymongo.MongoClient(self.url, serverSelectionTimeoutMS=5000)

    def _script(self) -> Path:
        beside = Path(__file__).resolve().parents[2] / "shared" / "mongodb" / "up"
        return Path(os.environ.get(self._script_variable) or beside)

    def _require_programs(self) -> None:
        script = self._script()
        if not os.access(script, os.X_OK):
            raise ServerUnavailableError(
                f"{self.environment_variable()} names no server, and {script} ({self._script_variable}) is no program"
            )

    def _make_directory(self) -> Path:
        """Where the script keeps the server, which is large, between the tests.

        The engine does not run as root: the folders above must let others pass.
        """
        named = os.environ.get(self._folder_variable)
        return Path(named) if named else Path(tempfile.gettempdir()) / "moorage-mongodb"

    def _initialize(self, directory: Path) -> None:
        """The script does that."""

    def _command(self, directory: Path) -> Sequence[str | Path]:
        return [self._script(), directory]

    def _launch(self, *, choose_port: bool) -> None:
        assert self._directory is not None
        command = self._command(self._directory)
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self._first_time_seconds,
            check=False,
            env={**os.environ, **self._variables()},
        )
        lines = result.stdout.split()
        if result.returncode or not lines:
            raise ServerUnavailableError(f"{command[0]} failed: {result.stderr[-500:].strip()}")
        self._url = lines[-1]
        self.version = self._probe()

    def _variables(self) -> dict[str, str]:
        """What the script is told beside the folder."""
        return {}

    def _private_url(self) -> str:
        return self._url or ""

    def _probe(self) -> str:
        with self._client() as client:
            found = client.admin.command("buildInfo")
        genuine = "wiredTiger" in found.get("storageEngines", ()) or found.get("javascriptEngine") == "mozjs"
        return f"MongoDB {found['version']}" if genuine else "DocumentDB 1.0"

    def _refuse_unless_private(self, refusal: str) -> None:
        raise RuntimeError(f"the server of {self.title} {self.version} {refusal}: other tests may be using it")


class DocumentDB(MongoDB):
    """DocumentDB 1.0 of a test's own: the programs that the script has fetched, with its own data and ports.

    Unlike the one that all tests share it can be stopped, killed and started again, and is durable.
    """

    name = "documentdb"
    title = "MongoDB's protocol:"

    _watcher_script = 'read -r _; "$1" "$2"; rm -rf -- "$2"'
    _own = ("pgdata", "dev", "proc", "run", "tmp")

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url)
        self._ports = (0, 0)

    def _make_directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="moorage-documentdb-", dir=super()._make_directory().parent))
        directory.chmod(0o755)
        return directory

    def _initialize(self, directory: Path) -> None:
        shared = MongoDB()
        shared.start()
        assert shared._directory is not None
        root = directory / "root"
        root.mkdir()
        for entry in (shared._directory / "root").iterdir():
            if entry.name not in self._own:
                subprocess.run(["cp", "-al", entry, root / entry.name], check=True)
        (root / "run" / "postgresql").mkdir(parents=True)
        for name in self._own:
            (root / name).mkdir(exist_ok=True)
        if account := self._account():
            for path in (root / "pgdata", root / "run" / "postgresql", root / "tmp"):
                os.chown(path, account["user"], account["group"])
        (directory / "venv").symlink_to(shared._directory / "venv")
        self._ports = (_free_port(), _free_port())
        self._watcher = subprocess.Popen(
            ["sh", "-c", self._watcher_script, "sh", self._script().with_name("down"), directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _account(self) -> _Account:
        """The script's own choice."""
        return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def _variables(self) -> dict[str, str]:
        return {"MONGO_PORT": str(self._ports[0]), "PG_PORT": str(self._ports[1]), "DURABLE": "1"}

    @property
    def processes(self) -> list[int]:
        """The ids of the gateway, of the engine, and of all its children."""
        assert self._directory is not None
        gateway = int((self._directory / "gateway.pid").read_text())
        engine = int((self._directory / "root" / "pgdata" / "postmaster.pid").read_text().splitlines()[0])
        return [gateway, engine, *_descendants(engine)]

    def kill(self) -> None:
        """SIGKILL the gateway and the engine."""
        assert self._directory is not None
        found = self.processes
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _wait_until_gone(found, seconds=_STOP_SECONDS)
        # Of a process that nobody has waited for PostgreSQL thinks that it runs.
        root = self._directory / "root"
        for path in (root / "pgdata" / "postmaster.pid", *(root / "run" / "postgresql").iterdir()):
            path.unlink()

    def halt(self) -> None:
        """Stop both in good order."""
        assert self._directory is not None
        subprocess.run([self._script().with_name("down"), self._directory], check=True)

    def stop(self) -> None:
        """Stop both and remove the data."""
        if self._directory is not None:
            self.halt()
            self._forget_process()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


class MLflow(Server):
    """An MLflow tracking server on a SQLite store of its own, or on the database that ``backend_store`` names."""

    name = "mlflow"
    title = "MLflow"
    account_name = ""
    driver = "mlflow"
    watcher_signal = "TERM"
    start_limit = 240.0
    backend_store: str | None = None

    def create_database(self) -> str:
        """The URL of a namespace that nobody has used."""
        return f"mlflow+{self.url}?namespace={secrets.token_hex(6)}&repair_after=2"

    def drop_database(self, url: str) -> None:
        """Leave it: the server is the tests' own, and MLflow only marks things as deleted."""

    def _private_url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def _require_programs(self) -> None:
        if importlib.util.find_spec("flask") is None:
            raise ServerUnavailableError("only mlflow-skinny is installed, which brings no server")

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONWARNINGS": "ignore",
        }

    def _initialize(self, directory: Path) -> None:
        """One write-ahead log for good; MLflow itself does not ask for one."""
        if self.backend_store is None:
            with contextlib.closing(sqlite3.connect(directory / "mlflow.db")) as connection:
                connection.execute("PRAGMA journal_mode = WAL")

    def _account(self) -> _Account:
        """Oneself: the server is a program of the Python that runs the tests, which others may not be able to reach."""
        return {}

    def _command(self, directory: Path) -> Sequence[str | Path]:
        store = self.backend_store or f"sqlite:///{directory}/mlflow.db"
        return [
            *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self._port), "--workers", "2"),
            *("--backend-store-uri", store, "--default-artifact-root", f"{directory}/artifacts"),
            *("--uvicorn-opts", "--timeout-graceful-shutdown 1 --log-level warning"),
        ]

    def _probe(self) -> str:
        with urllib.request.urlopen(f"{self.url}/version", timeout=10) as answer:
            return answer.read().decode()


SERVERS: dict[str, type[Server]] = {kind.name: kind for kind in (PostgreSQL, MySQL, Redis, MongoDB, DocumentDB, MLflow)}


def _execute(engine: sa.Engine, statement: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


def _program(name: str, folders: Sequence[str]) -> Path:
    """The program in the first of the folders that has it, else on PATH."""
    found = shutil.which(name, path=os.pathsep.join(folders)) if folders else None
    found = found or shutil.which(name)
    if found is None:
        raise ServerUnavailableError(
            f"the program {name} was not found on PATH{', nor in ' * bool(folders)}{', '.join(folders)}"
        )
    return Path(found)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _processes() -> dict[int, tuple[int, str]]:
    """Of every process that ``ps`` or /proc shows: its parent and its state."""
    table: dict[int, tuple[int, str]] = {}
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; the state and the parent follow the last of them.
                state, parent = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
                table[int(entry.parent.name)] = (int(parent), state)
        return table
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        pid, parent, state = line.split()[:3]
        table[int(pid)] = (int(parent), state)
    return table


def _descendants(root: int) -> list[int]:
    """Parents come before their children."""
    processes = _processes()
    found = [root]
    for ancestor in found:
        found += [pid for pid, (parent, _) in processes.items() if parent == ancestor]
    return found[1:]


def _wait_until_gone(pids: Sequence[int], *, seconds: float) -> None:
    """Wait for processes that are no children of this one; a zombie counts as gone."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes = _processes()
        if all(processes.get(pid, (0, "Z"))[1].startswith("Z") for pid in pids):
            return
        time.sleep(0.01)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(names: Sequence[str]) -> int:
    """Start the servers that are named, print their URLs, keep them until interrupted."""
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        print(f"usage: python tests/servers.py {{{','.join(SERVERS)}}} ...", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        for name in names:
            try:
                server = stack.enter_context(SERVERS[name]())
            except ServerUnavailableError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
            print(name, server.url, flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
