"""A `.1bit` file with a changed bit is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onebit.errors import FormatError
from onebit.packed import Certificate, PackedNet, dumps, load, loads, save
from support.covering import covering
from support.hostile_files import join, split
from support.packed_nets import IMAGE_NETS

Maker = Callable[..., PackedNet]


def flipped(good: bytes, bits: Iterator[int] | range) -> Iterator[bytes]:
    """The bytes with one bit flipped, for each given bit."""
    for bit in bits:
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        yield bytes(data)


def assert_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as info:
        loads(data)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize("step", covering([7, 1], heavy={1}))
def test_every_flipped_bit_of_a_file_is_refused(packed_mlp: Maker, certificate: Certificate, step: int) -> None:
    """Header, padding, names, digest, certificate, arrays; daily a bit of every byte."""
    good = dumps(packed_mlp((12, 9, 4), form="sign", certificate=certificate))
    loads(good)
    for data in flipped(good, range(0, 8 * len(good), step)):
        assert_refused(data)


@pytest.mark.parametrize("form", IMAGE_NETS)
def test_flipped_bits_of_nets_of_images_are_refused(form: str) -> None:
    good, rng = dumps(IMAGE_NETS[form]()), random.Random(form)
    for data in flipped(good, iter(rng.randrange(8 * len(good)) for _ in range(300))):
        assert_refused(data)
    data = bytearray(good)
    for _ in range(300):
        data[rng.randrange(8 + int.from_bytes(good[:8], "little"), len(data))] ^= 1 << rng.randrange(8)
    assert_refused(bytes(data))


def test_a_changed_weight_is_reported_as_a_change(tmp_path: Path, packed_mlp: Maker) -> None:
    path = tmp_path / "net.1bit"
    save(packed_mlp((12, 70, 10)), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = r"net\.1bit: was changed after it was written: its bytes do not match its digest; pack the net again$"
    with pytest.raises(FormatError, match=message):
        load(path)


@pytest.mark.parametrize("digest", ["", "0" * 64, "A" * 64, "é" * 64, "\\u0061" + "a" * 63, "a" * 65, None, 1, []])
def test_another_digest_is_refused(packed_mlp: Maker, digest: object) -> None:
    header, graph, tensors = split(dumps(packed_mlp((12, 9, 4))))
    text = json.dumps(graph | {"digest": digest}).replace("\\\\u", "\\u")
    with pytest.raises(FormatError, match=r"the digest is|do not match its digest"):
        loads(join(header, text, tensors))


def digest_of(data: bytes) -> str:
    """The digest in the bytes of a file."""
    start = data.index(b'digest\\":\\"') + len(b'digest\\":\\"')
    return data[start : start + 64].decode()


def test_texts_of_64_zeros_hide_no_digest(packed_mlp: Maker, certificate: Certificate) -> None:
    zeros = "0" * 64
    net = replace(packed_mlp((12, 9, 4), certificate=replace(certificate, source=zeros)), name=zeros)
    back = loads(dumps(net))
    assert (back.name, back.certificate) == (zeros, net.certificate)


@pytest.mark.nightly
def test_ten_thousand_flips_of_a_large_file(packed_mlp: Maker, certificate: Certificate) -> None:
    good, rng = dumps(packed_mlp((784, 512, 512, 10), certificate=certificate)), random.Random(0)
    for data in flipped(good, iter(rng.randrange(8 * len(good)) for _ in range(10_000))):
        assert_refused(data)
