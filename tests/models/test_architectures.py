"""The convolutional nets against the papers: sizes, order of layers, stems, shortcuts, the smallest images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.evaluation.counts import model_size
from onebit.layers import BinaryConv2d
from onebit.models import create_model
from onebit.models.parts import Parts
from onebit.models.resnet import Block, cifar_resnet
from support.small_models import images, quantizes_inputs, weight_layers


def on_meta(name: str, **options: Any) -> Any:
    """A model without memory."""
    with torch.device("meta"):
        return create_model(name, **{"weight_quantizer": None} | options)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------------------------------------------------------- sizes
# how ours differs: a BatchNorm (two numbers) stands where the reference has a bias (one number) behind so many channels
BIASES = {"alexnet": 64 + 192 + 384 + 256 + 256 + 2 * 4096, "nin": 5 * 192 + 160 + 96 + 192, "lenet": 6 + 16 + 120 + 84}


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("resnet20", {}, 269_722),  # He et al. 2016, section 4.2, say 0.27 M, and 0.46, 0.66, 0.85, 1.7 M for the next
        ("resnet32", {}, 464_154),
        ("resnet44", {}, 658_586),
        ("resnet56", {}, 853_018),
        ("resnet110", {}, 1_727_962),
        ("resnet18", {}, 11_689_512),  # torchvision
        ("resnet34", {}, 21_797_672),  # torchvision
        ("resnet50", {}, 25_557_032),  # torchvision
        ("resnet18", {"input_shape": (3, 32, 32), "classes": 10}, 11_173_962),  # the same with a 3×3 stem
        ("alexnet", {"last_norm": False}, 61_100_840 + BIASES["alexnet"]),  # torchvision, without BatchNorm
        # torchvision's vgg16_bn: biases beside the BatchNorms of the convolutions, biases alone in the dense layers
        ("vgg16", {"last_norm": False}, 138_365_992 - (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512) + 2 * 4096),
        ("vgg11", {"last_norm": False}, 132_868_840 - (64 + 128 + 2 * 256 + 4 * 512) + 2 * 4096),
        ("nin", {"last_norm": False}, 966_986 + BIASES["nin"]),  # Lin et al. 2014, the Caffe model
        # 3×3 convolutions, dense layers, and two numbers for each unit of a BatchNorm
        ("vgg_small", {}, 4_574_592 + 8_388_608 + 1_048_576 + 10_240 + 2 * 3_850),
        ("lrnet_big", {}, 4_574_592 + 8_388_608 + 10_240 + 2 * 2_826),
        ("lrnet_small", {}, 25 * (32 + 32 * 64) + 49 * 64 * 512 + 5_120 + 2 * 618),
        ("lenet", {"last_norm": False}, 61_706 + BIASES["lenet"]),  # LeNet-5 with dense connections
        ("lenet", {"last_norm": False, "input_shape": (1, 32, 32)}, 61_706 + BIASES["lenet"]),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name: str, options: dict[str, Any], published: int) -> None:
    assert parameters(on_meta(name, **options)) == published


@pytest.mark.parametrize("name", ["lenet", "nin", "resnet20"])
def test_width_is_a_factor_on_channels_and_hidden_units(name: str) -> None:
    shapes = {"input_shape": (3, 32, 32), "classes": 10}
    narrow, wide = (weight_layers(on_meta(name, width=width, **shapes)) for width in (1, 2.5))
    assert [round(2.5 * len(layer.weight)) for layer in narrow[:-1]] == [len(layer.weight) for layer in wide[:-1]]
    assert len(wide[-1].weight) == 10


# --------------------------------------------------------------------------------------------------------------- layers
def test_weights_beyond_memory_are_refused_before_they_take_it() -> None:
    with pytest.raises(UsageError, match="GB of memory"):
        create_model("vgg_small", width=640, input_shape=(3, 32, 32))


def test_vgg_small_pools_the_output_of_the_convolution() -> None:
    names = [name for name, _ in on_meta("vgg_small").named_children()]
    assert names[:9] == ["coding", "conv1", "norm1", "relu1", "conv2", "pool2", "norm2", "relu2", "conv3"]
    assert names[-9:] == [
        "flatten", "linear7", "norm7", "relu7", "linear8", "norm8", "relu8", "linear9", "norm9",
    ]  # fmt: skip


def test_dropout_stands_where_the_papers_have_it() -> None:
    def dropped(name: str) -> list[str]:
        model = on_meta(name, dropout=0.5)
        return [child for child, layer in model.named_children() if isinstance(layer, nn.Dropout) and layer.p == 0.5]

    assert dropped("vgg16") == ["dropout14", "dropout15"]
    assert dropped("alexnet") == ["dropout6", "dropout7"]
    assert dropped("nin") == ["dropout3", "dropout6"]
    assert not [layer for layer in on_meta("alexnet").modules() if isinstance(layer, nn.Dropout)]


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("resnet18", {"input_shape": (3, 64, 300)}, (64, 3, 3, 3)),
        ("resnet18", {"input_shape": (3, 65, 65)}, (64, 3, 7, 7)),
        ("resnet18", {"stem": "cifar"}, (64, 3, 3, 3)),
        ("alexnet", {}, (64, 3, 11, 11)),
        ("alexnet", {"input_shape": (1, 64, 64), "stem": "imagenet"}, (64, 1, 11, 11)),
    ],
)
def test_the_stem_follows_the_size_of_the_image_unless_it_is_named(
    name: str, options: dict[str, Any], first: tuple[int, ...]
) -> None:
    assert weight_layers(on_meta(name, **options))[0].weight.shape == first


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(UsageError, match="stem"):
        on_meta("alexnet", stem="tiny")


@pytest.mark.parametrize(("shape", "units"), [((3, 32, 32), 512), ((3, 64, 64), 512), ((3, 224, 224), 4096)])
def test_vgg_has_a_small_head_for_small_images(shape: tuple[int, ...], units: int) -> None:
    *_, hidden, last = weight_layers(on_meta("vgg16", input_shape=shape, classes=10))
    assert hidden.weight.shape == (units, units)
    assert last.weight.shape == (10, units)


# -------------------------------------------------------------------------------------------------------- residual nets
def padded(block: Any, x: Tensor) -> Tensor:
    y = torch.zeros(len(x), 7, 4, 3)
    y[:, 2:5] = x[:, :, ::2, ::2]  # four new channels, two before and two after
    return y


def projected(block: Any, x: Tensor) -> Tensor:
    conv, norm = block.downsample
    return norm(F.conv2d(x, conv.weight, stride=2))


def averaged(block: Any, x: Tensor) -> Tensor:
    _, conv, norm = block.downsample
    x = F.pad(x, (0, 1, 0, 1))  # a window over the edge averages what it has
    return norm(F.conv2d(F.avg_pool2d(x, 2) * 4 / F.avg_pool2d(EDGE, 2, divisor_override=1), conv.weight))


EDGE = F.pad(torch.ones(1, 1, 7, 5), (0, 1, 0, 1))
REFERENCES = {"padded": padded, "projected": projected, "averaged": averaged}


@pytest.mark.parametrize("shortcut", REFERENCES)
@pytest.mark.parametrize("each", [False, True])
def test_a_block_computes_its_formula(shortcut: str, each: bool) -> None:
    torch.manual_seed(0)
    block: Any = Block(Parts(weight_quantizer=None), 3, 7, 2, shortcut=shortcut, around_each=each).eval()
    x = torch.randn(2, 3, 7, 5)
    beside = REFERENCES[shortcut](block, x)
    y = block.bn1(F.conv2d(x, block.conv1.weight, stride=2, padding=1))
    y = (y + beside).relu() if each else y.relu()
    z = block.bn2(F.conv2d(y, block.conv2.weight, padding=1))
    torch.testing.assert_close(block(x), (z + (y if each else beside)).relu())


@pytest.mark.parametrize(("inputs", "each"), [(None, False), (None, True), ("ste_sign", True)])
def test_a_block_that_keeps_its_shape_adds_its_input(inputs: str | None, each: bool) -> None:
    """The sum of a block with signs stays real: no ReLU."""
    block: Any = Block(Parts(input_quantizer=inputs), 4, 4, 1, shortcut="padded", around_each=each).eval()
    nn.init.zeros_(block.bn1.weight)
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 5, 5)
    x = x if inputs else x.relu()
    assert torch.equal(block(x), x)


def test_bireal_has_real_shortcuts_and_binary_convolutions() -> None:
    model = on_meta(
        "resnet18",
        bireal=True,
        weight_quantizer="ste_sign",
        input_quantizer="ste_sign",
        real_first=True,
        real_last=True,
    )
    kinds = {name: type(layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    real = {name for name, kind in kinds.items() if kind is not BinaryConv2d}
    assert real == {"conv1", "fc", *(f"layer{stage}.0.downsample.1" for stage in (2, 3, 4))}
    assert len(kinds) == 21
    assert all(quantizes_inputs(model.get_submodule(name)) for name in kinds.keys() - real)
    # each stage: its first convolution comes from the channels of the stage before
    pairs = [(64, 64), (64, 128), (128, 256), (256, 512)]
    weights = sum(9 * outputs * (inputs + 3 * outputs) for inputs, outputs in pairs)
    assert model_size(model)[0] == weights == 10_985_472


@pytest.mark.parametrize(
    ("size", "options"),
    [((7, 7), {}), ((33, 20), {"bireal": True}), ((32, 32), {"stem": "imagenet"}), ((7, 7), {"bireal": True})],
)
def test_resnet18_takes_images_of_any_size(size: tuple[int, int], options: dict[str, Any]) -> None:
    model = create_model("resnet18", input_shape=(1, *size), classes=3, width=1 / 16, **options).eval()
    assert model(images(model, 2)).shape == (2, 3)


def test_keys_are_those_of_torchvision() -> None:
    keys = [key.removesuffix(".weight") for key in on_meta("resnet18").state_dict() if key.endswith("weight")]
    assert keys[:6] == ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"]
    assert {"layer2.0.downsample.0", "layer2.0.downsample.1", "layer4.1.bn2", "fc"} <= set(keys)


@pytest.mark.parametrize("depth", [2, 21])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(UsageError, match="depth"):
        cifar_resnet(depth)
    with pytest.raises(UsageError, match="bottlenecks"):
        on_meta("resnet50", bireal=True)


# ------------------------------------------------------------------------------------------------- the smallest images
@pytest.mark.parametrize(
    ("name", "shape"),
    [("alexnet", (3, 15, 15)), ("vgg11", (3, 32, 32)), ("vgg_small", (3, 8, 8)), ("lenet", (1, 12, 12))],
)
def test_the_smallest_image_is_taken(name: str, shape: tuple[int, int, int]) -> None:
    model = create_model(name, input_shape=shape, classes=3, width=1 / 16).eval()
    assert model(images(model, 2)).shape == (2, 3)
