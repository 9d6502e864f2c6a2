"""The binary twins of `torch.nn.Linear`, of the (transposed) convolutions over one and two axes, and of embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers.base import BinaryLayer, InputQuantizer, WeightQuantizer, are_signs, describes, have_two_values
from onebit.layers.convolution import convolution_kernels, convolved
from onebit.layers.fused_norm import are_watched
from onebit.layers.sign_products import sign_kernels, signed_linear
from onebit.native import InstructionSet
from onebit.quantizers import Quantizer

Sizes = int | tuple[int, ...]


def no_fused_path(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook that does nothing: torch's fused transformer path, which reads the latents, does not take hooks."""


class BinaryLinear(BinaryLayer, nn.Linear):
    """Dense layer y = q_in(x) · q_w(W)ᵀ + b with latent weight W.

    It can replace `linear1` and `linear2` of a `torch.nn.TransformerEncoderLayer`, whose fused path it turns off; with
    input quantizers, build a `torch.nn.TransformerEncoder` with `enable_nested_tensor=False`. `weight` is the latent;
    `effective_weight()` is the binary weight.

    Args:
        in_features, out_features, bias: as in `torch.nn.Linear`; no bias by default, as BatchNorm usually follows.
        weight_quantizer, input_quantizer: name or object; None keeps real weights or inputs. The channels of inputs are
            the last axis.
        value: the two values are ±value; "glorot" for sqrt(1.5/(fan_in + fan_out)).

    Shapes:
        x: (N, …, I) -> (N, …, O); weight (O, I).

    Raises:
        UnknownNameError: no such quantizer. UsageError: `value` is not positive.

    Example:
        >>> BinaryLinear(784, 512, weight_quantizer="sign")(torch.zeros(2, 784)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, *, weight_quantizer: WeightQuantizer = "sign",
        input_quantizer: InputQuantizer = None, value: float | str = 1.0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._add_quantizers(weight_quantizer, input_quantizer, value)

    def _add_quantizers(self, *given: Any) -> None:
        super()._add_quantizers(*given)
        self.register_forward_pre_hook(no_fused_path)

    def output(self, x: Tensor, *given: Any, **options: Any) -> Tensor:
        signs = are_signs(self.input_quantizer)
        isa, quantizer = self._instruction_set(x, signs=signs), self.weight_quantizer
        signed = None if isa is None or quantizer is None else quantizer.signed_weight(self.latent())
        if isa is None or signed is None:
            return super().output(x, *given, **options)
        y = signed_linear(isa, x, signed, signs=signs)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _instruction_set(self, x: Tensor, *, signs: bool) -> InstructionSet | None:
        """The instruction set with the kernels, or None where torch must run."""
        quantizer = self.weight_quantizer
        if type(self) is not BinaryLinear or quantizer is None or not describes("signed_weight", quantizer):
            return None
        if self.fixed_weight is not None or not quantizer.training or are_watched(quantizer):
            return None
        return sign_kernels(x, self.weight, signs=signs)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


def padding_of(layer: Any) -> tuple[int, ...]:
    """The padding of a convolution in the order of `F.pad`: (left, right, top, bottom), or (left, right) of one axis.

    It follows later changes of `padding` and `dilation`, unlike torch's `_reversed_padding_repeated_twice`.
    """
    padding = 0 if layer.padding == "valid" else layer.padding
    if layer.padding_mode != "zeros":
        return tuple(layer._reversed_padding_repeated_twice)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return tuple(side for total in reversed(totals) for side in (total // 2, total - total // 2))
    sides = padding if isinstance(padding, tuple) else (padding,) * len(layer.kernel_size)
    return tuple(side for side in reversed(sides) for _ in range(2))


class _Conv(BinaryLayer):
    """Base of `BinaryConv1d` and `BinaryConv2d`."""

    padding_value = 0.0

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: str | Sizes = 0,
        dilation: Sizes = 1, groups: int = 1, bias: bool = False, padding_mode: str = "zeros", *,
        padding_value: float = 0.0, weight_quantizer: WeightQuantizer = "sign", input_quantizer: InputQuantizer = None,
        value: float | str = 1.0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        window = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *window, device=device, dtype=dtype)
        if padding_value not in (0, 1, -1) or (padding_value and padding_mode != "zeros"):
            raise UsageError(f"padding_value: expected 0, or 1 or -1 with padding_mode='zeros', got {padding_value!r}")
        self.padding_value = padding_value
        self._add_quantizers(weight_quantizer, input_quantizer, value)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input after the input quantizer, if any, padded with a `padding_value` of ±1."""
        x = super().quantized_input(x)
        return F.pad(x, padding_of(self), value=self.padding_value) if self.padding_value else x

    def forward(self, input: Tensor, *given: Any, **options: Any) -> Tensor:
        surrogate = self._surrogate(input)
        if surrogate is None:
            return super().forward(input, *given, **options)
        bias: Any = self.bias
        return self.product(input, self.effective_weight(), bias, surrogate)

    def _surrogate(self, x: Tensor) -> tuple[Any, ...] | None:
        """That of the input quantizer, where a training step may leave its signs to the convolution."""
        layer: Any = self
        quantizer, weights = layer.input_quantizer, layer.weight_quantizer
        fits = (
            self.training
            and isinstance(quantizer, Quantizer)
            and describes("surrogate", quantizer)
            and weights is not None
            and weights.training
            and self.fixed_weight is None
            and self.padding_value == 0
            and self.padding_mode == "zeros"
            and not self.recompute_inputs
            and not are_watched(quantizer)
            and self.axes == 2
            and convolution_kernels(x, layer.weight, layer.bias, layer.padding, layer.dilation, layer.groups)
        )
        return quantizer.surrogate() if fits else None

    def product(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, surrogate: tuple[Any, ...] | None = None
    ) -> Tensor:
        layer: Any = self
        if layer.padding_mode != "zeros":
            return layer._conv_forward(x, weight, bias)
        padding = (0,) * self.axes if self.padding_value else layer.padding
        window = layer.stride, padding, layer.dilation, layer.groups
        if self.axes == 2 and self.training:
            signs = are_signs(self.input_quantizer)
            # padding may be a third value
            two_values = not signs and not self.padding_value and have_two_values(self.input_quantizer)
            return convolved(x, weight, bias, *window, signs=signs, two_values=two_values, surrogate=surrogate)
        return (F.conv1d if self.axes == 1 else F.conv2d)(x, weight, bias, *window)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", padding_value={self.padding_value:g}" if self.padding_value else "")


