"""Nets as people write them after torchvision and well-known repositories: small, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return scale * x


class MobileNetV3(nn.Module):
    """Inverted residuals with gates and Hardswish (Howard et al. 2019); the second one as in EfficientNet."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), act(inplace=True)),
                *(nn.Conv2d(24, 24, 5, 1, 2, groups=24, bias=False), nn.BatchNorm2d(24), act(inplace=True)),
                *(SqueezeExcitation(24, gate()), nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)),
            )
            for act, gate in ((nn.Hardswish, nn.Hardsigmoid), (nn.SiLU, nn.Sigmoid))
        )
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


class SELayer(nn.Module):
    def __init__(self, channels: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        hidden = channels // 4
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(inplace=True), nn.Linear(hidden, channels), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SEBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.se, self.shortcut = SELayer(o, gate), nn.Sequential()
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        out += self.shortcut(x)
        return F.relu(out)


class SEResNet(nn.Module):
    """Squeeze-and-excite (Hu et al. 2018) in a residual net."""

    def __init__(self, gate: type[nn.Module] = nn.Hardsigmoid) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.layer1, self.layer2, self.fc = SEBlock(8, 8, 1, gate), SEBlock(8, 16, 2, gate), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = self.layer2(self.layer1(x))
        x = F.avg_pool2d(x, x.size()[2:])
        x = x.view(x.size(0), -1)
        return self.fc(x)


class TokenNorm(nn.Module):
    """BatchNorm of the features of tokens (N, T, F)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.transpose(1, 2)).transpose(1, 2)


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, features: int, norm: type[nn.Module], act: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(features), norm(features)
        self.token, self.channel = (
            nn.Sequential(nn.Linear(n, 2 * n), act(), nn.Dropout(0.1), nn.Linear(2 * n, n)) for n in (tokens, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel(self.norm2(x))


class Mixer(nn.Module):
    """MLP-mixer (Tolstikhin et al. 2021), by default with operations that are packed."""

    def __init__(self, norm: type[nn.Module] = TokenNorm, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, 12))
        self.blocks = nn.Sequential(*(MixerBlock(16, 12, norm, act) for _ in range(2)))
        self.norm, self.head = norm(12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        x = self.norm(self.blocks(x))
        return self.head(x.mean(dim=1))


class DoubleConv(nn.Sequential):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(
            nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
            nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
        )  # fmt: skip


class Up(nn.Module):
    def __init__(self, i: int, o: int, mode: str) -> None:
        super().__init__()
        self.up, self.conv = nn.Upsample(scale_factor=2, mode=mode), DoubleConv(i, o)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        dy, dx = x2.size()[2] - x1.size()[2], x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class UNet(nn.Module):
    """Upsampling to the nearest pixel, for images of any size."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.inc, self.pool = DoubleConv(1, 6), nn.MaxPool2d(2)
        self.down1, self.down2 = DoubleConv(6, 8), DoubleConv(8, 12)
        self.up1, self.up2, self.outc = Up(20, 8, mode), Up(14, 6, mode), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(self.pool(x1))
        x3 = self.down2(self.pool(x2))
        return self.outc(self.up2(self.up1(x3, x2), x1))
