/* A layer of one-bit weights by itself, on float32 values in torch's layout; included last by each instruction set's file.
 *
 * The values of a sample are put on their grid (moves.h). Outputs are computed for TOKENS places at once, one per lane:
 * samples of a dense layer, or pixels of an image. For each word of 32 inputs, tables hold the sums of every choice of signs
 * of 5 or 6 inputs, for all lanes; each output then adds one entry per table. A few samples of a dense layer are computed one by
 * one instead, with outputs in the lanes.
 */
#if defined(__AVX512F__)
#define PIECE 16 /* int32 in a register */
#define PIECES 1
#define LANES_LOG 6 /* of the bytes of all lanes */
#elif defined(__AVX2__)
#define PIECE 8
#define PIECES 2
#define LANES_LOG 6
#else
#define PIECE 4
#define PIECES 2
#define LANES_LOG 5
#endif
#define TOKENS (PIECE * PIECES)
#define WORD_INPUTS 32
#define TABLE_ENTRIES (2 * 64 + 4 * 32) /* of 6, 6, 5, 5, 5 and 5 inputs */
#define LEAST_OUTPUTS 8 /* per group: tables for fewer cost more than they save */
#define LEAST_TOKENS 7  /* samples of a dense layer: fewer are computed one by one */
#define PANEL 32        /* outputs whose words are next to each other */
#define MOST_SAFE (INT32_MAX - WORD_INPUTS * (1 << 24)) /* sums up to here can take another word of inputs */

#if defined(__GNUC__)
typedef int32_t piece_t __attribute__((vector_size(4 * PIECE), may_alias));
#define ADD(x, y) ((x) + (y))
#define SUBTRACT(x, y) ((x) - (y))
#define MAGNITUDE(x) (((x) ^ (x) >> 31) - ((x) >> 31))
#define EACH_PIECE(body)                        \
    _Pragma("GCC unroll 2")                     \
    for (int p = 0; p < PIECES; p++) {          \
        body;                                   \
    }
#else
typedef struct {
    int32_t of[PIECE];
} piece_t;
static inline piece_t ADD(piece_t x, piece_t y) {
    for (int l = 0; l < PIECE; l++) x.of[l] += y.of[l];
    return x;
}
static inline piece_t SUBTRACT(piece_t x, piece_t y) {
    for (int l = 0; l < PIECE; l++) x.of[l] -= y.of[l];
    return x;
}
static inline piece_t MAGNITUDE(piece_t x) {
    for (int l = 0; l < PIECE; l++) x.of[l] = x.of[l] < 0 ? -x.of[l] : x.of[l];
    return x;
}
#define EACH_PIECE(body) for (int p = 0; p < PIECES; p++) { body; }
#endif

typedef struct {
    piece_t of[PIECES];
} lanes_t;

#ifndef ROW_TABLE_UNITS
#ifdef vec_load_bytes /* one byte per lane: the indices of two lookups of 4 inputs */
#define ROW_BLOCK 32
#define WORD_TABLES (WORD_INPUTS / LUT_INPUTS)
#define ROW_TABLE_UNITS (ROW_BLOCK * WORD_TABLES * TABLE)

/* The tables of the next words, as many as have sums that fit an int32; returns their number. */
static int row_tables(const int32_t *x, int words, int32_t *tables) {
    int32_t bound = 0, count = 0;
    for (; count < words && count < ROW_BLOCK && bound <= MOST_SAFE; count++, x += WORD_INPUTS) {
        for (int k = 0; k < WORD_INPUTS; k++) bound += x[k] < 0 ? -x[k] : x[k];
        lut_tables(x, WORD_INPUTS, tables + count * WORD_TABLES * TABLE);
    }
    return count;
}

