"""Packed nets as torch modules: nets of many forms, and whether a module gives their outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import onebit.modules.packed_module
from onebit.packed import PackedNet
from onebit.runtime import run
from support.packed_nets import IMAGE_NETS, NETS, NETS_OF_OTHER_INPUTS, inputs_of, make_packed_mlp

RUN_PACKED = torch.ops.onebit.run_packed.default
RUN_OUTPUTS = torch.ops.onebit.run_packed_outputs.default
FORMS = ["weight-only", "sign", "mixed", *(f"images {form}" for form in IMAGE_NETS), *NETS_OF_OTHER_INPUTS]
SEVERAL = ["features", "signal"]
# torch's compiler and exporter cause some themselves
TORCHS_OWN = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def make(form: str) -> PackedNet:
    """A net of one of FORMS."""
    if form in NETS_OF_OTHER_INPUTS or form.startswith("images "):
        return NETS[form.removeprefix("images ")]()
    return make_packed_mlp((12, 70, 5), form=form)


def images_of(net: PackedNet, count: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(inputs_of(net, count, seed))


def assert_runs(call: Callable[[torch.Tensor], Any], net: PackedNet, *, counts: tuple[int, ...] = (5,)) -> None:
    """Assert that `call` gives the outputs of the net, bit for bit, in batches of several sizes."""
    for count in counts:
        images = images_of(net, count, seed=count)
        made, expected = call(images), run(net, images.numpy())
        assert type(made) is {np.ndarray: torch.Tensor}.get(type(expected), type(expected))
        expected = net.by_name(expected)
        for name, logits in net.by_name(made).items():
            assert (logits.dtype, logits.device.type, logits.requires_grad) == (torch.float32, "cpu", False)
            np.testing.assert_array_equal(logits.numpy().view(np.int32), expected[name].view(np.int32))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every net that is read during the test."""
    found: list[bytes] = []
    read = onebit.modules.packed_module.loads

    def reading(data: bytes) -> PackedNet:
        found.append(data)
        return read(data)

    monkeypatch.setattr(onebit.modules.packed_module, "loads", reading)
    return found
