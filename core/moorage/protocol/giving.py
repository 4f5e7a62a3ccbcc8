"""What verbs are given: records, dicts or keywords, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moorage.errors import InvalidArgument, InvalidType, shown
from moorage.filters import suggest


def check_fields(record: type[object], fields: Mapping[str, object], known: Sequence[str]) -> None:
    """Insist that only known fields are given.

    Raises:
        InvalidArgument: another one is; the nearest known one is suggested.
    """
    for name in fields:
        if name not in known:
            raise InvalidArgument(
                f"{record.__name__} has no field {shown(name)} that can be set.{suggest(name, known)} "
                f"The fields are: {', '.join(known)}"
            )


def fields_given(what: str, given: object, fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of a new record, from a dict and from keywords; the keywords win.

    Raises:
        InvalidType: ``given`` is neither None nor a dict.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InvalidType(
            f"{what} is given as keywords, a dict or a record, not {type(given).__name__}: {shown(given)}"
        )
    return {**(given or {}), **fields}