/* Adds the sums of PANEL outputs over a block of words, which are `width` apart. */
static void row_panel(const int32_t *tables, int words, const uint32_t *w, int width, int64_t *wide) {
    vec sum[PANEL / LANES];
#pragma GCC unroll 4
    for (int v = 0; v < PANEL / LANES; v++) sum[v] = vec_zero();
    for (int word = 0; word < words; word++, w += width) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++, tables += 2 * TABLE) {
            vec low = vec_load(tables), high = vec_load(tables + TABLE);
#pragma GCC unroll 4
            for (int v = 0; v < PANEL / LANES; v++) {
                vec index = vec_load_bytes((const uint8_t *)w + n * width + v * LANES);
                sum[v] = vec_add(sum[v], vec_choose(low, index));
                sum[v] = vec_add(sum[v], vec_choose(high, vec_shift(index, LUT_INPUTS)));
            }
        }
    }
    for (int v = 0; v < PANEL / LANES; v++) widen(wide + v * LANES, sum[v]);
}
#else
#define ROW_TABLE_UNITS 0 /* a single sample is computed as several are */
#endif
#endif

/* Scratch memory of a thread. */
typedef struct {
    lanes_t *inputs, *tables; /* of a word */
    lanes_t *sums;            /* per output */
    int64_t *wide;            /* per output and lane: what did not fit an int32; per output for a single sample */
    int32_t *taps;            /* per tap: the offset under each lane, then a mask of the lanes inside the image */
    int32_t *grid;            /* integers of TOKENS samples, or of an image */
} room_t;

static int64_t room_for(const ob_layer *layer, uint32_t *memory, room_t *room) {
    int64_t used = 0, image = (int64_t)layer->groups * layer->channels * layer->in_height * layer->in_width;
    int64_t inputs = (layer->terms + WORD_INPUTS - 1) / WORD_INPUTS * WORD_INPUTS;
    int64_t outputs = (layer->outputs + PANEL - 1) / PANEL * PANEL;
#define TAKE(name, type, units)                 \
    if (memory) room->name = (type *)(memory + used); \
    used += ((units) + 15) / 16 * 16;
    TAKE(inputs, lanes_t, WORD_INPUTS * TOKENS)
    TAKE(tables, lanes_t, TABLE_ENTRIES * TOKENS > ROW_TABLE_UNITS ? TABLE_ENTRIES * TOKENS : ROW_TABLE_UNITS)
    TAKE(sums, lanes_t, outputs * TOKENS)
    TAKE(wide, int64_t, 2 * outputs * TOKENS)
    TAKE(taps, int32_t, layer->rows ? 2 * TOKENS * layer->taps_down * layer->taps_across : 0)
    if (layer->rows) used += 16; /* a load may begin before the first pixel and end after the last */
    TAKE(grid, int32_t, layer->rows ? image + 16 : TOKENS * inputs)
#undef TAKE
    return used;
}

/* The integers of a sample and their unit; `signs`: +1 and -1. */
static float sample_to_grid(const ob_layer *layer, const float *x, int64_t size, int32_t *z) {
    const share_t whole = {0, 1, 0};
    uint32_t most;
    float unit = 1;
    if (layer->signs)
        for (int64_t k = 0; k < size; k++) z[k] = x[k] < 0 ? -1 : 1;
    else
        row_to_grid(x, size, layer->padding != 0, &whole, z, &unit, &most);
    return unit;
}

/* to[k][l] = from[l][k], 8 × 8; strides from one row to the next. */
static inline void turn_block(const int32_t *from, int64_t from_stride, int32_t *to, int64_t to_stride) {
#ifdef __AVX2__
    __m256i row[8], pair[8], four[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) row[k] = _mm256_loadu_si256((const __m256i *)(from + k * from_stride));
#pragma GCC unroll 4
    for (int k = 0; k < 8; k += 2) {
        pair[k] = _mm256_unpacklo_epi32(row[k], row[k + 1]);
        pair[k + 1] = _mm256_unpackhi_epi32(row[k], row[k + 1]);
    }
#pragma GCC unroll 2
    for (int k = 0; k < 8; k += 4) {
        four[k] = _mm256_unpacklo_epi64(pair[k], pair[k + 2]);
        four[k + 1] = _mm256_unpackhi_epi64(pair[k], pair[k + 2]);
        four[k + 2] = _mm256_unpacklo_epi64(pair[k + 1], pair[k + 3]);
        four[k + 3] = _mm256_unpackhi_epi64(pair[k + 1], pair[k + 3]);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_si256((__m256i *)(to + k * to_stride), _mm256_permute2x128_si256(four[k], four[k + 4], 0x20));
        _mm256_storeu_si256((__m256i *)(to + (k + 4) * to_stride), _mm256_permute2x128_si256(four[k], four[k + 4], 0x31));
    }
#else
    for (int k = 0; k < 8; k++)
        for (int l = 0; l < 8; l++) to[k * to_stride + l] = from[l * from_stride + k];
#endif
}

