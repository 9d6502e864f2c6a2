"""The plain torch form of a trained net: ordinary layers whose weights are two values per output channel."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from onebit.common.files import write_atomic
from onebit.errors import NotBinaryError
from onebit.layers import binary_layers, latent_keys
from onebit.runs.model import build_model
from onebit.runs.opening import Run
from onebit.train.weights import load_weights


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict with every latent weight replaced by its two shipped values, for a model of `torch.nn` layers.

    Keys are those of plain layers, also where the weights are parametrized (recurrent layers, attention).
    Parameters of input quantizers stay, as `LAYER.input_quantizer.…` or `ACTIVATION.quantizer.…`: the model that loads
    this must still quantize its inputs.
    """
    weights = {}
    for name, layer in binary_layers(model):
        if bad := int(torch.count_nonzero(torch.isnan(layer.weight))):
            raise NotBinaryError(f"layer {name!r}: {bad} latent weights are not numbers")
        weights[id(layer)] = layer.dense(layer.binary_weight())
    latents = latent_keys(model, shared=True)
    state = {}
    for key, value in model.state_dict().items():
        if key in latents:
            key, _, layer = latents[key]
            value = weights[id(layer)]
        elif "weight_quantizer." in key:
            continue
        state[key] = value.detach().clone().contiguous()
    return state


def save_plain(model: nn.Module, path: str | Path) -> None:
    """Write `plain_state_dict`: `.safetensors` as safetensors, any other file as torch writes it."""
    path = Path(path)
    state = plain_state_dict(model)
    if path.suffix == ".safetensors":
        write_atomic(path, safetensors.torch.save(state))
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue())


def plain_twin(run: Run, state: dict[str, Tensor], *, source: str) -> nn.Module:
    """The net of a run with `state` in plain weights: input quantizers, but no weight quantizers; in eval mode."""
    recipe = dataclasses.replace(run.recipe.model, weight_quantizer=None, weight_options=None, value=1.0)
    twin = build_model(recipe, input_shape=run.input_shape, classes=run.classes)
    for _, layer in binary_layers(twin):  # of a custom model
        layer.weight_quantizer = None
    load_weights(twin, state, source=source)
    return twin.eval()
