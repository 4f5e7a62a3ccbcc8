"""MLflow's promises and nothing more, in memory: what its SQL stores were seen to keep, with faults on demand.

A param is written once; everything else is the last writer's. Several drivers, as of several processes, share one
`Register`; each has a `RegisterLink` of its own.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Literal

import attrs

from moorage.errors import OutcomeUnknown, Unavailable
from moorage_mlflow.link import ENTITIES_PER_BATCH, PARAMS_PER_BATCH, Found, Link, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moorage_mlflow.picture import Metric

Fault = Literal["refused connection", "lost request", "lost reply"]
PARAM_LIMIT = 6000


@attrs.define
class Run:
    experiment: str
    name: str
    start: int
    status: str = "RUNNING"
    end: int | None = None
    active: bool = True
    params: dict[str, str] = attrs.field(factory=dict)
    tags: dict[str, str] = attrs.field(factory=dict)
    metrics: set[Metric] = attrs.field(factory=set)


@attrs.define
class Experiment:
    name: str
    active: bool = True
    tags: dict[str, str] = attrs.field(factory=dict)


class Register:
    """The store behind all links."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.experiments: dict[str, Experiment] = {}
        self.runs: dict[str, Run] = {}
        self.numbers = itertools.count(1)

    def named(self, name: str) -> tuple[str, Experiment]:
        return next((key, one) for key, one in self.experiments.items() if one.name == name)

    def runs_of(self, name: str) -> list[Run]:
        key, _ = self.named(name)
        return [one for one in self.runs.values() if one.experiment == key and one.active]


class RegisterLink(Link):
    """One client.

    Attributes:
        calls: the verbs that were sent, in order.
        fault: asked before each verb with its name; what it returns goes wrong.
        before: called before each verb takes effect, so that others can be faster.
    """

    shown = "mlflow+memory://"

    def __init__(self, register: Register) -> None:
        self.register = register
        self.calls: list[str] = []
        self.fault: Callable[[str], Fault | None] = lambda verb: None
        self.before: Callable[[str], None] = lambda verb: None

    def _do(self, verb: str, action: Callable[[], object]) -> object:
        self.calls.append(verb)
        self.before(verb)
        fault = self.fault(verb)
        writing = verb not in ("experiment", "params", "find_runs")
        if fault == "refused connection":
            raise Unavailable("nobody listens")
        lost = OutcomeUnknown("the reply was lost") if writing else Unavailable("the reply was lost")
        if fault == "lost request":
            raise lost
        with self.register.lock:
            result = action()
        if fault == "lost reply":
            raise lost
        return result

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        def create() -> str:
            self._check_name(name)
            key = str(next(self.register.numbers))
            self.register.experiments[key] = Experiment(name, tags=dict(tags))
            return key

        return str(self._do("create_experiment", create))

    def _check_name(self, name: str) -> None:
        if any(one.name == name for one in self.register.experiments.values()):
            raise Refused("RESOURCE_ALREADY_EXISTS", name)

    def experiment(self, name: str) -> Found | None:
        def find() -> Found | None:
            for key, one in self.register.experiments.items():
                if one.name == name:
                    return Found(key, one.active, dict(one.tags))
            return None

        return self._do("experiment", find)  # type: ignore[return-value]

    def rename_experiment(self, identifier: str, name: str) -> None:
        def rename() -> None:
            self._check_name(name)
            self.register.experiments[identifier].name = name

        self._do("rename_experiment", rename)

    def tag_experiment(self, identifier: str, name: str, value: str) -> None:
        self._do("tag_experiment", lambda: self.register.experiments[identifier].tags.update({name: value}))

    def delete_experiment(self, identifier: str) -> None:
        def delete() -> None:
            self.register.experiments[identifier].active = False
            for run in self.register.runs.values():
                run.active = run.active and run.experiment != identifier

        self._do("delete_experiment", delete)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], start: int) -> str:
        def create() -> str:
            key = f"run{next(self.register.numbers)}"
            self.register.runs[key] = Run(experiment, name, start, tags=dict(tags))
            return key

        return str(self._do("create_run", create))

    def params(self, run: str) -> dict[str, str] | None:
        def read() -> dict[str, str] | None:
            return dict(self.register.runs[run].params) if run in self.register.runs else None

        return self._do("params", read)  # type: ignore[return-value]

    def _active(self, run: str) -> Run:
        found = self.register.runs.get(run)
        if found is None:
            raise Refused("RESOURCE_DOES_NOT_EXIST", run)
        if not found.active:
            raise Refused("INVALID_PARAMETER_VALUE", f"the run {run} must be in 'active' state")
        return found

    def _write(self, run: Run, params: Mapping[str, str]) -> None:
        for name, value in params.items():
            if run.params.get(name, value[:PARAM_LIMIT]) != value[:PARAM_LIMIT]:
                raise Refused("INVALID_PARAMETER_VALUE", f"param {name} was already logged")
        run.params |= {name: value[:PARAM_LIMIT] for name, value in params.items()}

    def log_param(self, run: str, name: str, value: str) -> None:
        self._do("log_param", lambda: self._write(self._active(run), {name: value}))

    def log_batch(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Sequence[Metric] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        params, tags = params or {}, tags or {}
        assert len(params) <= PARAMS_PER_BATCH
        assert len(tags) <= PARAMS_PER_BATCH
        assert len(params) + len(tags) + len(metrics) <= ENTITIES_PER_BATCH

        def write() -> None:
            found = self._active(run)
            self._write(found, params)
            found.metrics |= set(metrics)
            found.tags |= tags

        self._do("log_batch", write)

    def update_run(self, run: str, status: str, end: int | None) -> None:
        def update() -> None:
            found = self._active(run)
            found.status = status
            found.end = end or found.end

        self._do("update_run", update)

    def delete_run(self, run: str) -> None:
        def delete() -> None:
            self._active(run).active = False

        self._do("delete_run", delete)

    def find_runs(self, experiment: str, tag: str, value: str) -> list[str]:
        def find() -> list[str]:
            return [
                key
                for key, one in self.register.runs.items()
                if one.experiment == experiment and one.active and one.tags.get(tag) == value
            ]

        return self._do("find_runs", find)  # type: ignore[return-value]

    def store_kind(self) -> str | None:
        return "SqlStore"

    def close(self) -> None:
        pass
