/* Runs the kernel calls of a plan in order; compiled once for each instruction set. */
#include <math.h>
#include <string.h>

#include "onebit.h"
#include "barrier.h"
#include "epilogue.h"
#include "moves.h"
#include "matmul.h"

/* The input coding: uint8 (C, H, W) -> NHWC of 2x - 255 or (x - mean) / std; and the same pixels as bytes. */
static void code_images(const ob_plan *plan, const uint8_t *images, int64_t count, uint32_t *arena) {
    int64_t pixels = (int64_t)plan->height * plan->width, size = pixels * plan->channels;
    for (int64_t n = 0; n < count && plan->bytes >= 0; n++) {
        uint8_t *out = (uint8_t *)(arena + plan->bytes + n * plan->bytes_size);
        memset(out, 255, (size_t)plan->bytes_size * 4);
        for (int c = 0; c < plan->channels; c++)
            for (int64_t k = 0; k < pixels; k++) out[k * plan->byte_pixel + c] = images[n * size + c * pixels + k];
    }
    for (int64_t n = 0; n < count && plan->input >= 0; n++)
        for (int c = 0; c < plan->channels; c++) {
            const uint8_t *x = images + n * size + c * pixels;
            uint32_t *out = arena + plan->input + n * size + c;
            if (plan->mean)
                for (int64_t k = 0; k < pixels; k++) {
                    float value = ((float)x[k] - plan->mean[c]) / plan->std[c];
                    memcpy(out + k * plan->channels, &value, 4);
                }
            else
                for (int64_t k = 0; k < pixels; k++) out[k * plan->channels] = (uint32_t)(2 * (int32_t)x[k] - 255);
        }
}

static int run_call(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    if (count < call->min_batch || count > call->max_batch) return 0;
    switch (call->kernel) {
    case OB_KERNEL_POINTWISE:
    case OB_KERNEL_ADD:
    case OB_KERNEL_ADD_INT:
        return pointwise(call, share, count, arena);
    case OB_KERNEL_XNOR:
    case OB_KERNEL_BYTES:
        return matmul_words(call, share, count, arena);
    case OB_KERNEL_LUT:
        return call->table_rows ? lut_conv(call, share, count, arena) : lut_dense(call, share, count, arena);
    case OB_KERNEL_REAL:
        return matmul_real(call, share, count, arena);
    case OB_KERNEL_GRID:
        to_grid(call, share, count, arena);
        return 0;
    case OB_KERNEL_EXPAND:
        expand_bits(call, share, count, arena);
        return 0;
    case OB_KERNEL_FILL:
        fill(call, share, count, arena);
        return 0;
    case OB_KERNEL_COPY:
        copy_box(call, share, count, arena);
        return 0;
    case OB_KERNEL_AVERAGE:
        adaptive_average(call, share, count, arena);
        return 0;
    default:
        pool_windows(call, share, count, arena);
        return 0;
    }
}

/* Logits of images, batch by batch; returns 1 if the net took the sign of a NaN, else 0. */
static int64_t run_plan(const ob_plan *plan, const uint8_t *images, int64_t count, uint32_t *arena, float *output,
                        int32_t part, int32_t parts, ob_barrier *barrier) {
    const share_t share = {part, parts, part * plan->scratch_units};
    int64_t pixels = (int64_t)plan->channels * plan->height * plan->width;
    int saw_nan = 0;
    for (int64_t done = 0; done < count; done += plan->batch) {
        int64_t batch = count - done < plan->batch ? count - done : plan->batch;
        if (part == 0) code_images(plan, images + done * pixels, batch, arena);
        if (!barrier_wait(barrier, &share)) return 0;
        for (int64_t k = 0; k < plan->call_count; k++) {
            saw_nan |= run_call(&plan->calls[k], &share, batch, arena);
            if (!barrier_wait(barrier, &share)) return 0;
        }
        if (part == 0)
            memcpy(output + done * plan->output_size, arena + plan->output, (size_t)(batch * plan->output_size) * 4);
    }
    return saw_nan;
}
