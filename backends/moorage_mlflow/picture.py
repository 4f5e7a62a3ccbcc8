"""What a person sees in MLflow of an experiment, a trial and a measurement.

Nothing is ever read back from here: pictures follow the documents. The same pictures are written into an MLflow store
by this backend, and shown of any storage by the plugin for MLflow's server.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import posixpath
import re
from typing import TYPE_CHECKING, cast

import attrs

from moorage.codec import decode, dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from moorage.codec import Plain
    from moorage.driver import Document

PARAM_LIMIT, TAG_LIMIT, KEY_LIMIT, EXPERIMENT_TAG_LIMIT = 6000, 5000, 250, 5000
_RUN_STATUSES = {"completed": "FINISHED", "broken": "FAILED", "pruned": "KILLED", "reserved": "RUNNING"}
_FORBIDDEN = re.compile(r"[^\w.\- /]")
NOTE = "mlflow.note.content"


@attrs.frozen(kw_only=True)
class Metric:
    """One value of a metric.

    Attributes:
        name: the metric.
        value: may be infinite or not a number.
        time: milliseconds since 1970.
        step: where it stands on MLflow's axis.
    """

    name: str
    value: float
    time: int
    step: int


@attrs.frozen(kw_only=True)
class RunPicture:
    """A trial as a run of MLflow.

    Attributes:
        name: the name of the run.
        status: as MLflow calls it.
        start: milliseconds since 1970.
        end: as above; None while it goes on.
        params: names and values as text.
        tags: names and values as text.
        results: the numbers among the results, at step 0 and a moment after the end.
    """

    name: str
    status: str
    start: int
    end: int | None
    params: dict[str, str]
    tags: dict[str, str]
    results: tuple[Metric, ...]

    @property
    def digest(self) -> str:
        """A short text that differs where the picture differs."""
        parts: list[Plain] = [self.name, self.status, self.start, self.end, dict(self.params), dict(self.tags)]
        parts.append([[one.name, repr(one.value), one.time] for one in self.results])
        return hashlib.sha256(dumps(parts).encode()).hexdigest()[:12]


@attrs.frozen(kw_only=True)
class ExperimentPicture:
    """An experiment as an experiment of MLflow.

    Attributes:
        name: what it is called, if that name is free.
        created: milliseconds since 1970.
        tags: names and values as text.
    """

    name: str
    created: int
    tags: dict[str, str]

    @property
    def digest(self) -> str:
        """A short text that differs where the picture differs."""
        return hashlib.sha256(dumps([self.name, dict(self.tags)]).encode()).hexdigest()[:12]


def milliseconds(text: object) -> int | None:
    """A stored time in milliseconds since 1970."""
    if not isinstance(text, str):
        return None
    return int(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def cut(text: str, limit: int) -> str:
    """A text that MLflow keeps whole; one that is longer ends with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def clean(name: str) -> str:
    """A name that MLflow takes for a param, a metric or a tag."""
    cleaned = _FORBIDDEN.sub("_", name)
    if not cleaned or cleaned.startswith("/") or posixpath.normpath(cleaned) != cleaned or ".." in cleaned:
        cleaned = cleaned.replace("/", "_").replace("..", "__").strip(".") or "_"
    return cleaned[:KEY_LIMIT]


