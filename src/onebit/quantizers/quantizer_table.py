"""Every quantizer by name, with what it declares. No torch here.

The same name may mean different things for weights and for inputs, hence two tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onebit.common.arguments import need, positive
from onebit.common.entries import Entry, Need, Table, option


@dataclass(frozen=True, eq=False)
class WeightQuantizerEntry(Entry):
    """What a weight quantizer declares. Its own options are the arguments of the class (`model.weight_options`).

    Args:
        random: a forward pass in training draws; as the attribute of the class.
        bayesian: latents are the parameters of a distribution of the weights; the class has a `mean`.
        trained_by: the only optimizers that can train it; None for any.
        optimizer_options: dataclass of options of the optimizer part of a recipe that belong to this quantizer.
        prepare: (optimizer, OptimizerSetup) -> None, called with the new optimizer; `options` of the setup are those of
            this quantizer. Or "module:name" of it.
    """

    random: bool = False
    bayesian: bool = False
    trained_by: tuple[str, ...] | None = None
    optimizer_options: type | None = None
    prepare: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.target, type):  # added at run time: the class is there to be asked
            object.__setattr__(self, "random", self.random or getattr(self.target, "random", False))
            object.__setattr__(self, "bayesian", self.bayesian or hasattr(self.target, "mean"))


_STRENGTH = Need("prox_strength", lambda recipe: recipe.optimizer.prox_strength is not None, "optimizer.prox_strength")


@dataclass(frozen=True)
class ProxOptions:
    """Options of ProxQuant, which any optimizer can train.

    Args:
        prox_strength: times lr, what draws latents to ±1 in the last step before the freeze; null for none
        prox_freeze: share of training after which latents stay at ±1; null for never
    """

    prox_strength: float | None = None
    prox_freeze: float | None = option(None, _STRENGTH)

    def __post_init__(self) -> None:
        strength, freeze = self.prox_strength, self.prox_freeze
        need("optimizer.prox_strength", strength, strength is None or positive(strength), "positive")
        need("optimizer.prox_freeze", freeze, freeze is None or 0 <= freeze <= 1, "in [0, 1]")


WEIGHT_QUANTIZERS = Table(
    WeightQuantizerEntry,
    {
        "sign": WeightQuantizerEntry("onebit.quantizers.binaryconnect:Sign"),
        "stochastic": WeightQuantizerEntry("onebit.quantizers.binaryconnect:Stochastic", random=True),
        "ste_sign": WeightQuantizerEntry("onebit.quantizers.ste_sign:SteSign"),
        "xnor": WeightQuantizerEntry("onebit.quantizers.xnor:Xnor"),
        "magnitude_aware": WeightQuantizerEntry("onebit.quantizers.magnitude_aware:MagnitudeAware"),
        "swish_sign": WeightQuantizerEntry("onebit.quantizers.swish_sign:SwishSign"),
        "irnet": WeightQuantizerEntry("onebit.quantizers.irnet:IRNet"),
        "recu": WeightQuantizerEntry("onebit.quantizers.recu:ReCU"),
        "adabin": WeightQuantizerEntry("onebit.quantizers.adabin:AdaBin"),
        "concrete_sign": WeightQuantizerEntry(
            "onebit.quantizers.bayesbinn:ConcreteSign", random=True, bayesian=True, trained_by=("bayesbinn",)
        ),
        "prox": WeightQuantizerEntry(
            "onebit.quantizers.prox:Prox", optimizer_options=ProxOptions, prepare="onebit.optim.prox:prepare_prox"
        ),
    },
)
INPUT_QUANTIZERS = Table(
    Entry,
    {
        "ste_sign": Entry("onebit.quantizers.ste_sign:SteSign"),
        "approx_sign": Entry("onebit.quantizers.inputs:ApproxSign"),
        "swish_sign": Entry("onebit.quantizers.swish_sign:SwishSign"),
        "irnet": Entry("onebit.quantizers.irnet:EdeSign"),
        "rsign": Entry("onebit.quantizers.inputs:RSign"),
        "adabin": Entry("onebit.quantizers.inputs:InputAdaBin"),
    },
)
