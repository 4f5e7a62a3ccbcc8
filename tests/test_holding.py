"""Several resources at once: all or none, each held by one, in the order of coming; and requests to stop."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import moorage
from moorage import Capability, Storage
from moorage.errors import (
    ConflictingArguments,
    DuplicateResource,
    ExperimentNotFound,
    FailedUpdate,
    InvalidArgument,
    ResourceNotFound,
    ResourceTimeout,
    TrialNotFound,
)
from moorage.lock import process_name
from moorage.schema import COUNTERS

if TYPE_CHECKING:
    from collections.abc import Callable

HOLDER = """
import json, sys, time, moorage
url, times, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with moorage.connect(url) as storage:
    for _ in range(times):
        with storage.holding("gpu", count, timeout=120, lease=5) as held:
            began = time.monotonic()
            time.sleep(0.01)
            print(json.dumps([[one.name for one in held.resources], began, time.monotonic()]), flush=True)
"""


def gpus(storage: Storage, count: int) -> None:
    for place in range(count):
        storage.add_resource(name=f"gpu{place}", kind="gpu", labels={"memory": 20 * (place + 1)})


def waiting(storage: Storage) -> int:
    return sum(one.id.startswith("waiting") for one in storage.driver.find(COUNTERS))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_held_is_given_back_whatever_happens(storage: Storage) -> None:
    gpus(storage, 3)
    with storage.holding("gpu", 2) as held:
        assert [one.name for one in held.resources] == ["gpu0", "gpu1"]
        assert {one.holder for one in held.resources} == {process_name()}
        assert [one.name for one in storage.fetch_resources("gpu", free=True)] == ["gpu2"]
        assert not held.lost

    def fail() -> None:
        with storage.holding("gpu", 3):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(storage.fetch_resources("gpu", free=True)) == 3
    with storage.holding("gpu", where={"labels.memory": {"$gte": 40}}) as held:
        assert [one.name for one in held.resources] == ["gpu1"]


def test_all_that_are_asked_for_or_none(storage: Storage) -> None:
    gpus(storage, 3)
    with storage.holding("gpu", 2), pytest.raises(ResourceTimeout, match=r"2 resources of the kind 'gpu'.*timeout"):
        storage.holding("gpu", 2, timeout=0.05).__enter__()
    assert len(storage.fetch_resources("gpu", free=True)) == 3
    assert waiting(storage) == 0
    with pytest.raises(ResourceNotFound, match=r"4 resources.*and 3 that match are stored"):
        storage.holding("gpu", 4).__enter__()
    with pytest.raises(InvalidArgument, match="count"):
        storage.holding("gpu", 0)


def test_whoever_came_first_is_served_first(storage: Storage) -> None:
    gpus(storage, 2)
    served: list[str] = []

    def hold(name: str, count: int) -> None:
        with storage.holding("gpu", count, holder=name):
            served.append(name)
            time.sleep(0.02)

    with storage.holding("gpu", 1):
        threads = []
        for place, (name, count) in enumerate([("both", 2), ("one", 1), ("another", 1)]):
            threads.append(threading.Thread(target=hold, args=(name, count)))
            threads[-1].start()
            until(lambda place=place: waiting(storage) == place + 1)
        assert served == []  # one is free, but who came first needs two
    for one in threads:
        one.join(timeout=60)
    assert served[0] == "both"
    assert sorted(served[1:]) == ["another", "one"]
    assert waiting(storage) == 0


def test_no_resource_is_held_twice_by_many_processes(shared_storage_url: str) -> None:
    with moorage.connect(shared_storage_url) as storage:
        gpus(storage, 5)
        command = [sys.executable, "-c", HOLDER, shared_storage_url, "8"]
        holders = [
            subprocess.Popen([*command, f"{count}"], stdout=subprocess.PIPE, text=True) for count in (2, 2, 3, 1)
        ]
        told = [one.communicate(timeout=240)[0] for one in holders]
        assert [one.returncode for one in holders] == [0] * 4
        spans = [json.loads(line) for text in told for line in text.splitlines()]
        assert len(spans) == 32
        for name in (f"gpu{place}" for place in range(5)):
            own = sorted((began, ended) for names, began, ended in spans if name in names)
            assert all(first[1] <= second[0] for first, second in itertools.pairwise(own)), name
        assert len(storage.fetch_resources("gpu", free=True)) == 5
        assert waiting(storage) == 0


def test_one_who_dies_while_holding_or_waiting_is_in_nobodys_way(shared_storage_url: str) -> None:
    with moorage.connect(shared_storage_url) as storage:
        if Capability.SERVER_CLOCK not in storage.capabilities:
            pytest.skip("this backend has no clock that its users share")
        gpus(storage, 1)
        code = HOLDER.replace("lease=5", "lease=1").replace(
            "time.sleep(0.01)", "print('held', flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", code, shared_storage_url, "1", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "held\n"
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiter:
                until(lambda: waiting(storage) == 1)
                os.kill(waiter.pid, signal.SIGKILL)
            os.kill(holder.pid, signal.SIGKILL)
        with storage.holding("gpu", timeout=60) as held:
            assert [one.name for one in held.resources] == ["gpu0"]


def test_a_resource_is_changed_whoever_holds_it(storage: Storage) -> None:
    gpus(storage, 2)
    taken = storage.take_resource("gpu")
    changed = storage.update_resource("gpu0", labels={"memory": 80}, if_revision=taken.revision)
    assert (changed.labels, changed.holder, changed.revision) == ({"memory": 80}, taken.holder, taken.revision + 1)
    assert storage.get_resource(taken) == storage.get_resource("gpu0") == storage.get_resource(taken.id) == changed
    with pytest.raises(FailedUpdate, match="revision"):
        storage.update_resource(taken, kind="tpu", if_revision=taken.revision)
    with pytest.raises(DuplicateResource):
        storage.update_resource("gpu0", name="gpu1")
    with pytest.raises(InvalidArgument, match="holder"):
        storage.update_resource("gpu0", holder="me")
    with pytest.raises(ResourceNotFound):
        storage.get_resource("gpu9")
    slots = storage.add_slots("node", 3, kind="cpu", labels={"host": "a"})
    assert [one.name for one in slots] == ["node/0", "node/1", "node/2"]
    assert storage.take_resource("cpu", where={"labels.slot": 2}).name == "node/2"


def test_processes_are_told_apart_by_more_than_host_and_number() -> None:
    code = "from moorage.lock import process_name; print(process_name())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    host, number, unique = told.rsplit(":", 2)
    assert host
    assert number.isdecimal()
    assert len(unique) == 8
    assert process_name() == process_name() != told
    pid = os.fork()
    if not pid:
        os._exit(0 if process_name().rsplit(":", 1)[1] != unique else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_request_to_stop_is_seen(storage: Storage) -> None:
    experiment = storage.create_experiment(name="e")
    storage.register_trials(experiment, [{"x": 0}, {"x": 1}])
    trial = storage.reserve_trial(experiment)

    def stop_it() -> None:
        with storage.running(trial) as run:
            assert not run.stop_requested
            storage.request_stop(trial)
            run.report(1.0)
            assert run.stop_requested
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_it()
    assert [one.outcome for one in storage.fetch_attempts(trial)] == ["stopped"]
    again = storage.reserve_trial(experiment, trial=trial)
    with storage.running(again) as run:
        run._looked = float("-inf")
        assert not run.stop_requested
        storage.request_stop(experiment)
        run._looked = float("-inf")
        assert run.stop_requested
    assert storage.get_experiment(experiment).stop_requested is not None
    assert storage.reserve_trial(experiment) is None
    storage.start_experiment(experiment)
    assert storage.reserve_trial(experiment).params == {"x": 1}
    with pytest.raises(TrialNotFound):
        storage.request_stop("nothing", experiment_uid=experiment)
    with pytest.raises(ExperimentNotFound):
        storage.request_stop("nobody")
    with pytest.raises(ConflictingArguments):
        storage.request_stop(trial, experiment_uid="another")
