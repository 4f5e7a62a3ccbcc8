"""The raw limit: what Moorage does, written by hand with nothing but the sqlite3 module.

The tables, indexes and triggers are Moorage's own, because the file is a copy of the same filled storage. Each verb
gives the same guarantees by the same statements: one ``BEGIN IMMEDIATE`` … ``COMMIT`` for each step that must be
atomic, the check that the experiment exists, the fencing token in each ``WHERE``, the id of each write, and the same
columns set. What it leaves out is what a library adds: checks of arguments, records, codecs for other than JSON values,
translated errors, waiting and retrying, threads, and backends.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import socket
import sqlite3
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stores import Values

Row: TypeAlias = "dict[str, object]"

_BOOT = "/proc/sys/kernel/random/boot_id"

_EXISTS = "SELECT count(*) FROM moorage_experiments WHERE id = ? AND deleting IS NOT 1"
_INSERT = """
    INSERT INTO moorage_trials (
        id, revision, experiment, trial, status, worker, parent, resource, token, objective, params, results,
        working_directory, error, submit_time, start_time, end_time, heartbeat, sequence, pending, beat, clock, write,
        param_types, result_types, number, measured, metadata, body
    ) VALUES (?, 1, ?, ?, 'new', NULL, NULL, NULL, 0, NULL, ?, '{}', NULL, NULL, ?, NULL, NULL, NULL, ?, 1, NULL, NULL,
        ?, NULL, NULL, ?, 0, '{}', NULL)
"""
_NUMBER = """
    UPDATE moorage_counters SET revision = revision + 1, value = value + ?, write = ? WHERE id = ? RETURNING value
"""
_SETTINGS = "SELECT status, max_broken, stop_requested FROM moorage_experiments WHERE id = ? AND deleting IS NOT 1"
_START = """
    UPDATE moorage_experiments SET revision = revision + 1, status = 'running', started = ?, write = ?
    WHERE id = ? AND status = 'created'
"""
_BEGIN = """
    INSERT INTO moorage_attempts (id, revision, experiment, trial, number, worker, started, write, metadata)
    VALUES (?, 1, ?, ?, ?, ?, ?, ?, '{}')
"""
_END = """
    UPDATE moorage_attempts SET revision = revision + 1, outcome = 'completed', ended = ?, write = ?
    WHERE id = ? AND outcome IS NULL
"""
_RESERVE = """
    UPDATE moorage_trials SET
        revision = revision + 1, status = 'reserved', worker = ?, token = coalesce(token, 0) + 1, error = NULL,
        start_time = ?, end_time = NULL, heartbeat = ?, pending = 0, beat = ?, clock = ?, write = ?,
        stop_requested = NULL, results = '{}', result_types = NULL, objective = NULL
    WHERE id = (
        SELECT id FROM moorage_trials WHERE experiment = ? AND pending = 1 ORDER BY sequence LIMIT 1
    ) RETURNING *
"""
_HEARTBEAT = """
    UPDATE moorage_trials SET revision = revision + 1, heartbeat = ?, beat = ?, clock = ?, write = ?
    WHERE id = ? AND status = 'reserved' AND token = ?
"""
_ADMIT = """
    UPDATE moorage_trials SET revision = revision + 1, measured = coalesce(measured, 0) + 1, write = ?
    WHERE id = ? AND status = 'reserved' AND token = ? RETURNING measured
"""
_MEASURE = """
    INSERT INTO moorage_measurements (id, revision, experiment, trial, name, step, attempt, value, time, sequence, body)
    VALUES (?, 1, ?, ?, 'loss', ?, ?, ?, ?, ?, NULL)
"""
_COMPLETE = """
    UPDATE moorage_trials SET
        revision = revision + 1, status = 'completed', objective = ?, results = ?, end_time = ?, pending = 0, write = ?,
        result_types = NULL
    WHERE id = ? AND status = 'reserved' AND token = ?
