"""What the demonstration shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Self

import attrs
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from moorage.demo.digits import EPOCHS
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console, RenderableType

    from moorage.demo.fleet import Worker
    from moorage.protocol import ReadOnlyStorage
    from moorage.records import AlgorithmState, Experiment, Measurement, Trial

_EVENTS = 6


def short(trial: Trial | str) -> str:
    """The beginning of a trial's id, enough for people."""
    return (trial if isinstance(trial, str) else trial.id)[:8]


def figures(trial: Trial) -> str:
    """What a trial has come to."""
    accuracy = trial.results.get("accuracy")
    shown = f", {accuracy:.1%} right" if isinstance(accuracy, float) else ""
    return f"loss {trial.objective:.4f}{shown}" if trial.objective is not None else "no loss"


def point(trial: Trial) -> str:
    """The params of a trial on one line."""
    return "  ".join(f"{name}={value}" for name, value in trial.params.items())


@attrs.frozen(kw_only=True)
class Snapshot:
    """Where the experiment stands. All of it is read from the storage, as any other process could.

    Attributes:
        counts: trials by status.
        running: the reserved trials.
        progress: the last loss that each of them has reported, by trial.
        best: the best completed trial.
        lock: of the algorithm.
    """

    counts: Mapping[TrialStatus, int]
    running: tuple[Trial, ...]
    progress: Mapping[str, Measurement]
    best: Trial | None
    lock: AlgorithmState

    @classmethod
    def read(cls, storage: ReadOnlyStorage, experiment: Experiment) -> Self:
        """Look now."""
        running = storage.fetch_trials_by_status(experiment, TrialStatus.RESERVED)
        tokens = {trial.id: trial.token for trial in running}
        reported = storage.fetch_measurements(trials=running, name="loss")
        return cls(
            counts=storage.count_trials(experiment),
            running=tuple(running),
            # In order of their steps, so the last one of each trial stays.
            progress={one.trial: one for one in reported if one.trial and one.attempt == tokens[one.trial]},
            best=storage.best_trial(experiment),
            lock=storage.get_algorithm_lock_info(experiment),
        )

    @property
    def completed(self) -> int:
        """How many trials are completed."""
        return self.counts[TrialStatus.COMPLETED]


class Show:
    """Tells people what happens.

    Args:
        console: where.
        title: of the table.
        wanted: how many trials are to be completed.
    """

    def __init__(self, console: Console, title: str, wanted: int) -> None:
        self.console = console
        self._title = title
        self._wanted = wanted
        self._started = time.monotonic()
        self._events: deque[Text] = deque(maxlen=_EVENTS)
        self._plain = not console.is_terminal or console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        if self._plain:
            self.console.print(self._title, soft_wrap=True, markup=False, highlight=False)
        else:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._plain:
            self._live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def tell(self, text: str, style: str = "", *, detail: bool = False) -> None:
        """An event.

        Args:
            text: what happened.
            style: of the text; an event with a style is one that matters, and stays on the screen.
            detail: nothing for plain lines.
        """
        line = Text.assemble((f"{self.elapsed:5.1f} s  ", "dim"), (text, style))
        if style or (self._plain and not detail):
            self.console.print(line, soft_wrap=self._plain)
        else:
            self._events.append(line)

    def update(self, snapshot: Snapshot, workers: Iterable[Worker], done: Mapping[str, int]) -> None:
        """Draw the table anew.

        Args:
            snapshot: where the experiment stands.
            workers: all that were started.
            done: how many trials each of them has ended, by name.
        """
        if self._plain:
            return
        rows = [self._workers(snapshot, list(workers), done), self._summary(snapshot, list(workers))]
        news = list(self._events) + [Text()] * (_EVENTS - len(self._events))
        for line in news:
            line.no_wrap, line.overflow = True, "ellipsis"
        body = Group(rows[0], Text(), rows[1], Text(), *news)
        self._live.update(Panel(body, title=Text(self._title), border_style="cyan"), refresh=True)

    def _workers(self, snapshot: Snapshot, workers: list[Worker], done: Mapping[str, int]) -> Table:
        table = Table(box=None, expand=True, pad_edge=False, header_style="bold")
        table.add_column("worker", width=9)
        table.add_column("pid", width=8)
        table.add_column("does", ratio=1, no_wrap=True)
        table.add_column("epoch", width=17)
        table.add_column("loss", justify="right", width=7)
        table.add_column("ended", justify="right", width=5)
        held = {trial.worker: trial for trial in snapshot.running}
        for worker in workers:
            name = f"worker {worker.name}"
            trial = held.get(worker.name)
            does, epoch, loss = self._activity(snapshot, worker, trial)
            count = str(done.get(worker.name, 0))
            table.add_row(name, str(worker.pid), does, epoch, loss, count, style="red" if worker.killed else "")
        return table

    def _activity(self, snapshot: Snapshot, worker: Worker, trial: Trial | None) -> tuple[str, RenderableType, str]:
        if worker.killed:
            return ("killed; its trial is lost" if trial else "killed"), "", ""
        if not worker.alive:
            return "finished", "", ""
        if trial is not None:
            again = f", attempt {trial.token}" if trial.token > 1 else ""
            last = snapshot.progress.get(trial.id)
            step = last.step if last else 0
            bar = Table.grid(padding=(0, 1))
            bar.add_row(ProgressBar(total=EPOCHS, completed=step, width=10), f"{step}/{EPOCHS}")
            return f"trains trial {short(trial)}{again}", bar, f"{last.value:.4f}" if last else ""
        if self._holder(snapshot) == worker.pid:
            return "proposes: holds the algorithm lock", "", ""
        return ("looks for a trial" if worker.ready else "starts"), "", ""

    @staticmethod
    def _holder(snapshot: Snapshot) -> int | None:
        """The process that holds the lock: a holder is called after its host and its process id."""
        if snapshot.lock.holder is None:
            return None
        pid = snapshot.lock.holder.rsplit(":", 2)[1]
        return int(pid) if pid.isdecimal() else None

    def _summary(self, snapshot: Snapshot, workers: list[Worker]) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(style="bold", width=9)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        bar = Table.grid(padding=(0, 1))
        pruned = snapshot.counts[TrialStatus.PRUNED]
        bar.add_row(
            ProgressBar(total=self._wanted, completed=snapshot.completed, width=26),
            f"{snapshot.completed}/{self._wanted} trials, {pruned} more pruned, {self.elapsed:.0f} s",
        )
        table.add_row("completed", bar)
        best = snapshot.best
        table.add_row("best", f"{figures(best)}: trial {short(best)}" if best else "")
        table.add_row("", Text(point(best), style="dim") if best else "")
        lock = snapshot.lock
        names = {worker.pid: f"worker {worker.name}" for worker in workers}
        holder = self._holder(snapshot)
        by = f"held by {names.get(holder, 'another process')}" if holder is not None else "free"
        table.add_row("lock", f"{by}, acquired {lock.token} times")
        return table
