"""The benchmark of the training step: it runs, counts every variant, and refuses a net that is not binary."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.training_step import measure
from benchmarks.variants import FLOOR, VARIANTS, Setting, Variant, build, check, is_plain, settings_of
from onebit.errors import NotBinaryError
from onebit.layers import BinaryConv2d, BinaryLinear, RPReLU
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import Quantizer, Sign


@pytest.fixture(autouse=True)
def _own_malloc_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests of this process keep theirs."""
    monkeypatch.setattr("onebit.common.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


FEW: dict[str, Any] = {"rounds": 1, "seconds": 0.0, "batch": 8}


def test_every_variant_is_measured_in_turn_against_the_floor() -> None:
    rows = measure(**FEW, widths=(12, 16, 4), variants=["sign", "react"], without_kernels=True)["rows"]
    expected = [FLOOR.name, "sign", "react", "sign, ONEBIT_NATIVE=0", "react, ONEBIT_NATIVE=0"]
    assert [row["variant"] for row in rows if row["precision"] == "fp32"] == expected
    assert all(min(row["ms"], row["ratio"], row["twin_ratio"], row["first_seconds"]) > 0 for row in rows)
    assert rows[0]["ratio"] == rows[0]["twin_ratio"] == 1


@pytest.mark.parametrize("model", ["resnet20", "vgg_small"])
def test_convolutional_nets_are_measured_in_each_memory_format(model: str) -> None:
    rows = measure(model=model, width=1 / 8, variants=["sign", "bnn"], **FEW)["rows"]
    found = [(row["variant"], row["precision"], row["memory_format"]) for row in rows]
    names = (FLOOR.name, "sign", "bnn")
    assert found == [(name, one.precision, one.memory_format) for one in settings_of(model) for name in names]
    assert all(row["twin_ratio"] == 1 for row in rows if row["variant"] == FLOOR.name)


def test_the_twin_of_a_convolutional_net_is_torchs_own() -> None:
    setting = Setting("fp32", "channels_last")
    runs = [build(variant, setting, model="resnet20", width=1 / 16, batch=2) for variant in (FLOOR, VARIANTS["bnn"])]
    plain, binary = (run.net for run in runs)
    assert is_plain(plain)
    assert not is_plain(binary)
    assert [type(layer) for layer in plain.modules() if isinstance(layer, nn.Conv2d)] == [nn.Conv2d] * 19
    assert [type(layer) for layer in binary.modules() if isinstance(layer, nn.Conv2d)] == [BinaryConv2d] * 19
    assert {name: p.shape for name, p in plain.named_parameters()} == {n: p.shape for n, p in binary.named_parameters()}
    for run in runs:
        assert run.x.dtype == torch.uint8
        assert run.x.is_contiguous(memory_format=torch.channels_last)


def _trained(quantizer: Quantizer, *, clip: bool = True) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(BinaryLinear(12, 16, weight_quantizer=quantizer))
    groups = latent_groups(net, lr=1e-3, latent_clip=1.0 if clip else None)
    optimizer = clip_latents_(torch.optim.Adam(groups))

    def step() -> None:
        net(torch.randn(4, 12)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    check(net, optimizer, step)


class Clamped(Quantizer):
    """Not binary."""

    def forward(self, latent: Tensor) -> Tensor:
        return latent.clamp(-1, 1)


class Stale(Sign):
    """The signs of the first latent forever."""

    first: Tensor | None = None

    def forward(self, latent: Tensor) -> Tensor:
        if self.first is None:
            self.first = super().forward(latent).detach()
        return latent + (self.first - latent).detach()


@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_every_method_is_measured_where_it_is_asked_for(model: str) -> None:
    names = list(VARIANTS) if model == "mlp" else ["bop", "bayesbinn"]
    size: dict[str, Any] = {"widths": (12, 16, 4)} if model == "mlp" else {"width": 1 / 16}
    rows = measure(model=model, variants=names, **FEW, **size)["rows"]
    assert [row["variant"] for row in rows[1:]][: len(names)] == names


def test_a_variant_of_ones_own_is_measured_as_it_says() -> None:
    recu = Variant("recu", "recu", "approx_sign", optimizer="sgd")
    rows = measure(**FEW, variants=[recu], widths=(12, 16, 4))["rows"]
    assert rows[1]["variant"] == "recu"
    run = build(VARIANTS["react"], Setting("fp32"), model="mlp", batch=2, widths=(12, 16, 4))
    assert any(isinstance(module, RPReLU) for module in run.net.modules())
    assert isinstance(build(recu, Setting("fp32"), model="resnet20", batch=2, width=1 / 16).optimizer, torch.optim.SGD)


def test_the_check_takes_only_binary_weights_that_follow_their_clipped_latents() -> None:
    _trained(Sign())
    with pytest.raises(NotBinaryError, match="are not the binary weights of its latents"):
        _trained(Clamped())
    with pytest.raises(NotBinaryError, match="are not the binary weights of its latents"):
        _trained(Stale())
    with pytest.raises(NotBinaryError, match="not its clip 1"):
        _trained(Sign(), clip=False)


def test_the_check_leaves_the_weights_as_they_were() -> None:
    run = build(VARIANTS["sign"], Setting("fp32"), model="mlp", batch=4, widths=(6, 5, 3))
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    check(run.net, run.optimizer, run.step)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.net.state_dict().items())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept_by_glibc() -> None:
    # in a process of its own: the setting cannot be taken back
    code = """
import resource
from onebit.common.memory import keep_freed_memory
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(6_000_000, dtype=np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
assert keep_freed_memory()
np.ones(6_000_000, dtype=np.float32)
print(given_back, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < 1_000
    assert kept < given_back


@pytest.mark.parametrize("variant", [FLOOR, VARIANTS["sign"]], ids=str)
def test_plain_torch_steps_without_the_kernels_of_onebit(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBIT_NATIVE", "before")
    run = build(variant, Setting("fp32"), model="mlp", batch=4, widths=(6, 8, 4))
    seen = []
    run.net.register_forward_hook(lambda *_: seen.append(os.environ["ONEBIT_NATIVE"]))
    run.step()
    assert seen == ["0" if variant is FLOOR else "1"]
    assert os.environ["ONEBIT_NATIVE"] == "before"
