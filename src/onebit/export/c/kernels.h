/* Kernels of exported nets: loops over the channels of one pixel. What a net needs of this file, memory.h, numbers.h and
 * tables.h goes into its net.c, piece by piece. A piece is a comment and the code under it, up to a blank line; a net
 * without real numbers gets `value_t` without the float. */

/* A sum that may not fit 32 bits. */
typedef int64_t SHARED wide_t;

/* The grid of real values: they are rounded to integers times `unit`, 1 / power; power is 0 if they are not finite. */
typedef struct {
    float power, unit;
} grid_t;

/* Two values on a grid: their difference and their sum. */
typedef struct {
    int32_t difference, sum;
    float unit;
} levels_t;

/* A sliding window on the rows and columns of an image, or of a group of its channels; `steps`: between channels, rows and
 * columns in memory. */
typedef struct {
    int32_t channels, height, width, kernel[2], stride[2], dilation[2], padding[2], steps[3];
} window_t;

/* Inputs that are multiplied by weights at once: the sums of 96 numbers of a grid fit 32 bits. */
enum { PART = 96 };

/* Inputs of a part. */
static value_t part[PART];

/* Rounds values to their grid; `in` may be `x`. */
static void to_grid(const value_t *in, int32_t count, float power, value_t *x) {
    for (int32_t k = 0; k < count; k++) x[k].i = power > 0 ? rounded(in[k].f * power) : 0;
}

/* Where the pixel under tap (a, b) of the window at (i, j) is in memory; -1 outside the image. */
static int32_t pixel_under(const window_t *w, int32_t i, int32_t j, int32_t a, int32_t b) {
    int32_t row = i * w->stride[0] + a * w->dilation[0] - w->padding[0];
    int32_t at = j * w->stride[1] + b * w->dilation[1] - w->padding[1];
    if (row < 0 || row >= w->height || at < 0 || at >= w->width) return -1;
    return row * w->steps[1] + at * w->steps[2];
}

/* The same for a transposed convolution: the pixel whose tap (a, b) is added to (i, j); -1 if there is none. */
static int32_t pixel_over(const window_t *w, int32_t i, int32_t j, int32_t a, int32_t b) {
    int32_t row = i + w->padding[0] - a * w->dilation[0], at = j + w->padding[1] - b * w->dilation[1];
    if (row < 0 || row % w->stride[0] || at < 0 || at % w->stride[1]) return -1;
    row /= w->stride[0], at /= w->stride[1];
    return row < w->height && at < w->width ? row * w->steps[1] + at * w->steps[2] : -1;
}

/* The values under the window at (i, j), pixel by pixel; `outside` is padding. `kept` columns of the window are moved: they
 * were under the window before. */
static void gather(const window_t *w, load_t *load, const void *from, int32_t first, int32_t i, int32_t j, value_t outside,
                   int32_t kept, value_t *column) {
    for (int32_t a = 0; a < w->kernel[0]; a++) {
        for (int32_t n = kept * w->channels; n > 0; n--, column++) column[0] = column[w->stride[1] * w->channels];
        for (int32_t b = kept; b < w->kernel[1]; b++, column += w->channels) {
            int32_t pixel = pixel_under(w, i, j, a, b);
            if (pixel >= 0)
                load(from, first + pixel, w->steps[0], w->channels, column);
            else
                for (int32_t c = 0; c < w->channels; c++) column[c] = outside;
        }
    }
}

/* The same of real values, rounded to their grid. */
static void gather_grid(const window_t *w, load_t *load, const void *from, int32_t first, int32_t i, int32_t j,
                        value_t outside, int32_t kept, float power, value_t *column) {
    for (int32_t a = 0; a < w->kernel[0]; a++) {
        for (int32_t n = kept * w->channels; n > 0; n--, column++) column[0] = column[w->stride[1] * w->channels];
        for (int32_t b = kept; b < w->kernel[1]; b++, column += w->channels) {
            int32_t pixel = pixel_under(w, i, j, a, b);
            if (pixel >= 0) {
                load(from, first + pixel, w->steps[0], w->channels, column);
                to_grid(column, w->channels, power, column);
            } else
                for (int32_t c = 0; c < w->channels; c++) column[c] = outside;
        }
    }
}