class BinaryConv1d(_Conv, nn.Conv1d):
    """Convolution over one axis, see `BinaryConv2d`.

    Shapes:
        x: (N, I, L) -> (N, O, L'); weight (O, I/groups, k).

    Example:
        >>> BinaryConv1d(3, 16, 5, padding=2)(torch.zeros(2, 3, 100)).shape
        torch.Size([2, 16, 100])
    """

    axes = 1


class BinaryConv2d(_Conv, nn.Conv2d):
    """Convolution y = q_in(x) ∗ q_w(W) + b with latent weight W.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as
            `torch.nn.Conv2d`; no bias by default, as BatchNorm usually follows.
        padding_value: value of the padding, after the input quantizer. 0, as in torch, is a third value beside ±1; 1 or
            -1 keeps a ±1 input binary (with padding_mode="zeros" only).
        weight_quantizer, input_quantizer, value: as `BinaryLinear`.

    Shapes:
        x: (N, I, H, W) -> (N, O, H', W'); weight (O, I/groups, kH, kW).

    Raises:
        UsageError: another padding_value, or ±1 with another padding_mode.

    Example:
        >>> BinaryConv2d(3, 16, 3, padding=1)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    axes = 2


class _ConvTranspose(BinaryLayer):
    """Base of `BinaryConvTranspose1d` and `BinaryConvTranspose2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes = 0,
        output_padding: Sizes = 0, groups: int = 1, bias: bool = False, dilation: Sizes = 1, *,
        weight_quantizer: WeightQuantizer = "sign", input_quantizer: InputQuantizer = None, value: float | str = 1.0,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        window = stride, padding, output_padding, groups, bias, dilation
        super().__init__(in_channels, out_channels, kernel_size, *window, device=device, dtype=dtype)
        self._add_quantizers(weight_quantizer, input_quantizer, value)

    def outputs_first(self, weight: Tensor) -> Tensor:
        # (I, O/g, …) -> (g, I/g, O/g, …) -> (g, O/g, I/g, …) -> (O, I/g, …)
        layer: Any = self
        return weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)

    own_layout = outputs_first  # its own inverse

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None = None) -> Tensor:
        layer: Any = self  # torch annotates these fields as tuples of any length or as strings
        sizes = layer.stride, layer.padding, layer.kernel_size, self.axes, layer.dilation
        extra = layer._output_padding(x, output_size, *sizes)
        convolve = F.conv_transpose1d if self.axes == 1 else F.conv_transpose2d
        return convolve(x, weight, bias, layer.stride, layer.padding, extra, layer.groups, layer.dilation)


class BinaryConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """Transposed convolution over one axis, see `BinaryConvTranspose2d`.

    Shapes:
        x: (N, I, L) -> (N, O, L'); weight (I, O/groups, k), `binary_weight().signs` (O, I/groups, k).

    Example:
        >>> BinaryConvTranspose1d(16, 8, 2, stride=2)(torch.zeros(2, 16, 50)).shape
        torch.Size([2, 8, 100])
    """

    axes = 1


class BinaryConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """Transposed convolution with latent weight W: the gradient of a convolution with respect to its input.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation: as
            `torch.nn.ConvTranspose2d`; no bias by default, as BatchNorm usually follows.
        weight_quantizer, input_quantizer, value: as `BinaryLinear`.

    Shapes:
        x: (N, I, H, W) -> (N, O, H', W'); weight (I, O/groups, kH, kW), `binary_weight().signs` (O, I/groups, kH, kW).

    Example:
        >>> BinaryConvTranspose2d(16, 8, 2, stride=2)(torch.zeros(2, 16, 4, 4)).shape
        torch.Size([2, 8, 8, 8])
    """

    axes = 2


class BinaryEmbedding(BinaryLayer, nn.Embedding):
    """Table of rows q_w(W) with latent weight W, as for tokens.

    A head that shares the latents (`head.weight = embedding.weight`) should share the quantizer, too. If the quantizer
    makes each row from its latents alone, only the rows that are read are computed, and get a gradient.

    Args:
        num_embeddings, embedding_dim, padding_idx, scale_grad_by_freq, sparse: as in `torch.nn.Embedding`. The row of
            `padding_idx` is binary too, not 0. Latents start uniform in [-1, 1].
        weight_quantizer, value: as `BinaryLinear`.

    Shapes:
        x: integers (…) -> (…, D); weight (V, D).

    Raises:
        UsageError: from `binarize_`, for an embedding with `max_norm`, which would change the latents.

    Example:
        >>> BinaryEmbedding(1000, 64, weight_quantizer="xnor")(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 64])
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
        scale_grad_by_freq: bool = False, sparse: bool = False, weight_quantizer: WeightQuantizer = "sign",
        value: float | str = 1.0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        more = {"scale_grad_by_freq": scale_grad_by_freq, "sparse": sparse, "device": device, "dtype": dtype}
        super().__init__(num_embeddings, embedding_dim, padding_idx, **more)
        self._add_quantizers(weight_quantizer, None, value)

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -1.0, 1.0)

    def _add_quantizers(self, weight: WeightQuantizer, inputs: InputQuantizer, value: float | str) -> None:
        if self.max_norm is not None:
            raise UsageError("an embedding with max_norm cannot be binary")
        super()._add_quantizers(weight, None, value)  # inputs are numbers of rows

    def forward(self, input: Tensor) -> Tensor:
        quantizer = self.weight_quantizer
        with torch.autocast(self.weight.device.type, enabled=False):  # rows are summed with others, not multiplied
            if quantizer is None or not describes("separate_rows", quantizer) or self.fixed_weight is not None:
                weight = self.effective_weight()
                return F.embedding(input, weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
            rows = nn.Embedding.forward(self, input)
            return quantizer(rows.flatten(0, -2)).view_as(rows)


BINARY_TWINS: dict[type[nn.Module], type[BinaryLayer]] = {
    nn.Linear: BinaryLinear,
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.ConvTranspose1d: BinaryConvTranspose1d,
    nn.ConvTranspose2d: BinaryConvTranspose2d,
}
"""Layer class -> its binary twin."""
ALL_TWINS = {**BINARY_TWINS, nn.Embedding: BinaryEmbedding}
"""`BINARY_TWINS` and embeddings, which become binary on demand."""
