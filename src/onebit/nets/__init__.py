"""The packed nets that come with onebit, by name (`onebit list nets`); `tools/ship_nets.py` writes their files."""

from __future__ import annotations

import os
from pathlib import Path

from onebit.common.tables import did_you_mean
from onebit.errors import UsageError

FOLDER = Path(__file__).parent
SUFFIX = ".1bit"
TRAINED = ("recipe.yaml", "*.safetensors", "*.ckpt", "seed-*", "stage1")
"""What the folder of a training holds, or a copy of its weights."""


def net_names() -> list[str]:
    """The names of all nets that come with onebit.

    Example:
        >>> "mnist-mlp" in net_names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def shipped_path(name: str) -> Path:
    """The file of a net that comes with onebit, whatever has its name here."""
    return FOLDER / f"{name}{SUFFIX}"


def net_path(net: str | os.PathLike[str]) -> Path:
    """The file of a packed net: a name in `net_names()`, or a path.

    A path that has no folder and no suffix can be the name of a net: then write `./mnist-mlp` for the path.

    Raises:
        UsageError: the name of a net, and also of a file or a run folder here.

    Example:
        >>> net_path("mnist-mlp").name, net_path("mine/mnist-mlp").as_posix()
        ('mnist-mlp.1bit', 'mine/mnist-mlp')
    """
    if not isinstance(net, str) or net not in net_names():
        return Path(net)
    if os.path.isfile(net) or any(found for kind in TRAINED for found in Path(net).glob(kind)):
        raise UsageError(
            f"{net} is a net that comes with onebit, and also a {'file' if os.path.isfile(net) else 'run folder'} "
            f"here: write {os.path.join(os.curdir, net)} for the one here, or rename it"
        )
    return shipped_path(net)


def is_packed(net: str | os.PathLike[str]) -> bool:
    """Whether an argument means a packed net, by its name or by its path; a path may not exist. Errors: `net_path`."""
    return ends_as_packed(net_path(net))


def ends_as_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a path ends as that of a packed net, in capitals or not.

    Example:
        >>> ends_as_packed("net.1bit"), ends_as_packed("NET.1BIT"), ends_as_packed("net")
        (True, True, False)
    """
    return Path(path).suffix.lower() == SUFFIX


def not_a_net(missing: str | os.PathLike[str]) -> str:
    """The end of a message that a path does not exist, if it can have been meant as the name of a net; else "".

    Example:
        >>> not_a_net("mnist-mpl")
        ", and no net that comes with onebit has this name; did you mean 'mnist-mlp'?"
    """
    path = Path(missing)
    if str(path) in net_names():
        return f"; the plain name {str(path)!r}, a text without ./, is a net that comes with onebit"
    near = did_you_mean(path.stem, net_names(), or_all=False)
    if path.name != str(path) or (path.suffix and (path.suffix != SUFFIX or path.stem not in net_names())):
        return ""
    return f", and no net that comes with onebit has this name{near or '; `onebit list nets` lists them'}"
