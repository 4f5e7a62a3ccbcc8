"""Commands that look: backends, info, experiments, trials, best."""

from __future__ import annotations

import ast
import datetime
import importlib.metadata
import json
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.common import (
    Column,
    ExperimentArgument,
    JsonOption,
    MaximizeOption,
    ProfileOption,
    StorageOption,
    UrlArgument,
    check_place,
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
    print_columns,
    print_json,
    record_json,
    short,
    shown,
    size_text,
    title,
    value_text,
)
from moorage.config import find_settings
from moorage.errors import InvalidQuery
from moorage.filters import suggest
from moorage.plugins import plugins
from moorage.schema import EXPERIMENTS, SCHEMA, TRIALS
from moorage.statuses import TrialStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from moorage.config import Settings
    from moorage.plugins import Backend
    from moorage.protocol import ReadOnlyStorage
    from moorage.records import Experiment, Trial

STYLES: Mapping[str, str] = {
    "new": "",
    "reserved": "cyan",
    "suspended": "yellow",
    "interrupted": "yellow",
    "completed": "green",
    "broken": "red",
    "pruned": "magenta",
}
"""The colour of each status of a trial."""

TABLE_LIMIT = 100
"""How many trials a table shows unless it is told."""


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(epilog=examples("moorage backends", "moorage backends --json"))(backends)
    app.command(epilog=examples("moorage info sqlite:///hpo.db", "moorage info --profile cluster --json"))(info)
    app.command(
        epilog=examples("moorage experiments -s sqlite:///hpo.db", "moorage experiments --json | jq -r '.[].name'")
    )(experiments)
    app.command(
        epilog=examples(
            "moorage trials digits --status broken",
            "moorage trials digits -w 'params.lr<0.01' -w 'objective<0.2' -n 10",
            "moorage trials digits --params lr,depth",
            "moorage trials digits --json | jq .objective",
        )
    )(trials)
    app.command(
        epilog=examples(
            "moorage best digits",
            "moorage best digits -n 5 --maximize",
            "moorage best digits --json | jq '.[0].params'",
        )
    )(best)


# Backends and storages


_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)(?:\[([A-Za-z0-9._-]+)\])?")


def _missing(backend: Backend) -> str | None:
    """The distribution that a backend lacks, as its extra tells; None where nothing is missing."""
    found = _REQUIREMENT.match(backend.extra or "")
    if found is None:
        return None
    name, extra = found.groups()
    try:
        requirements = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return name
    if extra is None:
        return None
    of_extra = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    for requirement in requirements:
        wanted = _REQUIREMENT.match(requirement)
        if wanted is None or not of_extra.search(requirement):
            continue
        try:
            importlib.metadata.distribution(wanted.group(1))
        except importlib.metadata.PackageNotFoundError:
            return wanted.group(1)
    return None


def backends(as_json: JsonOption = False) -> None:
    """List the installed backends, their URL schemes and options, and plugins that are broken."""
    found = plugins()
    installed = list({id(one): one for one in found.backends.values()}.values())
    if as_json:
        print_json(
            {
                "backends": [
                    {
                        "name": one.name,
                        "schemes": list(one.schemes),
                        "description": one.description,
                        "example": one.example,
                        "extra": one.extra,
                        "missing": _missing(one),
                        "options": [
                            {
                                "name": option.name,
                                "kind": option.kind.__name__,
                                "default": option.default,
                                "choices": list(option.choices),
                                "help": option.help,
                            }
                            for option in one.options
                        ],
                    }
                    for one in installed
                ],
                "broken": [{"name": one.name, "module": one.module, "reason": one.reason} for one in found.broken],
            }
        )
        return
    from rich.padding import Padding
    from rich.text import Text

    console = output()
    for backend in installed:
        missing = _missing(backend)
        line = Text(shown(backend.name), style="bold")
        line.append(f"  {shown(backend.description)}", style="not bold")
        console.print(line, soft_wrap=True)
        if missing:
            needs = f'needs {missing}, which is not installed: pip install "{shown(backend.extra)}"'
            console.print(Padding(Text(needs, style="yellow"), (0, 0, 0, 2), expand=False))
        schemes = ", ".join(f"{shown(scheme)}://" for scheme in backend.schemes)
        console.print(f"  {schemes}", soft_wrap=True)
        if backend.example:
            console.print(Text(f"  for example {shown(backend.example)}", style="dim"), soft_wrap=True)
        if backend.options:
            console.print(Padding(_options_table(backend), (0, 0, 0, 2), expand=False))
        console.print()
    for broken in found.broken:
        text = f"plugin {shown(broken.name)} ({shown(broken.module)}) is broken: {shown(broken.reason)}"
        console.print(Text(text, style="red"), soft_wrap=True)
    complain("Every backend also takes lock_ttl, heartbeat_timeout and retry_timeout, in seconds.")


