"""Binary weights of torch's recurrent and attention layers, by `torch.nn.utils.parametrize`.

A parametrized weight is computed when the layer reads it; its latent is the Parameter
`layer.parametrizations.NAME.original`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onebit.common.torch_private import recurrent_names
from onebit.layers.base import LatentWeight, WeightQuantizer


class BinaryParametrization(LatentWeight):
    """The parametrization of one weight of a layer, which reads the binary weight under its name.

    As in a `BinaryLayer`, `weight` is the latent, `binary_weight()` what ships and `fixed_weight` the weight of a test
    mode. Inputs of the layer stay real.

    Args:
        latent: the weight, (O, …).
        weight_quantizer: name or object.
        value: the two values are ±value; "glorot" for sqrt(1.5/(fan_in + fan_out)).
    """

    input_quantizer = None
    held: Tensor | None
    """The weight of the current forward pass: a layer reads it several times, and draws must not differ."""
    holder: Any
    """The `ParametrizationList` with the latent; not a submodule, as this module is one of its own."""

    def __init__(self, latent: Tensor, weight_quantizer: WeightQuantizer, *, value: float | str = 1.0) -> None:
        super().__init__()
        self._add_weight_quantizer(latent, weight_quantizer, value)
        self.hold(None)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The latent weight."""
        return self.holder.original

    def hold(self, weight: Tensor | None) -> None:
        """Return `weight` at each reading until the next call; None to compute it each time."""
        # past nn.Module, which would register a latent that a quantizer returns unchanged as a parameter
        object.__setattr__(self, "held", weight)

    def forward(self, original: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) binary weight, in the dtype of the latent, as torch requires."""
        return self.effective_weight().to(original.dtype) if self.held is None else self.held

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A tensor assigned to the weight becomes the latent."""
        return weight


Weights = list[tuple[nn.Module, str]]


def _recurrent(layer: nn.Module) -> Weights:
    return [(layer, name) for name in recurrent_names(layer) if name.startswith("weight_")]


def _attention(layer: Any) -> Weights:
    names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return [*((layer, name) for name in names if getattr(layer, name) is not None), (layer.out_proj, "weight")]


PARAMETRIZED: dict[type[nn.Module], Callable[[nn.Module], Weights]] = {
    nn.MultiheadAttention: _attention,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.RNN: _recurrent,
    nn.LSTMCell: _recurrent,
    nn.GRUCell: _recurrent,
    nn.RNNCell: _recurrent,
}
"""Layer class -> its weights that become binary, as (module, name of the weight)."""


def binary_parametrizations(module: nn.Module) -> dict[str, BinaryParametrization]:
    """Name of a binary weight of this module, without its submodules -> its parametrization."""
    if not parametrize.is_parametrized(module):
        return {}
    lists: Any = module.parametrizations
    return {name: parts[0] for name, parts in lists.items() if isinstance(parts[0], BinaryParametrization)}


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module; for a parametrized one, the class that torch derived from."""
    return parametrize.type_before_parametrizations(module)


def kind_name(module: nn.Module) -> str:
    """The name of `kind_of`; "Linear" for the output projection of attention, which has a private class."""
    kind = kind_of(module)
    return nn.Linear.__name__ if kind is nn.modules.linear.NonDynamicallyQuantizableLinear else kind.__name__


def own_class_(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: torch sets and deletes properties of the one its copies share."""
    kind = type(module)
    if parametrize.is_parametrized(module):
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


Part = tuple[nn.Module, str, BinaryParametrization]
"""A weight, as (module, name), and its parametrization."""


def make_parts(layer: nn.Module, quantizer: Callable[[], WeightQuantizer], value: float | str) -> list[Part]:
    """The parametrizations for a layer of PARAMETRIZED, each with a new quantizer; `parametrize_` installs them."""
    return [
        (module, name, BinaryParametrization(getattr(module, name), quantizer(), value=value).train(layer.training))
        for module, name in PARAMETRIZED[kind_of(layer)](layer)
    ]


def parametrize_(layer: nn.Module, parts: list[Part]) -> None:
    """Install the parametrizations of `make_parts` in a layer."""
    for module in dict.fromkeys(module for module, _, _ in parts):
        own_class_(module)
        module.register_load_state_dict_pre_hook(_take_plain_keys)
    for module, name, made in parts:
        # unsafe: torch's check would call the quantizer, which may draw
        parametrize.register_parametrization(module, name, made, unsafe=True)
        lists: Any = module.parametrizations
        # past nn.Module, which would register it as a submodule
        object.__setattr__(made, "holder", lists[name])
    layer.register_forward_pre_hook(hold_weights)
    layer.register_forward_hook(release_weights, always_call=True)
    if isinstance(layer, nn.RNNBase):
        # the list of weights for torch's kernels would keep the latents, and later the weights of one pass
        layer.__dict__.pop("_flat_weights")
        kind: Any = type(layer)  # a class of this layer only
        kind._flat_weights = property(_flat_weights, _keep_none)


def remove_parts_(module: nn.Module) -> None:
    """Write binary weights over the latents of a module, without its submodules, and remove the parametrizations."""
    own_class_(module)
    for name, part in binary_parametrizations(module).items():
        part.hold(None)
        part.fixed_weight = part.dense(part.binary_weight())  # no draw in training mode
        parametrize.remove_parametrizations(module, name)
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def _flat_weights(layer: Any) -> list[Tensor | None]:
    return [getattr(layer, name, None) for name in recurrent_names(layer)]


def _keep_none(layer: nn.Module, weights: list[Tensor | None]) -> None:
    """Ignore the weights that torch assigns: they are computed when they are read."""


def _parts(layer: nn.Module) -> list[BinaryParametrization]:
    return [module for module in layer.modules() if isinstance(module, BinaryParametrization)]


def hold_weights(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Compute each weight once for this forward pass."""
    if not torch.compiler.is_compiling():  # a compiled graph computes equal values once
        for part in _parts(layer):
            part.hold(None)
            weight = part(part.weight)
            # cuDNN moves the weights of a recurrent layer into one buffer, in place; autograd's must not move
            part.hold(weight.clone() if weight.is_cuda and isinstance(layer, nn.RNNBase) else weight)


def release_weights(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if not torch.compiler.is_compiling():
        for part in _parts(layer):
            part.hold(None)


def _take_plain_keys(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let `load_state_dict` take the keys of a plain torch layer as well."""
    for name in binary_parametrizations(module):
        if prefix + name in state:
            state[f"{prefix}parametrizations.{name}.original"] = state.pop(prefix + name)
