/* Runs plans that another processor wrote, see test_emulated.py. Without arguments, lists the instruction sets. */
#include <stdio.h>
#include <stdlib.h>

#include "onebit.h"

static char *memory;

/* The address of a pointer that was written as an offset, 0 for NULL. */
static const void *at(const void *offset) { return offset ? memory + (size_t)offset : NULL; }

static void *aligned(size_t size) { return aligned_alloc(64, (size + 63) / 64 * 64); }

/* Reads a plan and its images, runs it, and writes its outputs; 0, or what failed. */
static int run_file(const ob_isa *isa, const char *from, const char *to) {
    FILE *file = fopen(from, "rb");
    int64_t head[4]; /* bytes, offset of the plan, offset of the images, number of images */
    if (!file || fread(head, sizeof head, 1, file) != 1) return 3;
    memory = aligned((size_t)head[0]);
    if (fread(memory, 1, (size_t)head[0], file) != (size_t)head[0] || fclose(file)) return 4;
    ob_plan *plan = (ob_plan *)(memory + head[1]);
    plan->calls = at(plan->calls), plan->inputs = at(plan->inputs), plan->outputs = at(plan->outputs);
    for (int n = 0; n < plan->input_count; n++) {
        ob_input *input = (ob_input *)&plan->inputs[n];
        input->mean = at(input->mean), input->std = at(input->std);
    }
    for (int64_t k = 0; k < plan->call_count; k++) {
        ob_call *call = (ob_call *)&plan->calls[k];
        call->rows = at(call->rows), call->columns = at(call->columns), call->runs = at(call->runs);
        call->weights = at(call->weights), call->tap_sums = at(call->tap_sums);
        call->weight_units = at(call->weight_units), call->scales = at(call->scales), call->divisor = at(call->divisor);
        call->epilogue = at(call->epilogue);
        for (int n = 0; n < call->epilogue_count; n++) {
            ob_epilogue_op *op = (ob_epilogue_op *)&call->epilogue[n];
            op->p = at(op->p), op->q = at(op->q), op->more = at(op->more);
        }
    }
    size_t size = 0;
    for (int n = 0; n < plan->output_count; n++) size += (size_t)(head[3] * plan->outputs[n].size) * 4;
    float *output = aligned(size);
    isa->run(plan, (uint8_t *)memory + head[2], head[3], aligned((size_t)plan->arena_units * 4), output, 0, 1, NULL);
    FILE *answer = fopen(to, "wb");
    return !answer || fwrite(output, 1, size, answer) != size || fclose(answer) ? 5 : 0;
}

int main(int count, char **arguments) {
    const ob_isa *isa;
    if (count == 1) {
        for (int n = 0; (isa = ob_instruction_set(n)); n++)
            printf("%s %d %d %d %d %d %d %d %d %d %d %d\n", isa->name, isa->lanes, isa->lut_inputs, isa->lut_groups, isa->tile_rows,
                   isa->tile_outputs, isa->dense_words, isa->row_units, isa->dot_fours, isa->dot_shift, isa->dot_lut,
                   isa->byte_tiles);
        return 0;
    }
    if (!(isa = ob_instruction_set(atoi(arguments[1])))) return 2;
    int failed = 0;
    for (int n = 2; n + 1 < count && !failed; n += 2) failed = run_file(isa, arguments[n], arguments[n + 1]);
    return failed;
}
