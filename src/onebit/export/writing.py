"""Write a packed net for other software, and compare what was written with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onebit.common.files import atomic_files, is_own, refuse_foreign
from onebit.common.tables import resolve
from onebit.common.text import size
from onebit.errors import UsageError
from onebit.export.comparison import Comparison, compare
from onebit.export.targets import EXPORTS, CannotRun, Target
from onebit.packed import PackedNet, costs
from onebit.packed.net import op_name
from onebit.runtime import run
from onebit.runtime.input_batch import as_batch
from onebit.runtime.running import opened

RANDOM_INPUTS = 20
"""Random inputs that are compared, fewer for large nets, see `affordable`."""
LEAST_INPUTS = 2
MOST_MACS = 10**10
"""Multiply-adds of all inputs that are compared by default: seconds of plain C or JavaScript."""


class Exported(NamedTuple):
    """What `export_net` wrote.

    files: the paths; size: their bytes; comparison: with the packed net, None if it could not be run here:
    `not_compared` says why.
    """

    files: tuple[Path, ...]
    size: int
    comparison: Comparison | None
    not_compared: str
    report: str = ""

    def __str__(self) -> str:
        """What was written, and how it compares."""
        files = ", ".join(map(str, self.files))
        if len(self.files) > 2:
            files = f"{len(self.files)} files in {os.path.commonpath(self.files)}"
        checked = str(self.comparison or f"not run here: {self.not_compared}")
        return "\n".join(filter(None, (f"{files}: {size(self.size)}", self.report, checked)))


def export_net(
    net: PackedNet | str | os.PathLike[str],
    to: str,
    path: str | Path,
    *,
    inputs: np.ndarray | None = None,
    count: int | None = None,
    what: str = "",
    report: bool = False,
    **options: str,
) -> Exported:
    """Write a packed net for other software, run what was written, and compare its outputs with `onebit.run`.

    The files appear at `path` only after the comparison.

    Args:
        net: a packed net, the path of its file, or the name of a net that ships.
        to: name of a target in `EXPORTS`.
        path: a file with a suffix of the target, or a folder, which is made. A link stays; what it names is
            written.
        inputs: (N, …) inputs of the net to compare with; random ones if None. Some targets store a few of them as
            samples.
        count: number of random inputs; 20 if None, fewer for large nets.
        what: what the inputs are, for display.
        report: also measure what the exported net needs, where the target can.
        options: of the target.

    Raises:
        UnknownNameError: unknown target or value of an option. FormatError: as `onebit.load`.
        UsageError: another suffix or option, an operation that the target lacks, or no inputs.
        OnebitError: the path cannot be written, or the outputs differ; nothing was written.

    Example:
        >>> export_net("net.1bit", "onnx", "net.onnx").comparison
    """
    net = opened(net)
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    target, settings = check_request(to, path, options, report=report)
    writer = target.writer
    for node in net.nodes:
        if not isinstance(node, tuple(writer.OPERATIONS)):
            raise UsageError(f"{to} has no operation {op_name(node)!r}, which makes {node.output!r}")
    given = {}
    if inputs is None:
        count = count or affordable(net, RANDOM_INPUTS)
        inputs, what = random_inputs(net, count), f"{count} random inputs"
    else:
        inputs = np.reshape(as_batch(net.input, inputs)[:], (-1, *net.input.shape))
        if target.samples:
            given["samples"] = inputs
    folder = path.parent if target.suffixes else path
    if not len(inputs):
        raise UsageError("got no inputs to compare with")
    with atomic_files(folder) as staging:
        written = staging / path.name if target.suffixes else staging
        writer.write(net, written, **given, **settings)
        expected = net.by_name(run(net, inputs))
        comparison, reason = None, ""
        try:
            found = writer.run(net, written, inputs, **settings)
        except CannotRun as error:
            reason = str(error)
        else:
            comparison = compare(net, expected, found, what=what or f"{len(inputs)} inputs", runs_with=writer.RUNS_WITH)
            comparison.check(exact=writer.EXACT)
        needs = writer.report(net, written, **settings) if report else ""
        names = sorted(file.relative_to(staging) for file in staging.rglob("*") if file.is_file())
        size = sum((staging / name).stat().st_size for name in names)
        _refuse_mixture(target, path, names)
        refuse_foreign(folder, [name for name in names if not target.suffixes or name != Path(path.name)])
    return Exported(tuple(folder / name for name in names), size, comparison, reason, needs)


def _refuse_mixture(target: Target, path: Path, names: list[Path]) -> None:
    """Raise UsageError for files of an earlier export that would be used with, or in place of, those of this one."""
    if not target.suffixes:
        kept = [path / name for name in map(Path, target.layout_files) if name not in names and is_own(path / name)]
    else:
        beside = [name for name in names if name != Path(path.name) and (path.parent / name).exists()]
        taken = beside and not os.path.lexists(path)
        kept = [other for other in map(path.with_suffix, target.suffixes) if taken and other.exists()]
    if kept:
        raise UsageError(f"{kept[0]} is of another export: remove it, or choose another place")


def check_request(
    to: str, path: Path, options: dict[str, str], *, report: bool = False
) -> tuple[Target, dict[str, str]]:
    """The target and all of its options; for errors that need no net see `export_net`."""
    target = resolve(EXPORTS, to, kind="export target")
    if target.suffixes and path.suffix not in target.suffixes:
        raise UsageError(f"{path}: the file name of an export to {to} must end in {' or '.join(target.suffixes)}")
    for option in (*options, *["report"] * report):
        if option not in (*target.options, *["report"] * target.report):
            raise UsageError(f"--{option} does not go with --to {to}")
    for option, value in options.items():
        resolve(dict.fromkeys(target.options[option]), value, kind=f"--{option}")
    return target, {option: options.get(option, values[0]) for option, values in target.options.items()}


def affordable(net: PackedNet, most: int) -> int:
    """How many inputs to compare by default: `most`, and fewer where the net needs more than `MOST_MACS` for them."""
    macs = sum(row.macs for row in costs(net))
    return max(LEAST_INPUTS, min(most, MOST_MACS // max(1, macs)))


def random_inputs(net: PackedNet, count: int) -> np.ndarray:
    """(count, …) inputs of a net: uniform bytes, or normally distributed float32."""
    rng = np.random.default_rng(0)
    shape = (count, *net.input.shape)
    if net.input.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)
