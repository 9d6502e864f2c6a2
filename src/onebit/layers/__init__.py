"""Layers with binary weights: the Parameter is the latent weight, forward derives the binary one.

A binary layer is a `torch.nn` layer with two quantizers added: state_dict keys, shapes and hooks stay the same, so
checkpoints move between the two. Recurrent layers and attention keep torch's classes, with parametrized weights.
"""

from __future__ import annotations

from onebit.layers.base import (
    BinaryLayer,
    InputQuantizer,
    LatentWeight,
    WeightQuantizer,
    binary_layers,
    glorot_bound,
    input_quantizers,
    latent_keys,
    make_input_quantizer,
    recompute_inputs_,
    with_options,
)
from onebit.layers.binarize import binarize_, binarize_from_config_, dense_
from onebit.layers.binary import (
    BINARY_TWINS,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryLinear,
)
from onebit.layers.coding import InputCoding, Normalize
from onebit.layers.description import BinarizeReport, BinaryRow, RealRow, describe_layers, quantizer_config
from onebit.layers.parametrized import PARAMETRIZED, BinaryParametrization, binary_parametrizations
from onebit.layers.rprelu import RPReLU
from onebit.layers.statistics import (
    batch_norms,
    has_other_statistics,
    has_unsettled_statistics,
    settling_steps,
    trains_other_weights,
)

__all__ = [
    "BINARY_TWINS",
    "PARAMETRIZED",
    "BinarizeReport",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConvTranspose1d",
    "BinaryConvTranspose2d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryParametrization",
    "BinaryRow",
    "InputCoding",
    "InputQuantizer",
    "LatentWeight",
    "Normalize",
    "RPReLU",
    "RealRow",
    "WeightQuantizer",
    "batch_norms",
    "binarize_",
    "binarize_from_config_",
    "binary_layers",
    "binary_parametrizations",
    "dense_",
    "describe_layers",
    "glorot_bound",
    "has_other_statistics",
    "has_unsettled_statistics",
    "input_quantizers",
    "latent_keys",
    "make_input_quantizer",
    "quantizer_config",
    "recompute_inputs_",
    "settling_steps",
    "trains_other_weights",
    "with_options",
]
