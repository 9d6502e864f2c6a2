"""Torch modules with one-bit weights, made by `onebit.packed_layers_`.

A module holds its signs as rows of bits (`onebit.packed.bits`), the same for every processor; the first call rearranges
them for its kernels. The outputs equal those of the node `Dense`, `Conv` or `ConvTranspose` of a packed net with real
inputs, bit for bit: the values of a sample (a row of a dense layer, an image of a convolution) are rounded to a 24-bit
grid, sums are exact, and scale, center and bias follow in float32. A sample with a value that is not finite gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import FoldError, UsageError
from onebit.fold.weight_layers import weight_rows
from onebit.layers.base import quantized
from onebit.modules.operators import PackedWindow, dense_signs, follows_gradient, refuse_tangent, run_layer
from onebit.packed.bits import pack_signs, words_to_bytes
from onebit.quantizers import BinaryWeight, Quantizer

WeightOf = Callable[[str], BinaryWeight]
"""The weights of a layer of torch, by torch's names."""


class PackedLayer(nn.Module):
    """Base of packed layers: the bits, the parameters of each output, and the input quantizer.

    For inference on the CPU: weights have no gradient, inputs have that of the dense layer. `train()`, `half()` and
    `double()` have no effect; the output has the dtype of the input.

    Args:
        weight: (O, …) ±1, with scale and center.
        bias: (O,).
        input_quantizer: applied to inputs first.

    Raises:
        FoldError: centers, and scales per group of inputs.
    """

    holds_bits = True
    """The only test mode is "packed"."""
    axes = 0
    """How many axes of the input follow that of its channels."""

    signs: Tensor
    scale: Tensor | None
    center: Tensor | None
    bias: Tensor | None

    def __init__(
        self, weight: BinaryWeight, bias: Tensor | None = None, input_quantizer: nn.Module | None = None
    ) -> None:
        super().__init__()
        if weight.grouped and weight.centre is not None:
            raise FoldError("a layer with scales per group of inputs has no centers")
        rows = weight_rows(weight.signs)
        self.outputs, self.terms = rows.shape
        self.register_buffer("signs", torch.tensor(words_to_bytes(pack_signs(rows), self.terms)))
        for name, value in (("scale", weight.scale), ("center", weight.centre), ("bias", bias)):
            self.register_buffer(name, None if value is None else value.detach().float().cpu().contiguous().clone())
        self.input_quantizer = input_quantizer
        given = input_quantizer.binary_input() if isinstance(input_quantizer, Quantizer) else None
        self.sign_inputs = given is not None and given.scale is None and given.centre is None
        self.plain = self.sign_inputs and given is not None and given.shift is None  # the kernels compute it
        self.training = False

    @property
    def nbytes(self) -> int:
        """Bytes of the weights: bits, scale and center."""
        return sum(one.nbytes for one in (self.signs, self.scale, self.center) if one is not None)

    @property
    def packed_sizes(self) -> tuple[int, int]:
        """(one-bit weights, real numbers of scale, center and bias)."""
        real = sum(one.numel() for one in (self.scale, self.center, self.bias) if one is not None)
        return self.outputs * self.terms, real

    def __getattr__(self, name: str) -> Any:
        if name == "weight":  # other tools would change it
            raise AttributeError("packed layers hold bits and no weight: call dense_ in place of packed_layers_")
        return super().__getattr__(name)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input after the input quantizer, unless the kernels compute it."""
        if self.input_quantizer is None or (self.plain and not follows_gradient(x)):
            return x
        return quantized(self.input_quantizer, x, x.dim() - 1 - self.axes)

    def macs(self, x: Tensor, output: Tensor) -> int:
        """Multiply-accumulates of one call."""
        return output.numel() * self.terms

    def train(self, mode: bool = True) -> PackedLayer:
        """Stay in eval mode."""
        return super().train(False)

    def extra_repr(self) -> str:
        real = [name for name in ("scale", "center", "bias") if getattr(self, name) is not None]
        return f"{self.outputs} × {self.terms} bits{''.join(f', {name}' for name in real)}"

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLayer:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():  # half() and double() keep the dtype
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self


class PackedLinear(PackedLayer):
    """A dense layer of one-bit weights: (…, K) -> (…, O). Arguments: see `PackedLayer`.

    Example:
        >>> signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
        >>> PackedLinear(BinaryWeight(signs))(torch.tensor([1.0, 2.0, 4.0]))
        tensor([ 3., -3.])
    """

    @property
    def in_features(self) -> int:
        """Inputs, K."""
        return self.terms

    @property
    def out_features(self) -> int:
        """Outputs, O."""
        return self.outputs

    @property
    def qweight(self) -> Tensor:
        """The bits, under the name by which PEFT looks for the device of a quantized layer."""
        return self.signs

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) -> (…, O), in the dtype of `x`, computed in float32."""
        refuse_tangent(x, "packed layers")
        if x.dim() == 0 or x.shape[-1] != self.terms:
            raise UsageError(f"got a tensor of shape {tuple(x.shape)}, expected {self.terms} inputs on the last axis")
        return run_layer(self, self.quantized_input(x))


