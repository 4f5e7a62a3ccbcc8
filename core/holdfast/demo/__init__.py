"""The demonstration: real processes tune a real model, one of them is killed on the way, and nothing is lost.

- `holdfast.demo.worker` is what each process runs, and a model for a worker of your own;
- `holdfast.demo.algorithm` proposes the trials; its state lives in the algorithm lock;
- `holdfast.demo.digits` is the model and its data;
- `run` starts and watches it all, and verifies the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.demo.checks import Check
    from holdfast.demo.parent import Summary, run

__all__ = ["Check", "Summary", "run"]


def __getattr__(name: str) -> object:
    """Import what is asked for; a worker needs nothing of it."""
    if name in ("Summary", "run"):
        from holdfast.demo import parent

        return getattr(parent, name)
    if name == "Check":
        from holdfast.demo.checks import Check

        return Check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
