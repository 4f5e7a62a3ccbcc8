"""A TCP proxy that does what networks do: it cuts connections, loses replies, falls silent, and is not there."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING, Literal, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)

Direction = Literal["request", "reply"]


@attrs.define(eq=False)
class _Pair:
    """A connection of a client, and the one to the server that belongs to it."""

    client: socket.socket
    server: socket.socket

    def cut(self) -> None:
        """Reset both."""
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Proxy:
    """Stands between clients on this machine and a server.

    Args:
        host: of the server.
        port: of the server.
        seed: of the random faults.
    """

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self._server = (host, port)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._judge: Callable[[Direction], bool] = lambda direction: False
        self.faults = 0
        """How many connections were cut by `lose_replies` and `break_at_random`."""
        self._listener: socket.socket | None = None
        self._closed = False
        self.port = 0
        self.listen()

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it does to connections

    def listen(self) -> None:
        """Take connections, again after `refuse`."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True, name="proxy").start()

    def refuse(self) -> None:
        """Take no connections, and cut those that there are."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.cut()

    def stall(self) -> None:
        """Pass nothing on; connections stay open, and new ones are taken."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass all on again, what was held back as well."""
        self._flowing.set()

    def lose_reply(self, number: int) -> None:
        """Swallow one of the next replies and cut its connection.

        Args:
            number: which, from 1; a reply is what the server sends at once.
        """
        left = [number]

        def judge(direction: Direction) -> bool:
            if direction == "reply":
                left[0] -= 1
                return left[0] == 0
            return False

        self._judge = judge

    def break_at_random(self, chance: float) -> None:
        """Cut connections at random moments: half of the time a request is lost, half of the time a reply.

        Args:
            chance: for each request and each reply; 0 for no more faults.
        """
        self._judge = lambda direction: self._random.random() < chance

    def close(self) -> None:
        """Cut everything and stop."""
        self._closed = True
        self.refuse()
        self._flowing.set()

    # How

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server, 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = _Pair(client, server)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add(pair)
            for source, sink, direction in ((client, server, "request"), (server, client, "reply")):
                threading.Thread(target=self._pump, args=(pair, source, sink, direction), daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                with self._lock:
                    lost = pair in self._pairs and self._judge(direction)
                    self.faults += lost
                if lost:
                    break
                sink.sendall(data)
        self._flowing.wait()
        with self._lock:
            self._pairs.discard(pair)
        pair.cut()
