"""Binary weights of torch's own recurrent and attention layers, by `torch.nn.utils.parametrize`.

Their code stays torch's. A parametrized weight is computed when the layer reads it; its latent is the Parameter
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
    """The parametrization of one weight: what a layer reads under its name is the binary weight.

    It has what a `BinaryLayer` has but inputs: `weight` is the latent, `binary_weight()` what ships, `fixed_weight`
    the weight of a test mode. Inputs of the layer stay real.

    Args:
        latent: the weight, (O, …).
        weight_quantizer: name or object.
        value: the two values are ±value; "glorot" for sqrt(1.5/(fan_in + fan_out)).
    """

    input_quantizer = None
    held: Tensor | None
    """The weight of the forward pass that is under way: a layer reads it several times, and draws must not differ."""
    holder: Any
    """The `ParametrizationList` that holds the latent; not a submodule, which would be a circle."""

    def __init__(self, latent: Tensor, weight_quantizer: WeightQuantizer, *, value: float | str = 1.0) -> None:
        super().__init__()
        self._add_weight_quantizer(latent, weight_quantizer, value)
        self.hold(None)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The latent weight."""
        return self.holder.original

    def hold(self, weight: Tensor | None) -> None:
        """Give out `weight` until the next call; None to compute it at each reading."""
        # past nn.Module: where a quantizer returns the latent itself, it would register it once more
        object.__setattr__(self, "held", weight)

    def forward(self, original: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) binary weight, in the dtype of the latent, as torch asks of a parametrization."""
        return self.effective_weight().to(original.dtype) if self.held is None else self.held

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned to the weight becomes the latent."""
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
    """Name of a weight of this very module -> its parametrization, of those that are binary."""
    if not parametrize.is_parametrized(module):
        return {}
    lists: Any = module.parametrizations
    return {name: own[0] for name, own in lists.items() if isinstance(own[0], BinaryParametrization)}


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module as its author wrote it: torch makes a class of its own for a parametrized one."""
    return parametrize.type_before_parametrizations(module)


def kind_name(module: nn.Module) -> str:
    """The name of `kind_of`; the output projection of attention, which torch gives a class of its own, is a Linear."""
    kind = kind_of(module)
    return nn.Linear.__name__ if kind is nn.modules.linear.NonDynamicallyQuantizableLinear else kind.__name__


Part = tuple[nn.Module, str, BinaryParametrization]
"""A weight that is to become binary, as (module, name), and its parametrization."""


def make_parts(layer: nn.Module, quantizer: Callable[[], WeightQuantizer], value: float | str) -> list[Part]:
    """The parametrizations for a layer of PARAMETRIZED, each with a new quantizer; `parametrize_` installs them."""
    return [
        (module, name, BinaryParametrization(getattr(module, name), quantizer(), value=value).train(layer.training))
        for module, name in PARAMETRIZED[kind_of(layer)](layer)
    ]


def parametrize_(layer: nn.Module, parts: list[Part]) -> None:
    """Make the weights of a layer binary, in place; `parts` are those of `make_parts`."""
    for module, name, made in parts:
        # unsafe: torch's check would call the quantizer once, which may draw
        parametrize.register_parametrization(module, name, made, unsafe=True)
        lists: Any = module.parametrizations
        # past nn.Module, which would register it as a submodule
        object.__setattr__(made, "holder", lists[name])
    for module in {id(module): module for module, _, _ in parts}.values():
        module.register_load_state_dict_pre_hook(_take_plain_keys)
    layer.register_forward_pre_hook(hold_weights)
    layer.register_forward_hook(release_weights, always_call=True)
    if isinstance(layer, nn.RNNBase):
        # the list of weights that torch's kernels read would keep the latents, and later the weights of one pass
        layer.__dict__.pop("_flat_weights")
        kind: Any = type(layer)  # torch has made this class for this layer alone
        kind._flat_weights = property(_flat_weights, _keep_none)


def _flat_weights(layer: Any) -> list[Tensor | None]:
    return [getattr(layer, name, None) for name in recurrent_names(layer)]


def _keep_none(layer: nn.Module, weights: list[Tensor | None]) -> None:
    """Keep none of the weights that torch notes: they are computed when they are read."""


def _parts(layer: nn.Module) -> list[BinaryParametrization]:
    return [module for module in layer.modules() if isinstance(module, BinaryParametrization)]


def hold_weights(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Compute each weight once for the forward pass that begins."""
    if not torch.compiler.is_compiling():  # a compiled graph computes what is equal once
        for part in _parts(layer):
            part.hold(None)
            weight = part(part.weight)
            # cuDNN moves the weights of a recurrent layer into one buffer, in place: what autograd saved must not move
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
