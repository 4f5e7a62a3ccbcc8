"""Trials are deleted with all that belongs to them, in steps that are short for others who wait."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

from moorage import mapping
from moorage.filters import Comparison, Filter, equal
from moorage.protocol.counters import Counters
from moorage.schema import ATTEMPTS, MEASUREMENTS, TRIALS
from moorage.waist import IN_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence


class Deletion(Counters):
    """Deletes trials, for those who delete trials and those who delete experiments."""

    def _delete_matching(self, experiment: str, wanted: Filter) -> int:
        """Delete the trials that match, in steps that are short for others who wait; how many."""
        names = self._iterate(TRIALS, wanted, "number", IN_LIMIT, lambda found: cast("str", found.body["trial"]))
        gone = 0
        while some := list(itertools.islice(names, IN_LIMIT)):
            gone += self._delete_some(experiment, wanted, some)
        return gone

    def _delete_some(self, experiment: str, wanted: Filter, trials: Sequence[str]) -> int:
        """Delete those of these trials that still match; how many."""
        gone: list[int] = [0]
        keys = tuple(mapping.trial_key(experiment, name) for name in trials)

        def delete() -> None:
            still = self._waist.find(TRIALS, (*wanted, Comparison("id", "in", keys)))
            names = tuple(cast("str", one.body["trial"]) for one in still)
            among = (*equal(experiment=experiment), Comparison("trial", "in", names))
            self._waist.delete(MEASUREMENTS, among)
            self._waist.delete(ATTEMPTS, among)
            rest = (*wanted, Comparison("id", "in", tuple(one.id for one in still)))
            gone.append(self._waist.delete(TRIALS, rest, len(still)))

        self._waist.together(delete)
        return max(gone)  # a repetition, after a commit without a reply, finds nothing left
