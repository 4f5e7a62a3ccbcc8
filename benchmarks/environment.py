"""Where and with what the measurements were taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import time
from pathlib import Path

_DISTRIBUTIONS = ("moorage", "sqlalchemy", "attrs", "optuna")
_ROOT = Path(__file__).parents[1]


def describe(folder: Path) -> dict[str, object]:
    """What may matter to someone who compares results.

    Args:
        folder: where the databases are.
    """
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
        "system": platform.platform(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load before": load(),
        "file system": _file_system(folder),
        "fsync in µs": round(_fsync_time(folder) * 1e6),
    }


def load() -> tuple[float, float, float] | None:
    """How busy the machine is: processes that want to run, over 1, 5 and 15 minutes."""
    return os.getloadavg() if hasattr(os, "getloadavg") else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str | None:
    commit = _git("rev-parse", "--short", "HEAD")
    return f"{commit} with changes" if commit and _git("status", "--porcelain") else commit


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str | None:
    df = shutil.which("df")
    if df is None:
        return None
    done = subprocess.run([df, "--output=fstype", folder], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout else None


def _fsync_time(folder: Path) -> float:
    """Seconds that one page written and made durable takes, the median of 50."""
    path = folder / "fsync"
    times: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(times)
