"""Records to documents and back."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import attrs

from moorage import codec, schema
from moorage.driver import Document
from moorage.errors import EncodingError
from moorage.records import (
    Attempt,
    Benchmark,
    Experiment,
    Measurement,
    Params,
    Resource,
    Results,
    Trial,
)
from moorage.statuses import PENDING, ExperimentStatus, TrialStatus

if TYPE_CHECKING:
    import datetime

    from moorage.codec import Plain
    from moorage.schema import Collection

R = TypeVar("R")
N = TypeVar("N", Params, Results)

_LARGEST = sys.float_info.max


def sortable(value: float | None) -> float | None:
    """A finite number that orders as this one does; None for NaN, which orders nowhere."""
    if value is None or math.isfinite(value):
        return value
    return None if math.isnan(value) else math.copysign(_LARGEST, value)


def time_or_none(value: datetime.datetime | None) -> str | None:
    """A time as it is stored."""
    return None if value is None else codec.encode_time(value)


def restorer(record: type[R], names: tuple[str, ...]) -> Callable[[tuple[object, ...]], R]:
    """A function that builds a record from the values of all its fields, without checks.

    What was checked when it was stored is not checked again: fetching ten thousand trials is a matter of milliseconds.
    """
    setters = tuple(record.__dict__[name].__set__ for name in names)
    new = object.__new__

    def restore(values: tuple[object, ...]) -> R:
        instance = new(record)
        for put, value in zip(setters, values, strict=True):
            put(instance, value)
        return instance

    return restore


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)

_ABSENT: Mapping[str, Callable[[], object]] = {"metadata": dict, "directions": dict, "tags": list}
"""What an older document has not, and a record has."""


class Mapper(Generic[T]):
    """Turns records of one class into documents of one collection and back."""

    def __init__(self, record: type[T], collection: Collection, statuses: type[ExperimentStatus] | None = None) -> None:
        self.collection = collection
        self._statuses = statuses
        self._names = tuple(field.name for field in attrs.fields(cast("type[attrs.AttrsInstance]", record)))
        self._kinds = tuple(
            "string" if (field := collection.field(name)) is None else field.kind for name in self._names
        )
        self._restore = restorer(record, self._names)

    def fields(self, record: T) -> dict[str, Plain]:
        """The fields of a record as they are stored."""
        values = {name: getattr(record, name) for name in self._names if name not in ("id", "revision")}
        return self.encode(values)

    def encode(self, values: Mapping[str, object]) -> dict[str, Plain]:
        """Some fields as they are stored."""
        stored: dict[str, Plain] = {}
        for name, value in values.items():
            field = self.collection.field(name)
            if value is None or field is None:
                stored[name] = cast("Plain", value)
            elif field.kind == "json":
                stored[name] = _encode_field(name, value)
            elif field.kind == "time":
                stored[name] = codec.encode_time(cast("datetime.datetime", value))
            elif isinstance(value, (ExperimentStatus, TrialStatus)):
                stored[name] = value.value
            else:
                stored[name] = cast("Plain", value)
        return stored

    def document(self, record: T, **more: Plain) -> Document:
        """A new document of a record."""
        return Document(record.id, {**self.fields(record), **more})

    def record(self, document: Document) -> T:
        """The record of a document."""
        body = document.body
        values: list[object] = []
        for name, kind in zip(self._names, self._kinds, strict=True):
            value = document.id if name == "id" else body.get(name)
            if value is None:
                absent = _ABSENT.get(name)
                values.append(document.revision if name == "revision" else None if absent is None else absent())
            elif kind == "json":
                values.append(codec.decode(value))
            elif kind == "time":
                values.append(codec.decode_time(cast("str", value)))
            elif name == "status" and self._statuses is not None:
                values.append(self._statuses(cast("str", value)))
            else:
                values.append(value)
        return self._restore(tuple(values))


EXPERIMENTS = Mapper(Experiment, schema.EXPERIMENTS, ExperimentStatus)
ATTEMPTS = Mapper(Attempt, schema.ATTEMPTS)
RESOURCES = Mapper(Resource, schema.RESOURCES)
BENCHMARKS = Mapper(Benchmark, schema.BENCHMARKS)


def trial_key(experiment: str, trial: str) -> str:
    """The document id of a trial; the trial comes first, so that it is found without its experiment as well.

    The first ``@`` ends the trial, whatever ids the user has chosen.
    """
    if "@" in trial or "%" in trial:
        trial = trial.replace("%", "%25").replace("@", "%40")
    return f"{trial}@{experiment}"


_TRIAL_FIELDS = tuple(field.name for field in attrs.fields(Trial))
_restore_trial = restorer(Trial, _TRIAL_FIELDS)
_TRIAL_STATUSES = {str(status): status for status in TrialStatus}


def _encode_field(name: str, value: object) -> Plain:
    if isinstance(value, Mapping):
        return encode_named(name, value)
    try:
        return codec.encode(value)
    except EncodingError as error:
        raise EncodingError(f"{name}: {error}") from None


def encode_named(what: str, values: Mapping[str, object]) -> Plain:
    """Named values as they are stored.

    Raises:
        EncodingError: one cannot be stored; the message names it.
    """
    try:
        return codec.encode(dict(values))
    except EncodingError:
        for name, value in values.items():
            try:
                codec.encode(value)
            except EncodingError as error:
                raise EncodingError(f"{what} {name!r}: {error}") from None
        raise


def param_fields(params: Params) -> dict[str, Plain]:
    """The params of a trial as they are stored; types only where they are not what the values tell."""
    return {"params": encode_named("param", params), "param_types": _told_types(params, params.types)}


def result_fields(results: Results) -> dict[str, Plain]:
    """The results of a trial as they are stored, with the objective as a field to order by."""
    return {
        "results": encode_named("result", results),
        "result_types": _told_types(results, results.types),
        "objective": sortable(results.objective),
    }


def _told_types(values: Params | Results, types: Mapping[str, str]) -> Plain:
    told: dict[str, Plain] = {name: kind for name, kind in types.items() if kind != values.infer(name, values[name])}
    return codec.encode(told) if told else None


def trial_document(trial: Trial, experiment: str, *, sequence: int, write: str | None = None) -> Document:
    """A new document of a trial; ``sequence`` is its place in the queue."""
    return Document(
        trial_key(experiment, trial.id),
        {
            "experiment": experiment,
            "trial": trial.id,
            "status": trial.status.value,
            "pending": trial.status in PENDING,
            "sequence": sequence,
            "token": trial.token,
            **param_fields(trial.params),
            **result_fields(trial.results),
            "submit_time": codec.encode_time(trial.submit_time),
            "start_time": time_or_none(trial.start_time),
            "end_time": time_or_none(trial.end_time),
            "heartbeat": time_or_none(trial.heartbeat),
            "worker": trial.worker,
            "parent": trial.parent,
            "working_directory": trial.working_directory,
            "resource": trial.resource,
            "error": trial.error,
            "number": trial.number,
            "metadata": encode_named("metadata", trial.metadata),
            "stop_requested": time_or_none(trial.stop_requested),
            "measured": 0,
            "beat": None,
            "clock": None,
            "write": write,
        },
    )


def attempt_id(trial_key: str, number: int) -> str:
    """The id of an execution: that of the trial's document, and the token of the reservation."""
    return f"{trial_key}#{number}"