/* The bytes under the windows at (i, j) and (i, j + 1), in the lower and the upper half of each value, so that both are summed
 * at once. `flip` is 128 for int8, 0 for uint8. */
static void gather_pair(const window_t *w, const void *from, int32_t first, int32_t i, int32_t j, const uint8_t *outside,
                        int32_t kept, int32_t flip, value_t *column) {
    const int32_t channels = w->channels, moved = 2 * w->stride[1] * channels;
    for (int32_t a = 0; a < w->kernel[0]; a++) {
        for (int32_t n = kept * channels; n > 0; n--, column++) column[0] = column[moved];
        for (int32_t b = kept; b < w->kernel[1]; b++) {
            const int32_t left = pixel_under(w, i, j, a, b), right = pixel_under(w, i, j + 1, a, b);
            const uint8_t *low = left < 0 ? outside : (const uint8_t *)from + first + left;
            const uint8_t *high = right < 0 ? outside : (const uint8_t *)from + first + right;
            const int32_t low_step = left < 0 ? 0 : w->steps[0], high_step = right < 0 ? 0 : w->steps[0];
            for (int32_t c = 0; c < channels; c++, low += low_step, high += high_step, column++)
                column->i = (*low ^ flip) - flip + ((*high ^ flip) - flip) * 65536;
        }
    }
}

/* The values that a transposed convolution adds up at (i, j), pixel by pixel. */
static void gather_transposed(const window_t *w, load_t *load, const void *from, int32_t first, int32_t i, int32_t j,
                              value_t *column) {
    for (int32_t a = 0; a < w->kernel[0]; a++)
        for (int32_t b = 0; b < w->kernel[1]; b++, column += w->channels) {
            int32_t pixel = pixel_over(w, i, j, a, b);
            if (pixel >= 0)
                load(from, first + pixel, w->steps[0], w->channels, column);
            else
                for (int32_t c = 0; c < w->channels; c++) column[c].i = 0;
        }
}

/* The signs under the window at (i, j), whole bytes of each pixel, and where they are inside the image. */
static void gather_signs(const window_t *w, const uint8_t *from, int32_t first, int32_t i, int32_t j, uint8_t outside,
                         uint8_t *column, uint8_t *inside) {
    for (int32_t a = 0; a < w->kernel[0]; a++)
        for (int32_t b = 0; b < w->kernel[1]; b++) {
            int32_t pixel = pixel_under(w, i, j, a, b);
            for (int32_t c = 0; c < w->channels / 8; c++) {
                *column++ = pixel >= 0 ? from[(first + pixel) / 8 + c] : outside;
                *inside++ = pixel >= 0 ? 255 : 0;
            }
        }
}

/* The grid of `count` values; it includes `largest`, a magnitude. */
static grid_t grid_of(const value_t *x, int32_t count, float largest) {
    uint32_t most = bits_of_float(largest);
    grid_t grid = {0, 0};
    for (int32_t k = 0; k < count; k++) {
        uint32_t magnitude = (uint32_t)x[k].i & 0x7fffffffu;
        if (magnitude > most) most = magnitude;
    }
    grid.unit = float_of_bits(0x7fc00000u); /* NaN */
    if (most < 0x7f800000u) grid.power = power_of_two(grid_exponent(most)), grid.unit = power_of_two(-grid_exponent(most));
    return grid;
}

/* Four bytes as a word. */
static inline uint32_t word_at(const uint8_t *x) {
    return x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 | (uint32_t)x[3] << 24;
}

