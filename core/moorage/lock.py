"""The algorithm lock: one worker at a time has the state of the algorithm that proposes trials.

Safety rests on compare-and-set alone: every step that matters is one change of the lock's document that happens only if
holder and fencing token are still the caller's. Clocks decide only when a holder counts as dead. The scheme is that of
fencing tokens (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import secrets
import socket
import time
from typing import TYPE_CHECKING, Literal, cast

from moorage import codec
from moorage.driver import Document, Increment
from moorage.errors import (
    AlgorithmLockNotFound,
    DuplicateAlgorithmLock,
    LockAcquisitionTimeout,
    LockLost,
    MoorageError,
    OutcomeUnknown,
    StorageDamaged,
    StorageError,
    Unavailable,
)
from moorage.events import AlgorithmLockAcquired, AlgorithmLockLost, AlgorithmLockReleased
from moorage.filters import Comparison, Order, equal
from moorage.leases import elapsed
from moorage.records import AlgorithmState, check_number, utcnow
from moorage.schema import ALGORITHM_LOCKS, ALGORITHM_STATE_CHUNKS
from moorage.waist import write_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from moorage.codec import Plain
    from moorage.driver import Changes
    from moorage.events import AlgorithmLockEvent
    from moorage.keeper import Duty, Keeper
    from moorage.leases import Leases
    from moorage.waist import Waist

MARGIN = 0.05
"""The share of the ttl by which a contender waits longer, and a holder gives up earlier."""

INLINE = 16 * 1024
"""Characters of state kept in the lock's own document; contenders read it each time they look."""

CHUNK = 512 * 1024
"""Characters of each chunk of a larger state."""

SHORTEST_WAIT, LONGEST_WAIT = 0.002, 0.05
"""Seconds between two looks of a contender, without its own ``retry_interval``."""

PLACES = 28
"""How many contenders may stand in the queue, whose text must fit a declared string; the others look for room."""

COURTESY = 0.5
"""Seconds for which a free lock is left to the contender that is first in the queue."""

_UNREAD = object()

_FREE: Mapping[str, Plain] = {
    "holder": None,
    "clock": None,
    "beat": None,
    "heartbeat": None,
    "acquired": None,
}


def _queue_of(document: Document) -> list[str]:
    """Who waits for the lock, in the order of coming: the last part of each contender's name."""
    return cast("str", document.body.get("queue") or "").split()


_identity: tuple[int, str] = (0, "")


def process_name() -> str:
    """Who we are: the host's name and the process id, for people to read, and what makes it unique.

    Two containers may have one host name and the same process ids, and a process id comes again after a reboot.
    """
    global _identity
    if _identity[0] != os.getpid():
        _identity = (os.getpid(), f"{socket.gethostname()[:200]}:{os.getpid()}:{secrets.token_hex(4)}")
    return _identity[1]


