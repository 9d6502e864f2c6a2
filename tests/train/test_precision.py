"""The precision of matrix products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from onebit.errors import UsageError
from onebit.train import precision as module
from onebit.train.precision import lay_out_state_, resolve_memory_format, resolve_precision
from onebit.train.settings import Fit

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9B45"}, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"bf16": True}, "bf16"),
        ({"avx2": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_asks_the_cpu(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize("native", [True, False])
def test_auto_asks_the_gpu(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert module.multiplies_bf16(torch.device("cuda")) is native


def test_a_stated_precision_is_kept() -> None:
    assert [resolve_precision(precision, CPU) for precision in ("bf16", "fp32")] == ["bf16", "fp32"]


@pytest.mark.parametrize(("name", "value"), [
    ("precision", "fp16"), ("memory_format", "nhwc"), ("ema", 1), ("patience", 0), ("batch_size", 0), ("steps", 1.5),
    ("class_weights", [-1, 1]), ("accumulate", 0), ("seed", -1), ("samples", 0), ("clip_grad_norm", 0),
    ("clip_grad_value", 0), *(("epochs", wrong) for wrong in (float("nan"), float("inf"), -1)),
])  # fmt: skip
def test_settings_of_fit_are_checked(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        Fit(**{name: value})  # type: ignore[arg-type]


def test_nets_with_convolutions_are_channels_last_by_default() -> None:
    dense, convolving = nn.Linear(2, 2), nn.Conv2d(2, 2, 1)
    assert resolve_memory_format("auto", dense) is torch.contiguous_format
    assert resolve_memory_format("auto", convolving) is torch.channels_last
    assert resolve_memory_format("contiguous", convolving) is torch.contiguous_format


@pytest.mark.parametrize("fused", [False, True])
def test_training_continues_in_another_memory_format(fused: bool) -> None:
    def trained(layout: torch.memory_format) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator))
        optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
        for step in range(6):
            if step == 3:
                weight.data = weight.data.to(memory_format=layout)
                lay_out_state_(optimizer)
                assert optimizer.state[weight]["exp_avg"].is_contiguous(memory_format=layout)
            weight.grad = torch.randn(8, 4, 3, 3, generator=generator).to(
                memory_format=layout if step > 2 else torch.contiguous_format
            )
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(trained(torch.channels_last), trained(torch.contiguous_format), rtol=0, atol=1e-6)
