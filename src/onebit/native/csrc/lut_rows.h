/* Products of many rows of int32 with bits where lookups in registers are slow, for the calls of lut_rows: a
 * row in each lane, and tables in memory that hold, for all lanes, the sums of every choice of signs of
 * ROW_BITS inputs. */
#pragma once
#include "matmul.h"

#define ROW_LOG __builtin_ctz(4 * ROW_LANES) /* of the bytes of an integer of each row */
#define ROW_OUTPUTS 512                      /* at once: their sums stay in the second-level cache */
#define ROW_WORD (LUT_INPUTS * LUT_GROUPS)
#define ROW_TABLES (ROW_WORD / ROW_BITS)
#define ROW_ENTRIES (1 << ROW_BITS)
#define ROW_TABLE_COST 20 /* outputs whose entries take as long to add as the tables take to make */

/* An integer of each row, in two registers. */
typedef uint32_t half_t __attribute__((vector_size(2 * ROW_LANES), may_alias));
typedef int32_t half_int_t __attribute__((vector_size(2 * ROW_LANES), may_alias));
typedef float half_real_t __attribute__((vector_size(2 * ROW_LANES), may_alias));
typedef struct {
    half_t of[2];
} lanes_t;

#define HALVES(body) \
    _Pragma("GCC unroll 2") for (int h = 0; h < 2; h++) { body; }

typedef struct {
    lanes_t inputs[ROW_WORD], tables[ROW_TABLES * ROW_ENTRIES], sums[ROW_OUTPUTS];
    int64_t wide[ROW_OUTPUTS * ROW_LANES];
    int32_t turned[ROW_LANES * BLOCK];
} row_room_t;

/* The first `count` tables of a word of inputs. */
static void row_tables(const lanes_t *x, int count, lanes_t *table) {
    for (int t = 0; t < count; t++, x += ROW_BITS, table += ROW_ENTRIES) {
        HALVES(half_t sum = -x->of[h]; for (int k = 1; k < ROW_BITS; k++) sum -= x[k].of[h];
               table->of[h] = sum)
        for (int k = 0; k < ROW_BITS; k++) {
            lanes_t twice, *upper = table + (1 << k);
            HALVES(twice.of[h] = x[k].of[h] + x[k].of[h])
            for (int entry = 0; entry < 1 << k; entry++)
                HALVES(upper[entry].of[h] = table[entry].of[h] + twice.of[h])
        }
    }
}

/* Adds what a panel of words of weights chooses from `count` tables, the first of them table `from` of the
 * word; with `ends`, then scales the sums, by `units` of the rows and `scales` of the outputs, and adds them
 * to `real`. */
ALWAYS void row_panel(const int count, const int ends, const lanes_t *restrict tables, int from,
                      const uint32_t *restrict w, lanes_t *restrict sums, const lanes_t *units,
                      const float *scales, lanes_t *restrict real) {
    for (int o = 0; o < LANES; o++) {
        const char *entry[ROW_TABLES];
#pragma GCC unroll 8
        for (int t = 0; t < count; t++) { /* one shift and one mask give the offset of an entry in bytes */
            int shift = (from + t) * ROW_BITS - ROW_LOG;
            uint32_t offset = (shift > 0 ? w[o] >> shift : w[o] << -shift) & (ROW_ENTRIES - 1) << ROW_LOG;
            entry[t] = (const char *)(tables + (from + t) * ROW_ENTRIES) + offset;
        }
        HALVES(half_t sum = sums[o].of[h]; _Pragma("GCC unroll 8") for (int t = 0; t < count; t++) sum +=
                                           ((const lanes_t *)entry[t])->of[h];
               if (ends) {
                   half_real_t scaled =
                       __builtin_convertvector((half_int_t)sum, half_real_t) * (half_real_t)units->of[h];
                   real[o].of[h] = (half_t)((half_real_t)real[o].of[h] + scaled * scales[o]);
                   sum ^= sum;
               } sums[o]
                   .of[h] = sum)
    }
}

/* The same for all tables of a word that has `count`. */
ALWAYS void row_tables_panel(const int ends, int count, const lanes_t *tables, const uint32_t *w,
                             lanes_t *sums, const lanes_t *units, const float *scales, lanes_t *real) {
    int t = 0;
    if (count == ROW_TABLES) {
        row_panel(ROW_TABLES, ends, tables, 0, w, sums, units, scales, real);
        return;
    }
    for (; t + 2 < count; t += 2) row_panel(2, 0, tables, t, w, sums, units, scales, real);
    if (t + 1 < count)
        row_panel(2, ends, tables, t, w, sums, units, scales, real);
    else
        row_panel(1, ends, tables, t, w, sums, units, scales, real);
}

/* The largest magnitude of sums of a word of inputs, at most: real values then fit int32 for several times as
 * many words as with the largest value of an image, which safe_lookups takes. */
static int64_t largest_sum(const int32_t *inputs) {
    uint32_t sums[ROW_LANES] = {0}, largest = 0; /* 32 * 2^24 fits */
    for (int k = 0; k < ROW_WORD; k++, inputs += ROW_LANES)
        for (int l = 0; l < ROW_LANES; l++) sums[l] += (uint32_t)abs(inputs[l]);
    for (int l = 0; l < ROW_LANES; l++) largest = sums[l] > largest ? sums[l] : largest;
    return largest;
}

