"""What must be true of the storage when the demonstration has ended, whatever happened on the way."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import attrs

from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from moorage.protocol import ReadOnlyStorage
    from moorage.records import Attempt, Experiment, Trial

_SHORT = 8


@attrs.frozen
class Check:
    """One thing that must be true.

    Attributes:
        ok: whether it is.
        text: what was looked at, and what was found.
    """

    ok: bool
    text: str


@attrs.frozen(kw_only=True)
class Casualty:
    """A trial whose worker was killed while it ran.

    Attributes:
        trial: the id.
        attempt: the number of the attempt that the worker could not end.
        worker: its name.
    """

    trial: str
    attempt: int
    worker: str


@attrs.frozen(kw_only=True)
class End:
    """What a worker has said when a trial of its own had ended.

    Attributes:
        trial: the id.
        attempt: the number.
        worker: its name.
    """

    trial: str
    attempt: int
    worker: str


def verify(
    storage: ReadOnlyStorage,
    experiment: Experiment,
    ends: Sequence[End],
    casualty: Casualty | None = None,
    killed: Collection[str] = (),
) -> list[Check]:
    """Compare what is stored with what the workers have said.

    Args:
        storage: as it is now.
        experiment: that has ended.
        ends: what the workers have said: a record of its own, kept outside the storage.
        casualty: the trial whose worker was killed; None if none was.
        killed: the names of the workers that were; one that was killed right after a trial could not say that it ended.
    """
    trials = {trial.id: trial for trial in storage.fetch_trials(experiment)}
    attempts = {trial: storage.fetch_attempts(trial, experiment) for trial in trials}
    checks = [
        _count(experiment, trials),
        _once(trials, attempts, ends, killed),
        _nothing_left(trials),
        _proposals(storage, experiment, trials),
    ]
    if casualty is not None:
        checks.append(_recovery(trials[casualty.trial], attempts[casualty.trial], casualty))
    return checks


def _trials(trials: dict[str, Trial]) -> str:
    return f"{len(trials)} trial{'s' if len(trials) != 1 else ''}"


def _count(experiment: Experiment, trials: dict[str, Trial]) -> Check:
    counts = Counter(trial.status for trial in trials.values())
    found = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return Check(counts[TrialStatus.COMPLETED] == experiment.max_trials, f"{_trials(trials)}: {found}")


def _once(
    trials: dict[str, Trial], attempts: dict[str, list[Attempt]], ends: Sequence[End], killed: Collection[str]
) -> Check:
    final = (TrialStatus.COMPLETED, TrialStatus.PRUNED)
    said = Counter(end.trial for end in ends)
    wrong: list[str] = []
    for trial in trials.values():
        if trial.status not in final:
            continue
        successes = [one.number for one in attempts[trial.id] if one.outcome == trial.status]
        cut_short = trial.worker in killed and successes in ([], [trial.token]) and said[trial.id] == 0
        if not cut_short and (successes != [trial.token] or said[trial.id] != 1):
            wrong.append(
                f"trial {trial.id[:_SHORT]} is {trial.status} by the attempts {successes}, "
                f"and workers said so {said[trial.id]} times"
            )
    for identifier in said:
        if identifier not in trials or trials[identifier].status not in final:
            wrong.append(f"a worker ended trial {identifier[:_SHORT]}, and that is not stored")
    total = sum(len(some) for some in attempts.values())
    text = f"each ended exactly once, in {total} attempts, and none that a worker has ended is missing"
    return Check(not wrong, text if not wrong else "; ".join(wrong))


def _nothing_left(trials: dict[str, Trial]) -> Check:
    left = [one.id[:_SHORT] for one in trials.values() if one.status is TrialStatus.RESERVED]
    return Check(not left, f"still reserved: {', '.join(left)}" if left else "no trial is left reserved by anybody")


def _proposals(storage: ReadOnlyStorage, experiment: Experiment, trials: dict[str, Trial]) -> Check:
    lock = storage.get_algorithm_lock_info(experiment)
    proposed = cast("int", cast("dict[str, object]", lock.state)["proposed"])
    # Two workers at a time would have gone on from the same state: with the same proposals, or one of them overwritten.
    return Check(
        proposed == len(trials) and not lock.locked,
        f"{proposed} proposals in the state of the algorithm, whose lock was acquired {lock.token} times, for "
        f"{_trials(trials)}",
    )


def _recovery(trial: Trial, attempts: list[Attempt], casualty: Casualty) -> Check:
    outcomes = {one.number: one.outcome for one in attempts}
    lost = outcomes.get(casualty.attempt) == "lost"
    ok = lost and trial.status is TrialStatus.COMPLETED and trial.token > casualty.attempt
    story = ", ".join(f"attempt {one.number} (worker {one.worker}) {one.outcome}" for one in attempts)
    return Check(ok, f"trial {trial.id[:_SHORT]} outlived its worker: {story}")
