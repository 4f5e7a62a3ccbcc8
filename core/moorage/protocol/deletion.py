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

    from moorage.driver import Document


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
            found = self._waist.find(TRIALS, (*wanted, Comparison("id", "in", keys)))
            if not self._waist.transactional:  # a crash on the way leaves the trial, so that the same call goes on
                self._delete_what_belongs(experiment, found)
            rest = (*wanted, Comparison("id", "in", tuple(one.id for one in found)))
            gone.append(self._waist.delete(TRIALS, rest, len(found)))
            # After the trial, which admits nothing from now on: what somebody has added meanwhile goes, too. One that
            # was changed after the look, and does not match any more, keeps what it has.
            kept: set[str] = set()
            if gone[-1] != len(found) or not self._waist.transactional:
                kept = {one.id for one in self._waist.find(TRIALS, (Comparison("id", "in", keys),))}
            self._delete_what_belongs(experiment, [one for one in found if one.id not in kept])

        self._waist.together(delete)
        return max(gone)  # a repetition, after a commit without a reply, finds nothing left

    def _delete_what_belongs(self, experiment: str, trials: Sequence[Document]) -> None:
        """Delete the measurements and attempts of these trials."""
        names = tuple(cast("str", one.body["trial"]) for one in trials)
        among = (*equal(experiment=experiment), Comparison("trial", "in", names))
        self._waist.delete(MEASUREMENTS, among)
        self._waist.delete(ATTEMPTS, among)