/* WORD_INPUTS columns of TOKENS rows, which are `stride` apart. */
static void lanes_from_rows(const int32_t *rows, int64_t stride, int32_t *lanes) {
    for (int l = 0; l < TOKENS; l += 8)
        for (int k = 0; k < WORD_INPUTS; k += 8) turn_block(rows + l * stride + k, stride, lanes + k * TOKENS + l, TOKENS);
}

/* The sums over a word of inputs and over their magnitudes. */
static void add_up(const lanes_t *x, lanes_t *magnitude, lanes_t *whole) {
    lanes_t sums = *x, sizes;
    EACH_PIECE(sizes.of[p] = MAGNITUDE(x->of[p]))
    for (int k = 1; k < WORD_INPUTS; k++) {
        EACH_PIECE(sums.of[p] = ADD(sums.of[p], x[k].of[p]))
        EACH_PIECE(sizes.of[p] = ADD(sizes.of[p], MAGNITUDE(x[k].of[p])))
    }
    *magnitude = sizes, *whole = sums;
}

/* The tables of a word of inputs. */
static void choose_signs(const lanes_t *x, lanes_t *table) {
    static const int sizes[] = {6, 6, 5, 5, 5, 5};
    for (int t = 0; t < 6; x += sizes[t], table += (int64_t)1 << sizes[t], t++) {
        lanes_t sum, twice;
        EACH_PIECE(sum.of[p] = SUBTRACT(x->of[p], x->of[p]))
        for (int k = 0; k < sizes[t]; k++) EACH_PIECE(sum.of[p] = SUBTRACT(sum.of[p], x[k].of[p]))
        table[0] = sum;
        for (int k = 0; k < sizes[t]; k++) {
            EACH_PIECE(twice.of[p] = ADD(x[k].of[p], x[k].of[p]))
            lanes_t *upper = table + ((int64_t)1 << k);
            for (int entry = 0; entry < 1 << k; entry++) EACH_PIECE(upper[entry].of[p] = ADD(table[entry].of[p], twice.of[p]))
        }
    }
}

/* The entry that `bits` bits of a word choose, from bit `from` on. One shift and one mask give its offset in bytes. */
#define SHIFTED(word, from) ((from) > LANES_LOG ? (word) >> ((from) - LANES_LOG) : (word) << (LANES_LOG - (from)))
#define ENTRY(table, word, from, bits) \
    ((const lanes_t *)((const char *)(table) + (SHIFTED(word, from) & ((1u << (bits)) - 1) << LANES_LOG)))

/* The words of a panel's outputs. */
static inline void panel_words(const uint8_t *bytes, int width, uint32_t *words) {
#ifdef __AVX2__
    if (width == PANEL) {
        __m256i row[4];
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) row[n] = _mm256_loadu_si256((const __m256i *)(bytes + n * PANEL));
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) { /* 4 outputs of each half */
            __m256i low = v < 2 ? _mm256_unpacklo_epi8(row[0], row[1]) : _mm256_unpackhi_epi8(row[0], row[1]);
            __m256i high = v < 2 ? _mm256_unpacklo_epi8(row[2], row[3]) : _mm256_unpackhi_epi8(row[2], row[3]);
            __m256i made = v % 2 ? _mm256_unpackhi_epi16(low, high) : _mm256_unpacklo_epi16(low, high);
            _mm_storeu_si128((__m128i *)(words + 4 * v), _mm256_castsi256_si128(made));
            _mm_storeu_si128((__m128i *)(words + 4 * v + 16), _mm256_extracti128_si256(made, 1));
        }
        return;
    }
