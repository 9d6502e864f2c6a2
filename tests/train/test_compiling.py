"""`fit(compile=True)`: the first batches set ranges as they do without it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from onebit.layers import BinaryLinear
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import INPUT_QUANTIZERS
from onebit.quantizers.few_bits import FewBits
from onebit.train.loop import fit
from onebit.train.wrapping import Compiled

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


class Noted(nn.Module):
    """Counts its passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.passes = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.model(x)


def noted(model: nn.Module) -> tuple[Compiled, Noted]:
    compiled, passes = Compiled(model), Noted(model)
    compiled.compiled = passes
    return compiled, passes


def net(range: str) -> tuple[nn.Sequential, FewBits]:
    torch.manual_seed(0)
    quantizer = INPUT_QUANTIZERS["uint4"](range=range)
    return nn.Sequential(quantizer, BinaryLinear(6, 3)), quantizer


@pytest.mark.parametrize("range", ["lsq", "follow"])
def test_a_blank_first_batch_leaves_the_range_to_the_next(range: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 20 * torch.rand(40, 6, generator=generator)
    x[:20] = 0
    batches = DataLoader(TensorDataset(x, torch.randint(3, (40,), generator=generator)), batch_size=20)
    limits = []
    for compile in (False, True):
        model, quantizer = net(range)
        optimizer = clip_latents_(torch.optim.SGD(latent_groups(model, lr=0.01)))
        fit(model, batches, optimizer, epochs=3, precision="fp32", compile=compile)
        limits.append(quantizer.limit.item())
    assert limits[0] > 10
    assert limits[1] == pytest.approx(limits[0], rel=1e-6)


def test_passes_are_compiled_as_soon_as_the_range_is_set() -> None:
    model, quantizer = net("lsq")
    compiled, passes = noted(model)
    zeros, ones = torch.zeros(2, 6), torch.ones(2, 6)
    for x in (zeros, zeros, ones):
        compiled(x)
    assert passes.passes == 0
    assert quantizer.limit > 0
    compiled(ones)
    assert passes.passes == 1
    other, _ = net("lsq")
    other.load_state_dict(model.state_dict())
    compiled, passes = noted(other)
    compiled(ones)
    assert passes.passes == 1  # the range of a checkpoint is set


def test_without_ranges_every_pass_is_compiled() -> None:
    compiled, passes = noted(nn.Sequential(INPUT_QUANTIZERS["uint4"](range="dorefa"), nn.Linear(6, 3)))
    compiled(torch.zeros(2, 6))
    assert passes.passes == 1
