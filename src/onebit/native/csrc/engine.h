/* Runs the kernel calls of a plan in order: included last by the file of each instruction set, which it ends
 * with ISA. */
#pragma once
#include "barrier.h"
#include "kernels.h"
#include "rounding_mode.h"
#if defined(__GNUC__)
#include "training/norm.h"
#include "training/surrogate.h"
#include "training/concrete.h"
#include "training/activation.h"
#include "training/update.h"
#if defined(__AVX2__)
#include "training/signs.h"
#include "training/product.h"
#include "training/dense_gradient.h"
#define LOOKING_UP(run) run
#endif
#include "decoder.h"
#define TRAINING(run) run
#else
#define TRAINING(run) NULL
#endif
#ifndef LOOKING_UP
#define LOOKING_UP(run) NULL
#endif

/* An input as a value, pixels in NHWC order. */
static void code_input(const ob_input *input, const uint8_t *images, int64_t count, uint32_t *arena) {
    const int64_t pixels = (int64_t)input->height * input->width, channels = input->channels,
                  size = pixels * channels;
    const int reals = input->coding == OB_CODING_REALS;
    for (int64_t n = 0; n < count; n++) {
        uint32_t *out = arena + input->place + n * input->size;
        const uint8_t *x = images + n * size * (reals ? 4 : 1);
        if (input->coding != OB_CODING_MOMENTS && (channels == 1 || pixels == 1))
            memcpy(out, x, (size_t)size * (reals ? 4 : 1));
        else if (reals)
            turn_units((const uint32_t *)x, pixels, channels, pixels, out, channels);
        else
            for (int c = 0; c < channels; c++, x += pixels)
                if (input->coding == OB_CODING_BYTES)
                    copy_bytes(x, 1, (uint8_t *)out + c, channels, pixels);
                else
                    for (int64_t k = 0; k < pixels; k++)
                        out[k * channels + c] = bits_of_float(((float)x[k] - input->mean[c]) / input->std[c]);
    }
}

/* `batch` of the inputs of `count` images as values, from image number `done` on. */
static void code_inputs(const ob_plan *plan, const uint8_t *images, int64_t count, int64_t done,
                        int64_t batch, uint32_t *arena) {
    for (int32_t k = 0; k < plan->input_count; k++) {
        const ob_input *input = &plan->inputs[k];
        const int64_t numbers = (int64_t)input->channels * input->height * input->width;
        const int64_t bytes = numbers * (input->coding == OB_CODING_REALS ? 4 : 1);
        code_input(input, images + done * bytes, batch, arena);
        images += (count * bytes + 3) / 4 * 4;
    }
}

#define OB_KERNEL_RUN(name, run, epilogue) [OB_KERNEL_##name] = run,
static int (*const kernels[])(const ob_call *, const share_t *, int64_t,
                              uint32_t *) = {OB_KERNELS(OB_KERNEL_RUN)};

static int64_t run_batches(const ob_plan *plan, const void *images, int64_t count, uint32_t *arena,
                           float *answers, int32_t part, int32_t parts, ob_barrier *barrier) {
    const share_t share = {.part = part, .parts = parts, .scratch = part * plan->scratch_units};
    int saw_nan = 0;
    for (int64_t done = 0; done < count; done += plan->batch) {
        int64_t batch = count - done < plan->batch ? count - done : plan->batch;
        if (part == 0) code_inputs(plan, images, count, done, batch, arena);
        if (!barrier_wait(barrier, &share)) return 0;
        for (int64_t k = 0; k < plan->call_count; k++) {
            saw_nan |= kernels[plan->calls[k].kernel](&plan->calls[k], &share, batch, arena);
            if (!barrier_wait(barrier, &share)) return 0;
        }
        float *answer = answers;
        for (int32_t k = 0; part == 0 && k < plan->output_count; k++) {
            const ob_output *output = &plan->outputs[k];
            memcpy(answer + done * output->size, arena + output->place, (size_t)(batch * output->size) * 4);
            answer += count * output->size;
        }
    }
    return saw_nan;
}

/* Outputs of images, batch by batch; returns 1 if the net took the sign of a NaN, else 0. */
static int64_t run_plan(const ob_plan *plan, const void *images, int64_t count, uint32_t *arena,
                        float *answers, int32_t part, int32_t parts, ob_barrier *barrier) {
    const rounding_mode_t mode = start_default_rounding();
    int64_t saw_nan = run_batches(plan, images, count, arena, answers, part, parts, barrier);
    set_rounding_mode(mode);
    return saw_nan;
}

/* What the file of an instruction set provides. */
#define ISA(text)                                          \
    {.name = text,                                         \
     .lanes = LANES,                                       \
     .lut_inputs = LUT_INPUTS,                             \
     .lut_groups = LUT_GROUPS,                             \
     .tile_rows = TILE_ROWS,                               \
     .tile_outputs = TILE_OUTPUTS,                         \
     .dense_words = DENSE_WORDS,                           \
     .row_units = ROW_UNITS,                               \
     .dot_fours = DOT_FOURS,                               \
     .dot_shift = DOT_SHIFT,                               \
     .dot_lut = DOT_LUT,                                   \
     .byte_tiles = BYTE_TILES,                             \
     .run = run_plan,                                      \
     .run_norm = TRAINING(run_norm),                       \
     .run_surrogate = TRAINING(run_surrogate),             \
     .run_activation = TRAINING(run_activation),           \
     .run_weight_gradient = RUN_WEIGHT_GRADIENT,           \
     .run_convolution = RUN_CONVOLUTION,                   \
     .run_concrete = TRAINING(run_concrete),               \
     .run_signs = LOOKING_UP(run_signs),                   \
     .run_product = LOOKING_UP(run_product),               \
     .run_dense_gradient = LOOKING_UP(run_dense_gradient), \
     .run_update = TRAINING(run_update),                   \
     .run_turn = TRAINING(run_turn),                       \
     .run_decoder = TRAINING(run_decoder)}
