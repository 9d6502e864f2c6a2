"""A `.1bit` file with a changed bit is refused; files of format 1 have no digest."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from covering import covering
from hostile_files import join, split
from packed_nets import IMAGE_NETS

from onebit.errors import FormatError
from onebit.packed import Certificate, PackedNet, dumps, load, loads, save
from onebit.packed.file import load_with_digest
from onebit.runtime import run

Maker = Callable[..., PackedNet]

# written by a development version before 0.1.0: 12 pixels, 9 signs with thresholds, 4 classes, and a certificate
OF_FORMAT_1 = base64.b64decode(
    b"CAQAAAAAAAB7Il9fbWV0YWRhdGFfXyI6eyJvbmViaXQiOiJ7XCJmb3JtYXRcIjoxLFwibmFtZVwiOlwicmFuZG9tIHNpZ25cIixc"
    b"ImlucHV0XCI6e1wic2hhcGVcIjpbMSwxLDEyXSxcImNvZGluZ1wiOlwiaW50ZWdlclwifSxcIm5vZGVzXCI6W1wiZmxhdHRlbiBm"
    b"bGF0XCIsXCJkZW5zZSBmYzAgc2lnbnM9OSwxMlwiLFwidGhyZXNob2xkIHRocmVzaG9sZDAgdGhyZXNob2xkPTkgZGlyZWN0aW9u"
    b"PTlcIixcImRlbnNlIGZjMSBzaWducz00LDlcIixcImFmZmluZSBhZmZpbmUxIHNjYWxlPTQgc2hpZnQ9NFwiXSxcIm91dHB1dFwi"
    b"OlwiYWZmaW5lMVwiLFwiY2xhc3Nlc1wiOltcIjBcIixcIjFcIixcIjJcIixcIjNcIl0sXCJjZXJ0aWZpY2F0ZVwiOntcIm9uZWJp"
    b"dFwiOlwiMC4xLjBcIixcImRhdGFzZXRcIjpcIm1uaXN0XCIsXCJzcGxpdFwiOlwidGVzdFwiLFwiY291bnRcIjoxMDAwMCxcIndl"
    b"aWdodHNcIjpcImJpbmFyeVwiLFwibGFiZWxfbWlzbWF0Y2hlc1wiOjAsXCJtYXhfbG9naXRfZGlmZmVyZW5jZVwiOjEuNWUtMDUs"
    b"XCJiaXRfZXhhY3RcIjpmYWxzZSxcInNlZWRcIjpudWxsLFwiY29ycmVjdFwiOjk4NzYsXCJzb3VyY2VcIjpcIjAxMjM0NTY3ODlh"
    b"YmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWZcIixcInJlY2lwZVwiOlwibW5pc3Qt"
    b"ZmFzdFwiLFwibGF5ZXJzXCI6W1tcImZjMFwiLFwiZXZlcnkgaW50ZWdlclwiLDM5OTg0MSwwXV19fSJ9LCJzY2FsZSI6eyJkdHlw"
    b"ZSI6IkYzMiIsInNoYXBlIjpbNF0sImRhdGFfb2Zmc2V0cyI6WzAsMTZdfSwic2hpZnQiOnsiZHR5cGUiOiJGMzIiLCJzaGFwZSI6"
    b"WzRdLCJkYXRhX29mZnNldHMiOlsxNiwzMl19LCJ0aHJlc2hvbGQiOnsiZHR5cGUiOiJJMzIiLCJzaGFwZSI6WzldLCJkYXRhX29m"
    b"ZnNldHMiOlszMiw2OF19LCJkaXJlY3Rpb24iOnsiZHR5cGUiOiJJOCIsInNoYXBlIjpbOV0sImRhdGFfb2Zmc2V0cyI6WzY4LDc3"
    b"XX0sInNpZ25zIjp7ImR0eXBlIjoiVTgiLCJzaGFwZSI6WzI2XSwiZGF0YV9vZmZzZXRzIjpbNzcsMTAzXX19ICDp02M+KJirPDsW"
    b"kL1W1Su9raqLvwaLo7+mYiE/SMcUP+X///8aAAAA0////wcAAAD2////MQAAAOH///8sAAAA1////wH/Af8B/wEBAQcO/wZ2CgAO"
    b"5g7XA2wDlwwoA3cB6QEIAZ0B"
)


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
    text = json.dumps({"digest": digest, **graph, "format": 2}).replace("\\\\u", "\\u")
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


def test_a_file_of_format_1_is_read_as_it_was(tmp_path: Path, certificate: Certificate) -> None:
    path = tmp_path / "old.1bit"
    path.write_bytes(OF_FORMAT_1)
    net, digest = load_with_digest(path)
    assert digest is None
    assert (net.name, net.certificate) == ("random sign", certificate)
    image = np.arange(0, 240, 20, dtype=np.uint8).reshape(1, 1, 1, 12)
    expected = [[0.4662703275680542, -1.2567335367202759, 0.8414762020111084, 0.7070202827453613]]  # by that version
    np.testing.assert_array_equal(run(net, image, executor="reference"), np.float32(expected))
    save(net, path)
    again, digest = load_with_digest(path)
    assert digest == digest_of(path.read_bytes())
    assert dumps(again) == dumps(net) == path.read_bytes()
    assert split(path.read_bytes())[1]["nodes"] == split(OF_FORMAT_1)[1]["nodes"]


def test_format_1_has_no_digest_and_format_2_needs_one(packed_mlp: Maker) -> None:
    good = dumps(packed_mlp((12, 9, 4)))
    with pytest.raises(FormatError, match="the graph has the unknown field 'digest'"):
        loads(good.replace(b'format\\":2', b'format\\":1'))
    with pytest.raises(FormatError, match="the graph lacks the field 'digest'"):
        loads(OF_FORMAT_1.replace(b'format\\":1', b'format\\":2'))


@pytest.mark.nightly
def test_ten_thousand_flips_of_a_large_file(packed_mlp: Maker, certificate: Certificate) -> None:
    good, rng = dumps(packed_mlp((784, 512, 512, 10), certificate=certificate)), random.Random(0)
    for data in flipped(good, iter(rng.randrange(8 * len(good)) for _ in range(10_000))):
        assert_refused(data)
