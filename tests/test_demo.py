"""The demonstration: its algorithm by itself, and a short run with real processes and a real kill -9."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

import moorage
from moorage import codec
from moorage.errors import InvalidArgument, MissingExtra, MoorageError, Unsupported

pytest.importorskip("sklearn")

from moorage import demo
from moorage.demo import digits
from moorage.demo.algorithm import ParzenEstimator, dimension
from moorage.demo.checks import Casualty, End, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

TOY = {
    "x": "uniform(-5, 5)",
    "rate": "loguniform(1e-5, 1.0)",
    "count": "uniform(1, 20, discrete=True)",
    "kind": "choices(['a', 'b', 'c'])",
}


def toy(point: dict[str, object]) -> float:
    x, rate, count = (float(point[name]) for name in ("x", "rate", "count"))  # type: ignore[arg-type]
    away = {"a": 0.0, "b": 1.0, "c": 2.0}[str(point["kind"])]
    return (x - 2) ** 2 + (math.log10(rate) + 2) ** 2 + ((count - 7) / 4) ** 2 + away


def best_of(seed: int, *, told: bool, trials: int = 40) -> float:
    algorithm = ParzenEstimator(TOY, seed)
    best = math.inf
    for number in range(trials):
        [point] = algorithm.suggest(1)
        best = min(best, toy(point))
        if told:
            algorithm.observe(str(number), point, toy(point))
    return best


class TestAlgorithm:
    def test_it_learns(self) -> None:
        learned = [best_of(seed, told=True) for seed in range(20)]
        random = [best_of(seed, told=False) for seed in range(20)]
        assert statistics.mean(learned) < 0.6 * statistics.mean(random)

    def test_the_same_seed_gives_the_same_points(self) -> None:
        assert ParzenEstimator(TOY, 3).suggest(12) == ParzenEstimator(TOY, 3).suggest(12)
        assert ParzenEstimator(TOY, 3).suggest(12) != ParzenEstimator(TOY, 4).suggest(12)

    @pytest.mark.parametrize("observed", [0, 5, 30])
    def test_a_stored_state_goes_on_where_it_stood(self, observed: int) -> None:
        algorithm = ParzenEstimator(TOY, 1)
        for number, point in enumerate(algorithm.suggest(observed)):
            algorithm.observe(f"trial-{number}", point, None if number % 7 == 0 else toy(point))
        stored = codec.decode(codec.loads(codec.dumps(codec.encode(algorithm.state))))
        restored = ParzenEstimator(TOY, 99, stored)
        assert restored.state == algorithm.state
        assert len(restored) == observed
        assert restored.proposed == observed
        assert restored.suggest(5) == algorithm.suggest(5)

    def test_a_state_is_a_snapshot(self) -> None:
        algorithm = ParzenEstimator(TOY, 1)
        before = algorithm.state
        text = codec.dumps(codec.encode(before))
        algorithm.observe("later", algorithm.suggest(1)[0], 1.0)
        assert codec.dumps(codec.encode(before)) == text

    def test_a_trial_is_observed_once(self) -> None:
        algorithm = ParzenEstimator(TOY, 1)
        [point] = algorithm.suggest(1)
        algorithm.observe("one", point, 1.0)
        state = algorithm.state
        algorithm.observe("one", point, 2.0)
        assert "one" in algorithm
        assert "two" not in algorithm
        assert algorithm.state == state

    def test_points_are_of_the_space(self) -> None:
        algorithm = ParzenEstimator(digits.SPACE, 5)
        for number in range(60):
            [point] = algorithm.suggest(1)
            assert list(point) == list(digits.SPACE)
            assert isinstance(point["learning_rate"], float)
            assert 1e-4 <= point["learning_rate"] <= 1e-1
            assert isinstance(point["hidden"], int)
            assert 8 <= point["hidden"] <= 128
            assert point["batch_size"] in (16, 32, 64, 128)
            algorithm.observe(str(number), point, math.nan if number % 5 == 0 else float(point["hidden"]))

    def test_figures_that_are_no_numbers_are_the_worst(self) -> None:
        algorithm = ParzenEstimator({"x": "uniform(0, 1)"}, 1)
        for number in range(40):
            place = number / 40
            algorithm.observe(str(number), {"x": place}, place if place < 0.25 else math.nan)
        assert statistics.mean(float(point["x"]) for point in algorithm.suggest(20)) < 0.4  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "prior",
        [
            "normal(0, 1)",
            "uniform(1)",
            "uniform(2, 1)",
            "loguniform(0, 1)",
            "choices([])",
            "choices('ab')",
            "uniform('a', 'b')",
            "nonsense",
            7,
        ],
    )
    def test_a_prior_that_it_does_not_know_is_refused(self, prior: object) -> None:
        with pytest.raises(InvalidArgument, match="does not know the prior"):
            dimension(prior)


class TestDigits:
    def test_training_repeats_and_gets_better(self) -> None:
        params = {"learning_rate": 0.01, "alpha": 1e-4, "hidden": 32, "batch_size": 32, "activation": "relu"}
        figures = list(digits.train(params, epochs=4))
        assert figures == list(digits.train(params, epochs=4))
        losses = [loss for loss, _ in figures]
        assert losses == sorted(losses, reverse=True)
        assert figures[-1][1] > 0.8


def workers_of(parent: int) -> set[int]:
    """The processes of workers that this process has started."""
    names = (entry.name for entry in Path("/proc").iterdir())
    return {int(name) for name in names if name.isdecimal() and parent_of(int(name)) == parent}


def is_worker(pid: int) -> bool:
    try:
        return b"moorage.demo.worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def parent_of(pid: int) -> int | None:
    """Who has started a worker; None for other processes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = [line.split() for line in status.splitlines()] if is_worker(pid) else []
    return next((int(line[1]) for line in lines if line[0] == "PPid:"), None)


