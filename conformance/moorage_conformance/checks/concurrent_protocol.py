"""Level 2: many workers that share trials, resources and the algorithm lock."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from moorage.errors import LockAcquisitionTimeout, LockLost, ReservationLost
from moorage.schema import ALGORITHM_LOCKS, SCHEMA
from moorage.statuses import TrialStatus
from moorage_conformance.checking import Unjudged, Violation, check
from moorage_conformance.checks.concurrent_documents import await_child, enough, fork, in_step, needs_fork, rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage import Storage, Trial
    from moorage_conformance.context import Context
    from moorage_conformance.worker import Job

EXPERIMENT = "shared"
WARM = "warm"

PATIENCE = 30.0
"""Seconds after which something that must come about counts as never coming."""

LATE = 10.0
"""Seconds after its deadline at which who waits in vain must have been told."""

TURNS = 15
"""How often each of the others may have the lock while one waits for it: far more than chance gives in a queue."""


class Watch:
    """Tells how long this process was kept from running: a machine that is too busy makes any lease run out."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        threading.Thread(target=self._look, daemon=True, name="watch").start()

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            self.longest = max(self.longest, now - before)
            before = now

    def stop(self) -> float:
        """The longest time between two looks, in seconds."""
        self._over.set()
        return self.longest


def until(call: Callable[[], Any], what: str, requirement: str) -> Any:
    """The first true value that a call gives.

    Raises:
        Violation: none comes within `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = call()
        if value:
            return value
        time.sleep(0.02)
    raise Violation(requirement, f"{what}, not within {PATIENCE:g} s")


def storage_forker(job: Job) -> None:
    """Forks with a storage open that has held the lock; both sides go on with trials and the lock."""
    storage = job.storage()
    turns = job.arguments["turns"]

    def work() -> None:
        for _ in range(turns):
            trial = storage.reserve_trial(uid=EXPERIMENT)
            if trial is None:
                raise Violation("SHARED-3", "after a fork no trial was reserved, and more were pending")
            with storage.running(trial) as run:
                run.results(objective=1.0)
            with storage.acquire_algorithm_lock(uid=EXPERIMENT, timeout=PATIENCE) as algorithm:
                algorithm.set_state(int(str(algorithm.state)) + 1)

    def child() -> None:
        try:
            work()
        finally:
            storage.close()

    work()
    job.ready()
    for _ in rounds(job.arguments["forks"]):
        started = fork(child)
        try:
            work()
        finally:
            await_child(*started)
        job.say("forked")
    storage.close()


@check("SHARED-3", limit=240.0)
def parent_and_child_use_the_same_storage(context: Context) -> None:
    """Two processes fork with a storage open; parents and children reserve trials, and add to the state by turns."""
    needs_fork()
    storage = context.storage()
    turns, forks = 4, 3
    storage.create_experiment(id=EXPERIMENT, name="fork")
    storage.register_trials(uid=EXPERIMENT, trials=[{"x": number} for number in range(2 * turns * (1 + 2 * forks))])
    with storage.acquire_algorithm_lock(uid=EXPERIMENT) as algorithm:
        algorithm.set_state(0)
    said = context.join(context.start(storage_forker, 2, turns=turns, forks=forks))
    done = sum(map(len, said))
    expected = 2 * turns * (1 + done)
    context.equal("SHARED-3", storage.count_completed_trials(uid=EXPERIMENT), expected, "the trials that are completed")
    state = storage.get_algorithm_lock_info(uid=EXPERIMENT).state
    context.equal("SHARED-3", state, expected, "what the turns of all have come to")
    enough(done, 2, "forks")


# Trials


def reserver(job: Job) -> None:
    """Reserves trials, and completes them or gives them back, until all are completed."""
    storage = job.storage()
    job.ready()
    for _ in rounds(10**6):
        began = time.monotonic_ns()
        trial = storage.reserve_trial(uid=EXPERIMENT, worker=job.name)
        if trial is None:
            if storage.count_trials(uid=EXPERIMENT)[TrialStatus.COMPLETED] == job.arguments["trials"]:
                break
            time.sleep(0.005)
            continue
        reserved = time.monotonic_ns()
        ended = "interrupted" if job.random.random() < 0.3 else "completed"
        ending = time.monotonic_ns()
        if ended == "completed":
            storage.push_trial_results(trial, {"objective": float(trial.token)}, status=ended)
        else:
            storage.set_trial_status(trial, ended)
        job.say([trial.id, trial.token, began, reserved, ending, time.monotonic_ns(), ended, trial.worker])
    storage.close()


@check("TRIAL-1")
def each_trial_is_reserved_by_one(context: Context) -> None:
    """Four workers reserve 150 trials and give some back; no two may hold one at a time, and tokens must grow."""
    with context.storage() as storage:
        storage.create_experiment(id=EXPERIMENT, name="race")
        storage.register_trials(uid=EXPERIMENT, trials=[{"x": number} for number in range(150)])
        processes = context.start(reserver, 4, trials=150)
        said = context.join(processes)
        held: dict[str, list[list[Any]]] = defaultdict(list)
        for process, lines in zip(processes, said, strict=True):
            for one in lines:
                context.equal("TRIAL-1", one[7], process.name, "the worker of a reserved trial")
                held[one[0]].append(one)
        for identifier, turns in held.items():
            turns.sort(key=lambda one: one[1])
            tokens = [one[1] for one in turns]
            context.require(
                len(set(tokens)) == len(tokens),
                "TRIAL-1",
                f"a trial was handed out twice with the same token: {tokens}",
            )
            for first, second in itertools.pairwise(turns):
                context.require(
                    first[4] <= second[3],
                    "TRIAL-1",
                    f"a trial was reserved with token {second[1]} before the reservation with token {first[1]} ended",
                )
            ends = [one[6] for one in turns]
            context.require(
                "completed" not in ends[:-1],
                "TRIAL-1",
                f"a trial was reserved again after it had been completed: {ends}",
            )
            stored = storage.get_trial(identifier, EXPERIMENT)
            context.equal("TRIAL-1", stored.token, tokens[-1], "the stored token of a trial after its last reservation")
        enough(sum(map(len, said)), 100, "reservations")
        enough(sum(bool(lines) for lines in said), 2, "workers have reserved something")


_STALE: dict[str, Callable[[Storage, Trial], object]] = {
    "push_trial_results": lambda storage, trial: storage.push_trial_results(trial, {"objective": -1.0}),
    "push_trial_results(status=completed)": lambda storage, trial: storage.push_trial_results(
        trial, {"objective": -1.0}, status="completed"
    ),
    "update_heartbeat": lambda storage, trial: storage.update_heartbeat(trial),
    "set_trial_status(completed)": lambda storage, trial: storage.set_trial_status(trial, "completed"),
    "set_trial_status(interrupted)": lambda storage, trial: storage.set_trial_status(trial, "interrupted"),
    "set_trial_status(broken)": lambda storage, trial: storage.set_trial_status(trial, "broken", error="stale"),
    "update_trial": lambda storage, trial: storage.update_trial(trial, error="stale"),
    "add_measurements": lambda storage, trial: storage.add_measurements(trial, [{"name": "loss", "value": -1.0}]),
    "start_attempt": lambda storage, trial: storage.start_attempt(trial),
}
"""What the former holder of a reservation may not do any more."""


def stale_worker(job: Job) -> None:
    """Reserves trials, is silent, and tries to change them when it is told that others have them."""
    storage = job.storage()
    trials = [storage.reserve_trial(uid=EXPERIMENT, worker="stale") for _ in _STALE]
    job.say([None if one is None else one.id for one in trials])
    for _ in range(2):
        job.wait()
        told: dict[str, str] = {}
        for trial, (name, write) in zip(trials, _STALE.items(), strict=True):
            assert trial is not None
            try:
                write(storage, trial)
            except Exception as error:
                told[name] = type(error).__name__
            else:
                told[name] = "no error"
        job.say(told)
    storage.close()


@check("TRIAL-2")
def a_worker_that_lost_its_trial_changes_nothing(context: Context) -> None:
    """A worker stops until its trials are recovered and reserved by another; each verb of it must be refused then."""
    storage = context.storage()
    storage.create_experiment(id=EXPERIMENT, name="stale", heartbeat_timeout=1.5)
    storage.register_trials(uid=EXPERIMENT, trials=[{"x": number} for number in range(len(_STALE))])
    stale = context.start(stale_worker, ready=False)[0]
    names = stale.next()
    context.require(None not in names, "TRIAL-2", "a worker got no trial while some were pending")
    stale.pause()
    taken: dict[str, Trial] = {}
    deadline = time.monotonic() + PATIENCE
    while len(taken) < len(names):
        trial = storage.reserve_trial(uid=EXPERIMENT, worker="successor")
        if trial is not None:
            taken[trial.id] = trial
        elif time.monotonic() > deadline:
            raise Unjudged(f"{len(names) - len(taken)} trials of a silent worker were not handed out again")
        else:
            for one in taken.values():
                storage.update_heartbeat(one)
            time.sleep(0.05)

    def state() -> dict[str, tuple[object, ...]]:
        return {
            name: (
                storage.get_trial(name, EXPERIMENT),
                [one.value for one in storage.fetch_measurements(name, experiment_uid=EXPERIMENT)],
                [one.number for one in storage.fetch_attempts(name, experiment_uid=EXPERIMENT)],
            )
            for name in names
        }

    for one in taken.values():
        storage.update_heartbeat(one)
    before = state()
    stale.resume()
    for moment in ("while another holds the trial", "after another has completed the trial"):
        stale.tell("go")
        for name, told in stale.next().items():
            context.equal("TRIAL-2", told, "ReservationLost", f"{name} by the former holder, {moment}")
        for name, after in state().items():
            context.equal("TRIAL-2", after, before[name], f"a trial, after its former holder wrote {moment}")
        if moment.startswith("while"):
            for one in taken.values():
                storage.push_trial_results(one, {"objective": 1.0}, status="completed")
            before = state()
    context.join([stale])


def late_worker(job: Job) -> None:
    """Reserves trials, and completes them about when their heartbeats run out."""
    storage = job.storage()
    trials = []
    while (trial := storage.reserve_trial(uid=EXPERIMENT, worker="late")) is not None:
        trials.append((trial, time.monotonic()))
        if len(trials) == job.arguments["trials"]:
            break
    job.say(len(trials))
    told: dict[str, bool] = {}
    for trial, reserved in trials:
        time.sleep(max(0.0, reserved + job.arguments["timeout"] + job.random.uniform(-0.02, 0.06) - time.monotonic()))
        try:
            storage.push_trial_results(trial, {"objective": -1.0}, status="completed")
        except ReservationLost:
            told[trial.id] = False
        else:
            told[trial.id] = True
    job.say(told)
    storage.close()


@check("TRIAL-2")
def late_results_and_recoveries_exclude_each_other(context: Context) -> None:
    """A worker completes trials at the moment when others recover them; of each only one may have happened."""
    storage = context.storage()
    timeout = 1.0
    storage.create_experiment(id=EXPERIMENT, name="late", heartbeat_timeout=timeout)
    storage.register_trials(uid=EXPERIMENT, trials=[{"x": number} for number in range(60)])
    late = context.start(late_worker, ready=False, trials=60, timeout=timeout)[0]
    taken: dict[str, int] = {}
    count = None
    for _ in rounds(10**6, PATIENCE):
        if count is None and late.said:
            count = late.next()
        elif count is None:
            time.sleep(0.01)
        trial = None if count is None else storage.reserve_trial(uid=EXPERIMENT, worker="successor")
        if trial is not None:
            context.require(trial.id not in taken, "TRIAL-2", "a trial was reserved twice by its successor")
            taken[trial.id] = trial.token
            storage.push_trial_results(trial, {"objective": 1.0}, status="completed")
        elif not late.running:
            break
    told: dict[str, bool] = context.join([late])[0][-1]
    for identifier, done in told.items():
        stored = storage.get_trial(identifier, EXPERIMENT)
        if done:
            context.require(
                identifier not in taken,
                "TRIAL-2",
                "a worker completed a trial that was recovered and reserved by another",
            )
        if stored.status is TrialStatus.COMPLETED:
            wanted = -1.0 if done else 1.0
            context.equal("TRIAL-2", stored.results["objective"], wanted, "the result of the only one who completed it")
    enough(len(told), 30, "trials")


def registrar(job: Job) -> None:
    """Registers the trials that all others register as well, alone and in batches; says which were its own."""
    storage = job.storage()
    count = job.arguments["trials"]
    job.ready()
    mine: list[int] = []
    done: list[int] = []

    def register(numbers: list[int]) -> None:
        kept = storage.register_trials(uid=EXPERIMENT, trials=[{"x": one} for one in numbers], duplicates="skip")
        mine.extend(int(str(one.params["x"])) for one in kept)
        done.extend(numbers)

    for number in in_step(count // 2):
        register([number])
    for number in rounds(count // 10):
        register(list(range(count // 2 + 5 * number, count // 2 + 5 * number + 5)))
    job.say({"mine": mine, "done": done})
    storage.close()


@check("TRIAL-3")
def each_trial_is_registered_once(context: Context) -> None:
    """Four workers register the same 200 trials; each must be told of one registration, and be there once."""
    storage = context.storage()
    storage.create_experiment(id=EXPERIMENT, name="race")
    said = [lines[0] for lines in context.join(context.start(registrar, 4, trials=200))]
    times = Counter(number for one in said for number in one["mine"])
    done = {number for one in said for number in one["done"]}
    wrong = sorted(number for number in done if times[number] != 1)
    context.require(
        not wrong,
        "TRIAL-3",
        f"trial {wrong[:1]} was told to be new to {[times[one] for one in wrong[:1]]} workers, not 1",
    )
    stored = sorted(int(str(one.params["x"])) for one in storage.fetch_trials(uid=EXPERIMENT))
    context.equal("TRIAL-3", stored, sorted(done), "the trials that are stored")
    context.equal("TRIAL-3", sum(storage.count_trials(uid=EXPERIMENT).values()), len(done), "the number of trials")
    enough(len(done), 50, "trials")
    enough(sum(bool(one["mine"]) for one in said), 2, "workers were first at something")


def all_round_worker(job: Job) -> None:
    """Does all that changes the status of trials, in turns; between them nothing goes on."""
    storage = job.storage()
    for turn in range(job.arguments["turns"]):
        job.ready()
        done = 0
        for number in rounds(job.arguments["operations"], 6.0):
            choice = job.random.random()
            if choice < 0.3:
                trials = [{"x": f"{job.name}.{turn}.{number}.{one}"} for one in range(3)]
                storage.register_trials(uid=EXPERIMENT, trials=trials)
            elif choice < 0.9:
                trial = storage.reserve_trial(uid=EXPERIMENT)
                status = job.random.choice(("completed", "broken", "interrupted", "suspended", None))
                if trial is not None and status is not None:
                    storage.set_trial_status(trial, status)
            elif choice < 0.95:
                where = {"status": "suspended"}
                storage.update_trials(uid=EXPERIMENT, where=where, status="interrupted")
            else:
                storage.delete_trials(uid=EXPERIMENT, where={"status": "broken"})
            done += 1
        job.say({"done": done})
    storage.close()


@check("TRIAL-4")
def counts_by_status_are_those_of_the_trials(context: Context) -> None:
    """Four workers do all that changes statuses, in three turns; after each the counts must be those of the trials."""
    storage = context.storage()
    storage.create_experiment(id=EXPERIMENT, name="counts")
    storage.register_trials(uid=EXPERIMENT, trials=[{"x": number} for number in range(20)])
    turns = 3
    processes = context.start(all_round_worker, 4, ready=False, turns=turns, operations=40)
    done = 0
    for _ in range(turns):
        for one in processes:
            one.next()
        for one in processes:
            one.tell("go")
        done += sum(one.next()["done"] for one in processes)
        counted = {status.value: count for status, count in storage.count_trials(uid=EXPERIMENT).items()}
        trials = Counter(one.status for one in storage.fetch_trials(uid=EXPERIMENT))
        found = {status.value: trials[status] for status in TrialStatus}
        context.equal("TRIAL-4", counted, found, "the counts by status, while nothing goes on")
        for status in (TrialStatus.COMPLETED, TrialStatus.BROKEN):
            single = storage.count_trials(uid=EXPERIMENT, where={"status": status.value})
            context.equal("TRIAL-4", single, trials[status], f"the count of {status} trials, while nothing goes on")
    context.join(processes)
    enough(done, 100, "operations")


# The algorithm lock


def _prepare_lock(context: Context) -> None:
    with context.storage() as storage:
        for name in (EXPERIMENT, WARM):
            storage.create_experiment(id=name, name=name)
            storage.initialize_algorithm_lock(name)


def lock_user(job: Job) -> None:
    """Takes the lock, saves a state that tells who did, and releases it; says when it asked and what it got."""
    storage = job.storage()
    # The first time takes longer, as modules are imported.
    storage.get_algorithm_lock_info(uid=EXPERIMENT)
    with storage.acquire_algorithm_lock(uid=WARM, timeout=PATIENCE):
        pass
    job.ready()
    for turn in rounds(job.arguments["turns"]):
        pending = job.recorder.invoke(EXPERIMENT, "acquire")
        asked = time.monotonic_ns()
        acquisition = storage.acquire_algorithm_lock(uid=EXPERIMENT, timeout=3 * PATIENCE)
        algorithm = acquisition.__enter__()
        entered = time.monotonic_ns()
        pending.ok(algorithm.token)
        seen = algorithm.state
        size = 40_000 if job.random.random() < job.arguments["large"] else 10
        saved: object = None
        error: BaseException | None = None
        choice = job.random.random()
        state = {"by": f"{job.name}.{turn}", "filler": "x" * size}
        if choice < 0.8:
            algorithm.set_state(state)
            saved = state["by"]
        elif choice < 0.9:
            algorithm.set_state(state)
            error = RuntimeError("the holder gives up")
        time.sleep(job.arguments["seconds"])
        token = algorithm.token
        pending = job.recorder.invoke(EXPERIMENT, "release", token)
        left = time.monotonic_ns()
        try:
            acquisition.__exit__(None if error is None else type(error), error, None)
        except LockLost:
            pending.ok(False)
            saved = None
        else:
            pending.ok(True)
        filler = seen["filler"] if isinstance(seen, dict) else ""
        job.say(
            {
                "token": token,
                "asked": asked,
                "entered": entered,
                "left": left,
                "seen": seen["by"] if isinstance(seen, dict) else None,
                "whole": set(filler) <= {"x"} and len(filler) in (0, 10, 40_000),
                "saved": saved,
            }
        )
    storage.close()


@check("LOCK-1")
def at_most_one_worker_is_inside_the_lock(context: Context) -> None:
    """Four workers take and release the lock; the answers must fit one order of events, and no two may be inside."""
    _prepare_lock(context)
    said = context.join(context.start(lock_user, 4, record=True, turns=60, seconds=0.002, large=0.0))
    turns = sorted((one for lines in said for one in lines), key=lambda one: int(one["entered"]))
    for first, second in itertools.pairwise(turns):
        context.require(
            first["left"] <= second["entered"],
            "LOCK-1",
            f"two workers were inside the lock at once, with the tokens {first['token']} and {second['token']}",
        )
    context.judge("lock", "LOCK-1")


@check("LOCK-2")
def each_holder_gets_the_state_saved_last(context: Context) -> None:
    """Four workers save small and large states, or give up; each must get what the last one before it has saved."""
    _prepare_lock(context)
    said = context.join(context.start(lock_user, 4, record=True, turns=40, seconds=0.0, large=0.3))
    turns = sorted((one for lines in said for one in lines), key=lambda one: int(one["token"]))
    last = None
    for one in turns:
        context.equal("LOCK-2", one["seen"], last, f"the state that the holder with token {one['token']} got")
        context.require(one["whole"], "LOCK-2", f"the holder with token {one['token']} got a part of a state")
        last = last if one["saved"] is None else one["saved"]
    enough(len(turns), 40, "turns")
    others = sum(first["seen"] != second["seen"] for first, second in itertools.pairwise(turns))
    enough(others, 20, "states were passed on")


@check("LOCK-3")
def nobody_starves_at_the_lock(context: Context) -> None:
    """Four workers keep asking for the lock; while one waits, each of the others may have it a few times at most."""
    _prepare_lock(context)
    processes = context.start(lock_user, 4, record=True, turns=30, seconds=0.05, large=0.0)
    said = context.join(processes)
    turns = [(name, one) for name, lines in enumerate(said) for one in lines]
    worst = 0
    for name, one in turns:
        during = Counter(
            other for other, two in turns if other != name and one["asked"] < two["entered"] < one["entered"]
        )
        worst = max(worst, *during.values(), 0)
    context.require(
        worst <= TURNS,
        "LOCK-3",
        f"a worker waited for the lock while one other had it {worst} times ({TURNS} are allowed)",
    )
    enough(len(turns), 60, "turns")


def long_holder(job: Job) -> None:
    """Holds the lock for several leases."""
    ttl = job.arguments["ttl"]
    storage = job.storage(lock_ttl=ttl)
    watch = Watch()
    lost = False
    try:
        with storage.acquire_algorithm_lock(uid=EXPERIMENT, timeout=PATIENCE) as algorithm:
            algorithm.set_state("of the long holder")
            job.say("inside")
            time.sleep(3.2 * ttl)
            left = time.monotonic_ns()
    except LockLost:
        lost = True
    job.say({"lost": lost, "left": left, "gap": watch.stop()})
    storage.close()


def contender(job: Job) -> None:
    """Waits for the lock, and says what it found."""
    storage = job.storage(lock_ttl=job.arguments["ttl"])
    job.say("waiting")
    with storage.acquire_algorithm_lock(uid=EXPERIMENT, timeout=PATIENCE) as algorithm:
        job.say({"entered": time.monotonic_ns(), "token": algorithm.token, "seen": algorithm.state})
    storage.close()


@check("LOCK-4")
def a_living_holder_keeps_the_lock(context: Context) -> None:
    """A worker holds the lock for three leases while two others ask for it; they must wait until it is done."""
    context.storage().create_experiment(id=EXPERIMENT, name="lock")
    ttl = 2.0
    holder = context.start(long_holder, ready=False, ttl=ttl)
    holder[0].next()
    waiting = context.start(contender, 2, ready=False, ttl=ttl)
    told = context.join(holder)[0][-1]
    found = [lines[-1] for lines in context.join(waiting)]
    if told["gap"] > ttl / 4:
        raise Unjudged(f"the machine is too busy: the holder was kept from running for {told['gap']:.1f} s")
    context.require(not told["lost"], "LOCK-4", "a holder that was alive has lost the lock")
    for one in found:
        context.require(
            one["entered"] >= told["left"], "LOCK-4", "a worker got the lock while its holder was alive and inside"
        )
        context.equal("LOCK-4", one["seen"], "of the long holder", "the state after the long holder")


def paused_holder(job: Job) -> None:
    """Takes the lock, and wants to save a state as soon as it is told to."""
    storage = job.storage(lock_ttl=job.arguments["ttl"])
    experiment = job.arguments["experiment"]
    try:
        with storage.acquire_algorithm_lock(uid=experiment, timeout=PATIENCE) as algorithm:
            algorithm.set_state("of the paused holder")
            job.say(algorithm.token)
            job.wait()
    except LockLost:
        job.say("LockLost")
    else:
        job.say("no error")
    storage.close()


@check("LOCK-5")
def a_paused_holder_has_lost_the_lock(context: Context) -> None:
    """Holders are paused for longer than their lease, and overtaken; then they can neither save nor release."""
    ttl = 1.0
    storage = context.storage(lock_ttl=PATIENCE)
    names = ("taken", "done")
    paused = {}
    for name in names:
        storage.create_experiment(id=name, name=name)
        with storage.acquire_algorithm_lock(uid=name) as algorithm:
            algorithm.set_state("of nobody")
        paused[name] = context.start(paused_holder, ready=False, ttl=ttl, experiment=name)[0]
        paused[name].next()
        paused[name].pause()

    def take(name: str) -> Any:
        try:
            acquisition = storage.acquire_algorithm_lock(uid=name, timeout=PATIENCE)
            algorithm = acquisition.__enter__()
        except LockAcquisitionTimeout as error:
            raise Violation(
                "LOCK-5", f"the lock of a holder that was paused for its lease was not free: {error}"
            ) from error
        context.equal("LOCK-5", algorithm.state, "of nobody", "the state that the successor of a paused holder gets")
        algorithm.set_state(f"of the successor of {name}")
        return acquisition

    def finish(name: str) -> None:
        paused[name].resume()
        paused[name].tell("go")
        context.equal("LOCK-5", paused[name].next(), "LockLost", "what a holder gets that was paused and overtaken")

    acquisition = take("done")
    acquisition.__exit__(None, None, None)
    finish("done")
    acquisition = take("taken")
    before = storage.get_algorithm_lock_info(uid="taken")
    finish("taken")
    after = storage.get_algorithm_lock_info(uid="taken")
    context.equal(
        "LOCK-5",
        (after.locked, after.holder, after.token),
        (True, before.holder, before.token),
        "the lock of the successor, after the paused holder has left it",
    )
    try:
        acquisition.__exit__(None, None, None)
    except LockLost as error:
        raise Violation("LOCK-5", f"the successor of a paused holder lost the lock to it: {error}") from error
    for name in names:
        state = storage.get_algorithm_lock_info(uid=name).state
        context.equal("LOCK-5", state, f"of the successor of {name}", "the stored state")
    context.join(list(paused.values()))


def vain_contender(job: Job) -> None:
    """Asks for a lock that is held, and waits in vain."""
    storage = job.storage()
    job.ready()
    for turn in range(job.arguments["tries"]):
        timeout = (0.3, 0.0, 1.0)[turn % 3]
        began = time.monotonic()
        try:
            with storage.acquire_algorithm_lock(uid=EXPERIMENT, timeout=timeout):
                told = "no error"
        except LockAcquisitionTimeout:
            told = "LockAcquisitionTimeout"
        waited = time.monotonic() - began
        job.say({"told": told, "timeout": timeout, "waited": waited})
        if waited > timeout + LATE:
            break
    storage.close()


_SIGNS = ("heartbeat", "beat", "clock", "write")
"""What a renewal changes in the document of the lock."""


@check("LOCK-6")
def waiting_in_vain_ends_and_leaves_no_trace(context: Context) -> None:
    """Three workers ask for a lock that is held; each must be told at its deadline, and the lock be as it was."""
    storage = context.storage()
    storage.create_experiment(id=EXPERIMENT, name="lock")
    with storage.acquire_algorithm_lock(uid=EXPERIMENT) as algorithm:
        algorithm.set_state("as it was")
    driver = context.open(schema=SCHEMA)

    def lock() -> dict[str, object]:
        found = driver.get(ALGORITHM_LOCKS, EXPERIMENT)
        body = {} if found is None else found.body
        return {field.name: body.get(field.name) for field in ALGORITHM_LOCKS.fields if field.name not in _SIGNS}

    with storage.acquire_algorithm_lock(uid=EXPERIMENT) as algorithm:
        before = lock()
        tries = [one for lines in context.join(context.start(vain_contender, 3, tries=4)) for one in lines]
        for one in tries:
            context.equal("LOCK-6", one["told"], "LockAcquisitionTimeout", "what one gets who waits in vain")
            context.require(
                one["timeout"] - 0.05 <= one["waited"] <= one["timeout"] + LATE,
                "LOCK-6",
                f"a worker that wanted to wait {one['timeout']:g} s for the lock was told after {one['waited']:.1f} s",
            )
        context.equal("LOCK-6", lock(), before, "the lock after others have waited for it in vain")
        info = storage.get_algorithm_lock_info(uid=EXPERIMENT)
        context.equal("LOCK-6", (info.locked, info.token), (True, algorithm.token), "whether it is held, and its token")
        algorithm.set_state("as the holder left it")
    state = storage.get_algorithm_lock_info(uid=EXPERIMENT).state
    context.equal("LOCK-6", state, "as the holder left it", "the state after the holder has released the lock")
    with storage.acquire_algorithm_lock(uid=EXPERIMENT, timeout=PATIENCE) as algorithm:
        context.equal("LOCK-6", algorithm.state, "as the holder left it", "the state that the next holder gets")


# Resources


def taker(job: Job) -> None:
    """Takes resources by id, renews them, and gives them back."""
    storage = job.storage()
    names = [f"r{number}" for number in range(job.arguments["resources"])]
    job.ready()
    for _ in rounds(job.arguments["turns"]):
        name = job.random.choice(names)
        taken = job.recorder.run(
            name,
            "acquire",
            (),
            partial(storage.take_resource, id=name, holder=job.name, lease=600),
            told=lambda found: None if found is None else found.token,
        )
        if taken is None:
            continue
        if taken.holder != job.name:
            raise Violation("RESOURCE-1", f"a resource was taken by {job.name!r} and is held by {taken.holder!r}")

        for call in ("renew", "release"):
            do = storage.renew_resource if call == "renew" else storage.free_resource
            pending = job.recorder.invoke(name, call, taken.token)
            try:
                do(taken)
            except ReservationLost:
                pending.ok(False)
                break
            pending.ok(True)
    storage.close()


@check("RESOURCE-1")
def a_resource_has_one_holder(context: Context) -> None:
    """Four workers take, renew and free two resources; the answers must fit one order of events."""
    storage = context.storage()
    for number in range(2):
        storage.add_resource(id=f"r{number}", name=f"r{number}", kind="gpu")
    context.join(context.start(taker, 4, record=True, resources=2, turns=100))
    context.judge("lock", "RESOURCE-1")


def kind_taker(job: Job) -> None:
    """Takes any resource of a kind, and gives it back; says when it had which."""
    storage = job.storage()
    job.ready()
    for _ in rounds(job.arguments["turns"]):
        taken = storage.take_resource("gpu", holder=job.name, lease=600)
        if taken is None:
            continue
        since = time.monotonic_ns()
        time.sleep(0.001)
        job.say([taken.name, taken.token, since, time.monotonic_ns()])
        storage.free_resource(taken)
    storage.close()


@check("RESOURCE-1")
def resources_of_a_kind_have_one_holder_each(context: Context) -> None:
    """Four workers take any of three resources; no two may have the same at a time."""
    storage = context.storage()
    for number in range(3):
        storage.add_resource(name=f"r{number}", kind="gpu")
    said = context.join(context.start(kind_taker, 4, turns=60))
    held: dict[str, list[list[int]]] = defaultdict(list)
    for lines in said:
        for name, *span in lines:
            held[name].append(span)
    for spans in held.values():
        spans.sort(key=lambda one: one[1])
        for first, second in itertools.pairwise(spans):
            context.require(
                first[2] <= second[1],
                "RESOURCE-1",
                f"two workers had a resource at once, with the tokens {first[0]} and {second[0]}",
            )
            context.require(first[0] < second[0], "RESOURCE-1", "the token of a resource has not grown")
    enough(sum(map(len, held.values())), 50, "turns")


def stale_holder(job: Job) -> None:
    """Takes resources and is silent; tries to renew and free them when others have them."""
    storage = job.storage()
    taken = [
        storage.take_resource("gpu", holder=holder, lease=job.arguments["lease"]) for holder in job.arguments["holders"]
    ]
    job.say([None if one is None else one.id for one in taken])
    job.wait()
    told: dict[str, str] = {}
    for number, one in enumerate(taken):
        assert one is not None
        for name, write in (("renew_resource", storage.renew_resource), ("free_resource", storage.free_resource)):
            try:
                write(one)
            except ReservationLost:
                continue
            told[name] = f"no error for resource {number}"
    told["free_resources"] = str(storage.free_resources(job.arguments["holders"][0]))
    job.say(told)
    storage.close()


@check("RESOURCE-1")
def a_holder_whose_lease_ran_out_changes_nothing(context: Context) -> None:
    """A worker is paused until its leases have run out and others hold its resources; it must be refused then."""
    storage = context.storage()
    for number in range(2):
        storage.add_resource(name=f"r{number}", kind="gpu")
    # The second is taken over by one who gives the same name: the reservation counts, not the name.
    stale = context.start(stale_holder, ready=False, lease=1.0, holders=["stale", "both"])[0]
    names = stale.next()
    context.require(None not in names, "RESOURCE-1", "a worker got no resource while some were free")
    stale.pause()
    taken = [
        until(
            partial(storage.take_resource, id=name, holder=holder, lease=600),
            "a resource whose holder let its lease run out can be taken by another",
            "RESOURCE-1",
        )
        for name, holder in zip(names, ("successor", "both"), strict=True)
    ]
    before = {one.id: one for one in storage.fetch_resources("gpu")}
    stale.resume()
    stale.tell("go")
    told = stale.next()
    context.equal("RESOURCE-1", told, {"free_resources": "0"}, "what the former holder was told")
    context.equal(
        "RESOURCE-1",
        {one.id: one for one in storage.fetch_resources("gpu")},
        before,
        "the resources after their former holder has tried to change them",
    )
    for one in taken:
        storage.renew_resource(one)
        storage.free_resource(one)
    context.join([stale])