"""
_GET = "SELECT * FROM moorage_trials WHERE id = ?"
_COUNT = "SELECT total FROM moorage_trials_tally_experiment_status WHERE experiment = ? AND status = 'completed'"
_COUNT_EACH = "SELECT status, total FROM moorage_trials_tally_experiment_status WHERE experiment = ?"
_FETCH = "SELECT * FROM moorage_trials WHERE experiment = ? ORDER BY number"
_LOCK = "SELECT * FROM moorage_algorithm_locks WHERE id = ?"
_CREATE_LOCK = """
    INSERT OR IGNORE INTO moorage_algorithm_locks (
        id, revision, token, committed_token, chunks, chunk_token, configuration
    ) VALUES (?, 1, 0, 0, 0, 0, '{}')
"""
_ACQUIRE = """
    UPDATE moorage_algorithm_locks SET
        revision = revision + 1, holder = ?, queue = NULL, clock = ?, write = ?, token = ?, ttl = 60.0, beat = ?,
        acquired = ?, heartbeat = ?
    WHERE id = ? AND revision = ?
"""
_RELEASE = """
    UPDATE moorage_algorithm_locks SET
        revision = revision + 1, holder = NULL, clock = NULL, write = ?, committed_token = ?, chunks = 0,
        chunk_token = 0, beat = NULL, acquired = NULL, heartbeat = NULL, state = ?
    WHERE id = ? AND holder = ? AND token = ?
