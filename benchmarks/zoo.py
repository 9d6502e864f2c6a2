"""Nets of timm with binary weights against the same nets in torch and float32: one image, one thread.

`onebit.binarize_` makes each net binary as it is, with random weights and BatchNorm calibrated on noise. It is packed
whole; if `onebit.pack` refuses an operation, which the row names, layer by layer (`onebit.packed_layers_`). Before
anything is timed, outputs are compared with those of the binary net in torch. timm is installed by `make build/timm`.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import onebit
from benchmarks.shared import ROOT, Clock, Rows, compare, rows

FOLDER = Path(os.environ.get("ONEBIT_TIMM", ROOT / "build" / "timm"))
"""Where `make build/timm` installs timm and torchvision."""
NETS = (
    *("resnet10t", "mobilenetv3_small_050", "tf_efficientnet_lite0", "mobileone_s0", "repvgg_a0", "ghostnet_050"),
    *("regnetx_002", "densenet121", "hardcorenas_a", "lcnet_050", "tinynet_e", "vgg11_bn", "darknet17"),
    *("res2net50_26w_4s", "nf_resnet50", "convnext_atto", "deit_tiny_patch16_224", "mixer_s32_224"),
    *("efficientvit_b0", "levit_128s"),
)
CLOCK = Clock(seconds=0.05)
COLUMNS = {"net": "", "packs": "", "ms": ".1f", "torch_ms": ".1f", "torch_speedup": ".2f", "kilobytes": ",.0f"}
COLUMNS |= {"difference": ".1e"}
Packed = tuple[Callable[[Tensor], Tensor], int]
"""A packed net as a function of images, and its bytes."""


def load_timm() -> Any:
    """The module timm, which imports torchvision.

    torchvision's operators are compiled for another torch: where they do not load, stubs have their names.
    """
    sys.path.append(str(FOLDER))
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm  # type: ignore[import-not-found]

    sys.path.remove(str(FOLDER))  # processes without the stubs must not find this torchvision
    return timm


def build(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A net of timm in float32, the same with binary weights and a calibrated BatchNorm, and a batch of noise."""
    torch.manual_seed(0)
    net = load_timm().create_model(name, num_classes=10).eval()
    head = net.get_classifier()
    if isinstance(head, nn.Linear) and not head.weight.any():  # the signs of zeros are all equal
        head.reset_parameters()
    images = torch.randn(16, *net.default_cfg["input_size"])
    binary = copy.deepcopy(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # subclasses of convolutions, which stay real
        onebit.binarize_(binary, weight_quantizer="xnor")
    onebit.evaluation.reestimate_batch_norm_(binary, list(images.split(8)))
    return net, binary.eval(), images[:2]


def pack_whole(model: nn.Module, images: Tensor) -> Packed:
    """The packed net; FoldError if it cannot be packed whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BatchNorm was calibrated, not trained
        packed = onebit.pack(model, images)
    size = len(onebit.packed.dumps(packed))
    return lambda images: torch.from_numpy(onebit.run(packed, images.numpy())), size


def pack_layers(model: nn.Module) -> Packed:
    """The net packed layer by layer."""
    model = copy.deepcopy(model)
    report = onebit.packed_layers_(model)
    return model, sum(row.packed_bytes for row in report.packed) + report.real_bytes


@torch.no_grad()
def difference(name: str, packed: Packed, model: nn.Module, images: Tensor) -> float:
    """The largest difference of an output as a share of the largest; OnebitError if rounding does not explain it."""
    layers = sum(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())
    return compare(name, packed[0](images), model(images), 1e-5 * sqrt(layers))  # the bound of `onebit.verify`


def measure(*, nets: Sequence[str] = NETS, clock: Clock = CLOCK) -> Rows:
    """Rows of net, what refuses to pack whole, ms of one image, speed-up, kilobytes, and the largest difference.

    Args:
        nets: names of timm
    """
    for name in nets:
        net, model, images = build(name)
        try:
            packs, packed = "whole", pack_whole(model, images)
        except onebit.errors.FoldError as error:
            packs = f"layers: {str(error).removeprefix('cannot pack ').split(' ')[0]}"
            packed = pack_layers(model)
        facts = {"net": name, "packs": packs, "difference": difference(name, packed, model, images)}
        with torch.inference_mode():
            times = clock.time({"torch": partial(net, images[:1]), "packed": partial(packed[0], images[:1])})
        (row,) = rows(times, ["packed"], "ms", torch=["torch"])
        yield {**facts, **row, "kilobytes": packed[1] / 1e3}
