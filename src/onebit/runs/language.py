"""Language models of transformers: to GGUF, from GGUF, and from the folders of `save_pretrained`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
from onebit.layers import LatentWeight, binarize_, binary_layers, latent_keys, quantizer_config
from onebit.packed import Card
from onebit.packed.gguf_file import GROUP, Q1_0, read_gguf
from onebit.quantizers import WEIGHT_QUANTIZERS, sign

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
MOST_CONFIG = 10_000_000


def export_gguf(
    model: nn.Module | AnyPath,
    path: AnyPath,
    *,
    tokenizer: AnyPath | None = None,
    rest: str = "q8_0",
    pre: str | None = None,
    card: Card | Mapping[str, Any] | None = None,
) -> ExportedGguf:
    """Write a language model for llama.cpp: binary weights as Q1_0, one fp16 scale and 128 signs a block.

    The file is read back and compared with the model before it appears at `path`. Scales are rounded to fp16.

    Args:
        model: a Llama or Qwen3 of transformers with binary layers, or its folder of `save_pretrained`, whose
            `config.json` has what `quantizer_config` returns under "onebit".
        tokenizer: folder of `tokenizer.json`, byte-level BPE; that of the model by default. Without one, the file
            takes token ids only.
        rest: type of the matrices that are not binary: "q8_0", "f16", "bf16", "f32".
        pre: llama.cpp's name of the way in which a tokenizer splits words, if it is not that of GPT-2, Llama 3 or
            Qwen.
        card: what the net is, as stored in the metadata; that of the folder by default.

    Raises:
        UsageError: what llama.cpp would compute in another way: another architecture, scaled rotary embeddings,
            quantized inputs, centers, rows that are no multiple of 128, scales that are not normal in fp16.
        FormatError: a damaged folder.

    Example:
        >>> print(export_gguf(model, "net.gguf", tokenizer="folder"))
    """
    resolve(dict.fromkeys(EXPORTS["gguf"].options["rest"]), rest, kind="type of the rest")
    if not isinstance(model, nn.Module):
        tokenizer = tokenizer or (model if (Path(model) / TOKENIZER).is_file() else None)
        model = open_pretrained(model)
    layout = Layout(_config(model))
    stored = layout.config.get("onebit") or {}
    found = card if isinstance(card, Card) else Card.from_json(card or stored.get("card") or {})
    if found.method is None:
        found = Card(**{**vars(found), "method": _method(model)})
    folder = None if tokenizer is None else Path(tokenizer)
    return write_gguf(_weights(model), layout, path, tokenizer=folder, pre=pre, rest=rest, card=found)


def load_gguf_(model: nn.Module, path: AnyPath) -> nn.Module:
    """Load a GGUF file into a model of the same shape, to go on training; the inverse of `export_gguf`.

    The latents of binary layers get the signs of the file; their size is the quantizer's start size if that gives the
    file's scales, else the scales themselves.

    Returns:
        The same model.

    Raises:
        FormatError: a damaged file. CheckpointError: the file is of another model, or the scales of its groups cannot
            be those of a layer: binarize the model with `group=128`.
    """
    file, layout = read_gguf(path), Layout(_config(model))
    latents = {latent.plain_key: latent.layer for latent in latent_keys(model).values()}
    parameters = {layout.place(name): (name, parameter) for name, parameter in _parameters(model)}
    kind = file.facts.get("general.architecture")
    if kind != layout.kind or file.tensors.keys() != parameters.keys():
        differ = ", ".join(sorted(file.tensors.keys() ^ parameters.keys())[:3])
        raise CheckpointError(f"{path}: a {kind!s:.20} that belongs to another model: {differ}")
    new = {}
    for place, (name, parameter) in parameters.items():
        tensor = file.tensors[place]
        if tensor.shape != parameter.shape:
            raise CheckpointError(f"{path}: {name!r} has shape {tensor.shape}, expected {tuple(parameter.shape)}")
        values = torch.from_numpy(np.array(layout.rows(name, tensor.values(), back=True)))
        if name in latents and tensor.kind == Q1_0:
            values = _latent(name, latents[name], values, parameter)
        new[name] = values
    with torch.no_grad():
        for name, parameter in parameters.values():
            parameter.copy_(new[name])
    return model


def open_pretrained(folder: AnyPath) -> nn.Module:
    """The weights of a folder of `save_pretrained`, in binary layers as its `config.json` says; it cannot be run.

    Raises:
        FormatError: a damaged folder, or one without what `quantizer_config` returns. UnknownNameError: a quantizer.
    """
    folder = Path(folder)
    try:
        return _opened(folder)
    except KeyError as error:
        if error.args == ("onebit",):
            hint = "model.config.onebit = onebit.quantizer_config(model)"
            raise FormatError(
                f"{folder / CONFIG} does not say which layers are binary: before saving, {hint}"
            ) from None
        raise FormatError(f"{folder}: lacks, or repeats, {error}") from None
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise FormatError(f"{folder}: damaged, or no folder of save_pretrained ({error})") from None


def _opened(folder: Path) -> nn.Module:
    model: Any = nn.Module()
    model.config = read_json(folder / CONFIG, largest=MOST_CONFIG)
    groups = model.config["onebit"]["quantizers"]
    chosen = {name for group in groups for name in group["layers"]}
    of_quantizers = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with open_safetensors(path, "pt")[0] as file:
            for key in file.keys():  # noqa: SIM118
                if "quantizer." in key:
                    of_quantizers[key] = file.get_tensor(key)
                elif not key.endswith("rotary_emb.inv_freq"):
                    _add(model, key, file.get_tensor(key), chosen)
    for group in groups:
        quantizer = partial(
            resolve(WEIGHT_QUANTIZERS, str(group["weight_quantizer"]), kind="weight quantizer"), **group["options"]
        )
        binarize_(
            model,
            weight_quantizer=quantizer,
            input_quantizer=group.get("input_quantizer"),
            where=lambda name, _: name in group["layers"],  # noqa: B023
        )
    if missing := chosen - {name for name, _ in binary_layers(model)}:
        raise ValueError(f"{min(missing)!r} has no weight: is it tied to the embedding?")
    expected = {key for key in model.state_dict() if "quantizer." in key}
    if expected != of_quantizers.keys():
        raise ValueError(f"quantizers have the parameters {sorted(expected)}, found {sorted(of_quantizers)}")
    model.load_state_dict(of_quantizers, strict=False)
    return model


def _add(model: nn.Module, key: str, tensor: Tensor, linear: Collection[str]) -> None:
    """Add a parameter and the modules around it; those in `linear` are linear layers."""
    *parts, last = key.split(".")
    module = model
    for depth, part in enumerate(parts, 1):
        if part not in module._modules:
            binary = ".".join(parts[:depth]) in linear
            module.add_module(part, nn.Linear(1, 1, bias=False, device="meta") if binary else nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))


def _config(model: nn.Module) -> Mapping[str, Any]:
    config: Any = getattr(model, "config", None)
    if config is None:
        raise UsageError(f"{type(model).__name__} has no config, expected a model of transformers")
    return config if isinstance(config, Mapping) else config.to_dict()


def _method(model: nn.Module) -> str | None:
    """How the weights became binary, for the card."""
    groups = quantizer_config(model)["quantizers"]
    return (
        "; ".join(
            ", ".join(
                [
                    f"weights {group['weight_quantizer']}",
                    *(f"{name}={value:g}" for name, value in group["options"].items()),
                ]
            )
            for group in groups
        )
        or None
    )


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if "quantizer." not in name)


@torch.no_grad()
def _weights(model: nn.Module) -> Iterator[Weight]:
    """The parameters of a model, as `write_gguf` takes them."""
    latents = {latent.plain_key: latent.layer for latent in latent_keys(model).values()}
    parameters = dict(_parameters(model))
    if tied := latents.keys() - parameters.keys():
        raise UsageError(f"{min(tied)} is binary, but shared with a real layer, such as the embedding: leave it real")
    for name, parameter in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise UsageError(f"{name} has values that are not finite")
        layer = latents.get(name)
        yield Weight(name, _numpy(parameter)) if layer is None else _binary(name, layer, parameter)


def _binary(name: str, layer: LatentWeight, latent: Tensor) -> Weight:
    """What ships of a latent."""
    assert layer.weight_quantizer is not None
    signs, scale, centre = layer.weight_quantizer.decompose(latent)
    if layer.input_quantizer is not None or centre is not None:
        what = "quantized inputs" if layer.input_quantizer is not None else "weights with a center"
        raise UsageError(f"{name}: GGUF has no {what}")
    return Weight(name, _numpy(signs), block_scales(name, None if scale is None else _numpy(scale), tuple(signs.shape)))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()


@torch.no_grad()
def _latent(name: str, layer: LatentWeight, values: Tensor, parameter: nn.Parameter) -> Tensor:
    """The latents of which a layer makes these ±d."""
    assert layer.weight_quantizer is not None
    for latents in (sign(values) * layer.weight_quantizer.start_size, values):
        made = _binary(name, layer, latents.to(parameter))
        assert made.scale is not None
        blocks = made.values.reshape(*made.scale.shape, -1) * made.scale[..., None].astype(np.float32)
        if np.array_equal(blocks.reshape(values.shape), values.numpy()):
            return latents
    raise CheckpointError(f"{name}: its quantizer cannot make the scales of the file; is it one for groups of {GROUP}?")
