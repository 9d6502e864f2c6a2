"""A `.1bit` file with changed bits is refused; one that is sealed again is refused or runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from onebit.packed import Certificate, dumps, loads
from support.covering import covering
from support.hostile_files import assert_refused, join, split
from support.packed_nets import make_packed_mlp


def flipped(good: bytes, bits: Iterable[int]) -> Iterator[bytes]:
    """The bytes with one bit flipped, for each given bit."""
    for bit in bits:
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        yield bytes(data)


@pytest.mark.parametrize("step", covering([13, 1], heavy={1}))
def test_every_flipped_bit_of_a_file_is_refused(certificate: Certificate, step: int) -> None:
    """Header, padding, names, digest, certificate, arrays; daily every thirteenth bit."""
    good = dumps(make_packed_mlp((12, 9, 4), form="sign", certificate=certificate))
    loads(good)
    for data in flipped(good, range(0, 8 * len(good), step)):
        assert_refused(data)


@pytest.mark.parametrize("digest", ["", "0" * 64, "A" * 64, "é" * 64, "\\u0061" + "a" * 63, "a" * 65, None, 1, []])
def test_another_digest_is_refused(digest: object) -> None:
    header, graph, tensors = split(dumps(make_packed_mlp((12, 9, 4))))
    text = json.dumps(graph | {"digest": digest}).replace("\\\\u", "\\u")
    assert_refused(join(header, text, tensors), "digest")


def test_texts_of_64_zeros_do_not_hide_the_digest(certificate: Certificate) -> None:
    zeros = "0" * 64
    net = replace(make_packed_mlp((12, 9, 4), certificate=replace(certificate, source=zeros)), name=zeros)
    back = loads(dumps(net))
    assert (back.name, back.certificate) == (zeros, net.certificate)