def run_picture(trial: Document) -> RunPicture:
    """What MLflow shows of a trial."""
    body = trial.body
    status = str(body.get("status"))
    submitted = milliseconds(body.get("submit_time")) or 0
    end = milliseconds(body.get("end_time"))
    params = {name: cut(_text(value), PARAM_LIMIT) for name, value in _flat(_decoded(body.get("params")))}
    tags = {
        "mlflow.runName": str(body.get("trial")),
        "mlflow.source.name": "moorage",
        "mlflow.user": body.get("worker"),
        "moorage.trial": body.get("trial"),
        "moorage.status": status,
        "moorage.worker": body.get("worker"),
        "moorage.resource": body.get("resource"),
        "moorage.parent": body.get("parent"),
        "moorage.working_directory": body.get("working_directory"),
        "moorage.error": body.get("error"),
        "moorage.reservation": body.get("token"),
        NOTE: body.get("error"),
    }
    results: list[Metric] = []
    for name, value in _flat(_decoded(body.get("results"))):
        number = _number(value)
        if number is None:
            tags[f"moorage.result.{name}"[:KEY_LIMIT]] = _text(value)
        else:
            results.append(Metric(name=name, value=number, time=(end or submitted) + 1, step=0))
    return RunPicture(
        name=str(body.get("trial")),
        status=_RUN_STATUSES.get(status, "SCHEDULED"),
        start=milliseconds(body.get("start_time")) or submitted,
        end=end if status in _RUN_STATUSES else None,
        params=params,
        tags=_texts(tags, TAG_LIMIT),
        results=tuple(results),
    )


def with_steps(results: Iterable[Metric], last: Mapping[str, int]) -> tuple[Metric, ...]:
    """Results at the last step at which their metric was measured, so that MLflow takes them as the latest."""
    return tuple(attrs.evolve(one, step=max(0, last.get(one.name, 0))) for one in results)


def metric(measurement: Document) -> Metric:
    """What MLflow shows of a measurement."""
    body = measurement.body
    exact = body.get("nonfinite")
    value = body.get("value") if exact is None else exact
    return Metric(
        name=clean(str(body.get("name"))),
        value=float(cast("float", value)) if value is not None else math.nan,
        time=milliseconds(body.get("time")) or 0,
        step=cast("int", body.get("step") or 0),
    )


def experiment_picture(experiment: Document) -> ExperimentPicture:
    """What MLflow shows of an experiment."""
    body = experiment.body
    version = body.get("version")
    name = cut(str(body.get("name")), 400)
    facts = {
        "moorage.experiment": experiment.id,
        "moorage.name": body.get("name"),
        "moorage.version": version,
        "moorage.status": body.get("status"),
        "moorage.user": body.get("user"),
        "moorage.max_trials": body.get("max_trials"),
        "moorage.working_directory": body.get("working_directory"),
        "moorage.error": body.get("error"),
    }
    for field in ("space", "algorithm", "metadata"):
        value = body.get(field)
        facts[f"moorage.{field}"] = dumps(value) if value else None
    tags = _texts(facts, EXPERIMENT_TAG_LIMIT)
    tags[NOTE] = (
        f"Experiment {name!r}, version {version}, of Moorage: {body.get('status')}. What is shown here follows "
        "Moorage's own records; changes made in MLflow are not read back."
    )
    shown = name if version in (1, None) else f"{name} (version {version})"
    return ExperimentPicture(name=shown, created=milliseconds(body.get("created")) or 0, tags=tags)


def _decoded(value: Plain) -> object:
    return decode(value) if value else {}


def _flat(value: object, prefix: str = "") -> Sequence[tuple[str, object]]:
    """The leaves of nested dicts, with dotted names that MLflow takes; each name once."""
    if not isinstance(value, dict):
        return [(clean(prefix), value)]
    found: dict[str, object] = {}
    for name, inner in value.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        leaves = _flat(inner, path) if isinstance(inner, dict) and inner else [(clean(path), inner)]
        for key, leaf in leaves:
            number, unique = 2, key
            while unique in found:
                unique = f"{key[: KEY_LIMIT - 8]}_{number}"
                number += 1
            found[unique] = leaf
    return list(found.items())


def _text(value: object) -> str:
    """A value as text; never empty, which some servers refuse."""
    text = value if isinstance(value, str) else repr(value)
    return text or "''"


def _texts(facts: Mapping[str, object], limit: int) -> dict[str, str]:
    return {name: cut(_text(value), limit) for name, value in facts.items() if value is not None}


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)) or type(value).__module__ == "numpy":
        try:
            return float(cast("float", value))
        except (TypeError, ValueError, OverflowError):
            return None
    return None
