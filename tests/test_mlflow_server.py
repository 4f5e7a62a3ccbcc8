"""The MLflow backend on a real server and in process, beside MLflow's own client; and any storage in MLflow's UI."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import moorage
from doubles import forked_while_threads_write
from moorage.driver import Capability, Document
from moorage.errors import OutcomeUnknown, Unavailable
from moorage.filters import equal
from moorage.plugins import plugins
from moorage.schema import RESOURCES, SCHEMA
from moorage.url import StorageURL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moorage.driver import Driver
    from servers import MLflow, Server

pytest.importorskip("mlflow.store", reason="MLflow is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def server_url(mlflow_server: MLflow) -> str:
    return mlflow_server.create_database()


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that three processes have opened first, at once: which MLflow alone does not stand."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    code = f"import moorage; moorage.connect('mlflow+sqlite:///{path}?namespace=first').close()"
    first = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [one.wait() for one in first] == [0, 0, 0]
    return path


@pytest.fixture
def store_url(fresh_store: Path, tmp_path: Path) -> str:
    for path in fresh_store.parent.glob("mlflow.db*"):
        shutil.copy(path, tmp_path)
    return f"mlflow+sqlite:///{tmp_path}/mlflow.db?repair_after=1"


@pytest.fixture
def client(mlflow_server: MLflow) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(mlflow_server.url)


def connect(url: str, *, read_only: bool = False) -> Driver:
    parsed = StorageURL.parse(url)
    driver = plugins().backend(parsed.scheme).connect(parsed, {}, read_only=read_only)
    driver.setup(SCHEMA)
    return driver


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def study(storage: moorage.Storage, name: str) -> tuple[moorage.Experiment, dict[str, str]]:
    """An experiment with a trial in each status, and which is which."""
    experiment = storage.create_experiment(name=name, metadata={"team": "kelp"})
    storage.register_trials(experiment, [{"lr": 0.1 * number, "layers": {"depth": number}} for number in range(5)])
    ids: dict[str, str] = {}
    for status in ("completed", "broken", "pruned", "reserved"):
        trial = storage.reserve_trial(experiment, worker="w")
        assert trial is not None
        ids[status] = trial.id
        if status == "completed":
            losses = [{"name": "loss", "step": step, "value": 1 / (step + 1)} for step in range(30)]
            storage.add_measurements(trial, [*losses, {"name": "loss", "step": 30, "value": math.inf}])
            storage.add_measurements(trial, [{"name": "odd", "step": 0, "value": math.nan}])
            storage.push_trial_results(trial, {"objective": 0.25, "word": "fine"}, status="completed")
        elif status != "reserved":
            storage.set_trial_status(trial, status)
    return experiment, ids


STATUSES = {"completed": "FINISHED", "broken": "FAILED", "pruned": "KILLED", "reserved": "RUNNING"}


def test_mlflows_own_client_finds_the_study(server_url: str, client: Any) -> None:
    name = f"study {server_url[-30:]}"
    with moorage.connect(server_url) as storage:
        experiment, ids = study(storage, name)
    found = client.get_experiment_by_name(name)
    assert found.tags["moorage.experiment"] == experiment.id
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {ids[key]: STATUSES[key] for key in ids}
    run = runs[ids["completed"]]
    assert run.data.params == {"lr": "0.0", "layers.depth": "0"}
    assert run.data.metrics["objective"] == 0.25
    assert math.isnan(run.data.metrics["odd"])
    assert (run.data.tags["moorage.status"], run.data.tags["moorage.result.word"]) == ("completed", "fine")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((one.step, one.value) for one in history)[:30] == [(step, 1 / (step + 1)) for step in range(30)]
    assert max(one.value for one in history) > 1e308
    assert run.info.end_time >= run.info.start_time
    best = client.search_runs([found.experiment_id], "metrics.objective < 0.5 and params.lr = '0.0'")
    assert [one.info.run_name for one in best] == [ids["completed"]]


def test_what_people_do_in_mlflow_decides_nothing(server_url: str, client: Any) -> None:
    name = f"study {server_url[-30:]}"
    with moorage.connect(server_url) as storage:
        experiment, ids = study(storage, name)
    place = client.get_experiment_by_name(name).experiment_id
    for run in client.search_runs([place]):
        client.set_tag(run.info.run_id, "moorage.status", "new")
        client.set_terminated(run.info.run_id, "FAILED")
        client.delete_run(run.info.run_id)
    own = client.create_run(place).info.run_id
    with moorage.connect(server_url) as storage:
        assert storage.get_trial(ids["completed"], experiment).status == "completed"
        assert storage.get_trial(ids["reserved"], experiment).status == "reserved"
        assert len(storage.fetch_trials(experiment)) == 5
    assert client.get_run(own).info.status == "RUNNING"


def test_server_and_process_share_a_store(mlflow_server: MLflow, server_url: str) -> None:
    if not mlflow_server.is_private:
        pytest.skip("the database of this server is not at hand")
    query = server_url.partition("?")[2]
    with moorage.connect(server_url) as one:
        experiment = one.create_experiment(name=f"shared {query}")
        with moorage.connect(f"mlflow+sqlite:///{mlflow_server._directory}/mlflow.db?{query}") as other:
            one.register_trials(experiment, [{"x": number} for number in range(6)])
            taken = [storage.reserve_trial(experiment) for storage in (one, other) * 3]
            assert len({trial.id for trial in taken if trial is not None}) == 6
            assert one.reserve_trial(experiment) is other.reserve_trial(experiment) is None


_WORKER = """
import sys, moorage
url, experiment = sys.argv[1:]
with moorage.connect(url) as storage:
    while (trial := storage.reserve_trial(experiment)) is not None:
        storage.push_trial_results(trial, {"objective": trial.params["x"]}, status="completed")
        print(trial.id, flush=True)