#endif
    for (int o = 0; o < width; o++)
        words[o] = (uint32_t)bytes[o] | (uint32_t)bytes[width + o] << 8 | (uint32_t)bytes[2 * width + o] << 16 |
                   (uint32_t)bytes[3 * width + o] << 24;
}

/* Adds the entries of each output's word. */
static void add_entries(const lanes_t *restrict table, const uint32_t *words, int count, lanes_t *restrict sums) {
    for (int o = 0; o < count; o++) {
        uint32_t w = words[o];
        const lanes_t *a = ENTRY(table, w, 0, 6), *b = ENTRY(table + 64, w, 6, 6), *c = ENTRY(table + 128, w, 12, 5),
                      *d = ENTRY(table + 160, w, 17, 5), *e = ENTRY(table + 192, w, 22, 5), *f = ENTRY(table + 224, w, 27, 5);
        EACH_PIECE(sums[o].of[p] = ADD(ADD(ADD(a->of[p], b->of[p]), ADD(c->of[p], d->of[p])),
                                       ADD(ADD(e->of[p], f->of[p]), sums[o].of[p])))
    }
}

/* The same input by input, for few outputs. */
static void add_inputs(const lanes_t *x, const uint32_t *words, int count, lanes_t *sums) {
    for (int o = 0; o < count; o++) {
        int32_t *sum = (int32_t *)&sums[o];
        for (int k = 0; k < WORD_INPUTS; k++) {
            int32_t turn = (int32_t)(words[o] >> k & 1) - 1, *value = (int32_t *)&x[k];
            for (int l = 0; l < TOKENS; l++) sum[l] += (value[l] ^ turn) - turn;
        }
    }
}

/* Places whose outputs are computed at once: `count` samples, or pixels of an image. */
typedef struct {
    const ob_layer *layer;
    const room_t *room;
    int count;
    float unit[TOKENS];
    int32_t padding; /* on the grid of the image */
} tile_t;

/* The inputs of word `word` in `room->inputs`, one lane per place. */
static void gather_inputs(const tile_t *tile, int group, int word) {
    const ob_layer *layer = tile->layer;
    lanes_t *to = tile->room->inputs;
    int first = word * WORD_INPUTS, count = layer->terms - first < WORD_INPUTS ? layer->terms - first : WORD_INPUTS;
    if (count < WORD_INPUTS) memset(to + count, 0, (size_t)(WORD_INPUTS - count) * sizeof *to);
    if (!layer->rows) {
        int64_t stride = (layer->terms + WORD_INPUTS - 1) / WORD_INPUTS * WORD_INPUTS;
        lanes_from_rows(tile->room->grid + first, stride, (int32_t *)to);
        return;
    }
    int64_t area = (int64_t)layer->in_height * layer->in_width;
    int tap = first / layer->channels, channel = first % layer->channels;
    for (int k = 0; k < count; k++) {
        const int32_t *offset = tile->room->taps + (int64_t)tap * 2 * TOKENS, *inside = offset + TOKENS;
        const int32_t *from = tile->room->grid + ((int64_t)group * layer->channels + channel) * area;
        int32_t *x = (int32_t *)(to + k);
        if (offset[0] == INT32_MIN) { /* neighbors in the image */
            const int32_t *row = from + offset[1];
            for (int l = 0; l < TOKENS; l++) x[l] = row[l] & inside[l];
        } else
            for (int l = 0; l < TOKENS; l++) x[l] = from[offset[l]] & inside[l];
        if (tile->padding)
            for (int l = 0; l < TOKENS; l++) x[l] |= tile->padding & ~inside[l];
        if (++channel == layer->channels) channel = 0, tap++;
    }
}

