"""The command ``status``: how experiments are getting on."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated

import attrs
import typer
from typer.core import TyperCommand

from moorage.cli.common import (
    JsonOption,
    MaximizeOption,
    ProfileOption,
    StorageOption,
    ago,
    complain,
    duration,
    examples,
    find_experiment,
    first_line,
    moment,
    new_table,
    number,
    open_reading,
    output,
    plain,
    print_json,
    record_json,
    short,
    shown,
    title,
    value_text,
)
from moorage.cli.look import STYLES
from moorage.driver import Capability
from moorage.errors import AlgorithmLockNotFound
from moorage.records import utcnow
from moorage.statuses import ENDED, ExperimentStatus, TrialStatus

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping

    from rich.console import RenderableType
    from rich.table import Table

    from moorage.protocol import ReadOnlyStorage
    from moorage.records import Experiment, Trial

WINDOW = 100
"""How many of the trials that ended last tell the rate."""

WATCH_SECONDS = 2.0
_SHOWN_LOST = 5


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        cls=_StatusCommand,
        epilog=examples(
            "moorage status digits",
            "moorage status digits --watch 5",
            "moorage status --json | jq '.[].trials.completed'",
        ),
    )(status)


class _StatusCommand(TyperCommand):
    """Lets ``--watch`` stand without its number."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        completed: list[str] = []
        for place, one in enumerate(args):
            completed.append(one)
            if one in ("--watch", "-w") and not _is_number(args[place + 1 : place + 2]):
                completed.append(str(WATCH_SECONDS))
        return super().parse_args(ctx, completed)


def _is_number(words: list[str]) -> bool:
    try:
        return bool(words) and float(words[0]) > 0
    except ValueError:
        return False


@attrs.frozen(kw_only=True)
class LockHolder:
    """Who holds an algorithm lock.

    Attributes:
        holder: who.
        acquired: when it was acquired, by the holder's wall clock.
        held: seconds since then.
        age: seconds since it was last renewed; infinite where the holder cannot be alive.
        ttl: seconds without a renewal after which the holder counts as dead.
    """

    holder: str
    acquired: datetime.datetime | None
    held: float | None
    age: float
    ttl: float | None


@attrs.frozen(kw_only=True)
class Standing:
    """How an experiment is getting on.

    Attributes:
        experiment: the experiment.
        counts: trials by status.
        rate: completed trials in an hour, lately; None where fewer than two have ended.
        left: seconds until ``max_trials`` are completed at that rate; None where nothing runs, or that cannot be told.
        best: the best trial so far.
        lost: reserved trials without a heartbeat for too long.
        lost_is_known: False where the backend has no shared clock, so that losses show only after watching.
        lock: who holds the algorithm lock; None where it is free.
    """

    experiment: Experiment
    counts: Mapping[TrialStatus, int]
    rate: float | None
    left: float | None
    best: Trial | None
    lost: tuple[Trial, ...]
    lost_is_known: bool
    lock: LockHolder | None

    @property
    def total(self) -> int:
        """How many trials there are."""
        return sum(self.counts.values())


def lock_holder(storage: ReadOnlyStorage, experiment: str) -> LockHolder | None:
    """Who holds the algorithm lock of an experiment; the state, which may be large, is not read."""
    try:
        info = storage.get_algorithm_lock_info(experiment, state=False)
    except AlgorithmLockNotFound:
        return None
    if info.holder is None:
        return None
    return LockHolder(
        holder=info.holder,
        acquired=info.acquired,
        held=None if info.acquired is None else max(0.0, (utcnow() - info.acquired).total_seconds()),
        age=math.inf if info.age is None else info.age,
        ttl=info.ttl,
    )


def _rate(storage: ReadOnlyStorage, experiment: Experiment, running: bool) -> float | None:
    """Completed trials in an hour, over those completed of the last that were submitted.

    Of an experiment that runs, up to now, so that a standstill shows.
    """
    last = storage.fetch_trials(
        experiment.id,
        where={"status": TrialStatus.COMPLETED.value, "end_time": {"$ne": None}},
        order="-sequence",
        limit=WINDOW,
    )
    ends = sorted((one.end_time for one in last if one.end_time is not None), reverse=True)
    if len(ends) < 2:
        return None
    until = max(utcnow(), ends[0]) if running else ends[0]
    seconds = (until - ends[-1]).total_seconds()
    return (len(ends) - 1) / seconds * 3600 if seconds > 0 else None


