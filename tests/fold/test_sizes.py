"""Nets that take images of any size."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import FoldError, FormatError, UsageError
from onebit.export import export_net
from onebit.modules.packed_module import PackedModule
from onebit.packed import InputSpec, dumps, loads
from onebit.runtime import input_batch, run
from support.covering import covering
from support.onnx_sessions import session


class Crop(nn.Module):
    """A strided shortcut, and a border cut off."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, 1:-1, 1:-1][:, :, ::2, ::2], nn.functional.max_pool2d(x[:, :, 1:-1, 1:-1], 1, 2)], 1)


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


HEADS = {
    "mean": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "largest": lambda: [nn.AdaptiveMaxPool2d(1), nn.Flatten()],
    "amax": lambda: [Largest()],
    "windows": lambda: [nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(2), nn.Flatten()],
    "pixels": list,
}


def random_net(generator: np.random.Generator, head: str) -> nn.Sequential:
    """A random fully convolutional net of random weights, in eval mode, with statistics of BatchNorm that fit."""
    torch.manual_seed(int(generator.integers(1 << 30)))
    channels, layers = int(generator.integers(2, 6)), list[nn.Module]()
    layers += [nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels)]
    for _ in range(3):
        made = int(generator.integers(2, 9))
        quantizer = None if generator.random() < 0.3 else "ste_sign"
        kernel, padding = int(generator.integers(1, 4)), int(generator.integers(0, 2))
        layers.append(onebit.BinaryConv2d(channels, made, kernel, padding=padding, input_quantizer=quantizer))
        layers += [nn.BatchNorm2d(made), *([nn.ReLU()] if generator.random() < 0.3 else [])]
        channels = made
        match generator.integers(5):
            case 0:
                layers.append(nn.MaxPool2d(2))
            case 1:
                layers.append(nn.AvgPool2d(3, 2, padding=1))
            case 2:
                layers.append(Crop())
                channels *= 2
            case 3:
                layers.append(nn.Upsample(scale_factor=2))
    net = nn.Sequential(*layers, *HEADS[head]())
    if head not in ("pixels", "windows"):
        net.append(onebit.BinaryLinear(channels, 4, input_quantizer=None))
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.rand(8, 3, 24, 24))
    return net.eval()


@pytest.mark.parametrize(("head", "seed"), covering(product(HEADS, range(3))))
def test_random_nets_compute_what_torch_computes_at_random_sizes(head: str, seed: int, tmp_path: Path) -> None:
    """Also as a module, and exported to torch and ONNX."""
    generator = np.random.default_rng([seed, len(head)])
    model = random_net(generator, head)
    packed = loads(dumps(onebit.pack(model, torch.rand(2, 3, 24, 26), sizes="any")))
    module = PackedModule(packed)
    export_net(packed, "torch", tmp_path / "net.pth")
    program = runpy.run_path(str(tmp_path / "net.py"))["load"](tmp_path / "net.pth")
    made: dict[str, Callable[[Tensor], Tensor]] = {"model": model, "program": program}
    if head == "windows":  # they would need a constant of each size, as windows do that lose pixels to padding
        with pytest.raises(UsageError, match="size"):
            export_net(packed, "onnx", tmp_path / "net.onnx")
    else:
        export_net(packed, "onnx", tmp_path / "net.onnx")
        there = session(tmp_path / "net.onnx")
        made["onnx"] = lambda x: torch.from_numpy(there.run(None, {"input": x.numpy()})[0])
    for height, width in generator.integers(20, 50, (3, 2)).tolist():
        x = torch.rand(3, 3, height, width)
        ours = run(packed, x)
        assert np.array_equal(ours, run(packed, x, executor="reference"))
        assert np.array_equal(ours, module(x).numpy())
        for name, compute in made.items():
            theirs = compute(x).detach().numpy()
            assert ours.shape == theirs.shape, name
            # the sign of a real value may differ by rounding
            assert np.mean(np.abs(ours - theirs) > 1e-4 * np.abs(theirs).max()) < 0.02, name
        alone = onebit.pack(model, x)
        assert np.allclose(ours, run(alone, x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected"):
        program(torch.rand(3, 2, 24, 26))


def unet(**settings: int) -> nn.Module:
    from onebit.models import UNet

    return UNet(input_shape=(1, 32, 32), width=1 / 32, depth=2, **settings).eval()


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_unet_takes_the_sizes_that_its_pools_divide(padding: str) -> None:
    model = unet(padding=padding)
    packed = onebit.pack(model, sizes="any")
    side = packed.input.shape[1]
    x = torch.randint(256, (1, 1, side + 4, side + 12), dtype=torch.uint8)
    ours, theirs = run(packed, x), model(x).detach().numpy()
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    with pytest.raises(UsageError, match="images"):
        run(packed, x[..., 1:])


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Flatten(), onebit.BinaryLinear(3 * 64, 4)],
        [nn.ReflectionPad2d(1), onebit.BinaryConv2d(3, 4, 3)],
        [onebit.BinaryConv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True)],
        [onebit.BinaryConv2d(3, 4, 3), nn.AdaptiveMaxPool2d(2)],
    ],
)
def test_a_net_that_depends_on_the_size_is_refused(layers: list[nn.Module]) -> None:
    with pytest.raises(FoldError, match="images"):
        onebit.pack(nn.Sequential(*layers), torch.rand(2, 3, 8, 8), sizes="any")