/* The sum of the table entries that `count` groups of 4 bits choose. */
static int32_t chosen(const int32_t *tables, const uint8_t *bits, int32_t count) {
    int32_t sum = 0;
    for (; count >= 8; count -= 8, bits += 4, tables += 128) {
        uint32_t w = word_at(bits);
        sum += tables[w & 15] + tables[16 + (w >> 4 & 15)] + tables[32 + (w >> 8 & 15)] + tables[48 + (w >> 12 & 15)];
        sum += tables[64 + (w >> 16 & 15)] + tables[80 + (w >> 20 & 15)] + tables[96 + (w >> 24 & 15)] + tables[112 + (w >> 28)];
    }
    for (int32_t k = 0; k < count; k++) sum += tables[16 * k + (bits[k / 2] >> k % 2 * 4 & 15)];
    return sum;
}

/* How many inputs the part has that begins at input k. */
static int32_t part_size(int32_t terms, int32_t k) { return terms - k < PART ? terms - k : PART; }

/* Tables of the sums of 4 inputs, for a part of them. */
static int32_t tables[PART * 4];

/* Rows of signs times a part of the inputs, which begins at input k: added to the sums of the rows. */
static void one_bit(const value_t *x, int32_t k, int32_t terms, const uint8_t *rows, int32_t outputs, value_t *sums) {
    int32_t count = part_size(terms, k);
    lut_tables(&x->i, count, tables);
    rows += k / 8;
    for (int32_t o = 0; o < outputs; o++, rows += (terms + 7) / 8) {
        int32_t sum = chosen(tables, rows, (count + 3) / 4);
        sums[o].i = k ? sums[o].i + sum : sum;
    }
}

/* Inputs of a pair that are multiplied by weights at once: sums of 256 bytes fit 16 bits. */
enum { PAIR_PART = 256 };

/* Four sums: with and without each of two inputs. */
static inline void with_two(uint32_t sum, uint32_t a, uint32_t b, uint32_t both, value_t *table) {
    table[0].i = (int32_t)sum, table[1].i = (int32_t)(sum + a), table[2].i = (int32_t)(sum + b);
    table[3].i = (int32_t)(sum + both);
}

/* The sums of each choice of 4 inputs, for groups of inputs; returns the sum of all inputs. */
static uint32_t pair_tables(const value_t *x, int32_t groups, value_t *choices) {
    uint32_t total = 0;
    for (; groups > 0; groups--, x += 4, choices += 16) {
        const uint32_t a = (uint32_t)x[0].i, b = (uint32_t)x[1].i, c = (uint32_t)x[2].i, d = (uint32_t)x[3].i, both = a + b;
        with_two(0, a, b, both, choices), with_two(c, a, b, both, choices + 4);
        with_two(d, a, b, both, choices + 8), with_two(c + d, a, b, both, choices + 12);
        total += both + c + d;
    }
    return total;
}

/* The halves of a number; each is from -bias to 65535 - bias. */
static inline void halves_of(uint32_t number, int32_t bias, int32_t *low, int32_t *high) {
    *low = (int32_t)((number + (uint32_t)bias) & 0xffff) - bias;
    *high = (int32_t)((((number - (uint32_t)*low) >> 16) + (uint32_t)bias) & 0xffff) - bias;
}

/* Rows of signs times a part of a pair, which begins at input k. Each word has 4 bits of each of 8 rows: the inputs that are
 * added; the others are subtracted. The sums of the two pixels are `channels` apart. */
