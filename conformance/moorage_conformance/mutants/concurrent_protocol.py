"""What is broken where many workers share trials, resources and the algorithm lock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from moorage.driver import Capability, Document, Increment, Instant
from moorage.filters import Comparison, equal
from moorage.schema import ALGORITHM_LOCKS, ALGORITHM_STATE_CHUNKS, RESOURCES, TRIALS
from moorage_conformance.mutants import Mutation, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.driver import Changes, Driver, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection

WIDER = 0.003
"""Seconds for which a race is held open, so that each run finds it."""


def _without(where: Filter, *names: str) -> Filter:
    """A filter that does not compare these fields."""
    return tuple(one for one in where if one.field not in names)


class _Forgetful(Mutation):
    """Does not compare some fields when it changes documents of one collection."""

    of: ClassVar[Collection]
    forgotten: ClassVar[tuple[str, ...]]

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        kept = _without(where, *self.forgotten) if collection == self.of else where
        return self.inner.patch(collection, kept, changes)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        kept = _without(where, *self.forgotten) if collection == self.of else where
        return self.inner.claim(collection, kept, changes, order)


class _Apart(Mutation):
    """Has no transactions, which would hide a race between two of its steps."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.capabilities = inner.capabilities - {Capability.TRANSACTIONS}


class _Careless(_Apart):
    """Compares first, and then changes what matched, in one collection."""

    of: ClassVar[Collection]

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection != self.of:
            return self.inner.patch(collection, where, changes)
        found = self.inner.find(collection, where)
        if not found:
            return 0
        time.sleep(WIDER)
        return self.inner.patch(collection, (Comparison("id", "in", tuple(one.id for one in found)),), changes)

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if collection != self.of or order:
            return self.inner.claim(collection, where, changes, order)
        found = self.inner.find(collection, where, (), 1)
        if not found:
            return None
        time.sleep(WIDER)
        return self.inner.claim(collection, equal(id=found[0].id), changes)


class _Greedy(_Apart):
    """Reads the first match and then writes it, whoever has taken it in between, in one collection."""

    of: ClassVar[Collection]

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if collection != self.of:
            return self.inner.claim(collection, where, changes, order)
        found = self.inner.find(collection, where, order, 1)
        if not found:
            return None
        time.sleep(WIDER)
        self.inner.patch(collection, equal(id=found[0].id), changes)
        return self.inner.get(collection, found[0].id)


# Trials


@mutant("TRIAL-1", base="sqlite")
class TrialsAreHandedOutTwice(_Greedy):
    """A reservation reads the next trial and then writes it, whoever has reserved it in between."""

    of = TRIALS


@mutant("TRIAL-1", base="sqlite")
class TokensStandStill(Mutation):
    """A trial that is reserved again keeps its fencing token."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        if collection == TRIALS:
            found = self.inner.find(collection, where, order, 1)
            if found and found[0].body.get("token"):
                kept = {name: value for name, value in changes.items() if name != "token"}
                return self.inner.claim(collection, (*where, *equal(id=found[0].id)), kept, order)
        return self.inner.claim(collection, where, changes, order)


@mutant("TRIAL-2", base="sqlite")
class TrialTokensAreIgnored(_Forgetful):
    """The fencing token of a trial is not compared when a worker changes it."""

    of = TRIALS
    forgotten = ("token",)


@mutant("TRIAL-2", base="sqlite")
class TrialsAreComparedBefore(_Careless):
    """Token and status of a trial are compared first, and then it is changed without comparing them."""

    of = TRIALS


@mutant("TRIAL-2", base="sqlite")
class MeasurementsAreNotFenced(Mutation):
    """The fencing token is not compared where a trial admits measurements, so that those of a lost one are stored."""

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        kept = _without(where, "token") if collection == TRIALS and "measured" in changes else where
        return self.inner.claim(collection, kept, changes, order)


@mutant("TRIAL-3", base="sqlite")
class DuplicateTrialsAreStored(_Apart):
    """A trial that two workers register at the same moment is told to be new to both."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        if collection != TRIALS:
            return self.inner.insert(collection, documents)
        before = {one.id for one in documents if self.inner.get(collection, one.id) is not None}
        time.sleep(WIDER)
        return [one for one in self.inner.insert(collection, documents) if one.id in before]


