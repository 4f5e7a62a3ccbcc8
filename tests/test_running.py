"""A worker's view of a trial: how it ends, what is stored, and that nobody's exception is hidden."""

from __future__ import annotations

import datetime
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

import attrs
import pytest

import moorage
from doubles import FaultyDriver, in_threads, needs_clock, storage_over
from moorage import Run, Storage, Trial
from moorage.errors import FailedUpdate, InvalidType, ReservationLost, TrialNotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG_AGO = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def memory() -> Iterator[Storage]:
    with moorage.connect("memory://") as opened:
        yield opened


def reserved(storage: Storage, count: int = 1, **fields: object) -> Trial:
    experiment = storage.create_experiment(name="e", **fields)
    storage.register_trials(experiment, [{"x": place} for place in range(count)])
    trial = storage.reserve_trial(experiment, worker="me")
    assert trial is not None
    return trial


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def keepers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "moorage-keeper"]


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = keepers()
    yield
    assert set(keepers()) <= set(before)


@pytest.fixture
def driver() -> FaultyDriver:
    return FaultyDriver()


@pytest.fixture
def faulty(driver: FaultyDriver) -> Iterator[Storage]:
    """A storage over `driver` that does not try again."""
    with storage_over(driver, retry_timeout=0) as opened:
        yield opened


def take_over(storage: Storage, trial: Trial) -> Trial:
    """Another worker has the trial now."""
    needs_clock(storage)
    storage.update_trial(trial.id, heartbeat=LONG_AGO)
    storage.recover_lost_trials(trial.experiment)
    again = storage.reserve_trial(trial.experiment, worker="other")
    assert again.id == trial.id
    return again


# How a run ends


def test_a_run_completes_the_trial_with_its_results(storage: Storage) -> None:
    trial = reserved(storage)
    with storage.running(trial) as run:
        assert run.trial == trial
        assert not run.lost
        for epoch in range(3):
            run.report(1 / (epoch + 1), name="loss", step=epoch)
        run.results(objective=0.25)
        run.results({"accuracy": 0.75}, epochs=3)
        assert storage.get_trial(trial).results == {}
    stored = storage.get_trial(trial)
    assert (stored.status, stored.error, stored.token) == ("completed", None, 1)
    assert stored.results == {"objective": 0.25, "accuracy": 0.75, "epochs": 3}
    assert stored.results.types["objective"] == "objective"
    assert stored.end_time >= trial.start_time
    assert [one.value for one in storage.fetch_measurements(trial, name="loss")] == [1, 1 / 2, 1 / 3]
    (attempt,) = storage.fetch_attempts(trial)
    assert (attempt.number, attempt.worker, attempt.outcome, attempt.error) == (1, "me", "completed", None)
    assert attempt.started <= attempt.ended


def test_a_run_may_complete_without_results(storage: Storage) -> None:
    trial = reserved(storage)
    with storage.running(trial):
        pass
    assert storage.get_trial(trial).status == "completed"
    assert storage.retrieve_result(trial) == {}


def test_an_exception_breaks_the_trial_with_its_text(storage: Storage) -> None:
    trial = reserved(storage)

    def fail() -> None:
        with storage.running(trial) as run:
            run.results(objective=1)
            raise ZeroDivisionError("of 'this' by \0 and \ud800")

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert not hasattr(caught.value, "__notes__")
    stored = storage.get_trial(trial)
    assert stored.status == "broken"
    assert stored.error.splitlines()[0] == "ZeroDivisionError: of 'this' by \\0 and \\ud800"
    assert "in fail" in stored.error
    assert stored.results == {"objective": 1.0}
    (attempt,) = storage.fetch_attempts(trial)
    assert (attempt.outcome, attempt.error) == ("broken", stored.error)
    assert storage.reserve_trial(trial.experiment) is None


def test_the_text_of_an_error_has_a_limit(storage: Storage) -> None:
    trial = reserved(storage)
    with pytest.raises(ValueError, match="🧪"), storage.running(trial):
        raise ValueError("🧪" * 10**6)
    assert storage.get_trial(trial).error.startswith("ValueError: 🧪🧪")
    assert len(storage.get_trial(trial).error) == 20_000


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_cannot_be_shown_breaks_the_trial_all_the_same(memory: Storage) -> None:
    trial = reserved(memory)
    with pytest.raises(Unspeakable), memory.running(trial):
        raise Unspeakable
    assert "Unspeakable" in memory.get_trial(trial).error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_leaves_the_trial_to_the_next(storage: Storage, error: type[BaseException]) -> None:
    trial = reserved(storage)

    def interrupt() -> None:
        with storage.running(trial) as run:
            run.report(1.0)
            raise error

    with pytest.raises(error):
        interrupt()
    stored = storage.get_trial(trial)
    assert (stored.status, stored.error) == ("interrupted", f"interrupted by {error.__name__}")
    outcome = "exited" if error is SystemExit else "interrupted"  # nobody asked for it from outside
    assert [one.outcome for one in storage.fetch_attempts(trial)] == [outcome]
    with storage.running(storage.reserve_trial(trial.experiment)) as run:
        run.results(objective=2)
    assert [(one.number, one.outcome) for one in storage.fetch_attempts(trial)] == [
        (1, outcome),
        (2, "completed"),
    ]


