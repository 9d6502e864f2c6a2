"""The names of weights in a state_dict, against those that torch's layers have."""

from __future__ import annotations

import torch
from torch import nn

from onebit.common.weight_names import WEIGHT_NAME
from onebit.layers import binarize_

NET = nn.ModuleDict(
    {
        "dense": nn.Linear(2, 2),
        "conv": nn.Conv1d(2, 2, 1),
        "attention": nn.MultiheadAttention(2, 1),
        "mixed": nn.MultiheadAttention(2, 1, kdim=3, vdim=4),
        "lstm": nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2),
        "cell": nn.GRUCell(2, 2),
    }
)


def test_the_matrices_of_torchs_layers_are_weights_and_the_rest_is_not() -> None:
    for state in (NET.state_dict(), binarize_(NET, weight_quantizer="sign").model.state_dict()):
        for name, tensor in state.items():
            assert bool(WEIGHT_NAME.search(name)) == (tensor.dim() > 1), name


def test_parts_of_other_parametrizations_are_none() -> None:
    net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert [name for name in net.state_dict() if WEIGHT_NAME.search(name)] == []
    assert isinstance(net.weight, torch.Tensor)
