"""What is drawn of an experiment, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from moorage.errors import InvalidArgument
from moorage.filters import suggest
from moorage.space import parse_prior
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.protocol import ReadOnlyStorage
    from moorage.records import Experiment, Trial

_LOG_PRIORS = ("loguniform", "reciprocal", "lognormal", "log_uniform", "logUniform")
_DECADES = 3
"""Where the space does not tell: positive values over so many decades are drawn on a logarithmic scale."""


@attrs.frozen(kw_only=True)
class Dimension:
    """A param as an axis.

    Attributes:
        name: of the param.
        logarithmic: whether its scale is.
        categories: the values in order, as texts, where it is no number; empty where it is.
    """

    name: str
    logarithmic: bool = False
    categories: tuple[str, ...] = ()

    def position(self, value: object) -> float | None:
        """Where a value is on the axis: the number itself, or the place of the category; None for nowhere."""
        if self.categories:
            try:
                return float(self.categories.index(category(value)))
            except ValueError:
                return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) >= 1e300:
            return None
        found = float(value)
        return None if not math.isfinite(found) or (self.logarithmic and found <= 0) else found


@attrs.frozen(kw_only=True)
class Curve:
    """The measurements of one name of one trial: the last attempt's at each step.

    Attributes:
        trial: whose they are.
        steps, values: in order of step.
    """

    trial: Trial
    steps: tuple[int, ...]
    values: tuple[float, ...]


@attrs.frozen(kw_only=True)
class Study:
    """An experiment as it is drawn.

    Attributes:
        experiment: the experiment.
        maximize: whether the largest objective is the best.
        trials: all of them, in order of submission.
        counts: of each status.
        numbers: the place of each completed trial with a finite objective, from 1, in order of submission.
        completed: those trials.
        objectives: theirs.
        best: the position of the best one among them; of equals, the first; None where there is none.
        omitted: how many completed trials have no finite objective.
        dimensions: the params.
        hidden: how many params are left out.
        curves: the measurements by name, the most frequent name first.
    """

    experiment: Experiment
    maximize: bool
    trials: tuple[Trial, ...]
    counts: Mapping[TrialStatus, int]
    numbers: tuple[int, ...]
    completed: tuple[Trial, ...]
    objectives: tuple[float, ...]
    best: int | None
    omitted: int
    dimensions: tuple[Dimension, ...]
    hidden: int
    curves: Mapping[str, tuple[Curve, ...]]

    def ranked(self) -> list[int]:
        """The positions among ``completed``, the best first."""
        sign = -1 if self.maximize else 1
        return sorted(range(len(self.objectives)), key=lambda place: sign * self.objectives[place])


MOST_PARAMS = 12
"""So many params are legible beside each other."""


def category(value: object) -> str:
    """A value that is no number, as the text that stands for it."""
    return value if isinstance(value, str) else " ".join(repr(value).split())


def read(
    storage: ReadOnlyStorage,
    experiment: Experiment | str,
    *,
    maximize: bool = False,
    params: Sequence[str] | None = None,
    curves: bool = True,
) -> Study:
    """Gather what is drawn.

    Raises:
        InvalidArgument: a param that no trial has.
    """
    found = storage.get_experiment(experiment)
    trials = tuple(storage.iterate_trials(found.id))
    counts = dict.fromkeys(TrialStatus, 0)
    for one in trials:
        counts[one.status] += 1
    done = [(number, one) for number, one in enumerate(trials, 1) if one.status is TrialStatus.COMPLETED]
    drawn = [
        (number, one, one.objective)
        for number, one in done
        if one.objective is not None and math.isfinite(one.objective) and abs(one.objective) < 1e300
    ]
    completed = tuple(one for _, one, _ in drawn)
    objectives = tuple(objective for _, _, objective in drawn)
    dimensions, hidden = _dimensions(found, completed, trials, params)
    return Study(
        experiment=found,
        maximize=maximize,
        trials=trials,
        counts=counts,
        numbers=tuple(number for number, _, _ in drawn),
        completed=completed,
        objectives=objectives,
        best=objectives.index((max if maximize else min)(objectives)) if objectives else None,
        omitted=len(done) - len(drawn),
        dimensions=dimensions,
        hidden=hidden,
        curves=_curves(storage, found, trials) if curves else {},
    )


def _dimensions(
    experiment: Experiment, completed: Sequence[Trial], trials: Sequence[Trial], wanted: Sequence[str] | None
) -> tuple[tuple[Dimension, ...], int]:
    seen = dict.fromkeys(name for one in trials for name in one.params)
    known = [name for name in experiment.space if name in seen]
    known += [name for name in seen if name not in known]
    for name in wanted or ():
        if name not in known:
            listed = ", ".join(known) or "none"
            raise InvalidArgument(f"no trial has a param {name!r}.{suggest(name, known)} There are: {listed}")
    chosen = list(known if wanted is None else wanted)
    shown = chosen[:MOST_PARAMS]
    return tuple(_dimension(name, experiment, completed) for name in shown), len(chosen) - len(shown)


def _dimension(name: str, experiment: Experiment, trials: Sequence[Trial]) -> Dimension:
    values = [one.params[name] for one in trials if name in one.params]
    types = {one.params.types[name] for one in trials[:100] if name in one.params}
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    described = experiment.space.get(name)
    prior = parse_prior(described) if isinstance(described, str) else None
    if types == {"categorical"} or not numeric:
        present = {category(value) for value in values}
        given = prior.arguments[0] if prior is not None and prior.arguments else None
        listed = given if isinstance(given, (list, tuple)) else list(given) if isinstance(given, dict) else []
        first = [category(value) for value in listed if category(value) in present]
        rest = sorted(present.difference(first))
        return Dimension(name=name, categories=(*dict.fromkeys(first), *rest) or ("",))
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and abs(value) < 1e300]
    positive = bool(numbers) and min(numbers) > 0
    if prior is not None:
        logarithmic = prior.name in _LOG_PRIORS or prior.options.get("log") is True
    elif isinstance(described, Mapping):
        logarithmic = described.get("log") is True or described.get("type") in _LOG_PRIORS
    else:
        logarithmic = positive and max(numbers) / min(numbers) >= 10**_DECADES
    return Dimension(name=name, logarithmic=logarithmic and positive)


def _curves(storage: ReadOnlyStorage, experiment: Experiment, trials: Sequence[Trial]) -> dict[str, tuple[Curve, ...]]:
    by_id = {one.id: one for one in trials}
    series: dict[tuple[str, str], dict[int, tuple[int, float]]] = {}
    for one in storage.fetch_measurements(experiment=experiment.id):
        points = series.setdefault((one.name, one.trial or ""), {})
        # Several attempts may have measured the same step; the last one counts.
        if one.step not in points or one.attempt >= points[one.step][0]:
            points[one.step] = (one.attempt, one.value)
    found: dict[str, list[Curve]] = {}
    for (name, trial), points in series.items():
        if trial in by_id:
            steps = sorted(points)
            found.setdefault(name, []).append(
                Curve(
                    trial=by_id[trial],
                    steps=tuple(steps),
                    values=tuple(points[step][1] for step in steps),
                )
            )
    frequent = sorted(found, key=lambda name: (name != "objective", -len(found[name]), name))
    return {name: tuple(found[name]) for name in frequent}