class TestRun:
    def test_a_worker_is_killed_and_nothing_is_lost(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/hpo.db"
        output = io.StringIO()
        plot = tmp_path / "plot.png"
        console = Console(file=output, width=100)
        summary = demo.run(url, workers=2, trials=8, seed=1, plot=plot, console=console)
        printed = output.getvalue()
        assert summary.ok, printed
        assert summary.exit_code == 0
        assert summary.counts[moorage.TrialStatus.COMPLETED] == 8
        assert len(summary.checks) == 5
        assert "killed with kill -9 while it ran trial" in printed
        silence = re.search(r"no heartbeat for (\d+) s .*; recovered, worker", printed)
        assert silence is not None, printed
        assert int(silence[1]) >= 4
        assert "✗" not in printed
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert summary.plot == plot

        assert summary.casualty is not None
        with moorage.connect(url, read_only=True) as storage:
            experiment = storage.get_experiment(summary.experiment)
            assert experiment.status == "finished"
            trial = storage.get_trial(summary.casualty.trial, experiment)
            assert trial.status == "completed"
            assert trial.token == 2
            assert [one.outcome for one in storage.fetch_attempts(trial)] == ["lost", "completed"]
            assert trial.worker != summary.casualty.worker
            assert summary.best == storage.best_trial(experiment)
            [row, *_] = storage.fetch_measurements(trial, name="loss")
            assert row.step == 1

            # What is wrong is found.
            ends = [
                End(trial=one.id, attempt=one.token, worker=one.worker or "")
                for one in storage.fetch_trials(experiment)
            ]
            assert all(check.ok for check in verify(storage, experiment, ends, summary.casualty))
            twice = verify(storage, experiment, [*ends, ends[0]])
            assert [check.ok for check in twice] == [True, False, True, True]
            unheard = verify(storage, experiment, ends[1:])
            assert [check.ok for check in unheard] == [True, False, True, True]
            cut_short = verify(storage, experiment, ends[1:], killed=[ends[0].worker])
            assert all(check.ok for check in cut_short)
            foreign = verify(storage, experiment, [*ends, End(trial="0" * 32, attempt=1, worker="1")], None)
            assert not foreign[1].ok
            survivor = next(one for one in ends if one.trial != trial.id)
            unhurt = Casualty(trial=survivor.trial, attempt=1, worker="1")
            assert not verify(storage, experiment, ends, unhurt)[-1].ok

        second = demo.run(url, workers=1, trials=1, plot=None, kill=False, console=console)
        assert second.ok
        assert second.casualty is None
        assert (second.experiment.name, second.experiment.version) == ("digits-demo", 2)

    def test_a_storage_of_one_process_is_refused(self) -> None:
        with pytest.raises(Unsupported, match=r"memory://.*sqlite:///") as caught:
            demo.run("memory://", plot=None)
        assert isinstance(caught.value, MoorageError)

    def test_a_plot_of_an_unknown_kind_is_refused_at_once(self) -> None:
        with pytest.raises(InvalidArgument, match=r"'plot\.bmp' should end with one of"):
            demo.run("sqlite:///never.db", plot=Path("plot.bmp"))
        assert not Path("never.db").exists()

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find(name, *rest)
        )
        with pytest.raises(MissingExtra, match=r'pip install "moorage\[demo\]"'):
            demo.run("sqlite:///never.db")
        assert not Path("never.db").exists()

    def test_a_worker_that_fails_is_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = tmp_path / "broken" / "sklearn"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ImportError('this sklearn is broken')\n")
        monkeypatch.setenv("PYTHONPATH", str(broken.parent))
        output = io.StringIO()
        summary = demo.run(
            f"sqlite:///{tmp_path}/hpo.db", workers=2, trials=2, plot=None, console=Console(file=output, width=100)
        )
        assert summary.exit_code == 1
        assert "this sklearn is broken" in output.getvalue()
        assert "ended unexpectedly" in output.getvalue()
        assert summary.experiment.status == "failed"


