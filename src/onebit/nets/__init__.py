"""The packed nets that ship with onebit, by name (`onebit list nets`). `tools/ship_nets.py` writes their files."""

from __future__ import annotations

import os
from pathlib import Path

from onebit.common.tables import did_you_mean
from onebit.errors import UsageError

FOLDER = Path(__file__).parent
SUFFIX = ".1bit"
TRAINED = ("recipe.yaml", "*.safetensors", "*.ckpt", "seed-*", "stage1")
"""Files of a run folder, or of a copy of its weights."""


def net_names() -> list[str]:
    """The names of all nets that ship with onebit.

    Example:
        >>> "mnist-mlp" in net_names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def shipped_path(name: str) -> Path:
    """The file of a net that ships with onebit."""
    return FOLDER / f"{name}{SUFFIX}"


def net_path(net: str | os.PathLike[str]) -> Path:
    """The file of a packed net: a name in `net_names()`, or a path.

    For a path that equals the name of a net write `./mnist-mlp`.

    Raises:
        UsageError: the name of a net that is also a file or a run folder here.

    Example:
        >>> net_path("mnist-mlp").name, net_path("mine/mnist-mlp").as_posix()
        ('mnist-mlp.1bit', 'mine/mnist-mlp')
    """
    if not isinstance(net, str) or net not in net_names():
        return Path(net)
    if os.path.isfile(net) or any(found for kind in TRAINED for found in Path(net).glob(kind)):
        raise UsageError(f"{net} is a net that ships with onebit and also a path here: write ./{net} for the path")
    return shipped_path(net)


def is_packed(net: str | os.PathLike[str]) -> bool:
    """Whether an argument is the name of a net, or ends in `.1bit`; the file may not exist. Errors: `net_path`."""
    return net_path(net).suffix.lower() == SUFFIX


def nearest_net(missing: str | os.PathLike[str]) -> str:
    """The end of a message that a path does not exist, if it resembles the name of a net; else "".

    Example:
        >>> nearest_net("mnist-mpl")
        "; did you mean 'mnist-mlp'?"
    """
    path = Path(missing)
    is_name = path.name == str(path) and path.suffix in ("", SUFFIX)
    return did_you_mean(path.stem, net_names(), or_all=False) if is_name else ""
