"""Forward passes: what they must not change."""

from __future__ import annotations

import torch
from torch import nn

import onebit
from onebit.evaluation.forward import try_model


def test_the_check_of_a_model_draws_nothing_and_changes_no_mode() -> None:
    model = nn.Sequential(onebit.InputCoding(), nn.Flatten(), nn.Dropout(0.5).eval(), nn.Linear(64, 4))
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    try_model(model, torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(torch.rand(4), wanted)
    assert [module.training for module in model] == [True, True, False, True]