static void one_bit_pair(const value_t *x, int32_t k, int32_t terms, const uint32_t *words, int32_t outputs, int32_t channels,
                         int32_t flip, value_t *choices, value_t *sums) {
    const int32_t bias = 256 * flip, groups = ((terms - k < PAIR_PART ? terms - k : PAIR_PART) + 3) / 4;
    int32_t totals[2];
    halves_of(pair_tables(x, groups, choices), bias, &totals[0], &totals[1]);
    words += k / 4;
    for (int32_t o = 0; o < outputs; o += 8, words += (terms + 3) / 4) {
        uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        const value_t *table = choices;
        for (const uint32_t *at = words; at < words + groups; at++, table += 16) {
            const uint32_t w = *at;
            s0 += table[w & 15].i, s1 += table[w >> 4 & 15].i, s2 += table[w >> 8 & 15].i, s3 += table[w >> 12 & 15].i;
            s4 += table[w >> 16 & 15].i, s5 += table[w >> 20 & 15].i, s6 += table[w >> 24 & 15].i, s7 += table[w >> 28].i;
        }
        const uint32_t found[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
        for (int32_t n = 0; n < 8; n++, sums++) {
            int32_t low, high;
            halves_of(found[n], bias, &low, &high);
            sums[0].i = 2 * low - totals[0] + (k ? sums[0].i : 0);
            sums[channels].i = 2 * high - totals[1] + (k ? sums[channels].i : 0);
        }
    }
}

/* The same for values on a grid: a part of them fits 32 bits, a whole row does not. */
static void one_bit_wide(const value_t *x, int32_t k, int32_t terms, const uint8_t *rows, int32_t outputs, wide_t *sums) {
    int32_t count = part_size(terms, k);
    lut_tables(&x->i, count, tables);
    rows += k / 8;
    for (int32_t o = 0; o < outputs; o++, rows += (terms + 7) / 8) {
        int32_t sum = chosen(tables, rows, (count + 3) / 4);
        sums[o] = k ? sums[o] + sum : sum;
    }
}

/* Rows of integer weights times a part of the inputs, which begins at input k: added to the sums of the rows. */
static void products(const value_t *x, int32_t k, int32_t terms, const int32_t *rows, int32_t outputs, wide_t *sums) {
    int32_t count = part_size(terms, k);
    rows += k;
    for (int32_t o = 0; o < outputs; o++, rows += terms) {
        int64_t sum = 0;
        for (int32_t n = 0; n < count; n++) sum += (int64_t)x[n].i * rows[n];
        sums[o] = k ? sums[o] + sum : sum;
    }
}

/* Rows of signs times signs: +1 for each that is equal, -1 for each that differs. */
static void signs_dot(const uint8_t *x, int32_t terms, const uint8_t *rows, int32_t outputs, value_t *sums) {
    int32_t bytes = (terms + 7) / 8;
    for (int32_t o = 0; o < outputs; o++, rows += bytes) {
        uint32_t differing = 0;
        int32_t k = 0;
        for (; k + 4 <= bytes; k += 4) differing += ones(word_at(x + k) ^ word_at(rows + k));
        for (; k < bytes; k++) differing += ones((uint32_t)x[k] ^ rows[k]);
        sums[o].i = terms - 2 * (int32_t)differing;
    }
}

/* The same where `inside` has a 1; the other signs are padding of 0. */
static void signs_dot_inside(const uint8_t *x, const uint8_t *inside, int32_t terms, const uint8_t *rows, int32_t outputs,
                             value_t *sums) {
    int32_t bytes = (terms + 7) / 8, count = 0;
    for (int32_t k = 0; k < bytes; k++) count += (int32_t)ones(inside[k]);
    for (int32_t o = 0; o < outputs; o++, rows += bytes) {
        uint32_t differing = 0;
        int32_t k = 0;
        for (; k + 4 <= bytes; k += 4) differing += ones((word_at(x + k) ^ word_at(rows + k)) & word_at(inside + k));
        for (; k < bytes; k++) differing += ones(((uint32_t)x[k] ^ rows[k]) & inside[k]);
        sums[o].i = count - 2 * (int32_t)differing;
    }
}

/* A sum on a grid, rounded once either way: double holds sums of up to 2^28 values exactly; small ones take less time. */
static inline float float_of_sum(int64_t sum) { return sum == (int32_t)sum ? (float)(int32_t)sum : (float)(double)sum; }

/* The sums of rows of signs where `inside` has a 1; `whole` has those of whole rows. */
static void sums_inside(const uint8_t *inside, int32_t terms, const uint8_t *rows, int32_t outputs, const int32_t *whole,
                        int32_t *sums) {
    int32_t k = 0;
    while (k < terms / 8 && inside[k] == 255) k++;
    if (k < terms / 8)
        signs_dot_inside(inside, inside, terms, rows, outputs, (value_t *)sums);
    else
        for (int32_t o = 0; o < outputs; o++) sums[o] = whole[o];
}

/* Signs that mean `low` and `high`, on the grid of those that are there; one that is not counts as the other. */
static levels_t levels_of(const uint8_t *signs, int32_t count, float low, float high) {
    int32_t positive = 0;
    for (int32_t k = 0; k < count; k++) positive += signs[k / 8] >> k % 8 & 1;
    if (positive == count) low = high;
    if (positive == 0) high = low;
    levels_t levels;
    levels_on_grid(low, high, &levels.difference, &levels.sum, &levels.unit);
    return levels;
}

/* Sums of signs as those of their levels, which are (difference * sign + sum) / 2. totals: the sums of the weights. */
static void levels_real(value_t *x, int32_t count, const levels_t *levels, const int32_t *totals) {
    for (int32_t k = 0; k < count; k++) {
        int64_t sum = ((int64_t)levels->difference * x[k].i + (int64_t)levels->sum * totals[k]) / 2;
        x[k].f = float_of_sum(sum) * levels->unit;
    }
}

/* The sum of values. */
static int64_t total_of(const value_t *x, int32_t count) {
    int64_t total = 0;
    for (int32_t k = 0; k < count; k++) total += x[k].i;
    return total;
}

/* Sums on a grid as real values; they may share their memory. */
static void grid_real(const wide_t *sums, int32_t count, float unit, value_t *x) {
    for (int32_t k = 0; k < count; k++) {
        x[k].f = float_of_sum(sums[k]) * unit;
    }
}

/* A dense layer of one-bit weights on real values. */
static void dense(const value_t *in, int32_t terms, const uint8_t *rows, int32_t outputs, value_t *x) {
    const grid_t grid = grid_of(in, terms, 0);
    for (int32_t k = 0; k < terms; k += PART) {
        to_grid(in + k, part_size(terms, k), grid.power, part);
        one_bit_wide(part, k, terms, rows, outputs, (wide_t *)x);
    }
    grid_real((const wide_t *)x, outputs, grid.unit, x);
}

/* Sums of products as real values; they may share their memory. */
static void wide_real(const wide_t *sums, int32_t count, float unit, value_t *x) {
    for (int32_t k = 0; k < count; k++) x[k].f = (float)sums[k] * unit;
}

/* Integers as real values. */
static void real(value_t *x, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].f = (float)x[k].i;
}

