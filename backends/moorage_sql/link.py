"""One thread's connection: transactions, and what its database driver's errors mean."""

from __future__ import annotations

import abc
import contextlib
import threading
from typing import TYPE_CHECKING

from moorage.errors import StorageDamaged, Unavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from moorage_sql.statements import Parameter
    from moorage_sql.tables import Row


class Conflict(Exception):
    """A statement broke a unique key and changed nothing.

    Attributes:
        index: the name of the index, if the database tells it.
        fields: the fields of the key, if the database tells those.
    """

    def __init__(self, index: str | None = None, fields: tuple[str, ...] = ()) -> None:
        super().__init__(index or fields)
        self.index = index
        self.fields = fields


class MissingTable(StorageDamaged):
    """A table is not there."""


class Link(abc.ABC):
    """One thread's connection to a database.

    The lock is held while the connection is in use: whoever closes it (`Driver.close`, or a fork) waits for that. All
    methods raise translated errors; a write outside of `atomic` is a transaction of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0
        self.broken: BaseException | None = None
        self.unwanted = False

    @abc.abstractmethod
    def open(self) -> None:
        """Open the connection, which the first statement does otherwise."""

    @abc.abstractmethod
    def read(self, sql: str, arguments: Sequence[Parameter] = ()) -> list[Row]:
        """All rows of a query."""

    @abc.abstractmethod
    def stream(self, sql: str, arguments: Sequence[Parameter]) -> Generator[Row]:
        """The rows of a query one by one; close the iterator to leave early."""

    @abc.abstractmethod
    def write(self, sql: str, arguments: Sequence[Parameter], *, risky: bool = False) -> int:
        """How many rows were changed.

        Args:
            sql: the statement.
            arguments: its parameters.
            risky: whether it may break a unique key, which must not spoil the transaction that it is part of.
        """

    @abc.abstractmethod
    def write_returning(self, sql: str, arguments: Sequence[Parameter], *, risky: bool = False) -> list[Row]:
        """Like `write`, with the rows that the statement returns."""

    @abc.abstractmethod
    def _write_each(self, sql: str, rows: Sequence[Sequence[Parameter]]) -> None:
        """The same statement for each row, inside a transaction."""

    @abc.abstractmethod
    def command(self, sql: str) -> None:
        """A statement without parameters or result, as part of whatever is going on."""

    @abc.abstractmethod
    def begin(self) -> None:
        """Start a transaction that may write."""

    @abc.abstractmethod
    def commit(self) -> None:
        """End it; where this fails it has been undone, or its outcome is unknown."""

    @abc.abstractmethod
    def rollback(self) -> None:
        """Undo it; never raises."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection; whatever is called afterwards raises `StorageClosed`. Never raises."""

    def write_many(self, sql: str, rows: Sequence[Sequence[Parameter]]) -> None:
        """The same statement for each row: all of them or none."""
        with self.atomic():
            self._write_each(sql, rows)

    def atomic(self) -> contextlib.AbstractContextManager[None]:
        """A transaction, or a savepoint inside one; an exception undoes what was written inside."""
        return self._atomic()

    @contextlib.contextmanager
    def _atomic(self) -> Iterator[None]:
        with self.lock:
            self.check_transaction()
            outer = self.depth
            savepoint = f"moorage_{outer}" if outer else ""
            done = False
            try:  # from the first step on: an interruption may come between any two
                if savepoint:
                    self.command(f"SAVEPOINT {savepoint}")
                else:
                    self.begin()
                self.depth = outer + 1
                yield
                self._refuse_broken()
                self.depth = outer
                if savepoint:
                    self.command(f"RELEASE SAVEPOINT {savepoint}")
                else:
                    self.commit()
                done = True
            except BaseException:
                self.depth = outer
                if savepoint:
                    self._undo(savepoint)
                else:
                    self.rollback()
                raise
            finally:
                self.depth = outer
                if not outer:
                    if not done:  # where the first attempt was interrupted; otherwise there is nothing to undo
                        self.rollback()
                    self._finish()

    def _refuse_broken(self) -> None:
        if self.broken is not None:
            raise Unavailable("the transaction was undone: one of its statements had failed") from self.broken

    def _undo(self, savepoint: str) -> None:
        if self.broken is None:
            # If even this fails, the error has been noted in `broken` and the whole transaction goes.
            with contextlib.suppress(Exception):
                self.command(f"ROLLBACK TO SAVEPOINT {savepoint}")
                self.command(f"RELEASE SAVEPOINT {savepoint}")

    def _finish(self) -> None:
        self.broken = None
        if self.unwanted:
            self.close()

    def check_transaction(self) -> None:
        """Refuse to go on in a transaction that has been lost."""
        if self.broken is not None:
            raise Unavailable(
                "the transaction cannot go on: one of its statements failed, and all of it is undone"
            ) from self.broken

    def failed(self, error: BaseException) -> BaseException:
        """Note a translated error of a statement; inside a transaction all but a conflict spoils it."""
        if self.depth and not isinstance(error, Conflict):
            self.broken = error
        return error

    def __del__(self) -> None:
        # The last reference goes when its thread ends.
        with contextlib.suppress(Exception):
            self.close()