/* What is under each tap for pixels from `first` on: offsets, or INT32_MIN and the offset of lane 0 if they are neighbors. */
static void find_taps(const tile_t *tile, int64_t first) {
    const ob_layer *layer = tile->layer;
    int32_t *offset = tile->room->taps;
    for (int a = 0; a < layer->taps_down; a++)
        for (int b = 0; b < layer->taps_across; b++, offset += 2 * TOKENS) {
            int32_t *inside = offset + TOKENS, begin = INT32_MIN, neighbors = 1;
            for (int l = 0; l < TOKENS; l++) {
                int64_t pixel = first + (l < tile->count ? l : 0);
                int row = layer->rows[pixel / layer->out_width * layer->taps_down + a];
                int column = layer->columns[pixel % layer->out_width * layer->taps_across + b];
                int seen = l < tile->count && row >= 0 && column >= 0;
                inside[l] = -seen;
                offset[l] = seen ? row * layer->in_width + column : 0;
                if (!seen) continue;
                if (begin == INT32_MIN) begin = offset[l] - l;
                neighbors &= offset[l] == begin + l;
            }
            if (neighbors) offset[0] = INT32_MIN, offset[1] = begin == INT32_MIN ? 0 : begin;
        }
}

/* Moves the sums to `wide`, where those before are added. */
static void flush(const room_t *room, span_t outputs, int before) {
    const int32_t *sum = (const int32_t *)(room->sums + outputs.begin);
    int64_t *wide = room->wide + (int64_t)outputs.begin * TOKENS, count = (int64_t)(outputs.end - outputs.begin) * TOKENS;
    if (before)
        for (int64_t k = 0; k < count; k++) wide[k] += sum[k];
    else
        for (int64_t k = 0; k < count; k++) wide[k] = sum[k];
    memset(room->sums + outputs.begin, 0, (size_t)count * 4);
}

/* Sums of some outputs of a group in `room`; returns whether they are in `wide`. `total`: sum(x) of each lane. */
static int sum_outputs(const tile_t *tile, int group, span_t outputs, const uint32_t *words, int64_t *total) {
    const ob_layer *layer = tile->layer;
    const room_t *room = tile->room;
    int count = outputs.end - outputs.begin, is_wide = 0, all = (layer->terms + WORD_INPUTS - 1) / WORD_INPUTS;
    int32_t bound[TOKENS] = {0};
    memset(room->sums + outputs.begin, 0, (size_t)count * sizeof *room->sums);
    memset(total, 0, TOKENS * sizeof *total);
    for (int word = 0; word < all; word++) {
        lanes_t magnitude, whole;
        int32_t full = 0;
        gather_inputs(tile, group, word);
        add_up(room->inputs, &magnitude, &whole);
        const int32_t *more = (const int32_t *)&magnitude, *sum = (const int32_t *)&whole;
        for (int l = 0; l < TOKENS; l++) total[l] += sum[l], full |= bound[l] > MOST_SAFE;
        if (full) {
            flush(room, outputs, is_wide);
            memset(bound, 0, sizeof bound);
            is_wide = 1;
        }
        for (int l = 0; l < TOKENS; l++) bound[l] += more[l];
        if (layer->outputs >= LEAST_OUTPUTS) choose_signs(room->inputs, room->tables);
        for (int o = outputs.begin; o < outputs.end; o += PANEL) {
            int width = layer->outputs - o < PANEL ? layer->outputs - o : PANEL;
            const uint8_t *bytes = (const uint8_t *)(words + ((int64_t)group * layer->outputs + o) * all + word * width);
            uint32_t w[PANEL];
#ifdef __GNUC__ /* of the next panel: too far away for the processor to foresee */
            __builtin_prefetch(bytes + (int64_t)4 * PANEL * all);
            __builtin_prefetch(bytes + (int64_t)4 * PANEL * all + 64);
#endif
            panel_words(bytes, width, w);
            if (layer->outputs < LEAST_OUTPUTS)
                add_inputs(room->inputs, w, width, room->sums + o);
            else
                add_entries(room->tables, w, width, room->sums + o);
        }
    }
    if (is_wide) flush(room, outputs, 1);
    return is_wide;
}

/* Scale, center and bias of an output, one lane per place. */
static inline void finish_lanes(const ob_parameters *given, int output, const float *total, float *y) {
    if (given->scale)
        for (int l = 0; l < TOKENS; l++) y[l] *= given->scale[output];
    if (given->center)
        for (int l = 0; l < TOKENS; l++) y[l] += total[l] * given->center[output];
    if (given->bias)
        for (int l = 0; l < TOKENS; l++) y[l] += given->bias[output];
}

