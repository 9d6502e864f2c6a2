/* Products of rounded inputs with Q1_0 matrices: blocks of 128 signs that share a float16 scale.
 *
 * Rounding. 128 inputs become integers q = rint(x / unit), unit = sum |x| / 32703. Their magnitudes sum to at
 * most 32767, so every sum of them with signs fits 16 bits exactly. A block adds (sum * unit) * scale to its
 * output, in float32, one block after the other. Nothing else is rounded: all instruction sets and any split
 * of the work give the same bits.
 *
 * Tables of words (WORD_TABLES), where 32 words are looked up at once: five neighboring inputs have 32 sums
 * with signs.
 *
 * Tables of bytes. Four neighboring inputs have 16 sums P of those whose sign is +. A sum with signs is 2 P -
 * sum |q| if each negative input is added once, which the first table does. So P counts modulo 2^15: tables
 * have a plane of its lowest 7 bits, of which two sums fit a byte, and a plane of the next 8, whose sums may
 * overflow.
 *
 * Panels. 32 rows of blocks in turn: 32 scales, then 16 times the same byte of all rows, or 8 times the same
 * word. They have exactly the bytes of their rows, so a matrix is turned in its place. SIDE panels lie side
 * by side, block by block: one row of inputs reads them as one stream. */
#pragma once
#include "training/vector.h"

#define SIGN_BLOCK 128
#define SIGN_BLOCK_BYTES 18
#define PANEL_ROWS OB_PANEL_ROWS
#define PANEL_BYTES (PANEL_ROWS * SIGN_BLOCK_BYTES)
#if defined(__AVX512VBMI2__)
#define WORD_TABLES
#endif
#ifdef WORD_TABLES
#define SIDE 4
#define TABLES 26
#define TABLE_BYTES (TABLES * 64) /* of a block */
#define TILE_INPUTS 4             /* rows of inputs at once */
#else
#define SIDE 2
#define TABLE_BYTES 1024 /* of a block: 32 tables, each with two planes of 16 */
#define TILE_INPUTS 2
#endif
#define MAX_SUM 32703  /* 32767 - 128 / 2 */
#define PART_TABLES 16 /* tables of so many blocks stay in the first-level cache */
#define AHEAD 8192     /* bytes that are fetched before they are needed */

/* A file with `USES_NEON` has the types of arm_neon.h.
 * choose_bytes: for each byte of an index the byte of a table of 16. half_lanes: FLOAT_LANES float16 as
 * float32. */
#if defined(__AVX2__)
#define SIGN_BYTES 32
typedef uint8_t sign_bytes_t __attribute__((vector_size(SIGN_BYTES)));
ALWAYS sign_bytes_t choose_bytes(const uint8_t *table, sign_bytes_t index) {
    __m256i entries = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)table));
    return (sign_bytes_t)_mm256_shuffle_epi8(entries, (__m256i)index);
}
#elif defined(USES_NEON)
#define SIGN_BYTES 16
typedef uint8_t sign_bytes_t __attribute__((vector_size(SIGN_BYTES)));
ALWAYS sign_bytes_t choose_bytes(const uint8_t *table, sign_bytes_t index) {
    return (sign_bytes_t)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)index);
}
#else
#define SIGN_BYTES 16
typedef uint8_t sign_bytes_t __attribute__((vector_size(SIGN_BYTES)));
ALWAYS sign_bytes_t choose_bytes(const uint8_t *table, sign_bytes_t index) {
    sign_bytes_t chosen;
    for (int k = 0; k < SIGN_BYTES; k++) chosen[k] = table[index[k]];
    return chosen;
}
#endif
typedef uint16_t sign_words_t __attribute__((vector_size(SIGN_BYTES)));
#define SIGN_LANES (SIGN_BYTES / 2)
#define SIGN_HALVES (PANEL_ROWS / SIGN_BYTES)

/* The place of byte `n` of a row's signs in a block of a panel. */
static int place_of_byte(int row, int n) {
#ifdef WORD_TABLES
    return 2 * PANEL_ROWS + n / 2 * 2 * PANEL_ROWS + 2 * row + n % 2;
#else /* even bytes of a register are its first outputs, odd ones the others */
    return (2 + n) * PANEL_ROWS + row / SIGN_BYTES * SIGN_BYTES + row % SIGN_LANES * 2 +
           row % SIGN_BYTES / SIGN_LANES;
#endif
}

