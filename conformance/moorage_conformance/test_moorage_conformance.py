"""What ``pytest --pyargs moorage_conformance --moorage-url URL`` runs."""

from __future__ import annotations

from moorage_conformance.suite import ConformanceSuite


class TestStorage(ConformanceSuite):
    """The storage that the option names."""
