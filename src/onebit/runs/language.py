"""Language models of transformers: to GGUF, from GGUF, and from the folders of `save_pretrained`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from onebit.common.files import AnyPath, read_json
from onebit.common.safetensors_file import open_safetensors
from onebit.common.tables import resolve
from onebit.errors import CheckpointError, FormatError, UsageError
from onebit.export import EXPORTS
from onebit.export.gguf.target import ExportedGguf, Layout, Weight, block_scales, write_gguf
from onebit.export.gguf.tokenizer import FILE
from onebit.layers import binarize_, binary_layers, latent_keys, quantizer_config
from onebit.packed import Card
from onebit.packed.gguf_file import GROUP, Q1_0, read_gguf
from onebit.quantizers import WEIGHT_QUANTIZERS, sign

MOST_CONFIG = 10_000_000


def export_gguf(
    model: nn.Module | AnyPath,
    path: AnyPath,
    *,
    tokenizer: AnyPath | None = None,
    rest: str = "q8_0",
    pre: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> ExportedGguf:
    """Write a language model for llama.cpp: binary weights as Q1_0, an fp16 scale and 128 signs a block.

    The file is read back and compared with the model before it appears at `path`. Scales are rounded to fp16.

    Args:
        model: a Llama or Qwen3 of transformers with binary layers, or its folder of `save_pretrained`, whose
            `config.json` has what `quantizer_config` returns under "onebit".
        tokenizer: folder of a byte-level BPE, `tokenizer.json`; by default that of the model. Without one, the net
            takes ids of tokens only.
        rest: type of the matrices that are not binary: "q8_0", "f16", "bf16", "f32".
        pre: llama.cpp's name of how the tokenizer splits words, if not as that of GPT-2, Llama 3 or Qwen.
        card: what the net is, as `onebit.packed.Card.from_json` takes it; by default "card" beside the quantizers.

    Raises:
        UsageError: what llama.cpp would compute in another way: another architecture, scaled rotary embeddings,
            quantized inputs, centers, rows that are no multiple of 128, scales that are not normal in fp16.
        FormatError: a damaged folder.

    Example:
        >>> print(export_gguf(model, "net.gguf", tokenizer="folder"))
    """
    resolve(dict.fromkeys(EXPORTS["gguf"].options["rest"]), rest, kind="type of the rest")
    if not isinstance(model, nn.Module):
        tokenizer = tokenizer or (model if (Path(model) / FILE).is_file() else None)
        model = open_pretrained(model)
    layout = Layout(_config(model))
    made = Card.from_json(card or (layout.config.get("onebit") or {}).get("card") or {})
    if made.method is None:
        names = {group["weight_quantizer"]: None for group in quantizer_config(model)["quantizers"]}
        made = replace(made, method=f"weights {', '.join(names)}" if names else None)
    folder = None if tokenizer is None else Path(tokenizer)
    return write_gguf(_weights(model), layout, path, tokenizer=folder, pre=pre, rest=rest, card=made)


@torch.no_grad()
def load_gguf_(model: nn.Module, path: AnyPath) -> nn.Module:
    """Load a GGUF file into a model of the same shape, to go on training; the inverse of `export_gguf`.

    The latents of binary layers get the signs of the file, and the start size of the quantizer if the layer then has
    the scales of the file, else the scales themselves.

    Returns:
        The same model.

    Raises:
        FormatError: a damaged file. CheckpointError: the file is of another model, or has scales that a layer cannot
            have: binarize the model with a quantizer for groups of 128.
    """
    (facts, tensors), layout = read_gguf(path), Layout(_config(model))
    tensors.pop("rope_freqs.weight", None)  # which follow from the configuration
    latents = {latent.plain_key: latent.layer for latent in latent_keys(model).values()}
    parameters = {layout.place(name): (name, parameter) for name, parameter in _parameters(model).items()}
    if differ := tensors.keys() ^ parameters.keys() or {str(facts.get("general.architecture"))} - {layout.kind}:
        raise CheckpointError(f"{path}: of another model: only one of the two has {min(differ):.60}")
    new = {}
    for place, (name, parameter) in parameters.items():
        if tensors[place].shape != parameter.shape:
            shapes = f"{tensors[place].shape}, expected {tuple(parameter.shape)}"
            raise CheckpointError(f"{path}: {name!r} has shape {shapes}")
        new[name] = np.array(layout.rows(name, tensors[place].values(), back=True))
        if name in latents and tensors[place].kind == Q1_0:
            new[name] = _latent(name, latents[name], new[name], parameter)
    for name, parameter in parameters.values():
        parameter.copy_(torch.from_numpy(new[name]))
    return model


def _latent(name: str, layer: Any, values: np.ndarray, parameter: nn.Parameter) -> np.ndarray:
    """The latents of which a layer makes these ±d."""
    signs = sign(torch.from_numpy(values)).numpy()
    for latents in (signs * np.float32(layer.weight_quantizer.start_size), values):
        _, made, scale = _binary(name, layer, torch.from_numpy(latents).to(parameter))
        if np.array_equal(values.reshape(-1, GROUP), made.reshape(-1, GROUP) * scale.reshape(-1, 1).astype(np.float32)):
            return latents
    raise CheckpointError(f"{name}: its quantizer cannot make the scales of the file; is it one for groups of {GROUP}?")


def open_pretrained(folder: AnyPath) -> nn.Module:
    """The weights of a folder of `save_pretrained`, in binary layers as its `config.json` says; it cannot be run.

    Raises:
        FormatError: a damaged folder, or one without what `quantizer_config` returns. UnknownNameError: a quantizer.
    """
    model: Any = nn.Module()
    try:
        model.config = read_json(Path(folder) / "config.json", largest=MOST_CONFIG)
        if "onebit" not in model.config:
            raise ValueError("its config lacks 'onebit': model.config.onebit = onebit.quantizer_config(model)")
        groups, quantizers = model.config["onebit"]["quantizers"], dict[str, Tensor]()
        chosen = {name for group in groups for name in group["layers"]}
        for path in sorted(Path(folder).glob("model*.safetensors")):
            with open_safetensors(path, "pt")[0] as file:
                for key in file.keys():  # noqa: SIM118
                    if "quantizer." in key:
                        quantizers[key] = file.get_tensor(key)
                    elif not key.endswith("rotary_emb.inv_freq"):
                        _add(model, key, file.get_tensor(key), chosen)
        for group in groups:
            kind = resolve(WEIGHT_QUANTIZERS, str(group["weight_quantizer"]), kind="weight quantizer")
            names, inputs = set(group["layers"]), group.get("input_quantizer")
            made = partial(kind, **group["options"])
            binarize_(model, weight_quantizer=made, input_quantizer=inputs, where=lambda name, _: name in names)  # noqa: B023
        if chosen != {name for name, _ in binary_layers(model)}:
            raise ValueError("a binary layer has no weight, or shares that of the embedding")
        if quantizers.keys() != {key for key in model.state_dict() if "quantizer." in key}:
            raise ValueError("its quantizers have other parameters")
        model.load_state_dict(quantizers, strict=False)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise FormatError(f"{folder}: damaged, or not of save_pretrained ({error})") from None
    return model


def _add(model: nn.Module, key: str, tensor: Tensor, linear: Collection[str]) -> None:
    """Add a parameter and the modules around it; those in `linear` are linear layers."""
    *parts, last = key.split(".")
    for depth, part in enumerate(parts, 1):
        if part not in model._modules:
            binary = ".".join(parts[:depth]) in linear
            model.add_module(part, nn.Linear(1, 1, bias=False, device="meta") if binary else nn.Module())
        model = model.get_submodule(part)
    model.register_parameter(last, nn.Parameter(tensor, requires_grad=False))


def _config(model: nn.Module) -> Mapping[str, Any]:
    config: Any = getattr(model, "config", None)
    if config is None:
        raise UsageError(f"{type(model).__name__} has no config, expected a model of transformers")
    return config if isinstance(config, Mapping) else config.to_dict()


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if "quantizer." not in name}


@torch.no_grad()
def _weights(model: nn.Module) -> Iterator[Weight]:
    """The parameters of a model, as `write_gguf` takes them."""
    latents = {latent.plain_key: latent.layer for latent in latent_keys(model).values()}
    parameters = _parameters(model)
    if tied := latents.keys() - parameters.keys():
        raise UsageError(f"{min(tied)} is binary, but shared with a real layer, such as the embedding: leave it real")
    for name, parameter in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise UsageError(f"{name} has values that are not finite")
        yield _binary(name, latents[name], parameter) if name in latents else (name, _numpy(parameter), None)


def _binary(name: str, layer: Any, latent: Tensor) -> Any:
    """What ships of a latent."""
    signs, scale, centre = layer.weight_quantizer.decompose(latent)
    if layer.input_quantizer is not None or centre is not None:
        raise UsageError(f"{name}: GGUF has no {'centers' if layer.input_quantizer is None else 'quantized inputs'}")
    return name, _numpy(signs), block_scales(name, None if scale is None else _numpy(scale), tuple(signs.shape))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
