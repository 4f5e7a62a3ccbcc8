"""The parent process of the demonstration: it starts the workers, kills one of them, watches, and verifies."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moorage import plots
from moorage.config import PROFILE_VARIABLE, URL_VARIABLE, connect, find_settings
from moorage.demo.checks import Casualty, Check, End, verify
from moorage.demo.digits import EPOCHS, SPACE
from moorage.demo.fleet import Fleet, Worker
from moorage.demo.show import Show, Snapshot, figures, short
from moorage.driver import Capability
from moorage.errors import DuplicateExperiment, InvalidArgument, MissingExtra, MoorageError, Unsupported
from moorage.records import Experiment, Trial, check_integer
from moorage.statuses import ExperimentStatus, TrialStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.config import Settings
    from moorage.protocol import Storage

NAME = "digits-demo"
"""Of the experiment; each demonstration on the same storage is a version of its own."""

HEARTBEAT_TIMEOUT = 4.0
"""Seconds without a heartbeat after which a trial counts as lost; short, because somebody is watching."""

_BEST = 5
_LOOK, _AIM = 0.1, 0.02
_PATIENCE = 120.0
_ENDED = re.compile(r"trial ([0-9a-f]{32}) ended in attempt (\d+)")
_PROPOSED = re.compile(r"proposed (\d+) after observing (\d+)")


@attrs.frozen(kw_only=True)
class Summary:
    """How the demonstration went.

    Attributes:
        experiment: as it is stored.
        best: the best trial; None where none was completed.
        counts: trials by status.
        casualty: the trial whose worker was killed; None where none was.
        checks: what was verified.
        plot: the file with the plot; None where there is none.
        seconds: how long it took, without the plot.
    """

    experiment: Experiment
    best: Trial | None
    counts: dict[TrialStatus, int]
    casualty: Casualty | None
    checks: tuple[Check, ...]
    plot: Path | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all that was verified is true."""
        return all(check.ok for check in self.checks)

    @property
    def exit_code(self) -> int:
        """For the shell: 0 or 1."""
        return 0 if self.ok else 1


def run(
    url: str | None = None,
    *,
    profile: str | None = None,
    workers: int = 4,
    trials: int = 40,
    seed: int = 0,
    plot: Path | None = Path("moorage-demo.png"),
    kill: bool = True,
    console: Console | None = None,
) -> Summary:
    """Tune a small neural network with several worker processes, kill one of them on the way, and verify the outcome.

    Args:
        url: the storage; by default as `moorage.connect` finds it. It must be one that processes can share.
        profile: a profile of the configuration file, in place of ``url``.
        workers: how many processes.
        trials: how many are to be completed.
        seed: of the proposing algorithm.
        plot: where to save the plot; None for none.
        kill: whether to kill (-9) a worker in the middle of a trial.
        console: where to print; by default standard output.

    Returns:
        What was found; ``ok`` and ``exit_code`` say whether all is as it must be.

    Raises:
        MissingExtra: scikit-learn, or matplotlib for the plot, is not installed.
        InvalidArgument: the plot's name has an unknown ending.
        Unsupported: processes cannot share this storage.
        KeyboardInterrupt: after Ctrl-C; the workers have ended then, and what they had completed is stored.
    """
    check_integer("workers", workers, least=1)
    check_integer("trials", trials, least=1)
    _require_extra(["numpy", "sklearn"] + (["matplotlib"] if plot is not None else []))
    if plot is not None and plot.suffix.lower() not in plots.FORMATS:  # before anybody waits for it
        raise InvalidArgument(f"{plot.name!r} should end with one of {', '.join(plots.FORMATS)}")
    settings = find_settings(url, profile)
    with connect(url, profile=profile) as storage:
        if Capability.SHARED not in storage.capabilities:
            raise Unsupported(
                f"the demonstration runs several processes, and {settings.url} exists in one alone; choose another "
                "storage, such as sqlite:///moorage.db"
            )
        experiment = storage.start_experiment(_create(storage, trials, seed))
        console = console or Console()
        demonstration = _Demonstration(storage, experiment, settings, console, kill=kill)
        summary = demonstration.run(_environment(url, profile), workers)
        _report(storage, summary, console)
        if plot is not None and summary.best is not None:
            summary = attrs.evolve(summary, plot=plots.save(storage, summary.experiment, plot))
            console.print(f"The plot is in [bold]{plot}[/bold].", soft_wrap=True, highlight=False)
        where = f" -s {settings.url}" if url is not None else f" --profile {profile}" if profile else ""
        _next_steps(summary, where, console)
        return summary


