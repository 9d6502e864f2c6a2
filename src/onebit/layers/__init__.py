"""Layers with binary weights: the Parameter is the latent weight, forward derives the binary one.

A binary layer *is* its `torch.nn` twin with two quantizers added, so state_dict keys, shapes and hooks are those of the
twin and a checkpoint moves between the two.
"""

from __future__ import annotations

from onebit.layers.base import (
    BinaryLayer,
    InputQuantizer,
    WeightQuantizer,
    binary_layers,
    check_model,
    glorot_bound,
    make_input_quantizer,
    make_weight_quantizer,
    recompute_inputs_,
    with_options,
)
from onebit.layers.binarize import BINARY_TWINS, binarize_
from onebit.layers.binary import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear
from onebit.layers.coding import InputCoding
from onebit.layers.rprelu import RPReLU

__all__ = [
    "BINARY_TWINS",
    "BinaryConv2d",
    "BinaryConvTranspose2d",
    "BinaryLayer",
    "BinaryLinear",
    "InputCoding",
    "InputQuantizer",
    "RPReLU",
    "WeightQuantizer",
    "binarize_",
    "binary_layers",
    "check_model",
    "glorot_bound",
    "make_input_quantizer",
    "make_weight_quantizer",
    "recompute_inputs_",
    "with_options",
]
