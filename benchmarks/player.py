"""Rounds of operations on a store, after each of which it holds as many trials of each status as before."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

from benchmarks.clock import Timing, timed
from benchmarks.workload import STATE, STEPS, params, results

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from benchmarks.stores import Store

R = TypeVar("R")
K = TypeVar("K", bound="Hashable")


@attrs.frozen
class Counts:
    """How many operations are timed together in one round."""

    writes: int = 20
    reads: int = 200
    counts: int = 5
    lives: int = 10
    locks: int = 10
    batch: int = 1000


OPERATIONS = (
    "fetch all",
    "register",
    "reserve",
    "heartbeat",
    "push results",
    "get",
    "count",
    "counts by status",
    "whole life",
    "lock cycle",
    "register a batch",
)
"""The order matters: what is registered makes up for what is completed, and completed trials are removed at the end."""

MEANING = (
    f"push results: and complete, in one step. Whole life: reserve, {STEPS} measurements one by one, push results. "
    "Lock cycle: acquire, set a state of 800 characters, release. Register a batch: of 1000, per trial. "
    "Fetch all: per trial"
)
"""What the names of the operations do not tell."""


class Player(Generic[R]):
    """Does operations on one store.

    Args:
        store: filled.
        counts: how many operations a round has.
        ended: ids of stored trials that no operation changes, to be read.
        size: how many trials are stored.
    """

    def __init__(self, store: Store[R], counts: Counts, ended: Sequence[str], size: int) -> None:
        self.store = store
        self.counts = counts
        self._ended = ended
        self._size = size
        self._numbers = itertools.count(size)
        self._random = random.Random(1)
        self._reserved: list[R] = []
        self._gone: list[str] = []
        self._work: Mapping[str, tuple[Callable[[int], Callable[[], object]], int]] = {
            "register": (self._register, counts.writes),
            "reserve": (self._reserve, counts.writes),
            "heartbeat": (self._heartbeat, counts.writes),
            "push results": (self._complete, counts.writes),
            "get": (self._get, counts.reads),
            "count": (self._count, counts.reads),
            "counts by status": (self._count_each, counts.counts),
            "whole life": (self._live, counts.lives),
            "lock cycle": (self._cycle_lock, counts.locks),
            "register a batch": (self._register_batch, counts.batch),
            "fetch all": (self._fetch, size * max(1, counts.batch // size)),
        }

    def play(self, operation: str, times: int = 1) -> Timing:
        """Time an operation; what it needs is prepared before the clock starts."""
        prepare, count = self._work[operation]
        return timed(prepare(count * times), count * times)

    def restore(self) -> None:
        """Remove as many trials as this round has added."""
        self.store.remove(self._gone)
        self._gone = []

    def _params(self, count: int) -> list[dict[str, object]]:
        return [params(number) for number in itertools.islice(self._numbers, count)]

    def _register(self, count: int) -> Callable[[], object]:
        given = self._params(count)

        def work() -> None:
            for one in given:
                self.store.register(one)

        return work

    def _register_batch(self, count: int) -> Callable[[], object]:
        given = self._params(count)
        return lambda: self._gone.extend(self.store.register_many(given))

    def _reserve(self, count: int) -> Callable[[], object]:
        def work() -> None:
            for _ in range(count):
                self._reserved.append(self.store.reserve())

        return work

    def _heartbeat(self, count: int) -> Callable[[], object]:
        trials = list(itertools.islice(itertools.cycle(self._reserved), count))

        def work() -> None:
            for trial in trials:
                self.store.heartbeat(trial)

        return work

    def _complete(self, count: int) -> Callable[[], object]:
        trials, self._reserved = self._reserved[:count], self._reserved[count:]
        self._gone += [self.store.identify(trial) for trial in trials]

        def work() -> None:
            for number, trial in enumerate(trials):
                self.store.complete(trial, results(number))

        return work

    def _get(self, count: int) -> Callable[[], object]:
        wanted = self._random.choices(self._ended, k=count)

        def work() -> None:
            for one in wanted:
                self.store.get(one)

        return work

    def _count(self, count: int) -> Callable[[], object]:
        def work() -> None:
            for _ in range(count):
                self.store.count()

        return work

    def _count_each(self, count: int) -> Callable[[], object]:
        def work() -> None:
            for _ in range(count):
                self.store.count_each()

        return work

    def _live(self, count: int) -> Callable[[], object]:
        self.store.register_many(self._params(count))

        def work() -> None:
            for number in range(count):
                trial = self.store.reserve()
                for step in range(STEPS):
                    self.store.measure(trial, step, 1 / (step + 1))
                self.store.complete(trial, results(number))
                self._gone.append(self.store.identify(trial))

        return work

    def _cycle_lock(self, count: int) -> Callable[[], object]:
        def work() -> None:
            for _ in range(count):
                self.store.cycle_lock(STATE)

        return work

    def _fetch(self, count: int) -> Callable[[], object]:
        def work() -> None:
            for _ in range(count // self._size):
                self.store.fetch()

        return work


def play_rounds(players: Mapping[K, Player[object]], rounds: int, fetches: int) -> dict[tuple[K, str], list[Timing]]:
    """Play all operations with all players in turn, operation by operation, so that each meets the same weather.

    Args:
        players: by whatever tells them apart.
        rounds: how many are kept; one more comes first, to warm up.
        fetches: in how many of them all trials are fetched, which takes long.
    """
    found: dict[tuple[K, str], list[Timing]] = {}
    order = list(players)
    for played in range(rounds + 1):
        for operation in OPERATIONS:
            if operation == "fetch all" and not 0 < played <= fetches:
                continue
            for key in order:
                timing = players[key].play(operation)
                if played:
                    found.setdefault((key, operation), []).append(timing)
        for player in players.values():
            player.restore()
        order = [*order[1:], order[0]]
    return found
