"""The records that users see: frozen, validated, with times in aware UTC."""

from __future__ import annotations

import abc
import datetime
import hashlib
import math
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, SupportsIndex, TypeAlias, cast

import attrs

from moorage import codec
from moorage.errors import EncodingError, InvalidArgument, InvalidType, shown
from moorage.statuses import ExperimentStatus, TrialStatus, experiment_status, trial_status

if TYPE_CHECKING:
    from moorage.codec import Plain
    from moorage.space import ParamType

ResultType: TypeAlias = Literal["objective", "constraint", "gradient", "statistic"]

DEFAULT_MAX_ATTEMPTS = 3
"""How often a trial may be reserved without coming to an end by itself."""

DEFAULT_HEARTBEAT_TIMEOUT = 120.0
"""Seconds after which a reserved trial without a heartbeat counts as lost."""

_LIMIT = 255


def utcnow() -> datetime.datetime:
    """The wall clock of this machine, for people to read; nothing is decided by it."""
    return datetime.datetime.now(datetime.UTC)


def _owner(instance: object, attribute: attrs.Attribute[Any]) -> str:
    return f"{type(instance).__name__}.{attribute.name}"


def check_text(label: str, value: object, *, limit: int | None = _LIMIT, empty: bool = False) -> str:
    """A text that every database keeps: no NUL, no lone surrogate, not too long.

    Raises:
        InvalidType: not a str.
        InvalidArgument: empty, longer than ``limit`` characters, or with a character that cannot be stored.
    """
    if not isinstance(value, str):
        raise InvalidType(f"{label} must be a str, not {type(value).__name__}: {shown(value)}")
    if not value and not empty:
        raise InvalidArgument(f"{label} must not be empty")
    if limit is not None and len(value) > limit:
        raise InvalidArgument(f"{label} is {len(value)} characters long, and {limit} is the most: {value[:40]!r}…")
    if not codec.is_clean(value):
        raise InvalidArgument(
            f"{label} holds a character that databases cannot keep (NUL or a lone surrogate): {shown(value)}"
        )
    return str.__str__(value)


def check_number(label: str, value: object, *, above: float | None = None, least: float | None = None) -> float:
    """A finite number (numpy's as well; not a bool), greater than ``above`` or at least ``least`` where that is given.

    Raises:
        InvalidType: not a number.
        InvalidArgument: not finite, or too small.
    """
    number = _to_float(value)
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise InvalidType(f"{label} must be a number, not {type(value).__name__}: {shown(value)}")
    finite = isinstance(number, float) and math.isfinite(number)
    if not finite or (above is not None and number <= above) or (least is not None and number < least):
        bound = "" if above is None else f" and greater than {above:g}"
        bound += "" if least is None else f" and at least {least:g}"
        raise InvalidArgument(f"{label} must be finite{bound}, not {shown(value)}")
    return number


