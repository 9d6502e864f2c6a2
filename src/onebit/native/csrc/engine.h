/* Runs the kernel calls of a plan in order; compiled once for each instruction set. */
#include <math.h>
#include <string.h>

#include "onebit.h"
#include "barrier.h"
#include "../plain/numbers.h"
#include "epilogue.h"
#include "moves.h"
#include "matmul.h"
#include "depthwise.h"

/* The input as the first value, pixels in NHWC order; and the same pixels as bytes. */
static void code_images(const ob_plan *plan, const void *images, int64_t count, uint32_t *arena) {
    const uint8_t *bytes = images;
    int64_t pixels = (int64_t)plan->height * plan->width, size = pixels * plan->channels;
    for (int64_t n = 0; n < count && plan->bytes >= 0; n++) {
        uint8_t *out = (uint8_t *)(arena + plan->bytes + n * plan->bytes_size);
        memset(out, 255, (size_t)plan->bytes_size * 4);
        for (int c = 0; c < plan->channels; c++)
            for (int64_t k = 0; k < pixels; k++) out[k * plan->byte_pixel + c] = bytes[n * size + c * pixels + k];
    }
    if (plan->input < 0) return;
    if (plan->coding == OB_CODING_REALS && (plan->channels == 1 || pixels == 1)) {
        memcpy(arena + plan->input, images, (size_t)(count * size) * 4);
        return;
    }
    for (int64_t n = 0; n < count; n++)
        for (int c = 0; c < plan->channels; c++) {
            int64_t from = n * size + c * pixels;
            const uint8_t *x = bytes + from;
            uint32_t *out = arena + plan->input + n * size + c;
            switch (plan->coding) {
            case OB_CODING_INTEGER:
                for (int64_t k = 0; k < pixels; k++) out[k * plan->channels] = (uint32_t)(2 * (int32_t)x[k] - 255);
                break;
            case OB_CODING_MOMENTS:
                for (int64_t k = 0; k < pixels; k++) {
                    float value = ((float)x[k] - plan->mean[c]) / plan->std[c];
                    memcpy(out + k * plan->channels, &value, 4);
                }
                break;
            case OB_CODING_VALUES:
                for (int64_t k = 0; k < pixels; k++) out[k * plan->channels] = x[k];
                break;
            case OB_CODING_REALS: {
                const uint32_t *reals = (const uint32_t *)images + from;
                for (int64_t k = 0; k < pixels; k++) out[k * plan->channels] = reals[k];
                break;
            }
            }
        }
}

static int run_call(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    if (count < call->min_batch || count > call->max_batch) return 0;
    switch (call->kernel) {
    case OB_KERNEL_POINTWISE:
    case OB_KERNEL_ADD:
    case OB_KERNEL_ADD_INT:
    case OB_KERNEL_MULTIPLY:
        return pointwise(call, share, count, arena);
    case OB_KERNEL_XNOR:
    case OB_KERNEL_BYTES:
        return matmul_words(call, share, count, arena);
    case OB_KERNEL_LUT:
        return call->table_rows ? lut_conv(call, share, count, arena) : lut_dense(call, share, count, arena);
    case OB_KERNEL_REAL:
        return matmul_real(call, share, count, arena);
    case OB_KERNEL_DEPTHWISE:
    case OB_KERNEL_DEPTHWISE_REAL:
        return depthwise(call, share, count, arena);
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

/* Outputs of images, batch by batch; returns 1 if the net took the sign of a NaN, else 0. */
static int64_t run_plan(const ob_plan *plan, const void *images, int64_t count, uint32_t *arena, float *answers,
                        int32_t part, int32_t parts, ob_barrier *barrier) {
    const share_t share = {part, parts, part * plan->scratch_units};
    int64_t bytes = (int64_t)plan->channels * plan->height * plan->width * (plan->coding == OB_CODING_REALS ? 4 : 1);
    int saw_nan = 0;
    for (int64_t done = 0; done < count; done += plan->batch) {
        int64_t batch = count - done < plan->batch ? count - done : plan->batch;
        if (part == 0) code_images(plan, (const char *)images + done * bytes, batch, arena);
        if (!barrier_wait(barrier, &share)) return 0;
        for (int64_t k = 0; k < plan->call_count; k++) {
            saw_nan |= run_call(&plan->calls[k], &share, batch, arena);
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
