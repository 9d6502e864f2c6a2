"""Every model of the table, with random weights, packs, survives saving and loading, and agrees with torch."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onebit.data import Split
from onebit.fold import pack
from onebit.models import MODELS, create_model
from onebit.packed import dumps, loads
from onebit.verification.agreement import certify, verify
from support.covering import covering
from support.fold_nets import images_of, randomise
from support.small_models import ALIKE, FORMS as SMALL

RESIDUAL = {name for name in MODELS if name.startswith("resnet")} | {"unet"}  # sums or joins of real values
AVERAGED = {"nin"}  # averages real values before a sign: equal floats, but not proven

FORMS: dict[str, dict[str, Any]] = {
    "weight-only": {},
    "weight-only, standardised, ends real": {
        "coding": "standardize", "mean": [120.0], "std": [60.0], "real_first": True, "real_last": True,
    },
    "signs": {"input_quantizer": "ste_sign"},
    "signs, padded with ones": {"input_quantizer": "ste_sign", "padding_value": 1.0},
}  # fmt: skip


def make(name: str, **options: Any) -> nn.Module:
    """A model with random weights, gains and shifts, and BatchNorm statistics of random images."""
    torch.manual_seed(0)
    options = {"classes": 5, "weight_quantizer": "sign", **SMALL[name][1], **options}
    if "mean" in options:
        options |= {key: options[key] * options["input_shape"][0] for key in ("mean", "std")}
    if name == "mlp":
        options.pop("padding_value", None)
    model = create_model(name, **options)
    return randomise(model, images_of(24, model.input_shape))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "form"), covering(product(MODELS, FORMS), heavy=ALIKE))
def test_every_model_packs_and_agrees(name: str, form: str) -> None:
    """Daily each model in one form and each form."""
    model = make(name, **FORMS[form])
    packed = loads(dumps(pack(model, name=name)))
    agreement = verify(model, packed, images_of(16, model.input_shape, seed=2))
    assert agreement.ok, agreement
    proofs = agreement.layers
    if not form.startswith("signs"):
        assert proofs == ()
        return
    assert sum(proof.mismatches for proof in proofs) == 0
    if name not in RESIDUAL:
        assert agreement.bit_exact
    kinds = {proof.proof for proof in proofs}
    assert kinds == ({"every integer", "float"} if name in RESIDUAL | AVERAGED else {"every integer"})


@pytest.mark.parametrize(("name", "options"), [
    ("resnet18", {"bireal": True, "activation": "hardtanh"}),
    pytest.param("unet", {}, marks=pytest.mark.nightly),  # daily with other activations
    ("unet", {"activation": "rprelu"}),
    ("unet", {"padding": "valid", "width": 1 / 32, "depth": 2}),
])  # fmt: skip
def test_signs_between_real_ends_pack_and_agree(name: str, options: dict[str, Any]) -> None:
    model = make(name, input_quantizer="ste_sign", real_first=True, real_last=True, **options)
    packed = loads(dumps(pack(model)))
    pixels = getattr(model, "output_shape", (5,))[1:]
    images = images_of(40, model.input_shape, seed=2)
    split = Split(images, np.zeros((40, *pixels), np.uint8 if pixels else np.int64))
    certificate = certify(model, packed, split, dataset="toy").certificate
    assert certificate is not None
    assert certificate.label_mismatches == 0
    # torch adds the sums of a real first convolution in another order: signs of sums near 0 may differ
    count = 16 if name == "resnet18" else 5 * options.get("depth", 4) + 1
    assert len(certificate.layers) == count
    floats = [layer for layer in certificate.layers if layer.proof == "float"]
    assert all(layer.mismatches < 0.01 * layer.integers for layer in floats)
    assert all(layer.mismatches == 0 for layer in certificate.layers if layer not in floats)
    assert (
        len(floats) == 16 if name == "resnet18" else 0 < len(floats) < count
    )  # within a level, sums are sums of signs