/* All outputs of a group for a tile. out: of its first place; stride: from an output to the next; step: from a place. */
static void run_tile(const tile_t *tile, int group, span_t outputs, const ob_parameters *given, float *out, int64_t stride,
                     int64_t step) {
    int64_t whole[TOKENS];
    int is_wide = sum_outputs(tile, group, outputs, given->words, whole);
    float total[TOKENS], block[16][TOKENS];
    for (int l = 0; l < TOKENS; l++) total[l] = float_of(whole[l]) * tile->unit[l];
    for (int from = outputs.begin; from < outputs.end; from += 16) {
        int count = outputs.end - from < 16 ? outputs.end - from : 16;
        const int32_t *sum = (const int32_t *)(tile->room->sums + from);
        const int64_t *wide = tile->room->wide + (int64_t)from * TOKENS;
        float *values = block[0];
        if (is_wide)
            for (int k = 0; k < count * TOKENS; k++) values[k] = float_of(wide[k]);
        else
            for (int k = 0; k < count * TOKENS; k++) values[k] = (float)sum[k];
        for (int o = 0; o < count; o++) {
            for (int l = 0; l < TOKENS; l++) block[o][l] *= tile->unit[l];
            finish_lanes(given, group * tile->layer->outputs + from + o, total, block[o]);
        }
        float *to = out + (int64_t)from * stride;
        if (step == 1 && tile->count == TOKENS)
            for (int o = 0; o < count; o++) memcpy(to + o * stride, block[o], sizeof block[o]);
        else if (step == 1)
            for (int o = 0; o < count; o++) memcpy(to + o * stride, block[o], (size_t)tile->count * 4);
        else if (tile->count == TOKENS && count == 16)
            for (int l = 0; l < TOKENS; l += 8)
                for (int o = 0; o < 16; o += 8)
                    turn_block((int32_t *)&block[o][l], TOKENS, (int32_t *)to + l * step + o, step);
        else
            for (int l = 0; l < tile->count; l++)
                for (int o = 0; o < count; o++) to[l * step + o] = block[o][l];
    }
}

#if ROW_TABLE_UNITS
/* A single sample of a dense layer: outputs in the lanes. */
static void run_row(const ob_layer *layer, const room_t *room, span_t outputs, const ob_parameters *given, float unit,
                    float *out) {
    int all = (layer->terms + WORD_INPUTS - 1) / WORD_INPUTS;
    int32_t *tables = (int32_t *)room->tables;
    int64_t *wide = room->wide, whole = 0;
    memset(wide, 0, (size_t)((layer->outputs + PANEL - 1) / PANEL * PANEL) * 8);
    for (int word = 0, block; word < all; word += block) {
        block = row_tables(room->grid + word * WORD_INPUTS, all - word, tables);
        for (int o = outputs.begin; o < outputs.end; o += PANEL) {
            int width = layer->outputs - o < PANEL ? layer->outputs - o : PANEL;
            row_panel(tables, block, given->words + (int64_t)o * all + word * width, width, wide + o);
        }
    }
    if (given->center)
        for (int k = 0; k < layer->terms; k++) whole += room->grid[k];
    float total = float_of(whole) * unit;
    for (int o = outputs.begin; o < outputs.end; o++) out[o] = float_of(wide[o]) * unit;
    if (given->scale)
        for (int o = outputs.begin; o < outputs.end; o++) out[o] *= given->scale[o];
    if (given->center)
        for (int o = outputs.begin; o < outputs.end; o++) out[o] += total * given->center[o];
    if (given->bias)
        for (int o = outputs.begin; o < outputs.end; o++) out[o] += given->bias[o];
}
#endif

