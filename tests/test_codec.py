"""The codec: every value of a supported type comes back exactly, and everything else is refused by name."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import json
import math
import pathlib
import sys
import threading
import time
import zoneinfo
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from comparing import identical
from moorage import codec
from moorage.codec import Unregistered, decode, decode_time, dumps, encode, encode_time, loads, register, registry
from moorage.errors import EncodingError, InvalidArgument, InvalidType, StorageDamaged


class Point(NamedTuple):
    x: object
    y: object = 0


Pair = collections.namedtuple("Pair", ["left", "right"])  # noqa: PYI024
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
ANY_TIME = st.datetimes(
    min_value=datetime.datetime(2, 1, 1),
    max_value=datetime.datetime(9998, 12, 30),
    timezones=st.sampled_from(
        [datetime.UTC, datetime.timezone(datetime.timedelta(hours=5, minutes=45)), datetime.timezone.max]
    ),
)
NUMPY_SCALARS = st.one_of(
    numpy_strategies.from_dtype(np.dtype(np.float32)),
    numpy_strategies.from_dtype(np.dtype(np.int8)),
    numpy_strategies.from_dtype(np.dtype(np.uint64)),
    numpy_strategies.from_dtype(np.dtype(np.complex128)),
    numpy_strategies.from_dtype(np.dtype("datetime64[us]")),
    numpy_strategies.from_dtype(np.dtype("bool")),
    ANY_TEXT.map(np.str_),
    st.binary(max_size=4).map(np.bytes_),
)
LOCAL_TIMES = st.datetimes().flatmap(lambda moment: st.sampled_from([moment, moment.replace(fold=1)]))
SCALARS = st.one_of(
    LOCAL_TIMES,
    st.dates(),
    st.times(timezones=st.sampled_from([None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=-3))])),
    st.timedeltas(),
    st.decimals(),
    st.sampled_from(["", ".", "/", "a/b", "a\\b", "C:/x", "\udcff", "é"]).flatmap(
        lambda text: st.sampled_from([pathlib.Path, pathlib.PurePosixPath, pathlib.PureWindowsPath]).map(
            lambda kind: kind(text)
        )
    ),
)
HASHABLE = st.recursive(
    st.one_of(
        SCALARS.filter(lambda value: not (isinstance(value, decimal.Decimal) and value.is_snan())),
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=2**62, max_value=2**70),
        st.floats(),
        ANY_TEXT,
        ANY_TEXT.map("~{}".format),
        st.binary(max_size=20),
        ANY_TIME,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
    ),
    max_leaves=5,
)
PLAIN_ARRAYS = numpy_strategies.arrays(
    dtype=st.one_of(
        numpy_strategies.scalar_dtypes(),
        numpy_strategies.unicode_string_dtypes(max_len=3),
        numpy_strategies.byte_string_dtypes(max_len=3),
        numpy_strategies.nested_dtypes(),
    ),
    shape=numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
VALUES = st.recursive(
    HASHABLE | NUMPY_SCALARS | PLAIN_ARRAYS | SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.dictionaries(ANY_TEXT, inner, max_size=3),
        st.dictionaries(HASHABLE, inner, max_size=3).map(collections.OrderedDict),
        st.dictionaries(HASHABLE, inner, max_size=3).map(lambda items: collections.defaultdict(list, items)),
        st.tuples(inner, inner).map(lambda pair: Point(*pair)),
        st.sets(HASHABLE, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: object_array(items, (len(items),))),
    ),
    max_leaves=12,
)


def object_array(items: list[object], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(math.prod(shape), dtype=object)
    for place, item in enumerate(items):
        array[place] = item
    return array.reshape(shape)


def there_and_back(value: object) -> object:
    return decode(loads(dumps(encode(value))))


def assert_plain(value: object) -> None:
    if type(value) is dict:
        for key, inner in value.items():
            assert_plain(key)
            assert type(key) is str
            assert_plain(inner)
    elif type(value) is list:
        for inner in value:
            assert_plain(inner)
    elif type(value) is str:
        assert "\0" not in value
        value.encode()
    elif type(value) is int:
        assert -(2**63) <= value < 2**63
    elif type(value) is float:
        assert math.isfinite(value)
    else:
        assert value is None or type(value) is bool


@settings(max_examples=300)
@given(VALUES)
def test_every_supported_value_comes_back_exactly(value: object) -> None:
    encoded = encode(value)
    assert_plain(encoded)
    assert identical(there_and_back(value), value)


@settings(max_examples=150)
@given(PLAIN_ARRAYS)
def test_every_array_comes_back_exactly(array: np.ndarray) -> None:
    restored = there_and_back(array)
    assert identical(restored, array)
    assert restored.flags.writeable
    assert not np.shares_memory(restored, array)


MATRIX = np.arange(24.0).reshape(4, 6)


@pytest.mark.parametrize(
    "array",
    [
        MATRIX[::2, ::-1],
        MATRIX.T,
        np.asfortranarray(MATRIX),
        np.broadcast_to(np.int16(7), (2, 3)),
        MATRIX.astype(">f8"),
        MATRIX.astype(">i4")[::3],
        np.array(5),
        np.array([]),
        np.empty((0, 3), dtype="<U5"),
        np.array(["", ""], dtype="U"),
        np.array([1 + 2j, complex("nan")]),
        np.array(["2020-01-01", "NaT"], dtype="datetime64[ns]"),
        np.array([(1, 2.5, "ab")], dtype=[("a", "i1"), ("b", ">f8"), ("c", "U3")]),
        np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "i8")], align=True)),
        np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "i8", (2, 2)), ("c", [("d", "f4")])], align=True)),
        np.zeros(2, dtype={"names": ["a"], "formats": ["i4"], "offsets": [8], "itemsize": 16}),
        object_array([None, 2**70, "x", b"y"], (2, 2)),
        object_array([[1, 2], [3, 4]], (2,)),
        object_array([(1,), (2,)], (2, 1)),
        object_array([np.arange(3), np.arange(3)], (2,)),
        object_array([{"a": 1}], ()),
        object_array([], (0, 4)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_every_kind(array: np.ndarray) -> None:
    assert identical(there_and_back(array), array)


@pytest.mark.parametrize(
    "value",
    [
        np.str_(""),
        np.bytes_(b""),
        np.str_("a\0"),
        np.str_("\ud800"),
        np.bytes_(b"a\0"),
        np.float64("nan"),
        np.float64(-0.0),
        np.longdouble(1) / 3,
        np.datetime64("NaT"),
        np.timedelta64(3, "D"),
        np.zeros(1, dtype=[("a", "i4"), ("b", "U2")])[0],
        {"~": 1},
        {"~float": "nan"},
        {"~float": "nan", "other": 1},
        {"~dict": [[1, 2]]},
        [{"~unknown": 1}],
        {1: "a", "1": "b", 1.5: "c", None: "d", (1, 2): "e", frozenset({3}): "f", b"g": "g"},
        {"\0": 1, "\ud800": 2},
        "\0",
        "~text",
        2**63,
        -(2**63),
        -(2**63) - 1,
        10**5000,
        -0.0,
        5e-324,
        sys.float_info.max,
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_awkward_values(value: object) -> None:
    assert identical(there_and_back(value), value)


class Colour(enum.StrEnum):
    RED = "red"
    ODD = "~odd"


class Level(enum.IntEnum):
    HIGH = 3


class Ratio(float, enum.Enum):
    HALF = 0.5


class Plain(enum.Enum):
    ONE = 1


class SubInt(int):
    pass


class SubText(str):
    __slots__ = ()


class SubDict(dict[str, int]):
    pass


class SubPoint(Point):
    pass


class Opaque:
    pass


@pytest.mark.parametrize(
    "value",
    [
        Opaque(),
        Opaque,
        1j,
        collections.Counter("ab"),
        collections.defaultdict(lambda: 1),
        collections.deque([1]),
        SubInt(1),
        SubText("x"),
        SubDict(a=1),
        SubPoint(1, 2),
        Plain.ONE,
        datetime.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        time.gmtime(0),
        bytearray(b"x"),
        memoryview(b"x"),
        range(3),
        len,
        np.ma.masked_array([1], mask=[True]),
        np.array([(1, object())], dtype=[("a", "i4"), ("b", "O")]),
        np.dtype("f8"),
        np.random.default_rng(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_refused_by_name(value: object) -> None:
    with pytest.raises(EncodingError, match=type(value).__name__) as caught:
        encode({"inside": [value]})
    assert isinstance(caught.value, TypeError)


def test_an_array_of_texts_without_a_width_is_refused_or_kept() -> None:
    array = np.array(["a", "a longer text that is kept on the heap"], dtype=np.dtypes.StringDType())
    with pytest.raises(EncodingError, match="StringDType"):
        encode(array)


def test_a_structure_whose_fields_overlap_is_refused() -> None:
    overlapping = np.zeros(1, dtype={"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 0]})
    with pytest.raises(EncodingError, match="dtype"):
        encode(overlapping)


def test_the_message_of_a_refusal_is_short_and_names_what_to_convert_to() -> None:
    with pytest.raises(EncodingError, match=r"Convert it to one of: None, bool") as caught:
        encode(collections.Counter(range(100_000)))
    assert len(str(caught.value)) < 500


def nested(depth: int, wrap: type[list[object] | tuple[object, ...]]) -> object:
    value: object = 1
    for _ in range(depth):
        value = wrap([value])
    return value


def nested_dict(depth: int, key: object) -> object:
    value: object = 1
    for _ in range(depth):
        value = {key: value}
    return value


def deep_values(depth: int) -> list[object]:
    return [nested(depth, list), nested(depth, tuple), nested_dict(depth, "a"), nested_dict(depth, 1)]


def test_what_is_nested_too_deeply_is_refused() -> None:
    for value in deep_values(100_000):
        with pytest.raises(EncodingError, match="nested too deeply"):
            encode(value)


def test_what_is_encoded_can_be_decoded_from_a_deep_stack() -> None:
    """Whatever was accepted must be readable, also by a reader whose stack is deeper than the writer's."""
    accepted = []
    for depth in range(1, 400, 7):
        for value in deep_values(depth):
            try:
                accepted.append((value, dumps(encode(value))))
            except EncodingError:
                continue
    assert len(accepted) > 20

    def read_below(frames: int) -> bool:
        if frames:
            return read_below(frames - 1)
        return all(decode(loads(text)) == value for value, text in accepted)

    assert read_below(400)


