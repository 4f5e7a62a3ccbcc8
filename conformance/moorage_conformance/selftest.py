"""The self-test: every broken backend must be caught by a check of the requirement that it breaks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.errors import MoorageError
from moorage_conformance.checking import SuiteError, checks
from moorage_conformance.loopback import serving
from moorage_conformance.mutants import Mutant, mutants
from moorage_conformance.results import MutantResult, Outcome
from moorage_conformance.runner import run_check
from moorage_conformance.target import Hooks, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moorage_conformance.sampling import Sample

PLUGINS = ("moorage_conformance.mutants", "moorage_conformance.loopback")


@contextlib.contextmanager
def targeting(one: Mutant) -> Iterator[Target]:
    """What is tested: this mutant, in a folder of its own, with a server of its own where it needs one."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moorage-mutant-")))
        hooks = Hooks()
        if one.base == "loopback":
            hooks = server = stack.enter_context(serving(folder))
            place = f"{server.address}/{{ns}}"
        else:
            place = f"/{folder}/{{ns}}.db" if one.base == "sqlite" else "{ns}"
        if one.password:
            place = f"user:secret-{secrets.token_hex(4)}@{place}"
        url = f"mutant+{one.base}://{place}?mutant={one.name}"
        yield Target(url=url, hooks=hooks, plugins=PLUGINS)


def try_mutant(name: str, seed: int) -> MutantResult:
    """Run the checks of the requirement that a mutant breaks, until one has caught it."""
    one = mutants()[name]
    began = time.monotonic()
    caught, message = False, "no check covers it"
    with targeting(one) as target:
        conditions = target.conditions()
        for check in checks().values():
            if one.breaks not in check.requirements or caught:
                continue
            try:
                result = run_check(target, check, conditions=conditions, seed=seed)
            except (MoorageError, SuiteError) as error:
                message = f"{check.name}: {type(error).__name__}: {error}"
                continue
            caught = result.outcome is Outcome.FAIL and one.breaks in result.violated
            found = result.message.splitlines()[0] if result.message else ""
            message = f"{check.name}: {found}" if caught else f"{check.name}: {result.outcome}, {found}"
    return MutantResult(
        mutant=one.name,
        breaks=one.breaks,
        description=one.description,
        caught=caught,
        message=message,
        seconds=time.monotonic() - began,
    )


def chosen(only: Sequence[str], sample: Sample | None = None) -> list[str]:
    """The names of the mutants that are named, break a requirement or a group that is named, or all where none is.

    Of these, the part that a sample has.
    """
    words = {one.upper() for one in only}
    return [
        name
        for name, one in mutants().items()
        if (not words or words & {name.upper(), one.breaks, one.breaks.partition("-")[0]})
        and (sample is None or sample.holds(name))
    ]


@contextlib.contextmanager
def control_target() -> Iterator[Target]:
    """What a self-test reports on where no other storage is tested: the suite's own reference."""
    yield Target(url="memory://{ns}")


def self_test(
    seed: int,
    *,
    only: Sequence[str] = (),
    sample: Sample | None = None,
    processes: int = 2,
    tell: Callable[[MutantResult], None] = lambda result: None,
) -> tuple[MutantResult, ...]:
    """Try all mutants, or those named, some at a time; those that survive are tried once more, each by itself.

    Some are caught only where workers overlap, which they seldom do beside others on a busy machine.
    """
    names = chosen(only, sample)
    context = multiprocessing.get_context("spawn")
    found: dict[str, MutantResult] = {}
    for at_once in (processes, 1):
        left = [name for name in names if name not in found]
        with concurrent.futures.ProcessPoolExecutor(at_once, mp_context=context) as pool:
            for future in concurrent.futures.as_completed([pool.submit(try_mutant, name, seed) for name in left]):
                result = future.result()
                if result.caught or at_once == 1:
                    found[result.mutant] = result
                    tell(result)
    return tuple(found[name] for name in names)