class AlgorithmLocks:
    """The algorithm locks of one storage."""

    def __init__(
        self,
        waist: Waist,
        leases: Leases,
        keeper: Keeper,
        ttl: float,
        tell: Callable[[AlgorithmLockEvent], None],
    ) -> None:
        self.waist = waist
        self.leases = leases
        self.keeper = keeper
        self.ttl = ttl
        self.tell = tell
        self.held: dict[str, LockedAlgorithmState] = {}

    def create(self, experiment: str, configuration: object) -> None:
        """Create the lock, free and without a state.

        Raises:
            DuplicateAlgorithmLock: there is one.
        """
        body: dict[str, Plain] = {
            "configuration": codec.to_text(codec.encode(configuration)),
            "state": None,
            "chunks": 0,
            "chunk_token": 0,
            "token": 0,
            "committed_token": 0,
            "ttl": None,
            "queue": None,
            "write": write_id(),
            **_FREE,
        }
        if self.waist.insert(ALGORITHM_LOCKS, [Document(experiment, body)]):
            raise DuplicateAlgorithmLock(f"experiment {experiment!r} has an algorithm lock already")

    def find(self, experiment: str) -> Document:
        """The document of a lock.

        Raises:
            AlgorithmLockNotFound: the experiment has none.
        """
        found = self.waist.get(ALGORITHM_LOCKS, experiment)
        if found is None:
            raise AlgorithmLockNotFound(
                f"experiment {experiment!r} has no algorithm lock; acquire_algorithm_lock creates one"
            )
        return found

    def read_state(self, document: Document) -> tuple[Document, str | None]:
        """The lock and the text of its state, which belong together; None before the first state."""
        while True:
            body = document.body
            chunks = cast("int", body.get("chunks") or 0)
            if not chunks:
                return document, cast("str | None", body.get("state"))
            wanted = equal(experiment=document.id, token=body["chunk_token"])
            found = self.waist.find(ALGORITHM_STATE_CHUNKS, wanted, [Order("position")])
            if len(found) == chunks:
                return document, "".join(cast("str", one.body["data"]) for one in found)
            document = self.find(document.id)  # a newer state may have been saved, and the older one removed
            if document.body["chunk_token"] == body["chunk_token"]:
                raise StorageDamaged(
                    f"the state of the algorithm of experiment {document.id!r} is incomplete: "
                    f"{len(found)} of {chunks} parts are stored; delete_algorithm_lock starts it anew"
                )

    def info(self, experiment: str, *, state: bool) -> AlgorithmState:
        """The lock, and the state where that is wanted, as a record."""
        document, text = self.find(experiment), None
        if state:
            document, text = self.read_state(document)
        body = document.body
        held = body.get("holder") is not None
        acquired, heartbeat = body.get("acquired"), body.get("heartbeat")
        return AlgorithmState(
            experiment=experiment,
            configuration=codec.decode(codec.loads(cast("str", body["configuration"]))),
            state=None if text is None else codec.decode(codec.loads(text)),
            locked=held,
            holder=cast("str | None", body.get("holder")),
            token=cast("int", body["token"]),
            ttl=cast("float | None", body.get("ttl")) if held else None,
            age=self.leases.age(document) if held else None,
            acquired=codec.decode_time(cast("str", acquired)) if acquired else None,
            heartbeat=codec.decode_time(cast("str", heartbeat)) if heartbeat else None,
        )

    def is_dead(self, document: Document) -> bool:
        """Whether the holder has shown no sign of life for its ttl, and the margin."""
        ttl = cast("float | None", document.body.get("ttl"))
        return self.leases.age(document) >= (self.ttl if ttl is None else ttl) * (1 + MARGIN)

    def renewed(self) -> dict[str, Plain]:
        """The fields of a sign of life."""
        return {"heartbeat": codec.encode_time(utcnow()), **self.leases.stamp()}

    def change(self, document: Document, changes: Changes) -> bool:
        """Change a lock's document if it is still as it was read."""
        return self.waist.patch_one(ALGORITHM_LOCKS, document.id, equal(revision=document.revision), changes)

    def break_lock(self, experiment: str) -> bool:
        """Free the lock, whoever holds it; its holder can neither save nor release any more. Whether it was held."""
        document = self.find(experiment)
        held = document.body.get("holder") is not None
        free: dict[str, Plain | Increment] = {**_FREE, "queue": None, "token": Increment()}
        self.waist.patch_one(ALGORITHM_LOCKS, experiment, (), free)
        return held

    def delete(self, experiment: str) -> bool:
        """Delete the lock and the state; whether there was one."""
        gone = self.waist.get(ALGORITHM_LOCKS, experiment) is not None
        self.waist.delete(ALGORITHM_LOCKS, equal(id=experiment))
        self.waist.delete(ALGORITHM_STATE_CHUNKS, equal(experiment=experiment))
        return gone