@pytest.mark.parametrize("kind", ["list", "dict", "dict of another key", "tuple"])
def test_a_value_that_contains_itself_is_refused(kind: str) -> None:
    inner: list[object] = []
    cyclic = {"list": inner, "dict": {"a": inner}, "dict of another key": {1: inner}, "tuple": (inner,)}[kind]
    inner.append(cyclic)
    with pytest.raises(EncodingError, match="contains itself"):
        encode(cyclic)


@pytest.mark.parametrize(
    "damaged",
    [
        {"~unknown": 1},
        {"~float": "x"},
        {"~float": None},
        {"~int": "zz"},
        {"~int": 5},
        {"~text": "?"},
        {"~text": 5},
        {"~bytes": "a"},
        {"~time": "yesterday"},
        {"~time": 5},
        {"~tuple": 5},
        {"~set": [[]]},
        {"~frozenset": None},
        {"~dict": [[1]]},
        {"~dict": [[[], 1]]},
        {"~array": {}},
        {"~array": []},
        {"~array": {"dtype": "<f8", "shape": [3], "data": ""}},
        {"~array": {"dtype": "nonsense", "shape": [0], "data": ""}},
        {"~array": {"dtype": "O", "shape": [2], "items": [1]}},
        {"~array": {"dtype": "O", "shape": "x", "items": [1]}},
        {"~scalar": {"dtype": "<f8", "data": ""}},
        {"~scalar": {"dtype": 5, "data": ""}},
        {"~scalar": 5},
    ],
    ids=repr,
)
def test_damaged_values_are_reported_as_such(damaged: object) -> None:
    (tag,) = damaged
    with pytest.raises(StorageDamaged, match=tag):
        decode([damaged])


