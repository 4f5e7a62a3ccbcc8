"""Programs that the concurrency tests run as processes of their own: ``python workers.py ROLE URL ARGUMENT…``.

Each prints one JSON value per line, flushed, after the storage has acknowledged what it tells of. So whatever stands in
a worker's output when it is killed must be stored.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import moorage
from moorage.errors import LockLost, ReservationLost
from moorage.statuses import PENDING

if TYPE_CHECKING:
    from collections.abc import Callable


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def unfinished(storage: moorage.Storage, experiment: str) -> int:
    counts = storage.count_trials(experiment)
    return counts[moorage.TrialStatus.RESERVED] + sum(counts[status] for status in PENDING)


def reserve_all(storage: moorage.Storage, experiment: str, worker: str) -> None:
    """Reserve until nothing is pending."""
    say(ready=True)
    sys.stdin.readline()
    while (trial := storage.reserve_trial(experiment, worker=worker)) is not None:
        say(reserved=trial.id, token=trial.token)


def work(storage: moorage.Storage, experiment: str, worker: str) -> None:
    """Reserve, measure and complete, until there is nothing left to do; made to be killed at any moment."""
    say(ready=True)
    while unfinished(storage, experiment):
        trial = storage.reserve_trial(experiment, worker=worker)
        if trial is None:
            time.sleep(0.02)
            continue
        try:
            with storage.running(trial) as run:
                for step in range(3):
                    run.report(float(step), name="loss", step=step)
                    say(measured=trial.id, step=step, attempt=trial.token)
                run.results(objective=trial.params["x"])
            say(completed=trial.id, token=trial.token)
        except ReservationLost:
            say(lost=trial.id, token=trial.token)


def hold_lock(storage: moorage.Storage, experiment: str, seconds: str) -> None:
    """Hold the algorithm lock, and say so; then try to save."""
    try:
        with storage.acquire_algorithm_lock(experiment, timeout=30) as algorithm:
            algorithm.set_state({"by": "the holder"})
            say(acquired=algorithm.token)
            time.sleep(float(seconds))
        say(released=True)
    except LockLost:
        say(lock_lost=True)


def count_up(storage: moorage.Storage, experiment: str, times: str) -> None:
    """Add one to the number in the algorithm's state, again and again."""
    say(ready=True)
    sys.stdin.readline()
    for _ in range(int(times)):
        with storage.acquire_algorithm_lock(experiment, timeout=120) as algorithm:
            state = algorithm.state
            assert isinstance(state, dict)
            algorithm.set_state({"count": state["count"] + 1})
        say(counted=True)


def register_same(storage: moorage.Storage, experiment: str, count: str) -> None:
    """Register the trials 0, 1, 2, … that all others register as well."""
    say(ready=True)
    sys.stdin.readline()
    for number in range(int(count)):
        kept = storage.register_trials(experiment, [{"x": float(number)}], duplicates="skip")
        say(registered=number, mine=len(kept))


def take(storage: moorage.Storage, kind: str, worker: str) -> None:
    """Take a resource and give it back, again and again, and say when it was held."""
    say(ready=True)
    sys.stdin.readline()
    for _ in range(40):
        resource = storage.take_resource(kind, holder=worker, lease=30)
        if resource is not None:
            since = time.monotonic()
            storage.renew_resource(resource)
            until = time.monotonic()
            storage.free_resource(resource)
            say(held=resource.name, since=since, until=until)


ROLES: dict[str, Callable[[moorage.Storage, str, str], None]] = {
    "reserve_all": reserve_all,
    "work": work,
    "hold_lock": hold_lock,
    "count_up": count_up,
    "register_same": register_same,
    "take": take,
}

if __name__ == "__main__":
    role, url, subject, argument, ttl = sys.argv[1:]
    with moorage.connect(url, lock_ttl=float(ttl)) as opened:
        ROLES[role](opened, subject, argument)
