"""How a trial changes its status, and who may: what registration, reservation and repair share."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.driver import Increment
from moorage.errors import FailedUpdate, InvalidArgument, ReservationLost, shown
from moorage.events import TrialStatusChanged
from moorage.filters import Filter, equal
from moorage.protocol.base import Base
from moorage.records import Trial, utcnow
from moorage.schema import TRIALS
from moorage.statuses import ENDED, PENDING, TrialStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.protocol.asking import TrialOrId


class Transitions(Base):
    """The step from one status to another, fenced by the token of the reservation."""

    def _entering(self, status: TrialStatus) -> dict[str, Plain | Increment]:
        """What changes in a trial that takes this status."""
        changes: dict[str, Plain | Increment] = {"status": status.value, "pending": status in PENDING}
        if status in ENDED:
            changes["end_time"] = encode_time(utcnow())
        elif status is TrialStatus.RESERVED:
            now = encode_time(utcnow())
            changes |= {
                "start_time": now,
                "end_time": None,
                "heartbeat": now,
                "error": None,
                "token": Increment(),
            }
            changes |= self._leases.stamp()
        elif status is TrialStatus.NEW:
            changes |= {"end_time": None, "error": None}
        return changes

    def _tell_status(self, experiment: str, trial: str, before: TrialStatus | None, after: TrialStatus) -> None:
        if self._plugins.has_observers:
            self._tell(TrialStatusChanged(experiment=experiment, trial=trial, before=before, after=after))

    def _fence(self, trial: TrialOrId, *, holder: bool = False) -> Filter:
        """The comparison that only the holder of a reservation meets.

        It is made where the caller has a reserved trial in hand, or any trial where only a ``holder`` may act.
        """
        if isinstance(trial, Trial) and (holder or trial.status is TrialStatus.RESERVED):
            return equal(token=trial.token, status=TrialStatus.RESERVED.value)
        return ()

    def _change_trial(
        self, key: tuple[str, str], wanted: Filter, fence: Filter, changes: Mapping[str, Plain | Increment]
    ) -> None:
        """Change a trial if it matches; otherwise say why it does not."""
        identifier = mapping.trial_key(*key)
        if self._waist.patch_one(TRIALS, identifier, (*wanted, *fence), changes):
            return
        stored = mapping.trial_record(self._trial_document(*key))
        if fence and (stored.status is not TrialStatus.RESERVED or stored.token != fence[0].value):
            reason = f": {stored.error}" if stored.error else ""
            raise ReservationLost(
                f"trial {stored.id!r} is no longer reserved by this caller (reservation {fence[0].value}): it is "
                f"{stored.status}, reservation {stored.token}, worker {stored.worker!r}{reason}. Nothing was written; "
                "stop working on it"
            )
        expected = ", ".join(f"{one.field} {one.operator} {one.value!r}" for one in wanted)
        raise FailedUpdate(
            f"trial {stored.id!r} is {stored.status}; the update requires {expected}. Nothing was written"
        )

    def _heartbeat_fields(self, moment: datetime.datetime | None) -> dict[str, Plain]:
        if moment is not None and (not isinstance(moment, datetime.datetime) or moment.utcoffset() is None):
            raise InvalidArgument(f"heartbeat must be a datetime with a time zone, not {shown(moment)}")
        return {"heartbeat": mapping.time_or_none(moment), **self._leases.stamp_at(moment)}