ALWAYS float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    return float_of_bits(bits_of_float(float_of_bits(rest << 13) * 0x1p112f) | sign);
}

/* To the nearest, ties to even; beyond the largest float16 that one, as 0 times an infinity would be NaN. */
ALWAYS uint16_t float_to_half(float x) {
    uint32_t bits = bits_of_float(x), rest = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (rest > 0x7f800000) return sign | 0x7e00;
    if (rest >= 0x477ff000) return sign | 0x7bff; /* 65520 and more */
    if (rest < 0x38800000) {                      /* subnormal: a float32 with the same step rounds */
        float whole = float_of_bits(rest) + 0.5f;
        return sign | (uint16_t)(bits_of_float(whole) - 0x3f000000);
    }
    return sign | (uint16_t)((rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13);
}

ALWAYS floats_t half_lanes(const void *from) {
#if defined(__AVX512F__)
    return (floats_t)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__F16C__)
    return (floats_t)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif defined(USES_NEON)
    return (floats_t)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)from)));
#else
    floats_t to;
    for (int k = 0; k < FLOAT_LANES; k++) to[k] = half_to_float(((const uint16_t *)from)[k]);
    return to;
#endif
}

ALWAYS floats_t load_lanes(const float *from) {
    floats_t x;
    memcpy(&x, from, sizeof x);
    return x;
}

ALWAYS floats_t all_lanes(float x) { return x - (floats_t){0}; }

/* The sum of many numbers: 32 sums in turn, then halves of them. */
#define SUM_LANES 32
#define SUM_VECTORS (SUM_LANES / FLOAT_LANES)
#define EACH_VECTOR _Pragma("GCC unroll 8") for (int v = 0; v < SUM_VECTORS; v++)

ALWAYS float sum_of_lanes(const floats_t *sums) {
    float all[SUM_LANES];
    memcpy(all, sums, sizeof all);
    for (int many = SUM_LANES / 2; many; many /= 2)
        for (int k = 0; k < many; k++) all[k] += all[k + many];
    return all[0];
}

/* The nearest integer, ties to even. */
ALWAYS int16_t nearest(float x) { return (int16_t)(int32_t)(bits_of_float(x + 0x1.8p23f) - 0x4b400000u); }

/* Whether numbers of this size can be divided by it. */
ALWAYS int is_sound(float size) { return size >= 0x1p-100f && size <= 0x1.fffffep127f; }

/* Integers of 128 inputs, 0 where all are too small or some are not finite; returns the unit, which then
 * makes sums so. */
static float round_block(const float *x, int16_t *to) {
    floats_t sums[SUM_VECTORS] = {{0}};
    for (int k = 0; k < SIGN_BLOCK; k += SUM_LANES)
        EACH_VECTOR sums[v] += magnitude(load_lanes(x + k + v * FLOAT_LANES));
    float unit = sum_of_lanes(sums) * (1.0f / MAX_SUM);
    if (!is_sound(unit)) {
        memset(to, 0, SIGN_BLOCK * sizeof *to);
        return unit;
    }
    const float per = 1 / unit;
    for (int k = 0; k < SIGN_BLOCK; k++) to[k] = nearest(x[k] * per);
    return unit;
}

/* Tables of 128 inputs; of bytes, `mass` becomes sum |q|. */
static float make_tables(const float *x, uint8_t *tables, uint16_t *mass) {
    int16_t q[SIGN_BLOCK + 2] = {0};
    const float unit = round_block(x, q);
#ifdef WORD_TABLES
    (void)mass;
    for (int t = 0; t < TABLES; t++) {
        const int16_t *a = q + 5 * t;
        uint16_t sums[32];
        for (int k = 0; k < 32; k++) {
            int sum = 0;
            for (int i = 0; i < 5; i++) sum += k >> i & 1 ? a[i] : -a[i];
            sums[k] = (uint16_t)sum;
        }
        memcpy(tables + 64 * t, sums, sizeof sums);
    }
#else
    int negative = 0, all = 0;
    for (int k = 0; k < SIGN_BLOCK; k++) {
        all += q[k] < 0 ? -q[k] : q[k];
        negative += q[k] < 0 ? -q[k] : 0;
    }
    *mass = (uint16_t)all;
    for (int t = 0; t < SIGN_BLOCK / 4; t++, tables += 32) {
        const uint16_t a = (uint16_t)q[4 * t], b = (uint16_t)q[4 * t + 1], c = (uint16_t)q[4 * t + 2],
                       d = (uint16_t)q[4 * t + 3];
        const uint16_t first = t ? 0 : (uint16_t)negative;
        for (int k = 0; k < 16; k++) {
            uint16_t sum = (uint16_t)(first + (a & -(k & 1)) + (b & -(k >> 1 & 1)) + (c & -(k >> 2 & 1)) +
                                      (d & -(k >> 3)));
            tables[k] = sum & 127;
            tables[16 + k] = (uint8_t)(sum >> 7);
        }
    }
#endif
    return unit;
}

