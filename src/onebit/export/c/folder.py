"""The files of an exported net."""

from __future__ import annotations

from pathlib import Path

from onebit.export.c import source
from onebit.export.c.plan import Planner
from onebit.packed import PackedNet


def write_folder(net: PackedNet, path: Path, *, layout: str) -> None:
    plan = Planner(net)
    size = source.place_all(plan)
    body, calls = source.functions(plan)
    head = f"""#include <stdint.h>

#include "net.h"
#include "net_weights.h"

/* The memory of all values. */
static union {{
    uint64_t aligned;
    uint8_t bytes[{size}];
}} memory;
#define MEMORY(place) ((void *)(memory.bytes + (place)))
"""
    text = f"{head}\n{source.kernels(plan, body)}\n\n{body}\n\nvoid net_run(const {source.input_type(plan)} *input, {source.output_type(plan)} *output) {{\n{calls}\n}}\n"
    (path / "net.c").write_text(text)
    (path / "net_weights.h").write_text(source.weights(plan) + "\n")
    (path / "net.h").write_text(f"""#include <stdint.h>
#define NET_INPUT_SIZE {__import__('math').prod(net.input.shape)}
#define NET_OUTPUT_SIZE {plan.output_size}
typedef {source.input_type(plan)} net_input_t;
typedef {source.output_type(plan)} net_output_t;
void net_run(const net_input_t *input, net_output_t *output);
""")
    (path / "main.c").write_text("""#include <stdio.h>
#include "net.h"
int main(void) {
    static net_input_t input[NET_INPUT_SIZE];
    static net_output_t output[NET_OUTPUT_SIZE];
    while (fread(input, sizeof input, 1, stdin) == 1) {
        net_run(input, output);
        for (int k = 0; k < NET_OUTPUT_SIZE; k++) printf("%.9g%c", (double)output[k], k + 1 < NET_OUTPUT_SIZE ? ' ' : '\\n');
    }
    return 0;
}
""")
    (path / "Makefile").write_text("CFLAGS = -O2 -std=c99 -Wall -Wextra -Werror -pedantic -ffp-contract=off\n\nnet: main.c net.c net.h net_weights.h\n\t$(CC) $(CFLAGS) -o $@ main.c net.c\n")
