"""The reader of pickled CIFAR files: what they contain is read, and nothing in any pickle is ever called."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cifar import array, dictionary, number, numbers, text

from onebit.data.pickled import read_pickled
from onebit.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 300), dtype=np.uint8)
GOOD = dictionary(batch_label=text("of 5"), labels=numbers([3, 0, 255, 256]), data=array(PIXELS))


def read(tmp_path: Path, content: bytes) -> dict[str, Any]:
    path = tmp_path / "batch"
    path.write_bytes(content)
    return read_pickled(path, largest=100_000)


def test_what_cifar_contains_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert found.keys() == {"batch_label", "labels", "data"}
    assert found["batch_label"] == "of 5"
    assert found["labels"] == [3, 0, 255, 256]
    np.testing.assert_array_equal(found["data"], PIXELS)
    assert found["data"].flags.writeable


@pytest.mark.parametrize("keys", [str, lambda key: key.encode()], ids=["text", "bytes"])
def test_a_copy_that_a_newer_python_wrote_is_read_too(tmp_path: Path, keys: Any) -> None:
    found = read(tmp_path, pickle.dumps({keys("data"): PIXELS, keys("fine_labels"): [1, 70_000, 3]}, protocol=3))
    np.testing.assert_array_equal(found["data"], PIXELS)
    assert found["fine_labels"] == [1, 70_000, 3]


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["makedirs", "system", "eval", "exec"])
def test_no_call_is_ever_made(tmp_path: Path, protocol: int, name: str) -> None:
    mark = tmp_path / "called"
    calls = {
        "makedirs": Call(os.makedirs, str(mark)),
        "system": Call(os.system, f"touch '{mark}'"),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Call(exec, f"open({str(mark)!r}, 'w')"),
    }
    for content in (calls[name], {"data": calls[name]}, {"data": PIXELS, "labels": [calls[name]]}):
        with pytest.raises(DataError, match="is no pickled CIFAR file"):
            read(tmp_path, pickle.dumps(content, protocol=protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "it names 'os system'"),
        (b"(S'true'\nios\nsystem\n.", "it holds the instruction STRING"),
        (b"S'an \\odd escape'\n.", "it holds the instruction STRING"),
        (b"(U\x04trueios\nsystem\n.", "it holds the instruction INST"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "it holds the instruction SHORT_BINUNICODE"),
        (b"\x80\x02cnumpy\nload\nU\x01x\x85R.", "it names 'numpy load'"),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "it names 'numpy.core.multiarray scalar'"),
        (b"\x80\x02cnumpy\ndtype\ncnumpy\nndarray\nb.", "BUILD of a _Name"),
        (b"\x80\x02}U\x01aR.", "REDUCE of a dict"),
        (b"\x80\x02Pevil\n.", "it holds the instruction PERSID"),
        (b"\x80\x02\x82\x01.", "it holds the instruction EXT1"),
        (b"\x80\x02]U\x01xU\x01ys.", "SETITEM of a list"),
        (b"\x80\x02}K\x01a.", "APPEND of a dict"),
        (b"\x80\x02}(U\x01xu.", "shorter|argument"),
        (b"\x80\x02h\x07.", "7"),
        (b"\x80\x02e.", "APPENDS without a mark"),
        (b"\x80\x02\x87.", "TUPLE3 of 0 values"),
        (b"\x80\x02].", "got a list, expected a dictionary"),
        (b"\x80\x02}K\x01K\x02s.", "got a dict, expected a dictionary of names"),
        (b"\x80\x02}](K\x01eK\x02s.", "unhashable"),
        (b"", "not enough|exhausted"),
        (GOOD[:-1], "exhausted"),
        (GOOD[:500], "expected"),
        (dictionary(data=b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"), "'numpy dtype' does not describe an array"),
        (dictionary(data=array(PIXELS, dtype="O1")), "not of unsigned bytes"),
        (dictionary(data=array(PIXELS, dtype="i1")), "not of unsigned bytes"),
        (dictionary(data=array(PIXELS, order=b"\x88")), "not of unsigned bytes in C order"),
        (dictionary(data=array(PIXELS).replace(number(300), number(301))), "cannot reshape"),
        (b"\x80\x02}U\x01dT\xff\xff\xff\x7fabcs.", "expected 2147483647 bytes"),
        (b"\x80\x02}U\x01dT\xff\xff\xff\xffabcs.", "byte count < 0"),
        (b"x" * 200_000, "got 200,000 bytes, expected at most 100,000"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "batch") in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, cut: bool
) -> None:
    content = GOOD[:place] if cut else GOOD[:place] + bytes([value]) + GOOD[place + 1 :]
    said = ""
    try:
        assert isinstance(read(tmp_path_factory.getbasetemp(), content), dict)
    except DataError as error:
        said = str(error)
    assert "\n" not in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nothing: No such file"):
        read_pickled(tmp_path / "nothing", largest=10)
