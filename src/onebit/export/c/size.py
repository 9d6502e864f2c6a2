"""Flash and RAM of an exported net."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from onebit.export.c.plan import Planner
from onebit.export.c.source import code_of, plain_text
from onebit.export.targets import CannotRun
from onebit.export.tools import output_of, require
from onebit.packed import PackedNet, costs

COMPILER = "arm-none-eabi-gcc"
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
FLAGS = ("-Os", "-std=c99", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections")
_LIBRARY_STACK = 64  # of the compiler's routines for float64 and int64


def report(net: PackedNet, path: Path, *, layout: str = "make") -> str:
    """Flash, RAM and multiply-accumulates of an exported net; measured for a Cortex-M4 if its compiler is installed."""
    plan = Planner(net)
    macs = {row.name: row.macs for row in costs(plan.net)}
    lines = [f"{sum(macs.values()):,} multiply-accumulates"]
    try:
        flash, static, stack = linked(path / "src" if layout == "arduino" else path)
    except CannotRun as error:
        lines.append(f"flash: {plan.constant_bytes:,} bytes of constants, and code; not measured: {error}")
        lines.append(f"RAM: {code_of(plan).static_bytes:,} bytes, and the stack")
    else:
        constants = f"{plan.constant_bytes:,} of them constants"
        lines.append(f"flash: {flash:,} bytes on a Cortex-M4 at -Os with the compiler's own routines, {constants}")
        lines.append(f"RAM: {static + stack:,} bytes, {static:,} of them static, at most {stack:,} of stack")
    for stage in plan.list:
        count = sum(macs.get(title.partition(":")[0], 0) for title in stage.titles)
        lines.append(f"  {plain_text('; '.join(stage.titles))}" + (f": {count:,} MACs" if count else ""))
    return "\n".join(lines)


def linked(folder: Path) -> tuple[int, int, int]:
    """Bytes of flash, of static memory, and at most of stack, of net.c linked alone for a Cortex-M4."""
    require(COMPILER)
    compiler = [COMPILER, *CORTEX_M4, *FLAGS, str(folder.resolve() / "net.c")]
    link = ["-Wl,--gc-sections", "-Wl,-e,net_run", "-nostartfiles", "--specs=nano.specs", "-o", "net.elf"]
    with tempfile.TemporaryDirectory() as temporary:
        run = partial(output_of, error=CannotRun, cwd=temporary)
        run([*compiler, *link])
        text, data, bss = map(int, run(["arm-none-eabi-size", "net.elf"]).splitlines()[1].split()[:3])
        run([*compiler, "-fstack-usage", "-c", "-o", "net.o"])
        rows = [line.split("\t") for line in Path(temporary, "net.su").read_text(encoding="utf-8").splitlines()]
    # no function calls itself, and no stage calls another
    stages, others = ([int(row[1]) for row in rows if (":stage_" in row[0]) == is_stage] for is_stage in (True, False))
    return text + data, data + bss, max(stages, default=0) + sum(others) + _LIBRARY_STACK
