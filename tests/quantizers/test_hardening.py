"""Weights that harden: a blend with the latents, in training only, that follows the progress."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import onebit
from onebit.errors import UsageError
from onebit.layers import input_quantizers
from onebit.quantizers import WEIGHT_QUANTIZERS, Hardening, Xnor


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)])
def test_the_weights_go_from_the_latents_to_those_that_ship(progress: float, share: float) -> None:
    torch.manual_seed(0)
    latent, direction = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8)
    quantizer, plain = Hardening(Xnor(), until=0.4), Xnor()
    quantizer.set_progress(progress)
    found, made = quantizer(latent), plain(latent)
    torch.testing.assert_close(found, (1 - share) * latent + share * made)
    ours, theirs = (torch.autograd.grad(x, latent, direction)[0] for x in (found, made))
    torch.testing.assert_close(ours, (1 - share) * direction + share * theirs)
    if share == 1:
        assert torch.equal(found, made)
    assert torch.equal(quantizer.eval()(latent), made)


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_every_quantizer_hardens_and_ships_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    nets: list[Any] = [nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    onebit.binarize_(nets[0], weight_quantizer=lambda: Hardening(WEIGHT_QUANTIZERS[name]()))
    onebit.binarize_(nets[1], weight_quantizer=name)
    for one, other in zip(nets[0][::2], nets[1][::2], strict=True):
        other.weight_quantizer.load_state_dict(one.weight_quantizer.quantizer.state_dict())
    x = torch.randn(5, 16)
    torch.testing.assert_close(nets[0].eval()(x), nets[1].eval()(x))
    assert not [*input_quantizers(nets[0])]
    assert onebit.quantizer_config(nets[0]) == onebit.quantizer_config(nets[1])
    optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(nets[0], lr=0.01)))
    onebit.fit(nets[0], (x.repeat(20, 1), torch.arange(100) % 4), optimizer, epochs=2, batch_size=20)
    assert float(nets[0][0].weight_quantizer.share) == 1
    assert onebit.pack(nets[0], x, data=x).certificate is not None


def test_the_end_is_a_share_of_training() -> None:
    with pytest.raises(UsageError, match="until"):
        Hardening(Xnor(), until=0)
