"""The command ``bench``: what the hot paths of a backend cost, and how that grows with the number of trials stored."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from pathlib import Path  # noqa: TC003  (read by Typer when the command is added)
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from moorage.cli.common import USAGE, JsonOption, examples, fail, messages, new_table, output, print_json
from moorage.errors import InvalidArgument, MissingExtra, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moorage import Experiment, Storage, Trial
    from moorage_conformance.target import Target

FORMAT = "moorage-bench-1"
PICTURES = (".png", ".svg", ".pdf")

BATCH = 100
"""How many trials are registered together."""

SAMPLES = 30
"""How often an operation is measured at most, at each size."""

STATE = {"seed": 7, "observed": [index / 7 for index in range(40)]}
"""What is kept under the lock: about 800 characters."""


@attrs.frozen
class Operation:
    """What is measured.

    Attributes:
        name: in tables.
        meaning: what one of it is.
        samples: how often it is measured at most, at each size.
    """

    name: str
    meaning: str
    samples: int = SAMPLES


OPERATIONS = (
    Operation("register", f"one trial, in a batch of {BATCH}", 5),
    Operation("reserve", "the oldest of the pending trials"),
    Operation("heartbeat", "of a reserved trial"),
    Operation("push results", "and complete the trial, in one step"),
    Operation("lock cycle", "acquire, set a state of 800 characters, release"),
    Operation("count", "the trials of each status"),
    Operation("fetch all", "one trial, in a list of all", 5),
)


@attrs.frozen(kw_only=True)
class Cost:
    """What an operation costs while so many trials are stored.

    Attributes:
        trials: how many.
        seconds: the median.
        samples: how many it is the median of.
    """

    trials: int
    seconds: float
    samples: int


@attrs.frozen(kw_only=True)
class Figures:
    """What was measured.

    Attributes:
        costs: by the name of the operation, ordered by size.
        left_out: sizes for which there was not enough time.
    """

    costs: Mapping[str, Sequence[Cost]]
    left_out: Sequence[int]

    @property
    def sizes(self) -> list[int]:
        """Those at which was measured."""
        return sorted({one.trials for costs in self.costs.values() for one in costs})


def growth(costs: Sequence[Cost]) -> float:
    """The exponent of growth: the slope of log cost over log size, by least squares; NaN with less than two sizes.

    0 is a constant cost, and 1 one that doubles where the trials do.
    """
    if len(costs) < 2:
        return math.nan
    logarithms = [math.log(one.trials) for one in costs], [math.log(one.seconds) for one in costs]
    return statistics.linear_regression(*logarithms).slope


def sizes_up_to(trials: int) -> list[int]:
    """At which sizes is measured: the largest one, a tenth and a hundredth of it."""
    return [size for size in (trials // 100, trials // 10, trials) if size >= 10]


def measure(
    target: Target, sizes: Sequence[int], seconds: float, tell: Callable[[str], None] = lambda text: None
) -> Figures:
    """Measure the hot paths, each size in a namespace of its own, which is removed afterwards.

    The sizes take turns, call by call, so that all of them meet the same weather on a machine that others use.

    Args:
        target: what is measured.
        sizes: the smallest first; it is never left out.
        seconds: how long it may take, half of it for storing the trials. Each operation is measured once in any case.
        tell: told what is going on.

    Raises:
        InvalidArgument: a namespace is not empty.
        StorageError: whatever the backend reports.
    """
    began = time.monotonic()
    works: list[_Work] = []
    with contextlib.ExitStack() as stack:
        for size in sizes:
            tell(f"storing {size:,} trials")
            storage = stack.enter_context(_fresh(target))
            experiment = _fill(storage, size, began + seconds / 2 if works else math.inf)
            if experiment is None:
                break
            works.append(_Work(storage, experiment, size))
        costs: dict[str, list[Cost]] = {}
        for place, operation in enumerate(OPERATIONS):
            tell(operation.name)
            left = began + seconds - time.monotonic()
            end = time.monotonic() + left / (len(OPERATIONS) - place)
            costs[operation.name] = _take_turns(works, operation, end)
    return Figures(costs=costs, left_out=tuple(sizes[len(works) :]))


@contextlib.contextmanager
def _fresh(target: Target) -> Iterator[Storage]:
    """A storage in a fresh namespace, which is removed afterwards."""
    from moorage import connect

    url = target.fresh()
    with connect(url) as storage:
        if not storage.is_empty():
            raise InvalidArgument(f"{target.parsed} holds something already, whatever name is put into it")
    try:
        with connect(url) as storage:
            yield storage
    finally:
        target.hooks.discard(url)


def _fill(storage: Storage, size: int, end: float) -> Experiment | None:
    """Store trials, every other one completed; None where they cannot all be stored until then."""
    from moorage import Trial, TrialStatus

    experiment = storage.create_experiment(name="bench", algorithm={"random": {"seed": 7}}, heartbeat_timeout=86_400)
    began = time.monotonic()
    for start in range(0, size, BATCH):
        now = time.monotonic()
        if start and now + (now - began) / start * (size - start) > end:
            return None
        trials = [
            Trial(
                params=_params(number),
                status=TrialStatus.COMPLETED if number % 2 else TrialStatus.NEW,
                results={"objective": 1 / (number + 1)} if number % 2 else {},
            )
            for number in range(start, min(start + BATCH, size))
        ]
        storage.register_trials(experiment, trials)
    return experiment


def _take_turns(works: Sequence[_Work], operation: Operation, end: float) -> list[Cost]:
    """The costs of an operation; at least one round, and further ones until then."""
    samples: dict[int, list[float]] = {work.size: [] for work in works}
    for turn in range(operation.samples):
        if turn and time.monotonic() >= end:
            break
        for work in works:
            if (taken := work.do(operation.name)) is not None:
                samples[work.size].append(taken)
    return [
        # No less than a nanosecond: a clock may be too coarse for a short call, and zero has no logarithm.
        Cost(trials=size, seconds=max(statistics.median(found), 1e-9), samples=len(found))
        for size, found in samples.items()
    ]


class _Work:
    """The operations on one filled storage."""

    def __init__(self, storage: Storage, experiment: Experiment, size: int) -> None:
        self._storage = storage
        self._experiment = experiment
        self.size = size
        self._numbers = iter(range(size, 2**62))
        # Half of the trials are pending; some are left, so that reserving never sees the last one.
        self._reservable = max(1, size // 4)
        self._reserved: list[Trial] = []
        self._beats = 0

    def do(self, name: str) -> float | None:
        """Do an operation once: the seconds that it took; None where that cannot be done any more."""
        work: dict[str, Callable[[], float | None]] = {
            "register": self._register,
            "reserve": self._reserve,
            "heartbeat": self._heartbeat,
            "push results": self._push,
            "lock cycle": self._cycle,
            "count": lambda: _timed(lambda: self._storage.count_trials(self._experiment)),
            "fetch all": lambda: _timed(lambda: self._storage.fetch_trials(self._experiment)) / self.size,
        }
        return work[name]()

    def _register(self) -> float:
        given = [_params(next(self._numbers)) for _ in range(BATCH)]
        identifiers: list[str] = []
        taken = _timed(
            lambda: identifiers.extend(one.id for one in self._storage.register_trials(self._experiment, given))
        )
        self._storage.delete_trials(self._experiment, {"id": {"$in": identifiers}})
        return taken / BATCH

    def _reserve(self) -> float | None:
        if self._reservable == 0:
            return None
        self._reservable -= 1
        taken: list[Trial | None] = []
        seconds = _timed(lambda: taken.append(self._storage.reserve_trial(self._experiment)))
        if taken[0] is None:
            raise StorageError("no trial could be reserved, and there are pending ones: run moorage conformance first")
        self._reserved.append(taken[0])
        return seconds

    def _heartbeat(self) -> float:
        self._beats += 1
        trial = self._reserved[self._beats % len(self._reserved)]
        return _timed(lambda: self._storage.update_heartbeat(trial))

    def _push(self) -> float | None:
        if not self._reserved:
            return None
        trial = self._reserved.pop()
        return _timed(
            lambda: self._storage.push_trial_results(trial, {"objective": 0.5, "accuracy": 0.75}, status="completed")
        )

    def _cycle(self) -> float:
        def work() -> None:
            with self._storage.acquire_algorithm_lock(self._experiment) as algorithm:
                algorithm.set_state(STATE)

        return _timed(work)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _params(number: int) -> dict[str, object]:
    return {
        "learning_rate": (number + 1) / 7919,
        "layers": number % 8 + 1,
        "activation": ("relu", "tanh", "gelu")[number % 3],
    }


# The command


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(
        epilog=examples(
            "moorage bench 'postgresql://me@host:5432/test?prefix={ns}_' --trials 100000 --seconds 600",
            "moorage bench 'sqlite:////tmp/{ns}.db' --plot costs.png",
        )
    )(bench)


def bench(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="The storage, with {ns} where the name of a fresh namespace goes.", show_default=False
        ),
    ],
    trials: Annotated[
        int,
        typer.Option(metavar="N", min=10, help="The most trials that are stored; also a tenth and a hundredth of it."),
    ] = 10_000,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="How long it may take; sizes that do not fit are left out.")
    ] = 60.0,
    json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, too: a .png, .svg or .pdf file.", show_default=False)
    ] = None,
) -> None:
    """Measure what the hot paths of a backend cost, and how that grows with the number of trials stored.

    One client calls, one call after the other. The storages that it fills are removed afterwards.
    """
    from moorage_conformance.target import Target

    if plot is not None:
        try:
            check_plot(plot)
        except InvalidArgument as error:
            fail(error, USAGE)
    target = Target(url=url)
    with messages().status("") as status:
        figures = measure(target, sizes_up_to(trials), seconds, status.update)
    if plot is not None:
        draw(figures, f"{target.backend.name}: cost of an operation", plot)
    if json:
        print_json(as_json(target, figures))
    else:
        _print(target, figures)


def as_json(target: Target, figures: Figures) -> dict[str, object]:
    """All figures, for programs."""
    from moorage_conformance.runner import environment, versions

    return {
        "format": FORMAT,
        "url": str(target.parsed),
        "backend": target.backend.name,
        "versions": versions(),
        "environment": dict(environment()),
        "sizes": figures.sizes,
        "left_out": list(figures.left_out),
        "operations": [
            {
                "name": operation.name,
                "meaning": operation.meaning,
                "costs": [
                    {
                        "trials": one.trials,
                        "milliseconds": round(one.seconds * 1e3, 6),
                        "per_second": round(1 / one.seconds, 3),
                        "samples": one.samples,
                    }
                    for one in figures.costs[operation.name]
                ],
                "growth": None if math.isnan(exponent := growth(figures.costs[operation.name])) else round(exponent, 4),
            }
            for operation in OPERATIONS
        ],
    }


def _print(target: Target, figures: Figures) -> None:
    console = output()
    console.print(f"{target.backend.name}: {target.parsed}", style="bold", soft_wrap=True)
    sizes = figures.sizes
    heads = [f"N = {size:,}" for size in sizes]
    table = new_table("operation", *heads, "per second", "growth", "one is", right=[*heads, "per second", "growth"])
    for operation in OPERATIONS:
        costs = figures.costs[operation.name]
        by_size = {one.trials: f"{one.seconds * 1e3:,.3f} ms" for one in costs}
        exponent = growth(costs)
        table.add_row(
            operation.name,
            *(by_size.get(size, "") for size in sizes),
            f"{1 / costs[-1].seconds:,.0f}" if costs else "",
            "" if math.isnan(exponent) else f"{exponent:+.2f}",
            operation.meaning,
        )
    console.print(table)
    used = ", ".join(f"{size:,}" for size in sizes)
    console.print(
        f"Medians, with N = {used} trials stored; per second at the largest. Growth: the cost grows as N to this "
        "power; 0 is constant, 1 is linear.",
        style="dim",
        soft_wrap=True,
    )
    if figures.left_out:
        listed = ", ".join(f"{size:,}" for size in figures.left_out)
        console.print(
            f"left out for want of time: N = {listed}; --seconds gives more",
            style="yellow",
            soft_wrap=True,
        )


def check_plot(path: Path) -> None:
    """See that a drawing can be made, before anything is measured.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidArgument: the path ends otherwise, or is in a folder that does not exist.
    """
    if path.suffix.lower() not in PICTURES:
        raise InvalidArgument(f"{path.name!r} should end with one of {', '.join(PICTURES)}")
    if not path.parent.is_dir():
        raise InvalidArgument(f"the folder {path.parent} of the plot does not exist; make it first")
    try:
        import matplotlib  # noqa: F401  (only whether it is there)
    except ModuleNotFoundError as error:
        raise MissingExtra(f'plots need {error.name!r}, which is not installed: pip install "moorage[plot]"') from error


def draw(figures: Figures, title: str, path: Path) -> None:
    """Draw the cost of each operation over the number of trials, with logarithmic axes.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    # Okabe and Ito, "Color Universal Design", 2008; the marks tell lines apart without colour.
    styles = zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#22262c"), "osD^vP*", strict=True)
    picture = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = picture.add_subplot()
    for operation, (color, mark) in zip(OPERATIONS, styles, strict=True):
        costs = figures.costs[operation.name]
        if not costs:
            continue
        exponent = growth(costs)
        label = operation.name if math.isnan(exponent) else f"{operation.name}  $N^{{{exponent:.2f}}}$"
        axes.plot(
            [one.trials for one in costs],
            [one.seconds * 1e3 for one in costs],
            color=color,
            marker=mark,
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlabel="trials stored (N)", ylabel="milliseconds", title=title)
    axes.set_xticks(figures.sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside right upper", frameon=False)
    picture.savefig(path, dpi=120)
