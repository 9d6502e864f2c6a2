"""Quantizers: real tensor -> ±1 (times a scale), each with its own surrogate gradient.

The same name may mean different things for weights and for inputs, hence two tables.
"""

from __future__ import annotations

from onebit.quantizers.adabin import AdaBin
from onebit.quantizers.base import BinaryInput, BinaryWeight, Quantizer, scheduled, sign
from onebit.quantizers.bayesbinn import ConcreteSign
from onebit.quantizers.binaryconnect import Sign, Stochastic, draw_signs
from onebit.quantizers.inputs import ApproxSign, InputAdaBin, RSign
from onebit.quantizers.irnet import EdeSign, IRNet
from onebit.quantizers.magnitude_aware import MagnitudeAware
from onebit.quantizers.prox import Prox
from onebit.quantizers.recu import ReCU
from onebit.quantizers.ste_sign import SteSign
from onebit.quantizers.swish_sign import SwishSign
from onebit.quantizers.xnor import Xnor

WEIGHT_QUANTIZERS: dict[str, type[Quantizer]] = {
    "sign": Sign,
    "stochastic": Stochastic,
    "ste_sign": SteSign,
    "xnor": Xnor,
    "magnitude_aware": MagnitudeAware,
    "swish_sign": SwishSign,
    "irnet": IRNet,
    "recu": ReCU,
    "adabin": AdaBin,
    "concrete_sign": ConcreteSign,
    "prox": Prox,
}
INPUT_QUANTIZERS: dict[str, type[Quantizer]] = {
    "ste_sign": SteSign,
    "approx_sign": ApproxSign,
    "swish_sign": SwishSign,
    "irnet": EdeSign,
    "rsign": RSign,
    "adabin": InputAdaBin,
}

__all__ = [
    "INPUT_QUANTIZERS",
    "WEIGHT_QUANTIZERS",
    "AdaBin",
    "ApproxSign",
    "BinaryInput",
    "BinaryWeight",
    "ConcreteSign",
    "EdeSign",
    "IRNet",
    "InputAdaBin",
    "MagnitudeAware",
    "Prox",
    "Quantizer",
    "RSign",
    "ReCU",
    "Sign",
    "SteSign",
    "Stochastic",
    "SwishSign",
    "Xnor",
    "draw_signs",
    "scheduled",
    "sign",
]
