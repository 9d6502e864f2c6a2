"""Language models of transformers: to GGUF, from GGUF, and from the folders of `save_pretrained`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from onebit.common.files import AnyPath, read_json
from onebit.common.safetensors_file import open_safetensors
from onebit.common.tables import resolve
from onebit.errors import CheckpointError, FormatError, UsageError, short
from onebit.export import EXPORTS
from onebit.export.gguf.target import ExportedGguf, Layout, Weight, block_scales, write_gguf
from onebit.export.gguf.tokenizer import FILE
from onebit.layers import LatentWeight, binarize_from_config_, input_quantizers, latent_keys, quantizer_config
from onebit.layers.base import unwrapped
from onebit.layers.binarize import share_quantizers_
from onebit.layers.description import noted_config, refuse_latents
from onebit.packed import Card
from onebit.packed.gguf_file import GROUP, IDLE, NOT_COMPUTED, Q1_0, read_gguf
from onebit.quantizers import WEIGHT_QUANTIZERS, Quantizer, set_progress, sign

MAX_CONFIG = 10_000_000
EMBEDDING, HEAD = "model.embed_tokens", "lm_head.weight"
Parameters = dict[str, tuple[Tensor, Quantizer | None]]
"""Name -> parameter, and its quantizer if it is binary."""


def export_gguf(
    model: nn.Module | AnyPath,
    path: AnyPath,
    *,
    tokenizer: Any = None,
    rest: str = "q8_0",
    pre: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> ExportedGguf:
    """Write a language model for llama.cpp: binary weights as Q1_0, an fp16 scale and 128 signs a block.

    The file is read back and compared with the model before it appears at `path`. Scales are rounded to fp16.

    Args:
        model: a Llama or Qwen3 of transformers with binary layers, or its folder of `save_pretrained`, whose
            `config.json` has what `quantizer_config` returns as "quantization_config".
        tokenizer: a byte-level BPE of transformers, or its folder with `tokenizer.json`; by default that of the model.
            Or a GGUF file, whose tokenizer is copied. Without one, the net takes ids of tokens only.
        rest: type of the matrices that are not binary: "q8_0", "f16", "bf16", "f32".
        pre: llama.cpp's name of how the tokenizer splits words, if not as that of GPT-2, Llama 3 or Qwen; not checked.
        card: what the net is, as `onebit.packed.Card.from_json` takes it; by default "card" beside the quantizers.

    Raises:
        UsageError: what llama.cpp would compute in another way: another architecture, scaled rotary embeddings, biases
            of a Qwen3, quantized inputs, centers, rows that are no multiple of 128, scales that are not normal in fp16,
            a tokenizer that is no byte-level BPE, or has a normalizer.
        FormatError: a damaged folder.

    Example:
        >>> print(export_gguf(model, "net.gguf", tokenizer="folder"))
    """
    resolve(dict.fromkeys(EXPORTS["gguf"].options["rest"]), rest, kind="type of the rest")
    if isinstance(model, nn.Module):
        net = unwrapped(model)
        refuse_latents(net)
        config, parameters = _config(net), _parameters(net)
        noted = {**noted_config(net), **quantizer_config(net)}
    else:
        tokenizer = tokenizer or (model if (Path(model) / FILE).is_file() else None)
        config, parameters = read_pretrained(model)
        noted = config["quantization_config"]
        if any(group["inputs"]["quantizer"] for group in noted["quantizers"]):
            raise UsageError(f"{model}: GGUF has no quantized inputs")
    made = Card.from_json(card or noted.get("card") or {})
    if made.method is None:
        names = {group["weights"]["quantizer"]: None for group in noted["quantizers"]}
        made = replace(made, method=f"weights {', '.join(names)}" if names else None)
    with TemporaryDirectory() as saved:
        if hasattr(tokenizer, "save_pretrained"):
            tokenizer.save_pretrained(saved)
            tokenizer = saved
        folder = None if tokenizer is None else Path(tokenizer)
        return write_gguf(_weights(parameters), Layout(config), path, tokenizer=folder, pre=pre, rest=rest, card=made)


@torch.no_grad()
def load_gguf_(model: nn.Module, path: AnyPath) -> nn.Module:
    """Load a GGUF file into a model of the same shape, to go on training; the inverse of `export_gguf`.

    The latents of binary layers get the signs of the file, and the start size of the quantizer if the layer then has
    the scales of the file, else the scales themselves.

    Returns:
        The same model.

    Raises:
        FormatError: a damaged file. UsageError: a model that `export_gguf` refuses. CheckpointError: the file is of
            another model, or has scales that a layer cannot have: binarize it with a quantizer for groups of 128.
    """
    net = unwrapped(model)
    (facts, arrays, tensors), layout = read_gguf(path), Layout(_config(net))
    if "rope_freqs.weight" in tensors and (tensors.pop("rope_freqs.weight").values() != 1).any():
        raise CheckpointError(f"{path}: rope_freqs.weight scales the rotary embeddings, the model does not")
    parameters = {layout.place(name): (name, *found) for name, found in _parameters(net).items()}
    if differ := tensors.keys() ^ parameters.keys() or {str(facts.get("general.architecture"))} - {layout.kind}:
        raise CheckpointError(f"{path}: of another model: only one of the two has {min(differ):.60}")
    expected, absent = layout.facts(), {f"{layout.kind}.rope.freq_base": 10_000}  # what llama.cpp then takes
    for key, value in (absent | facts | dict.fromkeys(arrays)).items():
        kind, _, name = key.partition(".")
        values: Any = [float(np.float32(expected[key]))] if key in expected else IDLE.get(name, [])
        if kind == layout.kind and name not in NOT_COMPUTED and value not in values:
            raise CheckpointError(f"{path}: {key:.60} is {short(value)}, of the model {values or 'nothing'}")
    new = {}
    for place, (name, parameter, quantizer) in parameters.items():
        if tensors[place].shape != parameter.shape:
            shape = tuple(parameter.shape)
            raise CheckpointError(f"{path}: {name!r} has shape {tensors[place].shape}, expected {shape}")
        new[name] = np.array(layout.rows(name, tensors[place].values(), back=True))
        if quantizer is not None and tensors[place].kind == Q1_0:
            new[name] = _latent(name, quantizer, new[name], parameter)
    for name, parameter, _ in parameters.values():
        parameter.copy_(torch.from_numpy(new[name]))
    return model


def _latent(name: str, quantizer: Quantizer, values: np.ndarray, parameter: Tensor) -> np.ndarray:
    """The latents of which a quantizer makes these ±d."""
    signs = sign(torch.from_numpy(values)).numpy()
    for latents in (signs * np.float32(quantizer.start_size), values):
        _, made, scale = _binary(name, quantizer, torch.from_numpy(latents).to(parameter))
        if np.array_equal(values.reshape(-1, GROUP), made.reshape(-1, GROUP) * scale.reshape(-1, 1).astype(np.float32)):
            return latents
    raise CheckpointError(f"{name}: its quantizer cannot make the scales of the file; is it one for groups of {GROUP}?")


def read_pretrained(folder: AnyPath) -> tuple[Mapping[str, Any], Parameters]:
    """The configuration and the parameters in a folder of `save_pretrained`, quantized as its `config.json` says.

    Raises:
        FormatError: a damaged folder, or one without what `quantizer_config` returns. UnknownNameError: a quantizer.
    """
    try:
        config = read_json(Path(folder) / "config.json", largest=MAX_CONFIG)
        if config.get("quantization_config", {}).get("quant_method") != "onebit":
            raise ValueError("it lacks model.config.quantization_config = onebit.quantizer_config(model)")
        found = dict[str, Tensor]()
        for path in sorted(Path(folder).glob("model*.safetensors")):
            with open_safetensors(path, "pt")[0] as file:
                for key in file.keys():  # noqa: SIM118
                    if key in found:
                        raise ValueError(f"two of its files have {key}")
                    found[key] = file.get_tensor(key)
        if config.get("tie_word_embeddings") is False and HEAD not in found:
            raise ValueError(f"a file is missing: no {HEAD}")  # llama.cpp would take the embedding
        states: dict[str, dict[str, Tensor]] = {}
        for key in [key for key in found if "_quantizer." in key]:
            weight, _, part = key.partition("_quantizer.")
            states.setdefault(weight, {})[part] = found.pop(key)
        parameters: Parameters = {key: (x, None) for key, x in found.items() if not key.endswith("rotary_emb.inv_freq")}
        for group in config["quantization_config"]["quantizers"]:
            weights, inputs = group["weights"], group["inputs"]["quantizer"]
            kind = resolve(WEIGHT_QUANTIZERS, weights["quantizer"], kind="weight quantizer")
            for layer in group["layers"]:
                weight = f"{layer}.weight"
                if inputs is not None:
                    states.pop(f"{layer}.input", None)
                if weight == HEAD and weight not in parameters and EMBEDDING in group["layers"]:
                    continue  # they share the weight, and the quantizer
                if weight not in parameters:
                    raise ValueError(f"{weight} is missing, or shared with the embedding")
                if kind is None:
                    continue
                quantizer = kind(**weights["options"])
                quantizer.bind(found[weight])
                quantizer.load_state_dict(states.pop(weight, {}))
                parameters[weight] = found[weight], quantizer
        if states:
            raise ValueError("its quantizers have other parameters")
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise FormatError(f"{folder}: damaged, or not of save_pretrained ({error})") from None
    return config, parameters


def register_transformers() -> None:
    """Let `from_pretrained` of transformers make the layers binary that `onebit.quantizer_config` noted.

    Without this call, transformers logs "Unknown quantization type, got onebit", and its layers use the latents.

    Example:
        >>> onebit.register_transformers()
        >>> model = transformers.AutoModelForCausalLM.from_pretrained("folder")
    """
    from transformers.quantizers import HfQuantizer, auto
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if "onebit" in auto.AUTO_QUANTIZER_MAPPING:
        return

    @auto.register_quantization_config("onebit")
    class Config(QuantizationConfigMixin):
        def __init__(self, **noted: Any) -> None:
            self.__dict__ |= noted

    @auto.register_quantizer("onebit")
    class Binarizer(HfQuantizer):
        is_trainable = is_serializable = True

        def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
            binarize_from_config_(model, dict(self.quantization_config))

        def postprocess_model(self, model: Any, **_: Any) -> None:
            self.remove_quantization_config(model)  # which refuses `float()` and training
            model.config.quantization_config = dict(self.quantization_config)
            share_quantizers_(model)  # weights are tied only now
            set_progress(model, 0.0)  # transformers leaves these buffers uninitialized


def _parameters(model: nn.Module) -> Parameters:
    quantizers = {id(latent.layer.weight): latent.layer.weight_quantizer for latent in latent_keys(model).values()}
    for name, module in model.named_modules():
        if not isinstance(module, LatentWeight) and quantizers.keys() & map(id, module.parameters(recurse=False)):
            raise UsageError(f"{name} is real, but shares its weight with a binary layer: binarize both or none")
    if inputs := [name for name, _ in input_quantizers(model)]:
        raise UsageError(f"{inputs[0]}: GGUF has no quantized inputs")
    found = ((name, parameter) for name, parameter in model.named_parameters() if "quantizer." not in name)
    return {name: (parameter, quantizers.get(id(parameter))) for name, parameter in found}


def _config(model: nn.Module) -> Mapping[str, Any]:
    config: Any = getattr(model, "config", None)
    if config is None:
        raise UsageError(f"{type(model).__name__} has no config, expected a model of transformers")
    return config if isinstance(config, Mapping) else config.to_dict()


@torch.no_grad()
def _weights(parameters: Parameters) -> Iterator[Weight]:
    for name, (parameter, quantizer) in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise UsageError(f"{name} has values that are not finite")
        yield (name, _numpy(parameter), None) if quantizer is None else _binary(name, quantizer, parameter)


def _binary(name: str, quantizer: Quantizer, latent: Tensor) -> tuple[str, np.ndarray, np.ndarray]:
    """What ships of a latent."""
    signs, scale, centre = quantizer.decompose(latent)
    if centre is not None:
        raise UsageError(f"{name}: GGUF has no centers")
    return name, _numpy(signs), block_scales(name, None if scale is None else _numpy(scale), tuple(signs.shape))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
