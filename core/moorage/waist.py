"""The driver as the core uses it: what is transient is repeated, and what is unknown is resolved.

Every mutation carries an id of its own (the field ``write``, or the document's id), so that after a lost reply the core
can read back whether it happened. Rules of retrying are here and nowhere else.
"""

from __future__ import annotations

import secrets
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from moorage.driver import Capability, Document, changed
from moorage.errors import FailedUpdate, OutcomeUnknown, Unavailable
from moorage.filters import Comparison, equal, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.driver import Changes, Driver, Instant, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection

T = TypeVar("T")

IN_LIMIT = 500
"""How many values one ``in`` comparison is given at the most; longer lists are asked for in parts."""


def write_id() -> str:
    """A fresh id for one mutation."""
    return secrets.token_hex(8)


class Waist:
    """A driver, made resilient.

    Args:
        driver: what is wrapped.
        retry_timeout: seconds during which a transient error is repeated, with jittered exponential backoff.
    """

    def __init__(self, driver: Driver, *, retry_timeout: float) -> None:
        self.driver = driver
        self.retry_timeout = retry_timeout
        self.transactional = Capability.TRANSACTIONS in driver.capabilities
        self._thread = threading.local()

    @property
    def _inside(self) -> bool:
        """Whether this thread is inside a transaction."""
        return getattr(self._thread, "inside", False)

    @property
    def repeated(self) -> bool:
        """Whether this thread repeats a transaction that may have been committed."""
        return getattr(self._thread, "repeated", False)

    def _call(self, operation: Callable[[], T], on: tuple[type[BaseException], ...] = (Unavailable,)) -> T:
        """Repeat what failed with a transient error; inside a transaction, all of it is repeated instead."""
        try:
            return operation()
        except on:
            if self._inside:
                raise
            return self._again(operation, on)

    def _again(self, operation: Callable[[], T], on: tuple[type[BaseException], ...]) -> T:
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(on),
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1),
            stop=tenacity.stop_after_delay(self.retry_timeout),
            reraise=True,
        )
        return retrying(operation)

    def together(self, steps: Callable[[], T], *, settled: bool = True) -> T:
        """Run steps as one transaction where the driver has them, and one after the other where it has not.

        The steps may run more than once, so each must be safe to repeat: the ids that they write are fixed outside.

        Args:
            steps: what to do.
            settled: False where steps that find nothing to do (None, or `FailedUpdate`) cannot tell, when they are
                repeated, whether they did it before, and others have changed it since.

        Raises:
            OutcomeUnknown: the reply to the commit was lost, and the repetition could not find out what had happened.
        """
        if not self.transactional or self._inside:
            return steps()

        unknown: OutcomeUnknown | None = None

        def run() -> T:
            nonlocal unknown
            self._thread.inside = True
            try:
                with self.driver.transaction():
                    return steps()
            except OutcomeUnknown as error:
                self._thread.repeated = True
                unknown = error
                raise
            finally:
                self._thread.inside = False

        try:
            done = self._call(run, (Unavailable, OutcomeUnknown))
        except FailedUpdate:
            if unknown is None or settled:
                raise
            raise unknown from None
        finally:
            self._thread.repeated = False
        if done is None and unknown is not None and not settled:
            raise unknown
        return done

    def get(self, collection: Collection, identifier: str) -> Document | None:
        """See `Driver.get`."""
        return self._call(lambda: self.driver.get(collection, identifier))

    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """See `Driver.find`."""
        return self._call(lambda: self.driver.find(collection, where, order, limit))

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`."""
        return self._call(lambda: self.driver.count(collection, where))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`."""
        return self._call(lambda: self.driver.tally(collection, where, field))

    def now(self) -> Instant:
        """See `Driver.now`."""
        return self._call(self.driver.now)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`; a document that an earlier try of this call inserted is not refused."""
        try:
            refused = self._call(lambda: self.driver.insert(collection, documents))
            if not self.repeated:
                return refused
        except OutcomeUnknown:
            if self._inside:
                raise
            refused = self._again(lambda: self.driver.insert(collection, documents), (Unavailable, OutcomeUnknown))
        return [one for one in refused if not self._is_ours(collection, documents[one.position])]

    def _is_ours(self, collection: Collection, document: Document) -> bool:
        """Whether what is stored under this id is what we tried to insert, and not somebody else's of the same id."""
        stored = self.get(collection, document.id)
        if stored is None:
            return False
        ours = document.body
        if ours.get("write") is not None and stored.body.get("write") == ours["write"]:
            return True
        marks = [name for name in ("sequence", "created") if ours.get(name) is not None]
        return bool(marks) and all(stored.body.get(name) == ours[name] for name in marks)

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`; after a lost reply, those that were changed are counted by their ``write``."""
        write = write_id()
        changes = {**changes, "write": write}
        try:
            return self.driver.patch(collection, where, changes)
        except (Unavailable, OutcomeUnknown):  # some may be changed even if it was unavailable for the next
            if self._inside:
                raise
        rest = (*where, Comparison("write", "!=", write))
        self._again(lambda: self.driver.patch(collection, rest, changes), (Unavailable, OutcomeUnknown))
        return self.count(collection, equal(write=write))

    def patch_one(
        self, collection: Collection, identifier: str, where: Filter, changes: Changes, write: str | None = None
    ) -> bool:
        """Change the document of this id if it matches; whether it did.

        Args:
            collection: where it is.
            identifier: its id.
            where: what it must be like.
            changes: what becomes of it.
            write: the id of this mutation; inside `together` it is fixed outside of the steps.

        Raises:
            OutcomeUnknown: the reply was lost and others have changed the document since.
        """
        if write is None:
            write = write_id()
        elif self.repeated and self._is_written(collection, identifier, write):
            return True
        changes = {**changes, "write": write}
        wanted = (Comparison("id", "=", identifier), *where)
        try:
            return self._call(lambda: self.driver.patch(collection, wanted, changes)) > 0
        except OutcomeUnknown as error:
            if self._inside:
                raise
            unknown = error

        def resolve() -> bool:
            stored = self.driver.get(collection, identifier)
            if stored is not None and stored.body.get("write") == write:
                return True
            return self.driver.patch(collection, wanted, changes) > 0

        if self._again(resolve, (Unavailable, OutcomeUnknown)):
            return True
        raise unknown

    def _is_written(self, collection: Collection, identifier: str, write: str) -> bool:
        stored = self.get(collection, identifier)
        return stored is not None and stored.body.get("write") == write

    def change_one(
        self, collection: Collection, identifier: str, where: Filter, changes: Changes, write: str | None = None
    ) -> Document | None:
        """Change the document of this id if it matches, and return it as this very change stored it; None otherwise.

        What is read afterwards may be somebody else's later write; what this returns is one's own.

        Args:
            collection: where it is.
            identifier: its id.
            where: what it must be like.
            changes: what becomes of it.
            write: the id of this mutation; inside `together` it is fixed outside of the steps.

        Raises:
            OutcomeUnknown: the reply was lost and others have changed the document since.
            UniqueViolation: the change breaks a declared unique key.
        """
        write = write or write_id()
        changes = {**changes, "write": write}
        wanted = (Comparison("id", "=", identifier), *where)
        unknown: OutcomeUnknown | None = None
        if not self.repeated:
            try:
                claimed = self._call(lambda: self.driver.claim(collection, wanted, changes))
            except OutcomeUnknown as error:
                if self._inside:
                    raise
                unknown = error
            else:
                if claimed is not None:
                    return claimed
        # A claim may pass over what another call is changing at that moment: so it must be seen that it does not match.
        while True:
            stored = self.get(collection, identifier)
            if stored is not None and stored.body.get("write") == write:
                return stored
            if stored is None or not matches(where, stored.id, stored.revision, stored.body):
                if unknown is not None:
                    raise unknown
                return None
            after = Document(identifier, changed(stored.body, changes), stored.revision + 1)
            try:
                if self._call(partial(self.driver.swap, collection, after, stored.revision)):
                    return after
            except OutcomeUnknown as error:
                if self._inside:
                    raise
                unknown = error

    def claim(
        self,
        collection: Collection,
        where: Filter,
        changes: Changes,
        order: Sequence[Order],
        mark: Filter,
        *,
        write: str | None = None,
    ) -> Document | None:
        """See `Driver.claim`.

        Args:
            collection: where to look.
            where: what matches.
            changes: what becomes of it.
            order: which one is the first.
            mark: what a claimed document matches besides ``write``, so that it is found again after a lost reply.
            write: the id of this mutation; inside `together` it is fixed outside of the steps.
        """
        if write is None:
            write = write_id()
        elif self.repeated:
            found = self.find(collection, (*mark, Comparison("write", "=", write)), limit=1)
            if found:
                return found[0]
        changes = {**changes, "write": write}
        try:
            return self._call(lambda: self.driver.claim(collection, where, changes, order))
        except OutcomeUnknown:
            if self._inside:
                raise

        def resolve() -> Document | None:
            found = self.driver.find(collection, (*mark, Comparison("write", "=", write)), limit=1)
            return found[0] if found else self.driver.claim(collection, where, changes, order)

        return self._again(resolve, (Unavailable, OutcomeUnknown))

    def delete(self, collection: Collection, where: Filter, expected: int = 0) -> int:
        """See `Driver.delete`; after a lost reply all that were ``expected`` are gone, and counted."""
        try:
            return self._call(lambda: self.driver.delete(collection, where))
        except OutcomeUnknown:
            if self._inside:
                raise
        self._again(lambda: self.driver.delete(collection, where), (Unavailable, OutcomeUnknown))
        return expected

    def close(self) -> None:
        """See `Driver.close`."""
        self.driver.close()
