"""The driver as the core uses it: what is transient is repeated, and what is unknown is resolved.

Every mutation carries an id of its own (the field ``write``, or the document's id), so that after a lost reply the core
can read back whether it happened. Rules of retrying are here and nowhere else.
"""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, TypeVar

from moorage.driver import Capability
from moorage.errors import OutcomeUnknown, Unavailable
from moorage.filters import Comparison, equal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.driver import Changes, Document, Driver, Instant, Refusal
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
    def _repeated(self) -> bool:
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

    def together(self, steps: Callable[[], T]) -> T:
        """Run steps as one transaction where the driver has them, and one after the other where it has not.

        The steps may run more than once, so each must be safe to repeat: the ids that they write are fixed outside.
        """
        if not self.transactional or self._inside:
            return steps()

        def run() -> T:
            self._thread.inside = True
            try:
                with self.driver.transaction():
                    return steps()
            except OutcomeUnknown:
                self._thread.repeated = True
                raise
            finally:
                self._thread.inside = False

        try:
            return self._call(run, (Unavailable, OutcomeUnknown))
        finally:
            self._thread.repeated = False

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
            if not self._repeated:
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

    def patch_one(self, collection: Collection, identifier: str, where: Filter, changes: Changes) -> bool:
        """Change the document of this id if it matches; whether it did.

        Raises:
            OutcomeUnknown: the reply was lost and others have changed the document since.
        """
        write = write_id()
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

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order], mark: Filter
    ) -> Document | None:
        """See `Driver.claim`.

        ``mark`` is what a claimed document matches besides ``write``, so that it is found again after a lost reply.
        """
        write = write_id()
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
