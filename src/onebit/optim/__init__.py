"""Optimizers: any of torch's with the latent clip, by name."""

from __future__ import annotations

import torch

from onebit.optim.compiled import compile_update_
from onebit.optim.latents import clip_latents_, latent_groups

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}

__all__ = ["OPTIMIZERS", "clip_latents_", "compile_update_", "latent_groups"]