PARENT = """
import sys
from moorage import demo

demo.run(sys.argv[1], workers=2, trials=500, plot=None, kill=False)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A demonstration in a process of its own, long enough to be stopped, whose workers are at work."""
    url = f"sqlite:///{tmp_path}/hpo.db"
    process = subprocess.Popen([sys.executable, "-c", PARENT, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        with moorage.connect(url) as storage:
            wait_until(lambda: any(storage.count_completed_trials(one) for one in storage.fetch_experiments()))
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(parent: subprocess.Popen[bytes], sign: signal.Signals, tmp_path: Path) -> None:
    workers = workers_of(parent.pid)
    assert len(workers) == 2
    os.kill(parent.pid, sign)
    output, errors = parent.communicate(timeout=30)
    wait_until(lambda: not any(map(is_worker, workers)))
    with moorage.connect(f"sqlite:///{tmp_path}/hpo.db") as storage:
        [experiment] = storage.fetch_experiments()
        counts = storage.count_trials(experiment)
        assert counts[moorage.TrialStatus.COMPLETED] > 0
        assert counts[moorage.TrialStatus.BROKEN] == 0
        if sign is signal.SIGINT:
            assert experiment.status == "stopped"
            assert b"Stopped: all workers have ended" in output
            assert errors.rstrip().endswith(b"KeyboardInterrupt")
        # A worker leaves its trial interrupted; one that was between two steps leaves it to the heartbeat timeout.
        wait_until(lambda: storage.recover_lost_trials(experiment) or not reserved(storage, experiment), 10)
        assert not reserved(storage, experiment)


def reserved(storage: moorage.Storage, experiment: moorage.Experiment) -> int:
    return storage.count_trials(experiment)[moorage.TrialStatus.RESERVED]
