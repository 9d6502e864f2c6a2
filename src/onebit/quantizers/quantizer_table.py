"""Every quantizer by name, without torch. A name may mean different things for weights and for inputs."""

from __future__ import annotations

from dataclasses import dataclass

from onebit.common.entries import Entry, Table


@dataclass(frozen=True, eq=False)
class WeightQuantizerEntry(Entry):
    """A weight quantizer.

    Args:
        random: a forward pass in training draws, as the attribute of the class.
        bayesian: latents are the parameters of a distribution of the weights; the class has a `mean`.
        trained_by: the only optimizers that can train it; None for any.
        of_optimizer: settings of `onebit.optim.settings.Optimizer` that belong to it; it needs the first.
    """

    random: bool = False
    bayesian: bool = False
    trained_by: tuple[str, ...] | None = None
    of_optimizer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.target, type):  # added at run time as a class
            object.__setattr__(self, "random", self.random or getattr(self.target, "random", False))
            object.__setattr__(self, "bayesian", self.bayesian or hasattr(self.target, "mean"))


@dataclass(frozen=True, eq=False)
class InputQuantizerEntry(Entry):
    """An input quantizer.

    Args:
        bits: of an output: 1 for two values.
    """

    bits: int = 1


OWN_PAGE = "docs/own-quantizers.md"

WEIGHT_QUANTIZERS = Table(
    WeightQuantizerEntry,
    {
        "sign": "onebit.quantizers.binaryconnect:Sign",
        "stochastic": WeightQuantizerEntry("onebit.quantizers.binaryconnect:Stochastic", random=True),
        "ste_sign": "onebit.quantizers.ste_sign:SteSign",
        "xnor": "onebit.quantizers.xnor:Xnor",
        "magnitude_aware": "onebit.quantizers.magnitude_aware:MagnitudeAware",
        "swish_sign": "onebit.quantizers.swish_sign:SwishSign",
        "irnet": "onebit.quantizers.irnet:IRNet",
        "recu": "onebit.quantizers.recu:ReCU",
        "adabin": "onebit.quantizers.adabin:AdaBin",
        "concrete_sign": WeightQuantizerEntry(
            "onebit.quantizers.bayesbinn:ConcreteSign", random=True, bayesian=True, trained_by=("bayesbinn",)
        ),
        "prox": WeightQuantizerEntry("onebit.quantizers.prox:Prox", of_optimizer=("prox_strength", "prox_freeze")),
    },
    page=OWN_PAGE,
)
INPUT_QUANTIZERS = Table(
    InputQuantizerEntry,
    {
        "ste_sign": "onebit.quantizers.ste_sign:SteSign",
        "approx_sign": "onebit.quantizers.input_signs:ApproxSign",
        "swish_sign": "onebit.quantizers.swish_sign:SwishSign",
        "irnet": "onebit.quantizers.irnet:EdeSign",
        "rsign": "onebit.quantizers.input_signs:RSign",
        "adabin": "onebit.quantizers.input_signs:InputAdaBin",
        "uint8": InputQuantizerEntry("onebit.quantizers.few_bits:UInt8", bits=8),
        "uint4": InputQuantizerEntry("onebit.quantizers.few_bits:UInt4", bits=4),
        "uint2": InputQuantizerEntry("onebit.quantizers.few_bits:UInt2", bits=2),
        "int8": InputQuantizerEntry("onebit.quantizers.few_bits:Int8", bits=8),
        "int4": InputQuantizerEntry("onebit.quantizers.few_bits:Int4", bits=4),
        "int2": InputQuantizerEntry("onebit.quantizers.few_bits:Int2", bits=2),
    },
    page=OWN_PAGE,
)
