"""Counters: numbers that are given once, to trials and to whoever needs integer ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from moorage.driver import Document, Increment
from moorage.errors import UniqueViolation
from moorage.filters import Comparison, Order, equal
from moorage.protocol.asking import VISIBLE
from moorage.protocol.base import Base
from moorage.records import check_integer, check_text
from moorage.schema import COUNTERS, EXPERIMENTS, TRIALS
from moorage.waist import IN_LIMIT, write_id

if TYPE_CHECKING:
    from moorage.filters import Filter


def trials_counter(experiment: str) -> str:
    """The id of the counter from which the trials of an experiment are numbered."""
    return f"trials of {experiment}"


class Counters(Base):
    """Counters, each a document of its own."""

    def next_number(self, name: str, count: int = 1) -> int:
        """The first of ``count`` numbers in a row that nobody else gets: 0, 1, 2, … for each name.

        For programs that need integer ids. A number that was given is never given again, whatever is deleted; one may
        be left out where its caller died, or where the reply of the database was lost.

        Args:
            name: of the counter; any text.
            count: how many, at least 1.
        """
        identifier = f"counter {check_text('name', name)}"
        size = check_integer("count", count, least=1)
        while True:
            taken = self._waist.change_one(COUNTERS, identifier, (), {"value": Increment(size)})
            if taken is not None:
                return cast("int", taken.body["value"]) - size
            body = Document(identifier, {"value": size, "write": write_id()})
            if not self._waist.insert(COUNTERS, [body]):
                return 0

    def _numbers(self, experiment: str, count: int, write: str) -> int:
        """The first of ``count`` numbers for new trials, inside a transaction.

        From here to the end of the transaction no other trial of this experiment is registered, and the experiment is
        not deleted: the counter's row is locked.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        counter = trials_counter(experiment)
        while True:
            taken = self._waist.change_one(COUNTERS, counter, (), {"value": Increment(count)}, write=write)
            if taken is not None:
                return cast("int", taken.body["value"]) - count
            self._number_older(experiment)

    def _numbered(self, experiment: str) -> int:
        """How many numbers were given to trials of this experiment: it never had more, whatever was deleted."""
        if not self._waist.transactional:
            return self._next_free_number(experiment)
        counter = self._waist.get(COUNTERS, trials_counter(experiment))
        return self._numbers(experiment, 0, write_id()) if counter is None else cast("int", counter.body["value"])

    def _next_free_number(self, experiment: str) -> int:
        """The number after the highest that was given, where there are no transactions: somebody else may be faster."""
        numbered = (*equal(experiment=experiment), Comparison("number", "!=", None))
        found = self._waist.find(TRIALS, numbered, [Order("number", descending=True)], 1)
        counter = self._waist.get(COUNTERS, trials_counter(experiment))
        if counter is None:
            self._number_older(experiment)
            return self._next_free_number(experiment)
        floor = cast("int", counter.body["value"])
        return max(floor, cast("int", found[0].body["number"]) + 1) if found else floor

    def _count_on(self, experiment: str) -> None:
        """Remember, where there are no transactions, the highest number that was given: its trial is to be deleted."""
        number = self._next_free_number(experiment)
        behind = (Comparison("value", "<", number),)
        self._waist.patch_one(COUNTERS, trials_counter(experiment), behind, {"value": number})

    def number_trials(self) -> None:
        """Number the trials of experiments that an older release, or its dump, has left without numbers."""
        for experiment in self._waist.find(EXPERIMENTS, VISIBLE):
            if self._waist.get(COUNTERS, trials_counter(experiment.id)) is None:
                self._number_older(experiment.id)

    def _number_older(self, experiment: str) -> None:
        """Number the trials that a release without numbers has left, in the order of submission; then count on.

        Any number of processes may do so at once, and any of them may die: each number is given by the unique key.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        self._require_experiment(experiment)
        numbered = self._waist.find(
            TRIALS,
            (*equal(experiment=experiment), Comparison("number", "!=", None)),
            [Order("number", descending=True)],
            1,
        )
        number = cast("int", numbered[0].body["number"]) + 1 if numbered else 0
        unnumbered: Filter = equal(experiment=experiment, number=None)
        while found := self._waist.find(TRIALS, unnumbered, [Order("sequence"), Order("id")], IN_LIMIT):
            for one in found:
                number = self._give_number(one, number)
        body = Document(trials_counter(experiment), {"value": number, "write": write_id()})
        self._waist.insert(COUNTERS, [body])

    def _give_number(self, trial: Document, number: int) -> int:
        """Give a trial the first free number from this one on; the next."""
        while True:
            try:
                self._waist.change_one(TRIALS, trial.id, equal(number=None), {"number": number})
            except UniqueViolation:
                number += 1
            else:
                return number + 1
