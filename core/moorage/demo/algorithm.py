"""The algorithm that proposes the trials of the demonstration: a small tree-structured Parzen estimator.

J. Bergstra, R. Bardenet, Y. Bengio and B. Kégl, "Algorithms for hyper-parameter optimization", NIPS 2011. The trials
seen so far are split into the good ones and the rest. Each dimension by itself gets two densities, one of the good and
one of the rest; candidates are drawn from the first, and the one that is likely there and unlikely in the second is
proposed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs
import numpy as np

from moorage.errors import InvalidArgument
from moorage.space import parse_prior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

STARTUP = 8
"""How many trials are drawn at random before the densities mean anything."""

GOOD = 0.1
"""The share of the trials that counts as good."""

CANDIDATES = 24
"""How many candidates compete to be proposed."""

_WIDEST = 0.5
_DIGITS = 4


@attrs.frozen
class Interval:
    """A numeric dimension, seen as the interval from 0 to 1.

    Attributes:
        low, high: the bounds, both included.
        logarithmic: equal ratios are equally far apart.
        discrete: whole numbers only.
    """

    low: float
    high: float
    logarithmic: bool = False
    discrete: bool = False

    def value(self, place: float) -> float | int:
        """The value at a place between 0 and 1; short enough to be read."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        scaled = low + place * (high - low)
        value = math.exp(scaled) if self.logarithmic else scaled
        if self.discrete:
            return int(min(max(round(value), self.low), self.high))
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def place(self, value: float) -> float:
        """The place of a value; the inverse of `value`, but for rounding."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.logarithmic else float(value)

    def sample(self, seen: Floats, random: np.random.Generator) -> Floats:
        """Candidates from the density of the places seen."""
        centres, widths = _kernels(seen)
        chosen = random.integers(len(centres), size=CANDIDATES)
        drawn = random.normal(centres[chosen], widths[chosen])
        folded = np.abs(drawn) % 2  # reflected at both bounds, as the density is
        return np.where(folded > 1, 2 - folded, folded)

    def log_density(self, seen: Floats, places: Floats) -> Floats:
        """The logarithm of the density of the places seen: Gaussian kernels, and one over the whole interval."""
        centres, widths = _kernels(seen)
        density = np.zeros_like(places)
        for image in (places, -places, 2 - places):
            distance = (image[:, None] - centres) / widths
            density += (np.exp(-0.5 * distance**2) / widths).mean(axis=1)
        return np.log(density)


def _kernels(seen: Floats) -> tuple[Floats, Floats]:
    """Centres and widths; the last kernel stands for what is known without any trial.

    The width is that of Scott's rule, but while there are few trials, they must not look sure of themselves.
    """
    count = len(seen)
    scott = 1.06 * float(seen.std()) * count**-0.2 if count else 0.0
    width = min(max(scott, 0.4 / math.sqrt(count + 1)), _WIDEST)
    return np.append(seen, 0.5), np.append(np.full(count, width), 1.0)


@attrs.frozen
class Choices:
    """A categorical dimension; the place of a value is its position."""

    values: tuple[object, ...]

    def value(self, place: float) -> object:
        """The value at a position."""
        return self.values[int(place)]

    def place(self, value: object) -> float:
        """The position of a value."""
        return float(self.values.index(value))

    def sample(self, seen: Floats, random: np.random.Generator) -> Floats:
        """Candidates, the more often the more often they were seen."""
        return random.choice(len(self.values), size=CANDIDATES, p=self._weights(seen)).astype(np.float64)

    def log_density(self, seen: Floats, places: Floats) -> Floats:
        """The logarithm of how often each place was seen."""
        return cast("Floats", np.log(self._weights(seen)[places.astype(np.int64)]))

    def _weights(self, seen: Floats) -> Floats:
        counts = np.bincount(seen.astype(np.int64), minlength=len(self.values)) + 1.0
        return cast("Floats", counts / counts.sum())


def dimension(prior: object) -> Interval | Choices:
    """A dimension read from its prior: ``uniform``, ``loguniform`` (``discrete=True`` or not) or ``choices``.

    Raises:
        InvalidArgument: it is something else.
    """
    parsed = parse_prior(prior) if isinstance(prior, str) else None
    match parsed and (parsed.name, parsed.arguments):
        case ("choices", (list() | tuple() as values,)) if values:
            return Choices(tuple(values))
        case ("uniform" | "loguniform" as name, (int() | float() as low, int() | float() as high)):
            if low < high and (name == "uniform" or low > 0):
                discrete = parsed is not None and parsed.options.get("discrete") is True
                return Interval(low, high, name == "loguniform", discrete)
    raise InvalidArgument(
        f"the demonstration's algorithm does not know the prior {prior!r}; it knows uniform(low, high), "
        "loguniform(low, high), both with discrete=True, and choices([…])"
    )


class ParzenEstimator:
    """Proposes points of a search space, the better the more results it has been told.

    It is a deterministic function of its seed and of what it was told: from the same state, the same points follow. So
    a worker that dies after it has registered its proposals, and before it could save the state, does no harm: the
    next one proposes the same points, and those are duplicates.

    Args:
        space: from the name of each dimension to its prior.
        seed: of the random numbers.
        state: as `state` gave it, to go on from there.
    """

    def __init__(self, space: Mapping[str, object], seed: int = 0, state: object = None) -> None:
        self._dimensions = {name: dimension(prior) for name, prior in space.items()}
        self._random = np.random.default_rng(seed)
        self._observed: dict[str, list[object]] = {}
        self.proposed = 0
        if state is not None:
            saved = cast("dict[str, object]", state)
            self._random.bit_generator.state = cast("dict[str, object]", saved["random"])
            self._observed = dict(cast("dict[str, list[object]]", saved["observed"]))
            self.proposed = cast("int", saved["proposed"])

    @property
    def state(self) -> dict[str, object]:
        """All there is to know, in types that a storage keeps exactly."""
        return {
            "random": self._random.bit_generator.state,
            "observed": dict(self._observed),
            "proposed": self.proposed,
        }

    def __contains__(self, trial: str) -> bool:
        return trial in self._observed

    def __len__(self) -> int:
        return len(self._observed)

    def observe(self, trial: str, params: Mapping[str, object], objective: float | None) -> None:
        """Take in what a trial came to; a trial seen before is ignored.

        Args:
            trial: its id.
            params: its point.
            objective: the smaller, the better; None where the trial came to nothing.
        """
        worst = objective is None or math.isnan(objective)
        point = [params[name] for name in self._dimensions]
        self._observed.setdefault(trial, [math.inf if worst else objective, *point])

    def suggest(self, count: int) -> list[dict[str, object]]:
        """The next points to try."""
        points = [self._suggest() for _ in range(count)]
        self.proposed += count
        return points

    def _suggest(self) -> dict[str, object]:
        ranked = sorted(self._observed.values(), key=lambda one: cast("float", one[0]))
        good = 0 if len(ranked) < STARTUP else max(2, round(GOOD * len(ranked)))
        point: dict[str, object] = {}
        for position, (name, one) in enumerate(self._dimensions.items(), start=1):
            places = np.array([one.place(seen[position]) for seen in ranked])  # type: ignore[arg-type]  # as observed
            if good:
                candidates = one.sample(places[:good], self._random)
                gain = one.log_density(places[:good], candidates) - one.log_density(places[good:], candidates)
                point[name] = one.value(float(candidates[gain.argmax()]))
            elif isinstance(one, Choices):
                point[name] = one.values[self._random.integers(len(one.values))]
            else:
                point[name] = one.value(self._random.random())
        return point
