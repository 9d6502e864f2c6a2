"""The coding of the input: `InputCoding` and `Normalize`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from onebit.fold.arithmetic import with_constant
from onebit.fold.call import Call
from onebit.fold.chain import Pending
from onebit.fold.folder import Folder
from onebit.layers import InputCoding, Normalize
from onebit.packed import InputSpec


def input_coding(folder: Folder, call: Call, x: Pending) -> Pending:
    """The coding of the input itself, which the packed net states as such."""
    coding: InputCoding = call.module
    assert call.node is not None
    source, shape = call.node.all_input_nodes[0], folder.input.shape
    alone = source.op == "placeholder" and all(user.target == call.node.target for user in source.users)
    if not alone or folder.input.dtype != "uint8" or folder.coding not in (None, coding):
        raise call.refusal("expected one coding, of the image itself, in uint8")
    moments: dict[str, Any] = {}
    if coding.coding == "standardize":
        if len(shape) != 3:
            raise call.refusal(f"got inputs of shape {shape}, expected images (C, H, W); use onebit.Normalize")
        for what in ("mean", "std"):
            moments[what] = np.broadcast_to(getattr(coding, what).reshape(-1).numpy(), shape[:1]).copy()
    folder.coding = coding
    folder.set_input(InputSpec(shape=shape, coding="standardise" if moments else "integer", **moments))
    return x


def normalize(folder: Folder, call: Call, x: Pending) -> Pending:
    layer: Normalize = call.module
    assert call.node is not None
    before, _ = call.shapes
    if call.node.all_input_nodes[0].meta["value"].dtype == torch.uint8:
        x = with_constant(folder, call, x, 255.0, torch.div, name=f"{call.name}.pixels")
    for what, compute in (("mean", torch.sub), ("std", torch.div)):
        numbers: Tensor = getattr(layer, what)
        numbers = numbers.view(-1, *[1] * (len(before) - 2)) if numbers.dim() else numbers
        x = with_constant(folder, call, x, numbers, compute)
    return x
