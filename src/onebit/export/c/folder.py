"""The files of an exported net."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

from onebit.common import __version__
from onebit.export.c import source
from onebit.export.c.plan import Planner
from onebit.export.pixels import pixels_in_words
from onebit.packed import PackedNet, costs, dumps, nodes

DESCRIPTION = "A net with one-bit weights in plain C without dependencies, written by onebit"


def write(net: PackedNet, path: Path, *, layout: str = "make") -> None:
    """Write the C code of a net, a build file, and an example."""
    plan = Planner(net)
    code = source.code_of(plan)
    facts = about(plan, code)
    written = {
        "net.h": header(plan, facts),
        "net.c": source_file(plan, code, facts),
        "net_weights.h": weights_file(plan),
    }
    if layout == "arduino":
        name = "onebit_" + (re.sub(r"[^A-Za-z0-9]+", "_", net.name).strip("_") or "net")
        written = {f"src/{file}": text for file, text in written.items()}
        written |= {"library.properties": library_properties(name), "library.json": library_json(name)}
        written["examples/run/run.ino"] = template("run.ino")
    else:
        written |= {name: template(name) for name in ("main.c", "Makefile")}
    written["README.md"] = readme(plan, facts, layout)
    for file, text in written.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(text, encoding="ascii", newline="\n")


def template(name: str) -> str:
    return (files("onebit.export.c") / "templates" / name).read_text(encoding="utf-8")


def about(plan: Planner, code: source.Code) -> list[str]:
    """Lines on the net and its size."""
    net = plan.net
    weights = sum(row.binary_weights for row in costs(net))
    name = f"{net.name}: " if net.name else ""
    taken = " and ".join(f"{source.dimensions(spec.shape)} {spec.dtype}" for spec in net.inputs.values())
    given = " and ".join(source.dimensions(plan.values[name].shape) for name in net.outputs)
    return [
        f"written by onebit {__version__}, {net.statement}",
        f"{name}{taken} -> {given}",
        f"{weights:,} one-bit weights, {plan.constant_bytes:,} bytes of constants, "
        f"{code.static_bytes:,} bytes of memory",
    ]


def header(plan: Planner, facts: list[str]) -> str:
    net = plan.net
    kind, made = plan.input_type, plan.output_type
    use = [
        f"    {kind} input[NET_INPUT_SIZE];",
        f"    {made} output[NET_OUTPUT_SIZE];",
        "    net_run(input, output);",
    ]
    once = "The memory between the layers is static: one call at a time."
    places = classes = ""
    inputs = {name: name for name in net.inputs if len(net.inputs) > 1}
    outputs = {} if isinstance(net.output, str) else net.keyed
    for what, names, offsets in (("input", inputs, plan.input_offsets), ("output", outputs, plan.output_offsets)):
        places += f"\n\n/* Where each {what} begins. */" if names else ""
        for k, (key, name) in enumerate(names.items()):
            meaning = source.comment(f"{key}: {source.dimensions(plan.values[name].shape)}")
            places += f"\n#define NET_{what.upper()}_{k} {offsets[name]} {meaning}"
    if net.classes:
        classes = f"""
/* The names of the classes. */
#define NET_CLASS_COUNT {len(net.classes)}
extern const char *const net_classes[NET_CLASS_COUNT];
"""
    digest = f"0x{hashlib.sha256(dumps(net)).hexdigest()[:8]}u"
    return f"""{source.block([*facts, "", *use, "", *_input_in_words(net), once])}
#if defined(NET_H) && NET_ID != {digest}
#error "net.h of another net is included already: the names of the two are the same"
#endif
#ifndef NET_H
#define NET_H
#define NET_ID {digest}

#include <stdint.h>

#define NET_INPUT_SIZE {plan.input_size}
#define NET_OUTPUT_SIZE {plan.output_size}
#define NET_INPUT_IS_FLOAT {int(kind == "float")}
#define NET_OUTPUT_IS_FLOAT {int(made == "float")}{places}

typedef {kind} net_input_t;
typedef {made} net_output_t;

#ifdef __cplusplus
extern "C" {{
#endif

/* Computes the outputs for one input. */
void net_run(const {kind} *input, {made} *output);
{classes}
#ifdef __cplusplus
}}
#endif

#endif
"""


def _input_in_words(net: PackedNet) -> list[str]:
    lines = []
    for name, spec in net.inputs.items():
        axes = {1: "", 2: " (channels, places)", 3: " (channels, rows, columns)"}.get(len(spec.shape), "")
        lines.append(f"{name}: {source.dimensions(spec.shape)}{axes}, the last axis fastest.")
        if spec.meaning:
            lines.append(f"A sample is: {spec.meaning}")
        if pixels := pixels_in_words(net, spec):
            lines.append(f"Numbers are {pixels}.")
    if any(spec.dtype == "float32" for spec in net.inputs.values()):
        lines.append("Numbers that are not finite make NaN of what depends on them; the sign of NaN is -1.")
        if any(isinstance(node, nodes.Quantize) for node in net.nodes):
            lines.append("NaN that is rounded to an integer becomes the least integer of the range.")
    return lines


def source_file(plan: Planner, code: source.Code, facts: list[str]) -> str:
    bits = "Every sum has a fixed order: the outputs are those of onebit, bit for bit."
    floats, checks = ("#include <float.h>\n", f"{_CHECKS}\n\n") if code.uses_floats else ("", "")
    names = ""
    if plan.net.classes:
        rows = "\n".join(f"    {source.string(text)}," for text in plan.net.classes)
        names = f"const char *const net_classes[NET_CLASS_COUNT] = {{\n{rows}\n}};\n\n"
    return f"""{source.block([*facts, "", bits])}