class PackedEmbedding(PackedLayer):
    """A table of one-bit rows: integers (…) -> (…, K) float32. Arguments: see `PackedLayer`.

    Example:
        >>> signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
        >>> PackedEmbedding(BinaryWeight(signs, torch.tensor([1.0, 0.5])))(torch.tensor([1]))
        tensor([[-0.5000,  0.5000, -0.5000]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…) numbers of rows -> (…, K) float32."""
        rows = x.flatten()
        scale, center = (None if one is None else one[rows] for one in (self.scale, self.center))
        signs = dense_signs(self.signs[rows], self.terms)
        return BinaryWeight(signs, scale, center).dense().view(*x.shape, self.terms)

    def macs(self, x: Tensor, output: Tensor) -> int:
        return 0


class PackedConv(PackedLayer):
    """A convolution of one-bit weights over one or two axes: (N, I, …) -> (N, O, …), also without N.

    Args:
        window: a convolution over one axis runs on images of height 1.
        axes: 1 or 2.
        padding_mode, mode_padding: torch's mode if not "zeros", and its padding in the order of `F.pad`.
        Others: see `PackedLayer`.
    """

    def __init__(
        self,
        *parameters: Any,
        window: PackedWindow,
        axes: int = 2,
        padding_mode: str = "zeros",
        mode_padding: tuple[int, ...] = (),
    ) -> None:
        super().__init__(*parameters)
        self.window, self.axes = window, axes
        self.padding_mode, self.mode_padding = padding_mode, mode_padding

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The output for a batch (N, I, …) or one sample (I, …).

        Args:
            output_size: of a transposed convolution, as in torch.
        """
        refuse_tangent(x, "packed layers")
        if x.dim() == self.axes + 1:
            return self.forward(x.unsqueeze(0), output_size).squeeze(0)
        if x.dim() != self.axes + 2 or x.shape[1] != self.in_channels:
            raise UsageError(f"got a tensor of shape {tuple(x.shape)}, expected (N, {self.in_channels}, …)")
        x = self.quantized_input(x)
        if self.padding_mode != "zeros":
            x = F.pad(x, self.mode_padding, mode=self.padding_mode)
        if self.axes == 1:
            x = x.unsqueeze(2)
        window = self.window if output_size is None else self._window_for(x, output_size)
        y = run_layer(self, x, window)
        return y.squeeze(2) if self.axes == 1 else y

    def macs(self, x: Tensor, output: Tensor) -> int:
        if not self.window.transposed:
            return super().macs(x, output)
        return x.numel() * (self.outputs * self.terms // self.in_channels)

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.terms // (self.window.kernel[0] * self.window.kernel[1]) * self.window.groups

    def _window_for(self, x: Tensor, output_size: list[int]) -> PackedWindow:
        """The window with this output size."""
        sizes = [int(size) for size in output_size[-self.axes :]]
        plain = self.window._replace(extra=(0, 0))
        least = plain.output_size(x.shape[2], x.shape[3])
        down, right = (size - smallest for size, smallest in zip([1, *sizes][-2:], least, strict=True))
        if not (0 <= down < plain.stride[0] and 0 <= right < plain.stride[1]):
            raise UsageError(f"got output_size {sizes}, expected from {least} to less than one stride more")
        return plain._replace(extra=(down, right))
