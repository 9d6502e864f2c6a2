"""Nets that were trained on permuted pixels, packed for images as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onebit.cli.train_command import read_command, train_request
from onebit.errors import UsageError
from onebit.runs.model import build_model
from onebit.runs.opening import Run
from onebit.verification.run_packing import fold_run, on_raw_images


def made_run(model: str, method: str, shape: tuple[int, int, int]) -> Run:
    """A net with its first weights, as if it had been trained on permuted pixels."""
    flags = ["--model", model, "--dataset", "mnist", "--method", method, "--permutation", "3"]
    widths = ["--model.widths", "[144,6,4]"] if model == "mlp" else []
    recipe = train_request(read_command([*flags, *widths]))
    net = build_model(recipe.model, input_shape=shape, classes=4)
    return Run(recipe, net.eval(), shape, 4, Path("final.safetensors"), {})


@pytest.mark.parametrize("method", ["bnn", "bayesbinn", "real"])
def test_the_net_on_raw_images_computes_what_it_did_on_permuted_ones(method: str) -> None:
    torch.manual_seed(0)
    run = made_run("mlp", method, (3, 6, 8))
    images = torch.randint(0, 256, (5, 3, 6, 8), dtype=torch.uint8)
    order = np.random.default_rng(3).permutation(48)
    permuted = images.flatten(2)[:, :, order].view_as(images)
    before = [parameter.clone() for parameter in run.model.parameters()]
    raw = on_raw_images(run)
    with torch.no_grad():
        torch.testing.assert_close(raw.model(images), run.model(permuted))
        assert not torch.allclose(raw.model(images), run.model(images))
    assert raw.recipe.permutation is None
    assert all(map(torch.equal, before, run.model.parameters()))
    assert on_raw_images(raw) is raw


def test_nets_that_keep_their_permutation_are_not_packed() -> None:
    with pytest.raises(UsageError, match="permuted"):  # a convolution cannot take over the order of pixels
        on_raw_images(made_run("lenet", "binaryconnect", (1, 28, 28)))
    with pytest.raises(UsageError, match="on_raw_images"):
        fold_run(made_run("mlp", "binaryconnect", (3, 6, 8)), None)
