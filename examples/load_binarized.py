"""Load an exported net in plain torch, without onebit: python examples/load_binarized.py net.safetensors

`onebit export NET --to torch -o net.safetensors`, or `-o net.pth`, writes the weights, and beside them the program
net.py: the net in plain torch, whatever its layers are, as a class `Net`, and a function `load`.
"""

import runpy
import sys
from pathlib import Path

import torch

if len(sys.argv) != 2 or not (path := Path(sys.argv[1])).is_file():
    sys.exit("expected one file, which onebit export --to torch has written")
if not (program := path.with_suffix(".py")).is_file():
    sys.exit(f"got {path} without its program {program.name} beside it; onebit export --to torch writes both")

try:
    net: torch.nn.Module = runpy.run_path(str(program))["load"](path)
except Exception as error:  # a damaged file has an error of its own for each format
    sys.exit(f"{path}: damaged? {str(error).partition(chr(10))[0]}")
"""Takes a batch as the inputs are, such as uint8 images (N, 1, 28, 28); its output is that of the packed net."""

weights = [(name, value) for name, value in net.state_dict().items() if value.dim() > 1 and name.endswith("weight")]
print(*(f"{name} {tuple(value.shape)}: {len(value.unique())} values" for name, value in weights), sep="\n")
