/* The steps of a plan, one after the other; compiled once for each instruction set. */
#include <math.h>
#include <string.h>

#include "onebit.h"
#include "share.h"
#include "lines.h"
#include "moves.h"
#include "products.h"

/* uint8 (C, H, W) -> NHWC: 2x - 255, or (x - mean) / std; and as bytes. */
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

static int run_step(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    if (count < s->least || count > s->most) return 0;
    switch (s->step) {
    case OB_STEP_LINES:
    case OB_STEP_ADD:
    case OB_STEP_ADD_INT:
        return step_lines(s, share, count, arena);
    case OB_STEP_XNOR:
    case OB_STEP_BYTES:
        return step_words(s, share, count, arena);
    case OB_STEP_LUT:
        return s->tall ? lut_conv(s, share, count, arena) : lut_dense(s, share, count, arena);
    case OB_STEP_REAL:
        return step_real(s, share, count, arena);
    case OB_STEP_GRID:
        step_grid(s, share, count, arena);
        return 0;
    case OB_STEP_EXPAND:
        step_expand(s, share, count, arena);
        return 0;
    case OB_STEP_FILL:
        step_fill(s, share, count, arena);
        return 0;
    case OB_STEP_COPY:
        step_copy(s, share, count, arena);
        return 0;
    case OB_STEP_AVERAGE:
        step_average(s, share, count, arena);
        return 0;
    default:
        step_window(s, share, count, arena);
        return 0;
    }
}

/* Logits of images, batch by batch; returns 1 if the sign of a NaN was taken, else 0. */
static int64_t run_plan(const ob_plan *plan, const uint8_t *images, int64_t count, uint32_t *arena, float *output,
                        int32_t part, int32_t parts, ob_meeting *meeting) {
    const share_t share = {part, parts, part * plan->scratch_units};
    int64_t pixels = (int64_t)plan->channels * plan->height * plan->width;
    int bad = 0;
    for (int64_t done = 0; done < count; done += plan->batch) {
        int64_t batch = count - done < plan->batch ? count - done : plan->batch;
        if (part == 0) code_images(plan, images + done * pixels, batch, arena);
        if (!meet(meeting, &share)) return 0;
        for (int64_t k = 0; k < plan->step_count; k++) {
            bad |= run_step(&plan->steps[k], &share, batch, arena);
            if (!meet(meeting, &share)) return 0;
        }
        if (part == 0)
            memcpy(output + done * plan->output_size, arena + plan->output, (size_t)(batch * plan->output_size) * 4);
    }
    return bad;
}
