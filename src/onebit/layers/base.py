"""Quantizers by name, the base of everything that holds a latent weight, and the mixin of binary layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onebit.common.fields import Positive, read
from onebit.common.tables import resolve
from onebit.common.torch_private import COMPILED, transforms_active
from onebit.errors import UsageError
from onebit.layers.fused_norm import are_watched
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, BinaryWeight, Quantizer
from onebit.quantizers.base import BinaryInput, autocast_dtype

WeightQuantizer = str | Quantizer | Callable[..., Quantizer] | None
InputQuantizer = str | nn.Module | Callable[..., nn.Module] | None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside any wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else getattr(model, COMPILED, None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def model_device(model: nn.Module) -> torch.device:
    """The device of the first parameter, or the CPU."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def kept_training(model: nn.Module) -> Iterator[None]:
    """Restore the mode (training or eval) of every module at the end of the context."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def glorot_bound(weight: Tensor) -> float:
    """sqrt(1.5/(fan_in + fan_out)), the coefficient of the reference BinaryConnect code.

    Args:
        weight: (O, I, …); the fans of a convolution are kernel area × channels.
    """
    area = math.prod(weight.shape[2:])
    return math.sqrt(1.5 / (area * (weight.shape[0] + weight.shape[1])))


def make_weight_quantizer(quantizer: WeightQuantizer, weight: Tensor, *, value: float | str = 1.0) -> Quantizer | None:
    """The quantizer of one layer from a name, a class, a `partial` of a class, or an object."""
    if value == "glorot":
        value = glorot_bound(weight)
    value = read(value, Positive, name="value")
    if quantizer is None:
        return None
    made: Any = resolve(WEIGHT_QUANTIZERS, quantizer, kind="weight quantizer")
    if not isinstance(made, nn.Module):
        made = made() if value == 1.0 else made(value=value)
    elif value != 1.0:
        raise UsageError(f"value={value:g} has no effect on {made!r}: give the quantizer by name, or its value there")
    if not isinstance(made, Quantizer):
        raise UsageError(f"weight quantizer {made!r}: expected a subclass of onebit.quantizers.Quantizer")
    return made


def with_options(table: Mapping[str, Any], quantizer: Any, options: Mapping[str, Any] | None, *, kind: str) -> Any:
    """`quantizer`, or a `partial` of its class with `options` as arguments. `kind` is for messages."""
    return partial(resolve(table, quantizer, kind=kind), **options) if options else quantizer


def make_input_quantizer(quantizer: InputQuantizer) -> nn.Module | None:
    """The input quantizer of one layer from a name, a class or an object; None leaves inputs real."""
    resolved: Any = resolve(INPUT_QUANTIZERS, quantizer, kind="input quantizer")
    return resolved if resolved is None or isinstance(resolved, nn.Module) else resolved()


def is_close(a: Any, b: Tensor) -> bool:
    """Whether two tensors are the same up to rounding."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    b = b.to(a.dtype)
    if torch.equal(a, b):  # a fraction of the passes below, and the usual case
        return True
    atol = 1e-5 * float(a.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(a, b, rtol=1e-4, atol=atol, equal_nan=True)


class LatentWeight(nn.Module):
    """Base of what holds a latent weight of shape (O, …) and derives the binary one.

    Either a `BinaryLayer`, whose Parameter it is, or a `BinaryParametrization` of a weight of a torch layer.
    """

    weight: Tensor
    glorot_bound: float  # of the whole latent, of which FSDP leaves a flat part
    weight_quantizer: Quantizer | None
    fixed_weight: Tensor | BinaryWeight | None
    fixed_used: bool
    """Whether a forward pass has used `fixed_weight` since it was set."""
    input_quantizer: nn.Module | None

    def _add_weight_quantizer(self, latent: Tensor, quantizer: WeightQuantizer, value: float | str) -> None:
        latent = self.outputs_first(latent)
        self.glorot_bound = glorot_bound(latent)
        self.weight_quantizer = make_weight_quantizer(quantizer, latent, value=value)
        if self.weight_quantizer is not None:
            self.weight_quantizer.train(self.training).bind(latent)
        # the weight of a test mode (onebit.evaluation.modes), never part of the state_dict
        self.fixed_weight = None
        self.fixed_used = False

    def __getstate__(self) -> dict[str, Any]:
        # a copy outlives the context of a test mode, which resets only the original
        return {**vars(self), "fixed_weight": None}

    def outputs_first(self, weight: Tensor) -> Tensor:
        """The weight with output channels first, as quantizers expect it."""
        return weight

    def own_layout(self, weight: Tensor) -> Tensor:
        """The inverse of `outputs_first`."""
        return weight

    def latent(self) -> Tensor:
        """The latent weight, output channels first.

        Raises:
            UsageError: the weight is pruned by `torch.nn.utils.prune`.
        """
        if "weight_mask" in self._buffers:
            raise UsageError("weights pruned to 0 would become +1 in a binary layer: undo the pruning first")
        return self.outputs_first(self.weight)

    def binary_weight(self) -> BinaryWeight:
        """The binary weight that ships: scale·signs + centre, output channels first.

        Raises:
            UsageError: as `latent`.
        """
        return self.weight_quantizer.decompose(self.latent())  # type: ignore[union-attr]

    @torch.no_grad()
    def computes(self, binary: BinaryWeight) -> bool:
        """Whether the quantizer gives this weight in eval mode, up to rounding."""
        quantizer = self.weight_quantizer
        assert quantizer is not None
        was = quantizer.training
        try:
            with torch.autocast(self.weight.device.type, enabled=False):  # that of the caller
                return is_close(binary.dense(), quantizer.eval().forward(self.latent()))
        finally:
            quantizer.train(was)

    def sample_weight(self, *, generator: torch.Generator | None = None) -> BinaryWeight | None:
        """One random draw of the binary weight, or None if the method draws nothing."""
        return self.weight_quantizer.sample(self.latent(), generator=generator)  # type: ignore[union-attr]

    def dense(self, binary: BinaryWeight) -> Tensor:
        """`binary` as one tensor, in the shape of the latent weight."""
        return self.own_layout(binary.dense())

    def effective_weight(self) -> Tensor:
        """The weight of this forward pass, in the shape of the latent weight.

        The next optimizer step may write into the same memory: clone the weight to keep it.

        Raises:
            UsageError: as `latent`; `torch.jit.trace` in training mode, where it would lose the gradients.
        """
        if self.fixed_weight is not None:
            self.fixed_used = True
            return self.dense(self.fixed_weight) if isinstance(self.fixed_weight, BinaryWeight) else self.fixed_weight
        if self.weight_quantizer is None:
            return self.weight
        if self.training and torch.jit.is_tracing():
            raise UsageError("torch.jit.trace loses the gradients of binary weights: call model.eval() first")
        return self.own_layout(self.weight_quantizer(self.latent()))


def describes(method: str, quantizer: Quantizer) -> bool:
    """Whether `method` comes from the class that defines `forward`.

    If a subclass overrides `forward` alone, the inherited method no longer describes it.
    """
    return method in vars(next(kind for kind in type(quantizer).__mro__ if "forward" in vars(kind)))


def are_signs(quantizer: nn.Module | None) -> bool:
    """Whether calls of an input quantizer give nothing but ±1, in training too."""
    found = _binary_input(quantizer)
    return found is not None and found.scale is None and found.centre is None


def have_two_values(quantizer: nn.Module | None) -> bool:
    """Whether calls of an input quantizer give two values for all channels, in training too."""
    found = _binary_input(quantizer)
    return found is not None and all(part is None or part.dim() == 0 for part in (found.scale, found.centre))


def _binary_input(quantizer: nn.Module | None) -> BinaryInput | None:
    if not isinstance(quantizer, Quantizer) or quantizer.relaxed or are_watched(quantizer):
        return None
    return quantizer.binary_input() if describes("binary_input", quantizer) else None


def quantized(quantizer: nn.Module, x: Tensor, axis: int) -> Tensor:
    """The result of an input quantizer for `x` with channels on `axis`."""
    if axis == 1:  # where input quantizers expect the channels
        return quantizer(x)
    return quantizer(x.movedim(axis, 1)).movedim(1, axis) if axis else quantizer(x.unsqueeze(0)).squeeze(0)


class BinaryLayer(LatentWeight):
    """Mixin that makes a `torch.nn` layer with a `weight` of shape (O, …) binary."""

    recompute_inputs = False
    """See `recompute_inputs_`."""
    axes = 0
    """How many axes of the input follow that of its channels."""

    def _add_quantizers(self, weight: WeightQuantizer, inputs: InputQuantizer, value: float | str) -> None:
        self._add_weight_quantizer(self.weight, weight, value)
        self.input_quantizer = make_input_quantizer(inputs)
        bind_inputs = getattr(self.input_quantizer, "bind_inputs", None)
        if bind_inputs is not None:
            bind_inputs(getattr(self, "in_channels", None) or self.in_features)
        if self.input_quantizer is not None:
            self.input_quantizer.to(self.weight.device, self.weight.dtype).train(self.training)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input after the input quantizer, if there is one."""
        return x if self.input_quantizer is None else quantized(self.input_quantizer, x, x.dim() - 1 - self.axes)

    def forward(self, input: Tensor, *given: Any, **options: Any) -> Tensor:
        quantized = self.quantized_input(input)
        with self.saved_as_real(input, quantized):
            return self.output(quantized, *given, **options)

    def output(self, x: Tensor, *given: Any, **options: Any) -> Tensor:
        """The layer for a quantized input."""
        binary = self.weight_by_rows(x)
        bias: Any = self.bias
        if binary is None or binary.scale is None:
            weight = self.effective_weight() if binary is None else self.own_layout(binary.signs)
            return self.product(x, weight, bias, *given, **options)
        channels = (-1,) + (1,) * self.axes
        y = self.product(x, self.own_layout(binary.signs), None, *given, **options) * binary.scale.view(channels)
        return y if bias is None else y + bias.view(channels)

    def weight_by_rows(self, x: Tensor) -> BinaryWeight | None:
        """The weight of this forward pass if its scale, if any, multiplies sums; None if it multiplies weights.

        In float32, sums of signs are then exact. Of scaled weights they are not: a sum of ±a that is 0 in a packed net
        would be ±1e-9, with a random sign. In training rounding does no harm, and float16 might overflow.
        """
        binary, quantizer = self.fixed_weight, self.weight_quantizer
        if autocast_dtype(x) is not torch.float32:
            return None
        if binary is None and quantizer is not None and not quantizer.training and describes("decompose", quantizer):
            binary = self.binary_weight()
            if self.weight.requires_grad and torch.is_grad_enabled() and not torch.jit.is_tracing():
                if not binary.by_rows:
                    return None
                binary = binary._replace(signs=quantizer(self.latent()) / binary.dense().abs())  # with the gradient
        if not isinstance(binary, BinaryWeight) or not (binary.by_rows or binary.scale is binary.centre is None):
            return None
        self.fixed_used = True
        return (
            binary
            if binary.scale is None
            else binary._replace(scale=binary.scale.reshape(-1).expand(len(binary.signs)))
        )

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer for a quantized input and weight."""
        raise NotImplementedError

    def saved_as_real(self, x: Tensor, quantized: Tensor) -> AbstractContextManager[object]:
        """The context for the product: with `recompute_inputs`, autograd saves `x` instead of `quantized`.

        Args:
            x, quantized: argument and result of `quantized_input`.
        """
        quantizer = self.input_quantizer
        traced = torch.compiler.is_compiling() or transforms_active()
        repeatable = isinstance(quantizer, Quantizer) and quantizer.repeatable and not quantizer.random
        saves = self.recompute_inputs and x.requires_grad and torch.is_grad_enabled()
        if not (saves and repeatable) or traced:
            return nullcontext()
        real = x.detach()
        # the hooks live as long as the saved tensors, so they must not hold a reference to `quantized`
        address, shape, dtype = quantized.data_ptr(), quantized.shape, quantized.dtype
        contiguous = quantized.is_contiguous()

        def pack(saved: Tensor) -> Tensor | torch.Size:
            # a dense layer saves (N, T, I) as the matrix (N·T, I)
            same = saved.shape == shape or (contiguous and saved.is_contiguous() and saved.numel() == shape.numel())
            return saved.shape if same and saved.data_ptr() == address else saved

        def unpack(saved: Tensor | torch.Size) -> Tensor:
            if isinstance(saved, Tensor):
                return saved
            with torch.no_grad():
                again = self.quantized_input(real).to(dtype)
            return again if saved == shape else again.view(saved)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def recompute_inputs_(model: nn.Module, recompute: bool = True) -> nn.Module:
    """Let binary layers quantize their inputs again in the backward pass instead of saving the ±1 values.

    The surrogate gradient needs the real inputs in any case. Saving the ±1 values too takes up to 1.5 times the memory
    of the same net without quantizers; recomputing them takes no more memory, but one more pass over the inputs of each
    layer. The gradients are bit-identical. `torch.compile` ignores the setting. Random quantizers, those whose range
    follows their inputs, and modules other than `Quantizer` are not recomputed.

    Returns:
        The same model.
    """
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            module.recompute_inputs = recompute
    return model


def binary_layers(model: nn.Module) -> Iterator[tuple[str, LatentWeight]]:
    """(name, layer) of everything with a binary weight, in the order of `named_modules`.

    A parametrized weight has the name that its layer gives it: "lstm.weight_ih_l0", "attention.out_proj.weight".
    """
    for _, name, layer in latent_keys(model).values():
        yield name, layer


def input_quantizers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, quantizer) of inputs: those of binary layers, and quantizers that are modules of the model."""
    weights = (layer.weight_quantizer for _, layer in binary_layers(model))
    in_layers = {id(part) for quantizer in weights if quantizer is not None for part in quantizer.modules()}
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer) and module.input_quantizer is not None:
            in_layers.add(id(module.input_quantizer))
            yield f"{name}.input_quantizer".lstrip("."), module.input_quantizer
        elif isinstance(module, Quantizer) and id(module) not in in_layers:
            yield name, module


def skip_fused_path_(model: nn.Module) -> None:
    """Turn off torch's fused path of transformer layers with binary weights: it would skip the quantizers."""
    for module in model.modules():
        layers = nn.TransformerEncoderLayer, nn.TransformerEncoder
        if isinstance(module, layers) and any(True for _ in binary_layers(module)):
            module.activation_relu_or_gelu = 0
            module.use_nested_tensor = False  # only the fused path takes nested tensors


class Latent(NamedTuple):
    """A latent weight: its key in the state_dict of a plain torch net, its name and its holder."""

    plain_key: str
    name: str
    layer: LatentWeight


def latent_keys(model: nn.Module, *, shared: bool = False) -> dict[str, Latent]:
    """Key in the state_dict -> latent weight, for all binary weights, in the order of `binary_layers`.

    The two keys of a parametrized weight differ: "lstm.parametrizations.weight_ih_l0.original" is "lstm.weight_ih_l0"
    in a plain net.

    Args:
        shared: whether a layer with two names appears under both.
    """
    latents = {}
    for name, module in model.named_modules(remove_duplicate=not shared):
        if isinstance(module, LatentWeight) and module.weight_quantizer is not None:
            key = plain = f"{name}.weight".lstrip(".")
            if not isinstance(module, BinaryLayer):  # "lstm.parametrizations.weight_ih_l0.0"
                *layer, _, weight, _ = name.split(".")
                key, plain = f"{name.rpartition('.')[0]}.original", ".".join([*layer, weight])
                name = plain
            latents[key] = Latent(plain, name, module)
    return latents
