"""Several resources at once, all of them or none, for as long as a block lasts."""

from __future__ import annotations

import random
import secrets
import time
from typing import TYPE_CHECKING, Literal, Self

from moorage.codec import Plain, encode_time
from moorage.driver import Document
from moorage.errors import FailedUpdate, ResourceNotFound, ResourceTimeout
from moorage.filters import Comparison, Order, equal
from moorage.lock import process_name
from moorage.protocol.asking import query_filter
from moorage.protocol.counters import Counters
from moorage.protocol.interruption import Interruption, uninterrupted
from moorage.protocol.resources import WriteResources
from moorage.records import Resource, check_integer, check_number, check_text, utcnow
from moorage.schema import COUNTERS, RESOURCES

if TYPE_CHECKING:
    from types import TracebackType

    from moorage.filters import Filter
    from moorage.keeper import Duty
    from moorage.protocol.asking import Query

PATIENCE = 5.0
"""Seconds after which one who waits, and has given no sign of life, has lost its place."""

LONGEST_WAIT = 0.2
"""Seconds between two looks of one who waits."""


class _NotEnough(Exception):
    """Fewer are free than are wanted: what was taken is given back, where possible by undoing the transaction."""


class Holding:
    """Resources that are held together, as a context manager.

    They are taken when the block is entered, renewed in the background, and given back when it is left, whatever
    happens in it. Whoever waits is served in the order of coming, and holds nothing meanwhile: so nobody waits for
    somebody who waits.

    Attributes:
        resources: those that are held, by name.
    """

    def __init__(
        self, storage: HoldResources, kind: str, count: int, wanted: Filter, holder: str, lease: float, timeout: float
    ) -> None:
        self.resources: list[Resource] = []
        self._storage = storage
        self._kind = kind
        self._count = count
        self._wanted = wanted
        self._holder = holder
        self._lease = lease
        self._timeout = timeout
        self._lost = False
        self._duty: Duty | None = None
        self._interruption = Interruption(sigterm=False)
        self._place = f"waiting for {kind}/"
        self._ticket: Document | None = None
        self._signed = 0.0

    @property
    def lost(self) -> bool:
        """Whether somebody else has taken one of them, as far as renewals have told: stop using them."""
        return self._lost

    @uninterrupted
    def __enter__(self) -> Self:
        try:
            self._interruption.begin()
            self._wait()
            self._duty = self._storage._keeper.add(self._renew, self._lease / 3)
            self._interruption.allow()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    @uninterrupted
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._interruption.hold()
        try:
            if self._duty is not None:
                self._duty.cancel()
            self._leave_queue()
            for one in self.resources:
                try:
                    self._storage.free_resource(one)
                except (FailedUpdate, ResourceNotFound):  # it was taken over, or removed
                    self._lost = True
        finally:
            self._interruption.end()
        return False

    def _renew(self) -> bool:
        for one in self.resources:
            try:
                self._storage.renew_resource(one)
            except (FailedUpdate, LookupError):
                self._lost = True
                return False
        return True

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout
        began = time.monotonic()
        while not self._try_to_take():
            self._check_possible()
            now = time.monotonic()
            if now >= deadline:
                raise ResourceTimeout(
                    f"{self._count} resources of the kind {self._kind!r} were not free together within "
                    f"{self._timeout:g} s; wait longer (timeout=…), or ask for fewer"
                )
            self._queue()
            self._interruption.allow()
            time.sleep(min(random.uniform(0.5, 1) * min(LONGEST_WAIT, 0.01 + (now - began) / 4), deadline - now))
            self._interruption.hold()

    def _check_possible(self) -> None:
        there = self._storage._waist.count(RESOURCES, self._wanted)
        if there < self._count:
            raise ResourceNotFound(
                f"{self._count} resources of the kind {self._kind!r} are wanted, and {there} that match are stored: "
                "add some (add_resource), or ask for fewer"
            )

    def _try_to_take(self) -> bool:
        """Take all of them, if nobody has waited for longer; whether they are held now."""
        if not self._is_first():
            return False
        storage = self._storage

        def take() -> None:
            self.resources = []
            while len(self.resources) < self._count:
                taken = storage._take_one(self._wanted, self._holder, self._lease)
                if taken is None:
                    raise _NotEnough
                self.resources.append(taken)

        try:
            storage._waist.together(take)
        except _NotEnough:
            if not storage._waist.transactional:
                for one in self.resources:
                    storage.free_resource(one)
            self.resources = []
            return False
        self.resources.sort(key=lambda one: one.name)
        self._leave_queue()
        return True

    # Those who wait stand in a queue: a document each, in the order of coming, with a sign of life.

    def _is_first(self) -> bool:
        waist, leases = self._storage._waist, self._storage._leases
        mine = None if self._ticket is None else self._ticket.id
        between = (Comparison("id", ">=", self._place), Comparison("id", "<", f"{self._place[:-1]}0"))
        for one in waist.find(COUNTERS, between, [Order("id")]):
            if one.id == mine:
                return True
            if leases.age(one) < PATIENCE:
                return False
            waist.delete(COUNTERS, equal(id=one.id, revision=one.revision))
        return True

    def _queue(self) -> None:
        """Join the queue, or give a sign of life in it."""
        waist = self._storage._waist
        sign: dict[str, Plain] = {"heartbeat": encode_time(utcnow()), **self._storage._leases.stamp()}
        if self._ticket is None:
            number = self._storage.next_number(self._place)
            identifier = f"{self._place}{number:016d}-{secrets.token_hex(4)}"
            self._ticket = Document(identifier, {"value": number, **sign})
            waist.insert(COUNTERS, [self._ticket])
            self._signed = time.monotonic()
        elif time.monotonic() - self._signed > PATIENCE / 4:
            renewed = Document(self._ticket.id, {**self._ticket.body, **sign}, self._ticket.revision + 1)
            if waist.driver.swap(COUNTERS, renewed, self._ticket.revision):
                self._ticket, self._signed = renewed, time.monotonic()
            else:  # it was thought dead
                self._ticket = None

    def _leave_queue(self) -> None:
        if self._ticket is not None:
            self._storage._waist.delete(COUNTERS, equal(id=self._ticket.id))
            self._ticket = None


class HoldResources(Counters, WriteResources):
    """The verb that holds several resources at once."""

    def holding(
        self,
        kind: str,
        count: int = 1,
        where: Query = None,
        *,
        timeout: float = 600.0,
        lease: float = 60.0,
        holder: str | None = None,
    ) -> Holding:
        """Hold resources for as long as a block lasts, all that are asked for or none; see `Holding`.

        Args:
            kind: of the resources.
            count: how many.
            where: what each must be like, as in ``{"labels.memory": {"$gte": 40}}``.
            timeout: seconds to wait for them.
            lease: seconds after which they are free again when this process dies; renewed three times in that time.
            holder: who holds them; by default this process.

        Raises:
            ResourceNotFound: on entering, where there are not so many.
            ResourceTimeout: on entering, where they were not free together in time.
        """
        wanted = (*equal(kind=check_text("kind", kind, limit=200)), *query_filter(where, RESOURCES))
        return Holding(
            self,
            kind,
            check_integer("count", count, least=1),
            wanted,
            process_name() if holder is None else check_text("holder", holder),
            check_number("lease", lease, above=0),
            check_number("timeout", timeout, least=0),
        )
