"""Claims about a trained net that are hard to bring about from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onebit.data import Dataset
from onebit.evaluation.forward import predict_logits
from onebit.models import MLP
from onebit.recipe import Recipe
from onebit.runs.opening import Run
from onebit.verification import proof
from onebit.verification.proof import Claim, prove_run


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
