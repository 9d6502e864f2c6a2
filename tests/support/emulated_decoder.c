/* Runs a language model that another processor wrote, see tests/language/test_emulated.py: program, number of the instruction set,
 * file, file of the logits. The file: the offset of an ob_decoder and the number of logits, then memory in which pointers are
 * offsets. */
#include <stdio.h>
#include <stdlib.h>

#include "onebit.h"

static char *memory;

static void *at(const void *offset) { return offset ? memory + (size_t)offset : NULL; }

static void *aligned(size_t size) { return aligned_alloc(64, (size + 63) / 64 * 64); }

int main(int count, char **arguments) {
    int64_t head[4]; /* bytes, offset of the decoder, logits, panels or not */
    FILE *file = count == 4 ? fopen(arguments[2], "rb") : NULL;
    const ob_isa *isa = file ? ob_instruction_set(atoi(arguments[1])) : NULL;
    if (!isa || fread(head, sizeof head, 1, file) != 1) return 3;
    memory = aligned((size_t)head[0]);
    if (fread(memory, 1, (size_t)head[0], file) != (size_t)head[0] || fclose(file)) return 4;
    ob_decoder *call = (ob_decoder *)(memory + head[1]);
    call->matrices = at(call->matrices), call->norms = at(call->norms), call->rotation = at(call->rotation);
    call->keys = at(call->keys), call->values = at(call->values), call->kv_scales = at(call->kv_scales);
    call->tokens = at(call->tokens);
    for (int64_t k = 0; k < 2 + 7 * call->layers; k++) {
        ob_matrix *matrix = (ob_matrix *)&call->matrices[k];
        matrix->rows = at(matrix->rows), matrix->bias = at(matrix->bias);
        if (k == 0 || matrix->kind != OB_MATRIX_Q1_0 || !head[3]) continue; /* the embedding as it lies */
        void *scratch = aligned((size_t)(128 * (matrix->inputs / 128) * 18)), *panels = aligned((size_t)((matrix->outputs + 31) / 32 * 32 * (matrix->inputs / 128) * 18));
        isa->run_turn(matrix, panels, scratch);
        matrix->rows = panels, matrix->kind = OB_MATRIX_PANELS;
    }
    for (int64_t k = 0; k < 1 + 4 * call->layers; k++) ((const void **)call->norms)[k] = at(((const void *const *)call->norms)[k]);
    call->scratch = NULL;
    call->scratch = aligned((size_t)isa->run_decoder(call, 0, 1, NULL));
    call->logits = aligned((size_t)head[2] * 4);
    isa->run_decoder(call, 0, 1, NULL);
    FILE *answer = fopen(arguments[3], "wb");
    return !answer || fwrite(call->logits, 4, (size_t)head[2], answer) != (size_t)head[2] || fclose(answer) ? 5 : 0;
}
