"""The client, its deadlines, and what the errors of pymongo mean."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pymongo
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidName,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from pymongo.errors import ConfigurationError as InvalidConfiguration

from moorage.errors import (
    ConfigurationError,
    InvalidArgument,
    OutcomeUnknown,
    StorageClosed,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage_mongodb.documents import Stored

DUPLICATE_KEY = 11000
_WITH_TIME_ZONES: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_PARTING = 2.0
"""Seconds that saying goodbye to a server may take."""
_FORBIDDEN, _WRONG_PASSWORD = frozenset({13}), frozenset({18, 8000})
_FULL, _TOO_LARGE = frozenset({12501, 14031}), frozenset({10334, 17419, 17420})
# The server did nothing and says so: conflicts of locks and of writes, and snapshots that it cannot give just now.
_NOT_DONE = frozenset({24, 46, 112, 117, 134, 239, 246})
# The server gave up half way, because of a deadline, of its own end, or of a change of the primary.
_BROKEN_OFF = frozenset({6, 7, 50, 64, 89, 91, 189, 262, 9001, 10058, 10107, 11600, 11601, 11602, 13435, 13436})

_inherited: list[object] = []
"""Clients of a parent process: neither used nor closed here, since their connections are the parent's."""


class Link:
    """One client for each process: a forked child makes its own."""

    def __init__(
        self, client: MongoClient[Any] | Callable[[], MongoClient[Any]], *, timeout: float, shown: str
    ) -> None:
        """Remember the client, or how to make one; a client that is given is never closed."""
        self.shown = shown
        self._timeout = timeout or None
        self._given = client
        self._client = client if isinstance(client, MongoClient) else None
        self._process = os.getpid()
        self._mutex = threading.Lock()
        self._closed = False

    @property
    def client(self) -> MongoClient[Any]:
        """The client of this process.

        Raises:
            StorageClosed: after `close`.
            Unsupported: the client was made by a user in the parent of this process.
        """
        if self._closed:
            raise StorageClosed(f"the storage {self.shown} is closed; connect again")
        if self._client is None or self._process != os.getpid():
            return self._renew()
        return self._client

    def _renew(self) -> MongoClient[Any]:
        if isinstance(self._given, MongoClient):
            raise Unsupported(
                f"{self.shown} was opened with a client, and no client of pymongo survives a fork: give MongoDriver a "
                "function that makes one, or open the storage in the child"
            )
        process = os.getpid()
        if self._process != process and self._mutex.locked():
            self._mutex = threading.Lock()  # held by a thread of the parent that does not exist here
        with self._mutex:
            if self._process != process:
                _inherited.append(self._client)
                self._client, self._process = None, process
            if self._client is None:
                self._client = self._given()
            return self._client

    @contextlib.contextmanager
    def calling(self, *, writing: bool = False, several: bool = False) -> Iterator[MongoClient[Any]]:
        """Use the client, with a deadline for all that is done inside.

        Args:
            writing: an error may leave open whether something was written.
            several: what is written is more than one document, so that one may be written where another failed.

        Raises:
            Unavailable: nothing was written.
            OutcomeUnknown: it may have been.
        """
        client = self.client
        try:
            with pymongo.timeout(self._timeout):
                yield client
        except BulkWriteError:
            raise
        except (PyMongoError, BSONError, OverflowError) as error:
            if isinstance(error, OperationFailure) and error.code == DUPLICATE_KEY:
                raise
            raise self.translated(error, writing=writing, several=several) from error

    def translated(self, error: Exception, *, writing: bool, several: bool = False) -> Exception:
        """What an error of pymongo means to the core."""
        kind: type[Exception] = StorageError
        code = error.code if isinstance(error, OperationFailure) else None
        text = str(error)
        if isinstance(error, OperationFailure) and isinstance(error.details, dict):
            text = str(error.details.get("errmsg", text))  # without the documents that pymongo adds
        text = text.partition(" (configured timeouts")[0].partition(", Timeout: ")[0]
        unclear = OutcomeUnknown if writing else Unavailable
        if isinstance(error, InvalidOperation):
            kind = StorageClosed
        elif "CERTIFICATE_VERIFY_FAILED" in text:
            kind = ConfigurationError
        elif isinstance(error, (ServerSelectionTimeoutError, WaitQueueTimeoutError)):
            kind = Unavailable  # pymongo raises these only where the first attempt was never sent
        elif isinstance(error.__cause__, ConnectionRefusedError) and not several and not self.retries_writes:
            kind = Unavailable  # nobody was there to send it to
        elif isinstance(error, (ConnectionFailure, WriteConcernError)):
            kind = unclear
        elif isinstance(error, (InvalidConfiguration, InvalidName)):
            kind = ConfigurationError
        elif isinstance(error, (DocumentTooLarge, BSONError, OverflowError)) or code in _TOO_LARGE:
            kind = InvalidArgument
        elif code in _WRONG_PASSWORD or (code in _FORBIDDEN and not writing):
            kind = ConfigurationError
        elif code in _FORBIDDEN:
            kind = StorageReadOnly
        elif code in _FULL:
            kind = OutcomeUnknown if several else StorageFull
        elif code in _NOT_DONE:
            kind = OutcomeUnknown if several else Unavailable
        elif code in _BROKEN_OFF or (isinstance(error, PyMongoError) and error.has_error_label("RetryableWriteError")):
            kind = unclear
        return kind(f"{self.shown}: {text[:500] or type(error).__name__}")

    def hello(self) -> Stored:
        """What the server that takes writes tells of itself, its clock included."""
        with self.calling() as client, pymongo.timeout(client.options.server_selection_timeout):
            return dict(client.admin.command("hello", codec_options=_WITH_TIME_ZONES))

    def build_info(self) -> Stored:
        """Which software the server is."""
        with self.calling() as client:
            return dict(client.admin.command("buildInfo"))

    @property
    def retries_writes(self) -> bool:
        """Whether the client repeats writes whose reply was lost."""
        return bool(self.client.options.retry_writes)

    def close(self) -> None:
        """Close the client, unless a user or a parent process made it."""
        self._closed = True
        with self._mutex:
            client, self._client = self._client, None
        if client is not None and client is not self._given and self._process == os.getpid():
            with contextlib.suppress(PyMongoError), pymongo.timeout(_PARTING):
                client.close()
