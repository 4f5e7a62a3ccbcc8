"""Is a recorded history linearizable: could its operations have happened one at a time, each while it was running?

Sources:

- M. Herlihy, J. Wing, "Linearizability: a correctness condition for concurrent objects", TOPLAS 12(3), 1990: what it
  means. It can be judged for each object (here: key) alone, which is also the partition of A. Horn, D. Kroening,
  "Faster linearizability checking via P-compositionality", FORTE 2015.
- J. Wing, C. Gong, "Testing and verifying concurrent objects", JPDC 17, 1993: the search over a list of invocations
  and returns, out of which an operation is lifted when it is placed, and into which it is put back.
- G. Lowe, "Testing for linearizability", Concurrency and Computation 29(4), 2017: configurations that were visited,
  pairs of the set of placed operations and the state, are never searched again.

Beyond these, the search does not branch where one order is as good as any other. An operation that is legal and leaves
the state as it is can be placed at once: from any order that places it later it can be moved to the front. So can those
that a model calls `Model.early`. Of unknown operations that ask for the same, the one invoked first goes first. And the
set of placed operations is held as the number of the first that is not, and a few bits from there on, so that
a configuration stays small however long the history is.
"""

from __future__ import annotations

import abc
import enum
import math
import time
from bisect import bisect_right
from collections import Counter as Tally
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

import attrs

from moorage.codec import Plain, dumps
from moorage.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence

    from moorage_conformance.histories import History, Operation

State = TypeVar("State", bound="Hashable")


class Unknown(enum.Enum):
    """The result of an operation of which nobody knows what it returned."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Result: TypeAlias = "Plain | Literal[Unknown.UNKNOWN]"


class Model(abc.ABC, Generic[State]):
    """What an object does when it is used by one process at a time; pure, and states are hashable.

    A state may stand for several: `step` then gives the one that stands for all that follow. So operations of unknown
    result need no branching.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def initial(self) -> State:
        """The state of an object that nobody has used."""

    @abc.abstractmethod
    def step(self, state: State, call: str, arguments: tuple[Plain, ...], result: Result) -> State | None:
        """The state after a call that returned this result, or None where it could not have returned it.

        Where the result is `UNKNOWN`, the state after it took effect; None where it could have had none.

        Raises:
            InvalidArgument: no such call.
        """

    def anything(self) -> State | None:
        """A state that stands for every state (it may allow more than all of them, never less), or None."""
        return None

    def changes(self, operation: Operation) -> bool:
        """Whether this operation may have changed the state; False only if it leaves any that allows it as it is.

        (Writing the value that is there changes nothing either, but would where another is.) Of a state that stands for
        several, what changes nothing may leave fewer.
        """
        return True

    def part(self, operation: Operation) -> Hashable:
        """The part of the state that the operation depends on and changes; None for all of it.

        Whoever removes every operation on one part from a linearizable history leaves a linearizable one.
        """
        return None

    def early(self, operations: Sequence[Operation]) -> Collection[int]:
        """The places of operations that are best placed as soon as they are legal; see the model of claims.

        Given are all operations on one key in the order of invocation; only those of known result may be named.
        """
        return ()

    def wanted(self, state: State, operation: Operation, candidates: Sequence[Operation]) -> bool:
        """Whether it can be worth while to place an operation of unknown outcome, or of the background, here.

        False only if wherever some order has it here, another has it later or never. The candidates are all operations
        of known result that could come next, if they were legal; those of the background, too.
        """
        return True

    def _no_such(self, call: str) -> InvalidArgument:
        return InvalidArgument(f"the model {self.name!r} has no call {call!r}")


_RegisterState: TypeAlias = tuple[str, int] | tuple[()] | Literal["any"]