"""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


class RawStore:
    """One connection, prepared as Moorage prepares its own; a trial is a plain dict.

    Args:
        path: a file that Moorage has made and filled.
        synchronous: ``FULL``, as with durability="full", or ``NORMAL``, as with durability="fast".
    """

    def __init__(self, path: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._execute = self._connection.execute
        self._execute("PRAGMA journal_mode = WAL").fetchall()
        self._execute(f"PRAGMA synchronous = {synchronous}")
        self._experiment: str = self._execute("SELECT id FROM moorage_experiments").fetchone()[0]
        self._columns = tuple(one[0] for one in self._execute("SELECT * FROM moorage_trials LIMIT 0").description)
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        boot = Path(_BOOT)
        self._boot = boot.read_text(encoding="ascii").strip() if boot.exists() else None
        self._execute(_CREATE_LOCK, (self._experiment,))

    def _key(self, trial: str) -> str:
        return f"{trial}@{self._experiment}"

    def _row(self, values: Sequence[object]) -> Row:
        row = dict(zip(self._columns, values, strict=True))
        row["params"] = json.loads(str(row["params"]))
        row["results"] = json.loads(str(row["results"]))
        return row

    def _insertion(self, params: Values, now: str, sequence: int, write: str) -> list[object]:
        text = json.dumps(params, sort_keys=True)
        trial = hashlib.sha256(text.encode()).hexdigest()[:32]
        return [self._key(trial), self._experiment, trial, text, now, sequence, write, None]

    def register(self, params: Values) -> str:
        return self.register_many([params])[0]

    def register_many(self, many: Sequence[Values]) -> list[str]:
        now, first, write = _now(), time.time_ns(), secrets.token_hex(8)
        rows = [self._insertion(one, now, first + place, write) for place, one in enumerate(many)]
        execute = self._execute
        execute("BEGIN IMMEDIATE")
        try:
            if not execute(_EXISTS, (self._experiment,)).fetchone()[0]:
                raise LookupError(self._experiment)
            counter = (len(rows), write, f"trials of {self._experiment}")
            number = execute(_NUMBER, counter).fetchall()[0][0] - len(rows)
            for place, row in enumerate(rows):
                row[-1] = number + place
            self._connection.executemany(_INSERT, rows)
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        return [str(row[2]) for row in rows]

    def _write(self, sql: str, arguments: Sequence[object]) -> int:
        execute = self._execute
        execute("BEGIN IMMEDIATE")
        try:
            changed = execute(sql, arguments).rowcount
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        return changed

    def reserve(self) -> Row:
        now, beat = _now(), time.clock_gettime(time.CLOCK_BOOTTIME)
        write = secrets.token_hex(8)
        arguments = (self._worker, now, now, beat, self._boot, write, self._experiment)
        execute = self._execute
        execute("BEGIN IMMEDIATE")
        try:
            status, _, stop = execute(_SETTINGS, (self._experiment,)).fetchone()
            if stop is not None or status not in ("created", "running"):
                raise LookupError(self._experiment)
            values = execute(_RESERVE, arguments).fetchall()
            row = dict(zip(self._columns, values[0], strict=True))
            begun = (
                f"{row['id']}#{row['token']}",
                self._experiment,
                row["trial"],
                row["token"],
                self._worker,
                now,
                write,
            )
            execute(_BEGIN, begun)
            if status == "created":
                execute(_START, (now, write, self._experiment))
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        return self._row(values[0])

    def identify(self, trial: Row) -> str:
        return str(trial["trial"])

    def heartbeat(self, trial: Row) -> None:
        beat = time.clock_gettime(time.CLOCK_BOOTTIME)
        arguments = (_now(), beat, self._boot, secrets.token_hex(8), trial["id"], trial["token"])
        if not self._write(_HEARTBEAT, arguments):
            raise LookupError(trial["id"])

    def measure(self, trial: Row, step: int, value: float) -> None:
        token = trial["token"]
        arguments = (uuid.uuid4().hex, self._experiment, trial["trial"], step, token, value, _now())
        execute = self._execute
        execute("BEGIN IMMEDIATE")
        try:
            admitted = execute(_ADMIT, (secrets.token_hex(8), trial["id"], token)).fetchall()
            if not admitted:
                raise LookupError(trial["id"])
            execute(_MEASURE, (*arguments, admitted[0][0] - 1))
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise

    def complete(self, trial: Row, results: Values) -> None:
        now, write = _now(), secrets.token_hex(8)
        completed = (results["objective"], json.dumps(results), now, write, trial["id"], trial["token"])
        execute = self._execute
        execute("BEGIN IMMEDIATE")
        try:
            if not execute(_COMPLETE, completed).rowcount:
                raise LookupError(trial["id"])
            execute(_END, (now, write, f"{trial['id']}#{trial['token']}"))
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise

    def get(self, trial: str) -> Row:
        return self._row(self._execute(_GET, (self._key(trial),)).fetchone())

    def count(self) -> int:
        total = int(self._execute(_COUNT, (self._experiment,)).fetchone()[0])
        self._check_experiment()
        return total

    def count_each(self) -> object:
        counts = dict(self._execute(_COUNT_EACH, (self._experiment,)).fetchall())
        self._check_experiment()
        return counts

    def _check_experiment(self) -> None:
        if not self._execute(_EXISTS, (self._experiment,)).fetchone()[0]:
            raise LookupError("no such experiment")

    def fetch(self) -> list[Row]:
        row = self._row
        return [row(values) for values in self._execute(_FETCH, (self._experiment,))]

    def cycle_lock(self, state: object) -> None:
        cursor = self._execute(_LOCK, (self._experiment,))
        lock = dict(zip((one[0] for one in cursor.description), cursor.fetchone(), strict=True))
        if lock["state"] is not None:
            json.loads(lock["state"])
        holder, token, now = f"{self._worker}:{secrets.token_hex(4)}", lock["token"] + 1, _now()
        beat = time.clock_gettime(time.CLOCK_BOOTTIME)
        taken = (holder, self._boot, secrets.token_hex(8), token, beat, now, now, self._experiment, lock["revision"])
        left = (secrets.token_hex(8), token, json.dumps(state), self._experiment, holder, token)
        if not self._write(_ACQUIRE, taken) or not self._write(_RELEASE, left):
            raise LookupError(self._experiment)

    def remove(self, trials: Sequence[str]) -> None:
        self._execute("BEGIN IMMEDIATE")
        self._connection.executemany("DELETE FROM moorage_trials WHERE id = ?", [(self._key(one),) for one in trials])
        self._connection.executemany(
            "DELETE FROM moorage_measurements WHERE experiment = ? AND trial = ?",
            [(self._experiment, one) for one in trials],
        )
        self._connection.executemany(
            "DELETE FROM moorage_attempts WHERE experiment = ? AND trial = ?",
            [(self._experiment, one) for one in trials],
        )
        self._execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
