"""Writes a packed net for other software and compares the result with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

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
from onebit.runtime.input_batch import as_batches, as_given
from onebit.runtime.running import opened
from onebit.runtime.timing import noise

RANDOM_INPUTS = 20
"""Default number of random inputs to compare; fewer for large nets, see `affordable`."""
MIN_INPUTS = 2
MAX_MACS = 10**10
"""Default limit on the multiply-adds of a comparison: seconds in plain C or JavaScript."""
FREE_SIZES = "onnx", "torch"
"""Targets whose files take images of every size that the net does; others have memory for one."""


class Exported(NamedTuple):
    """What `export_net` wrote.

    files: the paths; size: their bytes; comparison: with the packed net, or None if this machine cannot run the files,
    for the reason `not_compared`; report: what the exported net needs, if it was asked for.
    """

    files: tuple[Path, ...]
    size: int
    comparison: Comparison | None
    not_compared: str
    report: str = ""

    def __str__(self) -> str:
        """The files, the report, and the comparison."""
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
    inputs: Any = None,
    count: int | None = None,
    what: str = "",
    report: bool = False,
    **options: str,
) -> Exported:
    """Write a packed net for other software, run what was written, and compare its outputs with `onebit.run`.

    The files appear at `path` only after the comparison. `html` and `c` must give every bit. The other targets may add
    real numbers in another order: up to 5 % of the labels and, in the median, 0.1 % of the largest logit may differ.

    Args:
        net: a packed net, the path of its file, or the name of a net that ships.
        to: name of a target in `EXPORTS`.
        path: a file with a suffix of the target, or a folder, which is created. If it is a link, its file is written.
        inputs: inputs of the net to compare with, as for `onebit.run`; random ones if None. Some targets store a few of
            them as samples.
        count: number of random inputs; by default 20, fewer for large nets.
        what: description of the inputs, for display.
        report: also measure what the exported net needs, if the target can.
        options: of the target.

    Raises:
        UnknownNameError: unknown target or value of an option. FormatError: as `onebit.load`.
        UsageError: wrong suffix or option, or an operation that the target lacks.
        OnebitError: the path cannot be written, or the outputs differ; nothing was written.

    Example:
        >>> export_net("net.1bit", "onnx", "net.onnx").comparison
    """
    net, path = opened(net), Path(os.path.realpath(path) if os.path.islink(path) else path)
    target, settings = check_request(to, path, options, report=report)
    if not target.packed:
        raise UsageError(f"{to} takes a language model, not a packed net: onebit.export_{to}(model, path)")
    writer, samples = target.writer, {}
    if len(net.inputs) > 1 and not target.several_inputs:
        raise UsageError(f"{to} takes nets with one input, this one has {', '.join(net.inputs)}")
    for node in net.nodes:
        if not isinstance(node, tuple(writer.OPERATIONS)):
            raise UsageError(f"{to} has no operation {op_name(node)!r}, needed for {node.output!r}")
    if inputs is None:
        count = count or affordable(net, RANDOM_INPUTS)
        given, what = noise(net, count), f"{count} random inputs"
    else:
        given = inputs
    parts = zip(net.inputs.values(), as_batches(net, given), strict=True)
    arrays = [np.reshape(part[:], (-1, *spec.shape)) for spec, part in parts]
    if inputs is not None and target.samples:
        samples = {"samples": arrays[0]}
    folder = path.parent if target.suffixes else path
    with atomic_files(folder) as staging:
        written = staging / path.name if target.suffixes else staging
        writer.write(net, written, **samples, **settings)
        comparison, reason = _compared(writer, net, written, arrays, what or f"{len(arrays[0])} inputs", settings)
        needs = writer.report(net, written, **settings) if report else ""
        if net.free and (to not in FREE_SIZES or settings.get("flavor") == "qonnx"):
            height, width = net.input.shape[1:]
            needs = f"images of {height}×{width} only, the net itself takes other sizes, too\n{needs}".rstrip()
        files = _publishable(target, path, staging)
        size = sum((staging / name).stat().st_size for name in files)
    return Exported(tuple(folder / name for name in files), size, comparison, reason, needs)


def _compared(
    writer: Any, net: PackedNet, written: Path, inputs: list[np.ndarray], what: str, settings: dict[str, str]
) -> tuple[Comparison | None, str]:
    """The comparison, or None and the reason why this machine cannot run the files."""
    expected = net.by_name(run(net, as_given(inputs)))
    try:
        found = writer.run(net, written, *inputs, **settings)
    except CannotRun as error:
        return None, str(error)
    comparison = compare(net, expected, found, what=what, runs_with=writer.RUNS_WITH)
    comparison.check(exact=writer.EXACT)
    return comparison, ""


def _publishable(target: Target, path: Path, staging: Path) -> list[Path]:
    """The written files. UsageError if one would replace a user's file, or be mixed with files of another export."""
    names = sorted(file.relative_to(staging) for file in staging.rglob("*") if file.is_file())
    if target.suffixes:
        beside = [name for name in names if name.name != path.name]
        replaced = any((path.parent / name).exists() for name in beside) and not os.path.lexists(path)
        others = [other for other in map(path.with_suffix, target.suffixes) if replaced and other.exists()]
        refuse_foreign(path.parent, beside)
    else:
        others = [path / name for name in map(Path, target.layout_files) if name not in names and is_own(path / name)]
        refuse_foreign(path, names)
    if others:
        raise UsageError(f"{others[0]} belongs to another export; remove it or choose another path")
    return names


def check_request(
    to: str, path: Path, options: dict[str, str], *, report: bool = False
) -> tuple[Target, dict[str, str]]:
    """The target and all of its options; raises those errors of `export_net` that need no net."""
    target = resolve(EXPORTS, to, kind="export target")
    if target.suffixes and path.suffix not in target.suffixes:
        raise UsageError(f"expected a file name that ends in {' or '.join(target.suffixes)} for {to}, got {path}")
    for option in (*options, *["report"] * report):
        if option not in (*target.options, *["report"] * target.report):
            raise UsageError(f"--{option} does not apply to --to {to}")
    for option, value in options.items():
        resolve(dict.fromkeys(target.options[option]), value, kind=f"--{option}")
    return target, {option: options.get(option, values[0]) for option, values in target.options.items()}


def affordable(net: PackedNet, most: int) -> int:
    """The default number of inputs to compare: `most`, or fewer if these need more than `MAX_MACS`."""
    macs = sum(row.macs for row in costs(net))
    return max(MIN_INPUTS, min(most, MAX_MACS // max(1, macs)))