def test_a_text_that_is_not_json_is_reported_as_damaged() -> None:
    for text in ("{", "", "[" * 100_000):
        with pytest.raises(StorageDamaged, match="not JSON"):
            loads(text)


def test_an_unpickler_is_never_reached() -> None:
    with pytest.raises(StorageDamaged):
        decode({"~array": {"dtype": "|O", "shape": [1], "data": "AAAAAAAAAAA="}})


@given(ANY_TIME)
def test_times_keep_their_microseconds_and_become_utc(moment: datetime.datetime) -> None:
    text = encode_time(moment)
    assert len(text) == 32
    assert decode_time(text) == moment
    assert decode_time(text).utcoffset() == datetime.timedelta(0)


@given(ANY_TIME, ANY_TIME)
def test_texts_of_times_order_as_the_times_do(one: datetime.datetime, other: datetime.datetime) -> None:
    assert (encode_time(one) < encode_time(other)) == (one < other)


def test_times_that_cannot_be_stored_are_refused() -> None:
    west = datetime.timezone(datetime.timedelta(hours=-5))
    with pytest.raises(EncodingError, match="time zone"):
        encode_time(datetime.datetime(2020, 1, 1))
    with pytest.raises(EncodingError, match="9999"):
        encode({"end": datetime.datetime.max.replace(tzinfo=west)})


