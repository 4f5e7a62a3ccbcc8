"""The README's examples, run as they are written there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import moorage
from moorage.config import find_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def train(lr: float) -> Iterator[float]:
    yield from (1 / lr, 0.5 / lr, 0.25 / lr)


class Tuner:
    """What the README's tuner must be able to do."""

    def __init__(self) -> None:
        self.suggested = 0

    def load(self, state: object) -> None:
        self.suggested = state["suggested"] if isinstance(state, dict) else 0

    def dump(self) -> object:
        return {"suggested": self.suggested}

    def observe(self, trials: list[moorage.Trial]) -> None:
        assert {trial.status for trial in trials} == {"completed"}

    def suggest(self, count: int) -> list[dict[str, object]]:
        self.suggested += count
        return [{"lr": 0.001 / (self.suggested + place)} for place in range(count)]


def test_the_worker_and_the_lock_do_what_the_readme_says() -> None:
    _, worker, lock = blocks("python")
    names: dict[str, object] = {"train": train, "tuner": Tuner()}
    exec(worker, names)
    with moorage.connect("sqlite:///hpo.db") as storage:
        experiment = storage.fetch_experiments()[0]
        assert storage.count_completed_trials(experiment) == 2
        best = storage.best_trial(experiment)
        assert best is not None
        assert best.params == {"lr": 0.1}
        assert len(storage.fetch_measurements(best)) == 3
        names |= {"storage": storage, "experiment": experiment}
        exec(lock, names)
        exec(lock, names)
        assert storage.get_algorithm_lock_info(experiment).state == {"suggested": 8}
        assert len(storage.fetch_pending_trials(experiment)) == 8
    exec(worker, names)
    with moorage.connect("sqlite:///hpo.db", read_only=True) as view:
        assert view.count_completed_trials(experiment) == 10


def test_the_configuration_file_is_read_as_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("toml")
    assert tomllib.loads(text)
    Path("moorage.toml").write_text(text)
    monkeypatch.setenv("HPO_PASSWORD", "s3cret")
    assert find_settings().options == {"lock_ttl": 30}
    cluster = find_settings(profile="cluster")
    assert str(cluster.url) == "postgresql+psycopg://tuner:***@db.example.org/hpo"
    assert cluster.url.password == "s3cret"
    assert cluster.options == {"lock_ttl": 30}


def test_every_scheme_of_the_table_is_installed() -> None:
    from moorage.plugins import plugins

    table = README.partition("## Choosing a backend")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if "a package of its own" not in row]
    schemes = [found[1] for row in rows if (found := re.match(r"\| \[?`([a-z+]+)://", row))]
    assert len(schemes) >= 7
    assert set(schemes) <= set(plugins().backends)