"""


@pytest.mark.parametrize("fixture", ["server_url", "store_url"])
def test_processes_race_and_each_trial_is_done_once(fixture: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(fixture)
    with moorage.connect(url) as storage:
        experiment = storage.create_experiment(name=f"race {url[-30:]}")
        storage.register_trials(experiment, [{"x": number} for number in range(60)])
        command = [sys.executable, "-c", _WORKER, f"{url}&settle=0", experiment.id]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        done = Counter(line for worker in workers for line in worker.communicate(timeout=250)[0].split())
        assert (len(done), set(done.values())) == (60, {1})
        assert {trial.token for trial in storage.fetch_trials(experiment)} == {1}
        assert storage.count_completed_trials(experiment) == 60


_KILLED = """
import os, signal, sys, moorage
url, experiment = sys.argv[1:]
storage = moorage.connect(url)
trial = storage.reserve_trial(experiment)
storage.push_trial_results(trial, {"objective": 0.5}, status="completed")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_acknowledged_before_a_kill_is_stored_and_soon_shown(server_url: str, client: Any) -> None:
    name = f"killed {server_url[-30:]}"
    with moorage.connect(server_url) as storage:
        experiment = storage.create_experiment(name=name)
        storage.register_trials(experiment, [{"x": 1}, {"x": 2}])
        killed = subprocess.run([sys.executable, "-c", _KILLED, server_url, experiment.id], check=False)
        assert killed.returncode == -signal.SIGKILL
        (done,) = storage.fetch_trials(experiment, where={"status": "completed"})
        assert done.objective == 0.5

        def shown() -> bool:
            place = client.get_experiment_by_name(name)
            runs = [] if place is None else client.search_runs([place.experiment_id])
            return [(run.info.run_name, run.info.status) for run in runs] == [(done.id, "FINISHED")]

        wait_until(shown)


def _insert_in_child(driver: Driver) -> None:
    assert driver.insert(RESOURCES, [Document("child", {"name": "child"})]) == []


