"""onebit: train binary neural networks, prove they are binary, pack them to one bit per weight, run them anywhere.

Public names and packages (`onebit.layers`, …) are loaded on first use, so `import onebit` is fast and needs no torch.
Type checkers read `__init__.pyi`.
"""

from __future__ import annotations

import os
import sys

from onebit.common import __version__
from onebit.common.lazy import lazy

_find, __dir__, _HOME = lazy(
    __name__,
    {
        "data": "Dataset load_dataset",
        "data.tokens": "write_tokens",
        "evaluation.counts": "summary",
        "evaluation.modes": "evaluate",
        "export": "export_net",
        "modules.adapters": "adapt_packed",
        "modules.packed_layers": "packed_layers_",
        "integer.nets": "integer_net",
        "language.model": "load_language_model",
        "layers": "BinarizeReport BinaryConv1d BinaryConv2d BinaryConvTranspose1d BinaryConvTranspose2d "
        "BinaryEmbedding BinaryLinear InputCoding Normalize binarize_ binarize_from_config_ dense_ describe_layers "
        "quantizer_config",
        "models": "create_model",
        "optim": "clip_latents_ latent_groups",
        "packed": "load save",
        "quantizers": "set_progress sign",
        "runs.language": "export_gguf load_gguf_ register_transformers",
        "runtime": "run",
        "modules.packed_module": "PackedModule",
        "train.check": "check",
        "train.loop": "fit",
        "train.settings": "Fit",
        "trainer": "Trainer",
        "verification.agreement": "certify pack verify",
    },
)
__all__ = ["__version__", *_HOME]

# idle threads of torch sleep after about 10 µs instead of spinning, which would occupy a core
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded


def __getattr__(name: str) -> object:
    try:
        return _find(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "onebit":
            raise
        needs = f"onebit.{name} needs {error.name}: pip install 'onebit[train]'"
        raise ModuleNotFoundError(needs, name=error.name) from error
