"""`onebit verify`: what it proves of a run and of a packed net, and that changed files and claims are found."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from onebit.packed import PackedNet, load, save
from support.command_line import Onebit, run_process


def node_with(net: PackedNet, name: str, **changes: Callable[[np.ndarray], np.ndarray]) -> PackedNet:
    """The net with other arrays in one node, each by a function of the old one."""
    nodes = list(net.nodes)
    [at] = [index for index, node in enumerate(nodes) if node.output == name]
    arrays: dict[str, Any] = {field: change(getattr(nodes[at], field)) for field, change in changes.items()}
    nodes[at] = replace(nodes[at], **arrays)
    return replace(net, nodes=tuple(nodes))


def one_bit(signs: np.ndarray) -> np.ndarray:
    changed = signs.copy()
    changed[0, 0] ^= np.uint64(1)
    return changed


def test_a_run_is_proved(onebit: Onebit, run_folder: Path, real_folder: Path) -> None:
    done = onebit("verify", run_folder, "--json")
    assert (done.status, done.json["ok"]) == (0, True)
    names = ["latent weights", "binarize", "binary accuracy", "binarized weights", "reload", "packed"]
    assert list(done.steps) == names
    assert "2,000 of 2,000 predictions equal" in done.steps["reload"][1]
    lines = onebit("verify", run_folder).out.splitlines()[:-1]
    assert [line.partition(":")[0].split(maxsplit=1) for line in lines] == [["ok", name] for name in names]
    refused = onebit("verify", run_folder, "--source", "no-such-run")
    assert (refused.status, refused.out, "--source" in refused.line) == (2, "", True)
    real = onebit("verify", real_folder, "--json")
    assert (real.status, real.json["ok"]) == (1, False)


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_latents_out_of_range_are_found(onebit: Onebit, copied: Path, value: float) -> None:
    state = load_file(copied / "best.safetensors")
    state["linear1.weight"][3, 5] = value
    save_file(state, copied / "best.safetensors")
    (copied / "result.json").unlink()
    done = onebit("verify", copied, "--json")
    assert (done.status, done.steps["latent weights"][0]) == (1, False)


def test_altered_bits_are_found_by_every_verb(
    onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path
) -> None:
    good, rng, path = packed_file.read_bytes(), random.Random(0), tmp_path / "net.1bit"
    for words in (["verify"], ["verify", "--source", run_folder], ["predict", "no.png"], ["evaluate"], ["inspect"]):
        data = bytearray(good)
        for bit in rng.sample(range(8 * len(good)), 1):
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        verb, *rest = words
        refused = onebit(verb, *([path, *rest]))
        assert (refused.status, refused.out, str(path) in refused.line) == (2, "", True)


def test_a_packed_net_is_recomputed(
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


@pytest.mark.nightly
def test_a_certificate_holds_where_torch_has_no_vector_instructions(run_folder: Path, packed_file: Path) -> None:
    done = run_process("verify", packed_file, "--source", run_folder, ATEN_CPU_CAPABILITY="default")
    assert done.status == 0, done.out


def test_the_source_finds_changed_nets(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    net, path = load(packed_file), tmp_path / "net.1bit"
    bare = replace(net, certificate=None, card=None)
    for other, noun in (
        (node_with(net, "linear1", signs=one_bit), "1 of 25,088 values of signs of linear1"),
        (node_with(bare, "linear1", signs=one_bit), "signs of linear1"),
        (node_with(net, "norm1", shift=lambda a: a + np.float32(0.01)), "32 of 32 values of shift of norm1"),
        (replace(net, name="mnist-best"), "'mnist-best'"),
    ):
        save(other, path)
        done = onebit("verify", path, "--source", run_folder, "--json")
        ok, detail = done.steps["packed bits"]
        assert (done.status, ok, noun in detail) == (1, False, True)


def test_the_source_finds_other_multipliers_but_not_another_rounding(
    onebit: Onebit, run_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "net.1bit"
    assert onebit("pack", run_folder, "-o", path, "--activations", "8").status == 0
    net, changes = load(path), dict[str, Callable[[np.ndarray], np.ndarray]]
    for field, change in (
        ("", changes(multiplier=lambda a: a + np.int32(1), offset=lambda a: a + np.int64(100))),  # as a processor may
        ("multiplier", changes(multiplier=lambda a: (a * 1.01).astype(np.int32))),
        ("offset", changes(offset=lambda a: a + np.abs(a).max() // 100)),
    ):
        save(node_with(net, "relu1", **change), path)
        done = onebit("verify", path, "--source", run_folder, "--json")
        ok, detail = done.steps["packed bits"]
        assert (done.status == 0, ok) == (not field, not field)
        assert "32 of " in detail
        assert not field or f"{field} of relu1" in detail


def test_claims_are_recomputed(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    net, path = load(packed_file), tmp_path / "net.1bit"
    made = net.certificate
    assert made is not None
    for claim, value, seen_alone in (
        ("correct", (made.correct or 0) - 1, True),
        ("count", made.count + 1, True),
        ("source", "ab" * 32, False),
        ("recipe", "mnist-best", False),
    ):
        save(replace(net, certificate=replace(made, **{claim: value})), path)  # type: ignore[arg-type]
        done = onebit("verify", path, "--source", run_folder, "--json")
        assert (done.status, done.steps["certificate"]) == (1, (False, f"differs in {claim}"))
        assert onebit("verify", path, "--json").status == int(seen_alone)


def test_cards_are_recomputed(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    net, path = load(packed_file), tmp_path / "net.1bit"
    assert net.card is not None
    assert net.certificate is not None
    right = net.card.test["packed"]
    wrong = replace(net.card, test={"packed": replace(right, correct=right.correct + 1)})
    for card, certificate, source in (
        (wrong, net.certificate, []),
        (replace(net.card, test={"packed": replace(right, mean_iou=0.9)}), net.certificate, []),
        (replace(net.card, dataset="cifar10"), net.certificate, []),
        (wrong, None, ["--source", run_folder]),
        (replace(net.card, test={"packed": right}), None, ["--source", run_folder]),  # the right one
    ):
        save(replace(net, card=card, certificate=certificate), path)
        done = onebit("verify", path, *source)
        holds = card.test["packed"] == right and card.dataset == net.card.dataset
        assert (done.status == 0, "FAIL  card: " in done.out) == (holds, not holds)
        assert not source or "ok    packed bits" in done.out
    in_memory = replace(net.certificate, split="", dataset="own arrays")
    save(replace(net, card=None, certificate=in_memory), path)
    refused = onebit("verify", path, "--source", run_folder)
    assert (refused.status, "own arrays" in refused.line) == (2, True)