@pytest.mark.parametrize("fixture", ["server_url", "store_url"])
def test_a_driver_works_in_a_forked_child(fixture: str, request: pytest.FixtureRequest) -> None:
    driver = connect(request.getfixturevalue(fixture))
    driver.insert(RESOURCES, [Document("parent", {"name": "parent"})])
    child = multiprocessing.get_context("fork").Process(target=_insert_in_child, args=(driver,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert {one.id for one in driver.find(RESOURCES)} == {"parent", "child"}
    driver.close()


def test_a_fork_while_threads_write(server_url: str) -> None:
    driver = connect(server_url)
    assert forked_while_threads_write(lambda name: driver.insert(RESOURCES, [Document(name, {"name": name})]), 5) == 5
    driver.close()


def test_a_server_that_is_silent_gone_and_back(private_server: Callable[[str], Server]) -> None:
    server = private_server("mlflow")
    driver = connect(f"mlflow+{server.url}?timeout=2&connect_timeout=2&settle=0")
    driver.insert(RESOURCES, [Document("a", {"name": "a", "token": 0})])
    server.pause()
    with pytest.raises(Unavailable):
        driver.find(RESOURCES)
    with pytest.raises(OutcomeUnknown):
        driver.patch(RESOURCES, equal(id="a"), {"token": 1})
    server.resume()
    wait_until(lambda: driver.count(RESOURCES))
    server.kill()
    for call in (lambda: driver.find(RESOURCES), lambda: driver.patch(RESOURCES, equal(id="a"), {"token": 2})):
        with pytest.raises(Unavailable):
            call()
    with pytest.raises(Unavailable):
        connect(f"mlflow+{server.url}?connect_timeout=2")
    server.start()
    found = driver.get(RESOURCES, "a")
    assert found is not None
    assert found.body["token"] in (0, 1)
    assert driver.patch(RESOURCES, equal(id="a"), {"token": 3}) == 1
    driver.close()


def test_a_store_in_process_is_durable_and_one_in_a_server_may_be(store_url: str, server_url: str) -> None:
    for url, declared in ((store_url, True), (server_url, False)):
        driver = connect(url)
        assert (Capability.DURABLE in driver.capabilities) is declared
        assert Capability.SERVER_CLOCK not in driver.capabilities
        driver.close()


# The other direction


@pytest.fixture
def viewed(tmp_path: Path) -> tuple[Any, dict[str, str]]:
    """MLflow's view of a storage in SQLite, found by its entry point."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with moorage.connect(url) as storage:
        _, ids = study(storage, "digits")
        storage.create_experiment(name="other")
    from mlflow.server.handlers import TrackingStoreRegistryWrapper

    return TrackingStoreRegistryWrapper().get_store(f"moorage+{url}", "mlflow-artifacts:/"), ids


def test_any_storage_is_shown_by_mlflow(viewed: tuple[Any, dict[str, str]]) -> None:
    from mlflow.entities import ViewType

    store, ids = viewed
    assert {one.name for one in store.search_experiments()} == {"digits", "other"}
    experiment = store.get_experiment_by_name("digits")
    assert store.get_experiment(experiment.experiment_id).name == "digits"
    runs = store.search_runs([experiment.experiment_id], "", ViewType.ACTIVE_ONLY)
    assert {run.info.run_name: run.info.status for run in runs if run.info.run_name in ids.values()} == {
        ids[key]: STATUSES[key] for key in ids
    }
    assert len(runs) == 5
    done = next(run for run in runs if run.info.run_name == ids["completed"])
    assert done.data.params == {"lr": "0.0", "layers.depth": "0"}
    assert done.data.metrics["objective"] == 0.25
    assert store.get_run(done.info.run_id).data.metrics["loss"] == math.inf
    history = store.get_metric_history(done.info.run_id, "loss")
    assert [one.step for one in history] == list(range(31))
    sampled = store.get_metric_history_bulk_interval([done.info.run_id], "loss", 10, None, None)
    assert {one.run_id for one in sampled} == {done.info.run_id}
    found = store.search_runs(
        [experiment.experiment_id], "metrics.objective < 1", ViewType.ACTIVE_ONLY, order_by=["metrics.objective ASC"]
    )
    assert [run.info.run_name for run in found] == [ids["completed"]]
    first = store.search_runs([experiment.experiment_id], "", ViewType.ACTIVE_ONLY, max_results=2)
    second = store.search_runs(
        [experiment.experiment_id], "", ViewType.ACTIVE_ONLY, max_results=2, page_token=first.token
    )
    assert len({run.info.run_id for run in [*first, *second]}) == 4


def test_the_view_is_read_only(viewed: tuple[Any, dict[str, str]]) -> None:
    from mlflow.entities import Param, RunTag, ViewType
    from mlflow.exceptions import MlflowException

    store, _ = viewed
    experiment = store.get_experiment_by_name("digits").experiment_id
    run = store.search_runs([experiment], "", ViewType.ACTIVE_ONLY)[0].info.run_id
    for call in (
        lambda: store.create_experiment("new", None, []),
        lambda: store.create_run(experiment, "me", 1, [], "run"),
        lambda: store.delete_run(run),
        lambda: store.set_tag(run, RunTag("a", "b")),
        lambda: store.log_param(run, Param("a", "b")),
        lambda: store.delete_experiment(experiment),
    ):
        with pytest.raises((MlflowException, NotImplementedError)):
            call()
    with pytest.raises(MlflowException, match="no run"):
        store.get_run("0" * 32)


def test_what_cannot_be_viewed_is_said_without_secrets(tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    from moorage_mlflow.viewer import tracking_store

    with pytest.raises(MlflowException, match=r"absent\.db"):
        tracking_store(f"moorage+sqlite:///{tmp_path}/absent.db")
    with pytest.raises(MlflowException) as caught:
        tracking_store("moorage+nosuch://user:s3cret@host/x")
    assert "s3cret" not in str(caught.value)
