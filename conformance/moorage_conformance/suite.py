"""The suite as a class of pytest: the same checks, results and exit codes as the command's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from moorage_conformance.results import Outcome
from moorage_conformance.specification import requirement
from moorage_conformance.target import Hooks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorage_conformance.checking import Check
    from moorage_conformance.runner import Session


class ConformanceSuite:
    """Subclass it, say where the storage is, and pytest runs every check as a test.

    ::

        class TestMine(ConformanceSuite):
            url = "mine://localhost:7000/{ns}"
            level = 2

    Where the URL, or the hooks, are known only when the tests run, they are fixtures of class scope, and the level is
    to be given.

    Attributes:
        url: of the storage, with ``{ns}`` where the name of a fresh namespace goes; by default what ``--moorage-url``
            says.
        level: which is to be shown; by default the one that the backend declares.
        hooks: what only the author can do; a `Hooks`.
        exemptions: by requirement, a link that says why it is not met.
        plugins: modules to register as plugins of Moorage, for backends that are not installed.
    """

    url: ClassVar[object] = None
    level: ClassVar[int | None] = None
    hooks: ClassVar[object] = Hooks()
    exemptions: ClassVar[Mapping[str, str]] = {}
    plugins: ClassVar[Sequence[str]] = ()

    def test_conforms(self, moorage_check: Check, moorage_session: Session) -> None:
        """One check of the suite."""
        if moorage_check.level > moorage_session.level:
            pytest.skip(f"above the level asked, {moorage_session.level}")
        result = moorage_session.run(moorage_check)
        unexpected = [
            one for one in moorage_check.requirements if one in self.exemptions and one not in result.violated
        ]
        if result.outcome is Outcome.FAIL and not any(requirement(one).decides for one in result.violated):
            pytest.xfail(f"{', '.join(result.violated)} decides nothing: {result.message}")
        if result.outcome is Outcome.FAIL:
            pytest.fail(f"{', '.join(result.violated)}: {result.message}", pytrace=False)
        if result.outcome is Outcome.PASS and unexpected:
            pytest.fail(f"{', '.join(unexpected)} is exempt, and yet it holds: remove the exemption", pytrace=False)
        if result.outcome is Outcome.EXEMPT:
            pytest.xfail(f"exempt: {self.exemptions[result.violated[0]]}")
        if result.outcome is not Outcome.PASS:
            pytest.skip(f"{result.outcome}: {result.message.partition(chr(10))[0]}")
