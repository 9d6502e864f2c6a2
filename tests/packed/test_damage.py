"""A `.1bit` file with changed bits is refused; one that is sealed again is refused or runs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onebit.errors import FormatError, NotBinaryError
from onebit.native import instruction_sets
from onebit.packed import Certificate, PackedNet, dumps, infer, loads
from onebit.runtime import run
from support.covering import covering
from support.hostile_files import assert_refused, damaged, join, mutated, renumbered, sound, split
from support.packed_nets import NETS, inputs_of, make_packed_mlp


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


@pytest.mark.parametrize("form", ["weight-only", "sign", "mixed"])
def test_random_damage_is_refused_or_still_a_valid_net(form: str) -> None:
    rng = random.Random(form)
    net = make_packed_mlp((12, 70, 10), form=form)
    good = dumps(net)
    outcomes = {"refused": 0, "sound": 0}
    for index in range(150):
        back = sound(damaged(good, rng, header_only=index % 3 > 0))
        outcomes["refused" if back is None else "sound"] += 1
        if back is not None:
            assert infer(back)[back.output].shape == infer(net)[net.output].shape
            assert [type(node) for node in back.nodes] == [type(node) for node in net.nodes]
    assert min(outcomes.values()) > 5, outcomes


@pytest.mark.parametrize("form", NETS)
@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.nightly)])
def test_damaged_nets_are_refused_or_run(form: str, count: int) -> None:
    """Changed bytes or digits: files that are valid by chance run in bounded memory."""
    rng, good = random.Random(form), dumps(NETS[form]())
    for change in (mutated, renumbered):
        outcomes = {"refused": 0, "sound": 0}
        for _ in range(count):
            back = sound(change(good, rng))
            outcomes["refused" if back is None else "sound"] += 1
            if back is not None:
                assert_executors_agree(back, inputs_of(back, 2))
        assert min(outcomes.values()) > 2, outcomes


def assert_executors_agree(net: PackedNet, batch: np.ndarray) -> None:
    """Both give the same outputs or the same error: parameters of a valid file may overflow."""
    outcomes: list[Any] = []
    for executor in ("native", "reference") if instruction_sets() else ("reference",):
        try:
            outcomes.append(net.by_name(run(net, batch, executor=executor)))
        except (FormatError, NotBinaryError) as error:  # noqa: PERF203
            outcomes.append(type(error))
    if isinstance(outcomes[-1], type):
        assert len(set(outcomes)) == 1
        return
    for name, array in outcomes[-1].items():
        np.testing.assert_array_equal(outcomes[0][name], array)
