"""How a trial changes its status, and who may: what registration, reservation and repair share."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, cast

from moorage import mapping
from moorage.codec import Plain, encode_time
from moorage.driver import Increment
from moorage.errors import FailedUpdate, InvalidArgument, ReservationLost, shown
from moorage.events import TrialStatusChanged
from moorage.filters import Filter, equal
from moorage.protocol.base import Base
from moorage.records import Results, Trial, check_integer, utcnow
from moorage.schema import ATTEMPTS, TRIALS
from moorage.statuses import ENDED, PENDING, TrialStatus
from moorage.waist import write_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.driver import Document
    from moorage.protocol.asking import TrialOrId


_NOTHING = Results()
"""What a new attempt begins with: figures of an earlier one are not its own."""


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
                "stop_requested": None,
                "token": Increment(),
                **mapping.result_fields(_NOTHING),
            }
            changes |= self._leases.stamp()
        elif status is TrialStatus.NEW:
            changes |= {"end_time": None, "error": None}
        return changes

    def _tell_status(self, experiment: str, trial: str, before: TrialStatus | None, after: TrialStatus) -> None:
        if self._plugins.has_observers:
            self._tell(TrialStatusChanged(experiment=experiment, trial=trial, before=before, after=after))

    def _fence(self, trial: TrialOrId, *, holder: bool = False, token: int | None = None) -> Filter:
        """The comparison that only the holder of a reservation meets.

        It is made where the caller has a reserved trial in hand, or any trial where only a ``holder`` may act, or where
        the token of the reservation is given.
        """
        if token is not None:
            return equal(token=check_integer("token", token, least=1), status=TrialStatus.RESERVED.value)
        if isinstance(trial, Trial) and (holder or trial.status is TrialStatus.RESERVED):
            return equal(token=trial.token, status=TrialStatus.RESERVED.value)
        return ()

    def _change_trial(
        self,
        key: tuple[str, str],
        wanted: Filter,
        fence: Filter,
        changes: Mapping[str, Plain | Increment],
        ended: Mapping[str, Plain] | None = None,
    ) -> Trial:
        """Change a trial if it matches, and return it as this change stored it; otherwise say why it does not.

        Args:
            key: the ids of the experiment and the trial.
            wanted: what it must be like.
            fence: what only the holder of the reservation meets.
            changes: what becomes of it.
            ended: what is noted on its last attempt in the same step, if nobody has ended that.
        """
        identifier = mapping.trial_key(*key)
        if ended is None:
            changed = self._waist.change_one(TRIALS, identifier, (*wanted, *fence), changes)
        else:
            write, other = write_id(), write_id()

            def steps() -> Document | None:
                stored = self._waist.change_one(TRIALS, identifier, (*wanted, *fence), changes, write=write)
                if stored is not None:
                    attempt = mapping.attempt_id(identifier, cast("int", stored.body["token"]))
                    self._waist.patch_one(ATTEMPTS, attempt, equal(outcome=None), ended, write=other)
                return stored

            changed = self._waist.together(steps, settled=False)
        if changed is not None:
            return mapping.trial_record(changed)
        stored = mapping.trial_record(self._trial_document(*key))
        if fence and (stored.status is not TrialStatus.RESERVED or stored.token != fence[0].value):
            raise self._lost_by(stored, fence[0].value)
        asked = any(one.field == "revision" for one in wanted)
        revision = f", revision {stored.revision}" if asked else ""
        expected = ", ".join(f"{one.field} {one.operator} {one.value!r}" for one in wanted)
        raise FailedUpdate(
            f"trial {stored.id!r} is {stored.status}{revision}; the update requires {expected}. Nothing was written"
        )

    def _lost_by(self, stored: Trial, token: object) -> ReservationLost:
        """What a caller is told whose reservation of a trial has ended."""
        reason = f": {stored.error}" if stored.error else ""
        return ReservationLost(
            f"trial {stored.id!r} is no longer reserved by this caller (reservation {token}): it is "
            f"{stored.status}, reservation {stored.token}, worker {stored.worker!r}{reason}. Nothing was written; "
            "stop working on it"
        )

    def _ended(self, status: TrialStatus, error: Plain = None, outcome: str | None = None) -> dict[str, Plain]:
        """What is noted on an attempt that ends with this status of its trial."""
        return {"outcome": outcome or status.value, "error": error, "ended": encode_time(utcnow())}

    def _heartbeat_fields(self, moment: datetime.datetime | None) -> dict[str, Plain]:
        if moment is not None and (not isinstance(moment, datetime.datetime) or moment.utcoffset() is None):
            raise InvalidArgument(f"heartbeat must be a datetime with a time zone, not {shown(moment)}")
        return {"heartbeat": mapping.time_or_none(moment), **self._leases.stamp_at(moment)}
