"""The conformance suite at level 4, on a server that it may restart and kill: ``pytest -m conformance``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import RedisServer, serve
from moorage_conformance import ConformanceSuite, Hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ServerHooks(Hooks):
    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def stop_server(self, *, kill: bool) -> None:
        self.server.kill() if kill else self.server.halt()

    def start_server(self) -> None:
        self.server.start()

    def server_processes(self) -> Sequence[int]:
        assert self.server.process is not None
        return [self.server.process.pid]


@pytest.mark.conformance
class TestRedis(ConformanceSuite):
    level = 4

    @pytest.fixture(scope="class")
    @classmethod
    def hooks(cls) -> Iterator[Hooks]:
        with serve() as server:
            yield ServerHooks(server)

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, hooks: ServerHooks) -> str:
        return f"{hooks.server.url}?namespace={{ns}}&timeout=4&connect_timeout=4"
