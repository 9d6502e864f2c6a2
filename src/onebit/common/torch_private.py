"""Names that torch does not promise to keep: all that onebit uses of them, each with what holds where torch lacks it.

A question that a version of torch cannot answer has the answer yes: something follows the operations, so those of torch
run in place of kernels, which is slow and right. Where there is no other way, the use itself raises AttributeError.
Beside these, only fields of tensors and modules are read that are as old as torch; tests/common lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def _found(path: str, otherwise: Any) -> Any:
    """What torch has at a dotted path, or else `otherwise`."""
    try:
        return attrgetter(path)(torch)
    except AttributeError:
        return otherwise


def _yes(*_: Any) -> bool:
    return True


# ------------------------------------------------------------------------------------------ what follows the operations
transforms_active: Callable[[], bool] = _found("_C._are_functorch_transforms_active", _yes)
"""Whether a transform of torch.func follows the operations."""
dispatch_modes: Callable[[], int] = _found("_C._len_torch_dispatch_stack", _yes)
"""How many modes, such as tracers and fake tensors, follow the operations."""
is_legacy_batched: Callable[[Tensor], bool] = _found("_C._functorch.is_legacy_batchedtensor", _yes)
"""Whether a gradient is that of a vectorized Jacobian, `is_grads_batched`."""
_functions = _found("_C._len_torch_function_stack", _yes)
_tracing = _found("_C._get_tracing_state", _yes)  # torch.jit.trace
_profiler = _found("_C._autograd._profiler_enabled", _yes)


def is_watched() -> bool:
    """Whether anything traces, transforms or records operators."""
    return bool(dispatch_modes() or _functions() or transforms_active() or _tracing() or _profiler())


def in_forward_mode() -> bool:
    """Whether derivatives are computed in forward mode, as by torch.func.jvp."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def in_backward() -> bool:
    """Whether a backward pass runs, as torch's own checkpointing asks; there is no other way."""
    return torch._C._current_graph_task_id() != -1


# ---------------------------------------------------------------------------------------------- modules and their hooks
BATCH_NORM: Any = _found(
    "nn.modules.batchnorm._BatchNorm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
)
INSTANCE_NORM: Any = _found(
    "nn.modules.instancenorm._InstanceNorm", (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
)
CONV_TRANSPOSE: Any = _found(
    "nn.modules.conv._ConvTransposeNd", (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
)
"""Classes, or tuples of them, of the layers for any number of axes."""
COMPILED = "_orig_mod"
"""Where `torch.compile` keeps the module that it wraps."""
_PASSES = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
_GLOBAL_HOOKS = [_found(f"nn.modules.module._global_{name}", True) for name in _PASSES]
_HOOKS = [f"_{name}" for name in _PASSES]


def uncompiled(model: Any) -> Any:
    """The module in a wrapper of `torch.compile`, any other one as it is."""
    return getattr(model, COMPILED, model)


def any_hooks(*modules: nn.Module | None) -> bool:
    """Whether calls of these modules run hooks, their own or those of all modules."""
    return any(_GLOBAL_HOOKS) or any(
        getattr(module, name, True) for module in modules if module is not None for name in _HOOKS
    )


def forward_hooks(module: Any) -> list[Any]:
    """The hooks that a call of a module runs before and after its forward."""
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def recurrent_names(layer: Any) -> list[str]:
    """The names of the weights of an LSTM, a GRU or an RNN, with those of its biases, or of a cell."""
    return ["weight_ih", "weight_hh"] if isinstance(layer, nn.RNNCellBase) else list(layer._flat_weights_names)


def has_post_hook(optimizer: torch.optim.Optimizer, hook: Any) -> bool:
    """Whether an optimizer calls `hook` after each step."""
    return hook in optimizer._optimizer_step_post_hooks.values()


# ----------------------------------------------------------------------------------------------------------- operations
def clamp_all_(tensors: list[Tensor], low: float, high: float) -> None:
    """Clamp tensors in place, in two kernels for all of them."""
    if hasattr(torch, "_foreach_clamp_min_"):
        torch._foreach_clamp_min_(tensors, low)
        torch._foreach_clamp_max_(tensors, high)
    else:
        for tensor in tensors:
            tensor.clamp_(low, high)


def lerp_all_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move tensors in place by the share `weight` of the way to `ends`."""
    if hasattr(torch, "_foreach_lerp_"):
        torch._foreach_lerp_(tensors, ends, weight)
    else:
        for tensor, end in zip(tensors, ends, strict=True):
            tensor.lerp_(end, weight)


def storage_address(tensor: Tensor) -> int:
    """What tells the memory of a tensor from others; `data_ptr` is 0 on the device "meta"."""
    return tensor.untyped_storage()._cdata


def compiler_failure() -> type[Exception]:
    """What torch.compile raises if its backend fails; looking takes a second of imports."""
    try:
        from torch._dynamo.exc import BackendCompilerFailed
    except ImportError:
        return RuntimeError
    return BackendCompilerFailed