def standing(storage: ReadOnlyStorage, experiment: Experiment, *, maximize: bool = False) -> Standing:
    """How an experiment is getting on, as stored now."""
    counts = storage.count_trials(experiment.id)
    over = experiment.status in (ExperimentStatus.FINISHED, ExperimentStatus.FAILED, ExperimentStatus.STOPPED)
    running = counts[TrialStatus.RESERVED] > 0 and not over
    rate = _rate(storage, experiment, running) if counts[TrialStatus.COMPLETED] > 1 else None
    left = None
    if rate and experiment.max_trials is not None and running:
        left = max(0, experiment.max_trials - counts[TrialStatus.COMPLETED]) / rate * 3600
    return Standing(
        experiment=experiment,
        counts=counts,
        rate=rate,
        left=left,
        best=storage.best_trial(experiment.id, maximize),
        lost=tuple(storage.fetch_lost_trials(experiment.id)) if counts[TrialStatus.RESERVED] else (),
        lost_is_known=Capability.SERVER_CLOCK in storage.capabilities,
        lock=lock_holder(storage, experiment.id),
    )


# Output


def _json(one: Standing) -> dict[str, object]:
    lock = one.lock
    return {
        "experiment": {
            "id": one.experiment.id,
            "name": one.experiment.name,
            "version": one.experiment.version,
            "status": str(one.experiment.status),
            "max_trials": one.experiment.max_trials,
            "error": one.experiment.error,
        },
        "trials": {str(status): total for status, total in one.counts.items()},
        "rate_per_hour": one.rate,
        "seconds_left": one.left,
        "best": None if one.best is None else record_json(one.best),
        "lost": [{"id": lost.id, "worker": lost.worker, "heartbeat": plain(lost.heartbeat)} for lost in one.lost],
        "lost_is_known": one.lost_is_known,
        "lock": None
        if lock is None
        else {
            "holder": lock.holder,
            "acquired": plain(lock.acquired),
            "held_seconds": lock.held,
            "renewed_seconds_ago": plain(lock.age),
            "ttl": lock.ttl,
        },
    }


def _rate_text(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.0f}" if rate >= 100 else number(rate, 3)


def _bar(share: float, width: int) -> str:
    """A bar in eighths of a character; what is there at all is seen."""
    eighths = max(1, round(share * width * 8)) if share > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _counts(one: Standing, width: int) -> Table:
    from rich.text import Text

    table = new_table("", "", "", "")
    table.show_header = False
    table.columns[1].justify = table.columns[2].justify = "right"
    for status, total in one.counts.items():
        if not total and status is not TrialStatus.COMPLETED:
            continue
        share = total / one.total if one.total else 0.0
        table.add_row(
            f"  {status}",
            f"{total:,}".replace(",", " "),
            f"{share:.1%}",
            Text(_bar(share, width), style=STYLES[status]),
        )
    return table


def _facts(one: Standing) -> Table:
    from rich.text import Text

    experiment = one.experiment
    table = new_table("", "")
    table.show_header = False
    table.columns[0].style = "bold"
    table.columns[1].no_wrap = False
    table.columns[1].overflow = "fold"
    completed = one.counts[TrialStatus.COMPLETED]
    if experiment.max_trials is not None:
        share = completed / experiment.max_trials
        table.add_row("progress", f"{completed} of {experiment.max_trials} completed ({share:.0%})")
    if one.rate is not None:
        of = min(WINDOW, completed)
        table.add_row("rate", f"{_rate_text(one.rate)} trials/h (the last {of})")
    if one.left is not None and one.left > 0:
        table.add_row("time left", f"about {duration(one.left)}")
    if one.best is not None:
        best = one.best
        table.add_row("best", f"{number(best.objective)}  (trial {short(best.id)}, {ago(best.end_time)})")
        params = "  ".join(f"{shown(name, 24)}={value_text(value, 24)}" for name, value in best.params.items())
        table.add_row("", params)
    for lost in one.lost[:_SHOWN_LOST]:
        seen = ago(lost.heartbeat) or "never"
        text = f"trial {short(lost.id)} of worker {shown(lost.worker or '?', 40)}, last heartbeat {seen}"
        table.add_row(Text("lost", style="bold red"), text)
    if len(one.lost) > _SHOWN_LOST:
        table.add_row("", f"and {len(one.lost) - _SHOWN_LOST} more; moorage recover frees them")
    elif one.lost:
        table.add_row("", "moorage recover frees them; so does the next worker that finds nothing pending")
    elif not one.lost_is_known and one.counts[TrialStatus.RESERVED]:
        table.add_row("lost", "shows only after watching: this backend has no clock that its users share")
    table.add_row("lock", _lock_text(one.lock))
    if experiment.error:
        table.add_row(Text("error", style="bold red"), first_line(experiment.error))
    return table


