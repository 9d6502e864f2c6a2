"""onebit: train binary neural networks, prove they are binary, pack them to one bit per weight, run them anywhere.

Public names and packages (`onebit.layers`, …) are loaded on first use, so `import onebit` is fast and needs no torch.
Type checkers read `__init__.pyi`.
"""

from __future__ import annotations

import importlib
import os
import sys

from onebit.common import __version__

_HOME = {
    "BinarizeReport": "onebit.layers",
    "BinaryConv1d": "onebit.layers",
    "BinaryConv2d": "onebit.layers",
    "BinaryConvTranspose1d": "onebit.layers",
    "BinaryConvTranspose2d": "onebit.layers",
    "BinaryLinear": "onebit.layers",
    "Dataset": "onebit.data",
    "InputCoding": "onebit.layers",
    "Normalize": "onebit.layers",
    "PackedModule": "onebit.runtime.torch_module",
    "Trainer": "onebit.trainer",
    "binarize_": "onebit.layers",
    "binarize_from_config_": "onebit.layers",
    "certify": "onebit.verification.agreement",
    "check": "onebit.train.check",
    "clip_latents_": "onebit.optim",
    "create_model": "onebit.models",
    "dense_": "onebit.layers",
    "describe_layers": "onebit.layers",
    "evaluate": "onebit.evaluation.modes",
    "export_gguf": "onebit.runs.language",
    "export_net": "onebit.export",
    "fit": "onebit.train.loop",
    "integer_net": "onebit.integer.nets",
    "latent_groups": "onebit.optim",
    "load": "onebit.packed",
    "load_dataset": "onebit.data",
    "load_gguf_": "onebit.runs.language",
    "pack": "onebit.verification.agreement",
    "packed_layers_": "onebit.fold.packed_layers",
    "quantizer_config": "onebit.layers",
    "register_transformers": "onebit.runs.language",
    "run": "onebit.runtime",
    "save": "onebit.packed",
    "set_progress": "onebit.quantizers",
    "sign": "onebit.quantizers",
    "summary": "onebit.evaluation.counts",
    "verify": "onebit.verification.agreement",
}
_PACKAGES = {
    *("common", "data", "errors", "evaluation", "export", "fold", "integer", "layers", "models", "native", "nets"),
    *("optim", "packed", "quantizers", "recipe", "report", "runs", "runtime", "train", "trainer", "verification"),
}

__all__ = ["__version__", *_HOME]

# idle threads of torch sleep after about 10 µs instead of spinning, which would occupy a core
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return importlib.import_module(f"onebit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'onebit' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "onebit":
            raise
        needs = f"onebit.{name} needs {error.name}: pip install 'onebit[train]'"
        raise ModuleNotFoundError(needs, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_PACKAGES])
