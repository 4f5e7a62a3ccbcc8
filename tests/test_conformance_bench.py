"""``moorage bench``: the figures, what is left out, and what is left behind."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import moorage
from moorage.cli import app
from moorage.plugins import plugins
from moorage_conformance import bench
from moorage_conformance.bench import OPERATIONS, Cost, growth, measure, sizes_up_to
from moorage_conformance.commands import add_to
from moorage_conformance.target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

NAMES = [one.name for one in OPERATIONS]


@pytest.fixture(scope="module", autouse=True)
def _commands() -> None:
    plugins()
    if not any(one.callback is bench.bench for one in app.registered_commands):
        add_to(app)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["bench", *arguments])
    told = f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    assert result.exit_code == code, told
    if code:
        assert re.search(r"(^|\n)error: [^\n]+\n$", result.stderr), told
    return result


def cost(trials: int, seconds: float) -> Cost:
    return Cost(trials=trials, seconds=seconds, samples=1)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_growth_is_the_exponent_of_a_power(exponent: float) -> None:
    costs = [cost(size, 3e-5 * size**exponent) for size in (100, 1000, 10_000)]
    assert growth(costs) == pytest.approx(exponent, abs=1e-9)
    assert math.isnan(growth(costs[:1]))
    assert math.isnan(growth([]))


def test_growth_is_fitted_by_least_squares() -> None:
    # Logarithms to base 10: (1, 0), (2, 1), (3, 0) have the slope 0, and (1, 0), (2, 0), (3, 1) the slope 1/2.
    assert growth([cost(10, 1), cost(100, 10), cost(1000, 1)]) == pytest.approx(0)
    assert growth([cost(10, 1), cost(100, 1), cost(1000, 10)]) == pytest.approx(0.5)


def test_sizes_are_the_largest_a_tenth_and_a_hundredth() -> None:
    assert sizes_up_to(10_000) == [100, 1000, 10_000]
    assert sizes_up_to(2500) == [25, 250, 2500]
    assert sizes_up_to(100) == [10, 100]
    assert sizes_up_to(10) == [10]


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_every_operation_is_measured_and_nothing_is_left_behind(backend: str, tmp_path: Path) -> None:
    folder = tmp_path / "storages"
    folder.mkdir()
    url = "memory://{ns}" if backend == "memory" else f"sqlite:///{folder}/{{ns}}.db"
    told = json.loads(run(url, "--trials", "200", "--json").stdout)
    assert told["format"] == "moorage-bench-1"
    assert (told["backend"], told["sizes"], told["left_out"]) == (backend, [20, 200], [])
    assert told["versions"]["moorage"] == moorage.__version__
    assert [one["name"] for one in told["operations"]] == NAMES
    for one in told["operations"]:
        assert [found["trials"] for found in one["costs"]] == [20, 200]
        for found in one["costs"]:
            assert found["samples"] >= 1
            assert found["per_second"] * found["milliseconds"] == pytest.approx(1000, rel=0.01)
        assert isinstance(one["growth"], float)
    assert list(folder.iterdir()) == []


def test_the_table_names_operations_sizes_and_growth() -> None:
    told = run("memory://{ns}", "--trials", "100").stdout
    head, *rows = told.splitlines()[1:]
    assert all(word in head for word in ("N = 10", "N = 100", "per second", "growth"))
    for name, row in zip(NAMES, rows, strict=False):
        assert re.match(rf"{name} +[\d,.]+ ms +[\d,.]+ ms +[\d,]+ +[+-]\d\.\d\d  ", row), row
    assert "left out" not in told


def test_one_size_has_no_growth() -> None:
    told = json.loads(run("memory://{ns}", "--trials", "10", "--json").stdout)
    assert told["sizes"] == [10]
    assert {one["growth"] for one in told["operations"]} == {None}


def test_sizes_that_do_not_fit_are_left_out_and_named() -> None:
    told = run("memory://{ns}", "--trials", "2000000", "--seconds", "0.1").stdout
    assert "left out for want of time: N = 200,000, 2,000,000" in told
    assert "N = 20,000" in told
    head = told.splitlines()[1]
    assert "200,000" not in head


class Clock:
    """Stands for the module ``time``: it goes on only where an operation says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_what_grows_is_seen_to_grow_and_what_does_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    storage = moorage.Storage
    count, reserve = storage.count_trials, storage.reserve_trial
    fetch, register, push = storage.fetch_trials, storage.register_trials, storage.push_trial_results

    def counting(self: moorage.Storage, *given: object) -> object:
        found = count(self, *given)  # type: ignore[call-overload]
        clock.now += 1e-6 * sum(found.values())
        return found

    def reserving(self: moorage.Storage, *given: object) -> object:
        clock.now += 5e-3
        return reserve(self, *given)  # type: ignore[arg-type]

    def fetching(self: moorage.Storage, *given: object) -> object:
        found = fetch(self, *given)  # type: ignore[call-overload]
        clock.now += 2e-3 * len(found)
        return found

    def registering(self: moorage.Storage, experiment: object, trials: list[object]) -> object:
        clock.now += 1e-4 * len(trials)
        return register(self, experiment, trials)  # type: ignore[arg-type]

    def pushing(self: moorage.Storage, *given: object, status: str) -> None:
        clock.now += 7e-3
        push(self, *given, status=status)  # type: ignore[arg-type]

    for name, value in {
        "count_trials": counting,
        "reserve_trial": reserving,
        "fetch_trials": fetching,
        "register_trials": registering,
        "push_trial_results": pushing,
    }.items():
        monkeypatch.setattr(storage, name, value)
    monkeypatch.setattr(bench, "time", clock)
    figures = measure(Target(url="memory://{ns}"), [20, 200, 2000], 1e9)
    costs = {name: [one.seconds for one in found] for name, found in figures.costs.items()}
    assert costs["count"] == pytest.approx([2e-5, 2e-4, 2e-3])
    assert costs["fetch all"] == pytest.approx([2e-3] * 3)
    assert costs["register"] == pytest.approx([1e-4] * 3)
    assert costs["reserve"] == pytest.approx([5e-3] * 3)
    assert costs["push results"] == pytest.approx([7e-3] * 3)
    assert growth(figures.costs["count"]) == pytest.approx(1)
    assert growth(figures.costs["reserve"]) == pytest.approx(0)
    assert growth(figures.costs["heartbeat"]) == 0


