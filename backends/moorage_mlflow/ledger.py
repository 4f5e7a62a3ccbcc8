"""The one source of truth: an append-only log of params that are written once.

Entry n is the param n of a run. On every SQL store of MLflow a param has exactly one winner, so whoever creates entry n
has decided it, and everybody else reads it. An entry holds a batch of changes that stands or falls as one. A run holds
`SIZE` entries, so that reading the newest ones stays cheap, and the param ``next``, also written once, names the run
that follows. Now and then the whole state is written as a checkpoint, from which a new process starts. Params called
``ask …`` beside the entries are wishes for a turn: they decide nothing.

Nothing here relies on tags, statuses or searches: in MLflow the last writer of those wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import secrets
import threading
import time
from typing import TYPE_CHECKING, cast

import attrs

from moorage.errors import (
    ConfigurationError,
    MoorageError,
    OutcomeUnknown,
    StorageDamaged,
    Unavailable,
)
from moorage_mlflow.link import Refused
from moorage_mlflow.picture import NOTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage_mlflow.link import Found, Link

SIZE = 100
VALUE_LIMIT = 5900
"""Characters of one param; MLflow keeps 6000 and cuts off the rest without a word."""
PARTS_PER_RUN = 500
_PARTS_PER_BATCH = 60
_REFUSALS = 10
FORMAT = "1"
_TAKEN = "RESOURCE_ALREADY_EXISTS"
_LEDGER_NOTE = (
    "Moorage keeps its records here: each param of these runs is an entry of a log that decides which trial is whose. "
    "Do not edit or delete these runs. What is meant for people is in the other experiments."
)
_RACERS = 4
_ASK = "ask "


class Gone(Exception):
    """A run of the log was put aside and removed: this process was away for long, and must begin anew."""


@attrs.frozen
class Entry:
    """What one writer has decided.

    Attributes:
        number: its place in the log.
        author: which ledger wrote it.
        written: the number of this write among those of its author.
        changes: what it says.
        size: characters.
    """

    number: int
    author: str
    written: int
    changes: list[list[object]]
    size: int


@attrs.frozen
class Ask:
    """One writer asks the others to let it write.

    Attributes:
        author: which ledger asks.
        written: the number of its last write before.
        entries: how many it is going to write, one after the other.
    """

    author: str
    written: int
    entries: int


@attrs.frozen
class Checkpoint:
    """The whole state as it was before an entry.

    Attributes:
        number: of that entry.
        run: the run in which it is, or will be.
        parts: the runs that hold the state.
        size: characters of the state.
    """

    number: int
    run: str
    parts: tuple[str, ...]
    size: int


def ledger_name(namespace: str) -> str:
    """What the experiment that holds the log of a namespace is called."""
    return "Moorage ledger" if namespace == "moorage" else f"Moorage ledger ({namespace})"


class Ledger:
    """The log of one namespace, as far as it has been read.

    Not for several threads at once.

    Attributes:
        round_trip: seconds that a request takes, about.
        author: what the entries of this process are signed with.
        position: the number of the entry that comes next.
        written: how many writes this process has tried.
        asks: what others, or this process, have asked; whoever has taken note of it removes it.
        since: characters of entries read or written since the checkpoint that this process knows.
    """

    def __init__(self, link: Link, namespace: str, *, timeout: float) -> None:
        self._link = link
        self.namespace = namespace
        self._timeout = timeout
        self.experiment = ""
        self._root = ""
        self._run = ""
        self._refused = (-1, 0)
        self._payload: tuple[str, str] = ("", "")
        self._known_asks: set[str] | None = None
        self.round_trip = 0.005
        self.author = secrets.token_hex(4)
        self.position = 0
        self.written = 0
        self.asks: list[Ask] = []
        self.since = 0
        self.checkpoint = Checkpoint(0, "", (), 0)

    @property
    def shown(self) -> str:
        """What to call this storage in messages."""
        return f"{self._link.shown} (namespace {self.namespace})"

    # Finding and creating it

    def locate(self) -> bool:
        """Find the experiment of the log; whether there is one.

        Raises:
            StorageDamaged: it was deleted in MLflow, or is of somebody else.
        """
        found = self._link.experiment(ledger_name(self.namespace))
        if found is None:
            return False
        self._adopt(found)
        return True

    def _adopt(self, found: Found) -> None:
        name = ledger_name(self.namespace)
        if not found.active:
            raise StorageDamaged(
                f"{self.shown}: the experiment {name!r} was deleted in MLflow. Restore it "
                f"(mlflow experiments restore --experiment-id {found.id}), or choose another namespace"
            )
        root = found.tags.get("moorage.root")
        if root is None:
            raise StorageDamaged(
                f"{self.shown}: the experiment {name!r} is not Moorage's. Rename it, or choose another namespace"
            )
        self.experiment, self._root = found.id, root

    def create(self, version: int) -> None:
        """Create the log with its first entry, the version of the schema, unless somebody else is faster.

        All of it is made under a passing name; the last step gives it the name under which it is found, and of several
        who try, one wins.

        Raises:
            ConfigurationError: the store behind MLflow does not give a param exactly one winner, as files do not.
        """
        kind = self._link.store_kind()
        if kind is not None and "file" in kind.lower():
            raise ConfigurationError(
                f"{self.shown} keeps its runs in files, where a param can have two winners; Moorage needs an MLflow "
                "with a SQL database: mlflow server --backend-store-uri sqlite:///mlflow.db"
            )
        name = ledger_name(self.namespace)
        mark = secrets.token_hex(6)
        try:
            experiment = self._link.create_experiment(f"{name} being created {mark}", {NOTE: _LEDGER_NOTE})
            root = self._new_run(experiment, "root")
            self._probe(root, 1 if kind == "SqlStore" else 5)
            first = self._new_run(experiment, f"entries from {_key(0)}")
            self._link.log_param(first, _key(0), json.dumps({"by": mark, "do": [["schema", version]]}))
            self._link.log_param(root, f"checkpoint {_key(0)}", json.dumps({"run": first, "parts": [], "size": 0}))
            self._link.log_param(root, "format", FORMAT)
            self._link.tag_experiment(experiment, "moorage.root", root)
            with contextlib.suppress(Refused):
                self._link.rename_experiment(experiment, name)
        except OutcomeUnknown as error:
            raise Unavailable(f"{self.shown} could not be created: {error}") from error
        except Refused as error:
            raise ConfigurationError(f"{self.shown} could not be created: {error}") from error
        found = self._link.experiment(name)
        if found is None:
            raise Unavailable(f"{self.shown}: the experiment {name!r} could not be created")
        if found.id != experiment:
            with contextlib.suppress(MoorageError, Refused):
                self._link.delete_experiment(experiment)
        self._adopt(found)

    def _probe(self, run: str, rounds: int) -> None:
        """See for ourselves that a param has one winner, and that long values come back whole."""
        long = "x" * VALUE_LIMIT
        self._link.log_param(run, "probe length", long)
        for number in range(rounds):
            start = threading.Barrier(_RACERS)
            won: list[str] = []

            def race(value: str, number: int = number, start: threading.Barrier = start, won: list[str] = won) -> None:
                start.wait()
                with contextlib.suppress(MoorageError, Refused):
                    self._link.log_param(run, f"probe {number}", value)
                    won.append(value)

            racers = [threading.Thread(target=race, args=(f"{one}",)) for one in range(_RACERS)]
            for one in racers:
                one.start()
            for one in racers:
                one.join()
            params = self._link.params(run) or {}
            stored = params.get(f"probe {number}")
            if params.get("probe length") != long:
                raise ConfigurationError(
                    f"{self.shown} cuts params of {VALUE_LIMIT} characters; use MLflow 2.8 or later"
                )
            if len(won) > 1 or (won and won[0] != stored):
                raise ConfigurationError(
                    f"{self.shown} let {len(won)} writers win one param; Moorage needs an MLflow with a SQL database"
                )

    def _new_run(self, experiment: str, name: str) -> str:
        return self._link.create_run(experiment, name, {"moorage.ledger": self.namespace}, int(time.time() * 1000))

    def newest_checkpoint(self) -> Checkpoint:
        """Where a new process begins to read.

        Raises:
            StorageDamaged: the root of the log is gone, or of another format.
        """
        params = self._link.params(self._root)
        if params is None:
            raise StorageDamaged(f"{self.shown}: the run {self._root}, the root of the log, is gone from MLflow")
        if (written := params.get("format")) != FORMAT:
            raise StorageDamaged(f"{self.shown} was written in format {written}; this Moorage reads format {FORMAT}")
        return _newest(params)

    def start_from(self, checkpoint: Checkpoint) -> Iterator[str]:
        """Begin there; the lines of the state as it was.

        Raises:
            Gone: a newer checkpoint has taken its place meanwhile.
        """
        self.checkpoint = checkpoint
        self.position, self._run, self.since = checkpoint.number, checkpoint.run, 0
        self._known_asks = None
        pieces: list[str] = []
        for run in checkpoint.parts:
            params = self._link.params(run)
            if params is None:
                raise Gone(run)
            pieces.extend(params[name] for name in sorted(params))
        text = "".join(pieces)
        if len(text) != checkpoint.size:
            raise StorageDamaged(
                f"{self.shown}: checkpoint {checkpoint.number} has {len(text)} characters, not {checkpoint.size}"
            )
        return iter(text.split("\n") if text else ())

    # Reading and writing entries

    def read(self) -> list[Entry]:
        """The entries that have been written since the last call; what was asked meanwhile is added to `asks`.

        What was asked before the first call is left out: it may be old, and its author gone.

        Raises:
            Unavailable: MLflow cannot be reached.
            StorageDamaged: an entry cannot be read.
            Gone: a run of the log is gone.
        """
        entries: list[Entry] = []
        is_first = self._known_asks is None
        params = self._params()
        position, run = self.position, self._run
        while True:
            self._listen(params)
            while (text := params.get(_key(position))) is not None:
                entries.append(self._entry(position, text))
                position += 1
                if position % SIZE == 0:
                    break
            following = params.get("next")
            if position % SIZE or not position or _key(position - 1) not in params or following is None:
                break
            run = following
            params = self._params(run)
        self.position, self._run = position, run
        self.since += sum(one.size for one in entries)
        if is_first:
            self.asks.clear()
        return entries

    def _listen(self, params: dict[str, str]) -> None:
        """Find what was asked in the run of these params since it was last read."""
        names = {name for name in params if name.startswith(_ASK)}
        fresh = sorted(names - (self._known_asks or set()))
        self._known_asks = names
        try:
            self.asks += [Ask(*json.loads(params[name])) for name in fresh]
        except (ValueError, TypeError) as error:
            raise StorageDamaged(f"{self.shown}: the params {', '.join(fresh)} cannot be read") from error

    def _params(self, run: str | None = None) -> dict[str, str]:
        run = run or self._run
        params = self._link.params(run)
        if params is None:
            raise Gone(run)
        return params

    def _entry(self, number: int, text: str) -> Entry:
        try:
            value = json.loads(text)
            author, _, written = value["by"].partition(".")
            signed = number, author, int(written or 0)
            if (payload := value.get("in")) is None:
                return Entry(*signed, value["do"], len(text))
            params = self._link.params(payload)
            if params is None:
                raise Gone(payload)
            whole = "".join(params[name] for name in sorted(params))
            if _digest(whole) != value["digest"]:
                raise StorageDamaged(f"{self.shown}: entry {number} is damaged: its text in run {payload} was changed")
            return Entry(*signed, json.loads(whole), len(whole))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise StorageDamaged(f"{self.shown}: entry {number} cannot be read: {text!r:.80}") from error

    def append(self, changes: Sequence[object]) -> bool:
        """Write the next entry; whether this call has won it. After False, `read` tells who has.

        Raises:
            Unavailable: certainly nothing was written.
            OutcomeUnknown: it may have been, or may still be.
        """
        text = json.dumps(changes, separators=(",", ":"))
        if self.position % SIZE == 0 and self.position:
            self._extend()
        value = self._value(text)
        key = _key(self.position)
        deadline = time.monotonic() + self._timeout
        unknown: OutcomeUnknown | None = None
        while True:
            started = time.monotonic()
            try:
                self._link.log_param(self._run, key, value)
            except OutcomeUnknown as error:
                unknown = error
                if time.monotonic() > deadline:
                    raise
            except Unavailable:
                if unknown is None:
                    raise
            except Refused as error:
                if unknown is None:
                    return self._lost(error)
            else:
                self.round_trip += 0.2 * (time.monotonic() - started - self.round_trip)
                return self._won(len(text))
            if (stored := self._stored(key, unknown)) is not None:
                return self._won(len(text)) if stored == value else False
            if time.monotonic() > deadline:
                raise unknown
            time.sleep(random.uniform(0.005, 0.05))

    def ask(self, entries: int) -> None:
        """Ask the others to let this process write so many entries; they see it where they read the newest ones.

        Nothing is decided by it, so an answer that is lost does not matter.
        """
        name = f"{_ASK}{_key(self.position)} {self.author}"
        with contextlib.suppress(Refused, Unavailable, OutcomeUnknown):
            self._link.log_param(self._run, name, json.dumps([self.author, self.written, entries]))

    def _lost(self, error: Refused) -> bool:
        """Somebody else has this entry; if that cannot be seen after some tries, the refusal means something else."""
        if self._refused[0] != self.position:
            self._refused = (self.position, 0)
        self._refused = (self.position, self._refused[1] + 1)
        if self._refused[1] > _REFUSALS:
            raise Unavailable(f"{self.shown} refuses entry {self.position}, and nobody else has written it: {error}")
        return False

    def _won(self, size: int) -> bool:
        self.position += 1
        self.since += size
        return True

    def _stored(self, key: str, unknown: OutcomeUnknown) -> str | None:
        try:
            return self._params().get(key)
        except Unavailable:
            raise unknown from None

    def _value(self, text: str) -> str:
        self.written += 1
        by = f"{self.author}.{self.written}"
        value = f'{{"by":"{by}","do":{text}}}'
        if len(value) <= VALUE_LIMIT:
            return value
        if self._payload[0] != text:
            self._payload = (text, self._write_text(f"text of entry {_key(self.position)}", _pieces(text)))
        return json.dumps({"by": by, "in": self._payload[1], "digest": _digest(text)})

    def _write_text(self, name: str, pieces: Sequence[str]) -> str:
        """Write a text into a run to which nothing refers yet; which run."""
        try:
            run = self._new_run(self.experiment, name)
            for start in range(0, len(pieces), _PARTS_PER_BATCH):
                batch = pieces[start : start + _PARTS_PER_BATCH]
                self._link.log_batch(run, params={_key(start + place): text for place, text in enumerate(batch)})
        except (OutcomeUnknown, Refused) as error:
            raise Unavailable(f"{self.shown} did not take a long text, and nothing refers to it: {error}") from error
        return run

    def _extend(self) -> None:
        """Go on to the run that follows; create it if nobody has."""
        params = self._params()
        self._listen(params)
        if _key(self.position - 1) not in params:
            return
        following = params.get("next")
        if following is None:
            try:
                run = self._new_run(self.experiment, f"entries from {_key(self.position)}")
                with contextlib.suppress(Refused):
                    self._link.log_param(self._run, "next", run)
            except OutcomeUnknown as error:
                raise Unavailable(f"{error}; no entry was written") from error
            following = self._params().get("next")
            if following is None:
                raise Unavailable(f"{self.shown} did not take a new run of the log")
            if following != run:
                with contextlib.suppress(MoorageError, Refused):
                    self._link.delete_run(run)
        self._run = following

    # Checkpoints

    def write_checkpoint(self, number: int, run: str, lines: Sequence[str]) -> None:
        """Publish the state as it was before an entry, and put aside what nobody needs any more.

        May run in a thread of its own: it touches nothing that `read` and `append` change.
        """
        text = "\n".join(lines)
        pieces = _pieces(text)
        parts: list[str] = []
        for start in range(0, len(pieces), PARTS_PER_RUN):
            name = f"checkpoint {_key(number)}, part {len(parts) + 1}"
            parts.append(self._write_text(name, pieces[start : start + PARTS_PER_RUN]))
        before = self._link.params(self._root) or {}
        value = json.dumps({"run": run, "parts": parts, "size": len(text)})
        with contextlib.suppress(Refused):
            self._link.log_param(self._root, f"checkpoint {_key(number)}", value)
        self.checkpoint = Checkpoint(number, run, tuple(parts), len(text))
        self._put_aside(before)

    def _put_aside(self, before: dict[str, str]) -> None:
        """Mark as deleted what came before the checkpoint before this one; `mlflow gc` frees it.

        One checkpoint and its entries stay for those who are still reading them.
        """
        known = sorted(name for name in before if name.startswith("checkpoint "))
        if len(known) < 2:
            return
        old, kept = (_parsed(name, before[name]) for name in known[-2:])
        for run in old.parts:
            self._discard(run)
        run = old.run
        while run and run != kept.run:
            params = self._link.params(run)
            if params is None:
                return
            for name, text in params.items():
                if name.isdecimal() and (payload := json.loads(text).get("in")) is not None:
                    self._discard(payload)
            self._discard(run)
            run = params.get("next", "")

    def _discard(self, run: str) -> None:
        with contextlib.suppress(MoorageError, Refused):
            self._link.delete_run(run)

    @property
    def run(self) -> str:
        """The run in which the next entry is, or after which it will be."""
        return self._run

    def erase(self) -> None:
        """Free the name of the log and mark it as deleted."""
        if self.locate():
            self._link.rename_experiment(self.experiment, f"{ledger_name(self.namespace)} (erased {self.experiment})")
            self._link.delete_experiment(self.experiment)


def _key(number: int) -> str:
    return f"{number:09d}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _pieces(text: str) -> list[str]:
    return [text[start : start + VALUE_LIMIT] for start in range(0, len(text), VALUE_LIMIT)]


def _parsed(name: str, text: str) -> Checkpoint:
    value = cast("dict[str, object]", json.loads(text))
    return Checkpoint(
        int(name.split()[1]),
        cast("str", value["run"]),
        tuple(cast("list[str]", value["parts"])),
        cast("int", value["size"]),
    )


def _newest(params: dict[str, str]) -> Checkpoint:
    names = sorted(name for name in params if name.startswith("checkpoint "))
    return _parsed(names[-1], params[names[-1]])
