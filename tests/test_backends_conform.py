"""Each backend at the level that it declares: ``pytest -m conformance``.

Reports are written with ``--moorage-report=DIR``, a folder for each backend.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

import pytest

from moorage_conformance import ConformanceSuite, Hooks
from servers import MongoDB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from servers import Server

SHORT = "connect_timeout=4&statement_timeout=4"
"""A server that does not answer is to be given up soon, so that the tests of that are short."""


class TestMemory(ConformanceSuite):
    url = "memory://{ns}"


class OnFile(ConformanceSuite):
    level = 3
    template: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> str:
        return cls.template.replace("FOLDER", str(tmp_path_factory.mktemp("storages")))


@pytest.mark.conformance
class TestSQLite(OnFile):
    template = "sqlite:///FOLDER/{ns}.db"


class ServerHooks(Hooks):
    """What the suite asks for a server of the tests' own."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def stop_server(self, *, kill: bool) -> None:
        if kill:
            self.server.kill()
        else:
            self.server.halt()

    def start_server(self) -> None:
        self.server.start()

    def server_processes(self) -> Sequence[int]:
        return self.server.processes


class OnServer(ConformanceSuite):
    level = 4
    server_name: ClassVar[str]
    options: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, private_server_of_class: Callable[[str], Server]) -> Server:
        return private_server_of_class(cls.server_name)

    @pytest.fixture(scope="class")
    @classmethod
    def hooks(cls, server: Server) -> Hooks:
        return ServerHooks(server)

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, server: Server) -> str:
        return f"{server.url}?{cls.options}"


@pytest.mark.conformance
class TestPostgreSQL(OnServer):
    server_name = "postgresql"
    options = f"prefix={{ns}}_&{SHORT}"


@pytest.mark.conformance
class TestMariaDB(OnServer):
    server_name = "mysql"
    options = f"prefix={{ns}}_&{SHORT}"


@pytest.mark.conformance
class TestJSON(OnFile):
    template = "json:///FOLDER/{ns}.json"


@pytest.mark.conformance
class TestMongoDB(OnServer):
    """On DocumentDB 1.0, or on the real MongoDB of MOORAGE_TEST_MONGODB, which cannot be stopped from here."""

    server_name = "mongodb"
    options = "connect_timeout=4&timeout=4"

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, private_server_of_class: Callable[[str], Server]) -> Server:
        return private_server_of_class("mongodb" if MongoDB.environment_variable() in os.environ else "documentdb")

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, server: Server) -> str:
        return f"{server.url.rstrip('/')}/{{ns}}?{cls.options}"


@pytest.mark.conformance
class TestMLflow(OnServer):
    server_name = "mlflow"
    options = "namespace={ns}"

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, server: Server) -> str:
        return f"mlflow+{server.url}?{cls.options}"


@pytest.mark.conformance
class TestMLflowInProcess(OnFile):
    template = "mlflow+sqlite:///FOLDER/{ns}.db"