static void scale_by(value_t *x, int32_t count, const float *by) {
    for (int32_t k = 0; k < count; k++) x[k].f *= by[k];
}

/* Adds the sum of the inputs times `by`. */
static void center(value_t *x, int32_t count, float total, const float *by) {
    for (int32_t k = 0; k < count; k++) {
        /* the product of two floats is exact in double: no compiler can round it together with the sum */
        float product = (float)((double)total * by[k]);
        x[k].f += product;
    }
}

/* x * y + z, rounded once, where a processor has that for float but no double; else 0. */
static float fused(float x, float y, float z) {
#if defined(__GNUC__) && defined(__ARM_FEATURE_FMA) && defined(__ARM_FP) && !(__ARM_FP & 8)
    __asm__("vfma.f32 %0, %1, %2" : "+t"(z) : "t"(x), "t"(y)); /* clang makes a call of __builtin_fmaf */
    return z;
#else
    (void)x, (void)y, (void)z;
    return 0;
#endif
}

/* affine_of a real value, in a fifth of the time where fused is not 0. That is the same number unless double rounds the sum to
 * the middle of two floats: so sums near the middle are computed in double. */
static float affine_real(float x, float by, float shift) {
    float y = fused(x, by, shift);
    uint32_t bits = bits_of_float(y), exponent = bits >> 23 & 255;
    if (bits << 9 && exponent - 61 < 193) { /* with a float on either side that is equally near */
        float rest = shift - y, back = rest + y, lost = (shift - back) - (y - (back - rest));
        float error = fused(x, by, rest) + lost; /* of y */
        float half = float_of_bits(((exponent - 24) << 23) - 1000); /* of the way to the next float, a little less */
        if ((error < 0 ? -error : error) < half) return y;
    }
    return affine_of(x, by, shift);
}

