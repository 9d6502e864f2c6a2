"""Pack trained runs, and certify them on their test splits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from onebit.data import DATASETS, Dataset
from onebit.data.preparation import pixel_order
from onebit.errors import UsageError
from onebit.evaluation.forward import OnImages, in_tiles
from onebit.evaluation.modes import fixed_weights, reestimate_batch_norm_
from onebit.fold import pack
from onebit.integer.nets import Calibrated, calibrated
from onebit.packed import PackedNet
from onebit.runs.opening import Run
from onebit.verification.agreement import certify

CALIBRATION = 500
"""Default number of training images for the ranges of activations."""


@dataclass(frozen=True)
class Rounding:
    """How `pack_run` rounds activations, see `onebit.integer_net`.

    Args:
        activations: bits.
        calibration: number of training images for the ranges, evenly spaced.
        on_ranges: called with the integer net and its ranges.
    """

    activations: int
    calibration: int = CALIBRATION
    on_ranges: Callable[[Calibrated], None] | None = None

    def of(self, model: nn.Module, packed: PackedNet, data: Dataset) -> Calibrated:
        """The integer net of a packed net. Errors: `integer_net`."""
        images = in_tiles(model, data.train.spread(self.calibration)).images
        found = calibrated(packed, images, activations=self.activations)
        if self.on_ranges is not None:
            self.on_ranges(found)
        return found


@torch.no_grad()
def on_raw_images(run: Run) -> Run:
    """The same net for stored images: permuted pixels become permuted weights of the first layer.

    Its recipe has no permutation, so `load_run_data` loads the right images.
    """
    if run.recipe.whitening is not None:
        raise UsageError(
            f"{run.recipe.name} was trained on whitened images, and a packed net takes raw images: "
            "train without whitening to pack it; onebit evaluate gives its accuracy"
        )
    if run.recipe.permutation is None:
        return run
    if run.recipe.model.name != "mlp":
        raise UsageError(
            f"{run.recipe.name} was trained on permuted pixels, and a packed net takes raw images: only an mlp can be "
            "packed; onebit evaluate gives its accuracy"
        )
    channels, height, width = run.input_shape
    model, pixels = copy.deepcopy(run.model), height * width
    first = next(module for module in model.modules() if list(module.parameters(recurse=False)))
    # weight i of a channel belongs to pixel order[i]
    weight_of = np.argsort(pixel_order(run.recipe.permutation, pixels))
    columns = torch.from_numpy(np.concatenate([channel * pixels + weight_of for channel in range(channels)]))
    for tensor in first.state_dict().values():
        if tensor.shape[1:] == columns.shape:
            tensor.copy_(tensor[:, columns])
    return replace(run, model=model, recipe=replace(run.recipe, permutation=None))


def fold_run(
    run: Run, data: Dataset | None, *, weights: str = "binary", seed: int = 0, sizes: str = "fixed"
) -> tuple[nn.Module, PackedNet]:
    """A trained net and its packed net, without a certificate.

    Args:
        data: to re-estimate BatchNorm on training images; needed for weights "sample" only.
        weights, seed, sizes: see `pack_run`.
    """
    if on_raw_images(run) is not run:
        raise UsageError(f"{run.recipe.name} was trained on permuted pixels: pack on_raw_images(run)")
    model, classes = run.model, _class_names(run) if data is None else data.classes
    if weights == "sample":
        if data is None:
            raise UsageError("a random draw needs training images to re-estimate BatchNorm; or use --weights binary")
        model = copy.deepcopy(model)
        # a random draw is less accurate with BatchNorm statistics of the binary weights
        with fixed_weights(model, "sample", generator=torch.Generator().manual_seed(seed)):
            reestimate_batch_norm_(model, data.train)
    return model, pack(model, weights=weights, seed=seed, sizes=sizes, classes=classes, name=run.recipe.name)


def pack_run(
    run: Run,
    data: Dataset,
    *,
    weights: str = "binary",
    seed: int = 0,
    sizes: str = "fixed",
    images: int | None = None,
    rounding: Rounding | None = None,
    on_images: OnImages | None = None,
) -> PackedNet:
    """Pack a trained net, and certify it on the test split of its data.

    Args:
        weights: "binary", or "sample" for one random draw from `seed`.
        sizes: "any" for a net that takes images of any size.
        images: number of images to compare, evenly spaced; None for all.
        rounding: of activations; None for real ones.
        on_images: called with (images done, images) during the comparison.
    """
    model, packed = fold_run(run, data, weights=weights, seed=seed, sizes=sizes)
    packed = packed if rounding is None else rounding.of(model, packed, data).net
    split = data.test if images is None else data.test.spread(images)
    return certify(
        model,
        packed,
        in_tiles(model, split),
        dataset=data.name,
        weights=weights,
        seed=seed,
        source=run.sha256,
        recipe=run.recipe.name,
        images=None if split is data.test else images,
        activations=None if rounding is None else rounding.activations,
        calibration=None if rounding is None else min(rounding.calibration, len(data.train)),
        on_images=on_images,
    )


def _class_names(run: Run) -> tuple[str, ...] | None:
    """The class names in the weight file, or those of the data set."""
    stored, known = run.facts.get("classes"), DATASETS.get(run.recipe.dataset)
    if isinstance(stored, list):
        return tuple(map(str, stored))
    return None if known is None else known.classes
