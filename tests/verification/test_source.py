"""Claims about trained and packed nets; a net compared with its source: only differences by rounding are accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onebit.common.files import sha256_of
from onebit.data import Dataset
from onebit.evaluation.forward import predict_logits
from onebit.fold import fold_model
from onebit.layers import BinaryConvTranspose2d, BinaryLinear, InputCoding
from onebit.models import MLP
from onebit.packed import Card, CardScore, Certificate, PackedNet
from onebit.quantizers import SteSign
from onebit.recipe import Recipe
from onebit.runs.opening import Run
from onebit.verification import proof
from onebit.verification.proof import Claim, prove_packed, prove_run
from onebit.verification.run_packing import pack_run
from support.changed_nets import changed, node_of

WIDTH = 24


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    arrays = [(rng.integers(0, 256, (60, 1, 4, 4), np.uint8), rng.integers(0, 4, 60)) for _ in range(2)]
    return Dataset.from_arrays(*arrays)


def net_of(*, last_norm: bool = True) -> nn.Sequential:
    """Two layers of signs behind BatchNorm, and one more layer."""
    torch.manual_seed(1)
    model = nn.Sequential(
        InputCoding(), nn.Flatten(),
        BinaryLinear(16, WIDTH), nn.BatchNorm1d(WIDTH), SteSign(),
        BinaryLinear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), SteSign(),
        BinaryLinear(WIDTH, 4), nn.BatchNorm1d(4) if last_norm else nn.Identity(),
    )  # fmt: skip
    for norm in model:
        if isinstance(norm, nn.BatchNorm1d):
            for tensor in (norm.running_mean, norm.bias.data):
                tensor.normal_()
            norm.weight.data.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(net_of(), tmp_path)


def run_of(model: nn.Module, folder: Path) -> Run:
    path = folder / "net.safetensors"
    path.write_bytes(b"weights")
    model.input_shape = (1, 4, 4)  # type: ignore[assignment]
    return Run(Recipe(name="net", dataset="arrays"), model, (1, 4, 4), 4, path, {}, sha256_of(path))


def claims(net: PackedNet, data: Dataset | None, run: Run | None = None) -> dict[str, Claim]:
    return {claim.name: claim for claim in prove_packed(net, data, source=run)}


def certified(net: PackedNet, **changes: Any) -> PackedNet:
    return replace(net, certificate=replace(net.certificate, **changes))


def uncertified(net: PackedNet) -> PackedNet:
    """The net as it is packed without data, which give the names of classes."""
    return replace(net, certificate=None, classes=None)


def moved(net: PackedNet, name: str, by: Any) -> PackedNet:
    """The net with other thresholds in one layer."""
    return changed(net, name, threshold=lambda threshold: threshold + np.int32(by))


def recertified(net: PackedNet, data: Dataset, run: Run) -> PackedNet:
    """The net with the counts that `verify` finds in it."""
    made: Certificate | None = net.certificate
    detail = claims(net, data)["packed accuracy"].detail
    return replace(net, certificate=replace(made, correct=int(detail.split()[0])))


# --------------------------------------------------------------------------------------------------------- thresholds
@pytest.mark.parametrize(("name", "count"), [("4", WIDTH), ("7", 1)])
def test_a_changed_threshold_is_detected(run: Run, data: Dataset, name: str, count: int) -> None:
    net = pack_run(run, data)
    assert all(claim.ok for claim in claims(net, data, run).values())
    other = recertified(moved(net, name, [2] * count + [0] * (WIDTH - count)), data, run)
    found = claims(other, data, run)
    assert not found["packed bits"].ok
    assert f"{count} of {WIDTH} values" in found["packed bits"].detail
    assert not found["certificate"].ok
    assert f"{name}: " in found["certificate"].detail
    alone = claims(uncertified(other), None, run)["packed bits"]
    assert not alone.ok


def ties_in(run: Run, channels: int) -> np.ndarray:
    """Let the first channels of the second BatchNorm give 0, up to rounding, at an integer; how to move it beyond."""
    norm: Any = run.model.get_submodule("6")
    at = torch.arange(WIDTH).remainder(5)[:channels].double() * 2 - 4
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.data[:channels] = (norm.running_mean.double()[:channels] - at).mul(scale[:channels]).float()
    folded = fold_model(run.model, torch.zeros((2, 1, 4, 4), dtype=torch.uint8)).net
    below = (
        node_of(folded, "7").threshold[:channels] == at.numpy()
    )  # here rounding decides for +1, there for the next integer
    return np.concatenate([np.where(below, 2, -2), np.zeros(WIDTH - channels, int)])


def test_a_threshold_at_a_tie_may_differ_by_rounding(run: Run, data: Dataset) -> None:
    by = ties_in(run, 1)
    net = recertified(moved(pack_run(run, data), "7", by), data, run)
    found = claims(net, data, run)
    assert all(claim.ok for claim in found.values()), found
    assert "1 of 24 values" in found["packed bits"].detail
    assert claims(uncertified(net), None, run)["packed bits"].ok
    assert not claims(moved(net, "7", -2 * by), data, run)["packed bits"].ok  # to the other side of the tie


def test_a_sign_of_integers_themselves_is_not_rounded(data: Dataset, tmp_path: Path) -> None:
    model = net_of()
    model[6] = nn.Identity()
    run = run_of(model, tmp_path)
    found = claims(moved(pack_run(run, data), "7", [2] + [0] * (WIDTH - 1)), data, run)
    assert not found["packed bits"].ok


# -------------------------------------------------------------------------------------------------------- certificate
def test_labels_that_differ_are_compared_where_torch_rounds_nothing(data: Dataset, tmp_path: Path) -> None:
    run = run_of(net_of(), tmp_path)
    net = pack_run(run, data)
    assert net.promise == "exact"
    assert claims(net, data, run)["certificate"].ok
    found = claims(certified(net, label_mismatches=1, bit_exact=False), data, run)["certificate"]
    assert not found.ok
    assert "label_mismatches" in found.detail


# --------------------------------------------------------------------------------------------------------------- card
@pytest.mark.parametrize("kind", ["whole", "some", "all by number", "train", "none"])
def test_the_result_of_a_card_is_that_of_the_whole_test_split(run: Run, data: Dataset, kind: str) -> None:
    net = pack_run(run, data, images=20 if kind == "some" else None)
    whole = pack_run(run, data).certificate
    if kind == "all by number":
        net = certified(net, images=60)
    elif kind == "train":
        net = recertified(certified(net, split="train"), data, run)
    elif kind == "none":
        net = replace(net, certificate=None)
    for off in (0, 1):
        score = CardScore(correct=whole.correct + off, count=60)
        stated = replace(net, card=Card(dataset="arrays", test={"packed": score}))
        for source in (run,) if kind == "none" else (None, run):
            found = claims(stated, data, source)
            assert found["card"].ok is (off == 0), found
    for other in (data, None) if kind == "none" else (data,):
        assert not claims(replace(net, card=Card(dataset="mnist", test={"packed": score})), other, run)["card"].ok


# ------------------------------------------------------------------------------------------------- transposed layers
@pytest.mark.parametrize(("quantizer", "groups"), [("sign", 2), ("xnor", 1), ("adabin", 2)])
def test_a_transposed_convolution_has_two_values_per_output_channel(
    data: Dataset, tmp_path: Path, quantizer: str, groups: int
) -> None:
    torch.manual_seed(0)
    up = BinaryConvTranspose2d(4, 6, 2, stride=2, groups=groups, weight_quantizer=quantizer)
    model = nn.Sequential(
        InputCoding(), nn.Flatten(), BinaryLinear(16, 16), nn.Unflatten(1, (4, 2, 2)), up, nn.Flatten(),
        BinaryLinear(96, 4),
    ).eval()  # fmt: skip
    claim = next(claim for claim in prove_run(run_of(model, tmp_path), data) if claim.name == "binarized weights")
    assert claim.ok
    assert claim.detail.startswith("3 of 3 layers hold two values per output channel")


# ----------------------------------------------------------------------------------------------------------------- runs
def claim_of(name: str, model: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> Claim:
    data = Dataset.from_arrays((images, labels), (images, labels), classes=("cat", "dog"))
    claims = prove_run(Run(Recipe(name="net"), model, (1, 4, 4), 2, Path("net"), {}), data)
    return next(claim for claim in claims if claim.name == name)


BLACK = np.zeros((2, 1, 4, 4), np.uint8), np.arange(2)


def test_accuracy_must_be_more_than_that_of_one_answer_to_every_image() -> None:
    torch.manual_seed(0)
    model = MLP((16, 8, 2)).eval()
    images = np.random.default_rng(0).integers(0, 256, (16, 1, 4, 4), dtype=np.uint8)
    unequal = np.repeat([0, 1], [10, 6])
    model.norm2.bias.data[0] = 1e6  # the answer is class 0
    for right, labels in ((False, unequal), (True, np.zeros(16, np.int64))):
        if right:
            model.norm2.bias.data[0] = 0
            model.norm2.bias.data -= predict_logits(model, torch.from_numpy(images)).median(0).values
            labels = predict_logits(model, torch.from_numpy(images)).argmax(1).numpy()
            assert 0 < labels.sum() < 16
        claim = claim_of("binary accuracy", model, images, labels)
        assert claim.ok is right
        if not right:
            assert "(10 of 16; " in claim.detail
            assert claim.detail.endswith("on arrays test, expected more than 10, the largest class")


def test_the_range_of_latents_is_theirs() -> None:
    model = MLP((16, 8, 2)).eval()
    for name in ("linear1", "linear2"):
        model.get_submodule(name).weight.data.uniform_(0.25, 0.5)
    model.linear1.weight.data[0, 0], model.linear2.weight.data[0, 0] = 0.125, 0.75
    claim = claim_of("latent weights", model, *BLACK)
    assert claim.detail.startswith("144 latent weights in [0.125, 0.75], 0 outside their bound")


def test_only_layers_with_two_values_are_counted_as_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    def save_latents(model: torch.nn.Module, path: Path) -> None:
        binary = {"linear1.weight": model.get_submodule("linear1").weight.sign()}
        torch.save(model.state_dict() | binary, path)

    monkeypatch.setattr(proof, "save_plain", save_latents)
    model = MLP((16, 8, 2)).eval()
    claim = claim_of("binarized weights", model, *BLACK)
    assert not claim.ok
    assert claim.detail.startswith("1 of 2 layers hold two values")