def check_integer(label: str, value: object, *, least: int = -(2**63)) -> int:
    """A 64-bit integer (numpy's as well; not a bool), at least ``least``.

    Raises:
        InvalidType: not an int.
        InvalidArgument: too small or too large.
    """
    number = _to_integer(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidType(f"{label} must be an int, not {type(value).__name__}: {shown(value)}")
    if not least <= number < 2**63:
        raise InvalidArgument(f"{label} must be between {least} and 2**63 - 1, not {shown(value)}")
    return number


# attrs asks for validators of exactly the type of each field; these check any.
_Check: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _text(limit: int | None = _LIMIT, *, empty: bool = False) -> _Check:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_text(_owner(instance, attribute), value, limit=limit, empty=empty)

    return check


def _integer(least: int) -> _Check:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check_integer(_owner(instance, attribute), value, least=least)

    return check


def _positive(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_number(_owner(instance, attribute), value, above=0)


def _time(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, datetime.datetime):
        raise InvalidType(
            f"{_owner(instance, attribute)} must be a datetime, not {type(value).__name__}: {shown(value)}"
        )
    if value.utcoffset() is None:
        raise InvalidArgument(
            f"{_owner(instance, attribute)} needs a time zone: {value!r}; use datetime.now(datetime.UTC)"
        )
    if value.tzinfo is not datetime.UTC:  # the converter could not
        raise InvalidArgument(f"{_owner(instance, attribute)} is not between the years 1 and 9999 in UTC: {value!r}")


def _names(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    label = _owner(instance, attribute)
    if not isinstance(value, Mapping):
        raise InvalidType(f"{label} must be a dict, not {type(value).__name__}: {shown(value)}")
    for name in value:
        check_text(f"a name in {label}", name)


def _texts(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    _list(instance, attribute, value)
    for one in cast("list[object]", value):
        check_text(f"one of {_owner(instance, attribute)}", one)


def _directions(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    _names(instance, attribute, value)
    for name, direction in cast("Mapping[str, object]", value).items():
        if direction not in ("minimize", "maximize"):
            raise InvalidArgument(
                f"{_owner(instance, attribute)} of {name!r} must be 'minimize' or 'maximize', not {shown(direction)}"
            )


def _list(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, list):
        raise InvalidType(f"{_owner(instance, attribute)} must be a list, not {type(value).__name__}: {shown(value)}")


def _optional(check: _Check) -> _Check:
    return attrs.validators.optional(check)


def _utc(value: datetime.datetime | None) -> datetime.datetime | None:
    if not isinstance(value, datetime.datetime):
        return value
    try:
        value = codec.exact_time(value)
        return value if value.utcoffset() is None else value.astimezone(datetime.UTC)
    except OverflowError:
        return value


def _to_integer(value: object) -> object:
    """Whatever is an integer (numpy's, a member of an enumeration) as an int; anything else as it is."""
    if type(value) is int or value is None or isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(cast("SupportsIndex", value))
    except TypeError:  # an array
        return value


def _to_float(value: object) -> object:
    """A number as a float; anything else, and what is too large, as it is."""
    kind = type(value)
    if kind is float or kind is str or value is None or kind is bool:
        return value
    number = codec.simplify(value)
    try:
        return float(number) if isinstance(number, (int, float)) and not isinstance(number, bool) else value
    except OverflowError:
        return value


def _to_seconds_or_none(value: float | None) -> float | None:
    return cast("float | None", _to_float(value))


def _to_measured(value: float) -> float:
    return cast("float", _to_float(value))


def _exact(value: object) -> object:
    """A text of a derived class as Python's own."""
    return str.__str__(value) if isinstance(value, str) and type(value) is not str else value


def _exact_fields(record: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Texts and ints of every record are exactly that, so that each driver can store them."""
    converters = {"str": _exact, "str | None": _exact, "int": _to_integer, "int | None": _to_integer}
    return [
        field.evolve(converter=converters[kind]) if (kind := str(field.type)) in converters else field
        for field in fields
    ]


@attrs.frozen(kw_only=True)
class Param:
    """The value of one dimension of the search space."""

    name: str
    type: ParamType
    value: object


@attrs.frozen(kw_only=True)
class Result:
    """One figure that a trial has come to."""

    name: str
    type: ResultType
    value: object


class _NamedValues(Mapping[str, object]):
    """An immutable, ordered mapping from names to values, each of which has a type."""

    __slots__ = ("_types", "_values")
    _TYPES: ClassVar[tuple[str, ...]]
    _values: dict[str, object]
    _types: dict[str, str]

    def __init__(self, given: object = (), types: Mapping[str, str] | None = None) -> None:
        self._values = {}
        self._types = {}
        known = dict(types or {})
        if isinstance(given, _NamedValues):
            known = {**given._types, **known}
        for name, value in self._pairs(given, known):
            if type(name) is not str or not 0 < len(name) <= _LIMIT or not codec.is_clean(name):
                name = check_text(f"the name of a {self._label}", name)
            if name in self._values:
                raise InvalidArgument(f"{self._label} {name!r} is given twice")
            value = codec.simplify(value)
            kind = known[name] if name in known else self.infer(name, value)
            if kind not in self._TYPES:
                raise InvalidArgument(
                    f"{self._label} {name!r} must have a type of {', '.join(self._TYPES)}, not {shown(kind)}"
                )
            self._values[name] = self._coerce(name, value, kind)
            self._types[name] = kind

    def _pairs(self, given: object, known: dict[str, str]) -> Iterator[tuple[str, object]]:
        if isinstance(given, Mapping):
            yield from given.items()
            return
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise InvalidType(
                f"{self._label}s must be a dict from names to values, not {type(given).__name__}: {shown(given)}"
            )
        for one in given:
            if isinstance(one, Mapping):
                if not {"name", "value"} <= set(one) <= {"name", "type", "value"}:
                    raise InvalidArgument(
                        f"a {self._label} given as a dict has a name, a type and a value: {shown(one)}"
                    )
                name, kind, value = one["name"], one.get("type"), one["value"]
            elif isinstance(one, (Param, Result)):
                name, kind, value = one.name, one.type, one.value
            else:
                raise InvalidType(f"a {self._label} must be a dict or a record, not {type(one).__name__}: {shown(one)}")
            if kind is not None:
                known[check_text(f"the name of a {self._label}", name)] = kind
            yield name, value

    @property
    def _label(self) -> str:
        return type(self).__name__.lower().removesuffix("s")

    @staticmethod
    @abc.abstractmethod
    def infer(name: str, value: object) -> str:
        """The type of a value for which none is given."""

    @staticmethod
    @abc.abstractmethod
    def _coerce(name: str, value: object, kind: str) -> object:
        """The value as its type has it."""

    @classmethod
    def restore(cls, values: dict[str, object], types: dict[str, str]) -> Self:
        """What was stored, without checks."""
        restored = cls.__new__(cls)
        restored._values = values
        restored._types = types
        return restored

    @property
    def types(self) -> dict[str, str]:
        """The type of each value, by name."""
        return dict(self._types)

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"


class Params(_NamedValues):
    """The point of the search space that a trial evaluates: ``trial.params["lr"]``, ``train(**trial.params)``.

    Where the space does not tell, a float is real, an int is an integer, and all else is categorical. A value of a
    real dimension is a float and a whole value of an integer dimension an int, however they are written; numpy scalars
    become Python's.
    """

    __slots__ = ()
    _TYPES = ("real", "integer", "categorical", "fidelity")

    @property
    def records(self) -> tuple[Param, ...]:
        """Each param as a record with name, type and value."""
        return tuple(
            Param(name=name, type=cast("ParamType", self._types[name]), value=value)
            for name, value in self._values.items()
        )

    @staticmethod
    def infer(name: str, value: object) -> str:
        """Real for a float, integer for an int, categorical for all else."""
        if type(value) is float:
            return "real"
        return "integer" if type(value) is int else "categorical"

    @staticmethod
    def _coerce(name: str, value: object, kind: str) -> object:
        if kind == "real":
            return _to_float(value) if type(value) is int and abs(value) < 2**53 else value
        if kind == "integer" and type(value) is float and value.is_integer():
            return int(value)
        return value


class Results(_NamedValues):
    """What a trial has come to: ``trial.results["objective"]``.

    The value named ``objective`` is the objective unless a type says otherwise; any other is a statistic. At most one
    is of type ``objective``, and it is a number.
    """

    __slots__ = ()
    _TYPES = ("objective", "constraint", "gradient", "statistic")

    def __init__(self, given: object = (), types: Mapping[str, str] | None = None) -> None:
        super().__init__(given, types)
        objectives = [name for name, kind in self._types.items() if kind == "objective"]
        if len(objectives) > 1:
            raise InvalidArgument(f"a trial has one objective, but {', '.join(objectives)} are all of that type")

    @property
    def records(self) -> tuple[Result, ...]:
        """Each result as a record with name, type and value."""
        return tuple(
            Result(name=name, type=cast("ResultType", self._types[name]), value=value)
            for name, value in self._values.items()
        )

    @property
    def objective(self) -> float | None:
        """The value of type ``objective``, or None."""
        for name, kind in self._types.items():
            if kind == "objective":
                return cast("float", self._values[name])
        return None

    @staticmethod
    def infer(name: str, value: object) -> str:
        """Objective where the name says so, statistic for all else."""
        return "objective" if name == "objective" else "statistic"

    @staticmethod
    def _coerce(name: str, value: object, kind: str) -> object:
        if kind == "objective":
            return _number(f"the objective {name!r}", value)
        return value


_SIMPLE = frozenset({str, bool, int, type(None)})


def _canonical(value: object, left: int = codec.DEPTH) -> Plain:
    """The form in which params are compared: equal numbers are equal, whatever their type; sets have no order."""
    if type(value) in _SIMPLE:
        return codec.encode(value)
    value = codec.simplify(value)
    if type(value) is float and value.is_integer():
        return codec.encode(int(value))
    if left <= 0:
        return codec.encode(value)
    if isinstance(value, (list, tuple)):
        return [_canonical(one, left - 1) for one in value]
    if isinstance(value, (set, frozenset)):
        return {"~set": cast("Plain", sorted((_canonical(one, left - 1) for one in value), key=codec.dumps))}
    if isinstance(value, dict):
        pairs = [[_canonical(key, left - 1), _canonical(one, left - 1)] for key, one in value.items()]
        return {"~dict": cast("Plain", sorted(pairs, key=codec.dumps))}
    return codec.encode(value)


def derive_trial_id(params: object) -> str:
    """The id of a trial with these params: 32 hexadecimal digits, from SHA-256 over their canonical JSON.

    The order of the params does not matter, and equal numbers are the same (1, 1.0 and numpy's); True is not 1.

    Raises:
        EncodingError: a value that cannot be stored.
    """
    given = params if isinstance(params, Params) else Params(params)
    canonical: list[Plain] = []
    for name in sorted(given):
        try:
            canonical.append([name, _canonical(given[name])])
        except EncodingError as error:
            raise EncodingError(f"param {name!r}: {error}") from None
        except RecursionError:
            raise EncodingError(f"param {name!r} is nested too deeply to be stored, or contains itself") from None
    return hashlib.sha256(codec.dumps(canonical).encode()).hexdigest()[:32]


def new_id() -> str:
    """A fresh random id of 32 hexadecimal digits."""
    return uuid.uuid4().hex


@attrs.frozen(kw_only=True, field_transformer=_exact_fields)
class Experiment:
    """A search: what is varied, how it is proposed, and where it stands.

    Attributes:
        id: chosen by Moorage unless given.
        name: unique together with the version.
        version: 1, 2, … of the same name.
        user: whose it is.
        status: see `ExperimentStatus`.
        space: the search space, see `moorage.space`.
        algorithm: the configuration of the proposing algorithm.
        metadata: anything else that can be stored.
        tags: words to find it by.
        directions: the objectives and which way is better, as in ``{"loss": "minimize", "accuracy": "maximize"}``;
            empty for one objective that is minimized.
        max_trials: how many completed trials are wanted: those that are completed, or pending or reserved and may still
            be, never exceed it, so registration refuses more. Broken and pruned ones do not count. None for no bound.
        max_broken: after how many broken trials no more are handed out; None for no bound.
        max_attempts: how often a trial may be reserved without coming to an end by itself (its worker died, or was
            interrupted) before it counts as broken; None for no bound.
        heartbeat_timeout: seconds without a heartbeat after which a reserved trial counts as lost; None for never.
        working_directory: where its files are.
        parent: the id of the experiment that it continues.
        error: the first error logged.
        created, started, ended: times.
        stop_requested: when somebody asked its workers to stop, or None.
        revision: grows with each change of what is stored; what ``if_revision`` compares.
    """

    id: str = attrs.field(factory=new_id, validator=_text(128))
    name: str = attrs.field(validator=_text())
    version: int = attrs.field(default=1, validator=_integer(0))
    user: str | None = attrs.field(default=None, validator=_optional(_text()))
    status: ExperimentStatus = attrs.field(default=ExperimentStatus.CREATED, converter=experiment_status)
    space: Mapping[str, object] = attrs.field(factory=dict, validator=_names)
    algorithm: Mapping[str, object] = attrs.field(factory=dict, validator=_names)
    metadata: Mapping[str, object] = attrs.field(factory=dict, validator=_names)
    tags: list[str] = attrs.field(factory=list, validator=_texts)
    directions: Mapping[str, str] = attrs.field(factory=dict, validator=_directions)
    max_trials: int | None = attrs.field(default=None, validator=_optional(_integer(1)))
    max_broken: int | None = attrs.field(default=None, validator=_optional(_integer(1)))
    max_attempts: int | None = attrs.field(default=DEFAULT_MAX_ATTEMPTS, validator=_optional(_integer(1)))
    heartbeat_timeout: float | None = attrs.field(
        default=DEFAULT_HEARTBEAT_TIMEOUT, converter=_to_seconds_or_none, validator=_optional(_positive)
    )
    working_directory: str | None = attrs.field(default=None, validator=_optional(_text(None)))
    parent: str | None = attrs.field(default=None, validator=_optional(_text()))
    error: str | None = attrs.field(default=None, validator=_optional(_text(None, empty=True)))
    created: datetime.datetime = attrs.field(factory=utcnow, validator=_time, converter=_utc)
    started: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    ended: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    stop_requested: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    revision: int = attrs.field(default=1, validator=_integer(1), eq=False, repr=False)

    def __hash__(self) -> int:
        return hash(self.id)


def _derived_id(trial: Trial) -> str:
    return derive_trial_id(trial.params)


def _to_params(given: object) -> Params:
    return given if type(given) is Params else Params(given)


def _to_results(given: object) -> Results:
    return given if type(given) is Results else Results(() if given is None else given)


@attrs.frozen(kw_only=True, field_transformer=_exact_fields)
class Trial:
    """One point of the search space, and what became of it.

    Attributes:
        id: derived from the params unless given; unique in its experiment.
        experiment: the id of its experiment; None before it is registered.
        params: the point, see `Params`. A dict of values is taken as well.
        status: see `TrialStatus`.
        results: what it came to, see `Results`.
        submit_time: when it was registered.
        start_time: when it was last reserved.
        end_time: when it was completed, broken or pruned.
        heartbeat: the last sign of life of its worker, for people to read.
        worker: who holds it, or held it last.
        parent: the id of the trial that it continues.
        working_directory: where its files are.
        resource: what it runs on.
        error: why it was broken or interrupted.
        token: the fencing token: how often it has been reserved. Who holds an older one cannot write to it.
        number: its place among the trials of its experiment: 0, 1, 2, … in the order of registration, without gaps and
            never given twice; None before it is registered.
        metadata: anything else that can be stored, by name.
        stop_requested: when somebody asked its worker to stop, or None.
        revision: grows with each change of what is stored; what ``if_revision`` compares.
    """

    params: Params = attrs.field(factory=Params, converter=_to_params)
    id: str = attrs.field(
        default=attrs.Factory(lambda self: derive_trial_id(self.params), takes_self=True),
        validator=_text(128),
    )
    experiment: str | None = attrs.field(default=None, validator=_optional(_text(128)))
    status: TrialStatus = attrs.field(default=TrialStatus.NEW, converter=trial_status)
    results: Results = attrs.field(factory=Results, converter=_to_results)
    submit_time: datetime.datetime = attrs.field(factory=utcnow, validator=_time, converter=_utc)
    start_time: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    end_time: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    heartbeat: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    worker: str | None = attrs.field(default=None, validator=_optional(_text()))
    parent: str | None = attrs.field(default=None, validator=_optional(_text()))
    working_directory: str | None = attrs.field(default=None, validator=_optional(_text(None)))
    resource: str | None = attrs.field(default=None, validator=_optional(_text()))
    error: str | None = attrs.field(default=None, validator=_optional(_text(None, empty=True)))
    token: int = attrs.field(default=0, validator=_integer(0))
    number: int | None = attrs.field(default=None, validator=_optional(_integer(0)))
    metadata: Mapping[str, object] = attrs.field(factory=dict, validator=_names)
    stop_requested: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    revision: int = attrs.field(default=1, validator=_integer(1), eq=False, repr=False)

    @property
    def objective(self) -> float | None:
        """The value that is optimized, or None where there is none yet."""
        return self.results.objective

    def __hash__(self) -> int:
        return hash((self.experiment, self.id))


@attrs.frozen(kw_only=True, field_transformer=_exact_fields)
class Attempt:
    """One execution of a trial; each reservation that is run adds one.

    Attributes:
        id: derived from the trial and the number.
        experiment, trial: the ids.
        number: the fencing token of the reservation: 1 for the first execution.
        worker, resource: who ran it, and on what.
        outcome: the status that the trial came to, or ``lost``, ``stopped`` or ``timeout``; None while it runs.
        error: why it ended badly.
        started, ended: times.
        metadata: anything else that can be stored, by name.
    """

    id: str = attrs.field(validator=_text(None))
    experiment: str = attrs.field(validator=_text(128))
    trial: str = attrs.field(validator=_text(128))
    number: int = attrs.field(validator=_integer(0))
    worker: str | None = attrs.field(default=None, validator=_optional(_text()))
    resource: str | None = attrs.field(default=None, validator=_optional(_text()))
    outcome: str | None = attrs.field(default=None, validator=_optional(_text()))
    error: str | None = attrs.field(default=None, validator=_optional(_text(None, empty=True)))
    started: datetime.datetime = attrs.field(factory=utcnow, validator=_time, converter=_utc)
    ended: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    metadata: Mapping[str, object] = attrs.field(factory=dict, validator=_names)

    def __hash__(self) -> int:
        return hash(self.id)


@attrs.frozen(kw_only=True, field_transformer=_exact_fields)
class Measurement:
    """An intermediate result.

    Attributes:
        name: of the figure, ``loss`` say.
        step: its place in the series.
        value: any float, NaN and infinities included.
        trial, experiment: the ids; filled in when it is added.
        time: when it was taken.
        attempt: the number of the execution that reported it.
        id: chosen by Moorage.
        metadata: anything else that can be stored, by name.
    """

    name: str = attrs.field(validator=_text())
    value: float = attrs.field(converter=_to_measured)
    step: int = attrs.field(default=0, validator=_integer(-(2**63)))
    trial: str | None = attrs.field(default=None, validator=_optional(_text(128)))
    experiment: str | None = attrs.field(default=None, validator=_optional(_text(128)))
    time: datetime.datetime = attrs.field(factory=utcnow, validator=_time, converter=_utc)
    attempt: int = attrs.field(default=0, validator=_integer(0))
    id: str = attrs.field(factory=new_id, validator=_text(128))
    metadata: Mapping[str, object] = attrs.field(factory=dict, validator=_names)

    def __hash__(self) -> int:
        return hash(self.id)

    @value.validator
    def _check_value(self, attribute: attrs.Attribute[float], value: object) -> None:
        if type(value) is not float:
            raise InvalidType(
                f"Measurement.value must be a float, not {type(value).__name__}: {shown(value)} (of {self.name!r})"
            )


def measured(value: object) -> float:
    """A number of any kind as the float of a measurement.

    Raises:
        InvalidType: not a number.
        InvalidArgument: an int too large for a float.
    """
    return _number("a measured value", value)


def _number(label: str, value: object) -> float:
    number = codec.simplify(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise InvalidType(f"{label} must be a number, not {type(value).__name__}: {shown(value)}")
    try:
        return float(number)
    except OverflowError:
        raise InvalidArgument(f"{label} is too large for a float: {shown(value)}") from None


@attrs.frozen(kw_only=True, field_transformer=_exact_fields)
class Resource:
    """Something that one holder at a time uses: a GPU, a licence, a slot.

    Attributes:
        id: chosen by Moorage unless given.
        name: unique.
        kind: by which it is asked for.
        labels: anything that can be stored.
        holder: who has it; None when it is free.
        lease: seconds that it stays taken without being renewed; None when it is free.
        heartbeat: when it was taken or last renewed, for people to read.
        token: the fencing token: how often it has been taken.
        revision: grows with each change of what is stored; what ``if_revision`` compares.
    """

    id: str = attrs.field(factory=new_id, validator=_text(128))
    name: str = attrs.field(validator=_text())
    kind: str = attrs.field(default="resource", validator=_text())
    labels: Mapping[str, object] = attrs.field(factory=dict, validator=_names)
    holder: str | None = attrs.field(default=None, validator=_optional(_text()))
    lease: float | None = attrs.field(default=None, validator=_optional(_positive), converter=_to_seconds_or_none)
    heartbeat: datetime.datetime | None = attrs.field(default=None, validator=_optional(_time), converter=_utc)
    token: int = attrs.field(default=0, validator=_integer(0))
    revision: int = attrs.field(default=1, validator=_integer(1), eq=False, repr=False)

    def __hash__(self) -> int:
        return hash(self.id)


@attrs.frozen(kw_only=True, field_transformer=_exact_fields)
class Benchmark:
    """A comparison of algorithms.

    Attributes:
        id: chosen by Moorage unless given.
        name: unique.
        algorithms: what is compared.
        targets: on what, and how it is judged.
        metadata: anything else that can be stored.
        created: when.
    """

    id: str = attrs.field(factory=new_id, validator=_text(128))
    name: str = attrs.field(validator=_text())
    algorithms: list[object] = attrs.field(factory=list, validator=_list)
    targets: list[object] = attrs.field(factory=list, validator=_list)
    metadata: Mapping[str, object] = attrs.field(factory=dict, validator=_names)
    created: datetime.datetime = attrs.field(factory=utcnow, validator=_time, converter=_utc)

    def __hash__(self) -> int:
        return hash(self.id)


@attrs.frozen(kw_only=True)
class AlgorithmState:
    """The state of the proposing algorithm as stored, and who holds its lock.

    Attributes:
        experiment: the id of its experiment.
        configuration: of the algorithm.
        state: as it was last saved; None before the first time.
        locked: whether somebody holds the lock.
        holder: who does.
        token: the fencing token: how often the lock was acquired.
        ttl: seconds without a renewal after which the holder counts as dead.
        age: seconds since the last renewal, as far as can be told.
        acquired: when it was acquired, for people to read.
        heartbeat: when it was last renewed, for people to read.
    """

    experiment: str
    configuration: object = None
    state: object = attrs.field(default=None, repr=False)
    locked: bool = False
    holder: str | None = None
    token: int = 0
    ttl: float | None = None
    age: float | None = None
    acquired: datetime.datetime | None = None
    heartbeat: datetime.datetime | None = None
