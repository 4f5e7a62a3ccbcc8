"""What a search space says of its dimensions.

A space is a dict from the name of a dimension to its prior, in the customary notation (``"loguniform(1e-5, 1e-1)"``,
``"uniform(1, 9, discrete=True)"``, ``"choices(['relu', 'tanh'])"``, ``"fidelity(1, 81)"``) or to anything else that a
tuner understands. Moorage stores it as it is, and reads from it only which type the values have.
"""

from __future__ import annotations

import ast
import functools
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

ParamType: TypeAlias = Literal["real", "integer", "categorical", "fidelity"]

_TYPES: dict[str, ParamType] = {
    "uniform": "real",
    "loguniform": "real",
    "reciprocal": "real",
    "normal": "real",
    "gaussian": "real",
    "lognormal": "real",
    "real": "real",
    "float": "real",
    "randint": "integer",
    "integer": "integer",
    "integers": "integer",
    "int": "integer",
    "choices": "categorical",
    "categorical": "categorical",
    "fidelity": "fidelity",
}


@attrs.frozen
class Prior:
    """A prior in the notation ``name(argument, …, option=value, …)``.

    Attributes:
        name: of the distribution.
        arguments: in order.
        options: by name.
    """

    name: str
    arguments: tuple[object, ...] = ()
    options: Mapping[str, object] = attrs.field(factory=dict)

    @property
    def type(self) -> ParamType | None:
        """Of the values it gives; None for a distribution unknown here."""
        if self.options.get("discrete") is True and _TYPES.get(self.name) == "real":
            return "integer"
        return _TYPES.get(self.name)


@functools.lru_cache(maxsize=1024)
def parse_prior(text: str) -> Prior | None:
    """A prior read from its text; None where the text is not in this notation. Nothing is evaluated but literals."""
    try:
        call = ast.parse(text.strip().removeprefix("~"), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            return None
        return Prior(
            name=call.func.id,
            arguments=tuple(ast.literal_eval(argument) for argument in call.args),
            options={option.arg: ast.literal_eval(option.value) for option in call.keywords if option.arg},
        )
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def param_types(space: Mapping[str, object]) -> dict[str, ParamType]:
    """The type of each dimension whose prior tells it."""
    found: dict[str, ParamType] = {}
    for name, described in space.items():
        if isinstance(described, dict):
            described = described.get("type")
            kind = _TYPES.get(described) if isinstance(described, str) else None
        elif isinstance(described, str):
            prior = parse_prior(described)
            kind = prior.type if prior else None
        else:
            kind = None
        if kind is not None:
            found[name] = kind
    return found