def _options_table(backend: Backend) -> Table:
    table = new_table("option", "default", "meaning")
    table.columns[2].no_wrap = False
    for option in backend.options:
        default = option.default
        if option.default is None:
            text = "-"
        else:
            text = (
                str(default).lower()
                if isinstance(default, bool)
                else f"{default:g}"
                if isinstance(default, float)
                else str(default)
            )
        table.add_row(option.name, shown(text), shown(option.help))
    return table


def _file_of(settings: Settings) -> Path | None:
    """The file that a URL without a host names, if there is one."""
    url = settings.url
    if url.host is not None or url.username is not None or len(url.path) < 2:
        return None
    path = (url.base or Path.cwd()) / Path(url.path[1:]).expanduser()
    return path if path.is_file() else None


def info(
    url: UrlArgument = None,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a storage is: its backend, what that declares, how much is stored, and how fast it answers."""
    if url is not None and storage is not None:
        raise typer.BadParameter("give the URL once")
    url = url or storage
    check_place(url, profile)
    settings = find_settings(url, profile)
    with open_reading(url, profile) as opened:
        driver = opened.driver
        counts = {one.name: driver.count(one) for one in SCHEMA.collections}
        times: list[float] = []
        for _ in range(7):
            begun = time.perf_counter()
            driver.find(EXPERIMENTS, limit=1)
            times.append(time.perf_counter() - begun)
        latency = statistics.median(times) * 1000
        capabilities = sorted(str(one) for one in opened.capabilities)
        name = driver.name
    path = _file_of(settings)
    size = None
    if path is not None:
        beside = [path, path.with_name(f"{path.name}-wal")]
        size = sum(one.stat().st_size for one in beside if one.is_file())
    if as_json:
        print_json(
            {
                "backend": name,
                "url": str(settings.url),
                "source": settings.source,
                "capabilities": capabilities,
                "schema": SCHEMA.version,
                "size": size,
                "latency_ms": round(latency, 3),
                "counts": counts,
            }
        )
        return
    table = new_table("", "")
    table.show_header = False
    table.columns[1].no_wrap = False
    table.add_row("backend", shown(name))
    table.add_row("url", f"{shown(settings.url)}")
    table.add_row("named by", shown(settings.source))
    table.add_row("capabilities", ", ".join(capabilities) or "none")
    table.add_row("schema", f"version {SCHEMA.version} (current)")
    if size is not None:
        table.add_row("size", size_text(size))
    table.add_row("a read takes", f"{latency:.2f} ms")
    for collection, total in counts.items():
        table.add_row(collection.replace("_", " "), f"{total:,}".replace(",", " "))
    output().print(table)


# Experiments


def experiments(storage: StorageOption = None, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """List the experiments, with the number of trials of each status."""
    with open_reading(storage, profile) as opened:
        found = [(one, opened.count_trials(one.id)) for one in opened.fetch_experiments()]
    if as_json:
        print_json(
            [
                {**record_json(one), "trials": {str(status): total for status, total in counts.items()}}
                for one, counts in found
            ]
        )
        return
    if not found:
        complain("no experiments are stored")
        return
    rows = [one for one, _ in found]

    def total(status: TrialStatus) -> Column:
        cells = [str(counts[status] or "") for _, counts in found]
        return Column(str(status), cells, right=True)

    first = (TrialStatus.COMPLETED, TrialStatus.RESERVED, TrialStatus.BROKEN)
    print_columns(
        [
            Column("id", [short(one.id) for one in rows], firm=True),
            Column("experiment", [title(one) for one in rows], firm=True),
            Column("status", [str(one.status) for one in rows], firm=True),
            Column("trials", [str(sum(counts.values())) for _, counts in found], right=True, firm=True),
            *(total(status) for status in first),
            Column("created (UTC)", [moment(one.created)[:16] for one in rows]),
            *(total(status) for status in TrialStatus if status not in first),
            Column("user", [shown(one.user or "", 20) for one in rows]),
            Column("error", [first_line(one.error) for one in rows], most=20),
        ]
    )


# Trials

_CONDITION = re.compile(r"\s*([^<>=!\s]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_OPERATORS = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte", "=": "$eq", "==": "$eq", "!=": "$ne"}


def parse_conditions(conditions: Sequence[str]) -> dict[str, dict[str, object]]:
    """Comparisons such as ``params.lr<0.01`` as a query; all must hold.

    Raises:
        InvalidQuery: something is not a comparison.
    """
    query: dict[str, dict[str, object]] = {}
    for text in conditions:
        found = _CONDITION.fullmatch(text)
        if found is None or not found.group(3):
            raise InvalidQuery(
                f"{text!r} is not a comparison; write a field, one of < <= > >= = !=, and a value, as in "
                "'params.lr<0.01' or 'worker=node1:17'"
            )
        name, sign, value = found.groups()
        operators = query.setdefault(name, {})
        if _OPERATORS[sign] in operators:
            raise InvalidQuery(f"{name!r} is compared by {sign} twice")
        operators[_OPERATORS[sign]] = _condition_value(name, value)
        if name == "status":
            _check_status(operators[_OPERATORS[sign]])
    return query


def _check_status(value: object) -> None:
    known = [str(one) for one in TrialStatus]
    if value not in known:
        raise InvalidQuery(f"there is no status {value!r}.{suggest(value, known)} There are: {', '.join(known)}")


def _warn_of_unknown_names(storage: ReadOnlyStorage, experiment: Experiment, query: Mapping[str, object]) -> None:
    """Where nothing matches: say of each inner field that is asked for whether no trial at all has it."""
    for path in query:
        head, dot, name = path.partition(".")
        if not dot or storage.count_trials(experiment.id, where={path: {"$ne": None}}):
            continue
        some = storage.fetch_trials(experiment.id, limit=100)
        known = list(dict.fromkeys(key for one in some for key in getattr(one, head, ())))
        if head == "params":
            known += [one for one in experiment.space if one not in known]
        complain(f"warning: no trial of {title(experiment)} has {path}.{suggest(name, known)}")


def _condition_value(name: str, text: str) -> object:
    """The value that a user wrote: a number, true, false, null, a quoted text, or any other text as it is."""
    if text == "null":
        return None
    field = TRIALS.field(name)
    kind = "string" if name == "id" else None if field is None else field.kind
    unquoted = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else None
    if kind == "time":
        try:
            time_given = datetime.datetime.fromisoformat(unquoted or text)
        except ValueError:
            raise InvalidQuery(f"{name!r} is a time, and {text!r} is none; write it as in 2026-01-31T12:00") from None
        return time_given if time_given.tzinfo else time_given.replace(tzinfo=datetime.UTC)
    if unquoted is not None:
        return unquoted
    if kind in ("string", "text"):
        return text
    try:
        return json.loads(text, parse_constant=lambda constant: constant)
    except ValueError:
        pass
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return literal if isinstance(literal, (bool, int, float)) or literal is None else text


def trials(
    experiment: ExperimentArgument,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    status: Annotated[
        list[TrialStatus] | None,
        typer.Option("--status", help="Only trials of this status; may be repeated.", show_default=False),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            metavar="COMPARISON",
            help="Only trials of which this holds: a field, one of < <= > >= = !=, a value. May be repeated.",
            show_default=False,
        ),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="FIELDS",
            help="Sort by these fields, separated by commas; with a - in front from large to small. By default in "
            "order of submission.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=1,
            help=f"At most so many. By default a table has {TABLE_LIMIT} and --json all.",
            show_default=False,
        ),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="The params to show, separated by commas. By default as many as fit.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each trial as one line of JSON, with all its fields.")
    ] = False,
) -> None:
    """List the trials of an experiment.

    With --json, what JSON lacks is tagged: NaN is {"~float": "nan"}, a tuple {"~tuple": [...]}, and so on.
    """
    query: dict[str, object] = dict(parse_conditions(where or ()))
    if status:
        if "status" in query:
            raise typer.BadParameter("give --status or a --where about the status, not both")
        query["status"] = {"$in": [one.value for one in status]}
    fields = [name.strip() for name in order.split(",")] if order else None
    names = None if params is None else [name.strip() for name in params.split(",") if name.strip()]
    with open_reading(storage, profile) as opened:
        found = find_experiment(opened, experiment)
        if as_json:
            if fields is None and limit is None:
                matching = opened.iterate_trials(found.id, where=query)
            else:
                matching = iter(opened.fetch_trials(found.id, where=query, order=fields, limit=limit))
            one = None
            for one in matching:
                print_json(record_json(one), lines=True)
            if one is None:
                _warn_of_unknown_names(opened, found, query)
            return
        most = limit or TABLE_LIMIT
        rows = opened.fetch_trials(found.id, where=query, order=fields, limit=most + 1)
        total = opened.count_trials(found.id, where=query) if len(rows) > most else len(rows)
        if not rows:
            _warn_of_unknown_names(opened, found, query)
    if not rows:
        complain(f"{title(found)} has no such trials" if query else f"{title(found)} has no trials yet")
        return
    _print_trials(rows[:most], found, names)
    if total > most and limit is None:
        complain(f"the first {most} of {total} trials; --limit shows more")


def _param_names(rows: Sequence[Trial], experiment: Experiment) -> list[str]:
    """The params of some trials, those of the space first."""
    seen = dict.fromkeys(name for one in rows for name in one.params)
    known = [name for name in experiment.space if name in seen]
    return [*known, *(name for name in seen if name not in known)]


def _print_trials(rows: Sequence[Trial], experiment: Experiment, names: Sequence[str] | None) -> None:
    known = _param_names(rows, experiment)
    for name in names or ():
        if name not in known:
            raise InvalidQuery(
                f"no trial shown has a param {name!r}.{suggest(name, known)} There are: {', '.join(known) or 'none'}"
            )
    columns = [
        Column("id", [short(one.id) for one in rows], firm=True),
        Column("status", [str(one.status) for one in rows], firm=True, styles=STYLES),
        Column("objective", [number(one.objective) for one in rows], right=True, firm=True),
    ]
    for name in known if names is None else names:
        cells = [value_text(one.params[name]) if name in one.params else "" for one in rows]
        numeric = all(isinstance(one.params.get(name, 0), (int, float)) for one in rows)
        columns.append(Column(shown(name, 24), cells, right=numeric, firm=names is not None))
    columns += [
        Column("took", [_took(one) for one in rows], right=True),
        Column("worker", [shown(one.worker or "", 30) for one in rows]),
        Column("error", [first_line(one.error) for one in rows], most=20),
    ]
    print_columns(columns)


def _took(trial: Trial) -> str:
    if trial.start_time is None or trial.end_time is None:
        return ""
    return duration(max(0.0, (trial.end_time - trial.start_time).total_seconds()))


def best(
    experiment: ExperimentArgument,
    storage: StorageOption = None,
    profile: ProfileOption = None,
    maximize: MaximizeOption = False,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="How many.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show the completed trials with the best objective; the smallest one, unless told otherwise."""
    with open_reading(storage, profile) as opened:
        found = find_experiment(opened, experiment)
        rows = opened.fetch_trials(
            found.id,
            where={"status": TrialStatus.COMPLETED.value, "objective": {"$ne": None}},
            order="-objective" if maximize else "objective",
            limit=limit,
        )
    if as_json:
        print_json([record_json(one) for one in rows])
        return
    if not rows:
        complain(f"no trial of {title(found)} is completed with an objective yet")
        return
    if len(rows) > 1:
        _print_trials(rows, found, None)
        return
    (one,) = rows
    table = new_table("", "")
    table.show_header = False
    table.columns[1].no_wrap = False
    table.add_row("trial", shown(one.id))
    table.add_row("objective", repr(one.objective))
    for name, value in one.params.items():
        table.add_row(f"  {shown(name, 40)}", shown(value if isinstance(value, str) else repr(value), 200))
    others = {name: value for name, value in one.results.items() if one.results.types[name] != "objective"}
    for name, value in others.items():
        table.add_row(shown(name, 40), value_text(value, 200))
    table.add_row("ended", f"{moment(one.end_time)} UTC")
    if one.worker:
        table.add_row("worker", shown(one.worker))
    output().print(table)
