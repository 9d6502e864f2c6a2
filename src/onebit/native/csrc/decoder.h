/* A llama or a qwen3, all layers in one call: see ob_decoder, and onebit.language.reference, which has the
 * same bits.
 *
 * Threads take pieces of each phase until none is left, then wait for each other. Every number is computed in
 * an order of its own, whatever thread takes it and however many tokens come at once. Multiplications and
 * additions are rounded one by one. */
#pragma once
#include "barrier.h"
#include "rounding_mode.h"
#include "sign_tables.h"

#define QUERIES 4 /* at once: a key is converted once for all */
#define KEYS 16   /* positions of a block of keys, which are [block][number][position in the block] */
#define SEGMENT                                                                                             \
    OB_SEGMENT /* positions of [layer][head]: memory grows with the text, values fit a cache, sums of bytes \
                  32 bits */
#define EACH_QUERY _Pragma("GCC unroll 4") for (int m = 0; m < M; m++)

/* Inputs of products: rows of reals, and the same rounded. */
typedef struct {
    float *reals;
    rounded_t rounded;
} inputs_t;

typedef struct {
    float *x, *q, *k, *v, *y, *up;
    inputs_t h, gate;
    float *scores, *row; /* of this thread */
    int16_t *integers;   /* of this thread, too: rounded queries or scores */
    int64_t h_row, kv_row, score_row;
} rooms_t;

typedef struct {
    ob_decoder *call;
    ob_barrier *barrier;
    share_t share;
    rooms_t rooms;
    int64_t begin, end;
    int phase;
} decoder_t;

