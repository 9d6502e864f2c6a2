"""`pack` and `verify`: what is compared, what is claimed, and that a changed file is noticed by every verb."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.packed import Certificate, PackedNet, dumps, load, save
from support.command_line import Onebit, run_process


def node_with(net: PackedNet, name: str, **changes: Any) -> PackedNet:
    """The net with other arrays in one node, each by a function of the old one."""
    nodes = list(net.nodes)
    [at] = [index for index, node in enumerate(nodes) if node.output == name]
    arrays: dict[str, Any] = {field: change(getattr(nodes[at], field)) for field, change in changes.items()}
    nodes[at] = replace(nodes[at], **arrays)
    return replace(net, nodes=tuple(nodes))


def certified(net: PackedNet, **changes: Any) -> PackedNet:
    """The net with another certificate."""
    assert net.certificate is not None
    return replace(net, certificate=replace(net.certificate, **changes))


def one_bit(signs: np.ndarray) -> np.ndarray:
    changed = signs.copy()
    changed[0, 0] ^= np.uint64(1)
    return changed


def test_a_run_is_verified_without_a_source(onebit: Onebit, run_folder: Path) -> None:
    refused = onebit("verify", run_folder, "--source", "no-such-run")
    assert (refused.status, refused.out) == (2, "")
    assert "--source" in refused.line


@pytest.mark.parametrize("verb", ["verify", "verify --source", "predict", "evaluate", "inspect"])
def test_altered_bits_are_found(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path, verb: str) -> None:
    good, rng, path = packed_file.read_bytes(), random.Random(verb), tmp_path / "net.1bit"
    name, *flags = verb.split(" ")
    arguments = [name, path, *(["no.png"] if name == "predict" else []), *([*flags, run_folder] if flags else [])]
    for count in [1] * 6 + [300]:
        data = bytearray(good)
        for bit in rng.sample(range(8 * len(good)), count):
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        refused = onebit(*arguments)
        assert (refused.status, refused.out) == (2, "")
        assert str(path) in refused.line


@pytest.mark.parametrize(
    ("node", "field", "change", "noun"),
    [
        ("linear1", "signs", one_bit, "1 of 25,088 values of signs of linear1 differ"),
        ("norm1", "shift", lambda a: a + np.float32(0.01), "32 of 32 values of shift of norm1 differ"),
    ],
)
def test_the_source_finds_changed_nets(
    onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path, node: str, field: str, change: Any, noun: str
) -> None:
    path = tmp_path / "net.1bit"
    path.write_bytes(dumps(node_with(load(packed_file), node, **{field: change})))
    done = onebit("verify", path, "--source", run_folder, "--json")
    assert done.status == 1
    ok, detail = done.steps["packed bits"]
    assert not ok
    assert noun in detail
    save(replace(load(packed_file), name="mnist-best"), path)
    done = onebit("verify", path, "--source", run_folder, "--json")
    assert (done.status, "name 'mnist-best'" in done.steps["packed bits"][1]) == (1, True)


@pytest.mark.nightly
def test_a_certificate_holds_where_torch_has_no_vector_instructions(run_folder: Path, packed_file: Path) -> None:
    done = run_process("verify", packed_file, "--source", run_folder, ATEN_CPU_CAPABILITY="default")
    assert done.status == 0, done.out


def test_verify_recomputes(
    onebit: Onebit, run_folder: Path, packed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = onebit("verify", packed_file, "--source", run_folder, "--json")
    assert (done.status, list(done.steps)) == (0, ["packed accuracy", "card", "source", "packed bits", "certificate"])
    assert done.steps["certificate"][1] == "recomputed, equal"
    alone = onebit("verify", packed_file, "--json")
    assert list(alone.steps) == ["packed accuracy", "card"]
    assert ("--source" in alone.err, "--source" in done.err) == (True, False)
    monkeypatch.setattr("onebit.verification.sample_comparison.__version__", "7.0.0")
    later = onebit("verify", packed_file, "--source", run_folder, "--json")
    assert later.steps["certificate"] == (True, "recomputed, equal; packed by onebit 0.1.0, recomputed by 7.0.0")


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("correct", lambda c: {"correct": c.correct - 1}),
        ("count", lambda c: {"count": c.count + 1}),
        ("source", lambda c: {"source": "ab" * 32}),
        ("recipe", lambda c: {"recipe": "mnist-best"}),
    ],
)
def test_claims_are_recomputed(
    onebit: Onebit,
    run_folder: Path,
    packed_file: Path,
    tmp_path: Path,
    claim: str,
    change: Callable[[Certificate], dict[str, Any]],
) -> None:
    net = load(packed_file)
    assert net.certificate is not None
    save(certified(net, **change(net.certificate)), tmp_path / "net.1bit")
    done = onebit("verify", tmp_path / "net.1bit", "--source", run_folder, "--json")
    assert done.status == 1
    assert done.steps["certificate"] == (False, f"differs in {claim}")
    alone = onebit("verify", tmp_path / "net.1bit", "--json")
    assert alone.status == (1 if claim in ("correct", "count") else 0)


def test_pack_without_the_data_set(
    onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object, **options: object) -> None:
        raise AssertionError("the data were read")

    path = tmp_path / "net.1bit"
    monkeypatch.setattr("onebit.runs.opening.load_dataset", gone)
    monkeypatch.setattr("onebit.data.load_dataset", gone)
    done = onebit("pack", run_folder, "-o", path, "--no-certify")
    assert done.status == 0
    assert "not certified: nothing was compared with the trained net" in done.out
    whole = load(packed_file)
    assert whole.card is not None
    card = replace(whole.card, test={mode: score for mode, score in whole.card.test.items() if mode != "packed"})
    assert dumps(replace(whole, certificate=None, card=card)) == path.read_bytes()
    assert onebit("pack", run_folder, "-o", path, "--no-certify", "--json").json["certificate"] is None
    refused = onebit("verify", path)
    assert (refused.status, "--source" in refused.line) == (2, True)
    assert "no certificate" in onebit("inspect", path).err
    compared = onebit("verify", path, "--source", run_folder, "--json")
    assert (compared.status, list(compared.steps)) == (0, ["packed bits"])
    assert "no certificate" in compared.err
    save(node_with(load(path), "linear1", signs=one_bit), path)
    assert onebit("verify", path, "--source", run_folder).status == 1


def test_some_images_are_compared_and_found_again(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    done = onebit("pack", run_folder, "-o", path, "--images", 150, "--json")
    certificate = done.json["certificate"]
    assert (done.status, certificate["count"], certificate["images"]) == (0, 150, 150)
    assert done.json["compared"]["images"] == done.json["compared"]["numpy"] == 150
    stored = load(path).certificate
    assert stored is not None
    assert json.loads(json.dumps(stored.as_dict())) == certificate
    found = onebit("verify", path, "--source", run_folder, "--json")
    assert (found.status, len(found.json["steps"])) == (0, 4)
    assert "of 150 correct" in found.steps["packed accuracy"][1]
    every = onebit("pack", run_folder, "-o", path, "--images", 100_000, "--json").json
    assert (every["certificate"]["count"], every["certificate"]["images"]) == (2000, None)
    assert every["compared"]["numpy"] == (1000 if every["compared"]["native"] else 2000)