@mutant("TRIAL-3", base="sqlite")
class DuplicateTrialsAreRenamed(_Apart):
    """A trial whose id is taken when it is written is stored under another id."""

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        refused = self.inner.insert(collection, documents)
        if collection != TRIALS or not refused:
            return refused
        for one in refused:
            document = documents[one.position]
            trial = f"{document.body['trial']}-2"
            body = {**document.body, "trial": trial, "number": None}
            self.inner.insert(collection, [Document(f"{document.id}-2", body)])
        return refused


@mutant("TRIAL-4", base="sqlite")
class CountsAreKeptByEachProcess(Mutation):
    """Counts by status are kept by each process, which renews them only when it writes."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._kept: dict[str, dict[str | float | bool | None, int]] = {}

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        key = f"{collection.name}/{where}/{field}"
        if key not in self._kept:
            self._kept[key] = self.inner.tally(collection, where, field)
        return dict(self._kept[key])

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        self._kept.clear()
        return self.inner.patch(collection, where, changes)

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        self._kept.clear()
        return self.inner.insert(collection, documents)


@mutant("TRIAL-4", base="sqlite")
class CountsOfStatusesDrift(Mutation):
    """Deletions do not reach the counts by status, as they go past the triggers that keep these."""

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        counts = self.inner.tally(collection, where, field)
        if collection == TRIALS:
            for one in self.inner.find(RESOURCES, equal(kind="deleted")):
                status = str(one.body["holder"])
                counts[status] = counts.get(status, 0) + 1
        return counts

    def delete(self, collection: Collection, where: Filter) -> int:
        if collection == TRIALS:
            for one in self.inner.find(collection, where):
                body = {"name": one.id, "kind": "deleted", "holder": one.body.get("status")}
                self.inner.insert(RESOURCES, [Document(one.id, body)])
        return self.inner.delete(collection, where)


# The algorithm lock


@mutant("LOCK-1", base="sqlite")
class LockRevisionsAreIgnored(_Forgetful):
    """Who takes the lock does not compare the revision that it has read."""

    of = ALGORITHM_LOCKS
    forgotten = ("revision",)


@mutant("LOCK-1", base="sqlite")
class LockIsComparedBefore(_Careless):
    """Who takes the lock compares its revision first, and then writes without comparing it."""

    of = ALGORITHM_LOCKS


@mutant("LOCK-1", base="sqlite")
class LockTokensBeginAnew(Mutation):
    """Releasing the lock removes what belonged to its holder, and the fencing token with it."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection == ALGORITHM_LOCKS and changes.get("holder", "") is None:
            changes = {**changes, "token": 0}
        return self.inner.patch(collection, where, changes)


@mutant("LOCK-2", base="sqlite")
class StatesAreKeptByEachProcess(Mutation):
    """Each process keeps the state that it saved itself, and takes it for the stored one."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._state: dict[str, object] = {}

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection == ALGORITHM_LOCKS and "state" in changes:
            self._state = {name: changes[name] for name in ("state", "chunks", "chunk_token") if name in changes}
        return self.inner.patch(collection, where, changes)

    def get(self, collection: Collection, identifier: str) -> Document | None:
        found = self.inner.get(collection, identifier)
        if found is not None and collection == ALGORITHM_LOCKS and self._state.get("state"):
            found.body.update(self._state)  # type: ignore[arg-type]
        return found


@mutant("LOCK-2", base="sqlite")
class StatesAreSavedLater(Mutation):
    """A release frees the lock, and the state is saved by a second statement."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection != ALGORITHM_LOCKS or "state" not in changes:
            return self.inner.patch(collection, where, changes)
        freed = {name: value for name, value in changes.items() if name not in ("state", "chunks", "chunk_token")}
        done = self.inner.patch(collection, where, freed)
        if done:
            time.sleep(10 * WIDER)
            saved = {name: changes[name] for name in ("state", "chunks", "chunk_token")}
            self.inner.patch(collection, tuple(one for one in where if one.field == "id"), saved)
        return done


