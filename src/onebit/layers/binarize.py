"""Make the layers of any torch model binary."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from onebit.common.weight_names import WEIGHT_NAME
from onebit.errors import UsageError
from onebit.layers.base import (
    BinaryLayer,
    InputQuantizer,
    WeightQuantizer,
    binary_layers,
    skip_fused_path_,
    with_options,
)
from onebit.layers.binary import ALL_TWINS, BINARY_TWINS
from onebit.layers.description import REASONS, BinarizeReport, describe_layers, noted_config
from onebit.layers.fused_norm import FAST_TWINS
from onebit.layers.parametrized import PARAMETRIZED, kind_of, make_parts, parametrize_, remove_parts_
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS


def binarize_(
    model: nn.Module,
    *,
    weight_quantizer: WeightQuantizer = "ste_sign",
    input_quantizer: InputQuantizer = None,
    where: Callable[[str, nn.Module], bool] | None = None,
    value: float | str = 1.0,
    embeddings: bool = False,
) -> BinarizeReport:
    """Make the layers of any torch model binary, in place; the weights become the latents.

    `torch.nn.Linear`, `Conv1d`, `Conv2d`, `ConvTranspose1d` and `ConvTranspose2d` become their binary twins: the same
    objects with another class, which keep their buffers, attributes, hooks and keys of the state_dict.
    `MultiheadAttention`, `LSTM`, `GRU`, `RNN` and their cells get parametrized weights; their inputs stay real, and
    they load plain checkpoints too. `BatchNorm2d` and `Sequential` become classes that do the same in fewer passes over
    memory. Subclasses stay as they are, and so do layers that share a weight with a module that stays real, such as a
    head that is the embedding, and the adapters of PEFT.

    Layers that read the inputs of the model, past operations without weights, keep them real. A trace by `torch.fx`
    finds them; where `forward` has none, the first layer with weights in the order of `model.modules()` is taken. To
    choose others, call `binarize_` twice: with `where` for these layers, then with `input_quantizer` for all others.

    Args:
        weight_quantizer, input_quantizer: name or object; each layer gets a copy, which shares the random generator.
        where: `where(name, module)` chooses layers, all by default; one name of a layer with several is enough.
        value: the two values are ±value.
        embeddings: whether `torch.nn.Embedding` becomes binary, too, with a head that shares its weights.

    Returns:
        What became binary, what stayed real and why; `print` it for a table. One UserWarning names what could have been
        binary and is not, except what `where` left out.

    Raises:
        UsageError: no layer to binarize, a layer with a parametrization or a custom forward, a model that holds the
            forward of a layer, or a `value` that is not positive. UnknownNameError: no such quantizer.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(binarize_(net, weight_quantizer="sign", where=lambda name, layer: name != "2"))
        layer     kind          numbers
        0         BinaryLinear       64  binary: sign
        2         Linear             18  real: not chosen by where
                                  8  real: bias and scales of binary layers
        64 binary weights, 26 real parameters
    """
    kinds = {*(ALL_TWINS if embeddings else BINARY_TWINS), *(PARAMETRIZED if weight_quantizer is not None else ())}
    layers = _choose(model, kinds, where)
    if not layers:
        chosen = "" if where is None else " that `where` chooses"
        reasons = [*describe_layers(model, where).warnings, f"no real layer inside the model{chosen}"]
        raise UsageError(f"nothing to binarize: {reasons[0]}")
    _refuse_real_weights(model, layers)
    real = set() if input_quantizer is None else _reading_inputs(model, layers.values())
    quantizers = [(layer, weight_quantizer, None if layer in real else input_quantizer) for layer in layers.values()]
    _install(model, quantizers, value)
    report = describe_layers(model, where)
    if report.warnings:
        warnings.warn("; ".join(report.warnings), stacklevel=2)
    return report


def binarize_from_config_(model: nn.Module, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Make the layers binary that `quantizer_config` noted, in place; then load the state_dict.

    Args:
        config: what `quantizer_config` returned; by default `model.config.quantization_config`.

    Returns:
        The same model.

    Raises:
        UsageError: the model lacks a noted layer, or it is binary or cannot be. UnknownNameError: no such quantizer.

    Example:
        >>> binarize_from_config_(net, config).load_state_dict(state)
    """
    config = noted_config(model) if config is None else config
    groups = {name: group for group in config["quantizers"] for name in group["layers"]}
    layers = _choose(model, {*ALL_TWINS, *PARAMETRIZED}, lambda name, _: name in groups)
    if missing := groups.keys() - layers.keys():
        raise UsageError(f"{min(missing)!r} of the configuration is no real layer of this model")
    _refuse_real_weights(model, layers)
    chosen = []
    for name, layer in layers.items():
        weights = with_options(WEIGHT_QUANTIZERS, **groups[name]["weights"], kind="weight quantizer")
        chosen.append(
            (layer, weights, with_options(INPUT_QUANTIZERS, **groups[name]["inputs"], kind="input quantizer"))
        )
    _install(model, chosen)
    return model


