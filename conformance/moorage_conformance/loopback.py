"""The smallest backend that is reached over a network: a server in front of SQLite, and a driver that speaks to it.

The suite tests itself on it where a fault needs a connection to show. It is correct, and small enough to see that it
is; nobody should use it for work: what it says on the wire is neither encrypted nor asked for a password.

A request and its reply are one line of JSON each. Each connection of the server has a driver of its own, which the
first line names: so a connection that is made anew, after a restart of the server as well, finds all as it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs

from moorage import errors
from moorage.codec import dumps, loads
from moorage.config import find_settings
from moorage.driver import Capability, Document, Driver, Increment, Instant, Refusal
from moorage.errors import ConfigurationError, MoorageError, OutcomeUnknown, StorageClosed, Unavailable
from moorage.filters import Comparison, Order
from moorage.plugins import Backend, Option, hookimpl, plugins
from moorage.schema import Collection, Field, Schema
from moorage_conformance.target import Hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.filters import Filter
    from moorage.plugins import OptionValue
    from moorage.url import StorageURL

HOST = "127.0.0.1"
_WRITES = frozenset({"insert", "swap", "delete", "patch", "claim"})


# What goes over the wire


def _where(where: Filter) -> list[Plain]:
    return [[one.field, one.operator, list(one.value) if isinstance(one.value, tuple) else one.value] for one in where]


def _filter(rows: list[Any]) -> Filter:
    return tuple(
        Comparison(field, operator, tuple(value) if operator == "in" else value) for field, operator, value in rows
    )


def _changes(changes: Changes) -> dict[str, Plain]:
    return {
        name: {"increment": value.by} if isinstance(value, Increment) else {"value": value}
        for name, value in changes.items()
    }


def _read_changes(rows: dict[str, Any]) -> dict[str, Plain | Increment]:
    return {name: Increment(row["increment"]) if "increment" in row else row["value"] for name, row in rows.items()}


def _row(document: Document) -> Plain:
    return [document.id, document.body, document.revision]


def _document(row: Any) -> Document:
    return Document(row[0], row[1], row[2])


def _schema(content: dict[str, Any]) -> Schema:
    def keys(rows: list[list[str]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(row) for row in rows)

    return Schema(
        version=content["version"],
        collections=tuple(
            Collection(
                name=one["name"],
                fields=tuple(Field(**field) for field in one["fields"]),
                unique=keys(one["unique"]),
                indexes=keys(one["indexes"]),
                tallies=keys(one["tallies"]),
            )
            for one in content["collections"]
        ),
    )


def _told(error: MoorageError) -> dict[str, Plain]:
    told: dict[str, Plain] = {"error": type(error).__name__, "message": str(error)}
    for name in ("key", "stored", "supported"):
        if hasattr(error, name):
            value = getattr(error, name)
            told[name] = list(value) if isinstance(value, tuple) else value
    return told


def _error(told: dict[str, Any]) -> MoorageError:
    if told["error"] == "UniqueViolation":
        return errors.UniqueViolation(told["key"])
    if told["error"] == "SchemaMismatch":
        return errors.SchemaMismatch(told["message"], stored=told["stored"], supported=told["supported"])
    kind: type[MoorageError] = getattr(errors, told["error"], errors.StorageError)
    return kind(told["message"])


# The driver


class _Connection:
    """One connection, and whose thread and process it is."""

    def __init__(
        self, address: tuple[str, int], connect_timeout: float | None, timeout: float | None, hello: dict[str, Any]
    ) -> None:
        try:
            self._socket = socket.create_connection(address, connect_timeout)
            self._socket.settimeout(timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb")
            self.process = os.getpid()
            self.ask(hello)
        except MoorageError:
            raise
        except OSError as error:
            raise Unavailable(f"the server at {address[0]}:{address[1]} cannot be reached: {error}") from error

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a line and wait for the reply.

        Raises:
            OSError: the connection failed; nobody knows whether the request was heard.
            MoorageError: what the server answered.
        """
        self._socket.sendall(dumps(request).encode() + b"\n")
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the server closed the connection")
        reply = cast("dict[str, Any]", loads(line.decode()))
        if "error" in reply:
            raise _error(reply)
        return reply["result"]

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()