def test_a_model_that_branches_on_the_size_is_refused() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = onebit.BinaryConv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) / x.shape[-1]

    with pytest.raises(FoldError, match="images"):
        onebit.pack(Branch().eval(), torch.rand(2, 3, 8, 8), sizes="any")


def test_only_images_have_any_size() -> None:
    model = nn.Sequential(onebit.BinaryLinear(4, 2))
    with pytest.raises(UsageError, match="sizes"):
        onebit.pack(model, torch.rand(2, 4), sizes="any")
    with pytest.raises(FormatError, match="sizes"):
        InputSpec(shape=(4,), dtype="float32", coding="values", sizes="any")


def convolution(**settings: str) -> onebit.PackedNet:
    model = nn.Sequential(onebit.BinaryConv2d(1, 4, 3, padding=1))
    return onebit.pack(model, torch.rand(2, 1, 8, 8), **settings)


def test_a_net_of_one_size_takes_no_other() -> None:
    net = convolution()
    with pytest.raises(UsageError):
        run(net, torch.rand(2, 1, 9, 8))
    with pytest.raises(UsageError, match="sizes"):
        net.at((9, 8))


def test_too_large_images_are_refused() -> None:
    net = convolution(sizes="any")
    with pytest.raises(UsageError, match="values per image"):
        net.at((20_000, 20_000))
    with pytest.raises(UsageError, match="images"):
        convolution(sizes="any").at((0, 8))


def test_gray_images_may_lack_the_axis_of_channels() -> None:
    net, x = convolution(sizes="any"), torch.rand(2, 1, 9, 12)
    assert np.array_equal(run(net, x[:, 0]), run(net, x))


def test_few_sizes_are_kept() -> None:
    net = convolution(sizes="any")
    made = [input_batch.fitting(net, np.zeros((1, 1, 9 + k, 8), np.float32)) for k in range(10)]
    again = [input_batch.fitting(net, np.zeros((1, 1, 9 + k, 8), np.float32)) for k in (9, 5, 0)]
    assert again[0] is made[9]
    assert again[1] is made[5]
    assert again[2] is not made[0]


def test_a_module_takes_any_size_also_where_torch_watches() -> None:
    module = PackedModule(convolution(sizes="any"))
    x = torch.rand(2, 1, 12, 9)
    with torch.profiler.profile():
        watched = module(x)
    assert torch.equal(watched, module(x))


def test_the_certificate_names_the_size_that_was_compared() -> None:
    model = nn.Sequential(onebit.BinaryConv2d(1, 4, 3, padding=1))
    net = onebit.pack(model, torch.rand(2, 1, 8, 8), data=torch.rand(5, 1, 12, 9), sizes="any")
    assert net.certificate.sizes == ("12×9",)
    assert net.input.shape == (1, 8, 8)
    assert "12×9" in net.statement
    assert onebit.verify(model, loads(dumps(net)), torch.rand(5, 1, 7, 30)).ok


def test_integers_of_a_net_of_any_size() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        onebit.BinaryConv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), onebit.BinaryConv2d(4, 3, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    data = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)

    whole = nn.Sequential(onebit.Normalize([0.0], [1.0]), model)
    net = onebit.pack(whole, data, sizes="any")
    made = onebit.integer_net(net, data, activations=8)
    larger = torch.randint(256, (9, 1, 12, 10), dtype=torch.uint8)
    exact = run(net, larger)
    assert np.abs(run(made, larger) - exact).max() < 0.05 * np.abs(exact).max()


def test_an_export_with_one_size_says_so(tmp_path: Path) -> None:
    packed = onebit.pack(unet(), torch.zeros(2, 1, 32, 32, dtype=torch.uint8), sizes="any")
    assert "32×32" in str(export_net(packed, "c", tmp_path / "c"))
    assert "32×32" not in str(export_net(packed, "onnx", tmp_path / "net.onnx"))
    x = torch.randint(256, (1, 1, 48, 64), dtype=torch.uint8)
    found = session(tmp_path / "net.onnx").run(None, {"input": x.numpy()})[0]
    expected = run(packed, x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