def dense_(model: nn.Module) -> nn.Module:
    """Write the binary weights over the latents and remove their quantizers, in place; the outputs stay the same.

    The model is then an ordinary one, for tools that know nothing of onebit; it cannot be trained further as a binary
    one. Layers with an input quantizer keep it.

    Returns:
        The same model.

    Example:
        >>> dense_(model).save_pretrained("folder")  # then convert_hf_to_gguf.py and llama-quantize
    """
    plain: dict[type, Any] = {twin: kind for kind, twin in (*ALL_TWINS.items(), *FAST_TWINS.items())}
    written = set[int]()
    for module in [*model.modules()]:
        remove_parts_(module)
        if type(module) in FAST_TWINS.values():
            module.__class__ = plain[type(module)]
        if isinstance(module, BinaryLayer) and module.weight_quantizer is not None:
            if id(module.weight) not in written:  # by an embedding that is the head, too
                with torch.no_grad():
                    module.weight.copy_(module.dense(module.binary_weight()))
            written.add(id(module.weight))
            module.weight_quantizer = None
            if module.input_quantizer is None and not getattr(module, "padding_value", 0):
                module.__class__ = plain.get(type(module), type(module))
    if noted_config(model):
        del model.config.quantization_config  # type: ignore[union-attr]
    return model


def _choose(
    model: nn.Module, kinds: Collection[type[nn.Module]], where: Callable[[str, nn.Module], bool] | None
) -> dict[str, nn.Module]:
    """The layers to binarize by name, each once."""
    offered = [("", model)] if kind_of(model) in PARAMETRIZED else []
    for parent_name, parent in model.named_modules():
        # attention reads the weight of its output projection directly and would not call a twin
        if not isinstance(parent, nn.MultiheadAttention):
            children = [(name, child) for name, child in parent._modules.items() if child is not None]
            offered += [(f"{parent_name}.{name}" if parent_name else name, child) for name, child in children]
    # "lora_A", "lora_B" and others of PEFT
    adapters = {name for module in model.modules() for name in getattr(module, "adapter_layer_names", ())}
    chosen = {}
    for name, layer in offered:
        if kind_of(layer) not in kinds or adapters.intersection(name.split(".")):
            continue
        if any(binary_layers(layer)) or any(map(is_lazy, layer.parameters())):
            continue
        if where is None or where(name, layer):
            chosen[layer] = name
    others = (module for module in model.modules() if module not in chosen and not isinstance(module, BinaryLayer))
    # the head of a language model may be its embedding
    real = {id(parameter) for module in others for parameter in module.parameters(recurse=False)}
    return {name: layer for layer, name in chosen.items() if id(getattr(layer, "weight", None)) not in real}