static void affine(value_t *x, int32_t count, const float *by, const float *shift) {
    for (int32_t k = 0; k < count; k++) x[k].f = affine_real(x[k].f, by[k], shift[k]);
}

static void shift_by(value_t *x, int32_t count, const float *by) {
    for (int32_t k = 0; k < count; k++) x[k].f += by[k];
}

static void affine_integers(value_t *x, int32_t count, const float *by, const float *shift) {
    for (int32_t k = 0; k < count; k++) x[k].f = affine_of(x[k].i, by[k], shift[k]);
}

static void scale_integers_by(value_t *x, int32_t count, const float *by) {
    for (int32_t k = 0; k < count; k++) x[k].f = (float)((double)x[k].i * by[k]);
}

static void shift_integers_by(value_t *x, int32_t count, const float *by) {
    for (int32_t k = 0; k < count; k++) x[k].f = (float)((double)x[k].i + by[k]);
}

static void relu(value_t *x, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].f = relu_of(x[k].f);
}

static void clamp_integers(value_t *x, int32_t count, int32_t low, int32_t high) {
    for (int32_t k = 0; k < count; k++) x[k].i = clamp_int(x[k].i, low, high);
}

static void quantize(value_t *x, int32_t count, int32_t least, int32_t most) {
    for (int32_t k = 0; k < count; k++) x[k].i = quantized(x[k].f, least, most);
}

/* The sums of `offset` and products; multipliers are `step` apart, 0 if they are equal. The sums may replace `offset`. */
static void weighted(const value_t *x, int32_t count, const int32_t *multiplier, int32_t step, const wide_t *offset,
                     wide_t *totals) {
    for (int32_t k = 0; k < count; k++, multiplier += step) totals[k] = offset[k] + (int64_t)*multiplier * x[k].i;
}

/* Products and `offset`, divided by 2^shift and rounded down, from least to most. */
static void requantize(value_t *x, int32_t count, const int32_t *multiplier, int32_t step, const wide_t *offset, int32_t shift,
                       int32_t least, int32_t most) {
    for (int32_t k = 0; k < count; k++, multiplier += step)
        x[k].i = requantized(offset[k] + (int64_t)*multiplier * x[k].i, shift, least, most);
}

static void prelu(value_t *x, int32_t count, const float *slope) {
    for (int32_t k = 0; k < count; k++) x[k].f = prelu_of(x[k].f, slope[k]);
}

static void activate(value_t *x, int32_t count, float (*activation_of)(float)) {
    for (int32_t k = 0; k < count; k++) x[k].f = activation_of(x[k].f);
}

static void clamp(value_t *x, int32_t count, float low, float high) {
    for (int32_t k = 0; k < count; k++) x[k].f = clamp_of(x[k].f, low, high);
}

static void at_least(value_t *x, int32_t count, float low) {
    for (int32_t k = 0; k < count; k++) x[k].f = x[k].f < low ? low : x[k].f;
}

static void at_most(value_t *x, int32_t count, float high) {
    for (int32_t k = 0; k < count; k++) x[k].f = x[k].f > high ? high : x[k].f;
}

/* Signs: +1 where x >= least, or where the bit of `flips` is 1, -1 - x >= least. */
static void threshold(value_t *x, int32_t count, const int32_t *least, const uint8_t *flips) {
    for (int32_t k = 0; k < count; k++) {
        int32_t flip = -(int32_t)(flips[k / 8] >> k % 8 & 1);
        x[k].i = threshold_of(x[k].i, flip, least[k]) ? 1 : -1;
    }
}