static void run_samples(const ob_layer *layer, const room_t *room, span_t samples, span_t outputs, const float *x,
                        const ob_parameters *given, float *out) {
    int64_t stride = (layer->terms + WORD_INPUTS - 1) / WORD_INPUTS * WORD_INPUTS;
    tile_t tile = {layer, room, 0, {0}, 0};
    for (int first = samples.begin; first < samples.end; first += tile.count) {
        int left = samples.end - first;
        tile.count = left < TOKENS ? left : TOKENS;
#if ROW_TABLE_UNITS
        if (left < LEAST_TOKENS) tile.count = 1;
#endif
        for (int l = 0; l < tile.count; l++) {
            int32_t *z = room->grid + l * stride;
            tile.unit[l] = sample_to_grid(layer, x + (int64_t)(first + l) * layer->terms, layer->terms, z);
            memset(z + layer->terms, 0, (size_t)(stride - layer->terms) * 4);
        }
        float *to = out + (int64_t)first * layer->outputs;
#if ROW_TABLE_UNITS
        if (left < LEAST_TOKENS) {
            run_row(layer, room, outputs, given, tile.unit[0], to);
            continue;
        }
#endif
        if (tile.count < TOKENS) memset(room->grid + tile.count * stride, 0, (size_t)((TOKENS - tile.count) * stride) * 4);
        run_tile(&tile, 0, outputs, given, to, 1, layer->outputs);
    }
}

/* tiles: of all images, one after the other. */
static void run_pixels(const ob_layer *layer, const room_t *room, span_t tiles, span_t outputs, const float *x,
                       const ob_parameters *given, float *out) {
    int64_t pixels = (int64_t)layer->out_height * layer->out_width, per_image = (pixels + TOKENS - 1) / TOKENS;
    int64_t size = (int64_t)layer->groups * layer->channels * layer->in_height * layer->in_width, made = -1;
    tile_t tile = {layer, room, 0, {0}, 0};
    for (int64_t t = tiles.begin; t < tiles.end; t++) {
        int64_t image = t / per_image, first = t % per_image * TOKENS;
        if (image != made) {
            float unit = sample_to_grid(layer, x + image * size, size, room->grid);
            for (int l = 0; l < TOKENS; l++) tile.unit[l] = unit;
            tile.padding = unit > 1 || unit != unit ? 0 : (int32_t)((float)layer->padding / unit);
            made = image;
        }
        tile.count = (int)(pixels - first < TOKENS ? pixels - first : TOKENS);
        find_taps(&tile, first);
        float *to = out + image * layer->groups * layer->outputs * pixels + first;
        for (int group = 0; group < layer->groups; group++)
            run_tile(&tile, group, outputs, given, to + (int64_t)group * layer->outputs * pixels, pixels, 1);
    }
}

/* See ob_isa; rounds as the thread does. */
static int64_t run_part(const ob_layer *layer, const float *x, int64_t count, const ob_parameters *given, float *out,
                        uint32_t *scratch, int32_t part, int32_t parts) {
    room_t room = {0};
    int64_t units = room_for(layer, scratch, &room);
    if (!scratch) return units;
    int64_t pixels = (int64_t)layer->out_height * layer->out_width;
    int64_t tiles = layer->rows ? count * ((pixels + TOKENS - 1) / TOKENS) : (count + TOKENS - 1) / TOKENS;
    share_t share = {part, parts, 0};
    span_t all = {0, layer->outputs}, places = {0, (int)(layer->rows ? tiles : count)};
    if (tiles >= parts) {
        places = span_of(&share, tiles);
        if (!layer->rows)
            places.begin *= TOKENS, places.end = places.end == tiles ? (int)count : places.end * TOKENS;
    } else { /* threads share the outputs */
        span_t panels = span_of(&share, (layer->outputs + PANEL - 1) / PANEL);
        all.begin = PANEL * panels.begin;
        all.end = PANEL * panels.end < layer->outputs ? PANEL * panels.end : layer->outputs;
        if (all.begin >= all.end) return units;
    }
    (layer->rows ? run_pixels : run_samples)(layer, &room, places, all, x, given, out);
    return units;
}

/* See ob_isa. */
static int64_t run_layer(const ob_layer *layer, const float *x, int64_t count, const ob_parameters *given, float *out,
                         uint32_t *scratch, int32_t part, int32_t parts) {
    const rounding_mode_t mode = start_default_rounding();
    int64_t units = run_part(layer, x, count, given, out, scratch, part, parts);
    set_rounding_mode(mode);
    return units;
}
