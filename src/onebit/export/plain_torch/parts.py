"""Parts of the programs that `program` writes; each has those that its net needs, word for word."""

import torch
from torch import Tensor, nn


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1: the sign of zero is +1, unlike that of torch.sign."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class Affine(nn.Module):
    """scale * x + shift for each channel, rounded once: a folded BatchNorm, or a bias."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x.double() * self.scale + self.shift).to(x.dtype)


class Threshold(nn.Module):
    """A sign with a threshold: +1 where x >= threshold, or x <= threshold for a direction of -1; else -1."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(shape))
        self.direction = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return sign(self.direction * (x - self.threshold))


class Requantize(nn.Module):
    """floor((multiplier * x + offset) / 2^shift) for each channel, from least to most, of integers.

    Several inputs are added up, each with multipliers of its own. int64 has every number on the way.
    """

    multiplier: Tensor
    offset: Tensor

    def __init__(self, *shape: int, inputs: int, shift: int, least: int, most: int) -> None:
        super().__init__()
        self.register_buffer("multiplier", torch.ones(inputs, *shape, dtype=torch.int32))
        self.register_buffer("offset", torch.zeros(shape, dtype=torch.int64))
        self.shift, self.least, self.most = shift, least, most

    def forward(self, *inputs: Tensor) -> Tensor:
        total = self.offset
        for x, multiplier in zip(inputs, self.multiplier, strict=True):
            total = total + multiplier * x.long()
        return torch.clamp(total >> self.shift, self.least, self.most).to(inputs[0].dtype)


def quantize(x: Tensor, *, least: int, most: int) -> Tensor:
    """x rounded to integers from least to most, halves to even ones."""
    if x.isnan().any():
        raise ValueError("NaN cannot be rounded to an integer")
    return torch.clamp(torch.round(x.float()), least, most).int().to(x.dtype)


def sums(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """What a layer gives with weights of 1: the sums of the inputs that its weights see."""
    return torch.func.functional_call(layer, {"weight": torch.ones_like(layer.weight)}, (x,))


def average_pool(
    x: Tensor,
    kernel: tuple[int, int],
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    divide_by: str,
) -> Tensor:
    """F.avg_pool2d with gaps between the pixels of a window, and any padding of zeros (left, right, top, bottom).

    divide_by: "pixels" for the pixels of the image in each window, "window" for padding too, "one" for sums.
    """

    def add_up(image: Tensor) -> Tensor:
        ones = image.new_ones(image.shape[1], 1, *kernel)
        return nn.functional.conv2d(
            nn.functional.pad(image, padding), ones, stride=stride, dilation=dilation, groups=len(ones)
        )

    if divide_by == "pixels":
        return add_up(x) / add_up(torch.ones_like(x[:1, :1]))
    return add_up(x) / (kernel[0] * kernel[1] if divide_by == "window" else 1)


def normalize(x: Tensor, groups: int, eps: float, *, whole: bool = True, centered: bool = True) -> Tensor:
    """(x - mean) / deviation of groups of channels, over all pixels or with `whole=False` of each pixel by itself."""
    y = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    axes = (2, 3) if whole else (2,)
    if centered:
        y = y - y.mean(axes, keepdim=True)
    return (y / torch.sqrt(y.square().mean(axes, keepdim=True) + eps)).reshape(x.shape)
