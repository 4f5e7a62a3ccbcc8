"""Commands that move whole storages: copy, dump, load."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.common import (
    FAILED,
    ProfileOption,
    StorageOption,
    complain,
    examples,
    fail,
    messages,
    open_reading,
    shown,
)
from moorage.config import connect
from moorage.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.protocol import ReadOnlyStorage
    from moorage.transfer import Loaded, Written


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(epilog=examples("moorage copy sqlite:///hpo.db postgresql+psycopg://me@host/hpo"))(copy)
    app.command(
        epilog=examples(
            "moorage dump backup.jsonl",
            "moorage dump backup.jsonl --resume",
            "moorage dump - | zstd > backup.jsonl.zst",
        )
    )(dump)
    app.command(
        epilog=examples(
            "moorage load backup.jsonl -s postgresql+psycopg://me@host/hpo",
            "zstdcat backup.jsonl.zst | moorage load - -s sqlite:///hpo.db",
        )
    )(load)


@contextlib.contextmanager
def _progress(label: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, where that is a terminal."""
    console = messages()
    if not console.is_terminal:
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn() if total else progress.TextColumn("{task.completed}"),
        progress.TextColumn("documents"),
        progress.TimeRemainingColumn() if total else progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True) as shown_progress:
        task = shown_progress.add_task(label, total=total)
        yield lambda more: shown_progress.update(task, advance=more)


def _total(storage: ReadOnlyStorage) -> int:
    from moorage import transfer

    return sum(transfer.count(storage).values())


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{total} {name.replace('_', ' ')}" for name, total in sorted(counts.items()) if total)


def _report_written(written: Written) -> None:
    resumed = f", {written.resumed} of them from before" if written.resumed else ""
    complain(f"dumped {written.documents} documents{resumed}: {_listed(dict(written.counts)) or 'it is empty'}")
    complain(f"digest {written.digest}")


def _report_loaded(loaded: Loaded, verb: str) -> None:
    """Say what became of the documents; conflicts end the command."""
    stored = f", {loaded.present} were stored already" if loaded.present else ""
    complain(f"{verb} {loaded.documents} documents{stored}: {_listed(dict(loaded.inserted)) or 'nothing new'}")
    complain(f"digest {loaded.digest}")
    if not loaded.conflicting:
        return
    for conflict in loaded.conflicts:
        complain(f"conflict: {conflict.collection} {shown(conflict.id)}: {shown(conflict.reason)}")
    if loaded.conflicting > len(loaded.conflicts):
        complain(f"and {loaded.conflicting - len(loaded.conflicts)} more")
    fail(f"{loaded.conflicting} documents are in conflict with what is stored, and were left out", FAILED)


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The URL of the storage to read.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The URL of the storage to write.")],
) -> None:
    """Copy everything in one storage to another one, on any backend.

    Nothing that is stored in DST is changed. Run again, it goes on where it ended; what is stored there and differs is
    reported as a conflict.
    """
    from moorage import transfer

    with (
        open_reading(source, None) as opened,
        connect(destination) as target,
        _progress("copying", _total(opened)) as progress,
    ):
        loaded = transfer.copy(opened, target, progress=progress)
    _report_loaded(loaded, "copied")


def dump(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="Where to write; - is standard output.", show_default=False)
    ] = "-",
    storage: StorageOption = None,
    profile: ProfileOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a file that an interrupted dump left.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write everything stored as JSON Lines, without loss.

    The last line has counts and a digest; a file without it is incomplete. What is written to the storage meanwhile
    may or may not be included.
    """
    from moorage import transfer

    if file == "-":
        if resume or force:
            raise typer.BadParameter("--resume and --force need a FILE")
        with open_reading(storage, profile) as opened, _progress("dumping", _total(opened)) as progress:
            written = transfer.dump(opened, sys.stdout.buffer, progress=progress)
        _report_written(written)
        return
    path = Path(file)
    if resume and force:
        raise typer.BadParameter("give --resume or --force, not both")
    if path.exists() and not resume and not force:
        raise InvalidArgument(f"{path} exists; --resume goes on with an interrupted dump, --force replaces it")
    with open_reading(storage, profile) as opened, path.open("r+b" if resume and path.exists() else "wb") as stream:
        with _progress("dumping", sum(transfer.count(opened).values())) as progress:
            write = transfer.resume if resume and path.stat().st_size else transfer.dump
            written = write(opened, stream, progress=progress)
        stream.flush()
        os.fsync(stream.fileno())
    _report_written(written)


def load(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A dump; - is standard input.")],
    storage: StorageOption = None,
    profile: ProfileOption = None,
) -> None:
    """Store the documents of a dump.

    Nothing that is stored is changed. Run again, it goes on where it ended; what is stored and differs is reported as
    a conflict. A dump that is torn or damaged is reported; what came before is stored.
    """
    from moorage import transfer

    with contextlib.ExitStack() as stack:
        stream = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
        opened = stack.enter_context(connect(storage, profile=profile))
        progress = stack.enter_context(_progress("loading", None))
        loaded = transfer.load(opened, stream, progress=progress)
    _report_loaded(loaded, "loaded")