class Register(Model[_RegisterState]):
    """One document with compare-and-set, as the primitives of `moorage.driver.Driver` define it.

    Calls: ``get()`` → ``[body, revision]`` or None; ``insert(body)`` → whether it was; ``swap(body, expected)`` →
    whether it was; ``delete()`` → how many went, 0 or 1. A revision is 1 after an insert, and one more after each swap.
    Bodies are equal if their JSON texts are: 1 is neither 1.0 nor true.
    """

    name = "register"

    def initial(self) -> _RegisterState:
        """No document."""
        return ()

    def anything(self) -> _RegisterState:
        """Any document, or none."""
        return "any"

    def step(
        self, state: _RegisterState, call: str, arguments: tuple[Plain, ...], result: Result
    ) -> _RegisterState | None:
        """See `Model.step`."""
        if call == "get":
            return self._get(state, result)
        if call == "insert":
            if result is False:
                return state or None
            return (dumps(arguments[0]), 1) if result in (True, UNKNOWN) and state in ("any", ()) else None
        if call == "swap":
            body, expected = arguments
            if not isinstance(expected, int):
                raise InvalidArgument(f"swap(body, expected) needs a revision, not {expected!r}")
            fits = state == "any" or (len(state) == 2 and state[1] == expected)
            if result is False:
                return state if state == "any" or not fits else None
            return (dumps(body), expected + 1) if result in (True, UNKNOWN) and fits else None
        if call == "delete":
            if result == 0:
                return () if state in ("any", ()) else None
            return () if result in (1, UNKNOWN) and state else None
        raise self._no_such(call)

    def _get(self, state: _RegisterState, result: Result) -> _RegisterState | None:
        if result is UNKNOWN:
            return state
        if result is None:
            return () if state in ("any", ()) else None
        if not isinstance(result, list) or len(result) != 2 or not isinstance(result[1], int):
            return None
        seen = (dumps(result[0]), result[1])
        return seen if state in ("any", seen) else None

    def changes(self, operation: Operation) -> bool:
        """A get, and what was refused, change nothing."""
        return operation.call != "get" and not (operation.outcome == "ok" and operation.result in (False, 0))


_ClaimState: TypeAlias = tuple[int, tuple[int, ...]]


class Claim(Model[_ClaimState]):
    """A set of pending items, each of which is handed to exactly one caller.

    Calls: ``add(item)`` → None, of an item that is not pending (again, where it was claimed and given back);
    ``claim()`` → an item that was pending, any of them, or None, only where none was. Arguments of a claim are ignored.

    A state is the bits of the pending items, and for each claim of unknown result the bits of those that it may have
    taken. Such sets lie within each other, for a later claim can choose among all that an earlier one could; so all
    those claims can be served just where the n-th set has at least n members (P. Hall, "On representatives of subsets",
    1935). Items are numbered as they are first seen.
    """

    name = "claim"

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}

    def _bit(self, item: Plain) -> int:
        text = dumps(item)
        bit = self._bits.get(text)
        if bit is None:
            bit = self._bits[text] = 1 << len(self._bits)
        return bit

    def initial(self) -> _ClaimState:
        """Nothing is pending."""
        return (0, ())

    def step(self, state: _ClaimState, call: str, arguments: tuple[Plain, ...], result: Result) -> _ClaimState | None:
        """See `Model.step`."""
        pending, taken = state
        if call == "claim":
            if result is UNKNOWN:
                return (pending, (*taken, pending)) if pending.bit_count() > len(taken) else None
            if result is None:
                return (0, ()) if pending.bit_count() == len(taken) else None
            bit = self._bit(result)
            if not pending & bit:
                return None
            return self._fit(pending ^ bit, [one & ~bit for one in taken])
        if call == "add":
            bit = self._bit(arguments[0])
            if not pending & bit:
                return (pending | bit, taken)
            # Then a claim of unknown result took it: the first that could, for the others have more to choose from.
            for place, one in enumerate(taken):
                if one & bit:
                    rest = [other & ~bit for other in (*taken[:place], *taken[place + 1 :])]
                    fitting = self._fit(pending ^ bit, rest)
                    return None if fitting is None else (pending, fitting[1])
            return None
        raise self._no_such(call)

    def _fit(self, pending: int, taken: list[int]) -> _ClaimState | None:
        if all(one.bit_count() > place for place, one in enumerate(taken)):
            return (pending, tuple(taken))
        return None

    def changes(self, operation: Operation) -> bool:
        """A claim of nothing changes nothing."""
        return operation.call != "claim" or operation.outcome != "ok" or operation.result is not None

    def part(self, operation: Operation) -> Hashable:
        """The item."""
        if operation.call == "add":
            return dumps(operation.arguments[0])
        return None if operation.outcome != "ok" or operation.result is None else dumps(operation.result)

    def early(self, operations: Sequence[Operation]) -> Collection[int]:
        """Claims of an item that no other claim of it overlaps, and only adds of it that overlap no claim of nothing.

        Let the claim of an item be legal now, and placed later in some order. Nothing in between needs the item to be
        pending but another claim of it, which must be of unknown result and can change places with this one; and
        what needs it to be gone (a claim of nothing, another add) is still legal. An add that is legal now and placed
        later is in the way of nothing but claims of nothing, and of another add of the same item.
        """
        claims: dict[Hashable, list[int]] = defaultdict(list)
        adds: dict[Hashable, list[int]] = defaultdict(list)
        nothing: list[tuple[float, float]] = []
        for place, one in enumerate(operations):
            if one.call == "add":
                adds[self.part(one)].append(place)
            elif one.outcome == "ok" and one.result is not None:
                claims[self.part(one)].append(place)
            elif one.outcome == "ok":
                nothing.append((one.invoked, _end(one)))
        busy = list(_merged(nothing))
        found = {
            places[0]
            for places in adds.values()
            if len(places) == 1 and operations[places[0]].outcome == "ok" and not _touches(busy, operations[places[0]])
        }
        for places in claims.values():
            latest = -math.inf
            for place in places:
                if operations[place].invoked > latest:
                    alone = place
                    found.add(place)
                else:
                    found.discard(alone)
                latest = max(latest, _end(operations[place]))
        return found

    def wanted(self, state: _ClaimState, operation: Operation, candidates: Sequence[Operation]) -> bool:
        """An add just before a claim of the item; a claim just before a claim of nothing, or another add of an item."""
        if operation.call == "add":
            item = self.part(operation)
            return any(one.call == "claim" and self.part(one) == item for one in candidates)
        return any(
            state[0] & self._bit(one.arguments[0]) if one.call == "add" else one.result is None for one in candidates
        )


