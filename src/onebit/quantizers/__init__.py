"""Quantizers: real tensor -> ±1 (times a scale), each with its own surrogate gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, WeightQuantizerEntry

if TYPE_CHECKING:
    from onebit.quantizers.adabin import AdaBin as AdaBin
    from onebit.quantizers.base import BinaryInput as BinaryInput
    from onebit.quantizers.base import BinaryWeight as BinaryWeight
    from onebit.quantizers.base import Quantizer as Quantizer
    from onebit.quantizers.base import scheduled as scheduled
    from onebit.quantizers.base import sign as sign
    from onebit.quantizers.bayesbinn import ConcreteSign as ConcreteSign
    from onebit.quantizers.binaryconnect import Sign as Sign
    from onebit.quantizers.binaryconnect import Stochastic as Stochastic
    from onebit.quantizers.binaryconnect import draw_signs as draw_signs
    from onebit.quantizers.inputs import ApproxSign as ApproxSign
    from onebit.quantizers.inputs import InputAdaBin as InputAdaBin
    from onebit.quantizers.inputs import RSign as RSign
    from onebit.quantizers.irnet import EdeSign as EdeSign
    from onebit.quantizers.irnet import IRNet as IRNet
    from onebit.quantizers.magnitude_aware import MagnitudeAware as MagnitudeAware
    from onebit.quantizers.prox import Prox as Prox
    from onebit.quantizers.recu import ReCU as ReCU
    from onebit.quantizers.ste_sign import SteSign as SteSign
    from onebit.quantizers.swish_sign import SwishSign as SwishSign
    from onebit.quantizers.xnor import Xnor as Xnor

_MODULES = {
    "adabin": "AdaBin",
    "base": "BinaryInput BinaryWeight Quantizer scheduled sign",
    "bayesbinn": "ConcreteSign",
    "binaryconnect": "Sign Stochastic draw_signs",
    "inputs": "ApproxSign InputAdaBin RSign",
    "irnet": "EdeSign IRNet",
    "magnitude_aware": "MagnitudeAware",
    "prox": "Prox",
    "recu": "ReCU",
    "ste_sign": "SteSign",
    "swish_sign": "SwishSign",
    "xnor": "Xnor",
}
__getattr__, __dir__, _NAMES = lazy(__name__, _MODULES)
__all__ = ["INPUT_QUANTIZERS", "WEIGHT_QUANTIZERS", "WeightQuantizerEntry", *_NAMES]