def test_a_storage_that_holds_something_is_refused_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/mine.db"
    with moorage.connect(url) as storage:
        storage.create_experiment(name="mine")
    monkeypatch.setattr(Target, "fresh", lambda self: url)
    assert "holds something" in run(f"sqlite:///{tmp_path}/{{ns}}.db", code=1).stderr
    with moorage.connect(url) as storage:
        assert [one.name for one in storage.fetch_experiments()] == ["mine"]


def test_a_failure_on_the_way_leaves_no_storage_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(self: moorage.Storage, *given: object) -> None:
        raise moorage.errors.Unavailable("the wire is cut")

    monkeypatch.setattr(moorage.Storage, "update_heartbeat", refuse)
    assert "the wire is cut" in run(f"sqlite:///{tmp_path}/{{ns}}.db", "--trials", "100", code=1).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("memory://here",), 1, "{ns}"),
        (("nothing://{ns}",), 1, "nothing"),
        (("memory://{ns}", "--trials", "9"), 2, "trials"),
        (("memory://{ns}", "--seconds", "0"), 2, "seconds"),
        (("memory://{ns}", "--plot", "costs.txt"), 2, ".png, .svg, .pdf"),
        (("memory://{ns}", "--plot", "nowhere/costs.png"), 2, "nowhere"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments: tuple[str, ...], code: int, told: str) -> None:
    assert told in run(*arguments, code=code).stderr


@pytest.mark.parametrize(
    ("name", "begins"), [("costs.png", b"\x89PNG"), ("costs.svg", b"<?xml"), ("costs.pdf", b"%PDF")]
)
def test_the_plot_is_written(name: str, begins: bytes, tmp_path: Path) -> None:
    run("memory://{ns}", "--trials", "100", "--plot", str(tmp_path / name))
    written = (tmp_path / name).read_bytes()
    assert written.startswith(begins)
    if name.endswith(".svg"):
        assert all(f"<!-- {operation} " in written.decode() for operation in NAMES)


def test_a_missing_matplotlib_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench, "measure", lambda *given: pytest.fail("it was measured"))
    told = run("memory://{ns}", "--plot", str(tmp_path / "costs.png"), code=1).stderr
    assert 'pip install "moorage[plot]"' in told
