"""What people see follows what was decided: a thread that draws the pictures of changed documents into MLflow.

Whoever changes a document draws it, shortly afterwards, and notes in the log what is shown. Where that note stays out
and nothing else is heard of its author, because it was killed in between, the others draw what it has left undone.
Nothing that is drawn is ever read back, except to find the run of a trial whose process was killed before its note.
"""

from __future__ import annotations

import atexit
import contextlib
import heapq
import logging
import os
import random
import threading
import time
from typing import TYPE_CHECKING, cast

import attrs

from moorage.errors import MoorageError
from moorage_mlflow.link import ENTITIES_PER_BATCH, PARAMS_PER_BATCH, Refused
from moorage_mlflow.picture import experiment_picture, metric, run_picture, with_steps
from moorage_mlflow.state import EXPERIMENTS, MEASUREMENTS, MIRRORS, TRIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from moorage.driver import Document
    from moorage_mlflow.link import Link
    from moorage_mlflow.picture import Metric, RunPicture
    from moorage_mlflow.state import State, Touch

logger = logging.getLogger("moorage.mlflow")

_DELAY = 0.25
"""How long a change waits for others of the same document, in seconds: a short trial is drawn once."""
_NOTE_DELAY = 1.0
_NOTES = 40
_RETRY = 2.0
_PACE = 0.5
"""At most one document in this time, in seconds, while the process has work of its own to do: that goes first."""
_STRANGER = 6
"""How many times longer to wait for somebody of whom it is not known who it is."""
_TAKEN = ("RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


@attrs.frozen
class Note:
    """What was drawn.

    Attributes:
        key: ``collection/id`` of the document.
        run: the run or experiment in MLflow; None where there is none any more.
        shown: the digest of the picture.
        measured: how many measurements are shown.
        within: the experiment of a trial.
    """

    key: str
    run: str | None
    shown: str = ""
    measured: int = 0
    within: str | None = None


@attrs.frozen
class _Job:
    """A document as it is now, and what MLflow shows of it."""

    key: str
    document: Document | None
    note: Note | None
    is_ours: bool
    measurements: Sequence[Document] = ()
    measured: int = 0


class Mirror:
    """The thread, and the list of what it has to do.

    Args:
        link: of its own.
        locked: holds the state still, and yields it.
        publish: writes notes into the log; it takes them by `take_notes`.
        is_busy: whether the process is writing for itself just now.
        waiting: whether trials that were never started are shown.
        patience: seconds after which the work of others is done for them.
        settle: seconds that `stop` gives the thread to finish.
    """

    def __init__(
        self,
        link: Link,
        locked: Callable[[], AbstractContextManager[State]],
        publish: Callable[[], None],
        is_busy: Callable[[], bool],
        *,
        waiting: bool,
        patience: float,
        settle: float,
    ) -> None:
        self._link, self._locked, self._publish, self._is_busy = link, locked, publish, is_busy
        self._waiting, self._patience, self._settle = waiting, patience, settle
        self._wake = threading.Condition()
        self._due: dict[str, tuple[float, str | None]] = {}
        self._heard: dict[str, float] = {}
        self._drawn = 0.0
        self._heap: list[tuple[float, str]] = []
        self._notes: dict[str, Note] = {}
        self._noted = 0.0
        self._measured: dict[tuple[str, str], dict[str, None]] = {}
        self._trials: dict[tuple[str, str], str] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self._thread: threading.Thread | None = None
        self._stop_at: float | None = None
        self._process = os.getpid()

    # What is to be done

    def touched(self, touches: Iterable[Touch], author: str | None) -> None:
        """Take note of changed documents; to be called while the state is held still.

        Args:
            touches: what was changed.
            author: who has done it; None for this process, and an empty text where nobody knows.
        """
        now = time.monotonic()
        if author is None:
            due = now + _DELAY
        else:
            due = now + self._patience * random.uniform(1, 1.5) * (1 if author else _STRANGER)
        with self._wake:
            if author:
                self._heard[author] = now
            for one in touches:
                key = self._key(one)
                if key is None:
                    continue
                before = self._due.get(key)
                if before is None or before[1] is not None:
                    self._schedule(key, due, author)
            if self._due and self._thread is None and self._stop_at is None:
                self._start()
            self._wake.notify_all()

    def _schedule(self, key: str, due: float, author: str | None) -> None:
        self._due[key] = (due, author)
        heapq.heappush(self._heap, (due, key))

    def _key(self, touch: Touch) -> str | None:
        """The document whose picture a change may alter."""
        if touch.collection == MEASUREMENTS:
            group = self._measured.setdefault(touch.group, {})
            if touch.kind == "gone":
                group.pop(touch.id, None)
                if not group:
                    del self._measured[touch.group]
                return None
            group[touch.id] = None
            trial = self._trials.get(touch.group)
            return None if trial is None else f"{TRIALS}/{trial}"
        if touch.collection == TRIALS:
            if touch.kind == "gone":
                self._trials.pop(touch.group, None)
            else:
                self._trials[touch.group] = touch.id
        elif touch.collection == MIRRORS.name:
            return touch.id
        elif touch.collection != EXPERIMENTS:
            return None
        return f"{touch.collection}/{touch.id}"

    def _job(self, key: str, *, ours: bool) -> _Job | None:
        """What there is to draw for a document; None where the picture is right."""
        collection, _, identifier = key.partition("/")
        if (unpublished := self._notes.get(key)) is not None and unpublished.run is None:
            self._publish()
        with self._locked() as state:
            document = state.get(collection, identifier)
            note = self._note(state, key)
            if document is None:
                return None if note is None else _Job(key, None, note, ours)
            if collection == EXPERIMENTS:
                is_right = note is not None and note.shown == experiment_picture(document).digest
                return None if is_right else _Job(key, document, note, ours)
            names = list(self._measured.get(_group(document), ()))
            if note is None:
                if not self._is_shown(document):
                    return None
                done = 0
            else:
                if note.measured == len(names) and note.shown == run_picture(document).digest:
                    return None
                done = note.measured if note.measured < len(names) else 0
            found = [state.get(MEASUREMENTS, name) for name in names[done:]]
            fresh = [one for one in found if one is not None]
            return _Job(key, document, note, ours, fresh, len(names))

    def _is_shown(self, trial: Document) -> bool:
        body = trial.body
        return self._waiting or not body.get("pending") or body.get("start_time") is not None

    def _note(self, state: State, key: str) -> Note | None:
        """What is shown of a document, published or not."""
        if (unpublished := self._notes.get(key)) is not None:
            return None if unpublished.run is None else unpublished
        row = state.get(MIRRORS.name, key)
        if row is None:
            return None
        body = row.body
        return Note(
            key, str(body["run"]), str(body["shown"]), cast("int", body["measured"] or 0), cast("str", body["within"])
        )

    # Notes

    def take_notes(self, limit: int = _NOTES) -> list[Note]:
        """What was drawn and is not published yet, the oldest first."""
        with self._wake:
            return list(self._notes.values())[:limit]

    def published(self, notes: Iterable[Note]) -> None:
        """These are in the log now."""
        with self._wake:
            for one in notes:
                if self._notes.get(one.key) == one:
                    del self._notes[one.key]
            self._noted = time.monotonic()

    def duplicate(self, note: Note) -> None:
        """Others have noted another run for this document: ours goes."""
        with contextlib.suppress(MoorageError, Refused):
            if note.run is not None and note.key.startswith(TRIALS):
                self._link.delete_run(note.run)

    def _done(self, note: Note) -> None:
        with self._wake:
            if not self._notes:
                self._noted = time.monotonic()
            self._notes.pop(note.key, None)
            self._notes[note.key] = note

    # The thread

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="moorage-mlflow-mirror", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def forget(self) -> None:
        """Begin anew, with a state that was loaded again."""
        with self._wake:
            self._measured.clear()
            self._trials.clear()

    def stop(self) -> None:
        """Draw what is ours, for as long as was said, and end the thread."""
        if self._process != os.getpid():
            return
        atexit.unregister(self.stop)
        with self._wake:
            thread = self._thread
            if self._stop_at is None:
                self._stop_at = time.monotonic() + self._settle
            self._wake.notify_all()
        if thread is not None:
            thread.join()

    def _next(self) -> tuple[str, bool] | None:
        """The next document to look at; an empty key where notes are to be published, None at the end."""
        with self._wake:
            while True:
                now = time.monotonic()
                is_stopping = self._stop_at is not None
                if is_stopping and now > (self._stop_at or 0):
                    return None
                if self._notes and (len(self._notes) >= _NOTES or now > self._noted + _NOTE_DELAY):
                    self._noted = now
                    return "", True
                if is_stopping:
                    key = next((key for key, (_, author) in self._due.items() if author is None), None)
                    if key is not None:
                        del self._due[key]
                        return key, True
                    return ("", True) if self._notes else None
                wait = self._wait(now)
                if wait is not None and wait <= 0:
                    self._drawn = now
                    key = heapq.heappop(self._heap)[1]
                    return key, self._due.pop(key)[1] is None
                if self._notes:
                    rest = max(0.01, self._noted + _NOTE_DELAY - now)
                    wait = rest if wait is None else min(wait, rest)
                self._wake.wait(wait)

    def _wait(self, now: float) -> float | None:
        """Seconds until the first document of the heap is to be looked at; None where there is none."""
        while self._heap:
            due, key = self._heap[0]
            planned = self._due.get(key)
            if planned is None or planned[0] != due:
                heapq.heappop(self._heap)
                continue
            author = planned[1]
            if due <= now and author and (again := self._heard.get(author, 0.0) + self._patience) > now:
                heapq.heappop(self._heap)
                self._schedule(key, again, author)
                continue
            return max(due, self._drawn + _PACE if self._is_busy() else 0.0) - now
        return None

    def _run(self) -> None:
        while (following := self._next()) is not None:
            key, ours = following
            try:
                if not key:
                    self._publish()
                elif (job := self._job(key, ours=ours)) is not None:
                    self._draw(job)
            except (MoorageError, Refused) as error:
                logger.debug("%s is not shown in MLflow yet: %s", key or "a note", error)
                if self._stop_at is not None:
                    return
                if key:
                    with self._wake:
                        if key not in self._due:
                            self._schedule(key, time.monotonic() + _RETRY, None if ours else "")
            except Exception:  # what people see never stops the work itself
                logger.exception("%s cannot be shown in MLflow", key)

    # Drawing

    def _draw(self, job: _Job) -> None:
        if job.key.startswith(f"{EXPERIMENTS}/"):
            self._draw_experiment(job)
        else:
            self._draw_trial(job)

    def _draw_experiment(self, job: _Job) -> str:
        document, note = job.document, job.note
        if document is None:
            if note is not None and note.run is not None:
                with contextlib.suppress(Refused):
                    self._link.rename_experiment(note.run, f"{job.key.partition('/')[2]} (deleted, {note.run})")
                    self._link.delete_experiment(note.run)
            self._done(Note(job.key, None))
            return ""
        picture = experiment_picture(document)
        if note is None or note.run is None:
            run, known = self._create_experiment(document.id, picture.name, picture.tags)
        else:
            run, known = note.run, self._tags.get(document.id, {})
        for name in {**known, **picture.tags}:
            value = picture.tags.get(name, "")
            if known.get(name) != value:
                self._link.tag_experiment(run, name, value)
        self._tags[document.id] = picture.tags
        self._done(Note(job.key, run, picture.digest))
        return run

    def _create_experiment(self, identifier: str, name: str, tags: dict[str, str]) -> tuple[str, dict[str, str]]:
        """Create an experiment, or find the one that another process has just created; foreign ones are left alone.

        Returns:
            Its id, and the tags that it has.
        """
        for wanted in (name, f"{name} ({identifier[:8]})", f"{name} ({identifier})"):
            try:
                return self._link.create_experiment(wanted, tags), tags
            except Refused as error:
                if error.code not in _TAKEN:
                    raise
            found = self._link.experiment(wanted)
            if found is not None and found.active and found.tags.get("moorage.experiment") == identifier:
                return found.id, found.tags
        raise Refused("RESOURCE_ALREADY_EXISTS", f"every name for {name} is taken")

    def _experiment_of(self, document: Document) -> str:
        identifier = str(document.body.get("experiment"))
        key = f"{EXPERIMENTS}/{identifier}"
        with self._locked() as state:
            note = self._note(state, key)
            experiment = state.get(EXPERIMENTS, identifier)
        if note is not None and note.run is not None:
            return note.run
        if experiment is None:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"experiment {identifier} is gone")
        return self._draw_experiment(_Job(key, experiment, None, is_ours=True))

    def _draw_trial(self, job: _Job) -> None:
        document, note = job.document, job.note
        if document is None:
            if note is not None and note.run is not None and self._exists(note.within):
                with contextlib.suppress(Refused):
                    self._link.delete_run(note.run)
            self._done(Note(job.key, None))
            return
        picture = run_picture(document)
        is_new = note is None or note.shown != picture.digest
        params = picture.params if note is None or not note.shown else {}
        tags: dict[str, str] = {}
        if note is None or note.run is None:
            run, tags = self._create_run(job.key, document, picture, is_ours=job.is_ours)
        else:
            run = note.run
            if is_new:
                tags = {**dict.fromkeys(("moorage.error", "mlflow.note.content"), ""), **picture.tags}
        metrics = [metric(one) for one in job.measurements]
        if is_new and picture.results:
            metrics += with_steps(picture.results, self._last_steps(document))
        self._log(run, params, metrics, tags)
        if is_new and (note is not None or tags or picture.status != "RUNNING"):
            self._link.update_run(run, picture.status, picture.end)
        self._done(Note(job.key, run, picture.digest, job.measured, str(document.body.get("experiment"))))

    def _exists(self, experiment: str | None) -> bool:
        """Whether an experiment goes on; one that goes takes its runs with it."""
        with self._locked() as state:
            found = state.get(EXPERIMENTS, experiment or "")
        return found is not None and not found.body.get("deleting")

    def _last_steps(self, document: Document) -> dict[str, int]:
        last: dict[str, int] = {}
        with self._locked() as state:
            found = [state.get(MEASUREMENTS, name) for name in self._measured.get(_group(document), ())]
        for one in (metric(one) for one in found if one is not None):
            last[one.name] = max(one.step, last.get(one.name, one.step))
        return last

    def _create_run(
        self, key: str, document: Document, picture: RunPicture, *, is_ours: bool
    ) -> tuple[str, dict[str, str]]:
        """Create the run of a trial, or find the one that a process created before it was killed.

        Returns:
            The run, and the tags that it may lack.
        """
        experiment = self._experiment_of(document)
        tags: dict[str, str] = {}
        run = None if is_ours else self._left_behind(experiment, str(document.body.get("trial")))
        if run is None:
            run = self._link.create_run(experiment, picture.name, picture.tags, picture.start)
        else:
            tags = picture.tags
        self._done(Note(key, run, within=str(document.body.get("experiment"))))
        return run, tags

    def _left_behind(self, experiment: str, trial: str) -> str | None:
        if "'" in trial or "\\" in trial:
            return None
        return next(iter(self._link.find_runs(experiment, "moorage.trial", trial)), None)

    def _log(self, run: str, params: dict[str, str], metrics: Sequence[Metric], tags: dict[str, str]) -> None:
        """In as few requests as the limits of one batch allow."""
        names, labels, values = list(params), list(tags), list(metrics)
        while names or labels or values:
            some, names = names[:PARAMS_PER_BATCH], names[PARAMS_PER_BATCH:]
            marks, labels = labels[:PARAMS_PER_BATCH], labels[PARAMS_PER_BATCH:]
            room = ENTITIES_PER_BATCH - len(some) - len(marks)
            points, values = values[:room], values[room:]
            chosen = {name: tags[name] for name in marks}
            try:
                self._link.log_batch(run, params={name: params[name] for name in some}, metrics=points, tags=chosen)
            except Refused as error:
                if not some:
                    raise
                logger.debug("the params of run %s are not shown: %s", run, error)
                self._link.log_batch(run, metrics=points, tags=chosen)


def _group(trial: Document) -> tuple[str, str]:
    return str(trial.body.get("experiment")), str(trial.body.get("trial"))
