"""The driver: documents in memory, brought up to date from the log, and changed by entries of it."""

from __future__ import annotations

import copy
import os
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import attrs

from holdfast.driver import Capability, Document
from holdfast.errors import (
    HoldfastError,
    StorageClosed,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from holdfast.schema import Schema
from holdfast.table import Table, TableDriver
from holdfast_mlflow.ledger import Gone, Ledger
from holdfast_mlflow.link import Refused
from holdfast_mlflow.mirror import Mirror
from holdfast_mlflow.state import EXPERIMENTS, MIRRORS, State, Touch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.codec import Plain
    from holdfast.driver import Changes, Refusal
    from holdfast.filters import Filter, Order
    from holdfast.schema import Collection
    from holdfast.table import Row
    from holdfast_mlflow.ledger import Entry
    from holdfast_mlflow.link import Link
    from holdfast_mlflow.mirror import Note

T = TypeVar("T")

_CHECKPOINT_SMALLEST, _CHECKPOINT_LARGEST = 1 << 18, 1 << 22
_NOTES_BESIDE = 5
_RELOADS = 5
_HOLD_AFTER = 2.0
_HOLD_SECONDS = 1.5
_LEAST, _MOST = 2, 8
_LARGE = 50
_AHEAD = 8
"""How many entries the others may still write before they wait."""


@attrs.frozen(kw_only=True)
class Settings:
    """How a driver behaves.

    Attributes:
        namespace: which storage of this MLflow.
        read_only: write nothing.
        timeout: seconds during which a lost reply is resolved.
        waiting: show trials that were never started.
        repair_after: seconds after which pictures that others left undone are drawn.
        settle: seconds that `close` waits for pictures.
    """

    namespace: str
    read_only: bool
    timeout: float
    waiting: bool
    repair_after: float
    settle: float


class _Lost(Exception):
    """Another process has won the entry."""


class MLflowDriver(TableDriver):
    """One namespace of an MLflow store.

    Every write is one entry of the log. It is made on the state that this process knows and then written; if another
    process was faster, it is undone, the log is read, and it is made again. So a write that wins has seen everything
    that was acknowledged before, and needs one request.
    """

    name = "mlflow"

    def __init__(self, link: Link, settings: Settings) -> None:
        super().__init__()
        self._link = link
        self._settings = settings
        declared = {Capability.SHARED, Capability.TRANSACTIONS}
        self.capabilities = frozenset(declared | {Capability.DURABLE} if link.durable else declared)
        self._closed = False
        self._schema: Schema | None = None
        self._renew()

    def _renew(self) -> None:
        """Begin anew, at first and after a fork."""
        settings = self._settings
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._ledger = Ledger(self._link, settings.namespace, timeout=settings.timeout)
        self._state: State | None = None
        self._calls: list[tuple[Callable[[], object], object]] | None = None
        self._is_crowded = False
        self._losses = _LEAST
        self._hold: tuple[str, float] | None = None
        self._heard: dict[str, int] = {}
        self._working = 0
        self._worked = 0.0
        self._checkpointing: threading.Thread | None = None
        self.changes = None
        self._mirror: Mirror | None = None

    @property
    def shown(self) -> str:
        """What to call this storage in messages."""
        return self._ledger.shown

    # Opening

    def setup(self, schema: Schema, *, upgrade: bool = False) -> None:
        """See `Driver.setup`."""
        with self._held():
            if self._state is None or self._schema is None or not self._state.declares(schema):
                known = self._schema.collections if self._schema is not None else ()
                more = [one for one in known if one.name not in {other.name for other in schema.collections}]
                self._schema = attrs.evolve(schema, collections=(*schema.collections, *more))
                self._state = None
            self._schema = attrs.evolve(self._schema, version=schema.version)
            if not self._ledger.locate():
                if self._settings.read_only:
                    raise StorageDamaged(f"{self.shown} holds no Holdfast storage, and it was opened read-only")
                self._ledger.create(schema.version)
            state = self._load() if self._state is None else self._state
            state.schema = self._schema
            self._catch_up(check=False)
            state = self._ready(check=False)
            while upgrade and state.version < schema.version:
                if self._settings.read_only:
                    raise StorageReadOnly(f"{self.shown} was opened read-only and cannot be upgraded")
                if self._append([["schema", schema.version]]):
                    state.version = schema.version
                else:
                    self._catch_up(check=False)
            state.check_version(self.shown)

    def _load(self) -> State:
        """The state from the newest checkpoint; entries are read by the next `_catch_up`."""
        if self._schema is None:
            raise StorageDamaged(f"{self.shown} has not been set up")
        for _ in range(_RELOADS):
            state = State(self._schema)
            try:
                touched = state.load(self._ledger.start_from(self._ledger.newest_checkpoint()))
            except Gone:
                continue
            self._state = state
            if self._mirror is None and not self._settings.read_only:
                settings = self._settings
                self._mirror = Mirror(
                    self._link,
                    self._frozen,
                    self._publish,
                    self._is_busy,
                    waiting=settings.waiting,
                    patience=settings.repair_after,
                    settle=settings.settle,
                )
            if self._mirror is not None:
                self._mirror.forget()
                self._mirror.touched(touched, "")
            return state
        raise StorageDamaged(f"{self.shown}: runs that hold the newest checkpoint are gone from MLflow")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """One thread at a time, in a process that has opened this itself."""
        if self._closed:
            raise StorageClosed("this storage is closed; connect again")
        if self._process != os.getpid():
            self._renew()
        with self._lock:
            if self._closed:
                raise StorageClosed("this storage is closed; connect again")
            try:
                yield
            except Refused as error:
                raise StorageDamaged(f"{self.shown} refuses what Holdfast asks of it: {error}") from error

    def _ready(self, *, check: bool = True) -> State:
        if self._state is None:
            if not self._ledger.experiment and not self._ledger.locate():
                raise StorageDamaged(f"{self.shown} holds no Holdfast storage any more")
            self._load()
            self._catch_up(check=check)
        if self._state is None:
            raise StorageDamaged(f"{self.shown} cannot be loaded")
        return self._state

    def _catch_up(self, *, check: bool = True) -> None:
        """Read what others have written."""
        state = self._ready(check=check) if self._state is None else self._state
        try:
            entries = self._ledger.read()
        except Gone:
            self._state = None
            state = self._load()
            try:
                entries = self._ledger.read()
            except Gone as error:
                raise StorageDamaged(f"{self.shown}: the run {error} of the log is gone from MLflow") from error
        try:
            for entry in entries:
                touched = state.apply(entry.changes)
                if self._mirror is not None:
                    self._mirror.touched(touched, entry.author)
                self._heed(entry)
        except StorageDamaged:
            self._state = None
            raise
        if check:
            state.check_version(self.shown)

    # Taking turns

    def _heed(self, entry: Entry) -> None:
        """Remember who asks the others to wait, and forget it when that one has written what it wanted to."""
        if entry.author == self._ledger.author:
            return
        if entry.changes and entry.changes[0][0] == "hold":
            if entry.written > self._heard.get(entry.author, 0):  # it may have got on before the log came to this place
                self._hold = (entry.author, time.monotonic() + _HOLD_SECONDS)
            return
        self._heard[entry.author] = entry.written
        if self._hold is not None and self._hold[0] == entry.author:
            self._hold = None

    def _wait_for_turn(self) -> bool:
        """Let those write who have asked for it; whether anything was waited for, and the log read since.

        It is a courtesy with an end: nothing but speed depends on it, and whoever is killed holds nobody up for long.
        """
        waited = False
        while self._hold is not None and time.monotonic() < self._hold[1]:
            self._pause(16)
            self._catch_up()
            waited = True
        return waited

    def _pause(self, round_trips: float) -> None:
        time.sleep(random.uniform(0.2, 1) * min(round_trips * self._ledger.round_trip, 1))

    def _after_a_loss(self, since: float, size: int) -> None:
        """Step back, for longer each time, so that one writer at a time gets on, and with one request for each entry.

        Where that takes long, or a change is so large that the others would always be faster, ask them to wait.
        """
        is_patient = size <= _LARGE and time.monotonic() < since + _HOLD_AFTER
        if is_patient:
            self._pause(2.0**self._losses)
        self._catch_up()
        if not is_patient:
            self._wait_for_turn()
            self._queue()

    def _queue(self) -> None:
        """Ask the others to wait, and wait until they do.

        Who writes one entry after the other is always the first to know which comes next, so nobody else would get in a
        word there. Some entries ahead there is room: a hold says nothing of the documents, and need not know what comes
        before it.
        """
        ledger = self._ledger
        place = ledger.hold(_AHEAD)
        if place is None:
            self._pause(_AHEAD)
            self._catch_up()
            return
        stalls = 0
        while ledger.position <= place and stalls < 3:  # with three nobody else is writing any more
            before = ledger.position
            self._pause(place - before + 1)
            self._catch_up()
            stalls = stalls + 1 if ledger.position == before else 0

    def _is_busy(self) -> bool:
        return self._working > 0 or time.monotonic() < self._worked + 0.05

    # The log

    def _append(self, changes: Sequence[object]) -> bool:
        before = self._ledger.since
        won = self._ledger.append(changes)
        self._is_crowded = not won
        self._losses = max(self._losses - 1, _LEAST) if won else min(self._losses + 1, _MOST)
        if won:
            self._consider_checkpoint(before)
        return won

    def _win_or_lose(self, changes: Sequence[object]) -> None:
        if changes and not self._append(changes):
            raise _Lost

    def _commit(self, put: list[tuple[Table, str, Row | None]]) -> None:
        """Write what was put into the tables as one entry, and with it what was drawn meanwhile.

        Raises:
            _Lost: another process has won the entry.
        """
        state = self._ready()
        notes = self._mirror.take_notes(_NOTES_BESIDE) if self._mirror is not None else []
        refused = self._note(notes)
        changes, touched = state.describe(put)
        self._win_or_lose(changes)
        self._after(notes, refused, touched)

    def _note(self, notes: Sequence[Note]) -> list[Note]:
        """Put notes into their table; those refused, because others have drawn the same document elsewhere."""
        refused: list[Note] = []
        table = self._ready().tables[MIRRORS.name]
        for one in notes:
            row = table.rows.get(one.key)
            stored = None if row is None else table.document(one.key, row)
            body: dict[str, Plain] = {
                "run": one.run,
                "shown": one.shown,
                "measured": one.measured,
                "within": one.within,
            }
            if one.run is None:
                if row is not None:
                    self.put(table, one.key, None)
            elif stored is not None and stored.body["run"] != one.run:
                refused.append(one)
            elif stored is None or stored.body != body:
                self.put(table, one.key, table.row(body, 1 if stored is None else stored.revision + 1))
        return refused

    def _after(self, notes: Sequence[Note], refused: Sequence[Note], touched: Sequence[Touch]) -> None:
        if self._mirror is not None:
            self._mirror.published(notes)
            self._mirror.touched(touched, None)
            for one in refused:
                self._mirror.duplicate(one)

    @contextmanager
    def _frozen(self) -> Iterator[State]:
        """The state, for the thread that draws."""
        with self._held():
            yield self._ready()

    def _publish(self) -> None:
        """Write notes of what was drawn, where no other entry has taken them along; if others are faster, not now."""
        with self._held():
            if self._mirror is None or not (notes := self._mirror.take_notes()):
                return
            self._ready()
            self._wait_for_turn()
            try:
                with self.undoing() as put:
                    refused = self._note(notes)
                    changes, touched = self._ready().describe(put)
                    self._win_or_lose(changes)
            except _Lost:
                self._catch_up()
            else:
                self._after(notes, refused, touched)

    # Checkpoints

    def _consider_checkpoint(self, before: int) -> None:
        """Write one where the log since the last one has become long; the process whose entry crosses the line does."""
        line = min(max(self._ledger.checkpoint.size // 2, _CHECKPOINT_SMALLEST), _CHECKPOINT_LARGEST)
        if before // line == self._ledger.since // line or self._state is None or self._closed:
            return
        if self._checkpointing is not None and self._checkpointing.is_alive():
            return
        ledger = self._ledger
        number, run, lines = ledger.position, ledger.run, list(self._state.lines())

        def write() -> None:
            try:
                ledger.write_checkpoint(number, run, lines)
            except (HoldfastError, Refused):
                return

        self._checkpointing = threading.Thread(target=write, name="holdfast-mlflow-checkpoint", daemon=True)
        self._checkpointing.start()

    # Primitives

    @contextmanager
    def reading(self, collection: Collection) -> Iterator[Table]:
        """See `TableDriver.reading`; what calls this holds the state already."""
        yield self._ready().tables[collection.name]

    @contextmanager
    def writing(self, collection: Collection) -> Iterator[Table]:
        """See `TableDriver.writing`; what calls this holds the state already."""
        yield self._ready().tables[collection.name]

    def _read(self, action: Callable[[], T]) -> T:
        with self._held():
            if self._calls is None:
                self._catch_up()
                return action()
            result = action()
            self._calls.append((action, copy.deepcopy(result)))
            return result

    def _write(self, action: Callable[[], T]) -> T:
        with self._held():
            self._check_writable()
            self._ready().check_version(self.shown)
            if self._calls is not None:
                result = action()
                self._calls.append((action, copy.deepcopy(result)))
                return result
            with self._at_work():
                return self._win(action)

    def _check_writable(self) -> None:
        if self._settings.read_only:
            raise StorageReadOnly(f"{self.shown} was opened read-only; connect without read_only to write")

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self._worked = time.monotonic()

    def _win(self, action: Callable[[], T]) -> T:
        """Make a change until it wins an entry, or until it changes nothing in the newest state."""
        since = time.monotonic()
        is_fresh = self._is_crowded
        if is_fresh:
            self._catch_up()
        while True:
            is_fresh = self._wait_for_turn() or is_fresh
            size = 0
            try:
                with self.undoing() as put:
                    result = action()
                    if put:
                        size = len(put)
                        self._commit(put)
                        return result
            except UniqueViolation:
                if is_fresh:
                    raise
                self._catch_up()
            except _Lost:
                self._after_a_loss(since, size)
            else:
                if is_fresh:
                    return result
                self._catch_up()
            is_fresh = True

    def insert(self, collection: Collection, documents: Sequence[Document]) -> list[Refusal]:
        """See `Driver.insert`; all in one entry."""
        return self._write(lambda: super(MLflowDriver, self).insert(collection, documents))

    def find(
        self,
        collection: Collection,
        where: Filter = (),
        order: Sequence[Order] = (),
        limit: int | None = None,
    ) -> list[Document]:
        """See `Driver.find`; a snapshot."""
        return self._read(lambda: super(MLflowDriver, self).find(collection, where, order, limit))

    def count(self, collection: Collection, where: Filter = ()) -> int:
        """See `Driver.count`."""
        return self._read(lambda: super(MLflowDriver, self).count(collection, where))

    def tally(self, collection: Collection, where: Filter, field: str) -> dict[str | float | bool | None, int]:
        """See `Driver.tally`."""
        return self._read(lambda: super(MLflowDriver, self).tally(collection, where, field))

    def swap(self, collection: Collection, document: Document, expected_revision: int) -> bool:
        """See `Driver.swap`."""
        return self._write(lambda: super(MLflowDriver, self).swap(collection, document, expected_revision))

    def patch(self, collection: Collection, where: Filter, changes: Changes) -> int:
        """See `Driver.patch`; all or none."""
        return self._write(lambda: super(MLflowDriver, self).patch(collection, where, changes))

    def claim(
        self, collection: Collection, where: Filter, changes: Changes, order: Sequence[Order] = ()
    ) -> Document | None:
        """See `Driver.claim`."""
        return self._write(lambda: super(MLflowDriver, self).claim(collection, where, changes, order))

    def delete(self, collection: Collection, where: Filter) -> int:
        """See `Driver.delete`; all or none."""
        return self._write(lambda: super(MLflowDriver, self).delete(collection, where))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Driver.transaction`; one entry of the log.

        Where another process writes meanwhile, the calls are made again on the new state; if all of them answer as
        before, nobody can tell the difference.

        Raises:
            Unavailable: they answer differently now, so nothing was written; repeat the transaction.
        """
        with self._held():
            if self._calls is not None:
                yield
                return
            with self._at_work():
                yield from self._transaction()

    def _transaction(self) -> Iterator[None]:
        since = time.monotonic()
        self._catch_up()
        self._wait_for_turn()
        calls: list[tuple[Callable[[], object], object]] = []
        self._calls = calls
        size = 0
        try:
            with self.undoing() as put:
                yield
                if put:
                    size = len(put)
                    self._commit(put)
        except _Lost:
            pass
        else:
            return
        finally:
            self._calls = None
        while True:
            self._after_a_loss(since, size)
            self._wait_for_turn()
            try:
                with self.undoing() as put:
                    for action, result in calls:
                        if action() != result:
                            raise Unavailable(f"{self.shown}: others have changed what this transaction has read")
                    if put:
                        self._commit(put)
            except _Lost:
                continue
            except UniqueViolation as error:
                raise Unavailable(f"{self.shown}: others have taken a key of this transaction") from error
            return

    def close(self) -> None:
        """See `Driver.close`; waits for pictures of what this process has changed."""
        if self._process != os.getpid():
            self._closed = True
            return
        if self._closed:
            return
        if self._mirror is not None:
            self._mirror.stop()
        with self._lock:
            self._closed = True
        if self._checkpointing is not None:
            self._checkpointing.join()
        self._state = None
        self._link.close()

    def erase(self) -> None:
        """Mark everything of this namespace as deleted in MLflow, and free its names."""
        with self._held():
            if not self._ledger.locate():
                return
            state = State(Schema(version=0, collections=()))
            state.load(self._ledger.start_from(self._ledger.newest_checkpoint()))
            for entry in self._ledger.read():
                state.apply(entry.changes)
            for key, row in state.tables[MIRRORS.name].rows.items():
                if key.startswith(f"{EXPERIMENTS}/"):
                    run = str(row[1])
                    self._link.rename_experiment(run, f"{key.partition('/')[2]} (erased, {run})")
                    self._link.delete_experiment(run)
            self._ledger.erase()
