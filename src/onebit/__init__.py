"""onebit: train binary neural networks, prove they are binary, pack them to one bit per weight, run them anywhere.

Public names and packages (`onebit.runtime`, `onebit.layers`, …) are loaded when they are first used, so that
`import onebit` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onebit._version import __version__
from onebit.common.moved import find_moved_modules

if TYPE_CHECKING:
    from onebit.data import Dataset as Dataset
    from onebit.data import load_dataset as load_dataset
    from onebit.evaluation.counts import summary as summary
    from onebit.evaluation.modes import evaluate as evaluate
    from onebit.fold import pack as pack
    from onebit.layers import BinaryLinear as BinaryLinear
    from onebit.layers import InputCoding as InputCoding
    from onebit.layers import binarize_ as binarize_
    from onebit.models import create_model as create_model
    from onebit.optim import clip_latents_ as clip_latents_
    from onebit.optim import latent_groups as latent_groups
    from onebit.packed import load as load
    from onebit.packed import save as save
    from onebit.quantizers import sign as sign
    from onebit.runtime.torch_module import PackedModule as PackedModule
    from onebit.train.loop import fit as fit
    from onebit.trainer import Trainer as Trainer
    from onebit.verification.agreement import certify as certify
    from onebit.verification.agreement import verify as verify

_HOME = {
    "BinaryLinear": "onebit.layers",
    "Dataset": "onebit.data",
    "InputCoding": "onebit.layers",
    "PackedModule": "onebit.runtime.torch_module",
    "Trainer": "onebit.trainer",
    "binarize_": "onebit.layers",
    "certify": "onebit.verification.agreement",
    "clip_latents_": "onebit.optim",
    "create_model": "onebit.models",
    "evaluate": "onebit.evaluation.modes",
    "fit": "onebit.train.loop",
    "latent_groups": "onebit.optim",
    "load": "onebit.packed",
    "load_dataset": "onebit.data",
    "pack": "onebit.fold",
    "save": "onebit.packed",
    "sign": "onebit.quantizers",
    "summary": "onebit.evaluation.counts",
    "verify": "onebit.verification.agreement",
}
_PACKAGES = {
    *("common", "data", "errors", "evaluation", "export", "fold", "layers", "models", "native", "optim", "packed"),
    *("quantizers", "recipe", "report", "runs", "runtime", "train", "trainer", "verification"),
}

__all__ = ["__version__", *_HOME]

find_moved_modules()


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"onebit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'onebit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_PACKAGES])