/* Moves sums to `wide`. */
static void row_flush(int32_t *restrict sums, int count, int64_t *restrict wide) {
    for (int k = 0; k < count * ROW_LANES; k++) wide[k] += sums[k], sums[k] = 0;
}

/* Outputs `first` to `first + count` of a group for `many` rows, `stride` apart. */
static int row_outputs(const run_t *at, position_t position, int many, const uint32_t *x, int64_t stride,
                       int group, int first, int count, row_room_t *room) {
    const ob_call *call = at->call;
    int panels = (count + LANES - 1) / LANES, padded = (call->outputs + LANES - 1) / LANES, is_wide = 0,
        saw_nan = 0;
    const uint32_t *b =
        (const uint32_t *)call->weights + ((int64_t)group * padded + first / LANES) * call->panel;
    int size = call->scaled ? call->scaled : call->tap_channels;
    int64_t bound = 0; /* no sum has a larger magnitude */
    int groups = call->tap_channels / size;
    const float *scales = call->scaled ? call->scales + (int64_t)first * groups : NULL;
    lanes_t units = {0}, *real = (lanes_t *)room->wide; /* if `scaled` */
    position_t of_row = position;
    for (int m = 0; m < many; m++, of_row = next_position(at, of_row))
        ((float *)&units)[m] = unit_of(at, of_row);
    memset(room->sums, 0, (size_t)panels * LANES * sizeof *room->sums);
    if (call->scaled) memset(real, 0, (size_t)panels * LANES * sizeof *room->sums);
    for (int from = 0, part; from < call->tap_channels; from += part, b += LANES) {
        int left = size - from % size;
        part = left < ROW_WORD ? left : ROW_WORD;
        int tables = (part + ROW_BITS - 1) / ROW_BITS;
        memset(room->inputs, 0, sizeof room->inputs);
        turn_units(x + from, stride, many, part, (uint32_t *)room->inputs, ROW_LANES);
        int64_t most = largest_sum((const int32_t *)room->inputs);
        if ((bound += most) > INT32_MAX) {
            if (!is_wide) memset(room->wide, 0, (size_t)count * ROW_LANES * sizeof *room->wide);
            row_flush((int32_t *)room->sums, count, room->wide);
            bound = most, is_wide = 1;
        }
        row_tables(room->inputs, tables, room->tables);
        int ends = call->scaled && part == left;
        for (int p = 0; p < panels; p++) {
            const uint32_t *w = b + p * call->panel;
            lanes_t *sums = room->sums + p * LANES;
            __builtin_prefetch(w + 8 * call->panel);
            if (ends)
                row_tables_panel(1, tables, room->tables, w, sums, &units, scales + p * groups * LANES,
                                 real + p * LANES);
            else
                row_tables_panel(0, tables, room->tables, w, sums, NULL, NULL, NULL);
        }
        if (ends) bound = 0, scales += LANES;
    }
    const uint32_t *sums = (const uint32_t *)(call->scaled ? real : room->sums);
    if (is_wide) row_flush((int32_t *)room->sums, count, room->wide);
    for (int done = 0; done < count; done += BLOCK) {
        int part = count - done < BLOCK ? count - done : BLOCK;
        if (!is_wide)
            turn_units(sums + done * ROW_LANES, ROW_LANES, part, ROW_LANES, (uint32_t *)room->turned, BLOCK);
        of_row = position;
        for (int m = 0; m < many; m++, of_row = next_position(at, of_row)) {
            int64_t wide[BLOCK];
            for (int o = 0; is_wide && o < part; o++) wide[o] = room->wide[(done + o) * ROW_LANES + m];
            saw_nan |= finish_sums(at, of_row, group, first + done, part, room->turned + m * BLOCK,
                                   is_wide ? wide : NULL);
        }
    }
    return saw_nan;
}

static int row_lanes(const run_t *at, span_t tiles, position_t position, int many, const int32_t *x,
                     int64_t stride, void *room) {
    const ob_call *call = at->call;
    int end = tiles.end * TILE_OUTPUTS < call->outputs ? tiles.end * TILE_OUTPUTS : call->outputs,
        saw_nan = 0;
    for (int group = 0; group < call->groups; group++, x += call->tap_channels)
        for (int first = tiles.begin * TILE_OUTPUTS; first < end; first += ROW_OUTPUTS) {
            int part = end - first < ROW_OUTPUTS ? end - first : ROW_OUTPUTS;
            saw_nan |= row_outputs(at, position, many, (const uint32_t *)x, stride, group, first, part, room);
        }
    return saw_nan;
}

static int lut_or_rows(const ob_call *call, const share_t *share, int64_t count, uint32_t *arena) {
    int64_t rows = call->out_height * call->out_width == 1 ? count : call->runs[2],
            lanes = (rows + ROW_LANES - 1) / ROW_LANES * ROW_LANES;
    int faster = rows * ROW_LANES * call->outputs >= lanes * ROW_LEAST * (call->outputs + ROW_TABLE_COST);
    if (call->table_rows || !faster) return lut(call, share, count, arena);
    return lut_rows(call, share, count, arena, ROW_LANES, row_lanes);
}
#undef RUN_LUT
#define RUN_LUT lut_or_rows
#undef ROW_UNITS
#define ROW_UNITS ((int32_t)(sizeof(row_room_t) / 4))