def _require_extra(modules: Sequence[str]) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f'the demonstration needs {module!r}, which is not installed: pip install "moorage[demo]"'
            )


def _environment(url: str | None, profile: str | None) -> dict[str, str]:
    """What makes a worker find the same storage; without an argument, it looks where this process has looked."""
    if url is not None:
        return {URL_VARIABLE: url}
    return {} if profile is None else {URL_VARIABLE: "", PROFILE_VARIABLE: profile}


def _create(storage: Storage, trials: int, seed: int) -> Experiment:
    """The experiment, of the next version that is free."""
    while True:
        versions = [one.version for one in storage.fetch_experiments({"name": NAME})]
        try:
            experiment = storage.create_experiment(
                name=NAME,
                version=max(versions, default=0) + 1,
                space=SPACE,
                algorithm={"name": "tree-structured Parzen estimator", "seed": seed},
                metadata={"data": "digits of scikit-learn", "model": "MLPClassifier", "epochs": EPOCHS},
                max_trials=trials,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
            )
        except DuplicateExperiment:
            continue  # another demonstration was faster
        storage.initialize_algorithm_lock(experiment)
        return experiment


class _Demonstration:
    """One run, from the first worker to the last."""

    def __init__(
        self, storage: Storage, experiment: Experiment, settings: Settings, console: Console, *, kill: bool
    ) -> None:
        self._storage = storage
        self._experiment = experiment
        self._wanted = experiment.max_trials or 0
        title = f"Moorage demo: {experiment.name}, version {experiment.version}, in {settings.url}"
        self._show = Show(console, title, self._wanted)
        self._kill = kill
        self._casualty: Casualty | None = None
        self._recovered = False
        self._killed: list[str] = []
        self._ends: list[End] = []

    def run(self, environment: dict[str, str], workers: int) -> Summary:
        """Run the workers to the end; what is not as it should be is in the checks."""
        logs = Path(tempfile.mkdtemp(prefix="moorage-demo-"))
        try:
            with self._show, Fleet(self._experiment.id, logs, environment) as fleet:
                for _ in range(workers):
                    fleet.start()
                self._show.tell(f"{workers} workers start, each a process of its own")
                failure = self._watch(fleet)
        except KeyboardInterrupt:
            self._storage.end_experiment(self._experiment, ExperimentStatus.STOPPED)
            done = self._storage.count_completed_trials(self._experiment)
            self._show.console.print(
                f"Stopped: all workers have ended. {done} completed trials are stored in {self._experiment.name}, "
                f"version {self._experiment.version}."
            )
            raise
        except BaseException as error:
            with contextlib.suppress(MoorageError):  # the first error matters more
                self._storage.end_experiment(self._experiment, ExperimentStatus.FAILED)
                self._storage.log_error(self._experiment, f"{type(error).__name__}: {error}")
            raise
        else:
            return self._finish(failure)
        finally:
            shutil.rmtree(logs, ignore_errors=True)

    def _finish(self, failure: Check | None) -> Summary:
        seconds = self._show.elapsed
        if failure is None:
            checks = verify(self._storage, self._experiment, self._ends, self._casualty, self._killed)
            if self._kill and self._casualty is None:
                checks.append(Check(ok=False, text="no worker could be killed in the middle of a trial"))
        else:
            checks = [failure]
        wrong = [check.text for check in checks if not check.ok]
        if wrong:
            self._storage.log_error(self._experiment, "; ".join(wrong))
        status = ExperimentStatus.FAILED if wrong else ExperimentStatus.FINISHED
        return Summary(
            experiment=self._storage.end_experiment(self._experiment, status),
            best=self._storage.best_trial(self._experiment),
            counts=self._storage.count_trials(self._experiment),
            casualty=self._casualty,
            checks=tuple(checks),
            plot=None,
            seconds=seconds,
        )

    def _watch(self, fleet: Fleet) -> Check | None:
        """Until all workers have ended; what went wrong, if anything did."""
        moved = time.monotonic()
        while True:
            working = any(worker.alive for worker in fleet)
            if self._listen(fleet):
                moved = time.monotonic()
            snapshot = Snapshot.read(self._storage, self._experiment)
            self._follow_casualty()
            done = Counter(end.worker for end in self._ends)
            self._show.update(snapshot, fleet, done)
            for worker in fleet:
                if worker.failed:
                    code = worker.process.returncode
                    self._show.console.print(worker.tail(), style="red", markup=False, highlight=False)
                    return Check(ok=False, text=f"worker {worker.name} ended unexpectedly (status {code})")
            if not working:
                return None
            if time.monotonic() - moved > _PATIENCE:
                return Check(ok=False, text=f"no worker has ended a trial for {_PATIENCE:.0f} s")
            aiming = self._kill and self._casualty is None and snapshot.completed >= self._wanted // 3
            if aiming:
                self._aim(fleet, snapshot)
            time.sleep(_AIM if aiming else _LOOK)

    def _listen(self, fleet: Fleet) -> bool:
        """Read what the workers have logged; whether a trial has ended."""
        before = len(self._ends)
        for worker in fleet:
            for line in worker.new_lines():
                if found := _ENDED.fullmatch(line):
                    end = End(trial=found[1], attempt=int(found[2]), worker=worker.name)
                    self._ends.append(end)
                    trial = self._storage.get_trial(end.trial, self._experiment)
                    again = f" in attempt {end.attempt}" if end.attempt > 1 else ""
                    story = f"worker {worker.name}: trial {short(trial)} {trial.status}{again}, {figures(trial)}"
                    recovered = self._casualty is not None and self._casualty.trial == trial.id
                    self._show.tell(story, "green" if recovered else "")
                elif found := _PROPOSED.fullmatch(line):
                    story = f"held the algorithm lock, observed {found[2]}, proposed {found[1]}"
                    self._show.tell(f"worker {worker.name}: {story}", detail=True)
        return len(self._ends) > before

    def _aim(self, fleet: Fleet, snapshot: Snapshot) -> None:
        """Kill a worker that is in the middle of a trial, if there is one, and start another in its place."""
        by_name = {worker.name: worker for worker in fleet if worker.alive}
        for trial in snapshot.running:
            last = snapshot.progress.get(trial.id)
            worker = by_name.get(trial.worker or "")
            if worker is not None and last is not None and EPOCHS // 10 <= last.step <= EPOCHS // 2:
                self._strike(fleet, worker, trial)
                return

    def _strike(self, fleet: Fleet, worker: Worker, trial: Trial) -> None:
        fleet.kill(worker)
        self._killed.append(worker.name)
        now = self._storage.get_trial(trial)
        ran = now.status is TrialStatus.RESERVED and now.token == trial.token
        what = f"while it ran trial {short(trial)}" if ran else "a moment too late: its trial had just ended"
        self._show.tell(f"worker {worker.name} killed with kill -9 {what}", "bold red")
        if ran:
            self._casualty = Casualty(trial=trial.id, attempt=trial.token, worker=worker.name)
        successor = fleet.start()
        self._show.tell(f"worker {successor.name} starts in its place", "red")

    def _follow_casualty(self) -> None:
        """Tell when the lost trial has a new worker."""
        if self._casualty is None or self._recovered:
            return
        trial = self._storage.get_trial(self._casualty.trial, self._experiment)
        if trial.token > self._casualty.attempt:
            self._recovered = True
            first = self._storage.fetch_attempts(trial)[0]
            self._show.tell(
                f"trial {short(trial)} {first.error}; recovered, worker {trial.worker} runs attempt {trial.token}",
                "bold yellow",
            )