/* Where block `g` of panel `p` begins; `step` becomes the bytes to the next block. */
static const uint8_t *panel_block(const ob_matrix *m, int64_t p, int64_t g, int64_t *step) {
    int64_t panels = (m->outputs + PANEL_ROWS - 1) / PANEL_ROWS, first = p / SIDE * SIDE;
    int64_t side = panels - first < SIDE ? panels - first : SIDE;
    *step = side * PANEL_BYTES;
    return (const uint8_t *)m->rows + (first * (m->inputs / SIGN_BLOCK) + g * side + p - first) * PANEL_BYTES;
}

/* Rows past the last one repeat it. */
static void run_turn(const ob_matrix *m, void *to, void *turned) {
    const int64_t blocks = m->inputs / SIGN_BLOCK, row_bytes = blocks * SIGN_BLOCK_BYTES;
    const int64_t panels = (m->outputs + PANEL_ROWS - 1) / PANEL_ROWS;
    uint8_t *at = to;
    for (int64_t p = 0, side; p < panels; p += side, at += side * blocks * PANEL_BYTES) {
        side = panels - p < SIDE ? panels - p : SIDE;
        for (int64_t k = 0; k < side * PANEL_ROWS; k++) {
            int64_t o = p * PANEL_ROWS + k;
            const uint8_t *row = (const uint8_t *)m->rows + (o < m->outputs ? o : m->outputs - 1) * row_bytes;
            uint8_t *panel = (uint8_t *)turned + k / PANEL_ROWS * PANEL_BYTES;
            const int r = (int)(k % PANEL_ROWS);
            for (int64_t g = 0; g < blocks; g++, row += SIGN_BLOCK_BYTES, panel += side * PANEL_BYTES) {
                memcpy(panel + 2 * r, row, 2);
                for (int n = 0; n < 16; n++) panel[place_of_byte(r, n)] = row[2 + n];
            }
        }
        memcpy(at, turned, (size_t)(side * blocks * PANEL_BYTES));
    }
}

/* Rounded inputs: of each row its tables, units and masses, block by block. */
typedef struct {
    uint8_t *tables;
    float *units;
    uint16_t *masses;
    int64_t blocks;
} rounded_t;

/* y += (sum * unit) * scale, for some outputs of a panel. */
ALWAYS void add_block(const int16_t *sums, int count, float unit, const uint8_t *scales, float *to) {
#pragma GCC unroll 8
    for (int k = 0; k < count; k += FLOAT_LANES) {
        shorts_t some;
        memcpy(&some, sums + k, sizeof some);
        floats_t sum = __builtin_convertvector(__builtin_convertvector(some, ints_t), floats_t);
        sum = load_lanes(to + k) + (sum * unit) * half_lanes(scales + 2 * k);
        memcpy(to + k, &sum, sizeof sum);
    }
}

#ifdef WORD_TABLES
typedef uint16_t table_t __attribute__((vector_size(64)));

/* choose_words: for each word of an index the word of a table of 32. shift_right: bits `s` on of words, then
 * those of `next`. */
#if defined(__AVX512VBMI2__)
#define choose_words(table, index) (table_t) _mm512_permutexvar_epi16((__m512i)(index), (__m512i)(table))
#define shift_right(word, next, s) (table_t) _mm512_shrdi_epi16((__m512i)(word), (__m512i)(next), s)
#define IN_ORDER(sum) \
    __asm__("" : "+v"(sum)) /* or GCC adds all 26 as a tree, whose parts do not fit the registers */
#else
ALWAYS table_t choose_words(table_t table, table_t index) {
    table_t chosen;
    for (int k = 0; k < 32; k++) chosen[k] = table[index[k] & 31];
    return chosen;
}
#define shift_right(word, next, s) ((word) >> (s) | (next) << (16 - (s)))
#define IN_ORDER(sum)
#endif