def test_a_run_may_be_pruned(storage: Storage) -> None:
    trial = reserved(storage, 2)
    with storage.running(trial) as run:
        run.results(objective=9)
        run.prune("no better than the median")
    stored = storage.get_trial(trial)
    assert (stored.status, stored.error) == ("pruned", "no better than the median")
    assert stored.results == {"objective": 9.0}
    second = storage.reserve_trial(trial.experiment)
    with storage.running(second) as run:
        run.prune()
    assert (storage.get_trial(second).status, storage.get_trial(second).error) == ("pruned", None)
    assert storage.best_trial(trial.experiment) is None


def test_an_exception_after_prune_wins(memory: Storage) -> None:
    trial = reserved(memory)

    def fail() -> None:
        with memory.running(trial) as run:
            run.prune("why")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert memory.get_trial(trial).status == "broken"


# Reports


def test_steps_are_counted_for_each_name(storage: Storage) -> None:
    trial = reserved(storage)
    with storage.running(trial) as run:
        run.report(math.nan)
        run.report(2)
        run.report(3, "loss")
        run.report(4, "loss", 10)
        run.report(5, "loss")
        run.report(6)
    found = [(one.name, one.step, one.attempt) for one in storage.fetch_measurements(trial)]
    assert found == [
        ("loss", 0, 1),
        ("loss", 10, 1),
        ("loss", 11, 1),
        ("objective", 0, 1),
        ("objective", 1, 1),
        ("objective", 2, 1),
    ]


def test_wrong_reports_and_results_break_nothing(memory: Storage) -> None:
    trial = reserved(memory)
    with memory.running(trial) as run:
        for wrong in ("1", None, True, object()):
            with pytest.raises(InvalidType):
                run.report(wrong)
            with pytest.raises(InvalidType):
                run.results(objective=wrong)
        with pytest.raises(InvalidType):
            run.report(1, name=5)
        with pytest.raises(InvalidType):
            run.report(1, step=0.5)
        run.report(7)
        run.results(objective=8)
    assert [(one.step, one.value) for one in memory.fetch_measurements(trial)] == [(0, 7.0)]
    assert memory.retrieve_result(trial) == {"objective": 8.0}


def test_only_a_reserved_trial_is_run(memory: Storage) -> None:
    trial = reserved(memory)
    with pytest.raises(InvalidType, match="a record or an id, not int"):
        memory.running(5)
    assert memory.running(trial.id).trial == trial
    with pytest.raises(FailedUpdate, match="is new; only one from reserve_trial can be run"):
        memory.running(attrs.evolve(trial, status="new"))
    memory.set_trial_status(trial, "completed")
    with pytest.raises(ReservationLost):
        memory.running(trial)


# Loss


def test_a_report_after_a_loss_raises_and_the_run_knows(storage: Storage) -> None:
    trial = reserved(storage)

    def run_and_lose() -> Run:
        with storage.running(trial) as run:
            run.report(1.0)
            take_over(storage, trial)
            with pytest.raises(ReservationLost, match="worker 'other'"):
                run.report(2.0)
            assert run.lost
            with pytest.raises(ReservationLost):
                run.report(3.0)
            run.results(objective=5)
        return run

    with pytest.raises(ReservationLost):
        run_and_lose()
    stored = storage.get_trial(trial)
    assert (stored.status, stored.worker, stored.results) == ("reserved", "other", {})
    assert [one.value for one in storage.fetch_measurements(trial)] == [1.0]
    assert [(one.number, one.outcome) for one in storage.fetch_attempts(trial)] == [
        (1, "lost"),
        (2, None),
    ]


def test_heartbeats_are_given_and_tell_of_a_loss(storage: Storage) -> None:
    trial = reserved(storage, heartbeat_timeout=0.4)

    def run_and_lose() -> None:
        with storage.running(trial) as run:
            wait_until(lambda: storage.get_trial(trial).heartbeat > trial.heartbeat)
            assert storage.fetch_lost_trials(trial.experiment) == []
            assert not run.lost
            storage.set_trial_status(trial.id, "suspended")
            wait_until(lambda: run.lost)

    with pytest.raises(ReservationLost):
        run_and_lose()
    assert storage.get_trial(trial).status == "suspended"