static int64_t whole(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

static void *room(char **at, int64_t bytes) {
    void *begin = *at;
    *at += whole(bytes, 64);
    return begin;
}

/* Divides the scratch memory; returns its size. */
static int64_t divide_rooms(const ob_decoder *call, rooms_t *to, int32_t part) {
    char *at = call->scratch, *first = at;
    const int64_t rows = call->row_limit, all = call->heads * call->head_size,
                  widest_of_two = call->width > all ? call->width : all;
    const int64_t widest = call->inner > widest_of_two ? call->inner : widest_of_two,
                  blocks = widest / SIGN_BLOCK + 1;
    to->h_row = widest, to->kv_row = whole(call->kv_heads * call->head_size, PANEL_ROWS);
    to->score_row = whole(call->context, KEYS);
    to->x = room(&at, rows * call->width * 4), to->y = room(&at, rows * call->width * 4);
    to->q = room(&at, rows * all * 4), to->up = room(&at, rows * widest * 4);
    to->k = room(&at, rows * to->kv_row * 4), to->v = room(&at, rows * to->kv_row * 4);
    for (int k = 0; k < 2; k++) {
        inputs_t *inputs = k ? &to->gate : &to->h;
        inputs->reals = room(&at, rows * widest * 4),
        inputs->rounded.tables = room(&at, rows * blocks * TABLE_BYTES);
        inputs->rounded.units = room(&at, rows * blocks * 4),
        inputs->rounded.masses = room(&at, rows * blocks * 2);
    }
    for (int32_t k = 0; k < call->parts; k++) {
        float *scores = room(&at, QUERIES * to->score_row * 4), *row = room(&at, widest * 4);
        int16_t *integers = room(&at, QUERIES * (to->score_row + call->head_size) * 2);
        if (k == part) to->scores = scores, to->row = row, to->integers = integers;
    }
    return at - first;
}

/* The next piece of `count` units of this phase, whole `unit`s; 0 if none is left. */
static int next_piece(decoder_t *d, int64_t count, int64_t unit) {
    const int64_t parts = d->share.parts, piece = parts == 1 ? count : whole(count / (4 * parts) + 1, unit);
    d->begin = __atomic_fetch_add(&d->call->taken[d->phase % 3], (int32_t)piece, __ATOMIC_RELAXED);
    d->end = d->begin + piece < count ? d->begin + piece : count;
    return d->begin < count;
}

/* Waits for all threads; 0 if some thread was stopped. The counter of the next phase was last used two phases
 * ago. */
static int end_phase(decoder_t *d) {
    if (d->share.part == 0) d->call->taken[(d->phase + 1) % 3] = 0;
    d->phase++;
    return barrier_wait(d->barrier, &d->share);
}

/* ---- numbers ---- */

ALWAYS void store_lanes(float *to, floats_t x) { memcpy(to, &x, sizeof x); }

ALWAYS floats_t chosen_lanes(words_t mask, floats_t x, floats_t y) {
    return (floats_t)(((words_t)x & mask) | ((words_t)y & ~mask));
}

/* exp of numbers from -87 to 88, which others become. */
ALWAYS floats_t exp_lanes(floats_t x) {
    const floats_t least = all_lanes(-87), most = all_lanes(88);
    x = chosen_lanes((words_t)(x < least), least, x), x = chosen_lanes((words_t)(x > most), most, x);
    const floats_t shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    const floats_t r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    floats_t p = r * 0.0013981999f + 0.0083334519f;
    p = p * r + 0.041665796f, p = p * r + 0.16666665f, p = p * r + 0.5f, p = p * r + 1, p = p * r + 1;
    return p * (floats_t)(((words_t)shifted - 0x4b400000u + 127) << 23);
}

static float norm_factor(const float *x, int64_t n, double eps) {
    floats_t sums[SUM_VECTORS] = {{0}};
    for (int64_t k = 0; k < n; k += SUM_LANES) EACH_VECTOR {
            floats_t some = load_lanes(x + k + v * FLOAT_LANES);
            sums[v] += some * some;
        }
    return 1 / sqrtf(sum_of_lanes(sums) / (float)n + (float)eps);
}

static void scale_row(const float *x, float factor, const float *weight, int64_t n, float *to) {
    for (int64_t k = 0; k < n; k++) to[k] = x[k] * factor * weight[k];
}

ALWAYS void turn_pair(float *a, float *b, const float *turn) {
    const float x = *a, y = *b;
    *a = x * turn[0] - y * turn[1], *b = x * turn[1] + y * turn[0];
}

static void rotate(const ob_decoder *call, float *x, int64_t position) {
    const int64_t half = call->head_size / 2;
    const float *turns = call->rotation + position * call->head_size;
    for (int64_t k = 0; k < half; k++)
        call->interleaved ? turn_pair(x + 2 * k, x + 2 * k + 1, turns + 2 * k)
                          : turn_pair(x + k, x + half + k, turns + 2 * k);
}

/* ---- matrices ---- */

ALWAYS uint16_t half_at(const void *from, int64_t k) {
    uint16_t half;
    memcpy(&half, (const char *)from + 2 * k, 2);
    return half;
}

/* Row `o` in float32. */
static void real_row(const ob_matrix *m, int64_t o, float *to) {
    const int64_t n = m->inputs;
    const char *rows = m->rows;
    if (m->kind == OB_MATRIX_F32)
        memcpy(to, rows + o * n * 4, (size_t)n * 4);
    else if (m->kind == OB_MATRIX_F16)
        for (int64_t k = 0; k < n; k += FLOAT_LANES) store_lanes(to + k, half_lanes(rows + 2 * (o * n + k)));
    else if (m->kind == OB_MATRIX_BF16)
        for (int64_t k = 0; k < n; k++) to[k] = float_of_bits((uint32_t)half_at(rows, o * n + k) << 16);
    else if (m->kind == OB_MATRIX_Q8_0)
        for (int64_t b = 0; b < n / 32; b++) {
            const char *block = rows + (o * (n / 32) + b) * 34;
            const float scale = half_to_float(half_at(block, 0));
            for (int k = 0; k < 32; k++) to[b * 32 + k] = scale * (float)((const int8_t *)block)[2 + k];
        }
    else
        for (int64_t g = 0; g < n / SIGN_BLOCK; g++) {
            int64_t step, turned = m->kind == OB_MATRIX_PANELS, r = turned ? o % PANEL_ROWS : 0;
            const uint8_t *block =
                turned ? panel_block(m, o / PANEL_ROWS, g, &step)
                       : (const uint8_t *)rows + (o * (n / SIGN_BLOCK) + g) * SIGN_BLOCK_BYTES;
            const uint32_t scale = bits_of_float(half_to_float(half_at(block, r)));
            for (int k = 0; k < SIGN_BLOCK; k++) {
                const uint32_t byte = block[turned ? place_of_byte((int)r, k / 8) : 2 + k / 8];
                to[g * SIGN_BLOCK + k] = float_of_bits(scale ^ ~(byte >> k % 8) << 31);
            }
        }
}

static float real_dot(const float *x, const float *y, int64_t n) {
    floats_t sums[SUM_VECTORS] = {{0}};
    for (int64_t k = 0; k < n; k += SUM_LANES)
        EACH_VECTOR sums[v] += load_lanes(x + k + v * FLOAT_LANES) * load_lanes(y + k + v * FLOAT_LANES);
    return sum_of_lanes(sums);
}

/* Outputs of the panels `begin` to `end` for all rows. */
static void product(const decoder_t *d, const ob_matrix *m, int64_t rows, const inputs_t *x, float *y,
                    int64_t y_row, int64_t begin, int64_t end) {
    const int64_t first = begin * PANEL_ROWS,
                  last = end * PANEL_ROWS < m->outputs ? end * PANEL_ROWS : m->outputs;
    rounded_t rounded = x->rounded;
    rounded.blocks = m->inputs / SIGN_BLOCK;
    if (m->kind == OB_MATRIX_PANELS)
        sign_product(m, rows, rounded, y, y_row, begin, end);
    else
        for (int64_t o = first; o < last; o++) {
            real_row(m, o, d->rooms.row);
            for (int64_t r = 0; r < rows; r++)
                y[r * y_row + o] = real_dot(d->rooms.row, x->reals + r * d->rooms.h_row, m->inputs);
        }
    for (int64_t r = 0; m->bias && r < rows; r++)
        for (int64_t o = first; o < last; o++) y[r * y_row + o] += m->bias[o];
}

static int64_t panels_of(const ob_matrix *m) { return (m->outputs + PANEL_ROWS - 1) / PANEL_ROWS; }

/* Rounds the inputs `begin` to `end` of row `r`, whole blocks, of products with `width` inputs. */
static void round_inputs(const decoder_t *d, inputs_t *x, int64_t r, int64_t width, int64_t begin,
                         int64_t end) {
    const rounded_t *to = &x->rounded;
    for (int64_t g = begin / SIGN_BLOCK, at = r * (width / SIGN_BLOCK) + g; g < end / SIGN_BLOCK; g++, at++)
        to->units[at] = make_tables(x->reals + r * d->rooms.h_row + g * SIGN_BLOCK,
                                    to->tables + at * TABLE_BYTES, to->masses + at);
}

/* ---- phases ---- */

/* h = norm of x, also rounded; several rows are shared by rows, one by its blocks. */
static int norm_phase(decoder_t *d, const float *x, int64_t rows, const float *weight, int rounds) {
    const ob_decoder *call = d->call;
    const int64_t n = call->width, blocks = (n + SIGN_BLOCK - 1) / SIGN_BLOCK, each = rows > 1 ? blocks : 1;
    while (next_piece(d, rows * blocks, each)) {
        for (int64_t at = d->begin, next; at < d->end; at = next) {
            const int64_t r = at / blocks, begin = at % blocks * SIGN_BLOCK;
            next = (r + 1) * blocks < d->end ? (r + 1) * blocks : d->end;
            const int64_t stop = (next - 1) % blocks * SIGN_BLOCK + SIGN_BLOCK, end = stop < n ? stop : n;
            const float factor = norm_factor(x + r * n, n, call->eps);
            scale_row(x + r * n + begin, factor, weight + begin, end - begin,
                      d->rooms.h.reals + r * d->rooms.h_row + begin);
            if (rounds) round_inputs(d, &d->rooms.h, r, n, begin, end);
        }
    }
    return end_phase(d);
}

/* x += the product. */
static int add_phase(decoder_t *d, const ob_matrix *m, const inputs_t *x) {
    const ob_decoder *call = d->call;
    while (next_piece(d, panels_of(m), SIDE)) {
        product(d, m, call->rows, x, d->rooms.y, call->width, d->begin, d->end);
        const int64_t end = d->end * PANEL_ROWS < m->outputs ? d->end * PANEL_ROWS : m->outputs;
        for (int64_t r = 0; r < call->rows; r++)
            for (int64_t o = d->begin * PANEL_ROWS; o < end; o++)
                d->rooms.x[r * call->width + o] += d->rooms.y[r * call->width + o];
    }
    return end_phase(d);
}

/* gate = silu(gate) * up, also rounded. */
static int gate_phase(decoder_t *d, const ob_matrix *gate, const ob_matrix *up, int rounds) {
    const ob_decoder *call = d->call;
    const rooms_t *rooms = &d->rooms;
    while (next_piece(d, panels_of(gate), SIGN_BLOCK / PANEL_ROWS)) {
        product(d, gate, call->rows, &rooms->h, rooms->gate.reals, rooms->h_row, d->begin, d->end);
        product(d, up, call->rows, &rooms->h, rooms->up, rooms->h_row, d->begin, d->end);
        for (int64_t r = 0; r < call->rows; r++) {
            float *to = rooms->gate.reals + r * rooms->h_row;
            const float *by = rooms->up + r * rooms->h_row;
            for (int64_t k = d->begin * PANEL_ROWS; k < d->end * PANEL_ROWS; k += FLOAT_LANES) {
                const floats_t x = load_lanes(to + k);
                store_lanes(to + k, x / (1 + exp_lanes(-x)) * load_lanes(by + k));
            }
            if (rounds)
                round_inputs(d, &d->rooms.gate, r, call->inner, d->begin * PANEL_ROWS, d->end * PANEL_ROWS);
        }
    }
    return end_phase(d);
}

static int qkv_phase(decoder_t *d, const ob_matrix *m) {
    float *const to[3] = {d->rooms.q, d->rooms.k, d->rooms.v};
    int64_t first[4] = {0};
    for (int k = 0; k < 3; k++) first[k + 1] = first[k] + whole(panels_of(m + k), SIDE);
    while (next_piece(d, first[3], SIDE))
        for (int k = 0; k < 3; k++) {
            const int64_t begin = d->begin > first[k] ? d->begin - first[k] : 0, rest = d->end - first[k],
                          panels = panels_of(m + k);
            if (begin < panels && rest > 0)
                product(d, m + k, d->call->rows, &d->rooms.h, to[k],
                        k ? d->rooms.kv_row : d->call->heads * d->call->head_size, begin,
                        rest < panels ? rest : panels);
        }
    return end_phase(d);
}

/* ---- attention ---- */

ALWAYS void fetch(const void *from, int64_t bytes) { /* into the second level */
    for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch((const char *)from + k, 0, 2);
}

/* scores[m][t] for `count` keys, a position in each lane. `next`: what is needed after them. */
ALWAYS void score(const int M, float *const *q, const uint16_t *keys, const uint16_t *next, int64_t n,
                  int64_t count, float *scores, int64_t score_row) {
    for (int64_t t = 0; t < count; t += FLOAT_LANES) {
        fetch(next + t * n, FLOAT_LANES * n * 2);
        const uint16_t *key = keys + t / KEYS * KEYS * n + t % KEYS;
        floats_t sums[QUERIES][2];
        EACH_QUERY sums[m][0] = sums[m][1] = (floats_t){0};
        for (int64_t i = 0; i < n; i += 2)
#pragma GCC unroll 2
            for (int u = 0; u < 2; u++) {
                const floats_t one = half_lanes(key + KEYS * (i + u));
                EACH_QUERY sums[m][u] += one * q[m][i + u];
            }
        EACH_QUERY store_lanes(scores + m * score_row + t, sums[m][0] + sums[m][1]);
    }
}

/* to[m] += score * value, one position after the other. */
ALWAYS void weigh(const int M, const float *scores, int64_t score_row, const uint16_t *values,
                  const uint16_t *next, int64_t n, int64_t count, float *const *to) {
    for (int64_t i = 0; i < n; i += 2 * FLOAT_LANES) {
        floats_t sums[QUERIES][2];
        EACH_QUERY sums[m][0] = load_lanes(to[m] + i), sums[m][1] = load_lanes(to[m] + i + FLOAT_LANES);
        for (int64_t t = 0; t < count; t++) {
            __builtin_prefetch(next + i * SEGMENT + t * 2 * FLOAT_LANES, 0, 2);
#pragma GCC unroll 2
            for (int u = 0; u < 2; u++) {
                const floats_t one = half_lanes(values + t * n + i + u * FLOAT_LANES);
                EACH_QUERY sums[m][u] += one * scores[m * score_row + t];
            }
        }
        EACH_QUERY store_lanes(to[m] + i, sums[m][0]), store_lanes(to[m] + i + FLOAT_LANES, sums[m][1]);
    }
}

/* exp of the first `count` scores less the largest, 0 up to `most`; returns 1 / their sum. */
static float soften(float *scores, int64_t count, int64_t most) {
    float largest = scores[count - 1];
    floats_t most_of = all_lanes(largest);
    for (int64_t t = 0; t + FLOAT_LANES <= count; t += FLOAT_LANES) {
        const floats_t some = load_lanes(scores + t);
        most_of = chosen_lanes((words_t)(some > most_of), some, most_of);
    }
    for (int64_t t = count / FLOAT_LANES * FLOAT_LANES; t < count; t++)
        largest = scores[t] > largest ? scores[t] : largest;
    for (int k = 0; k < FLOAT_LANES; k++) largest = most_of[k] > largest ? most_of[k] : largest;
    for (int64_t t = 0; t < whole(count, KEYS); t += FLOAT_LANES)
        store_lanes(scores + t, exp_lanes(load_lanes(scores + t) - largest));
    for (int64_t t = count; t < whole(most, KEYS); t++) scores[t] = 0;
    floats_t sums[KEYS / FLOAT_LANES] = {{0}};
    for (int64_t t = 0; t < count; t += KEYS)
#pragma GCC unroll 4
        for (int v = 0; v < KEYS / FLOAT_LANES; v++) sums[v] += load_lanes(scores + t + v * FLOAT_LANES);
    float all[KEYS];
    memcpy(all, sums, sizeof all);
    for (int many = KEYS / 2; many; many /= 2)
        for (int k = 0; k < many; k++) all[k] += all[k + many];
    return 1 / all[0];
}

/* Integers up to `most` of n numbers; returns their unit, which is not finite if a number is not. */
static float round_to(float most, const float *x, int64_t n, int16_t *to) {
    uint32_t bits = 0; /* of magnitudes: in their order, NaN last */
    for (int64_t k = 0; k < n; k++) {
        const uint32_t size = bits_of_float(x[k]) & 0x7fffffff;
        bits = size > bits ? size : bits;
    }
    const float largest = float_of_bits(bits);
    const int sound = is_sound(largest);
    const float per = sound ? most / largest : 0;
    if (!sound) memset(to, 0, (size_t)n * sizeof *to);
    for (int64_t k = 0; sound && k < n; k++) to[k] = nearest(x[k] * per);
    return largest / most;
}

/* sum + first of each pair of bytes * first of `pair` + second * second. */
ALWAYS ints_t add_byte_pairs(ints_t sum, const int8_t *from, const int16_t *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
#if defined(__AVX512F__)
    const __m512i bytes = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
    return sum + (ints_t)_mm512_madd_epi16(bytes, _mm512_set1_epi32(both));
#elif defined(__AVX2__)
    const __m256i bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
    return sum + (ints_t)_mm256_madd_epi16(bytes, _mm256_set1_epi32(both));
#else
    for (int k = 0; k < FLOAT_LANES; k++) sum[k] += from[2 * k] * pair[0] + from[2 * k + 1] * pair[1];
    return sum;
#endif
}

/* `score` of bytes: keys are [block][pair of numbers][position in the block][2]. */
ALWAYS void score_bytes(const int M, const int16_t *q, const float *units, const int8_t *keys,
                        const int8_t *next, const float *key_units, int64_t n, int64_t count, float *scores,
                        int64_t score_row) {
    for (int64_t t = 0; t < count; t += FLOAT_LANES) {
        fetch(next + t * n, FLOAT_LANES * n);
        const int8_t *key = keys + t / KEYS * KEYS * n + t % KEYS * 2;
        ints_t sums[QUERIES];
        EACH_QUERY sums[m] = (ints_t){0};
        for (int64_t i = 0; i < n; i += 2)
            EACH_QUERY sums[m] = add_byte_pairs(sums[m], key + KEYS * i, q + m * n + i);
        EACH_QUERY store_lanes(scores + m * score_row + t, __builtin_convertvector(sums[m], floats_t) *
                                                               units[m] * load_lanes(key_units + t));
    }
}

/* `weigh` of bytes: values are [pair of positions][number][2]. */
ALWAYS void weigh_bytes(const int M, const int16_t *scores, int64_t score_row, const int8_t *values,
                        const int8_t *next, int64_t n, int64_t count, float *const *to) {
    for (int64_t i = 0; i < n; i += 2 * FLOAT_LANES) {
        ints_t sums[QUERIES][2];
        EACH_QUERY sums[m][0] = sums[m][1] = (ints_t){0};
        for (int64_t t = 0; t < count; t += 2) {
            __builtin_prefetch(next + i * SEGMENT + t * 2 * FLOAT_LANES, 0, 2);
#pragma GCC unroll 2
            for (int u = 0; u < 2; u++)
                EACH_QUERY sums[m][u] = add_byte_pairs(sums[m][u], values + t * n + 2 * (i + u * FLOAT_LANES),
                                                       scores + m * score_row + t);
        }
#pragma GCC unroll 2
        for (int u = 0; u < 2; u++) EACH_QUERY {
                float *at = to[m] + i + u * FLOAT_LANES;
                store_lanes(at, load_lanes(at) + __builtin_convertvector(sums[m][u], floats_t));
            }
    }
}

/* Keeps a key and a value at a position. */
static void store_bytes(const float *k, const float *v, int64_t n, int64_t at, int8_t *keys, int8_t *values,
                        float *key_units, float *value_units, int16_t *integers) {
    key_units[at] = round_to(127, k, n, integers);
    for (int64_t i = 0; i < n; i++)
        keys[at / KEYS * KEYS * n + i / 2 * 2 * KEYS + at % KEYS * 2 + i % 2] = (int8_t)integers[i];
    value_units[at] = round_to(127, v, n, integers);
    for (int64_t i = 0; i < n; i++) values[at / 2 * 2 * n + 2 * i + at % 2] = (int8_t)integers[i];
}

/* Where keys or values of a segment begin, in numbers, and their units. */
static int64_t segment_at(const ob_decoder *call, int64_t layer, int64_t head, int64_t position) {
    return ((position / SEGMENT * call->layers + layer) * call->kv_heads + head) * SEGMENT;
}

static void keep(const decoder_t *d, const float *norm, int64_t layer, int64_t head, int64_t r) {
    const ob_decoder *call = d->call;
    const int64_t n = call->head_size, position = call->position + r,
                  place = segment_at(call, layer, head, position), at = position % SEGMENT;
    float *k = d->rooms.k + r * d->rooms.kv_row + head * n;
    const float *v = d->rooms.v + r * d->rooms.kv_row + head * n;
    if (norm) scale_row(k, norm_factor(k, n, call->eps), norm, n, k);
    rotate(call, k, position);
    if (call->kv_bytes == 1) {
        float *units = call->kv_scales + 2 * place;
        store_bytes(k, v, n, at, (int8_t *)call->keys + place * n, (int8_t *)call->values + place * n, units,
                    units + SEGMENT, d->rooms.integers);
        return;
    }
    uint16_t *keys = (uint16_t *)call->keys + place * n, *values = (uint16_t *)call->values + place * n;
    for (int64_t i = 0; i < n; i++) {
        keys[at / KEYS * KEYS * n + i * KEYS + at % KEYS] = float_to_half(k[i]);
        values[at * n + i] = float_to_half(v[i]);
    }
}

#define FOR_MANY(run, ...) \
    many == 4 ? run(4, __VA_ARGS__) : many == 2 ? run(2, __VA_ARGS__) : run(1, __VA_ARGS__)
static void attend(const decoder_t *d, const float *const *norms, int64_t layer, int64_t head) {
    const ob_decoder *call = d->call;
    const rooms_t *rooms = &d->rooms;
    const int64_t n = call->head_size, per = call->heads / call->kv_heads, q_row = call->heads * n,
                  score_row = rooms->score_row;
    const int bytes = call->kv_bytes == 1;
    const float factor = 1 / sqrtf((float)n);
    const int64_t first_place = segment_at(call, layer, head, 0),
                  onward = call->layers * call->kv_heads * SEGMENT * n;
    for (int64_t r = 0; r < call->rows; r++) keep(d, norms[3], layer, head, r);
    for (int64_t first = 0, all = call->rows * per, many; first < all;
         first += many) { /* row by row, head by head */
        float *q[QUERIES], *to[QUERIES], factors[QUERIES], *scores = rooms->scores;
        many = all - first >= QUERIES ? QUERIES : all - first >= 2 ? 2 : 1;
        const int64_t most = call->position + (first + many - 1) / per + 1;
        for (int64_t m = 0; m < many; m++) {
            const int64_t r = (first + m) / per, column = (head * per + (first + m) % per) * n;
            q[m] = rooms->q + r * q_row + column, to[m] = rooms->h.reals + r * rooms->h_row + column;
            if (norms[2]) scale_row(q[m], norm_factor(q[m], n, call->eps), norms[2], n, q[m]);
            rotate(call, q[m], call->position + r);
            for (int64_t i = 0; i < n; i++) q[m][i] *= factor;
            if (bytes) factors[m] = round_to(32767, q[m], n, rooms->integers + m * n);
        }
        for (int64_t t = 0; t < most; t += SEGMENT) {
            const int64_t some = most - t < SEGMENT ? most - t : SEGMENT,
                          place = segment_at(call, layer, head, t);
            const int8_t *keys = (const int8_t *)call->keys + call->kv_bytes * place * n;
            const int8_t *next = t + SEGMENT < most
                                     ? keys + call->kv_bytes * onward
                                     : (const int8_t *)call->values + call->kv_bytes * first_place * n;
            if (bytes)
                FOR_MANY(score_bytes, rooms->integers, factors, keys, next, call->kv_scales + 2 * place, n,
                         some, scores + t, score_row);
            else
                FOR_MANY(score, q, (const uint16_t *)keys, (const uint16_t *)next, n, some, scores + t,
                         score_row);
        }
        for (int64_t m = 0; m < many; m++) {
            const int64_t count = call->position + (first + m) / per + 1;
            factors[m] = soften(scores + m * score_row, count, most);
            memset(to[m], 0, (size_t)n * sizeof *to[m]);
            if (!bytes) continue;
            for (int64_t t = 0; t < count; t += SEGMENT) {
                const float *units = call->kv_scales + 2 * segment_at(call, layer, head, t) + SEGMENT;
                for (int64_t k = 0; k < SEGMENT && t + k < count; k++)
                    scores[m * score_row + t + k] *= units[k];
            }
            factors[m] *=
                round_to(32767, scores + m * score_row, whole(most, 2), rooms->integers + m * score_row);
        }
        for (int64_t t = 0; t < most; t += SEGMENT) {
            const int64_t some = most - t < SEGMENT ? most - t : SEGMENT,
                          place = segment_at(call, layer, head, t);
            const int8_t *values = (const int8_t *)call->values + call->kv_bytes * place * n,
                         *next = values + call->kv_bytes * onward;
            if (bytes)
                FOR_MANY(weigh_bytes, rooms->integers + t, score_row, values, next, n, some, to);
            else
                FOR_MANY(weigh, scores + t, score_row, (const uint16_t *)values, (const uint16_t *)next, n,
                         some, to);
        }
        for (int64_t m = 0; m < many; m++)
            for (int64_t i = 0; i < n; i++) to[m][i] *= factors[m];
    }
}

static int attention_phase(decoder_t *d, const float *const *norms, int64_t layer, int rounds) {
    const ob_decoder *call = d->call;
    const int64_t columns = call->heads / call->kv_heads * call->head_size;
    int64_t unit = 1; /* heads whose outputs are whole blocks */
    while (unit < call->kv_heads && unit * columns % SIGN_BLOCK) unit++;
    while (next_piece(d, call->kv_heads, unit)) {
        for (int64_t head = d->begin; head < d->end; head++) attend(d, norms, layer, head);
        for (int64_t r = 0; rounds && r < call->rows; r++)
            round_inputs(d, &d->rooms.h, r, call->heads * call->head_size, d->begin * columns,
                         d->end * columns);
    }
    return end_phase(d);
}

static int64_t decode(decoder_t *d) {
    ob_decoder *call = d->call;
    const ob_matrix *m = call->matrices + 2;
    const float *const *norms = (const float *const *)call->norms + 1;
    while (next_piece(d, call->rows, 1))
        for (int64_t r = d->begin; r < d->end; r++)
            real_row(call->matrices, call->tokens[r], d->rooms.x + r * call->width);
    if (!end_phase(d)) return 0;
    for (int64_t l = 0; l < call->layers; l++, m += 7, norms += 4) {
#define IS_ROUNDED(k) (m[k].kind == OB_MATRIX_PANELS)
        if (!norm_phase(d, d->rooms.x, call->rows, norms[0], IS_ROUNDED(0) || IS_ROUNDED(1) || IS_ROUNDED(2)))
            return 0;
        if (!qkv_phase(d, m) || !attention_phase(d, norms, l, IS_ROUNDED(3)) ||
            !add_phase(d, m + 3, &d->rooms.h))
            return 0;
        if (!norm_phase(d, d->rooms.x, call->rows, norms[1], IS_ROUNDED(4) || IS_ROUNDED(5))) return 0;
        if (!gate_phase(d, m + 4, m + 5, IS_ROUNDED(6)) || !add_phase(d, m + 6, &d->rooms.gate)) return 0;
    }
    if (!call->logits) return 0;
    const int64_t some = call->all ? call->rows : 1;
    const ob_matrix *head = call->matrices + 1;
    const float *last = ((const float *const *)call->norms)[0];
    if (!norm_phase(d, d->rooms.x + (call->rows - some) * call->width, some, last,
                    head->kind == OB_MATRIX_PANELS))
        return 0;
    while (next_piece(d, panels_of(head), SIDE))
        product(d, head, some, &d->rooms.h, call->logits, panels_of(head) * PANEL_ROWS, d->begin, d->end);
    end_phase(d);
    return 0;
}

static int64_t run_decoder(ob_decoder *call, int32_t part, int32_t parts, ob_barrier *barrier) {
    decoder_t d = {.call = call, .barrier = barrier, .share = {.part = part, .parts = parts}};
    const int64_t size = divide_rooms(call, &d.rooms, part);
    if (!call->scratch) return size;
    const rounding_mode_t mode = start_default_rounding();
    decode(&d);
    set_rounding_mode(mode);
    return size;
}
