"""What the gate runs of many like things: another part each time, and together all of it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from moorage.errors import InvalidArgument
from moorage_conformance.mutants import mutants
from moorage_conformance.sampling import Sample
from moorage_conformance.selftest import chosen

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """
from moorage_conformance import ConformanceSuite


class TestIt(ConformanceSuite):
    url = "memory://{ns}"
    level = 2
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_the_parts_hold_everything_once() -> None:
    parts = [chosen((), Sample(part, 5)) for part in range(1, 6)]
    assert sorted(name for part in parts for name in part) == sorted(mutants())
    assert all(len(part) > len(mutants()) / 10 for part in parts)
    assert chosen((), Sample(1, 1)) == list(mutants())


@pytest.mark.parametrize("text", ["", "0/5", "6/5", "5", "1/0", "a/b", "-1/5", "1/5/2"])
def test_a_sample_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="PART/PARTS"):
        Sample.parse(text)


def test_a_sampled_self_test_says_so() -> None:
    name = next(iter(mutants()))
    part = next(part for part in range(1, 6) if Sample(part, 5).holds(name))
    arguments = ("moorage", "conformance", "--self-test", "--only", name, "--sample")
    assert f"a sample, part {part}/5 of all" in run(*arguments, f"{part}/5").stdout
    told = run(*arguments, f"{part % 5 + 1}/5")
    assert told.returncode == 4
    assert "has none of the broken backends" in told.stderr


def test_pytest_runs_level_1_and_a_part_of_the_rest(tmp_path: Path) -> None:
    suite = tmp_path / "test_it.py"
    suite.write_text(SUITE)

    def collected(*arguments: str) -> set[str]:
        told = run("pytest", "--collect-only", "-q", "-p", "no:cacheprovider", f"{suite}", *arguments).stdout
        return {line for line in told.splitlines() if "::" in line}

    everything = collected()
    parts = [collected(f"--moorage-sample={part}/3") for part in (1, 2, 3)]
    common = set.intersection(*parts)
    assert set.union(*parts) == everything
    assert 50 < len(common) < len(everything)
    assert sum(len(part - common) for part in parts) + len(common) == len(everything)
    told = run("pytest", "-q", "-p", "no:cacheprovider", f"{suite}", "--moorage-only=INSERT-1", "--moorage-sample=1/1")
    assert told.returncode == 0, told.stdout
    assert "so level 2 (Concurrent) is not shown" in told.stdout
    assert "a sample, part 1/1" in told.stdout
    assert run("pytest", f"{suite}", "--moorage-sample=4/3").returncode == pytest.ExitCode.USAGE_ERROR