class LockedAlgorithmState:
    """The state of the algorithm, held by the caller.

    Attributes:
        configuration: of the algorithm, as it was stored.
        token: the fencing token; grows with each acquisition of this lock.
    """

    def __init__(self, locks: AlgorithmLocks, experiment: str, holder: str, token: int, text: str | None) -> None:
        self.configuration: object = None
        self.token = token
        self._locks = locks
        self._experiment = experiment
        self._holder = holder
        self._original = text
        self._pending: str | None = None
        self._state: object = _UNREAD
        self._held = True
        self._lost = False
        self._renewed_at = elapsed()
        self._duty: Duty | None = None

    @property
    def state(self) -> object:
        """The state as it was stored, or as `set_state` changed it; None before the first one.

        It is decoded when it is first asked for, so whoever does not ask does not wait for that.

        Raises:
            StorageDamaged: what is stored is no state.
        """
        if self._state is _UNREAD:
            self._state = None if self._original is None else codec.decode(codec.loads(self._original))
        return self._state

    @property
    def locked(self) -> bool:
        """Whether the lock is still held, as far as the holder can know."""
        return self._held and not self.lost

    @property
    def lost(self) -> bool:
        """Whether the lock was taken over, or could not be renewed for its ttl (less the margin)."""
        if self._held and elapsed() - self._renewed_at > self._locks.ttl * (1 - MARGIN):
            self._lost = True
        return self._lost

    def set_state(self, state: object) -> None:
        """Save this state when the block is left. It is encoded now: what is changed in place later does not count.

        Raises:
            EncodingError: it cannot be stored. (The lock is released when the block is left.)
        """
        self._pending = codec.to_text(codec.encode(state))
        self._state = state

    def reset(self) -> None:
        """Forget what `set_state` was given, and changes in place: the state is as it was stored."""
        self._pending = None
        self._state = _UNREAD

    def start_renewing(self) -> None:
        """Renew in the background, three times in each ttl."""
        self._duty = self._locks.keeper.add(self._renew, self._locks.ttl / 3)

    def _mine(self) -> tuple[Comparison, ...]:
        return equal(holder=self._holder, token=self.token)

    def _renew(self) -> bool:
        if self.lost or not self._held:
            return False
        sent = elapsed()
        try:
            renewed = self._locks.waist.patch_one(
                ALGORITHM_LOCKS, self._experiment, self._mine(), self._locks.renewed()
            )
        except Unavailable:
            return not self.lost
        if not renewed:
            self._lost = True
            return False
        self._renewed_at = sent
        return True

    def release(self, new_state: object = None, *, save: bool = False) -> None:
        """Save the state, if there is a new one, and release the lock, in one step.

        Raises:
            LockLost: the lock is no longer the caller's. The stored state is untouched.
        """
        if save:
            self.set_state(new_state)
        if not self._held:
            raise LockLost(f"the algorithm lock of experiment {self._experiment!r} was released before")
        if self._duty is not None:
            self._duty.cancel()
        lost = self.lost
        self._held = False
        if self._locks.held.get(self._experiment) is self:
            del self._locks.held[self._experiment]
        text = None if lost else self._pending
        released = self._commit(text)
        if lost or not released:
            self._lost = True
            self._locks.tell(AlgorithmLockLost(experiment=self._experiment, holder=self._holder, token=self.token))
            raise LockLost(
                f"the algorithm lock of experiment {self._experiment!r} was lost by {self._holder} "
                f"(token {self.token}): it was not renewed within {self._locks.ttl:g} s, or was broken. "
                "The stored state is untouched; acquire the lock again, or choose a longer lock_ttl"
            )
        self._locks.tell(AlgorithmLockReleased(experiment=self._experiment, holder=self._holder, token=self.token))

    def _commit(self, text: str | None) -> bool:
        waist = self._locks.waist
        changes: dict[str, Plain] = {**_FREE, "committed_token": self.token}
        if text is not None:
            changes |= self._write_state(text)
        if not self._swap(changes):
            if changes.get("chunks"):
                written = equal(experiment=self._experiment, token=changes["chunk_token"])
                waist.delete(ALGORITHM_STATE_CHUNKS, written)
            return False
        if text is not None:
            older = Comparison("token", "<", changes["chunk_token"] or self.token << 20)
            waist.delete(ALGORITHM_STATE_CHUNKS, (*equal(experiment=self._experiment), older))
        return True

    def _swap(self, changes: Mapping[str, Plain]) -> bool:
        """Save and release if the lock is still ours."""
        try:
            return self._locks.waist.patch_one(ALGORITHM_LOCKS, self._experiment, self._mine(), changes)
        except OutcomeUnknown:  # the next holder has changed the lock since, but not what we committed
            if self._locks.find(self._experiment).body["committed_token"] != self.token:
                raise
            return True

    def _chunk_token(self) -> int:
        """What the chunks of one save are called: later saves have greater ones, and no two holders share one.

        A lock that was deleted and created anew counts from 1 again, so the fencing token alone would not do.
        """
        return (self.token << 20) + secrets.randbits(20)

    def _write_state(self, text: str) -> dict[str, Plain]:
        """Write the chunks of a large state; the fields that point to it, or hold a small one."""
        if len(text) <= INLINE:
            return {"state": text, "chunks": 0, "chunk_token": 0}
        parts = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
        token = self._chunk_token()
        for position, part in enumerate(parts):
            body: dict[str, Plain] = {
                "experiment": self._experiment,
                "token": token,
                "position": position,
                "data": part,
            }
            identifier = f"{self._experiment}/{token}/{position}"
            self._locks.waist.insert(ALGORITHM_STATE_CHUNKS, [Document(identifier, body)])
        return {"state": None, "chunks": len(parts), "chunk_token": token}


