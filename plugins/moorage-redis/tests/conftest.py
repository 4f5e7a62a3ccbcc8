"""A private Redis server on 127.0.0.1, with a password and with every write on its disk before it is acknowledged."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import pytest
import redis
from moorage.schema import SCHEMA
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage import Driver

HOST = "127.0.0.1"
PASSWORD = "kelp@rock/7"
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
# The pipe to its standard input closes when the tests are gone, however they went.
_WATCHER = 'read -r _; kill -s KILL "$1"; sleep 1; rm -rf -- "$2"'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


class RedisServer:
    """One redis-server that can be killed, paused and started again, on the same port and with its data."""

    def __init__(self, **settings: str) -> None:
        self.program = shutil.which("redis-server", path=os.pathsep.join(("/usr/sbin", "/usr/bin", os.environ["PATH"])))
        self.settings = {**DURABLE, "save": "", **{name.replace("_", "-"): value for name, value in settings.items()}}
        self.folder = Path(tempfile.mkdtemp(prefix="moorage-redis-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.watcher: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client of the tests' own, which sees what the driver has done."""
        return redis.Redis(host=HOST, port=self.port, password=PASSWORD, retry=Retry(NoBackoff(), 0), protocol=2)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.resume()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        assert self.program is not None
        settings = {"bind": HOST, "port": self.port, "dir": self.folder, "requirepass": PASSWORD, **self.settings}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.watcher = subprocess.Popen(
            ["sh", "-c", _WATCHER, "sh", str(self.process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "server.log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; `start` brings back what was on the disk."""
        for process in (self.watcher, self.process):
            if process is not None:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        self.process = self.watcher = None

    def halt(self) -> None:
        """End it in good order; `start` brings it back."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait()
        self.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)


def serve(**settings: str) -> RedisServer:
    """A server that has not been started; without its program the test is skipped, or fails where it is required."""
    server = RedisServer(**settings)
    if server.program is None:
        server.__exit__()
        reason = "the program redis-server was not found on PATH"
        if "redis" in os.environ.get("MOORAGE_REQUIRE", "").replace(" ", "").split(","):
            pytest.fail(f"MOORAGE_REQUIRE asks for redis, but {reason}", pytrace=False)
        pytest.skip(reason)
    return server


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """The server that the tests share."""
    with serve() as started:
        yield started


@pytest.fixture(scope="session")
def quick_server() -> Iterator[RedisServer]:
    """A server that keeps nothing on its disk, for tests of many small steps."""
    with serve(appendonly="no") as started:
        yield started


@pytest.fixture
def own_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts a server for one test alone, with settings such as ``maxmemory="3mb"``."""
    started: list[RedisServer] = []

    def start(**settings: str) -> RedisServer:
        started.append(serve(**settings))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.__exit__()


@pytest.fixture
def url(server: RedisServer, request: pytest.FixtureRequest) -> str:
    """The URL of a namespace that nobody has used."""
    name = re.sub(r"[^a-z0-9_]", "", request.node.originalname)
    return f"{server.url}?namespace={name[:60]}.{time.time_ns()}"


@pytest.fixture
def open_driver() -> Iterator[Callable[..., Driver]]:
    """Opens drivers, ready to use, and closes them after the test."""
    from moorage import StorageURL
    from moorage.plugins import plugins

    opened: list[Driver] = []

    def start(url: str, *, read_only: bool = False, **options: object) -> Driver:
        parsed = StorageURL.parse(url)
        driver = plugins().backend(parsed.scheme).connect(parsed, options, read_only=read_only)
        opened.append(driver)
        driver.setup(SCHEMA)
        return driver

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def driver(url: str, open_driver: Callable[..., Driver]) -> Driver:
    """A driver of an empty namespace."""
    return open_driver(url)