/* Signs: +1 where x >= least. */
static void rising(value_t *x, int32_t count, const int32_t *least) {
    for (int32_t k = 0; k < count; k++) x[k].i = threshold_of(x[k].i, 0, least[k]) ? 1 : -1;
}

static void sign(value_t *x, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].i = x[k].f >= 0 ? 1 : -1;
}

static void sign_shifted(value_t *x, int32_t count, const float *shift) {
    for (int32_t k = 0; k < count; k++) x[k].i = x[k].f >= shift[k] ? 1 : -1;
}

static void sign_integers(value_t *x, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].i = x[k].i >= 0 ? 1 : -1;
}

static void sign_integers_shifted(value_t *x, int32_t count, const float *shift) {
    for (int32_t k = 0; k < count; k++) x[k].i = (double)x[k].i >= shift[k] ? 1 : -1;
}

static void add(value_t *x, const value_t *y, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].f += y[k].f;
}

static void add_integers(value_t *x, const value_t *y, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].i += y[k].i;
}

static void multiply(value_t *x, const value_t *y, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].f *= y[k].f;
}

static void larger(value_t *x, const value_t *y, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].f = larger_of(x[k].f, y[k].f);
}

static void larger_integers(value_t *x, const value_t *y, int32_t count) {
    for (int32_t k = 0; k < count; k++)
        if (y[k].i > x[k].i) x[k].i = y[k].i;
}

/* -0 becomes 0: neither is the larger. */
static void no_negative_zero(value_t *x, int32_t count) {
    for (int32_t k = 0; k < count; k++) x[k].f += 0.0f;
}

static void divide(value_t *x, int32_t count, float by) {
    for (int32_t k = 0; k < count; k++) x[k].f /= by;
}

static void standardize(value_t *x, int32_t count, const float *mean, const float *deviation) {
    for (int32_t k = 0; k < count; k++) x[k].f = ((float)x[k].i - mean[k]) / deviation[k];
}

/* Combines the pixels of the window at (i, j); x holds the first one, or if `begun` what the others are combined with. */
static void pool(const window_t *w, load_t *load, const void *from, int32_t first, int32_t i, int32_t j,
                 void (*combine)(value_t *x, const value_t *y, int32_t count), int32_t begun, value_t *x, value_t *y) {
    for (int32_t a = 0; a < w->kernel[0]; a++)
        for (int32_t b = 0; b < w->kernel[1]; b++) {
            int32_t pixel = pixel_under(w, i, j, a, b);
            if (pixel < 0) continue;
            load(from, first + pixel, w->steps[0], w->channels, begun ? y : x);
            if (begun) combine(x, y, w->channels);
            begun = 1;
        }
}

/* Averages of rows top to bottom - 1 and columns left to right - 1: sums down each column, then across. */
static void average(load_t *load, const void *from, int32_t first, const int32_t *steps, int32_t channels, int32_t top,
                    int32_t bottom, int32_t left, int32_t right, value_t *x) {
    for (int32_t c = 0; c < channels; c++) {
        double total = 0, down = 0;
        for (int32_t column = left; column < right; column++) {
            for (int32_t row = top; row < bottom; row++) {
                load(from, first + c * steps[0] + row * steps[1] + column * steps[2], 1, 1, x + c);
                down = row == top ? x[c].f : down + x[c].f;
            }
            total = column == left ? down : total + down;
        }
        x[c].f = (float)total / (float)((bottom - top) * (right - left));
    }
}

/* The same of integers. */
static void average_integers(load_t *load, const void *from, int32_t first, const int32_t *steps, int32_t channels, int32_t top,
                             int32_t bottom, int32_t left, int32_t right, value_t *x) {
    for (int32_t c = 0; c < channels; c++) {
        int64_t total = 0;
        for (int32_t row = top; row < bottom; row++)
            for (int32_t column = left; column < right; column++) {
                load(from, first + c * steps[0] + row * steps[1] + column * steps[2], 1, 1, x + c);
                total += x[c].i;
            }
        x[c].f = (float)total / (float)((bottom - top) * (right - left));
    }
}
