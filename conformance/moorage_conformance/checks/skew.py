"""Level 4: workers whose wall clocks differ by hours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from moorage.errors import LockAcquisitionTimeout, LockLost, ReservationLost
from moorage_conformance.checking import check

if TYPE_CHECKING:
    from moorage_conformance.context import Context
    from moorage_conformance.worker import Job

TOLERANCE = 0.25
"""Seconds by which the clock may differ between two drivers: they may measure how far theirs is from the server's."""

SHIFTS = (-7200.0, 7200.0)
"""Seconds by which the clocks of some workers are wrong."""

TIMEOUT = 3.0
"""Seconds without a sign of life after which a trial, or the algorithm lock, is taken from its worker."""


def worker(job: Job) -> None:
    """Reserves a trial and works on it, with heartbeats, until it is told to stop; then completes it."""
    storage = job.storage(lock_ttl=TIMEOUT)
    experiment = job.arguments["experiment"]
    job.ready()
    trial = storage.reserve_trial(experiment, worker=job.name)
    job.say(trial and trial.id)
    if trial is None:
        return
    try:
        with storage.running(trial) as run:
            job.stopped.wait(300)
            run.results(objective=1.0)
        job.say("completed")
    except ReservationLost as error:
        job.say(f"lost: {error}")
    storage.close()


def thief(job: Job) -> None:
    """Looks for trials to take over until it gets one, or is stopped."""
    storage = job.storage(lock_ttl=TIMEOUT)
    job.ready()
    while not job.stopped.wait(0.1):
        trial = storage.reserve_trial(job.arguments["experiment"], worker=job.name)
        if trial is not None:
            job.say(trial.id)
            return
    job.say(None)
    storage.close()


@check("SKEW-1", limit=300)
def living_workers_keep_their_trials_whatever_their_clocks_say(context: Context) -> None:
    """Workers whose clocks are hours apart hold trials for three timeouts while others look for lost ones."""
    storage = context.storage()
    experiment = storage.create_experiment(name="skew", heartbeat_timeout=TIMEOUT)
    storage.register_trials(experiment, [{"x": float(number)} for number in range(3)])
    workers = [context.start(worker, 1, clock_shift=shift, experiment=experiment.id)[0] for shift in (*SHIFTS, 0.0)]
    held = {one.next() for one in workers}
    context.equal("SKEW-1", len(held - {None}), 3, "the number of trials reserved by three workers")
    thieves = [context.start(thief, 1, clock_shift=shift, experiment=experiment.id)[0] for shift in SHIFTS]
    time.sleep(TIMEOUT * 3)
    for one in (*workers, *thieves):
        one.tell("stop")
    told = [lines[-1] for lines in context.join(workers)]
    stolen = [lines[-1] for lines in context.join(thieves) if lines and lines[-1] is not None]
    context.require(not stolen, "SKEW-1", f"trials were taken from living workers: {stolen}")
    context.equal("SKEW-1", told, ["completed"] * 3, "what the living workers came to")


@check("SKEW-1", limit=300)
def dead_workers_lose_their_trials_whatever_their_clocks_say(context: Context) -> None:
    """Kills workers whose clocks are hours wrong; their trials must be handed out again in time."""
    storage = context.storage()
    experiment = storage.create_experiment(name="skew", heartbeat_timeout=TIMEOUT)
    storage.register_trials(experiment, [{"x": float(number)} for number in range(2)])
    workers = [context.start(worker, 1, clock_shift=shift, experiment=experiment.id)[0] for shift in SHIFTS]
    for one in workers:
        one.next()
        one.kill()
    began = time.monotonic()
    thieves = [context.start(thief, 1, clock_shift=shift, experiment=experiment.id)[0] for shift in SHIFTS]
    got = {one.next(TIMEOUT * 10 + 30) for one in thieves}
    waited = time.monotonic() - began
    context.equal("SKEW-1", len(got - {None}), 2, f"the trials of dead workers handed out again within {waited:.0f} s")


def holder(job: Job) -> None:
    """Holds the algorithm lock until it is told to stop, and saves."""
    storage = job.storage(lock_ttl=TIMEOUT)
    job.ready()
    try:
        with storage.acquire_algorithm_lock(job.arguments["experiment"], timeout=30) as algorithm:
            job.say("acquired")
            job.stopped.wait(300)
            algorithm.set_state({"by": job.name})
        job.say("saved")
    except LockLost:
        job.say("lost")
    storage.close()


def contender(job: Job) -> None:
    """Asks for the algorithm lock for as long as it is told."""
    storage = job.storage(lock_ttl=TIMEOUT)
    job.ready()
    try:
        with storage.acquire_algorithm_lock(job.arguments["experiment"], timeout=job.arguments["seconds"]):
            job.say("acquired")
    except LockAcquisitionTimeout:
        job.say("timeout")
    storage.close()


@check("SKEW-1", limit=300)
def the_lock_is_not_robbed_whatever_clocks_say(context: Context) -> None:
    """A holder keeps the algorithm lock for three leases while others, hours away, ask for it; then it is killed."""
    storage = context.storage()
    experiment = storage.create_experiment(name="skew")
    storage.initialize_algorithm_lock(experiment, {})
    held = context.start(holder, 1, clock_shift=SHIFTS[0], experiment=experiment.id)[0]
    context.equal("SKEW-1", held.next(), "acquired", "what the holder came to")
    patient = [
        context.start(contender, 1, clock_shift=shift, experiment=experiment.id, seconds=TIMEOUT * 2)[0]
        for shift in (*SHIFTS, 0.0)
    ]
    told = [lines[-1] for lines in context.join(patient)]
    context.equal("SKEW-1", told, ["timeout"] * 3, "what contenders came to while the holder lives")
    held.tell("stop")
    context.equal("SKEW-1", context.join([held])[0][-1], "saved", "what the holder came to in the end")
    dead = context.start(holder, 1, clock_shift=SHIFTS[1], experiment=experiment.id)[0]
    context.equal("SKEW-1", dead.next(), "acquired", "what the second holder came to")
    dead.kill()
    heir = context.start(contender, 1, clock_shift=SHIFTS[0], experiment=experiment.id, seconds=TIMEOUT * 10 + 30)[0]
    context.equal("SKEW-1", heir.next(TIMEOUT * 10 + 60), "acquired", "what a contender came to after a holder's death")


def reader_of_the_clock(job: Job) -> None:
    """Says what the storage's clock shows when it is asked."""
    driver = job.driver()
    job.say("ready")
    while job.wait() != "stop":
        now = driver.now()
        job.say([now.clock, now.seconds])
    driver.close()


@check("SKEW-2")
def the_clock_is_the_same_for_all_clients(context: Context) -> None:
    """Processes whose wall clocks are hours apart read the storage's clock in turn; it must be one clock."""
    context.open().close()
    readers = [context.start(reader_of_the_clock, 1, clock_shift=shift, ready=False)[0] for shift in (*SHIFTS, 0.0)]
    for one in readers:
        one.next()
    before: list[Any] | None = None
    for _ in range(20):
        for one in readers:
            one.tell("read")
            now = one.next()
            if before is not None:
                context.equal("SKEW-2", now[0], before[0], "the name of the clock")
                back = before[1] - now[1]
                context.require(back < TOLERANCE, "SKEW-2", f"the clock went from {before[1]} back to {now[1]}")
                context.require(now[1] < before[1] + 60, "SKEW-2", f"the clock leapt from {before[1]} to {now[1]}")
            before = now
    for one in readers:
        one.tell("stop")
