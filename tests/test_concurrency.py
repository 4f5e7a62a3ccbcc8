"""Many processes on one storage: exactly-once reservations, kill -9, paused holders; and a soak that lasts longer."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import moorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS = str(Path(__file__).with_name("workers.py"))


class Worker:
    """A process of `workers.py`, and what it has said."""

    def __init__(self, output: Path, role: str, url: str, subject: str, argument: str, ttl: float) -> None:
        self.output = output
        arguments = [sys.executable, WORKERS, role, url, subject, argument, str(ttl)]
        with output.open("wb") as file:
            self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)

    def said(self) -> list[dict[str, object]]:
        """All whole lines so far; one that a kill has torn is no acknowledgement that anybody saw."""
        lines = self.output.read_text(errors="replace").split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_until_it_said(self, key: str) -> dict[str, object]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for facts in self.said():
                if key in facts:
                    return facts
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.005)
        raise AssertionError(f"the worker never said {key!r}: {self.output.read_text()}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self) -> list[dict[str, object]]:
        assert self.process.wait(timeout=240) == 0, self.output.read_text()
        return self.said()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


@pytest.fixture
def start(tmp_path: Path, shared_storage_url: str) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def launch(role: str, subject: str, argument: str = "", ttl: float = 60) -> Worker:
        output = tmp_path / f"worker-{len(started)}.txt"
        started.append(Worker(output, role, shared_storage_url, subject, argument, ttl))
        return started[-1]

    yield launch
    for worker in started:
        worker.kill()


def together(workers: list[Worker]) -> list[list[dict[str, object]]]:
    """Let all begin at the same moment, and wait for what they say."""
    for worker in workers:
        worker.wait_until_it_said("ready")
    for worker in workers:
        worker.go()
    return [worker.finish() for worker in workers]


def test_every_trial_is_reserved_exactly_once(shared_storage_url: str, start: Callable[..., Worker]) -> None:
    with moorage.connect(shared_storage_url) as storage:
        experiment = storage.create_experiment(name="race")
        storage.register_trials(experiment, [{"x": float(number)} for number in range(2000)])
        said = together([start("reserve_all", experiment.id, f"w{number}") for number in range(4)])
        reserved = [str(facts["reserved"]) for lines in said for facts in lines if "reserved" in facts]
        assert len(reserved) == 2000
        assert max(Counter(reserved).values()) == 1
        assert {trial.token for trial in storage.iterate_trials(experiment)} == {1}
        assert all(sum("reserved" in facts for facts in lines) > 0 for lines in said)


def test_every_trial_is_registered_exactly_once(shared_storage_url: str, start: Callable[..., Worker]) -> None:
    with moorage.connect(shared_storage_url) as storage:
        experiment = storage.create_experiment(name="race")
        said = together([start("register_same", experiment.id, "100") for _ in range(4)])
        mine = Counter(facts["registered"] for lines in said for facts in lines if facts.get("mine"))
        assert mine == dict.fromkeys(range(100), 1)
        assert len(storage.fetch_trials(experiment)) == 100


def test_no_update_of_the_state_is_lost_and_nobody_starves(
    shared_storage_url: str, start: Callable[..., Worker]
) -> None:
    with moorage.connect(shared_storage_url) as storage:
        experiment = storage.create_experiment(name="race")
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            algorithm.set_state({"count": 0})
        together([start("count_up", experiment.id, "50") for _ in range(4)])
        info = storage.get_algorithm_lock_info(experiment)
        assert info.state == {"count": 200}
        assert info.token == 201
        assert not info.locked


def test_a_resource_has_one_holder_at_a_time(shared_storage_url: str, start: Callable[..., Worker]) -> None:
    with moorage.connect(shared_storage_url) as storage:
        for number in range(2):
            storage.add_resource(name=f"gpu{number}", kind="gpu")
        said = together([start("take", "gpu", f"w{number}") for number in range(4)])
        spans = [facts for lines in said for facts in lines if "held" in facts]
        assert len(spans) > 40
        for name in ("gpu0", "gpu1"):
            held = sorted((facts["since"], facts["until"]) for facts in spans if facts["held"] == name)
            assert all(first[1] <= second[0] for first, second in itertools.pairwise(held))  # type: ignore[operator]
        assert len(storage.fetch_resources(free=True)) == 2


def test_a_killed_holder_of_the_lock_is_succeeded_within_its_ttl(
    shared_storage_url: str, start: Callable[..., Worker]
) -> None:
    with moorage.connect(shared_storage_url, lock_ttl=2) as storage:
        experiment = storage.create_experiment(name="crash")
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            algorithm.set_state({"by": "the test"})
        worker = start("hold_lock", experiment.id, "60", 2)
        worker.wait_until_it_said("acquired")
        worker.kill()
        killed = time.monotonic()
        with storage.acquire_algorithm_lock(experiment, timeout=30) as algorithm:
            waited = time.monotonic() - killed
            assert algorithm.state == {"by": "the test"}
        print(f"succeeded after {waited / 2:.2f} x ttl")


def test_a_holder_paused_past_its_ttl_has_lost_the_lock_and_changes_nothing(
    shared_storage_url: str, start: Callable[..., Worker]
) -> None:
    with moorage.connect(shared_storage_url, lock_ttl=1) as storage:
        experiment = storage.create_experiment(name="pause")
        with storage.acquire_algorithm_lock(experiment) as algorithm:
            algorithm.set_state({"by": "the test"})
        worker = start("hold_lock", experiment.id, "0.5", 1)
        worker.wait_until_it_said("acquired")
        worker.signal(signal.SIGSTOP)
        with storage.acquire_algorithm_lock(experiment, timeout=30) as algorithm:
            assert algorithm.state == {"by": "the test"}
            algorithm.set_state({"by": "the successor"})
            worker.signal(signal.SIGCONT)
            assert "lock_lost" in worker.finish()[-1]
        assert storage.get_algorithm_lock_info(experiment).state == {"by": "the successor"}


def test_a_holder_paused_past_its_ttl_has_lost_the_lock_even_if_nobody_took_it(
    shared_storage_url: str, start: Callable[..., Worker]
) -> None:
    with moorage.connect(shared_storage_url, lock_ttl=0.5) as storage:
        experiment = storage.create_experiment(name="pause")
        worker = start("hold_lock", experiment.id, "0.2", 0.5)
        worker.wait_until_it_said("acquired")
        worker.signal(signal.SIGSTOP)
        time.sleep(0.6)
        worker.signal(signal.SIGCONT)
        assert "lock_lost" in worker.finish()[-1]
        assert storage.get_algorithm_lock_info(experiment).state is None


def run_under_kills(
    storage: moorage.Storage, start: Callable[..., Worker], *, trials: int, kills: int, pause: tuple[float, float]
) -> list[Worker]:
    """Four workers do trials, while one after the other is killed with -9 at a random moment and replaced.

    After the last kill what nobody has begun is given up, and the rest is finished.
    """
    chance = random.Random(trials)
    experiment = storage.create_experiment(name="kills", heartbeat_timeout=1)
    storage.register_trials(experiment, [{"x": float(number)} for number in range(trials)])
    workers = [start("work", experiment.id, f"w{number}", 2) for number in range(4)]
    living = list(workers)
    for worker in workers:  # which takes a while on a busy machine
        worker.wait_until_it_said("completed")
    for _ in range(kills):
        time.sleep(chance.uniform(*pause))
        victim = living.pop(chance.randrange(len(living)))
        victim.kill()
        replacement = start("work", experiment.id, f"w{len(workers)}", 2)
        workers.append(replacement)
        living.append(replacement)
    storage.update_trials(experiment, where={"status": "new"}, status="pruned")
    for worker in living:
        worker.finish()
    return workers


def check_nothing_lost_nothing_twice(storage: moorage.Storage, workers: list[Worker]) -> None:
    experiment = storage.fetch_experiments()[0]
    stored = {trial.id: trial for trial in storage.iterate_trials(experiment)}
    said = [facts for worker in workers for facts in worker.said()]
    completed = Counter(str(facts["completed"]) for facts in said if "completed" in facts)
    assert completed
    assert max(completed.values()) == 1
    stored = {name: trial for name, trial in stored.items() if trial.status != "pruned"}
    print(f"{len(stored)} trials completed by {len(workers)} workers")
    for trial in stored.values():
        assert trial.status == "completed"
        assert trial.objective == trial.params["x"]
    for facts in said:
        if "completed" in facts:
            assert stored[str(facts["completed"])].token == facts["token"]
    measured = Counter(
        (one.trial, one.step, one.attempt) for one in storage.fetch_measurements(experiment=experiment, name="loss")
    )
    assert max(measured.values()) == 1
    for facts in said:
        if "measured" in facts:
            assert (facts["measured"], facts["step"], facts["attempt"]) in measured
    outcomes = Counter(
        (attempt.trial, attempt.outcome) for trial in stored.values() for attempt in storage.fetch_attempts(trial)
    )
    assert {trial for (trial, outcome), count in outcomes.items() if outcome == "completed" and count == 1} == set(
        stored
    )
    assert {outcome for _, outcome in outcomes} <= {"completed", "lost"}


def test_nothing_is_lost_or_done_twice_when_workers_are_killed(
    shared_storage_url: str, start: Callable[..., Worker]
) -> None:
    with moorage.connect(shared_storage_url) as storage:
        workers = run_under_kills(storage, start, trials=1000, kills=6, pause=(0.2, 0.5))
        check_nothing_lost_nothing_twice(storage, workers)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_soak_of_random_kills(shared_storage_url: str, start: Callable[..., Worker]) -> None:
    seconds = float(os.environ.get("MOORAGE_SOAK_SECONDS", "60"))
    with moorage.connect(shared_storage_url) as storage:
        kills = int(seconds / 0.5)
        workers = run_under_kills(storage, start, trials=int(400 * seconds), kills=kills, pause=(0.1, 0.9))
        check_nothing_lost_nothing_twice(storage, workers)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_soak_of_reservations(shared_storage_url: str, start: Callable[..., Worker]) -> None:
    with moorage.connect(shared_storage_url) as storage:
        experiment = storage.create_experiment(name="race")
        storage.register_trials(experiment, [{"x": float(number)} for number in range(8000)])
        said = together([start("reserve_all", experiment.id, f"w{number}") for number in range(4)])
        reserved = Counter(str(facts["reserved"]) for lines in said for facts in lines if "reserved" in facts)
        assert len(reserved) == 8000
        assert max(reserved.values()) == 1