{floats}#include <stdint.h>

#include "net.h"
#include "net_weights.h"

{checks}/* The memory of all values. */
static union {{
    uint64_t aligned;
    uint8_t bytes[{plan.arena_bytes}];
}} memory;
#define MEMORY(place) ((void *)(memory.bytes + (place)))

{code.kernels}

{code.stages}

{names}void net_run(const {plan.input_type} *input, {plan.output_type} *output) {{
{code.calls}
}}
"""


_CHECKS = """#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \\
    __FINITE_MATH_ONLY__ + 0 > 0 || defined(_M_FP_FAST)
#error "-ffast-math, -Ofast and /fp:fast give other bits: compile without them"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 /* 16 concerns _Float16 alone */
#error "float operations that are not rounded to float give other bits"
#endif
/* A product and a sum that are rounded together give other bits. gcc does that unless -std is one of ISO C. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off", "no-associative-math") /* a pragma alone turns on -fassociative-math again */
#if defined(__AVX__)
#pragma GCC optimize("no-tree-slp-vectorize") /* gcc 12 exchanges constants that it converts to vectors of double */
#endif
#elif defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#else
#pragma STDC FP_CONTRACT OFF
#endif
/* clang has no macro for parts of -ffast-math. Elsewhere it does not know float_control. */
#if defined(__clang__) && __clang_major__ >= 14
#if defined(__x86_64__) || defined(__i386__)
#pragma float_control(precise, on)
#endif
#pragma clang fp reassociate(off) contract(off)
#endif
typedef char net_needs_double_of_64_bits[sizeof(double) == 8 ? 1 : -1];"""


def weights_file(plan: Planner) -> str:
    arrays = "\n\n".join(source.array(name, values) for name, values in plan.arrays.items())
    return f"""/* The weights of net.c, written by onebit.
 * A row of one-bit weights belongs to one output: bit 1 is +1, bit 0 is -1, the lowest bit of the first
 * byte first. Words of 32 bits hold 4 weights of each of 8 rows, those of the first row in the lowest bits.
 */
#include <stdint.h>

{arrays}
"""


def library_properties(name: str) -> str:
    return (
        f"name={name}\nversion=1.0.0\nauthor=onebit\nmaintainer=onebit\nsentence={DESCRIPTION}.\n"
        "paragraph=Computes the same bits as onebit.\ncategory=Data Processing\nurl=https://docs.arduino.cc\n"
        "architectures=*\nincludes=net.h\n"
    )


def library_json(name: str) -> str:
    fields = {"name": name, "version": "1.0.0", "description": f"{DESCRIPTION}.", "frameworks": "*", "platforms": "*"}
    return json.dumps({**fields, "build": {"flags": "-ffp-contract=off"}}, indent=2) + "\n"


def readme(plan: Planner, facts: list[str], layout: str) -> str:
    net = plan.net
    kind = "float32 in little-endian order" if plan.input_type == "float" else "one byte each"
    build = (
        "    make\n    ./net < inputs.bin\n\n"
        f"`inputs.bin` holds inputs one after the other, {plan.input_size:,} numbers each ({kind}).\n"
        "`net` prints one line of outputs for each."
    )
    if layout == "arduino":
        build = (
            "A library for the Arduino IDE (copy this folder into `libraries`) and for PlatformIO (into `lib`).\n"
            "`examples/run` shows how to call it."
        )
    if pixels := next(filter(None, (pixels_in_words(net, spec) for spec in net.inputs.values())), ""):
        build += f"\nThe numbers are {pixels}."
    text = "\n".join(source.plain_text(line).replace("`", "'") for line in facts)
    where = "src/" if layout == "arduino" else ""
    return f"""<!-- written by onebit -->
# {source.plain_text(net.name).replace("`", "'") or "A net with one-bit weights"}

{text}

## Use

{build}

In firmware, compile `{where}net.c`, include `net.h`, and call `net_run(input, output)`; `net.h` says how. The code is
C99, calls no library, allocates nothing, and is not reentrant. Compilers add calls: of their own routines for what a
processor cannot compute, and of `memset`, `memcpy` and `memmove` for loops; without a C library, define these three.
Compile without `-ffast-math`, its parts, `-Ofast` or `-ffp-contract=fast`. Every output is that of `onebit.run`, bit
for bit. A product and a sum that are rounded together give other bits: pragmas in `net.c` forbid it to gcc, clang and
MSVC.
Other compilers may need a flag like `-ffp-contract=off`.
A program holds one net: the names in `net.c` and `net.h` are those of every net. Two nets need other names, for example
`-Dnet_run=first_run -Dnet_classes=first_classes` for `net.c` and for the file that includes this `net.h`.
"""
