"""The conformance suite: what a backend of Moorage guarantees, and how it is proved.

``moorage conformance URL`` runs it, and so does a subclass of `ConformanceSuite` in pytest. `Hooks` are what only the
author of a backend can do for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage_conformance.suite import ConformanceSuite
    from moorage_conformance.target import Hooks

__all__ = ["ConformanceSuite", "Hooks"]


def __getattr__(name: str) -> object:
    """Import what is asked for only then: the plugins of this package are loaded where nobody wants the suite."""
    if name == "ConformanceSuite":
        from moorage_conformance.suite import ConformanceSuite

        return ConformanceSuite
    if name == "Hooks":
        from moorage_conformance.target import Hooks

        return Hooks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
