"""Small nets for tests of test modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onebit.data import Split, make_toy
from onebit.models import MLP
from onebit.quantizers import Stochastic


def net(quantizer: str | None = "sign", inputs: int = 64, **options: object) -> nn.Module:
    """An MLP whose BatchNorm statistics belong to nothing yet."""
    torch.manual_seed(0)
    model = MLP((inputs, 24, 4), weight_quantizer=quantizer, **options)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = 1000 * torch.rand(module.num_features) + 1
    return model.eval()


class Bayesian(Stochastic):
    """A quantizer whose latents are the parameters of a distribution with the mean tanh(latent)."""

    def mean(self, latent: Tensor) -> Tensor:
        return latent.tanh()


@pytest.fixture(scope="module")
def splits() -> tuple[Split, Split]:
    return make_toy(160, 90)