def _end(operation: Operation) -> float:
    return math.inf if operation.returned is None else operation.returned


def _merged(spans: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Spans in order of their begin, with those that overlap made one."""
    begin, end = -math.inf, -math.inf
    for one, other in spans:
        if one > end:
            if begin > -math.inf:
                yield begin, end
            begin, end = one, other
        else:
            end = max(end, other)
    if begin > -math.inf:
        yield begin, end


def _touches(spans: Sequence[tuple[float, float]], operation: Operation) -> bool:
    place = bisect_right(spans, (_end(operation), math.inf))
    return place > 0 and spans[place - 1][1] >= operation.invoked


@attrs.frozen(slots=True)
class _LockState:
    """The lock's last token, or the least that it can be, and the ones that an unknown holder is known not to have."""

    token: float = 0
    held: bool = False
    exact: bool = True
    excluded: frozenset[float] = frozenset()


class Lock(Model[_LockState]):
    """A lock whose every holder gets a greater token than all before, and which ignores who holds it no more.

    Calls: ``acquire()`` → a token, or None, only where somebody held it; ``release(token)`` and ``renew(token)`` →
    whether the token is that of the holder; a release then frees the lock. Tokens are integers from 1.

    Args:
        lease: whether a lock that is held may be taken over, since its holder's lease may be over. Then exclusion is
            that of the tokens alone. (When a lease ends is not told by the order of operations.)
    """

    name = "lock"

    def __init__(self, *, lease: bool = False) -> None:
        self.lease = lease

    def initial(self) -> _LockState:
        """Free, and never held."""
        return _LockState()

    def anything(self) -> _LockState:
        """Free or held, by whomever."""
        return _LockState(-math.inf, True, False)

    def step(self, state: _LockState, call: str, arguments: tuple[Plain, ...], result: Result) -> _LockState | None:
        """See `Model.step`."""
        if call == "acquire":
            return self._acquire(state, result)
        if call not in ("release", "renew"):
            raise self._no_such(call)
        token = arguments[0]
        if not isinstance(token, int):
            raise InvalidArgument(f"{call}(token) needs an integer, not {token!r}")
        if not state.held:
            fits, sure = False, True
        elif state.exact:
            fits, sure = token == state.token, True
        else:
            fits, sure = token >= state.token and token not in state.excluded, False
        if result is False:
            return self._exclude(state, token) if fits and not sure else None if fits else state
        return _LockState(token, call == "renew") if result in (True, UNKNOWN) and fits else None

    def _acquire(self, state: _LockState, result: Result) -> _LockState | None:
        somehow = state.token == -math.inf
        if result is None:
            return state if state.held else None
        if state.held and not self.lease and not somehow:
            return None
        if result is UNKNOWN:
            return state if somehow else _LockState(state.token + 1, True, False)
        return _LockState(result, True) if type(result) is int and result > max(state.token, 0) else None

    def _exclude(self, state: _LockState, token: int) -> _LockState:
        if state.token == -math.inf:
            return state
        excluded, least = state.excluded | {token}, state.token
        while least in excluded:
            excluded -= {least}
            least += 1
        return _LockState(least, True, False, excluded)

    def changes(self, operation: Operation) -> bool:
        """An acquisition that failed, a refusal and a renewal change nothing."""
        return operation.call != "renew" and (operation.outcome != "ok" or operation.result not in (None, False))


_CounterState: TypeAlias = int | Literal["any"]


class Counter(Model[_CounterState]):
    """A number that starts at 0.

    Calls: ``add(number)`` → the sum after it, or None where it tells nothing; ``get()`` → the number.
    """

    name = "counter"

    def initial(self) -> _CounterState:
        """Zero."""
        return 0

    def anything(self) -> _CounterState:
        """Any number."""
        return "any"

    def step(
        self, state: _CounterState, call: str, arguments: tuple[Plain, ...], result: Result
    ) -> _CounterState | None:
        """See `Model.step`."""
        if call == "get":
            after = state
        elif call == "add":
            by = arguments[0]
            if not isinstance(by, int):
                raise InvalidArgument(f"add(number) needs an integer, not {by!r}")
            after = state if state == "any" else state + by
        else:
            raise self._no_such(call)
        if result is UNKNOWN or (result is None and call == "add"):
            return after
        return result if type(result) is int and after in ("any", result) else None

    def changes(self, operation: Operation) -> bool:
        """A get changes nothing."""
        return operation.call != "get"

    def wanted(self, state: _CounterState, operation: Operation, candidates: Sequence[Operation]) -> bool:
        """Just before something that tells the number, unless it tells the number itself."""
        return operation.result is not None or any(one.result is not None for one in candidates)


MODELS: Mapping[str, Callable[[], Register | Claim | Lock | Counter]] = {
    "register": Register,
    "claim": Claim,
    "lock": Lock,
    "lease": lambda: Lock(lease=True),
    "counter": Counter,
}
"""How the models are named in histories."""


class Finding(enum.StrEnum):
    """What a check says of a history."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Budget:
    """How much a check may spend; whatever runs out first ends it, and it has found nothing out.

    Attributes:
        seconds: of this machine.
        configurations: pairs of placed operations and state that are visited; each takes some hundred bytes
            of memory, and one of 5,000 items that are claimed a thousand.
    """

    seconds: float = 60.0
    configurations: int = 1_000_000


@attrs.frozen(kw_only=True)
class KeyVerdict:
    """What was found out about one key.

    Attributes:
        finding: of this key alone.
        reason: in words.
        operations: how many were judged; those that failed are not.
        configurations: how many the search has visited.
        order: the longest linearizable prefix, as the order in which its operations took effect. Where the finding is
            LINEARIZABLE, it has all of them but those of unknown outcome that need not have happened.
        stuck: the operation that could not be placed by the time it returned, in any order that leads that far. None
            unless the finding is VIOLATION.
    """

    finding: Finding
    reason: str
    operations: int
    configurations: int
    order: tuple[Operation, ...]
    stuck: Operation | None = None


@attrs.frozen(kw_only=True)
class Verdict:
    """What was found out about a history.

    Attributes:
        finding: VIOLATION where any key has one; otherwise UNKNOWN where any key is, or the load was too little.
        reason: in words.
        keys: the verdict on each key.
        load: what the history held.
    """

    finding: Finding
    reason: str
    keys: Mapping[str, KeyVerdict]
    load: Load

    @property
    def violating(self) -> tuple[str, ...]:
        """The keys with a violation."""
        return tuple(key for key, one in self.keys.items() if one.finding is Finding.VIOLATION)

    @property
    def configurations(self) -> int:
        """How many configurations were visited for all keys."""
        return sum(one.configurations for one in self.keys.values())


LEAST = 100
"""How many operations of known outcome a history needs by default to mean anything."""


@attrs.frozen(kw_only=True)
class Load:
    """How much a history puts a storage to the test.

    Attributes:
        operations: how many returned.
        failed: how many have certainly not happened.
        unknown: how many were cut off.
        processes: how many processes took part.
        keys: how many keys they used.
        overlapping: how many of those that returned overlap another such on the same key.
        most: how many of them ran at once on one key.
    """

    operations: int
    failed: int
    unknown: int
    processes: int
    keys: int
    overlapping: int
    most: int

    def lack(self, least: int = LEAST) -> str | None:
        """Why a history of this load means nothing, or None if it may mean something.

        Any storage passes with few operations, or with none at the same time as another.
        """
        if self.operations < least:
            return f"too little load: {self.operations} operations returned, and {least} are needed"
        if not self.overlapping:
            return "too little load: no two operations on the same key overlapped"
        return None


def load_of(history: History) -> Load:
    """How much a history puts a storage to the test."""
    outcomes = Tally(one.outcome for one in history.operations)
    overlapping, most = 0, 0
    for operations in _by_key(history.operations).values():
        running: dict[int, float] = {}
        touched: set[int] = set()
        for place, one in enumerate(operations):
            if one.outcome != "ok":
                continue
            running = {other: end for other, end in running.items() if end >= one.invoked}
            if running:
                touched.update(running, (place,))
            running[place] = _end(one)
            most = max(most, len(running))
        overlapping += len(touched)
    return Load(
        operations=outcomes["ok"],
        failed=outcomes["fail"],
        unknown=outcomes["unknown"],
        processes=len(history.processes),
        keys=len(history.keys),
        overlapping=overlapping,
        most=most,
    )


def _by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        found[one.key].append(one)
    return dict(found)


def check(history: History, model: Model[State], *, budget: Budget | None = None, least: int | None = LEAST) -> Verdict:
    """Judge a history, each key by itself.

    Args:
        history: what was recorded.
        model: what each key should do.
        budget: what all keys together may spend; those with the fewest operations come first.
        least: how many operations must have returned for the history to mean anything; None takes any history, also
            one in which no two operations overlap.
    """
    budget = budget or Budget()
    deadline = time.monotonic() + budget.seconds
    load = load_of(history)
    if history.midway:
        start = model.anything()
        if start is None:
            raise InvalidArgument(f"the model {model.name!r} cannot judge a history that begins midway")
    else:
        start = model.initial()
    background = _by_key(history.background)
    left = budget.configurations
    keys: dict[str, KeyVerdict] = {}
    for key, operations in sorted(_by_key(history.operations).items(), key=lambda one: len(one[1])):
        search = _Search(model, start, operations, background.get(key, []), left, deadline)
        keys[key] = search.run()
        left -= keys[key].configurations
    finding, reason = _together(keys)
    lack = None if least is None else load.lack(least)
    if lack is not None and finding is not Finding.VIOLATION:
        finding, reason = Finding.UNKNOWN, lack
    return Verdict(finding=finding, reason=reason, keys={key: keys[key] for key in history.keys}, load=load)


def _together(keys: Mapping[str, KeyVerdict]) -> tuple[Finding, str]:
    for finding in (Finding.VIOLATION, Finding.UNKNOWN):
        found = [(key, one) for key, one in keys.items() if one.finding is finding]
        if found:
            more = f" (and {len(found) - 1} more keys)" if len(found) > 1 else ""
            return finding, f"{found[0][0]}: {found[0][1].reason}{more}"
    count = sum(one.operations for one in keys.values())
    return Finding.LINEARIZABLE, f"{count} operations on {len(keys)} keys can be put in order"


_HEAD = 0
_CLOCK_EVERY = 256


@attrs.define(eq=False)
class _Frame:
    """One configuration on the way down: what is still to be tried, and what to restore when that is all done."""

    choices: list[tuple[int, Any]]
    base: int
    window: int
    optional: int
    state: Any
    settled: bool


class _Search(Generic[State]):
    """The search for an order of the operations on one key.

    Events are numbered by time, from 1; an invocation at the same nanosecond as a return comes first, so that the two
    overlap. ``after`` and ``before`` are the doubly-linked list of the events of operations that are not placed yet.
    The placed ones are ``base``, those before this number in the order of invocation, and ``window``, bits from there
    on. Operations of unknown outcome are in neither: they have no return, and wait in groups, of which the next one is
    a choice; those placed are the bits of ``optional``. A configuration is as good as visited if the same was with some
    of these operations left, for they need not be used.
    """

    def __init__(
        self,
        model: Model[State],
        start: State,
        operations: Sequence[Operation],
        background: Sequence[Operation],
        configurations: int,
        deadline: float,
    ) -> None:
        self.model = model
        self.start = start
        self.configurations = configurations
        self.deadline = deadline
        happened = [one for one in operations if one.outcome != "fail"]
        self.total = len(happened)
        self.known = [one for one in happened if one.outcome == "ok"]
        early = model.early(happened)
        self.early = [place in early for place, one in enumerate(happened) if one.outcome == "ok"]
        self.settling = [not model.changes(one) for one in self.known]
        self._link()
        self._group([one for one in happened if one.outcome == "unknown"], background)

    def _link(self) -> None:
        """Make the list of events."""
        events = sorted(
            [(one.invoked, 0, place) for place, one in enumerate(self.known)]
            + [(_end(one), 1, place) for place, one in enumerate(self.known)]
        )
        count = len(events)
        self.after: list[int] = [*range(1, count + 1), _HEAD]
        self.before: list[int] = [count, *range(count)]
        self.operation = [-1, *(place for _, _, place in events)]
        self.returns = [True, *(kind == 1 for _, kind, _ in events)]
        self.time = [math.inf, *(moment for moment, _, _ in events)]
        self.events: list[list[int]] = [[] for _ in self.known]
        for event, (_, _, place) in enumerate(events, 1):
            self.events[place].append(event)

    def _group(self, unknown: Sequence[Operation], background: Sequence[Operation]) -> None:
        """Sort out operations that need not have happened by what they ask for, each in the order of invocation."""
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        self.unknown: list[Operation] = []
        self.results: list[Result] = []
        told: list[tuple[Operation, Result]] = [(one, UNKNOWN) for one in unknown]
        told += [(one, one.result if one.outcome == "ok" else UNKNOWN) for one in background if one.outcome != "fail"]
        for one, result in sorted(told, key=lambda pair: pair[0].invoked):
            if self.model.changes(one):
                what = None if result is UNKNOWN else dumps(result)
                groups[one.call, dumps(list(one.arguments)), what].append(len(self.unknown))
                self.unknown.append(one)
                self.results.append(result)
        self.groups = list(groups.values())
        self.used = [0] * len(self.groups)
        self.group_of = {place: number for number, places in enumerate(self.groups) for place in places}

    def _lift(self, place: int) -> None:
        after, before = self.after, self.before
        for event in self.events[place]:
            after[before[event]] = after[event]
            before[after[event]] = before[event]

    def _unlift(self, place: int) -> None:
        after, before = self.after, self.before
        for event in reversed(self.events[place]):
            after[before[event]] = event
            before[after[event]] = event

    def _choices(self, state: State) -> tuple[list[tuple[int, State]], bool]:
        """Operations that may come next, last the one to try first; and whether it is the only one worth trying."""
        step, known, after, returns = self.model.step, self.known, self.after, self.returns
        found: list[tuple[int, int, State]] = []
        event = after[_HEAD]
        while not returns[event]:
            place = self.operation[event]
            one = known[place]
            following = step(state, one.call, one.arguments, one.result)
            if following is not None:
                if self.early[place] or (self.settling[place] and following == state):
                    return [(place, following)], True
                found.append((-self.events[place][1], place, following))
            event = after[event]
        found.sort(key=lambda choice: choice[0])
        return [(place, following) for _, place, following in found], False

    def _unknown_choices(self, state: State) -> list[tuple[int, State]]:
        """Operations of unknown outcome that may come next, numbered below zero."""
        candidates: list[Operation] = []
        event = self.after[_HEAD]
        while not self.returns[event]:
            candidates.append(self.known[self.operation[event]])
            event = self.after[event]
        limit = self.time[event]
        places = [places[used] for places, used in zip(self.groups, self.used, strict=True) if used < len(places)]
        places = [place for place in places if self.unknown[place].invoked <= limit]
        candidates += [self.unknown[place] for place in places if self.results[place] is not UNKNOWN]
        found: list[tuple[int, State]] = []
        for place in places:
            one = self.unknown[place]
            if self.model.wanted(state, one, candidates):
                following = self.model.step(state, one.call, one.arguments, self.results[place])
                if following is not None and following != state:
                    found.append((-1 - place, following))
        found.reverse()
        return found

    def _first_return(self) -> int:
        event = self.after[_HEAD]
        while not self.returns[event]:
            event = self.after[event]
        return event

    def run(self) -> KeyVerdict:
        """Search depth first, without recursion."""
        base, window, optional, state = 0, 0, 0, self.start
        # For each placed set and state, the fewest operations of unknown outcome that were used up to get there.
        visited: dict[tuple[int, int, State], tuple[int, ...]] = {(base, window, state): (optional,)}
        count = 1
        frames: list[_Frame] = []
        trail: list[int] = []
        best = (0, 0, 0)
        best_trail: list[int] = []
        after = self.after
        choices, settled = self._choices(state)
        while after[_HEAD] != _HEAD:
            # Of a settled choice all that follows is in its own configuration; unknown ones are tried when stuck.
            if not choices and not settled and self.groups:
                choices, settled = self._unknown_choices(state), True
            if not choices:
                reached = self._reached(len(trail), optional)
                if reached > best:
                    best, best_trail = reached, trail.copy()
                if not frames:
                    return self._violation(best, best_trail, count)
                frame = frames.pop()
                self._take_back(trail.pop())
                choices, settled = frame.choices, frame.settled
                base, window, optional, state = frame.base, frame.window, frame.optional, frame.state
                continue
            place, following = choices.pop()
            placed, further, used = self._placed(place, base, window, optional)
            configuration = (placed, further, following)
            masks = visited.get(configuration)
            if masks is None:
                visited[configuration] = (used,)
            elif any(mask & used == mask for mask in masks):
                continue
            else:
                visited[configuration] = (*(mask for mask in masks if mask & used != used), used)
            count += 1
            if count > self.configurations:
                return self._spent(best, best_trail, trail, optional, count, "configurations")
            if count % _CLOCK_EVERY == 0 and time.monotonic() > self.deadline:
                return self._spent(best, best_trail, trail, optional, count, "time")
            frames.append(_Frame(choices, base, window, optional, state, settled))
            trail.append(place)
            if place >= 0:
                self._lift(place)
            else:
                self.used[self.group_of[-1 - place]] += 1
            base, window, optional, state = placed, further, used, following
            if after[_HEAD] != _HEAD:
                choices, settled = self._choices(state)
        return KeyVerdict(
            finding=Finding.LINEARIZABLE,
            reason=f"{self.total} operations can be put in order",
            operations=self.total,
            configurations=count,
            order=self._operations(trail),
        )

    def _placed(self, place: int, base: int, window: int, optional: int) -> tuple[int, int, int]:
        """The set of placed operations with one more."""
        if place < 0:
            return base, window, optional | 1 << (-1 - place)
        bits: int = window | 1 << (place - base)
        ones = (~bits & (bits + 1)).bit_length() - 1
        return base + ones, bits >> ones, optional

    def _take_back(self, place: int) -> None:
        if place >= 0:
            self._unlift(place)
        else:
            self.used[self.group_of[-1 - place]] -= 1

    def _operations(self, trail: Sequence[int]) -> tuple[Operation, ...]:
        return tuple(self.known[place] if place >= 0 else self.unknown[-1 - place] for place in trail)

    def _reached(self, placed: int, optional: int) -> tuple[int, int, int]:
        """How far an order leads: up to which return, with how many operations, and with how few that need not be."""
        needless = optional.bit_count()
        return self._first_return(), placed - needless, -needless

    def _violation(self, best: tuple[int, int, int], trail: Sequence[int], visited: int) -> KeyVerdict:
        stuck = self.known[self.operation[best[0]]]
        return KeyVerdict(
            finding=Finding.VIOLATION,
            reason=f"no order explains {stuck}",
            operations=self.total,
            configurations=visited,
            order=self._operations(trail),
            stuck=stuck,
        )

    def _spent(
        self,
        best: tuple[int, int, int],
        best_trail: Sequence[int],
        trail: Sequence[int],
        optional: int,
        visited: int,
        what: str,
    ) -> KeyVerdict:
        longest = trail if self._reached(len(trail), optional) > best else best_trail
        return KeyVerdict(
            finding=Finding.UNKNOWN,
            reason=f"the budget of {what} was spent after {visited} configurations; {len(longest)} of {self.total} "
            "operations could be put in order",
            operations=self.total,
            configurations=visited,
            order=self._operations(longest),
        )


def minimize(history: History, model: Model[State], *, budget: Budget | None = None) -> History:
    """A small history that violates the model for the same reason; the first key that does is enough.

    It is sought by delta debugging (A. Zeller, R. Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE
    TSE 28(2), 2002): by key, by time, by process, and then by ever smaller parts down to single operations. But a
    history from which a write is missing is no longer linearizable if another operation read it, and each such remnant
    would look like a fault. So what is removed is still there as the `History.background`: it may have happened, or
    not, at any time after its invocation. Only what cannot matter is left out altogether: what never changes the state,
    what was invoked when all else had returned, other parts of the state, and, where the model can begin in a state
    that nobody knows (`History.midway`), what had returned before all else was invoked. Thus the history that was given
    could not be linearizable unless the small one were.

    With enough budget it is 1-minimal: any one of its operations moved to the background makes it linearizable.

    Raises:
        InvalidArgument: the history does not violate the model, or that was not found out within the budget.
    """
    budget = budget or Budget()
    deadline = time.monotonic() + budget.seconds
    verdict = check(history, model, budget=budget, least=None)
    if verdict.finding is not Finding.VIOLATION:
        raise InvalidArgument(f"only a history that violates its model can be minimized; this: {verdict.reason}")
    key = min(verdict.violating, key=lambda one: verdict.keys[one].operations)
    found = verdict.keys[key]
    assert found.stuck is not None
    # What needs much more than the whole did would take as long each time.
    return _Minimizer(history, model, key, found.stuck, 10_000 + 2 * found.configurations, deadline).run()


def remnant(history: History, kept: Sequence[Operation], model: Model[State], *, midway: bool = False) -> History:
    """Some operations of a history of one key, with what may matter of the others as the background.

    It is linearizable if the history is.

    Args:
        history: the whole.
        kept: those of its operations that are to be kept as they are.
        model: what it is to be judged by.
        midway: whether it may begin in a state that nobody knows, without what had returned before those kept began.
    """
    begin = min(one.invoked for one in kept) if midway and not history.midway else -math.inf
    end = max(_end(one) for one in kept)
    parts = {model.part(one) for one in kept} | {None}
    keep = {id(one) for one in kept}
    background = [
        one
        for one in (*history.operations, *history.background)
        if id(one) not in keep
        and one.outcome != "fail"
        and model.changes(one)
        and begin <= _end(one)
        and one.invoked <= end
        and model.part(one) in parts
    ]
    return attrs.evolve(history, operations=kept, background=background, midway=midway or history.midway)


def _by_invocation(operations: Iterable[Operation]) -> list[Operation]:
    return sorted(operations, key=lambda one: one.invoked)


class _Minimizer(Generic[State]):
    """One run of `minimize`, on one key."""

    def __init__(
        self,
        history: History,
        model: Model[State],
        key: str,
        stuck: Operation,
        configurations: int,
        deadline: float,
    ) -> None:
        self.history = history
        self.model = model
        self.configurations = configurations
        self.deadline = deadline
        self.midway = history.midway
        end = _end(stuck)
        happened = [one for one in history.operations if one.key == key and one.outcome != "fail"]
        happened = [one for one in happened if one.invoked <= end]
        # Of those that had not returned by then nothing is needed but that they may have happened.
        self.kept = [one for one in happened if one.outcome == "unknown" or _end(one) <= end]
        background = [one for one in history.background if one.key == key]
        self.whole = attrs.evolve(history, operations=happened, background=background)
        self.stuck = stuck

    def run(self) -> History:
        self._begin_small()
        for process in sorted({one.process for one in self.kept}):
            self._try([one for one in self.kept if one.process != process])
        size = len(self.kept) // 2
        while size:
            removed = False
            place = 0
            while place < len(self.kept):
                if self._try([*self.kept[:place], *self.kept[place + size :]]):
                    removed = True
                else:
                    place += size
            size = size if removed and size == 1 else size // 2
        return remnant(self.whole, self.kept, self.model, midway=self.midway)

    def _begin_small(self) -> None:
        """Try what is often enough: the same part of the state, and the last few before the violation."""
        part = self.model.part(self.stuck)
        if part is not None:
            self._try([one for one in self.kept if self.model.part(one) in (part, None)])
        latest = sorted(self.kept, key=lambda one: one.invoked if one.returned is None else one.returned)
        self.midway = self.midway or self.model.anything() is not None
        for midway in sorted({self.midway, self.history.midway}, reverse=True):
            self.midway = midway
            count = 8
            while count < 4 * len(latest):
                if self._violates(latest[-count:]):
                    self.kept = _by_invocation(latest[-count:])
                    return
                count *= 4

    def _try(self, kept: list[Operation]) -> bool:
        if len(kept) == len(self.kept) or not kept or not self._violates(kept):
            return False
        self.kept = _by_invocation(kept)
        return True

    def _violates(self, kept: list[Operation]) -> bool:
        left = self.deadline - time.monotonic()
        if left <= 0:
            return False
        budget = Budget(seconds=left, configurations=self.configurations)
        return (
            check(
                remnant(self.whole, kept, self.model, midway=self.midway), self.model, budget=budget, least=None
            ).finding
            is Finding.VIOLATION
        )
