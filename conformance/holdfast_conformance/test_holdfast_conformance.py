"""What ``pytest --pyargs holdfast_conformance --holdfast-url URL`` runs."""

from __future__ import annotations

from holdfast_conformance.suite import ConformanceSuite


class TestStorage(ConformanceSuite):
    """The storage that the option names."""
