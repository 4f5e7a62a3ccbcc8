"""Commands that repair and remove: unlock, recover, rm, upgrade."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from moorage.cli.common import (
    ExperimentArgument,
    JsonOption,
    ProfileOption,
    StorageOption,
    UrlArgument,
    YesOption,
    ago,
    check_place,
    complain,
    confirm,
    duration,
    examples,
    find_certain_experiment,
    open_reading,
    open_writing,
    print_json,
    record_json,
    short,
    shown,
    title,
)
from moorage.cli.status import lock_holder
from moorage.config import connect, find_settings, open_driver
from moorage.driver import Capability
from moorage.errors import SchemaMismatch
from moorage.protocol import Storage
from moorage.schema import SCHEMA
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from moorage.records import Experiment, Trial


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(epilog=examples("moorage unlock digits", "moorage unlock digits --yes"))(unlock)
    app.command(epilog=examples("moorage recover digits", "moorage recover digits --json | jq -r '.[].id'"))(recover)
    app.command("rm", epilog=examples("moorage rm digits:1", "moorage rm 3fa94c1d --yes"))(remove)
    app.command(epilog=examples("moorage upgrade sqlite:///hpo.db"))(upgrade)


def unlock(
    experiment: ExperimentArgument,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    yes: YesOption = False,
) -> None:
    """Free the algorithm lock of an experiment, whoever holds it.

    The state of the algorithm stays as it was last saved. If the holder lives after all, it cannot save any more, and
    is told so. There is seldom a need: the lock of a holder that died frees itself when its lease has run out.
    """
    with open_reading(storage, profile) as opened:
        found = find_certain_experiment(opened, experiment)
        lock = lock_holder(opened, found.id)
    if lock is None:
        complain(f"the lock of {title(found)} is free")
        return
    alive = "has shown no sign of life since" if lock.age == float("inf") else f"was renewed {duration(lock.age)} ago"
    held = "" if lock.held is None else f" for {duration(lock.held)}"
    lease = "" if lock.ttl is None else f" (its lease is {duration(lock.ttl)})"
    complain(f"the lock of {title(found)} is held by {shown(lock.holder)}{held}, and {alive}{lease}")
    confirm("Free it?", yes=yes)
    with connect(storage, profile=profile) as opened:
        opened.break_algorithm_lock(found.id)
    complain("the lock is free")


def recover(
    experiment: ExperimentArgument,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make trials that lost their worker interrupted, so that they are handed out again.

    A trial is lost when it is reserved and its worker gave no heartbeat for the experiment's heartbeat_timeout. Where
    the backend has no clock that its users share, this command watches for that long.
    """
    with open_writing(storage, profile) as opened:
        found = find_certain_experiment(opened, experiment)
        recovered = _recover(opened, found)
    if as_json:
        print_json([record_json(one) for one in recovered])
        return
    for one in recovered:
        typer.echo(f"{shown(one.id)}  {shown(one.error or '')}")
    if not recovered:
        complain(f"no trial of {title(found)} is lost")
    else:
        trials = "trial is" if len(recovered) == 1 else "trials are"
        complain(f"{len(recovered)} {trials} interrupted now, and will be handed out again")


def _recover(storage: Storage, experiment: Experiment) -> list[Trial]:
    reserved = storage.count_trials(experiment.id)[TrialStatus.RESERVED]
    timeout = experiment.heartbeat_timeout
    if reserved and timeout is not None and Capability.SERVER_CLOCK not in storage.capabilities:
        storage.fetch_lost_trials(experiment.id)
        complain(
            f"this backend has no clock that its users share: watching the reserved trials for {duration(timeout)}"
        )
        time.sleep(timeout + 0.1)
    return storage.recover_lost_trials(experiment.id)


def remove(
    experiment: ExperimentArgument,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    yes: YesOption = False,
) -> None:
    """Remove an experiment with its trials, measurements, attempts and algorithm state, for ever."""
    with open_reading(storage, profile) as opened:
        found = find_certain_experiment(opened, experiment)
        counts = opened.count_trials(found.id)
    total = sum(counts.values())
    trials = "1 trial" if total == 1 else f"{total} trials"
    complain(f"{title(found)} ({short(found.id)}), created {ago(found.created)}, {found.status}, {trials}")
    if counts[TrialStatus.RESERVED]:
        complain(f"{counts[TrialStatus.RESERVED]} of them are reserved: their workers will fail")
    confirm("Remove it for ever?", yes=yes)
    with connect(storage, profile=profile) as opened:
        opened.delete_experiment(found.id)
    complain(f"{title(found)} is removed")


def upgrade(
    url: UrlArgument = None,
    storage: StorageOption = None,
    profile: ProfileOption = None,
) -> None:
    """Bring a storage that an older release wrote to the schema of this one.

    Stop the workers first: older releases refuse an upgraded storage.
    """
    if url is not None and storage is not None:
        raise typer.BadParameter("give the URL once")
    url = url or storage
    check_place(url, profile)
    settings = find_settings(url, profile)
    try:
        open_reading(url, profile).close()
    except SchemaMismatch as error:
        if error.stored > error.supported:
            raise
        driver, options = open_driver(settings, upgrade=True)
        with Storage(driver, **options) as opened:
            opened.number_trials()
        typer.echo(f"upgraded {shown(settings.url)} from schema {error.stored} to {error.supported}")
    else:
        typer.echo(f"{shown(settings.url)} is already current: schema {SCHEMA.version}")
