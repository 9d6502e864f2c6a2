"""A binary Llama trained with its parameters sharded by FSDP2, or in one process."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import onebit
from support.language_models import make_model

QUANTIZERS = ("sign", "xnor", "magnitude_aware")
TOKENS = torch.arange(40 * 16).reshape(10, 2, 2, 16) % 13
"""Ten steps of two halves of a batch."""


def train_llama(quantizer: str, rank: int | None = None, *, embeddings: bool = False) -> dict[str, Tensor]:
    """The parameters after ten steps; of rank 0 or 1 in two processes, or of one process with both halves."""
    model = make_model()
    onebit.binarize_(model, weight_quantizer=quantizer, embeddings=embeddings)
    if rank is not None:
        mesh = init_device_mesh("cpu", (2,))
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
    optimizer = make_optimizer(model.train())
    for halves in TOKENS:
        optimizer.zero_grad()
        for half in halves if rank is None else halves[rank : rank + 1]:
            loss = model(half, labels=half).loss
            (loss / (2 if rank is None else 1)).backward()
        optimizer.step()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: getattr(tensor, "full_tensor", tensor.clone)() for name, tensor in parameters.items()}


def run_example(*arguments: str) -> None:
    """What each process of `torchrun examples/several_gpus.py ARGUMENTS` does."""
    sys.argv = ["several_gpus.py", *arguments]
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "several_gpus.py"), run_name="__main__")


def train_in_accelerate(folder: str) -> None:
    """Ten steps in each of two processes, sharded by accelerate; rank 0 saves the parameters."""
    accelerator, model = sharding_accelerator(), make_model().train()
    onebit.binarize_(model, weight_quantizer="xnor", embeddings=True)
    model.gradient_checkpointing_enable()
    model, optimizer = accelerator.prepare(model, make_optimizer(model))
    for halves in TOKENS:
        tokens = halves[accelerator.process_index]
        accelerator.backward(model(tokens, labels=tokens).loss)
        optimizer.step()
        optimizer.zero_grad()
    save_whole(model, folder)


def train_in_trainer(folder: str) -> None:
    """Some epochs of transformers' Trainer in each of two processes, sharded; rank 0 saves the parameters."""
    from transformers import Trainer, TrainingArguments

    class Binary(Trainer):
        def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
            self.optimizer = make_optimizer(self.model)
            return self.optimizer

    model, options = make_model(), {"report_to": [], "save_strategy": "no", "disable_tqdm": True}
    onebit.binarize_(model, weight_quantizer="xnor", embeddings=True)
    batches = {"per_device_train_batch_size": 8, "num_train_epochs": 8, "gradient_checkpointing": True}
    arguments = TrainingArguments(folder, use_cpu=True, **batches, **options)
    sharding_accelerator()
    rows = [{"input_ids": row, "labels": row} for row in TOKENS.flatten(0, 2)]
    trainer = Binary(model, arguments, train_dataset=rows)
    trainer.train()
    save_whole(trainer.model, folder)


def sharding_accelerator() -> Any:
    """Of accelerate, which shards on GPUs only unless it is told that it does."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    wrapped: dict[str, Any] = {"transformer_cls_names_to_wrap": ["LlamaDecoderLayer"]}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap", **wrapped)
    accelerator = Accelerator(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    return accelerator


def make_optimizer(model: Any) -> torch.optim.Optimizer:
    return onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(model, lr=3e-3)))


def save_whole(model: Any, folder: str) -> None:
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    found = {name: parameter.full_tensor().detach() for name, parameter in model.named_parameters()}
    if distributed.get_rank() == 0:
        torch.save(found, Path(folder, "parameters"))
    distributed.destroy_process_group()


def train_in_ranks(folder: str) -> None:
    """What each of two processes does; rank 0 saves the parameters of each quantizer."""
    distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = {quantizer: train_llama(quantizer, rank) for quantizer in QUANTIZERS}
    if rank == 0:
        torch.save(found, Path(folder, "parameters"))
    distributed.destroy_process_group()