ALWAYS table_t load_table(const uint8_t *from) {
    table_t words;
    memcpy(&words, from, sizeof words);
    return words;
}

/* Table `f`, which five bits from bit 5 f on choose from. */
#define FIELD(f)                                                                                      \
    {                                                                                                 \
        enum { j = 5 * (f) / 16, s = 5 * (f) % 16, last = j == 7 };                                   \
        table_t index[4];                                                                             \
        _Pragma("GCC unroll 4") for (int p = 0; p < P; p++) {                                         \
            const uint8_t *at = w + p * PANEL_BYTES + 2 * PANEL_ROWS * (1 + j);                       \
            index[p] = load_table(at);                                                                \
            if (s + 5 > 16 && !last)                                                                  \
                index[p] = shift_right(index[p], load_table(at + 2 * PANEL_ROWS * !last), s);         \
            else if (s)                                                                               \
                index[p] >>= s;                                                                       \
        }                                                                                             \
        _Pragma("GCC unroll 4") for (int m = 0; m < R; m++) {                                         \
            const table_t table = load_table(x.tables + (m * x.blocks + g) * TABLE_BYTES + 64 * (f)); \
            _Pragma("GCC unroll 4") for (int p = 0; p < P; p++) {                                     \
                sum[m][p] += choose_words(table, index[p]);                                           \
                IN_ORDER(sum[m][p]);                                                                  \
            }                                                                                         \
        }                                                                                             \
    }

/* y += the products of R rows with P panels, of some blocks. `ahead`: bytes to what is fetched. */
ALWAYS void sign_tile(const int R, const int P, int blocks, rounded_t x, const uint8_t *w, int64_t step,
                      int64_t ahead, float *y, int64_t y_row) {
    for (int g = 0; g < blocks; g++, w += step) {
        for (int k = 0; k < P * PANEL_BYTES; k += 64)
            __builtin_prefetch(w + ahead + k, 0, 2); /* into the second level */
        table_t sum[4][4];
        _Pragma("GCC unroll 4") for (int m = 0; m < R; m++)
            _Pragma("GCC unroll 4") for (int p = 0; p < P; p++) sum[m][p] = (table_t){0};
        FIELD(0)
        FIELD(1) FIELD(2) FIELD(3) FIELD(4) FIELD(5) FIELD(6) FIELD(7) FIELD(8) FIELD(9) FIELD(10) FIELD(11)
            FIELD(12) FIELD(13) FIELD(14) FIELD(15) FIELD(16) FIELD(17) FIELD(18) FIELD(19) FIELD(20)
                FIELD(21) FIELD(22) FIELD(23) FIELD(24) FIELD(25)
                    _Pragma("GCC unroll 4") for (int p = 0; p < P; p++)
                        _Pragma("GCC unroll 4") for (int m = 0; m < R; m++) {
            int16_t sums[PANEL_ROWS];
            memcpy(sums, &sum[m][p], sizeof sums);
            add_block(sums, PANEL_ROWS, x.units[m * x.blocks + g], w + p * PANEL_BYTES,
                      y + m * y_row + p * PANEL_ROWS);
        }
    }
}
#else
/* y += the products of R rows with P panels, of some blocks. `ahead`: bytes to what is fetched. */
ALWAYS void sign_tile(const int R, const int P, int blocks, rounded_t x, const uint8_t *w, int64_t step,
                      int64_t ahead, float *y, int64_t y_row) {
    const sign_bytes_t low_bits = (sign_bytes_t){0} + 15;
    for (int g = 0; g < blocks; g++, w += step) {
        for (int k = 0; k < P * PANEL_BYTES; k += 64)
            __builtin_prefetch(w + ahead + k, 0, 2); /* into the second level */
#pragma GCC unroll 2
        for (int h = 0; h < SIGN_HALVES; h++) {
            sign_words_t all[2][2], odd[2][2];
            sign_bytes_t high[2][2];
#pragma GCC unroll 2
            for (int m = 0; m < R; m++)
#pragma GCC unroll 2
                for (int p = 0; p < P; p++)
                    all[m][p] = odd[m][p] = (sign_words_t){0}, high[m][p] = (sign_bytes_t){0};
#pragma GCC unroll 1
            for (int k = 0; k < 16; k++) {
                sign_bytes_t index[2][2];
#pragma GCC unroll 2
                for (int p = 0; p < P; p++) {
                    sign_bytes_t bits;
                    memcpy(&bits, w + p * PANEL_BYTES + (2 + k) * PANEL_ROWS + h * SIGN_BYTES, sizeof bits);
                    index[p][0] = bits & low_bits;
                    index[p][1] = (sign_bytes_t)((sign_words_t)bits >> 4) & low_bits;
                }
#pragma GCC unroll 2
                for (int m = 0; m < R; m++) {
                    const uint8_t *t = x.tables + (m * x.blocks + g) * TABLE_BYTES + k * 64;
#pragma GCC unroll 2
                    for (int p = 0; p < P; p++) {
                        sign_words_t lows =
                            (sign_words_t)(choose_bytes(t, index[p][0]) + choose_bytes(t + 32, index[p][1]));
                        all[m][p] += lows;
                        odd[m][p] += lows >> 8;
                        high[m][p] += choose_bytes(t + 16, index[p][0]) + choose_bytes(t + 48, index[p][1]);
                    }
                }
            }
#pragma GCC unroll 2
            for (int p = 0; p < P; p++)
#pragma GCC unroll 2
                for (int m = 0; m < R; m++) {
                    const sign_words_t up = (sign_words_t)high[m][p],
                                       mass = (sign_words_t){0} + x.masses[m * x.blocks + g];
                    const float unit = x.units[m * x.blocks + g];
                    int16_t sums[SIGN_BYTES];
                    sign_words_t first = (((all[m][p] - (odd[m][p] << 8)) + ((up & 255) << 7)) << 1) - mass;
                    sign_words_t second = ((odd[m][p] + (up >> 8 << 7)) << 1) - mass;
                    memcpy(sums, &first, sizeof first), memcpy(sums + SIGN_LANES, &second, sizeof second);
                    add_block(sums, SIGN_BYTES, unit, w + p * PANEL_BYTES + 2 * h * SIGN_BYTES,
                              y + m * y_row + p * PANEL_ROWS + h * SIGN_BYTES);
                }
        }
    }
}
#endif

