"""The demonstration: real processes tune a real model, one of them is killed on the way, and nothing is lost.

- `moorage.demo.worker` is what each process runs, and a model for a worker of your own;
- `moorage.demo.algorithm` proposes the trials; its state lives in the algorithm lock;
- `moorage.demo.digits` is the model and its data;
- `run` starts and watches it all, and verifies the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage.demo.checks import Check
    from moorage.demo.parent import Summary, run

__all__ = ["Check", "Summary", "run"]


def __getattr__(name: str) -> object:
    """Import what is asked for; a worker needs nothing of it."""
    if name in ("Summary", "run"):
        from moorage.demo import parent

        return getattr(parent, name)
    if name == "Check":
        from moorage.demo.checks import Check

        return Check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