def test_encoding_from_several_threads_gives_the_same() -> None:
    value = {"array": np.arange(100), "numbers": list(range(100))}
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(dumps(encode(value)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


# What is like a known type


@pytest.mark.parametrize(
    ("value", "restored"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Ratio.HALF, 0.5),
        ([Colour.ODD, {Level.HIGH}], ["~odd", {3}]),
        ({Colour.RED: 1, Colour.ODD: 2, Level.HIGH: 3}, {"red": 1, "~odd": 2, 3: 3}),
    ],
)
def test_a_member_of_an_enumeration_of_texts_or_numbers_is_that(value: object, restored: object) -> None:
    assert identical(there_and_back(value), restored)
    assert restored == value


def test_a_member_of_another_enumeration_is_refused_with_what_to_do() -> None:
    with pytest.raises(EncodingError, match=r"test_codec.Plain cannot be stored.*value or its name, or register"):
        encode({"a": Plain.ONE})


def test_times_of_derived_classes_are_taken_where_nothing_is_lost() -> None:
    pandas = pytest.importorskip("pandas")
    aware = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    assert identical(there_and_back(pandas.Timestamp(aware)), aware)
    assert identical(there_and_back(pandas.Timestamp("2026-03-01")), datetime.datetime(2026, 3, 1))
    for lossy in (pandas.Timestamp(1, unit="ns"), pandas.NaT):
        with pytest.raises(EncodingError, match="pandas"):
            encode([lossy])


def test_a_named_tuple_of_a_class_that_is_not_imported_is_like_it() -> None:
    stored = dumps(encode([Pair(1, Point((2,), "~")), Pair(3, 4)]))
    assert stored.count('"test_codec:Pair"') == 2
    assert identical(decode(loads(stored)), [Pair(1, Point((2,), "~")), Pair(3, 4)])
    elsewhere = stored.replace("test_codec:P", "elsewhere:P")
    first, second = decode(loads(elsewhere))
    assert (first, second) == (Pair(1, Point((2,), "~")), Pair(3, 4))
    assert type(first) is type(second) is not Pair
    assert (first.left, first.right.y, type(first).__name__) == (1, "~", "Pair")
    assert dumps(encode([first, second])) == elsewhere


@pytest.mark.parametrize(
    "told", ["subprocess:Popen", "builtins:tuple", "os:stat_result", "test_codec:SubPoint", "x", ""]
)
def test_a_named_tuple_calls_nothing_that_the_storage_names(told: str) -> None:
    stored = {"~named": {"type": told, "items": {"x": 1, "y": 2}}}
    try:
        value = decode(stored)
    except StorageDamaged:
        return
    assert type(value).__bases__ == (tuple,)
    assert type(value).__mro__[1:] == (tuple, object)
    assert value == (1, 2)


def test_a_defaultdict_goes_on_as_it_was() -> None:
    restored = there_and_back({"a": collections.defaultdict(list, {"~x": [1]})})
    restored["a"]["new"].append(2)
    assert restored == {"a": {"~x": [1], "new": [2]}}
    for factory in (None, int, float, dict, set, collections.OrderedDict):
        assert there_and_back(collections.defaultdict(factory)).default_factory is factory
    with pytest.raises(EncodingError, match=r"defaultdict.*may be one of None, bool, bytes"):
        encode(collections.defaultdict(lambda: 0))
    with pytest.raises(StorageDamaged):
        decode({"~default": {"factory": "eval", "items": {}}})


# Types of the user's own


class Interval:
    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Interval) and (self.low, self.high) == (other.low, other.high)

    def __hash__(self) -> int:
        return hash((self.low, self.high))


class Narrow(Interval):
    pass


@pytest.fixture
def _allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BY_KIND", {})
    monkeypatch.setattr(registry, "BY_TAG", {})
    for module in (codec.plain,):
        monkeypatch.setattr(module, "BY_KIND", registry.BY_KIND)
        monkeypatch.setattr(module, "BY_TAG", registry.BY_TAG)


def dump_interval(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high}


def load_interval(content: dict[str, float]) -> Interval:
    return Interval(content["low"], content["high"])


@pytest.mark.usefixtures("_allow_list")
def test_a_registered_type_comes_back() -> None:
    register("interval", Interval, dump_interval, load_interval)
    value = {"a": [Interval(1.0, math.inf)], Interval(0.0, 1.0): {Interval(2.0, 3.0)}}
    assert there_and_back(value) == value
    assert encode(Interval(1.0, 2.0)) == {"~:interval": {"low": 1.0, "high": 2.0}}
    with pytest.raises(EncodingError, match=r"Narrow cannot be stored.*register"):
        encode(Narrow(1.0, 2.0))


