"""Quantizers: real tensor -> ±1 (times a scale), each with its own surrogate gradient.

The same name may mean different things for weights and for inputs, hence two tables.
"""

from __future__ import annotations

from onebit.quantizers.base import BinaryWeight, Quantizer, scheduled, sign
from onebit.quantizers.binaryconnect import Sign, Stochastic, draw_signs
from onebit.quantizers.ste_sign import SteSign

WEIGHT_QUANTIZERS: dict[str, type[Quantizer]] = {
    "sign": Sign,
    "stochastic": Stochastic,
    "ste_sign": SteSign,
}
INPUT_QUANTIZERS: dict[str, type[Quantizer]] = {
    "ste_sign": SteSign,
}

__all__ = [
    "INPUT_QUANTIZERS",
    "WEIGHT_QUANTIZERS",
    "BinaryWeight",
    "Quantizer",
    "Sign",
    "SteSign",
    "Stochastic",
    "draw_signs",
    "scheduled",
    "sign",
]
