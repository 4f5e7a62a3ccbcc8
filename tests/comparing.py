"""When two values are the same: stricter than ``==``, and at peace with NaN."""

from __future__ import annotations

import datetime
import decimal
import math
from collections import defaultdict
from collections.abc import Mapping

import attrs
import numpy as np


def identical(left: object, right: object) -> bool:
    """Equal in type as well, at every level; NaN is itself, and 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and not isinstance(left, np.generic):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, decimal.Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, (datetime.datetime, datetime.time)) and left.fold != right.fold:
        return left.tzinfo is not None and left == right
    if isinstance(left, np.ndarray):
        return _identical_arrays(left, right)
    if isinstance(left, np.generic) and not isinstance(left, (np.str_, np.bytes_)):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, defaultdict) and left.default_factory is not right.default_factory:
        return False
    if isinstance(left, Mapping):
        return len(left) == len(right) and all(
            identical(*keys) and identical(left[keys[0]], right[keys[1]]) for keys in zip(left, right, strict=True)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, (set, frozenset)):
        return len(left) == len(right) and all(any(identical(one, other) for other in right) for one in left)
    return left == right


def _identical_arrays(left: np.ndarray, right: np.ndarray) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.names is not None:  # the bytes between fields are nobody's
        return all(identical(left[name], right[name]) for name in left.dtype.names)
    if left.dtype.hasobject:
        return all(identical(one, other) for one, other in zip(left.flat, right.flat, strict=True))
    return left.tobytes() == right.tobytes()


def assert_same_record(stored: object, given: object) -> None:
    """All fields are identical, and the record that was stored would pass validation as it is."""
    for field in attrs.fields(type(given)):
        one, other = getattr(stored, field.name), getattr(given, field.name)
        assert identical(one, other), f"{field.name}: {one!r} is not {other!r}"
    if stored == given:
        assert hash(stored) == hash(given)
    validated = type(given)(**attrs.asdict(stored, recurse=False))
    assert all(
        identical(getattr(validated, field.name), getattr(stored, field.name)) for field in attrs.fields(type(given))
    )