def test_heartbeats_tell_of_a_trial_that_was_deleted(memory: Storage) -> None:
    trial = reserved(memory, heartbeat_timeout=0.05)

    def run_and_lose() -> None:
        with memory.running(trial) as run:
            memory.delete_trials(trial.experiment)
            wait_until(lambda: run.lost)

    with pytest.raises(TrialNotFound):
        run_and_lose()


def test_a_loss_hides_no_exception_of_the_user(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    trial = reserved(storage)
    caplog.set_level(logging.WARNING, "moorage")

    def lose_and_fail() -> None:
        with storage.running(trial):
            take_over(storage, trial)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        lose_and_fail()
    (note,) = caught.value.__notes__
    assert note.startswith(f"moorage: while the end of trial {trial.id} was stored: trial")
    assert "no longer reserved by this caller" in note
    assert "could not be stored" in caplog.text
    assert storage.get_trial(trial).worker == "other"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_storage_that_fails_hides_no_exception_of_the_user(
    driver: FaultyDriver, faulty: Storage, error: type[BaseException]
) -> None:
    trial = reserved(faulty)

    def fail() -> None:
        with faulty.running(trial):
            driver.always = "unavailable"
            raise error

    with pytest.raises(error) as caught:
        fail()
    assert "no answer" in caught.value.__notes__[0] or "was not done" in caught.value.__notes__[0]


def test_a_storage_that_fails_at_the_end_of_a_good_run_says_so(driver: FaultyDriver, faulty: Storage) -> None:
    trial = reserved(faulty)

    def end() -> None:
        with faulty.running(trial) as run:
            run.results(objective=1)
            driver.always = "unavailable"

    with pytest.raises(Unavailable):
        end()
    driver.always = None
    assert faulty.get_trial(trial).status == "reserved"


def test_heartbeats_go_on_after_the_storage_was_away(
    driver: FaultyDriver, faulty: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "moorage")
    trial = reserved(faulty, heartbeat_timeout=0.04)
    with faulty.running(trial) as run:
        driver.always = "unavailable"
        driver.begin({})
        wait_until(lambda: len(driver.calls) > 2)
        driver.always = None
        before = faulty.get_trial(trial).heartbeat
        wait_until(lambda: faulty.get_trial(trial).heartbeat > before)
        assert not run.lost
    assert faulty.get_trial(trial).status == "completed"


def test_an_attempt_ended_by_another_is_no_error(memory: Storage) -> None:
    trial = reserved(memory)
    with memory.running(trial):
        memory.end_attempt(trial, "checked by hand")
    assert memory.get_trial(trial).status == "completed"
    assert memory.fetch_attempts(trial)[0].outcome == "checked by hand"


# Many at once


def test_many_runs_share_one_thread_that_ends_when_it_is_idle(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moorage.keeper, "IDLE", 0.05)
    before = set(keepers())
    first = reserved(memory, 40, heartbeat_timeout=0.2)
    trials = [first, *(memory.reserve_trial(first.experiment) for _ in range(39))]
    runs = [memory.running(trial) for trial in trials]
    for run in runs:
        run.__enter__()
    with memory.acquire_algorithm_lock(first.experiment):
        assert len(set(keepers()) - before) == 1
        wait_until(lambda: all(memory.get_trial(one).heartbeat > one.heartbeat for one in trials))
    for run in runs:
        run.__exit__(None, None, None)
    assert memory.count_completed_trials(first.experiment) == 40
    wait_until(lambda: not set(keepers()) - before)
    with memory.acquire_algorithm_lock(first.experiment):
        assert len(set(keepers()) - before) == 1


def test_runs_of_several_threads_do_not_mix(storage: Storage) -> None:
    first = reserved(storage, 12)
    storage.set_trial_status(first, "interrupted")
    done: list[object] = []

    def work(place: int) -> None:
        while (trial := storage.reserve_trial(first.experiment, worker=f"w{place}")) is not None:
            with storage.running(trial) as run:
                run.report(trial.params["x"])
                run.results(objective=trial.params["x"] * 2)
            done.append(trial.params["x"])

    in_threads(3, work)
    assert sorted(done) == list(range(12))
    trials = storage.fetch_trials(first.experiment)
    assert [one.objective for one in trials] == [2.0 * place for place in range(12)]
    measured = storage.fetch_measurements(trials=trials)
    assert [one.value for one in measured] == list(range(12))