def _report(storage: Storage, summary: Summary, console: Console) -> None:
    best = storage.fetch_trials(summary.experiment, where={"status": "completed"}, order="objective", limit=_BEST)
    table = Table(
        title=f"The best {len(best)} of {summary.counts[TrialStatus.COMPLETED]} completed trials",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    for name in ("loss", "right", *summary.experiment.space):
        table.add_column(name.replace("_", " "), justify="right")
    for trial in best:
        accuracy = trial.results.get("accuracy")
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in trial.params.values()]
        shown = f"{accuracy:.1%}" if isinstance(accuracy, float) else ""
        table.add_row(short(trial), f"{trial.objective or 0:.4f}", shown, *values)
    if best:
        console.print(table)
    for check in summary.checks:
        yes, no = ("✓ ", "✗ ") if console.encoding.startswith("utf") else ("ok: ", "WRONG: ")
        mark = (yes, "bold green") if check.ok else (no, "bold red")
        console.print(Text.assemble(mark, check.text), soft_wrap=not console.is_terminal)
    verdict = "All as it must be" if summary.ok else "This is not as it must be"
    console.print(Text(f"{verdict}, after {summary.seconds:.1f} s.", "bold green" if summary.ok else "bold red"))


def _next_steps(summary: Summary, where: str, console: Console) -> None:
    name = summary.experiment.name
    worker = Path(__file__).with_name("worker.py")
    lines = (f"moorage status{where} {name}", f"moorage plot{where} {name}", f"A worker to copy: {worker}")
    console.print("\nNext:", style="bold")
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
