"""The judge of histories: textbook cases, simulated objects, every mutation of a truth, and brute force beside it."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TYPE_CHECKING, ClassVar, TypeVar

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidArgument
from holdfast_conformance.histories import History, Operation
from holdfast_conformance.linearizability import (
    MODELS,
    UNKNOWN,
    Budget,
    Claim,
    Counter,
    Finding,
    Lock,
    Model,
    Register,
    Verdict,
    check,
    load_of,
    minimize,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from holdfast.codec import Plain
    from holdfast_conformance.linearizability import Result

T = TypeVar("T")


class Cell(Model[int]):
    """The register of the textbooks, which can be written blindly."""

    name: ClassVar[str] = "cell"

    def initial(self) -> int:
        return 0

    def step(self, state: int, call: str, arguments: tuple[Plain, ...], result: Result) -> int | None:
        if call == "write":
            assert isinstance(arguments[0], int)
            return arguments[0]
        return state if result in (state, UNKNOWN) else None

    def changes(self, operation: Operation) -> bool:
        return operation.call == "write"


def did(
    process: str, invoked: int, returned: int | None, call: str, *arguments: Plain, to: Plain = None, key: str = "k"
) -> Operation:
    return Operation(
        process=process,
        key=key,
        call=call,
        arguments=arguments,
        result=to,
        invoked=invoked,
        returned=returned,
        outcome="unknown" if returned is None else "ok",
    )


def judged(operations: Sequence[Operation], model: Model[T]) -> Verdict:
    return check(History(operations=operations), model, least=None)


A, B, C, D = "A", "B", "C", "D"
NESTED = [did(A, 0, 100, "write", 1), did(B, 10, 20, "write", 2), did(C, 30, 40, "read", to=1)]
TEXTBOOK: dict[str, tuple[Callable[[], Model[T]], list[Operation], bool]] = {
    "nothing": (Cell, [], True),
    "one after the other": (Cell, [did(A, 0, 1, "write", 1), did(A, 2, 3, "read", to=1)], True),
    "stale read": (Cell, [did(A, 0, 1, "write", 1), did(B, 2, 3, "read", to=0)], False),
    "stale read while written": (Cell, [did(A, 0, 9, "write", 1), did(B, 2, 3, "read", to=0)], True),
    "new, then old, while written": (
        Cell,
        [did(A, 0, 9, "write", 1), did(B, 1, 2, "read", to=1), did(C, 3, 4, "read", to=0)],
        False,
    ),
    "old, then new, while written": (
        Cell,
        [did(A, 0, 9, "write", 1), did(B, 1, 2, "read", to=0), did(C, 3, 4, "read", to=1)],
        True,
    ),
    "a long write of what is overwritten meanwhile": (Cell, NESTED, True),
    "a long write of what is there already": (Cell, [did(D, -9, -8, "write", 1), *NESTED], True),
    "two readers disagree": (
        Cell,
        [
            did(A, 0, 9, "write", 1),
            did(B, 0, 9, "write", 2),
            did(C, 10, 11, "read", to=1),
            did(D, 12, 13, "read", to=2),
        ],
        False,
    ),
    "touching at one nanosecond": (Cell, [did(A, 0, 5, "write", 1), did(B, 5, 6, "read", to=0)], True),
    "cut off and happened": (Cell, [did(A, 0, None, "write", 1), did(B, 5, 6, "read", to=1)], True),
    "cut off and never happened": (Cell, [did(A, 0, None, "write", 1), did(B, 5, 6, "read", to=0)], True),
    "cut off and happened late": (
        Cell,
        [did(A, 0, None, "write", 1), did(B, 5, 6, "read", to=0), did(B, 7, 8, "read", to=1)],
        True,
    ),
    "cut off and undone": (
        Cell,
        [did(A, 0, None, "write", 1), did(B, 5, 6, "read", to=1), did(B, 7, 8, "read", to=0)],
        False,
    ),
    "cut off, seen before it was asked for": (
        Cell,
        [did(B, 5, 6, "read", to=1), did(A, 7, None, "write", 1)],
        False,
    ),
    "lost update": (
        Register,
        [
            did(A, 0, 1, "insert", "a", to=True),
            did(B, 2, 8, "swap", "b", 1, to=True),
            did(C, 3, 9, "swap", "c", 1, to=True),
        ],
        False,
    ),
    "one of two swaps": (
        Register,
        [
            did(A, 0, 1, "insert", "a", to=True),
            did(B, 2, 8, "swap", "b", 1, to=False),
            did(C, 3, 9, "swap", "c", 1, to=True),
            did(A, 10, 11, "get", to=["c", 2]),
        ],
        True,
    ),
    "a swap refused for nothing": (
        Register,
        [did(A, 0, 1, "insert", "a", to=True), did(B, 2, 8, "swap", "b", 1, to=False)],
        False,
    ),
    "1 is not true": (
        Register,
        [did(A, 0, 1, "insert", 1, to=True), did(B, 2, 8, "get", to=[True, 1])],
        False,
    ),
    "two inserts": (
        Register,
        [did(A, 0, 5, "insert", "a", to=True), did(B, 1, 6, "insert", "b", to=True)],
        False,
    ),
    "a delete between two inserts": (
        Register,
        [
            did(A, 0, 5, "insert", "a", to=True),
            did(B, 1, 6, "insert", "b", to=True),
            did(C, 1, 6, "delete", to=1),
            did(C, 7, 8, "delete", to=1),
            did(C, 9, 10, "delete", to=0),
        ],
        True,
    ),
    "nonsense instead of a result": (Register, [did(A, 0, 5, "insert", "a", to="yes")], False),
    "double claim": (
        Claim,
        [did(A, 0, 1, "add", "x"), did(B, 2, 5, "claim", to="x"), did(C, 3, 6, "claim", to="x")],
        False,
    ),
    "nothing while something is pending": (Claim, [did(A, 0, 1, "add", "x"), did(B, 2, 5, "claim", to=None)], False),
    "nothing while something is added": (Claim, [did(A, 0, 9, "add", "x"), did(B, 2, 5, "claim", to=None)], True),
    "a claim that was cut off took it": (
        Claim,
        [did(A, 0, 1, "add", "x"), did(B, 2, None, "claim"), did(C, 3, 6, "claim", to=None)],
        True,
    ),
    "a claim that was cut off took one, not two": (
        Claim,
        [
            did(A, 0, 1, "add", "x"),
            did(A, 2, 3, "add", "y"),
            did(B, 4, None, "claim"),
            did(C, 5, 6, "claim", to=None),
        ],
        False,
    ),
    "claimed, given back, claimed": (
        Claim,
        [
            did(A, 0, 1, "add", "x"),
            did(B, 2, 3, "claim", to="x"),
            did(B, 4, 5, "add", "x"),
            did(C, 2, 9, "claim", to="x"),
        ],
        True,
    ),
    "two holders": (Lock, [did(A, 0, 1, "acquire", to=1), did(B, 2, 3, "acquire", to=2)], False),
    "taken over": (
        MODELS["lease"],
        [
            did(A, 0, 1, "acquire", to=1),
            did(B, 2, 3, "acquire", to=2),
            did(A, 4, 5, "release", 1, to=False),
            did(B, 6, 7, "release", 2, to=True),
        ],
        True,
    ),
    "a stale release that succeeds": (
        MODELS["lease"],
        [did(A, 0, 1, "acquire", to=1), did(B, 2, 3, "acquire", to=2), did(A, 4, 5, "release", 1, to=True)],
        False,
    ),
    "a token twice": (
        Lock,
        [did(A, 0, 1, "acquire", to=1), did(A, 2, 3, "release", 1, to=True), did(B, 4, 5, "acquire", to=1)],
        False,
    ),
    "a holder that was cut off has a token in between": (
        MODELS["lease"],
        [did(A, 0, 1, "acquire", to=1), did(B, 2, None, "acquire"), did(A, 4, 5, "renew", 1, to=False)],
        True,
    ),
    "a holder that was cut off finds no token in between": (
        MODELS["lease"],
        [
            did(A, 0, 1, "acquire", to=1),
            did(B, 2, None, "acquire"),
            did(A, 4, 5, "renew", 1, to=False),
            did(C, 6, 7, "acquire", to=2),
            did(C, 8, 9, "renew", 2, to=True),
        ],
        False,
    ),
    "a number of the sum that was skipped": (
        Counter,
        [did(A, 0, 9, "add", 1, to=1), did(B, 0, 9, "add", 1, to=1)],
        False,
    ),
    "adds that tell nothing": (
        Counter,
        [did(A, 0, 9, "add", 1), did(B, 0, 9, "add", 2), did(C, 0, 9, "get", to=2), did(C, 10, 11, "get", to=3)],
        True,
    ),
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_cases_of_the_textbooks(name: str) -> None:
    make, operations, linearizable = TEXTBOOK[name]
    verdict = judged(operations, make())
    assert verdict.finding is (Finding.LINEARIZABLE if linearizable else Finding.VIOLATION)
    for one in verdict.keys.values():
        assert (one.stuck is None) is (one.finding is Finding.LINEARIZABLE)
        assert is_order(one.order, make()), "the order it shows is none"
    assert brute(operations, make()) is linearizable


# Brute force: every order of every subset that has all known operations. It shares nothing with the search but `step`,
# and for what a claim or an acquisition of unknown outcome returned it tries each answer instead of one state for all.


def answers(operation: Operation, operations: Sequence[Operation]) -> list[Result]:
    if operation.outcome == "ok":
        return [operation.result]
    if operation.call == "claim":
        items = [one.arguments[0] for one in operations if one.call == "add"]
        return list(dict.fromkeys([*items, None]))
    if operation.call == "acquire":
        return list(range(1, 9))
    return [UNKNOWN]


def brute(operations: Sequence[Operation], model: Model[T]) -> bool:
    happened = [one for one in operations if one.outcome != "fail"]

    def goes_on(state: T, left: tuple[Operation, ...]) -> bool:
        if all(one.outcome == "unknown" for one in left):
            return True
        limit = min(one.returned for one in left if one.returned is not None)
        for place, one in enumerate(left):
            if one.invoked <= limit:
                rest = left[:place] + left[place + 1 :]
                for result in answers(one, happened):
                    following = model.step(state, one.call, one.arguments, result)
                    if following is not None and goes_on(following, rest):
                        return True
        return False

    return goes_on(model.initial(), tuple(happened))


def is_order(order: Sequence[Operation], model: Model[T]) -> bool:
    """Whether these can happen in this order: legal, and nobody before what had returned when it was invoked."""
    state: T | None = model.initial()
    for one in order:
        assert state is not None
        state = model.step(state, one.call, one.arguments, one.result if one.outcome == "ok" else UNKNOWN)
        if state is None:
            return False
    latest = -(10**9)
    for one in order:
        if one.returned is not None and one.returned < latest:
            return False
        latest = max(latest, one.invoked)
    return True


def spans(chosen: random.Random, count: int, length: int) -> list[tuple[str, int, int]]:
    """Invocations and returns of a few processes, each doing one thing after the other."""
    found = []
    free = dict.fromkeys("ABC", 0)
    for _ in range(count):
        process = chosen.choice("ABC")
        invoked = free[process] + chosen.randint(0, 3)
        free[process] = invoked + chosen.randint(0, length)
        found.append((process, invoked, free[process]))
        free[process] += 1
    return found


def any_register(chosen: random.Random) -> tuple[str, tuple[Plain, ...], Plain]:
    body, revision = chosen.choice("ab"), chosen.randint(1, 3)
    return chosen.choice(
        [
            ("get", (), chosen.choice([None, [body, revision], [body, revision]])),
            ("insert", (body,), chosen.random() < 0.7),
            ("swap", (body, revision), chosen.random() < 0.7),
            ("delete", (), chosen.choice([0, 1])),
        ]
    )


def any_claim(chosen: random.Random) -> tuple[str, tuple[Plain, ...], Plain]:
    item = chosen.choice("xyz"[: chosen.randint(1, 3)])
    return chosen.choice([("add", (item,), None), ("claim", (), item), ("claim", (), chosen.choice([item, None]))])


def any_lock(chosen: random.Random) -> tuple[str, tuple[Plain, ...], Plain]:
    token = chosen.randint(1, 4)
    return chosen.choice(
        [
            ("acquire", (), chosen.choice([None, token, token, token])),
            ("release", (token,), chosen.random() < 0.6),
            ("renew", (token,), chosen.random() < 0.6),
        ]
    )


def any_counter(chosen: random.Random) -> tuple[str, tuple[Plain, ...], Plain]:
    by = chosen.choice([1, 1, 2, -1])
    return chosen.choice(
        [("add", (by,), None), ("add", (by,), chosen.randint(0, 3)), ("get", (), chosen.randint(0, 3))]
    )


def any_cell(chosen: random.Random) -> tuple[str, tuple[Plain, ...], Plain]:
    return chosen.choice([("write", (chosen.randint(0, 2),), None), ("read", (), chosen.randint(0, 2))])


ANY: dict[str, tuple[Callable[[], Model[T]], Callable[[random.Random], tuple[str, tuple[Plain, ...], Plain]]]] = {
    "register": (Register, any_register),
    "claim": (Claim, any_claim),
    "lock": (Lock, any_lock),
    "lease": (MODELS["lease"], any_lock),
    "counter": (Counter, any_counter),
    "cell": (Cell, any_cell),
}


def random_history(
    chosen: random.Random, kind: Callable[[random.Random], tuple[str, tuple[Plain, ...], Plain]]
) -> list[Operation]:
    operations = []
    cut_off = chosen.choice([0, 0.1, 0.3])
    for process, invoked, returned in spans(chosen, chosen.randint(2, 7), chosen.choice([3, 10, 25])):
        call, arguments, result = kind(chosen)
        unknown = chosen.random() < cut_off
        operations.append(
            did(process, invoked, None if unknown else returned, call, *arguments, to=None if unknown else result)
        )
    return operations


@pytest.mark.parametrize("name", ANY)
def test_it_agrees_with_brute_force_on_thousands_of_small_histories(name: str) -> None:
    make, kind = ANY[name]
    chosen = random.Random(f"brute {name}")
    found = {True: 0, False: 0}
    for _ in range(3000):
        operations = random_history(chosen, kind)
        truth = brute(operations, make())
        verdict = judged(operations, make())
        assert verdict.finding is (Finding.LINEARIZABLE if truth else Finding.VIOLATION), [
            str(one) for one in operations
        ]
        found[truth] += 1
    assert min(found.values()) > 150, found
