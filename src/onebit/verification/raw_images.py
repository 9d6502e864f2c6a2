"""Trained nets for images as they are stored, which is what packed nets take."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from onebit.data.preparation import pixel_order
from onebit.errors import UsageError
from onebit.runs.run import Run
from onebit.verification.proof import refuse_whitened


@torch.no_grad()
def on_raw_images(run: Run) -> Run:
    """The same net for images as they are stored: permuted pixels become permuted weights of the first layer.

    Its recipe has no permutation, so `load_run_data` gives the images that it takes.
    """
    refuse_whitened(run)
    if run.recipe.permutation is None:
        return run
    if run.recipe.model.name != "mlp":
        raise UsageError(
            f"{run.recipe.name} was trained on permuted pixels, and a packed net takes raw images: only the first "
            "layer of an mlp can take over the order of pixels; onebit evaluate gives its accuracy"
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
