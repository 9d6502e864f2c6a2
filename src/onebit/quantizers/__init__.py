"""Quantizers: real tensor -> ±1 (or, for inputs, integers of few bits) times a scale, with a surrogate gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.quantizers.quantizer_table import (
    INPUT_QUANTIZERS,
    WEIGHT_QUANTIZERS,
    InputQuantizerEntry,
    WeightQuantizerEntry,
)

if TYPE_CHECKING:
    from onebit.quantizers.adabin import AdaBin as AdaBin
    from onebit.quantizers.base import (
        BinaryInput as BinaryInput,
        BinaryWeight as BinaryWeight,
        IntegerInput as IntegerInput,
        Quantizer as Quantizer,
        SignedWeight as SignedWeight,
        scheduled as scheduled,
        set_progress as set_progress,
        sign as sign,
    )
    from onebit.quantizers.bayesbinn import ConcreteSign as ConcreteSign
    from onebit.quantizers.binaryconnect import Sign as Sign, Stochastic as Stochastic, draw_signs as draw_signs
    from onebit.quantizers.few_bits import (
        FewBits as FewBits,
        Int2 as Int2,
        Int4 as Int4,
        Int8 as Int8,
        UInt2 as UInt2,
        UInt4 as UInt4,
        UInt8 as UInt8,
    )
    from onebit.quantizers.hardening import Hardening as Hardening
    from onebit.quantizers.input_signs import ApproxSign as ApproxSign, InputAdaBin as InputAdaBin, RSign as RSign
    from onebit.quantizers.irnet import EdeSign as EdeSign, IRNet as IRNet
    from onebit.quantizers.magnitude_aware import MagnitudeAware as MagnitudeAware
    from onebit.quantizers.prox import Prox as Prox
    from onebit.quantizers.recu import ReCU as ReCU
    from onebit.quantizers.ste_sign import SteSign as SteSign
    from onebit.quantizers.swish_sign import SwishSign as SwishSign
    from onebit.quantizers.xnor import Xnor as Xnor

_MODULES = {
    "adabin": "AdaBin",
    "base": "BinaryInput BinaryWeight IntegerInput Quantizer SignedWeight scheduled set_progress sign",
    "bayesbinn": "ConcreteSign",
    "binaryconnect": "Sign Stochastic draw_signs",
    "few_bits": "FewBits Int2 Int4 Int8 UInt2 UInt4 UInt8",
    "hardening": "Hardening",
    "input_signs": "ApproxSign InputAdaBin RSign",
    "irnet": "EdeSign IRNet",
    "magnitude_aware": "MagnitudeAware",
    "prox": "Prox",
    "recu": "ReCU",
    "ste_sign": "SteSign",
    "swish_sign": "SwishSign",
    "xnor": "Xnor",
}
__getattr__, __dir__, _NAMES = lazy(__name__, _MODULES)
__all__ = ["INPUT_QUANTIZERS", "WEIGHT_QUANTIZERS", "InputQuantizerEntry", "WeightQuantizerEntry", *_NAMES]
