"""Connections to a Redis server, and what its errors mean."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections import deque
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias, cast

from moorage.errors import (
    ConfigurationError,
    OutcomeUnknown,
    StorageClosed,
    StorageDamaged,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unavailable,
)
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Connection

Reply: TypeAlias = "bytes | int | list[Reply] | None"
Word: TypeAlias = "str | bytes | int"

_SCRIPT = files("moorage_redis").joinpath("write.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

_NO_CLUSTER = "Redis Cluster is not supported: one step of Moorage spans several keys. Use a server of its own"
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (OutOfMemoryError, "OOM"),
    (ReadOnlyError, "READONLY"),
    (BusyLoadingError, "LOADING"),
    (TryAgainError, "TRYAGAIN"),
    (MasterDownError, "MASTERDOWN"),
    (ClusterDownError, "CLUSTERDOWN"),
    (AskError, "MOVED"),
    (NoPermissionError, "NOPERM"),
    (AuthenticationError, "NOAUTH"),
    (AuthenticationWrongNumberOfArgsError, "NOAUTH"),
)
_MEANINGS: dict[str, tuple[type[Exception], str]] = {
    "OOM": (StorageFull, "its memory is full: raise maxmemory, or delete experiments"),
    "READONLY": (StorageReadOnly, "it is a replica, which takes no writes: connect to the primary"),
    "LOADING": (Unavailable, "it is still loading its data"),
    "BUSY": (Unavailable, "a script keeps it busy"),
    "TRYAGAIN": (Unavailable, "it asks to try again"),
    "MASTERDOWN": (Unavailable, "it is a replica that has lost its primary"),
    "NOREPLICAS": (Unavailable, "too few of its replicas are in touch"),
    "MISCONF": (Unavailable, "it cannot write to its disk"),
    "CLUSTERDOWN": (ConfigurationError, _NO_CLUSTER),
    "MOVED": (ConfigurationError, _NO_CLUSTER),
    "NOPERM": (ConfigurationError, "its user lacks a permission, see the README of moorage-redis"),
    "NOAUTH": (ConfigurationError, "it refuses the user or the password"),
    "DENIED": (ConfigurationError, "it refuses connections from other machines"),
    "WRONGTYPE": (StorageDamaged, "other software has written to the keys of this namespace"),
}
_WORD = re.compile(rf"\b({'|'.join(_MEANINGS)})\b")


class Link:
    """The connections of one driver; threads share them, and a forked child opens its own."""

    def __init__(self, connect: Callable[[], Connection], shown: str) -> None:
        """Remember how to make a connection; ``shown`` is the URL for messages, without its password."""
        self.shown = shown
        self._connect = connect
        self._process = os.getpid()
        self._idle: deque[Connection] = deque()
        self._closed = False

    def _take(self) -> Connection:
        """A connection that no other thread uses; a new one, not open yet, where none is idle."""
        if self._closed:
            raise StorageClosed(f"the storage {self.shown} is closed")
        if self._process != os.getpid():  # redis-py closes the parent's without disturbing the parent
            self._process, self._idle = os.getpid(), deque()
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def ask(self, *commands: tuple[Word, ...], writing: bool = False) -> list[Reply]:
        """Send commands together and return their replies.

        Nothing is ever sent twice: the core knows how to find out what became of a write.

        Raises:
            Unavailable: there is no connection, or it broke while reading.
            OutcomeUnknown: it broke while ``writing``.
        """
        connection = self._take()
        replies: list[Reply | ResponseError] = []
        otherwise: type[Exception] = Unavailable
        try:
            connection.connect()  # type: ignore[no-untyped-call]  # where it is not open yet
            if _is_over(connection):
                connection.disconnect()  # type: ignore[no-untyped-call]
                connection.connect()  # type: ignore[no-untyped-call]
            packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
            otherwise = OutcomeUnknown if writing else Unavailable
            connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
            for _ in commands:
                try:
                    replies.append(cast("Reply", connection.read_response()))
                except ResponseError as error:
                    replies.append(error)
        except (RedisError, OSError) as error:
            raise self._translated(error, otherwise) from error
        finally:
            if len(replies) == len(commands) and not self._closed:
                self._idle.append(connection)
            else:
                connection.disconnect()  # type: ignore[no-untyped-call]  # a reply may still be on its way
        for reply in replies:
            if isinstance(reply, NoScriptError):
                raise reply
            if isinstance(reply, ResponseError):
                raise self._translated(reply, StorageError) from reply
        return cast("list[Reply]", replies)

    def facts(self) -> dict[str, str]:
        """What the server tells of itself and of its settings; nothing of what this user may not ask for."""
        told: dict[str, str] = {}
        for command in (("INFO", "server"), ("INFO", "memory"), ("CONFIG", "GET", "*append*")):
            try:
                reply = self.ask(command)[0]
            except (StorageError, ConfigurationError) as error:
                if isinstance(error, Unavailable) or not isinstance(error.__cause__, ResponseError):
                    raise
                continue
            if isinstance(reply, list):
                words = [cast("bytes", one).decode(errors="replace") for one in reply]
                told.update(zip(words[::2], words[1::2], strict=True))
            else:
                lines = cast("bytes", reply).decode(errors="replace").splitlines()
                told.update((name, value) for name, _, value in (line.partition(":") for line in lines))
        return told

    def write(self, *arguments: str) -> Reply:
        """Run write.lua; its source is sent only to a server that does not know it yet, or no longer."""
        try:
            return self.ask(("EVALSHA", _SHA, 0, *arguments), writing=True)[0]
        except NoScriptError:
            return self.ask(("EVAL", _SCRIPT, 0, *arguments), writing=True)[0]

    def _translated(self, error: Exception, otherwise: type[Exception]) -> Exception:
        text = str(error)
        found = _WORD.search(text)  # inside a script Redis puts other words before the code
        code = next((code for kind, code in _CODES if isinstance(error, kind)), found.group() if found else "")
        if "No space left" in text:
            return StorageFull(f"{self.shown}: the disk of the server is full ({text})")
        if code in _MEANINGS:
            meaning, explanation = _MEANINGS[code]
            return meaning(f"{self.shown}: {explanation} ({text})")
        if isinstance(error, ResponseError) and otherwise is Unavailable:  # to the greeting: no such database, say
            otherwise = ConfigurationError
        if any(isinstance(one, ssl.SSLCertVerificationError) for one in (error.__cause__, error.__context__)):
            otherwise = ConfigurationError
        return otherwise(f"{self.shown}: {text or type(error).__name__}")

    def close(self) -> None:
        """Close what is idle; what is in use closes at the end of its call."""
        self._closed = True
        while self._idle and self._process == os.getpid():
            self._idle.pop().disconnect()  # type: ignore[no-untyped-call]


def _is_over(connection: Connection) -> bool:
    """Whether the server has closed an idle connection, as far as can be told without asking it."""
    try:
        return connection.can_read()
    except (RedisError, OSError):
        return True
