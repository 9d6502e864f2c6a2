"""A binary Llama trained with its parameters sharded by FSDP2, or in one process."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import onebit
from support.language_models import make_model

QUANTIZERS = ("sign", "xnor", "magnitude_aware")
TOKENS = torch.arange(40 * 16).reshape(10, 2, 2, 16) % 13
"""Ten steps of two halves of a batch."""


def train_llama(quantizer: str, rank: int | None = None) -> dict[str, Tensor]:
    """The parameters after ten steps; of rank 0 or 1 in two processes, or of one process with both halves."""
    model = make_model()
    onebit.binarize_(model, weight_quantizer=quantizer)
    if rank is not None:
        mesh = init_device_mesh("cpu", (2,))
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
    optimizer = onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(model.train(), lr=3e-3)))
    for halves in TOKENS:
        optimizer.zero_grad()
        for half in halves if rank is None else halves[rank : rank + 1]:
            loss = model(half, labels=half).loss
            (loss / (2 if rank is None else 1)).backward()
        optimizer.step()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: getattr(tensor, "full_tensor", tensor.clone)() for name, tensor in parameters.items()}


def train_in_ranks(folder: str) -> None:
    """What each of two processes does; rank 0 saves the parameters of each quantizer."""
    distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = {quantizer: train_llama(quantizer, rank) for quantizer in QUANTIZERS}
    if rank == 0:
        torch.save(found, Path(folder, "parameters"))
    distributed.destroy_process_group()