class Acquisition:
    """The context manager that `Storage.acquire_algorithm_lock` gives; the lock is taken when the block is entered."""

    def __init__(
        self,
        locks: AlgorithmLocks,
        experiment: str,
        configuration: Callable[[], object],
        timeout: float,
        retry_interval: float | None,
    ) -> None:
        self._locks = locks
        self._experiment = experiment
        self._configuration = configuration
        self._timeout = check_number("timeout", timeout, least=0)
        self._longest = (
            LONGEST_WAIT if retry_interval is None else check_number("retry_interval", retry_interval, above=0)
        )
        self._handle: LockedAlgorithmState | None = None
        self._queued = False

    def __enter__(self) -> LockedAlgorithmState:
        self._handle = self._acquire()
        return self._handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        handle = self._handle
        if handle is None or not handle._held:
            return False
        if error is None:
            handle.release()
            return False
        handle.reset()
        try:
            handle.release()
        except Exception as failure:  # the user's own exception matters more
            error.add_note(f"moorage: while the algorithm lock was released: {failure}")
        return False

    def _find(self) -> Document:
        try:
            return self._locks.find(self._experiment)
        except AlgorithmLockNotFound:
            configuration = self._configuration()
        with contextlib.suppress(DuplicateAlgorithmLock):  # another worker was faster
            self._locks.create(self._experiment, configuration)
        return self._locks.find(self._experiment)

    def _acquire(self) -> LockedAlgorithmState:
        ticket = secrets.token_hex(4)
        try:
            return self._contend(ticket)
        except StorageError:  # to leave the queue would fail as well; the others go on without us before long
            raise
        except BaseException as error:
            try:
                self._leave_queue(ticket)
            except MoorageError as failure:  # why the caller does not have the lock matters more
                error.add_note(f"moorage: while the queue of the algorithm lock was left: {failure}")
            raise

    def _contend(self, ticket: str) -> LockedAlgorithmState:
        locks = self._locks
        holder = f"{process_name()}:{ticket}"
        began = time.monotonic()
        deadline = began + self._timeout
        while True:
            document = self._find()
            sent = elapsed()
            queue = _queue_of(document)
            if self._may_take(document, queue, ticket):
                token = cast("int", document.body["token"]) + 1
                changes: dict[str, Plain] = {
                    "holder": holder,
                    "token": token,
                    "ttl": locks.ttl,
                    "acquired": codec.encode_time(utcnow()),
                    "queue": self._queue_behind(document, queue, ticket),
                    **locks.renewed(),
                }
                if locks.change(document, changes):
                    return self._enter(document, holder, token, sent)
                continue
            if time.monotonic() >= deadline:
                raise LockAcquisitionTimeout(self._refusal(document, queue))
            if ticket not in queue and len(queue) < PLACES:
                self._queued = True
                if self._set_queue(document, [*queue, ticket]):
                    queue.append(ticket)
            now = time.monotonic()
            wait = self._wait(queue, ticket, now - began)
            time.sleep(min(random.uniform(wait / 2, wait), max(0.0, deadline - now) + SHORTEST_WAIT))

    def _wait(self, queue: Sequence[str], ticket: str, waited: float) -> float:
        """Seconds until the next look: the nearer to the front, and the shorter the wait so far, the fewer."""
        if ticket in queue:
            shortest = math.ldexp(SHORTEST_WAIT, queue.index(ticket))
            return min(max(shortest, min(waited / 16, LONGEST_WAIT)), self._longest)
        # Whoever has just come must not find room before those who have looked for it for longer.
        return self._longest if len(queue) >= PLACES else min(SHORTEST_WAIT, self._longest)

    def _enter(self, document: Document, holder: str, token: int, sent: float) -> LockedAlgorithmState:
        locks = self._locks
        try:
            _, text = locks.read_state(document)
            handle = LockedAlgorithmState(locks, self._experiment, holder, token, text)
            handle.configuration = codec.decode(codec.loads(cast("str", document.body["configuration"])))
        except BaseException:
            locks.waist.patch_one(ALGORITHM_LOCKS, self._experiment, equal(holder=holder, token=token), _FREE)
            raise
        handle._renewed_at = sent
        locks.held[self._experiment] = handle
        handle.start_renewing()
        locks.tell(AlgorithmLockAcquired(experiment=self._experiment, holder=holder, token=token))
        return handle

    def _may_take(self, document: Document, queue: Sequence[str], ticket: str) -> bool:
        if document.body.get("holder") is not None:
            return self._locks.is_dead(document)
        return not queue or queue[0] == ticket or self._has_waited(document, queue)

    def _has_waited(self, document: Document, queue: Sequence[str]) -> bool:
        """Whether the first in the queue had its chance: the lock was free for `COURTESY`, as far as we have seen."""
        sign = (document.body.get("token"), document.body.get("holder"), queue[0])
        return self._locks.leases.watch(f"queue of {document.id}", sign) >= COURTESY

    def _queue_behind(self, document: Document, queue: Sequence[str], ticket: str) -> str | None:
        """The queue when this contender has left it for the lock.

        Where the first one has not come, more may be gone; instead of waiting for each, all who live queue anew.
        """
        if document.body.get("holder") is None and queue and queue[0] != ticket:
            return None
        return " ".join(one for one in queue if one != ticket) or None

    def _set_queue(self, document: Document, queue: Sequence[str]) -> bool:
        """Change the queue if it is still as it was read; the lock, that comes and goes quickly, need not be."""
        unchanged = equal(queue=document.body.get("queue"))
        changes: dict[str, Plain] = {"queue": " ".join(queue) or None}
        return self._locks.waist.patch_one(ALGORITHM_LOCKS, self._experiment, unchanged, changes)

    def _leave_queue(self, ticket: str) -> None:
        while self._queued:
            document = self._locks.find(self._experiment)
            queue = _queue_of(document)
            self._queued = ticket in queue and not self._set_queue(document, [one for one in queue if one != ticket])

    def _refusal(self, document: Document, queue: Sequence[str]) -> str:
        holder, ttl = document.body.get("holder"), document.body.get("ttl")
        age = self._locks.leases.age(document)
        if holder is None:
            why = f"it was left to {queue[0]}, who has waited longer"
        else:
            why = f"held by {holder} (last renewed {age:.1f} s ago, its lease is {ttl} s)"
        return (
            f"the algorithm lock of experiment {self._experiment!r} was not free within {self._timeout:g} s: {why}. "
            "Wait longer (timeout=…), or if that holder is gone for good: moorage unlock"
        )
