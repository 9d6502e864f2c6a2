"""All private names of torch that onebit uses, but for fields of tensors and modules that are as old as torch."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace
from torch.nn.modules import batchnorm, conv, instancenorm, module

# ------------------------------------------------------------------------------------------------------------- tracing
transforms_active = torch._C._are_functorch_transforms_active
"""Whether a transform of torch.func is active."""
dispatch_modes = torch._C._len_torch_dispatch_stack
"""How many dispatch modes, such as tracers and fake tensors, are active."""
function_modes = torch._C._len_torch_function_stack
tracing_state = torch._C._get_tracing_state  # of torch.jit.trace
profiler_enabled = torch._C._autograd._profiler_enabled
is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor
"""Whether a gradient is that of a vectorized Jacobian, `is_grads_batched`."""


def is_watched() -> bool:
    """Whether anything traces, transforms or records operators."""
    return bool(dispatch_modes() or function_modes() or transforms_active() or tracing_state() or profiler_enabled())


def in_forward_mode() -> bool:
    """Whether derivatives are computed in forward mode, as by torch.func.jvp."""
    return forward_ad._current_level >= 0


def in_backward() -> bool:
    """Whether a backward pass runs, as torch's own checkpointing asks."""
    return torch._C._current_graph_task_id() != -1


def traced_through() -> Any:
    """A context in which torch.fx follows the functions that others keep whole by `torch.fx.wrap`."""
    return mock.patch.dict(_symbolic_trace._wrapped_fns_to_patch, clear=True)


# ---------------------------------------------------------------------------------------------- modules and their hooks
BATCH_NORM: Any = batchnorm._BatchNorm
INSTANCE_NORM: Any = instancenorm._InstanceNorm
CONV_TRANSPOSE: Any = conv._ConvTransposeNd
"""Base classes of the layers for any number of axes."""
COMPILED = "_orig_mod"
"""Where `torch.compile` keeps the module that it wraps."""
_PASSES = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(module, f"_global_{name}") for name in _PASSES]
_HOOKS = [f"_{name}" for name in _PASSES]


def uncompiled(model: Any) -> Any:
    """The module in a wrapper of `torch.compile`, any other one as it is."""
    return getattr(model, COMPILED, model)


def any_hooks(*modules: nn.Module | None) -> bool:
    """Whether calls of these modules run hooks, their own or those of all modules."""
    return any(_GLOBAL_HOOKS) or any(getattr(one, name) for one in modules if one is not None for name in _HOOKS)


def forward_hooks(of: Any) -> list[Any]:
    """The hooks that a call of a module runs before and after its forward."""
    return [*of._forward_hooks.values(), *of._forward_pre_hooks.values()]


def recurrent_names(layer: Any) -> list[str]:
    """The names of the weights of an LSTM, a GRU or an RNN, with those of its biases, or of a cell."""
    return ["weight_ih", "weight_hh"] if isinstance(layer, nn.RNNCellBase) else list(layer._flat_weights_names)


def step_hooks(optimizer: torch.optim.Optimizer) -> tuple[list[Any], list[Any]]:
    """What an optimizer calls before and after each step, in this order."""
    return [*optimizer._optimizer_step_pre_hooks.values()], [*optimizer._optimizer_step_post_hooks.values()]


# ----------------------------------------------------------------------------------------------------------- operations
def clamp_all_(tensors: list[Tensor], low: float, high: float) -> None:
    """Clamp tensors in place, in two kernels for all of them."""
    torch._foreach_clamp_min_(tensors, low)
    torch._foreach_clamp_max_(tensors, high)


def lerp_all_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move tensors in place by the share `weight` of the way to `ends`."""
    torch._foreach_lerp_(tensors, ends, weight)


def storage_address(tensor: Tensor) -> int:
    """An identity of the memory of a tensor; `data_ptr` is 0 on the device "meta"."""
    return tensor.untyped_storage()._cdata
