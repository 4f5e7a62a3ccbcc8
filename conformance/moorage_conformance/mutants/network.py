"""What is broken where servers restart, connections break, and clocks differ."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from moorage.driver import Document, Driver, Instant
from moorage.errors import OutcomeUnknown, StorageError, Unavailable
from moorage.filters import equal
from moorage.plugins import plugins
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.driver import Changes, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection
    from moorage.url import StorageURL

T = TypeVar("T")


class Intercepted(Mutation):
    """Hands each call of a primitive to `around`, which a mutant overrides."""

    def around(self, verb: str, call: Callable[[], T]) -> T:
        """Make the call, or something else."""
        return call()

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        return self.around("insert", lambda: self.inner.insert(collection, documents))

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        return self.around("find", lambda: self.inner.find(collection, where, order, limit))

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        return self.around("swap", lambda: self.inner.swap(collection, document, expected_revision))

    def delete(self, collection: Collection, where: Filter) -> int:
        return self.around("delete", lambda: self.inner.delete(collection, where))

    def get(self, collection: Collection, identifier: str) -> Document | None:
        return self.around("get", lambda: self.inner.get(collection, identifier))

    def count(self, collection: Collection, where: Filter = ()) -> int:
        return self.around("count", lambda: self.inner.count(collection, where))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        return self.around("tally", lambda: self.inner.tally(collection, where, field))

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        return self.around("patch", lambda: self.inner.patch(collection, where, changes))

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        return self.around("claim", lambda: self.inner.claim(collection, where, changes, order))

    def now(self) -> Instant:
        return self.around("now", lambda: self.inner.now())


@mutant("NETWORK-1", base="loopback")
class DiesWithTheServer(Intercepted):
    """A driver that has once lost its server says for ever that the storage is broken."""

    _broken = False

    def around(self, verb: str, call: Callable[[], T]) -> T:
        if self._broken:
            raise StorageError("the session is no longer valid")
        try:
            return call()
        except (Unavailable, OutcomeUnknown):
            self._broken = True
            raise


@mutant("NETWORK-2", base="loopback")
class AcknowledgesBeforeTheServerHasIt(Mutation):
    """An insert is acknowledged at once and sent in the background."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        def send() -> None:
            time.sleep(0.05)
            try:
                self.inner.insert(collection, documents)
            except StorageError:
                return

        threading.Thread(target=send, daemon=True).start()
        return []


@mutant("NETWORK-3", base="loopback")
class CallsLostRepliesUnavailable(Intercepted):
    """A connection that fails is always reported as unavailable, whatever was under way."""

    def around(self, verb: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error


@mutant("NETWORK-3", base="loopback")
class RepeatsBlindly(Intercepted):
    """A call whose reply was lost is sent once more, whether it has happened or not."""

    def around(self, verb: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except OutcomeUnknown:
            return call()


@mutant("NETWORK-3", base="loopback")
class TakesLostRepliesForSuccess(Mutation):
    """A swap whose reply was lost counts as done."""

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        try:
            return self.inner.swap(collection, document, expected_revision)
        except OutcomeUnknown:
            return True


@mutant("NETWORK-4", base="loopback")
class KeepsTheDeadConnection(Intercepted):
    """A driver that has once lost its connection never makes a new one."""

    _dead = False

    def around(self, verb: str, call: Callable[[], T]) -> T:
        if self._dead:
            raise Unavailable("the connection is closed")
        try:
            return call()
        except (Unavailable, OutcomeUnknown):
            self._dead = True
            raise


@mutant("NETWORK-5", base="loopback")
class WaitsForEver(Mutation):
    """A driver that waits for a reply as long as it takes."""

    @classmethod
    def open(cls, url: StorageURL, read_only: bool) -> Driver:
        return cls(plugins().backend(url.scheme).connect(url, {"timeout": 0.0}, read_only=read_only))


@mutant("NETWORK-6", base="loopback")
class NobodyHomeMeansEmpty(Mutation):
    """A server that cannot be reached has nothing."""

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        try:
            return self.inner.find(collection, where, order, limit)
        except Unavailable:
            return []


@mutant("NETWORK-6", base="loopback")
class RaisesWhatTheLibraryRaises(Intercepted):
    """A server that cannot be reached ends in an error of the library below."""

    def around(self, verb: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Unavailable as error:
            raise ConnectionRefusedError(str(error)) from error


@mutant("NETWORK-7", base="loopback")
class ClaimsAnotherWhereTheReplyIsLost(Mutation):
    """A claim whose reply was lost is made once more, and the first document stays claimed by nobody."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        try:
            return self.inner.claim(collection, where, changes, order)
        except OutcomeUnknown:
            return self.inner.claim(collection, where, {**changes, "write": "another"}, order)


@mutant("NETWORK-7", base="loopback")
class CountsLostRepliesAsRefusals(Mutation):
    """A patch whose reply was lost says that nothing matched."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        try:
            return self.inner.patch(collection, where, changes)
        except OutcomeUnknown:
            return 0


@mutant("NETWORK-8", base="loopback")
class LeavesItsLockOnTheServer(Intercepted):
    """Each write takes a lock on the server and gives it back afterwards; of a client that is gone it stays."""

    _collection: Any = None

    def setup(self, schema: Any, *, upgrade: bool = False) -> None:
        self._collection = schema.collections[0]
        super().setup(schema, upgrade=upgrade)

    def around(self, verb: str, call: Callable[[], T]) -> T:
        if verb not in ("swap", "patch", "claim", "delete"):
            return call()
        deadline = time.monotonic() + 5
        while self.inner.insert(self._collection, [Document("lock", {"family": "lock"})]):
            if time.monotonic() > deadline:
                raise Unavailable("the storage is locked")
            time.sleep(0.01)
        result = call()
        time.sleep(0.01)
        self.inner.delete(self._collection, equal(id="lock"))
        return result


@mutant("SKEW-1", base="loopback")
class JudgesByTheWallClock(Mutation):
    """Signs of life are dated by the wall clock of whoever gives them, and judged by that of whoever looks."""

    def now(self) -> Instant:
        return Instant("wall", time.time())


@mutant("SKEW-2", base="loopback")
class ShowsTheClientsClock(Mutation):
    """The clock of the storage is the client's."""

    def now(self) -> Instant:
        return Instant(self.inner.now().clock, time.time())