def attempt_document(trial: Document, *, write: str) -> Document:
    """A new document of the execution of a trial that has just been reserved."""
    body = trial.body
    number = cast("int", body["token"])
    return Document(
        attempt_id(trial.id, number),
        {
            "experiment": body["experiment"],
            "trial": body["trial"],
            "number": number,
            "worker": body.get("worker"),
            "resource": body.get("resource"),
            "outcome": None,
            "error": None,
            "started": body.get("start_time"),
            "ended": None,
            "metadata": {},
            "write": write,
        },
    )


def _named(kind: type[N], values: Plain, types: Plain) -> N:
    if not values:
        return kind.restore({}, {})
    decoded = cast("dict[str, object]", codec.decode(values))
    infer = kind.infer
    inferred = {name: infer(name, value) for name, value in decoded.items()}
    if types:
        inferred.update(cast("dict[str, str]", codec.decode(types)))
    return kind.restore(decoded, inferred)


def trial_record(document: Document) -> Trial:
    """The trial of a document."""
    body = document.body
    get = body.get
    submit, start, end, heartbeat = get("submit_time"), get("start_time"), get("end_time"), get("heartbeat")
    metadata, stop = get("metadata"), get("stop_requested")
    parse = codec.decode_time
    return _restore_trial(
        (
            _named(Params, get("params"), get("param_types")),
            get("trial"),
            get("experiment"),
            _TRIAL_STATUSES[cast("str", get("status"))],
            _named(Results, get("results"), get("result_types")),
            parse(cast("str", submit)),
            parse(cast("str", start)) if start else None,
            parse(cast("str", end)) if end else None,
            parse(cast("str", heartbeat)) if heartbeat else None,
            get("worker"),
            get("parent"),
            get("working_directory"),
            get("resource"),
            get("error"),
            get("token"),
            get("number"),
            codec.decode(metadata) if metadata else {},
            parse(cast("str", stop)) if stop else None,
            document.revision,
        )
    )


_restore_measurement = restorer(Measurement, tuple(field.name for field in attrs.fields(Measurement)))


def measurement_document(
    measurement: Measurement, experiment: str, trial: str, attempt: int, sequence: int | None = None
) -> Document:
    """A new document of a measurement; what is not finite is named beside the value that orders as it does."""
    body: dict[str, Plain] = {
        "experiment": experiment,
        "trial": trial,
        "name": measurement.name,
        "step": measurement.step,
        "value": sortable(measurement.value),
        "time": codec.encode_time(measurement.time),
        "attempt": attempt,
        "sequence": sequence,
    }
    if measurement.metadata:
        body["metadata"] = encode_named("metadata", measurement.metadata)
    if not math.isfinite(measurement.value) or (not measurement.value and math.copysign(1, measurement.value) < 0):
        body["nonfinite"] = repr(measurement.value)  # or -0.0, of which MariaDB drops the sign
    return Document(measurement.id, body)


def measurement_record(document: Document) -> Measurement:
    """The measurement of a document."""
    body = document.body
    nonfinite, metadata = body.get("nonfinite"), body.get("metadata")
    value = body["value"] if nonfinite is None else cast("str", nonfinite)
    return _restore_measurement(
        (
            body["name"],
            float(cast("float", value)),
            body["step"],
            body["trial"],
            body["experiment"],
            codec.decode_time(cast("str", body["time"])),
            body["attempt"],
            document.id,
            codec.decode(metadata) if metadata else {},
        )
    )
