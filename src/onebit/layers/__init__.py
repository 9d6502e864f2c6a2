"""Layers with binary weights: the Parameter is the latent weight, forward derives the binary one.

A binary layer is a `torch.nn` layer with two quantizers added: state_dict keys, shapes and hooks stay the same, so
checkpoints move between the two. Recurrent layers and attention keep torch's classes, with parametrized weights.
"""

from __future__ import annotations

from onebit.layers.base import (
    BinaryLayer as BinaryLayer,
    InputQuantizer as InputQuantizer,
    LatentWeight as LatentWeight,
    WeightQuantizer as WeightQuantizer,
    binary_layers as binary_layers,
    glorot_bound as glorot_bound,
    input_quantizers as input_quantizers,
    latent_keys as latent_keys,
    make_input_quantizer as make_input_quantizer,
    recompute_inputs_ as recompute_inputs_,
    with_options as with_options,
)
from onebit.layers.binarize import (
    binarize_ as binarize_,
    binarize_from_config_ as binarize_from_config_,
    dense_ as dense_,
)
from onebit.layers.binary import (
    BINARY_TWINS as BINARY_TWINS,
    BinaryConv1d as BinaryConv1d,
    BinaryConv2d as BinaryConv2d,
    BinaryConvTranspose1d as BinaryConvTranspose1d,
    BinaryConvTranspose2d as BinaryConvTranspose2d,
    BinaryEmbedding as BinaryEmbedding,
    BinaryLinear as BinaryLinear,
)
from onebit.layers.coding import InputCoding as InputCoding, Normalize as Normalize
from onebit.layers.description import (
    BinarizeReport as BinarizeReport,
    BinaryRow as BinaryRow,
    RealRow as RealRow,
    describe_layers as describe_layers,
    quantizer_config as quantizer_config,
)
from onebit.layers.parametrized import (
    PARAMETRIZED as PARAMETRIZED,
    BinaryParametrization as BinaryParametrization,
    binary_parametrizations as binary_parametrizations,
)
from onebit.layers.rprelu import RPReLU as RPReLU
from onebit.layers.statistics import (
    batch_norms as batch_norms,
    has_other_statistics as has_other_statistics,
    has_unsettled_statistics as has_unsettled_statistics,
    settling_steps as settling_steps,
    trains_other_weights as trains_other_weights,
)