@mutant("LOCK-2", base="sqlite")
class PartsOfStatesAreKept(Mutation):
    """Each process keeps the parts of a large state that it has read, whichever state they belong to."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._parts: list[Document] = []

    def find(
        self, collection: Collection, where: Filter = (), order: Sequence[Order] = (), limit: int | None = None
    ) -> list[Document]:
        if collection != ALGORITHM_STATE_CHUNKS:
            return self.inner.find(collection, where, order, limit)
        if not self._parts:
            self._parts = self.inner.find(collection, where, order, limit)
        return self._parts


@mutant("LOCK-3", base="sqlite")
class PlacesInTheQueueAreForgotten(Mutation):
    """Who waits for the lock gets no place in its queue, as that change is not stored."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection == ALGORITHM_LOCKS and changes.get("queue") is not None:
            return self.inner.count(collection, where)
        return self.inner.patch(collection, where, changes)


@mutant("LOCK-4", base="sqlite")
class RenewalsAreNotStored(Mutation):
    """A sign of life is acknowledged and not stored, as nothing else has changed."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection == ALGORITHM_LOCKS and set(changes) <= {"heartbeat", "beat", "clock", "write"}:
            return self.inner.count(collection, where)
        return self.inner.patch(collection, where, changes)


class _Paced(Mutation):
    """Its clock goes at a pace of its own."""

    pace: ClassVar[float]

    def now(self) -> Instant:
        now = self.inner.now()
        return Instant(now.clock, 1e6 + now.seconds * self.pace)


@mutant("LOCK-4", base="sqlite")
class ClockRunsFast(_Paced):
    """The clock of the storage runs ten times too fast, so that living holders count as dead."""

    pace = 10.0


@mutant("LOCK-5", base="sqlite")
class LockHoldersAreIgnored(_Forgetful):
    """Who releases the lock need not be its holder any more."""

    of = ALGORITHM_LOCKS
    forgotten = ("holder", "token")


@mutant("LOCK-5", base="sqlite")
class LeasesOfLocksNeverEnd(_Paced):
    """The clock of the storage stands still, so that no lease of the lock ever ends."""

    pace = 0.0


@mutant("LOCK-6", base="sqlite")
class WaitersBlock(Mutation):
    """Reading the lock waits until it is free, as the database locks the row for whoever holds it."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self._mine: set[str] = set()

    def get(self, collection: Collection, identifier: str) -> Document | None:
        deadline = time.monotonic() + 12
        found = self.inner.get(collection, identifier)
        while (
            collection == ALGORITHM_LOCKS
            and found is not None
            and found.body.get("holder") not in (None, *self._mine)
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
            found = self.inner.get(collection, identifier)
        return found

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection == ALGORITHM_LOCKS and isinstance(changes.get("holder"), str):
            self._mine.add(str(changes["holder"]))
        return self.inner.patch(collection, where, changes)


@mutant("LOCK-6", base="sqlite")
class PlacesInTheQueueStay(Mutation):
    """Who gives up waiting keeps its place, as a change to null alone is taken for no change."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if all(value is None for name, value in changes.items() if name != "write"):
            return self.inner.count(collection, where)
        return self.inner.patch(collection, where, changes)


@mutant("LOCK-6", base="sqlite")
class WaitingCountsAsTaking(Mutation):
    """Each place that is taken in the queue of the lock makes its fencing token greater."""

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        if collection == ALGORITHM_LOCKS and changes.get("queue") is not None:
            changes = {**changes, "token": Increment()}
        return self.inner.patch(collection, where, changes)


# Resources


@mutant("RESOURCE-1", base="sqlite")
class ResourcesAreTakenTwice(_Greedy):
    """Who takes a resource reads a free one and then writes it, whoever has taken it in between."""

    of = RESOURCES


@mutant("RESOURCE-1", base="sqlite")
class ResourceHoldersAreIgnored(_Forgetful):
    """Who renews or frees a resource need not hold it any more."""

    of = RESOURCES
    forgotten = ("holder", "token")


@mutant("RESOURCE-1", base="sqlite")
class ResourceTokensAreIgnored(_Forgetful):
    """Who renews or frees a resource needs the name of its holder, and not the token."""

    of = RESOURCES
    forgotten = ("token",)


@mutant("RESOURCE-1", base="sqlite")
class LeasesOfResourcesNeverEnd(_Paced):
    """The clock of the storage stands still, so that no lease of a resource ever ends."""

    pace = 0.0
