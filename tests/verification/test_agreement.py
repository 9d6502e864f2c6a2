"""Packed nets agree with their models, and disagreement is detected."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import onebit
from onebit import runtime
from onebit.data import VOID, Split, StreamedImages
from onebit.errors import FoldError, UsageError
from onebit.evaluation.modes import evaluate
from onebit.fold import example_of, fold_model, pack
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding
from onebit.packed import Affine, Dense, LayerProof, PackedNet, load, save
from onebit.verification.agreement import certify, verify
from onebit.verification.layer_proofs import Proof
from onebit.verification.sample_comparison import reference_images
from support.changed_nets import changed, node_of
from support.fold_nets import SHAPE, images_of, make_mlp, make_nasty, torch_logits

SPLIT = Split(images_of(120), np.random.default_rng(3).integers(0, 5, 120))


@torch.no_grad()
def away_from_0(model: nn.Module) -> None:
    """Keep sums away from 0, where torch and onebit may round to different signs."""
    for name in ("norm1", "norm2"):
        model.get_submodule(name).get_parameter("bias").fill_(0.37)


@pytest.mark.parametrize("options", [{"input_quantizer": "ste_sign"}, {"value": "glorot", "real_last": True}])
def test_a_packed_net_agrees_with_its_model(options: dict[str, Any]) -> None:
    model = make_mlp(nasty=None, **options).train()
    agreement = verify(model, pack(model), images_of())
    assert agreement.ok
    assert (agreement.count, agreement.label_mismatches) == (200, 0)
    assert 0 <= agreement.max_logit_difference < 0.01
    assert model.training
    assert verify(model, pack(model), images_of()[:, 0], batch_size=7) == agreement


def test_a_net_of_signs_without_a_last_norm_agrees_bit_for_bit() -> None:
    layers = [BinaryLinear(12, 40), nn.BatchNorm1d(40), BinaryLinear(40, 5, input_quantizer="ste_sign")]
    model = make_nasty(nn.Sequential(InputCoding(), nn.Flatten(), *layers))
    agreement = verify(model, pack(model, input_shape=SHAPE), images_of())
    assert (agreement.label_mismatches, agreement.max_logit_difference, agreement.bit_exact) == (0, 0.0, True)


def test_disagreement_is_counted() -> None:
    model = make_mlp((12, 31, 5), nasty=None)
    packed = pack(model)
    spoilt = changed(packed, Dense, -1, signs=lambda signs: signs ^ np.uint64(1))
    agreement = verify(model, spoilt, images_of())
    ours, theirs = runtime.run(spoilt, images_of()), torch_logits(model, images_of())
    assert agreement.label_mismatches == (ours.argmax(1) != theirs.argmax(1)).sum() > 0
    assert agreement.max_logit_difference == pytest.approx(float(np.abs(ours - theirs).max()))
    assert not agreement.ok
    assert not agreement.bit_exact


def proof_of(model: nn.Module, packed: PackedNet) -> Proof:
    return Proof.of(fold_model(model, example_of(packed)), packed, None)


def test_thresholds_are_proved_for_every_integer() -> None:
    model = make_mlp(input_quantizer="ste_sign")
    packed = pack(model)
    assert proof_of(model, packed).layers == (
        LayerProof(name="linear2.sign", proof="every integer", integers=31 * (12 * 255 + 1), mismatches=0),
        LayerProof(name="linear3.sign", proof="every integer", integers=40 * 32, mismatches=0),
    )


def test_a_threshold_that_is_off_by_one_sum_is_one_mismatch() -> None:
    model = make_mlp(input_quantizer="ste_sign", nasty=None)  # untrained: all signs change at 0
    packed = pack(model)
    for name, index in (("linear2.sign", 0), ("linear3.sign", 1)):
        node = node_of(packed, name)
        threshold = node.threshold.copy()
        threshold[2] += 2
        threshold[5] -= 4
        assert proof_of(model, changed(packed, name, threshold=threshold)).layers[index].mismatches == 3
        turned = proof_of(model, changed(packed, name, direction=-node.direction)).layers[index]
        at_threshold = len(node.threshold)  # the one integer that both directions call +1
        assert turned.mismatches == turned.integers - at_threshold


def test_a_proof_in_several_blocks_finds_a_mismatch_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.fold.chain._BLOCK", 31 * 100 + 7)
    model = make_mlp(input_quantizer="ste_sign")
    packed = pack(model)
    assert proof_of(model, packed).layers[0].mismatches == 0
    never = np.full(31, np.iinfo(np.int32).max, np.int32)
    node = node_of(packed, "linear2.sign")
    integers = np.arange(-12 * 255, 12 * 255 + 1, 2)[:, None]
    up, down = integers >= node.threshold, integers <= node.threshold
    plus = int(np.where(node.direction > 0, up, down).sum())
    spoilt = changed(packed, node.output, threshold=never, direction=np.ones(31, np.int8))
    assert proof_of(model, spoilt).layers[0].mismatches == plus > 0


REAL: dict[str, Any] = {"coding": "standardize", "mean": [33.3], "std": [77.7]}
"""With it the sums before the first sign are real."""


def test_signs_of_scaled_sums_are_proven_on_every_integer() -> None:
    """torch adds ±1 and multiplies the sum by ±value."""
    model = make_mlp(input_quantizer="ste_sign", nasty=None, value="glorot")
    assert {layer.proof for layer in proof_of(model, pack(model)).layers} == {"every integer"}


def test_signs_of_rounded_sums_are_compared_on_images() -> None:
    model = make_mlp(input_quantizer="ste_sign", nasty=None, **REAL)
    away_from_0(model)
    packed = pack(model)
    without = proof_of(model, packed).layers[0]
    assert (without.proof, without.integers) == ("float", 0)
    proof = verify(model, packed, images_of()).layers[0]
    assert proof == LayerProof(name="linear2.sign", proof="float", integers=200 * 31, mismatches=0)
    spoilt = changed(packed, Dense, signs=lambda signs: np.roll(signs, 1, axis=0))
    assert verify(model, spoilt, images_of()).layers[0].mismatches > 200


def test_a_bias_is_exact_only_where_its_sums_are() -> None:
    for bias, proof in ((7.5, "every integer"), (7.1, "float")):
        model = nn.Sequential(
            InputCoding(), nn.Flatten(), BinaryLinear(12, 8, bias=True), BinaryLinear(8, 3, input_quantizer="ste_sign")
        )
        with torch.no_grad():
            model[2].get_parameter("bias").fill_(bias)
        packed = pack(model, input_shape=SHAPE)
        assert node_of(packed, "3.sign").threshold.tolist() == [-6] * 8  # sums of 12 odd numbers are even
        found = verify(model, packed, images_of()).layers[0]
        assert (found.proof, found.mismatches) == (proof, 0)


def test_a_shared_sign_is_compared_call_by_call() -> None:
    torch.manual_seed(0)
    shared = BinaryLinear(16, 16, input_quantizer="ste_sign")
    coding = InputCoding("standardize", mean=[100.0], std=[50.0])
    scaled = BinaryLinear(16, 16, input_quantizer="ste_sign", value=0.3)
    first, between = BinaryLinear(12, 16, bias=True), [nn.BatchNorm1d(16), scaled, nn.BatchNorm1d(16)]
    model = nn.Sequential(coding, nn.Flatten(), first, shared, *between, shared)
    with torch.no_grad():
        first.get_parameter("bias").uniform_(0.001, 0.01)  # away from 0
        for norm in (model[4], model[6]):
            norm.get_parameter("bias").fill_(0.37)
    packed = pack(model, input_shape=SHAPE)
    proofs = {proof.name: proof for proof in verify(model, packed, images_of(), batch_size=64).layers}
    assert list(proofs) == ["3.sign", "5.sign", "3.sign_2"]
    found = [(proof.proof, proof.mismatches) for proof in proofs.values()]
    assert found == [("float", 0), ("every integer", 0), ("every integer", 0)]
    assert proofs["3.sign"].integers == 200 * 16


def test_a_net_of_another_model_is_refused() -> None:
    packed = pack(make_mlp())
    for other in (make_mlp((12, 31, 41, 5)), make_mlp(real_last=True), make_mlp(input_quantizer="ste_sign")):
        with pytest.raises(UsageError, match="operations"):
            proof_of(other, packed)


def test_a_net_without_an_array_of_its_model_is_refused() -> None:
    packed = pack(model := make_mlp())
    with pytest.raises(UsageError, match="operations"):
        proof_of(model, changed(packed, Affine, shift=None))


def test_certificate_of_shipped_weights(tmp_path: Any) -> None:
    model, split = make_mlp(input_quantizer="ste_sign"), SPLIT
    packed = pack(model, name="a net")
    certified = certify(model, packed, split, dataset="toy", source="ab" * 32, recipe="a net")
    assert packed.certificate is None
    certificate = certified.certificate
    assert (certificate.onebit, certificate.dataset, certificate.split) == (onebit.__version__, "toy", "test")
    assert (certificate.count, certificate.label_mismatches) == (120, 0)
    assert (certificate.weights, certificate.seed) == ("binary", None)
    assert (certificate.source, certificate.recipe) == ("ab" * 32, "a net")
    assert certificate.correct == evaluate(model, split, weights="binary").correct
    assert certificate.layers == proof_of(model, packed).layers
    assert certify(model, packed, split, dataset="toy", seed=9).certificate == replace(
        certificate, source=None, recipe=None
    )
    save(certified, tmp_path / "net.1bit")
    assert load(tmp_path / "net.1bit").certificate == certificate


def test_certificate_of_a_draw() -> None:
    model, split = make_mlp(weight_quantizer="stochastic", nasty=None), SPLIT
    packed = pack(model, weights="sample", seed=4)
    certificate = certify(model, packed, split, dataset="toy", weights="sample", seed=4).certificate
    assert (certificate.weights, certificate.seed) == ("sample", 4)
    assert certificate.label_mismatches == 0
    assert certificate.correct == evaluate(model, split, weights="sample", seed=4, bn="trained").correct
    assert verify(model, packed, split.images).label_mismatches > 0
    for seed in (5, None):
        assert verify(model, packed, split.images, weights="sample", seed=seed).label_mismatches > 0


def test_images_are_read_batch_by_batch_and_counted_once() -> None:
    class Streamed(StreamedImages):
        """Counts the images that it reads."""

        def __init__(self, images: np.ndarray) -> None:
            super().__init__([""] * len(images), images.shape[2:])
            self._images, self.read_images, self.most = images, 0, 0

        @property
        def shape(self) -> tuple[int, ...]:
            return self._images.shape

        def __getitem__(self, index: slice) -> np.ndarray:
            self.read_images += len(self._images[index])
            self.most = max(self.most, len(self._images[index]))
            return self._images[index]

    model = make_mlp(input_quantizer="ste_sign", nasty=None, **REAL)
    packed, split = pack(model), SPLIT
    expected = certify(model, packed, split, dataset="toy").certificate
    streamed = Streamed(split.images)
    done: list[tuple[int, int]] = []
    found = certify(
        model, packed, Split(streamed, split.labels), dataset="toy", batch_size=8, on_images=lambda *n: done.append(n)
    ).certificate
    assert (streamed.most, streamed.read_images) == (8, 120)
    assert done == [(n, 120) for n in range(8, 121, 8)]
    assert [layer.integers for layer in found.layers] == [120 * 31, 32 * 40]
    assert replace(found, max_logit_difference=0.0) == replace(expected, max_logit_difference=0.0)


@pytest.mark.parametrize(("moved", "ok"), [(1e-6, True), (0.5, False)])
def test_a_tied_pixel_is_not_a_disagreement(moved: float, ok: bool) -> None:
    """Both classes have the same logits in torch; the packed net raises the second one by various amounts."""
    model = nn.Sequential(InputCoding(), BinaryConv2d(1, 2, 1, bias=True)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1)
        model[1].bias.fill_(1)
    packed = pack(model, input_shape=(1, 4, 4))
    other = changed(packed, Affine, shift=np.array([1, 1 + moved], np.float32))
    images = np.full((2, 1, 4, 4), 128, np.uint8)  # +1, coded
    agreement = verify(model, other, images)
    assert (agreement.count, agreement.label_mismatches, agreement.ok) == (32, 32, ok)
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[0, 0] = VOID
    agreement = verify(model, other, Split(images, masks))
    assert (agreement.count, agreement.label_mismatches, agreement.ok) == (28, 28, ok)


def test_without_true_masks_no_class_is_void() -> None:
    model = nn.Sequential(InputCoding(), BinaryConv2d(1, VOID + 45, 1, bias=True)).eval()
    packed = pack(model, input_shape=(1, 4, 4))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].bias[VOID] = 1e5  # the model always says 255, the packed net never
    images = images_of(8, (1, 4, 4))
    assert verify(model, packed, images).ok
    agreement = verify(other, packed, images)
    assert (agreement.count, agreement.label_mismatches, agreement.ok) == (16 * len(images), 16 * len(images), False)
    with torch.no_grad():
        model[1].bias[VOID] = 1e5
        other[1].bias[VOID] = -1e5  # the other way round
    agreement = verify(other, pack(model, input_shape=(1, 4, 4)), images)
    assert (agreement.count, agreement.label_mismatches) == (16 * len(images), 16 * len(images))
    with pytest.raises(UsageError, match="classes"):
        verify(model, packed, Split(images, np.zeros((len(images), 4, 4), np.uint8)))


DRAWN = np.random.default_rng(5).integers(0, 256, (2500, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize(("batch_size", "native"), [(None, "0"), (641, "1")])
def test_numpy_runs_a_part_of_many_images(native: str, batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second of 2,500 images; signs inside the net are compared on these, with or without the library."""
    monkeypatch.setenv("ONEBIT_NATIVE", native)
    model = make_mlp(input_quantizer="ste_sign", nasty=None, **REAL)
    away_from_0(model)
    packed, images = pack(model), DRAWN
    agreement = verify(model, packed, images, batch_size=batch_size)
    assert [(proof.integers, proof.mismatches) for proof in agreement.layers] == [(1250 * 31, 0), (32 * 40, 0)]
    assert (reference_images(2500), reference_images(1999), reference_images(10_000)) == (1250, 1999, 1000)
    ours, theirs = runtime.run(packed, images), torch_logits(model, images)
    assert agreement.count == 2500
    assert agreement.label_mismatches == (ours.argmax(1) != theirs.argmax(1)).sum()  # ties, decided by rounding


@pytest.mark.parametrize("image", [2, 1])
def test_a_kernel_with_wrong_bits_is_detected(image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_mlp()
    packed, images, run = pack(model), DRAWN, runtime.run

    def wrong(net: PackedNet, batch: np.ndarray, **options: Any) -> np.ndarray:
        logits = run(net, batch)
        logits[image, 0] = np.nextafter(logits[image, 0], np.float32(9))
        return logits

    monkeypatch.setattr("onebit.verification.sample_comparison.runtime.run", wrong)
    if image % 2:  # numpy does not run this image: a rounding difference from torch
        assert verify(model, packed, images).ok
        return
    with pytest.raises(FoldError, match="native library"):
        verify(model, packed, images)
