"""The storage protocol from end to end."""

from __future__ import annotations

import datetime
import math
import time
from typing import TYPE_CHECKING

import moorage
import pytest
from moorage import Storage
from moorage.errors import (
    DuplicateExperiment,
    DuplicateResource,
    DuplicateTrial,
    ExperimentNotFound,
    LockAcquisitionTimeout,
    LockLost,
    ReservationLost,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RedisServer

LONG_AGO = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    with moorage.connect(url) as opened:
        yield opened


def test_an_experiment_from_its_creation_to_its_best_trial(storage: Storage, url: str) -> None:
    experiment = storage.create_experiment(name="tides", metadata={"tags": [], "odd": {"~a": math.nan, 1: b"\0"}})
    with pytest.raises(DuplicateExperiment):
        storage.create_experiment(name="tides")
    assert storage.create_experiment(name="tides", exist_ok=True).id == experiment.id
    storage.register_trials(experiment, [{"depth": depth, "name": "ä\U0001f30a"} for depth in range(40)])
    with pytest.raises(DuplicateTrial):
        storage.register_trials(experiment, [{"depth": 1, "name": "ä\U0001f30a"}])
    worked = 0
    while (trial := storage.reserve_trial(experiment, worker="me")) is not None:
        assert trial.params["depth"] == worked
        with storage.running(trial) as run:
            for step in range(3):
                run.report(1 / (step + 1), name="loss", step=step)
            run.results(objective=abs(worked - 17.5), infinite=math.inf)
        worked += 1
    assert worked == 40
    with moorage.connect(url, read_only=True) as reader:
        assert reader.count_trials(experiment)[moorage.TrialStatus.COMPLETED] == 40
        assert reader.best_trial(experiment).params["depth"] == 17
        assert reader.best_trial(experiment, maximize=True).params["depth"] == 39
        assert reader.best_trial(experiment).results["infinite"] == math.inf
        assert len(reader.fetch_measurements(experiment=experiment)) == 120
        assert [one.value for one in reader.fetch_measurements(reader.best_trial(experiment))] == [1, 1 / 2, 1 / 3]
        assert len(reader.fetch_trials(experiment, where={"params.depth": {"$lt": 5}})) == 5
        assert [one.params["depth"] for one in reader.iterate_trials(experiment)] == list(range(40))
        (attempt,) = reader.fetch_attempts(reader.best_trial(experiment))
        assert attempt.outcome == "completed"
        assert reader.fetch_experiments({"name": "tides"})[0].metadata["odd"][1] == b"\0"
    assert storage.delete_trials(experiment, where={"params.depth": {"$gte": 30}}) == 10
    storage.delete_experiment(experiment)
    with pytest.raises(ExperimentNotFound):
        storage.get_experiment(experiment)
    assert storage.is_empty()


def test_a_trial_of_a_silent_worker_goes_to_another_and_the_first_is_refused(storage: Storage) -> None:
    experiment = storage.create_experiment(name="tides")
    storage.register_trials(experiment, [{"depth": 1}])
    lost = storage.reserve_trial(experiment, worker="silent")
    assert storage.reserve_trial(experiment, worker="next") is None
    storage.update_trial(lost.id, heartbeat=LONG_AGO)
    taken = storage.reserve_trial(experiment, worker="next")
    assert (taken.id, taken.token) == (lost.id, lost.token + 1)
    for write in (
        lambda: storage.push_trial_results(lost, {"objective": 1.0}),
        lambda: storage.update_heartbeat(lost),
    ):
        with pytest.raises(ReservationLost):
            write()
    storage.push_trial_results(taken, {"objective": 2.0})
    assert storage.get_trial(taken).results == {"objective": 2.0}


def test_a_lease_runs_out_by_the_servers_clock(url: str) -> None:
    with moorage.connect(url, heartbeat_timeout=0.3) as storage, moorage.connect(url) as other:
        experiment = storage.create_experiment(name="tides")
        storage.register_trials(experiment, [{"depth": 1}])
        assert storage.reserve_trial(experiment, worker="silent") is not None
        assert other.reserve_trial(experiment, worker="early") is None
        time.sleep(0.5)
        assert other.reserve_trial(experiment, worker="late").worker == "late"


def test_the_algorithm_lock_excludes_keeps_any_state_and_refuses_a_stale_holder(storage: Storage, url: str) -> None:
    experiment = storage.create_experiment(name="tides", algorithm={"random": {}})
    large = {"observed": list(range(200_000)), "text": "ä" * 3_000_000}
    with storage.acquire_algorithm_lock(experiment) as algorithm:
        algorithm.set_state(large)
        with moorage.connect(url) as other, pytest.raises(LockAcquisitionTimeout):
            other.acquire_algorithm_lock(experiment, timeout=0.1).__enter__()
    assert storage.get_algorithm_lock_info(experiment).state == large

    def lose() -> None:
        with storage.acquire_algorithm_lock(experiment) as stale:
            stale.set_state("stale")
            assert storage.break_algorithm_lock(experiment)
            with moorage.connect(url) as other, other.acquire_algorithm_lock(experiment, timeout=5) as algorithm:
                algorithm.set_state("successor's")

    with pytest.raises(LockLost):
        lose()
    assert storage.get_algorithm_lock_info(experiment).state == "successor's"


def test_resources_are_taken_once(storage: Storage) -> None:
    for name in ("a", "b"):
        storage.add_resource(name=name, kind="gpu")
    with pytest.raises(DuplicateResource):
        storage.add_resource(name="a", kind="gpu")
    first, second = storage.take_resource("gpu", "me", lease=0.2), storage.take_resource("gpu", "you")
    assert (first.name, second.name) == ("a", "b")
    assert storage.take_resource("gpu", "third") is None
    time.sleep(0.3)
    assert storage.take_resource("gpu", "third").name == "a"
    with pytest.raises(ReservationLost):
        storage.renew_resource(first)
    storage.free_resource(second)
    assert [one.name for one in storage.fetch_resources(free=True)] == ["b"]


def test_work_goes_on_after_the_server_was_killed_and_started_again(own_server: Callable[..., RedisServer]) -> None:
    server = own_server()
    with moorage.connect(server.url) as storage:
        experiment = storage.create_experiment(name="tides")
        storage.register_trials(experiment, [{"depth": depth} for depth in range(5)])
        trial = storage.reserve_trial(experiment)
        server.kill()
        server.start()
        storage.push_trial_results(trial, {"objective": 1.0})
        assert storage.reserve_trial(experiment).params["depth"] == 1
        assert storage.get_trial(trial).results == {"objective": 1.0}
