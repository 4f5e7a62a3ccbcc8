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

from moorage.driver import Capability, Document
from moorage.errors import (
    MoorageError,
    StorageClosed,
    StorageDamaged,
    StorageReadOnly,
    Unavailable,
    UniqueViolation,
)
from moorage.schema import Schema
from moorage.table import Table, TableDriver
from moorage_mlflow.ledger import Gone, Ledger
from moorage_mlflow.link import Refused
from moorage_mlflow.mirror import Mirror
from moorage_mlflow.state import EXPERIMENTS, MIRRORS, State, Touch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moorage.codec import Plain
    from moorage.driver import Changes, Refusal
    from moorage.filters import Filter, Order
    from moorage.schema import Collection
    from moorage.table import Row
    from moorage_mlflow.link import Link
    from moorage_mlflow.mirror import Note

T = TypeVar("T")

_CHECKPOINT_SMALLEST, _CHECKPOINT_LARGEST = 1 << 18, 1 << 22
_NOTES_BESIDE = 5
_RELOADS = 5
_ASK_AFTER, _LARGE = 0.5, 50
"""Seconds without success, and changed documents in one entry, from which on a writer asks for a turn."""
_TURN = 24
"""Entries that one who writes them one after the other may write in a turn."""
_BEGIN, _IDLE = 0.6, 0.2
"""Seconds in which a turn must begin, and go on."""
_LOOK = 0.5
"""Seconds after which one who always wins looks whether others have asked."""
_PAUSE = 0.1
"""Seconds between two entries that count as one after the other."""
_LEAST, _MOST = 2, 8


