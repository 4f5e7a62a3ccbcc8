"""How verbs are asked: queries, selections, orders, pages."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

from moorage import mapping
from moorage.errors import InvalidQuery, shown
from moorage.filters import Comparison, Filter, Order, parse, suggest
from moorage.records import Experiment, Trial, check_integer
from moorage.schema import TRIALS, Collection
from moorage.waist import IN_LIMIT

Query: TypeAlias = "Mapping[str, object] | None"
"""``{"field": value}`` or ``{"field": {"$operator": value}}``; see `moorage.filters.parse`."""

Selection: TypeAlias = "Sequence[str] | None"
"""Names of fields; where given, dicts with these keys are returned in place of records."""

Row: TypeAlias = dict[str, object]
ExperimentOrId: TypeAlias = "Experiment | str | None"
TrialOrId: TypeAlias = "Trial | str | None"
T = TypeVar("T")

TRIAL_NAMES = {"id": "trial"}
VISIBLE: Filter = (Comparison("deleting", "!=", True),)
IN_ORDER = (Order("number"),)
"""The order of registration, without a second field: an index that ends in it must give it without sorting."""

IN_QUEUE = (Order("sequence"),)
"""The order in which pending trials are handed out."""


def query_filter(
    query: Query, collection: Collection, argument: str = "where", names: Mapping[str, str] | None = None
) -> Filter:
    """A user's query as a filter; see `moorage.filters.parse`."""
    return parse(query, collection, names=names, argument=argument)


def trial_filter(experiment: str, where: Query) -> Filter:
    """A user's query about the trials of one experiment; those asked for by id are looked up by their key."""
    wanted: list[Comparison] = []
    for one in query_filter(where, TRIALS, names=TRIAL_NAMES):
        if one.field == "trial" and one.operator == "=" and isinstance(one.value, str):
            wanted.append(Comparison("id", "=", mapping.trial_key(experiment, one.value)))
        elif one.field == "trial" and one.operator == "in" and isinstance(one.value, tuple):
            keys = tuple(mapping.trial_key(experiment, name) for name in one.value if isinstance(name, str))
            wanted.append(Comparison("id", "in", keys))
        else:
            wanted.append(one)
    return tuple(wanted)


@contextlib.contextmanager
def many_objects() -> Iterator[None]:
    """Keep the garbage collector from looking through thousands of records while they are made; none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def select(records: Iterable[object], selection: Sequence[str], known: Sequence[str]) -> list[Row]:
    """The selected fields of records, as dicts.

    Raises:
        InvalidQuery: a field that the records have not.
    """
    if isinstance(selection, str) or not isinstance(selection, Sequence):
        raise InvalidQuery(f"selection must be a list of field names, not {shown(selection)}")
    for name in selection:
        head = name.partition(".")[0] if isinstance(name, str) else ""
        if head not in known:
            raise InvalidQuery(
                f"selection names an unknown field {shown(name)}.{suggest(head, known)} "
                f"The fields are: {', '.join(known)}"
            )
    return [{name: _reach(record, name) for name in selection} for record in records]


def _reach(record: object, name: str) -> object:
    head, dot, rest = name.partition(".")
    value = getattr(record, head)
    while dot and isinstance(value, Mapping):
        if rest in value:
            return value[rest]
        head, dot, rest = rest.partition(".")
        value = value.get(head)
    return None if dot else value


def field_names(record: type[object]) -> tuple[str, ...]:
    """The public fields of a record class."""
    names: tuple[str, ...] = tuple(field.name for field in record.__attrs_attrs__)  # type: ignore[attr-defined]  # attrs
    return (*names, "objective") if record is Trial else names


def parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Slices short enough for one ``in`` comparison."""
    for start in range(0, len(values), IN_LIMIT):
        yield values[start : start + IN_LIMIT]


def check_limit(limit: int | None) -> int | None:
    """None, or a count.

    Raises:
        InvalidArgument: negative.
    """
    return None if limit is None else check_integer("limit", limit, least=0)