def _reading_inputs(model: nn.Module, layers: Collection[nn.Module]) -> set[nn.Module]:
    """The layers that read the inputs of the model, see `binarize_`."""
    norms = {id(p) for module in model.modules() if isinstance(module, REASONS[0][1]) for p in module.parameters()}
    named = [(name, p) for name, p in model.named_parameters() if is_lazy(p) or p.dim() > 1]
    weights = [id(p) for name, p in named if WEIGHT_NAME.search(name) and id(p) not in norms]
    tracer: Any = fx.Tracer()
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    try:
        copied = copy.deepcopy(model, memo)  # a forward may store what it computes
        chosen = {memo[id(layer)]: layer for layer in layers}
        tracer.is_leaf_module = lambda m, _: chosen.keys().isdisjoint({*m.modules()} - {m})
        nodes = tracer.trace(copied).nodes
    except Exception:  # code of others may raise anything for a proxy
        return {layer for layer in layers if id(getattr(layer, "weight", None)) == weights[0]}
    raw, found = set[fx.Node](), set[nn.Module]()
    for node in nodes:
        if raw.issuperset(node.all_input_nodes):
            module = copied.get_submodule(str(node.target)) if node.op == "call_module" else None
            if module in chosen:
                found.add(chosen[module])
            elif module is None or not any(id(p) in weights for p in module.parameters()):
                raw.add(node)
    return found


def _refuse_real_weights(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Refuse layers, and models that hold a method of one, that would keep using the real weights."""
    for name, layer in layers.items():
        twin = kind_of(layer) in ALL_TWINS
        weights = [(layer, "weight")] if twin else PARAMETRIZED[kind_of(layer)](layer)
        computed = not all(isinstance(getattr(module, weight), nn.Parameter) for module, weight in weights)
        if computed or "forward" in vars(layer) or (twin and is_parametrized(layer)):
            raise UsageError(f"layer {name!r} has a custom forward or a parametrization: undo that first")
    chosen = set(map(id, layers.values()))
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if id(getattr(value, "__self__", None)) in chosen:
                raise UsageError(f"{attribute} of {name!r} is a method of a layer that becomes binary: store the layer")


def _install(
    model: nn.Module, chosen: list[tuple[nn.Module, WeightQuantizer, InputQuantizer]], value: float | str = 1.0
) -> None:
    """Make layers binary, each with copies of its quantizers of weights and of inputs."""
    # all are made before the first one is installed: an error leaves the model as it was
    installs: list[Callable[[], None]] = []
    for layer, weights, inputs in chosen:
        if kind_of(layer) in PARAMETRIZED:
            parts = make_parts(layer, partial(_copied, weights), value)
            installs.append(partial(parametrize_, layer, parts))
        else:
            twin: Any = copy.copy(layer)  # it shares parameters, buffers and hooks with `layer`
            twin.__class__, twin._modules = ALL_TWINS[type(layer)], dict(layer._modules)
            twin._add_quantizers(_copied(weights), _copied(inputs), value)
            installs.append(partial(_become, layer, twin))
    for install in installs:
        install()
    share_quantizers_(model)
    for module in model.modules():
        if type(module) in FAST_TWINS:
            module.__class__ = FAST_TWINS[type(module)]
    skip_fused_path_(model)


def share_quantizers_(model: nn.Module) -> None:
    """Give layers that share a latent, such as a head and its embedding, the quantizer of the first."""
    first: dict[int, Any] = {}
    for _, layer in binary_layers(model):
        layer.weight_quantizer = first.setdefault(id(layer.weight), layer.weight_quantizer)


def _become(layer: nn.Module, twin: nn.Module) -> None:
    """Make a layer its twin; the object stays, for lists and other models that hold it."""
    layer.__class__ = type(twin)
    layer.__dict__.update(vars(twin))


def _copied(quantizer: Any) -> Any:
    """A copy that shares the random generator, so that layers draw different bits."""
    generator = getattr(quantizer, "generator", None)
    return copy.deepcopy(quantizer, {id(generator): generator})