class LoopbackDriver(Driver):
    """Asks a server for everything."""

    capabilities = frozenset({Capability.SHARED, Capability.DURABLE, Capability.SERVER_CLOCK})
    name: ClassVar[str] = "loopback"

    def __init__(self, url: StorageURL, options: Mapping[str, OptionValue], *, read_only: bool) -> None:
        host, colon, port = (url.host or "").rpartition(":")
        if not colon or not port.isdecimal():
            raise ConfigurationError(f"a loopback storage is loopback://host:port/name, not {url}")
        self._address = (host, int(port))
        self._timeouts = (float(options["connect_timeout"] or 0) or None, float(options["timeout"] or 0) or None)
        self._hello: dict[str, Any] = {"name": url.path.strip("/"), "read_only": read_only}
        self._local = threading.local()
        self._opened: list[_Connection] = []
        self._closed = False

    def _connection(self) -> _Connection:
        if self._closed:
            raise StorageClosed("the storage was closed before this call")
        found: _Connection | None = getattr(self._local, "connection", None)
        if found is None or found.process != os.getpid():
            found = self._local.connection = _Connection(self._address, *self._timeouts, self._hello)
            self._opened.append(found)
        return found

    def _forget(self) -> None:
        connection: _Connection = self._local.connection
        self._local.connection = None
        self._opened.remove(connection)
        connection.close()

    def _ask(self, verb: str, collection: Collection | None = None, **arguments: object) -> Any:
        connection = self._connection()
        request: dict[str, Any] = {"verb": verb, "collection": None if collection is None else collection.name}
        try:
            return connection.ask({**request, "arguments": arguments})
        except OSError as error:
            if isinstance(error, MoorageError):
                raise
            self._forget()
            if verb in _WRITES:
                raise OutcomeUnknown(f"the connection failed during {verb}: {error}") from error
            raise Unavailable(f"the connection failed during {verb}: {error}") from error

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`; each connection sets up anew."""
        self._hello |= {"schema": attrs.asdict(schema), "upgrade": upgrade}
        if not self._closed and getattr(self._local, "connection", None) is not None:
            self._forget()
        self._connection()

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`."""
        rows = self._ask("insert", collection, documents=[_row(one) for one in documents])
        return [Refusal(row[0], row[1], tuple(row[2])) for row in rows]

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        """See `Driver.find`."""
        wanted = [[one.field, one.descending] for one in order]
        return [_document(row) for row in self._ask("find", collection, where=_where(where), order=wanted, limit=limit)]

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`."""
        return bool(self._ask("swap", collection, document=_row(document), expected=expected_revision))

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`."""
        return int(self._ask("delete", collection, where=_where(where)))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`."""
        return {row[0]: row[1] for row in self._ask("tally", collection, where=_where(where), field=field)}

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`."""
        return int(self._ask("patch", collection, where=_where(where), changes=_changes(changes)))

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`."""
        wanted = [[one.field, one.descending] for one in order]
        row = self._ask("claim", collection, where=_where(where), changes=_changes(changes), order=wanted)
        return None if row is None else _document(row)

    def now(self) -> Instant:
        """See `Driver.now`: the clock of the server."""
        clock, seconds = self._ask("now")
        return Instant(clock, seconds)

    def close(self) -> None:
        """See `Driver.close`."""
        self._closed = True
        while self._opened:
            self._opened.pop().close()


# The server


class _Handler(socketserver.StreamRequestHandler):
    """One connection: a driver of its own, set up as the first line says."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer until the client leaves."""
        with contextlib.suppress(ConnectionError), contextlib.ExitStack() as stack:
            serving: tuple[Driver, dict[str, Collection]] | None = None
            for line in self.rfile:
                request = cast("dict[str, Any]", loads(line.decode()))
                try:
                    if serving is None:
                        serving = self._open(request, stack)
                        result: Plain = None
                    else:
                        result = _answer(*serving, request)
                    reply: dict[str, Plain] = {"result": result}
                except MoorageError as error:
                    reply = _told(error)
                self.wfile.write(dumps(cast("Plain", reply)).encode() + b"\n")
                if serving is None:
                    return

    def _open(self, hello: dict[str, Any], stack: contextlib.ExitStack) -> tuple[Driver, dict[str, Collection]]:
        folder = cast("_Server", self.server).folder
        url = find_settings(f"sqlite:///{folder}/{hello['name']}.db").url
        driver = plugins().backend("sqlite").connect(url, {}, read_only=hello["read_only"])
        stack.callback(driver.close)
        schema = _schema(hello["schema"])
        driver.setup(schema, upgrade=hello["upgrade"])
        return driver, {one.name: one for one in schema.collections}


def _answer(driver: Driver, collections: dict[str, Collection], request: dict[str, Any]) -> Plain:
    verb, given = request["verb"], request["arguments"]
    if verb == "now":
        now = driver.now()
        return [now.clock, now.seconds]
    collection = collections[request["collection"]]
    where = _filter(given.get("where", []))
    order = [Order(field, descending) for field, descending in given.get("order", [])]
    if verb == "insert":
        refused = driver.insert(collection, [_document(row) for row in given["documents"]])
        return [[one.position, one.id, list(one.key)] for one in refused]
    if verb == "find":
        return [_row(one) for one in driver.find(collection, where, order, given["limit"])]
    if verb == "swap":
        return driver.swap(collection, _document(given["document"]), given["expected"])
    if verb == "delete":
        return driver.delete(collection, where)
    if verb == "tally":
        return [[value, count] for value, count in driver.tally(collection, where, given["field"]).items()]
    changes = _read_changes(given["changes"])
    if verb == "patch":
        return driver.patch(collection, where, changes)
    found = driver.claim(collection, where, changes, order)
    return None if found is None else _row(found)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, folder: str) -> None:
        self.folder = folder
        super().__init__((HOST, port), _Handler)


def main() -> None:
    """Serve: ``python -m moorage_conformance.loopback PORT FOLDER``; ends when its standard input is closed."""
    server = _Server(int(sys.argv[1]), sys.argv[2])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.stdin.read()
    os._exit(0)


class LoopbackServer(Hooks):
    """A server of one's own, which can be stopped, killed and started again.

    Args:
        folder: where it keeps its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start_server()

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"{HOST}:{self._port}"

    def start_server(self) -> None:
        """See `Hooks.start_server`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moorage_conformance.loopback", str(self._port), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def stop_server(self, *, kill: bool) -> None:
        """See `Hooks.stop_server`."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def server_processes(self) -> Sequence[int]:
        """See `Hooks.server_processes`."""
        assert self._process is not None
        return [self._process.pid]

    def close(self) -> None:
        """Stop it if it runs."""
        if self._process is not None:
            self.stop_server(kill=True)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[LoopbackServer]:
    """A server that runs as long as the block."""
    server = LoopbackServer(folder)
    try:
        yield server
    finally:
        server.close()


def _open(url: StorageURL, options: Mapping[str, OptionValue], read_only: bool) -> Driver:
    return LoopbackDriver(url, options, read_only=read_only)


@hookimpl
def moorage_backends() -> list[Backend]:
    """The backend; registered only where the suite tests itself."""
    return [
        Backend(
            name="loopback",
            schemes=("loopback",),
            description="a server in front of SQLite, to test the conformance suite",
            open=_open,
            options=(
                Option(
                    name="connect_timeout",
                    kind=float,
                    default=2.0,
                    help="to wait for a connection, in seconds; 0 for ever",
                ),
                Option(name="timeout", kind=float, default=5.0, help="to wait for a reply, in seconds; 0 for ever"),
            ),
            example="loopback://127.0.0.1:7000/name",
            level=4,
        )
    ]


if __name__ == "__main__":
    main()