@attrs.define
class _Turn:
    """The others let one writer write.

    Attributes:
        author: which ledger.
        entries: how many it has still to write.
        until: when it is over if nothing more is heard; None where it is behind others.
        has_begun: whether its author has written.
    """

    author: str
    entries: int
    until: float | None = None
    has_begun: bool = False


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
        self._turns: list[_Turn] = []
        self._asked_in: str | None = None
        self._heard: dict[str, int] = {}
        self._working = 0
        self._began = self._worked = self._looked = 0.0
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
                    raise StorageDamaged(f"{self.shown} holds no Moorage storage, and it was opened read-only")
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
                raise StorageDamaged(f"{self.shown} refuses what Moorage asks of it: {error}") from error

    def _ready(self, *, check: bool = True) -> State:
        if self._state is None:
            if not self._ledger.experiment and not self._ledger.locate():
                raise StorageDamaged(f"{self.shown} holds no Moorage storage any more")
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
                self._hear(entry.author, entry.written)
        except StorageDamaged:
            self._state = None
            raise
        self._heed()
        self._looked = time.monotonic()
        if check:
            state.check_version(self.shown)

    # Taking turns

    def _heed(self) -> None:
        """Give a turn to each who has asked, after those who asked before, unless it has got on since."""
        for ask in self._ledger.asks:
            if ask.written >= self._heard.get(ask.author, 0) and self._place(ask.author) is None:
                self._turns.append(_Turn(ask.author, ask.entries))
        self._ledger.asks.clear()

    def _hear(self, author: str, written: int) -> None:
        """Take note of an entry: a turn begins with it, goes on, or ends. All see that at the same place of the log."""
        self._heard[author] = written
        place = self._place(author)
        if place is None:
            return
        for _ in range(place):  # its author would not have written before their time was over
            self._end_turn()
        turn = self._turns[0]
        turn.entries -= 1
        turn.has_begun, turn.until = True, time.monotonic() + _IDLE
        if turn.entries <= 0:
            self._end_turn()

    def _place(self, author: str) -> int | None:
        return next((place for place, one in enumerate(self._turns) if one.author == author), None)

    def _end_turn(self) -> None:
        if self._turns.pop(0).author == self._ledger.author:
            self._asked_in = None
            self._is_crowded = True

    def _others_turn(self) -> _Turn | None:
        """The turn of somebody else, if it is; to be asked when the log has just been read."""
        now = time.monotonic()
        while self._turns:
            first = self._turns[0]
            if first.until is None:
                first.until = now + _BEGIN
            if now < first.until:
                return None if first.author == self._ledger.author else first
            self._end_turn()
        return None

    def _should_look(self, now: float) -> bool:
        """Whether to read the log before a write: after a loss, and where others have asked for a turn, or may have."""
        self._heed()
        if now > self._worked + _PAUSE:
            self._began = now
        if self._turns and self._turns[0].author == self._ledger.author:
            return self._is_crowded
        return self._is_crowded or bool(self._turns) or now > max(self._began, self._looked) + _LOOK

    def _wait_for_turn(self, since: float) -> bool:
        """Let those write who have asked for it; whether anything was waited for, and the log read since.

        It is a courtesy with an end: nothing but speed depends on it, and whoever is killed holds nobody up for long.
        """
        has_waited = False
        while (turn := self._others_turn()) is not None:
            if time.monotonic() > since + _ASK_AFTER:
                self._ask(self._wanted(since))
            self._rest(turn)
            self._catch_up()
            has_waited = True
        return has_waited

    def _rest(self, turn: _Turn) -> None:
        """Sleep until it is our turn, as far as that can be told."""
        if turn.has_begun:
            place = self._place(self._ledger.author)
            before = [turn] if place is None else self._turns[:place]
            entries = max(sum(one.entries for one in before), 2 if place == 1 else 8)
            time.sleep(min(entries * self._ledger.round_trip * random.uniform(0.8, 1), 1))
        else:
            self._pause(16)

    def _pause(self, round_trips: float) -> None:
        time.sleep(random.uniform(0.2, 1) * min(round_trips * self._ledger.round_trip, 1))

    def _after_a_loss(self, since: float, size: int) -> None:
        """Step back, for longer each time, so that one writer at a time gets on, and with one request for each entry.

        Where that takes long, or a change is so large that the others would always be faster, ask for a turn.
        """
        has_asked = False
        if size > _LARGE or time.monotonic() > since + _ASK_AFTER:
            self._catch_up()  # those who write read the newest run
            has_asked = self._ask(self._wanted(since))
        if has_asked:
            time.sleep(_LOOK)
        elif self._place(self._ledger.author) != 0:
            self._pause(2.0**self._losses)
        self._catch_up()

    def _wanted(self, since: float) -> int:
        """How many entries a writer that began at some time is going to write, one after the other."""
        return _TURN if since < self._worked + _PAUSE else 1

    def _ask(self, entries: int) -> bool:
        """Ask for a turn, unless that was done: whether it was done now.

        Who writes one entry after the other is always the first to know which comes next, so nobody else would get in a
        word there; but it looks from time to time whether others have asked.
        """
        if self._asked_in == self._ledger.run or self._place(self._ledger.author) is not None:
            return False
        self._asked_in = self._ledger.run
        self._ledger.ask(entries)
        return True

    def _is_busy(self) -> bool:
        return self._working > 0 or time.monotonic() < self._worked + 0.05

    # The log

    def _append(self, changes: Sequence[object]) -> bool:
        before = self._ledger.since
        won = self._ledger.append(changes)
        self._is_crowded = not won
        self._losses = max(self._losses - 1, _LEAST) if won else min(self._losses + 1, _MOST)
        if won:
            self._hear(self._ledger.author, self._ledger.written)
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
            if self._turns:
                self._catch_up()
            if self._others_turn() is None:
                try:
                    with self.undoing() as put:
                        refused = self._note(notes)
                        changes, touched = self._ready().describe(put)
                        self._win_or_lose(changes)
                except _Lost:
                    self._catch_up()
                else:
                    self._after(notes, refused, touched)
                return
            self._ask(1)
        time.sleep(_IDLE)  # the process itself goes on meanwhile

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
            except (MoorageError, Refused):
                return

        self._checkpointing = threading.Thread(target=write, name="moorage-mlflow-checkpoint", daemon=True)
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
        is_fresh = self._should_look(since)
        if is_fresh:
            self._catch_up()
        while True:
            is_fresh = self._wait_for_turn(since) or is_fresh
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
        self._wait_for_turn(since)
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
            self._wait_for_turn(since)
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
