"""The reader of pickled CIFAR files: it reads what they contain, and never calls anything that a pickle names."""

from __future__ import annotations

import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.data import pickled
from onebit.data.pickled import read_pickled
from onebit.errors import DataError
from support.tiny_cifar import array, dictionary, number, numbers, text

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


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("keys", [str, lambda key: key.encode()], ids=["text", "bytes"])
def test_a_copy_that_a_newer_python_wrote_is_read_too(tmp_path: Path, keys: Any, protocol: int) -> None:
    keys = str if protocol == 2 else keys  # Python 3 writes bytes as a call there
    found = read(tmp_path, pickle.dumps({keys("data"): PIXELS, keys("fine_labels"): [1, 70_000, 3]}, protocol=protocol))
    np.testing.assert_array_equal(found["data"], PIXELS)
    assert found["fine_labels"] == [1, 70_000, 3]


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", ["makedirs", "system", "eval"])
def test_no_call_is_ever_made(tmp_path: Path, protocol: int, name: str) -> None:
    mark = tmp_path / "called"
    calls = {
        "makedirs": Call(os.makedirs, str(mark)),
        "system": Call(os.system, f"touch '{mark}'"),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
    }
    for content in (calls[name], {"data": calls[name]}, {"data": PIXELS, "labels": [calls[name]]}):
        with pytest.raises(DataError):
            read(tmp_path, pickle.dumps(content, protocol=protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"S'an \\odd escape'\n.",
        b"(U\x04trueios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x02cnumpy\ndtype\ncnumpy\nndarray\nb.",
        *(b"\x80\x02" + end for end in (b"}U\x01aR.", b"Pevil\n.", b"\x82\x01.", b"h\x07.", b"].", b"}K\x01K\x02s.")),
        dictionary(data=b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"),
        dictionary(data=array(PIXELS, dtype="O1")),
        dictionary(data=array(PIXELS, dtype="i1")),
        dictionary(data=array(PIXELS, order=b"\x88")),
        dictionary(data=array(PIXELS).replace(number(300), number(301))),
        b"\x80\x02}U\x01dT\xff\xff\xff\x7fabcs.",
        b"\x80\x02}U\x01dT\xff\xff\xff\xffabcs.",
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError):
        read(tmp_path, content)


def doubled(levels: int) -> bytes:
    """Nested tuples, each with the previous one twice: a few bytes, but 2**levels values to hash."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + b"(" * 30_000 + b".",
        b"\x80\x02" + b"]" * 30_000 + b".",
        b"\x80\x02})" + b"\x85" * 30_000 + b"Ns.",
        b"\x80\x02}" + doubled(100) + b"Ns.",
        b"\x80\x02}" + doubled(20) + b"Ns.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"\x80\x04}\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        dictionary(data=array(PIXELS).replace(number(300) + b"\x86", b"J\xff\xff\xff\x7f\x86")),
        b"x" * 3_000_000,
    ],
    ids=["marks", "lists", "nested", "doubled", "doubled a little", "memo", "frame", "bytes", "shape", "large"],
)
def test_a_small_file_takes_little_memory_and_time(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 20_000)
    path = tmp_path / "batch"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises((DataError, OSError), match="batch"):
            read_pickled(path, largest=2_000_000)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 20