@pytest.mark.usefixtures("_allow_list")
def test_what_this_process_has_not_registered_is_kept() -> None:
    stored = {"~:interval": {"low": 1.0, "high": {"~float": "inf"}}}
    value = decode([stored])
    assert value == [Unregistered("interval", {"low": 1.0, "high": math.inf})]
    assert encode(value) == [stored]
    register("interval", Interval, dump_interval, load_interval)
    assert decode(stored) == Interval(1.0, math.inf)


@pytest.mark.usefixtures("_allow_list")
def test_an_enumeration_and_a_named_tuple_may_be_registered() -> None:
    register("plain", Plain, lambda one: one.name, lambda name: Plain[name])
    register("sub-point", SubPoint, list, lambda both: SubPoint(*both))
    assert there_and_back({Plain.ONE: [SubPoint(1, 2)]}) == {Plain.ONE: [SubPoint(1, 2)]}
    assert type(there_and_back(SubPoint(1, 2))) is SubPoint


@pytest.mark.usefixtures("_allow_list")
def test_what_is_taken_or_makes_no_sense_is_not_registered() -> None:
    register("interval", Interval, dump_interval, load_interval)
    for tag, kind, says in [
        ("interval", Narrow, "the tag 'interval' is registered already, for test_codec.Interval"),
        ("other", Interval, "Interval is registered already, under the tag 'interval'"),
        ("", Narrow, "tag must be a letter"),
        ("~x", Narrow, "tag must be a letter"),
        ("x\n", Narrow, "tag must be a letter"),
        ("x" * 65, Narrow, "tag must be a letter"),
        ("float", float, "float can be stored without being registered"),
        ("object", object, "can be stored without"),
        ("dict", dict, "can be stored without"),
        ("path", type(pathlib.Path()), "can be stored without"),
        ("array", np.ndarray, "can be stored without"),
        ("ordered", collections.OrderedDict, "can be stored without"),
    ]:
        with pytest.raises(InvalidArgument, match=says):
            register(tag, kind, dump_interval, load_interval)
    for arguments in [
        (5, Narrow, repr, repr),
        ("n", Narrow(1, 2), repr, repr),
        ("n", Narrow, 5, repr),
        ("n", Narrow, repr, None),
    ]:
        with pytest.raises(InvalidType):
            register(*arguments)
    assert set(registry.BY_TAG) == {"interval"}


@pytest.mark.usefixtures("_allow_list")
def test_functions_that_fail_are_named() -> None:
    register("broken", Interval, lambda one: 1 / 0, lambda content: content["none"])
    with pytest.raises(EncodingError, match=r"registered for test_codec.Interval could not encode.*ZeroDivisionError"):
        encode([Interval(1, 2)])
    with pytest.raises(StorageDamaged, match=r"registered for the tag 'broken' could not decode {'a': 1}: KeyError"):
        decode({"~:broken": {"a": 1}})
    register("endless", Narrow, lambda one: one, lambda content: content)
    with pytest.raises(EncodingError, match="nested too deeply"):
        encode(Narrow(1, 2))
    register("opaque", Plain, lambda one: Opaque(), lambda content: content)
    with pytest.raises(EncodingError, match="Opaque"):
        encode(Plain.ONE)


# Texts


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@settings(max_examples=500)
@given(PLAIN)
def test_both_texts_of_a_plain_value_are_read_exactly(value: codec.Plain) -> None:
    for text in (codec.to_text(value), dumps(value)):
        assert identical(loads(text), value)
        assert identical(json.loads(text), value)


@pytest.mark.parametrize("exponent", range(-1074, 1024, 7))
def test_floats_of_every_size_are_read_exactly(exponent: int) -> None:
    around = math.ldexp(1, exponent)
    values = [around, math.nextafter(around, 0), math.nextafter(around, math.inf), -around, around * 1.2345678901234567]
    assert identical(loads(codec.to_text(values)), values)
    assert identical(json.loads(codec.to_text(values)), values)


def test_texts_that_are_compared_are_the_same_in_every_release() -> None:
    value: codec.Plain = {"é": [1e16, 1e-07, -0.0, 5e-324, 2**63 - 1, "\x1f\x7f\u2028/", None, True]}
    assert dumps(value) == '{"é":[1e+16,1e-07,-0.0,5e-324,9223372036854775807,"\\u001f\x7f\u2028/",null,true]}'
    assert codec.encode({(1e16,): 1}) == {'~={"~tuple":[1e+16]}': 1}


def test_what_json_does_not_know_is_no_text() -> None:
    for text in ("NaN", "[1e999]", "[Infinity]", '"\\ud800"', "[1,]", "\x00", "[1] 2"):
        with pytest.raises(StorageDamaged, match="not JSON"):
            loads(text)