/* y = the products of rows of rounded inputs with panels `begin` to `end`; y has room for whole panels. */
static void sign_product(const ob_matrix *m, int64_t rows, rounded_t x, float *y, int64_t y_row,
                         int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; r++)
        memset(y + r * y_row + begin * PANEL_ROWS, 0, (size_t)((end - begin) * PANEL_ROWS) * sizeof *y);
    for (int64_t r = 0, many; r < rows; r += many) {
        many = rows - r >= TILE_INPUTS ? TILE_INPUTS : rows - r >= 2 ? 2 : 1;
        for (int64_t g = 0, part; g < x.blocks; g += part) {
            part = x.blocks - g < PART_TABLES / many ? x.blocks - g : PART_TABLES / many;
            rounded_t some = {x.tables + (r * x.blocks + g) * TABLE_BYTES, x.units + r * x.blocks + g,
                              x.masses + r * x.blocks + g, x.blocks};
            for (int64_t p = begin, width; p < end; p += width) {
                /* several rows: the same blocks of the next panels */
                int64_t step, ahead = many == 1 ? AHEAD : SIDE * x.blocks * PANEL_BYTES;
                const uint8_t *w = panel_block(m, p, g, &step);
                float *to = y + r * y_row + p * PANEL_ROWS;
#define RUN_TILE(R, P) sign_tile(R, P, (int)part, some, w, step, ahead, to, y_row)
                width = p % 2 == 0 && end - p >= 2 ? 2 : 1;
#ifdef WORD_TABLES
                if (many == 1 && p % 4 == 0 && end - p >= 4) width = 4;
                many == 4    ? width == 2 ? RUN_TILE(4, 2) : RUN_TILE(4, 1)
                : many == 2  ? width == 2 ? RUN_TILE(2, 2) : RUN_TILE(2, 1)
                : width == 4 ? RUN_TILE(1, 4)
                : width == 2 ? RUN_TILE(1, 2)
                             : RUN_TILE(1, 1);
#else
                if (many == 2 || SIGN_BYTES < 32) width = 1;
                many == 2 ? RUN_TILE(2, 1) : width == 2 ? RUN_TILE(1, 2) : RUN_TILE(1, 1);
#endif
            }
        }
    }
}