def _lock_text(lock: LockHolder | None) -> str:
    if lock is None:
        return "free"
    text = f"held by {shown(lock.holder, 80)}"
    if lock.held is not None:
        text += f" for {duration(lock.held)} (since {moment(lock.acquired)} UTC)"
    renewed = f"renewed {duration(lock.age)} ago" if lock.age < float("inf") else "before this machine's last start"
    lease = "" if lock.ttl is None else f", its lease is {duration(lock.ttl)}"
    dead = ". It counts as dead" if lock.ttl is not None and lock.age > lock.ttl else ""
    return f"{text}, {renewed}{lease}{dead}"


def _panel(one: Standing, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    experiment = one.experiment
    head = Text(title(experiment), style="bold")
    since = experiment.started or experiment.created
    verb = "started" if experiment.started else "created"
    head.append(f"  {experiment.status}", style="not bold cyan")
    by = f" by {shown(experiment.user, 30)}" if experiment.user else ""
    head.append(f", {verb} {ago(since)}{by}  ({short(experiment.id)})", style="not bold dim")
    return Group(head, Text(), _counts(one, max(10, min(48, width - 34))), Text(), _facts(one))


def _overview(found: list[Standing], width: int) -> Table:
    table = new_table("experiment", "status", "completed", "ended", "", "best", "rate/h", "left", "lost", "lock")
    for place in (2, 5, 6, 7, 8):
        table.columns[place].justify = "right"
    table.columns[0].no_wrap = False
    for one in found:
        completed = one.counts[TrialStatus.COMPLETED]
        goal = one.experiment.max_trials
        ended = sum(one.counts[status] for status in ENDED)
        share = completed / goal if goal else ended / one.total if one.total else 0.0
        table.add_row(
            title(one.experiment),
            str(one.experiment.status),
            f"{completed}/{goal}" if goal else str(completed),
            f"{share:.0%}",
            _bar(min(1.0, share), 10 if width < 120 else 24).ljust(10 if width < 120 else 24),
            number(one.best.objective, 5) if one.best else "-",
            _rate_text(one.rate),
            duration(one.left) if one.left else "-",
            str(len(one.lost) or "-"),
            "free" if one.lock is None else "held",
        )
    return table


def _standings(storage: ReadOnlyStorage, name: str | None, maximize: bool) -> list[Standing]:
    if name is not None:
        return [standing(storage, find_experiment(storage, name), maximize=maximize)]
    return [standing(storage, one, maximize=maximize) for one in storage.fetch_experiments()]


def _render(found: list[Standing], width: int) -> RenderableType:
    return _panel(found[0], width) if len(found) == 1 else _overview(found, width)


def status(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXPERIMENT]",
            help="A name, name:version, an id, or the first characters of an id; all experiments where it is left out.",
            show_default=False,
        ),
    ] = None,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    watch: Annotated[
        float | None,
        typer.Option(
            "--watch",
            "-w",
            min=0.1,
            metavar="[SECONDS]",
            help=f"Look again every so many seconds ({WATCH_SECONDS:g} unless given), until Ctrl-C.",
            show_default=False,
        ),
    ] = None,
    maximize: MaximizeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how an experiment, or all of them, are getting on.

    Trials by status, the rate at which trials are completed and the time left, the best trial so far, trials that
    lost their worker, and who holds the algorithm lock.
    """
    with open_reading(storage, profile) as opened:
        if watch is not None:
            _watch(opened, experiment, watch, maximize, as_json)
            return
        found = _standings(opened, experiment, maximize)
    if as_json:
        print_json(_json(found[0]) if experiment is not None else [_json(one) for one in found])
    elif not found:
        complain("no experiments are stored")
    else:
        console = output()
        console.print(_render(found, min(console.width, 140)))


def _watch(storage: ReadOnlyStorage, name: str | None, seconds: float, maximize: bool, as_json: bool) -> None:
    """Show it again and again; on a terminal in place, elsewhere one after the other."""
    import sys

    from rich.live import Live

    console = output()
    if as_json or not console.is_terminal:
        while True:
            found = _standings(storage, name, maximize)
            if as_json:
                print_json(_json(found[0]) if name is not None else [_json(one) for one in found], lines=True)
            else:
                console.print(_render(found, min(console.width, 140)) if found else "no experiments are stored")
                console.print()
            sys.stdout.flush()
            time.sleep(seconds)
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            found = _standings(storage, name, maximize)
            live.update(_render(found, console.width) if found else "no experiments are stored", refresh=True)
            time.sleep(seconds)
