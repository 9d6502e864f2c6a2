/* Products with rows of weights. The instruction set's file defines, before it includes this one:
 *
 * LANES         outputs in a panel: a panel holds one unit of each of them, then the next unit of each, …
 * LUT_INPUTS    how many inputs a lookup takes at once, LUT_GROUPS how many lookups a word of weights holds
 * TABLE         entries of the table of such a group: 2^LUT_INPUTS
 * TILE_ROWS, TILE_PANELS   the most of a tile; the panels are a multiple of 32 outputs
 * WORD_ROWS, LUT_ROWS(panels)   rows of a tile of each kind of product; a tile has so many, or 2, or 1
 * BYTES         see ob_isa
 * words_tile, lut_tile     sums of a tile, see there
 * lut_tables               the tables of the channels of a pixel
 *
 * A row is what one output pixel sees: `segments` of units, each beginning at the row's own place.
 */

/* One tap, or several that lie one behind the other: `words` units of weights from `b` on, or `groups` lookups. */
typedef struct {
    int64_t a, b;
    int32_t words, groups;
} segment_t;

#define TILE_OUTPUTS (TILE_PANELS * LANES)
#define DENSE_WORDS 16 /* tables of a block of a dense layer: 4 rows of them stay in the first-level cache */

/* sums[m][panel][lane]: bits in which row m and that row of weights differ, or with `bytes` the sums of products. */
static void words_tile(int bytes, int rows, int panels, const uint32_t *const *a, const segment_t *segments, int count,
                       const uint32_t *b, int64_t panel, int32_t *sums);
/* Sums of table entries. With `wide`, added to wide[m][panel][lane], after at most `most` lookups each time. */
static void lut_tile(int rows, int panels, const int32_t *const *tables, const segment_t *segments, int count,
                     const uint32_t *b, int64_t panel, int most, int64_t *wide, int64_t wide_stride, int32_t *sums);
static void lut_tables(const int32_t *x, int channels, int32_t *tables);

/* The segments of output row `i`, run `run`: taps inside the image. Returns their number; `terms`: weights they hold. */
static int gather(const ob_step *s, int i, const int32_t *run, int64_t row_units, int64_t pixel_units, int tall,
                  segment_t *segments, int64_t *terms) {
    int count = 0;
    *terms = 0;
    for (int a = 0; a < s->taps_down; a++) {
        int row = s->rows[i * s->taps_down + a];
        if (row < 0) continue;
        int64_t begin = (int64_t)(tall ? row % tall : row) * row_units;
        for (int b = 0; b < s->taps_across; b++) {
            int column = s->columns[run[0] * s->taps_across + b];
            if (column < 0) continue;
            segment_t next = {begin + (int64_t)column * pixel_units, (int64_t)(a * s->taps_across + b) * s->tap_words,
                              s->tap_words, 0};
            segment_t *last = count ? segments + count - 1 : NULL;
            *terms += s->tap_channels;
            /* neighbours in the image that are neighbours in the weights: one longer segment, of xnor products */
            if (!tall && last && last->a + last->words == next.a && last->b + last->words == next.b)
                last->words += next.words;
            else
                segments[count++] = next;
        }
    }
    return count;
}

/* What the taps outside the image add to the sum of output `o`, where they see a padding of `value`. */
static int64_t outside(const ob_step *s, int i, const int32_t *run, int o, int64_t value) {
    int64_t sum = 0;
    for (int a = 0; a < s->taps_down; a++)
        for (int b = 0; b < s->taps_across; b++)
            if (s->rows[i * s->taps_down + a] < 0 || s->columns[run[0] * s->taps_across + b] < 0)
                sum += s->tap_sums[(int64_t)(a * s->taps_across + b) * s->groups * s->outputs + o];
    return sum * value;
}

/* A place where output pixels see the same taps: pixels of one run, of one image after the other. */
typedef struct {
    const ob_step *s;
    uint32_t *arena;
    int i;
    const int32_t *run;
    int64_t terms; /* weights that meet a value there */
} place_t;

/* One of these pixels: pixel t of the run, of image n. */
typedef struct {
    int64_t n;
    int32_t t;
} spot_t;

static inline spot_t next_spot(const place_t *at, spot_t spot) {
    spot_t next = {spot.n, spot.t + 1};
    if (next.t == at->run[2]) next.n++, next.t = 0;
    return next;
}

static uint32_t *out_pixel(const place_t *at, spot_t spot) {
    const ob_step *s = at->s;
    int64_t pixel = (int64_t)at->i * s->out_width + at->run[0] + spot.t * at->run[1];
    return at->arena + s->out + spot.n * s->out_size + pixel * s->out_pixel;
}

/* What 1 is worth in an image: a number behind the values, if they lie on a grid. */
static float unit_of(const place_t *at, spot_t spot) {
    const ob_step *s = at->s;
    float unit = 1;
    if (s->real) memcpy(&unit, at->arena + s->in + (spot.n + 1) * s->in_size - 2, 4);
    return unit;
}

/* How many lookups add up to an int32 for sure: of integers as they are all of a row, which the plan has checked. */
static int safe_lookups(const ob_step *s, const uint32_t *arena, int64_t image, int64_t images) {
    uint32_t largest = 0;
    if (!s->real) return INT32_MAX;
    for (int64_t n = image; n < image + images; n++) {
        uint32_t of_image = arena[s->in + (n + 1) * s->in_size - 1];
        largest = of_image > largest ? of_image : largest;
    }
    return largest ? (int)(INT32_MAX / ((int64_t)LUT_INPUTS * largest)) : INT32_MAX;
}

/* The padding value as an integer of the image's grid. */
static int64_t padding_of(const ob_step *s, float unit) {
    if (!s->real) return s->number;
    if (unit != unit || unit > 2) return 0; /* half a unit or less */
    return (int64_t)(unit > 1 ? 0 : s->number / unit);
}

/* sum(x) over what an output pixel sees, its padding included, as a real value. */
static float total_of(const place_t *at, spot_t spot, int group, int64_t padding, float unit) {
    const ob_step *s = at->s;
    const uint32_t *in = at->arena + s->in + spot.n * s->in_size;
    int64_t total = 0;
    for (int a = 0; a < s->taps_down; a++)
        for (int b = 0; b < s->taps_across; b++) {
            int64_t i = s->rows[at->i * s->taps_down + a], j = s->columns[at->run[0] * s->taps_across + b];
            if (i < 0 || j < 0) {
                total += padding * s->tap_channels;
                continue;
            }
            j += spot.t * at->run[3];
            const uint32_t *x = in + (i * s->in_width + j) * s->in_pixel;
            for (int c = group * s->tap_channels; c < (group + 1) * s->tap_channels; c++)
                total += s->step == OB_STEP_XNOR ? (int64_t)(x[c / 32] >> (c % 32) & 1) * 2 - 1 : (int32_t)x[c];
        }
    return s->real ? (float)total * unit : (float)total;
}

/* An integer of less than 2^51 in magnitude, rounded once: processors turn int64 into a double slowly, or one by one. */
static inline float float_of(int64_t x) {
    uint64_t bits = (uint64_t)x + 0x4338000000000000u; /* 1.5 * 2^52, whose last bits count ones */
    double sum;
    memcpy(&sum, &bits, 8);
    return (float)(sum - 6755399441055744.0);
}

/* Sums as the lines take them, from place `k` of the line on: integers, or real values on the scale of `unit`. They lie in
 * `wide` if that is not NULL. */
static inline void read_sums(const place_t *at, line_t *x, int place, int count, const int32_t *sums, const int64_t *wide,
                             float unit) {
    const ob_step *s = at->s;
    int32_t *whole = x->i + place;
    uint32_t terms = (uint32_t)at->terms; /* a last block goes on where there are no sums */
    float *real = x->f + place;
    if (wide && s->real)
        for (int k = 0; k < count; k++) real[k] = float_of(wide[k]) * unit;
    else if (wide)
        for (int k = 0; k < count; k++) whole[k] = (int32_t)wide[k];
    else if (s->step == OB_STEP_XNOR) /* of the terms, so many signs differ */
        BLOCKS(whole[k] = (int32_t)(terms - 2 * (uint32_t)sums[k]))
    else if (s->real)
        BLOCKS(real[k] = (float)sums[k] * unit)
    else
        BLOCKS(whole[k] = sums[k])
}

/* Finishes the sums of outputs `first` to `first + count` of a group. */
static int finish_sums(const place_t *at, spot_t spot, int group, int first, int count, const int32_t *sums,
                       const int64_t *wide) {
    const ob_step *s = at->s;
    line_t x;
    int offset = group * s->outputs + first;
    float unit = unit_of(at, spot);
    int64_t padding = s->number ? padding_of(s, unit) : 0;
    if (padding || s->weight_units) {
        for (int k = 0; k < count; k++) {
            int64_t sum = wide ? wide[k] : s->step == OB_STEP_XNOR ? at->terms - 2 * sums[k] : sums[k];
            if (padding) sum += outside(s, at->i, at->run, offset + k, padding);
            if (!s->real && !s->weight_units) {
                x.i[k] = (int32_t)sum;
                continue;
            }
            x.f[k] = (float)sum * unit;
            if (s->weight_units) x.f[k] *= s->weight_units[offset + k];
        }
    } else
        read_sums(at, &x, 0, count, sums, wide, unit);
    float total = s->centre ? total_of(at, spot, group, padding, unit) : 0;
    return finish_line(s, &x, offset, count, total, out_pixel(at, spot));
}

/* Finishes all outputs of neighbouring pixels, or of images of one pixel, as one line; their parameters are repeated as
 * often as they fit into a line. */
static int finish_together(const place_t *at, spot_t spot, int many, const int32_t *sums, int64_t sums_stride,
                           const int64_t *wide, int64_t wide_stride) {
    const ob_step *s = at->s;
    line_t x;
    uint32_t *out = out_pixel(at, spot);
    if (at->run[2] > 1 && !wide && sums_stride == s->outputs) /* of one image, and without gaps */
        read_sums(at, &x, 0, many * s->outputs, sums, NULL, unit_of(at, spot));
    else
        for (int m = 0; m < many; m++, spot = next_spot(at, spot))
            read_sums(at, &x, m * s->outputs, s->outputs, sums + m * sums_stride, wide ? wide + m * wide_stride : NULL,
                      unit_of(at, spot));
    return finish_line(s, &x, 0, many * s->outputs, 0, out);
}

/* Parts of the rows of an image, or of the tiles of `lanes` outputs where it has one. */
typedef struct {
    span_t rows, outputs;
} work_t;

static inline work_t work_of(const ob_step *s, const share_t *share, int lanes) {
    int tiles = (s->outputs + lanes - 1) / lanes;
    work_t work = {{0, s->out_height}, {0, tiles}};
    if (s->out_height > 1)
        work.rows = span_of(share, s->out_height);
    else
        work.outputs = span_of(share, tiles);
    return work;
}

/* Rows of the next tile. */
static inline int tile_rows(int64_t left, int most) { return left >= most ? most : left >= 4 && most > 4 ? 4 : left >= 2 ? 2 : 1; }

/* Products of words: of 32 bits each, or of four bytes. */
static int step_words(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    segment_t *segments = (segment_t *)(arena + s->scratch + share->scratch);
    int64_t row_units = (int64_t)s->in_width * s->in_pixel;
    int padded = (s->outputs + LANES - 1) / LANES, bytes = s->step == OB_STEP_BYTES, bad = 0;
    work_t work = work_of(s, share, TILE_OUTPUTS);
    int32_t sums[WORD_ROWS * TILE_OUTPUTS];
    for (int i = work.rows.begin; i < work.rows.end; i++)
        for (int r = 0; r < s->run_count; r++) {
            place_t at = {s, arena, i, s->runs + 4 * r, 0};
            int found = gather(s, i, at.run, row_units, s->in_pixel, 0, segments, &at.terms);
            for (int group = 0; group < s->groups; group++)
                for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
                    int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
                    int first = p * LANES, width = panels * LANES;
                    int part = s->outputs - first < width ? s->outputs - first : width;
                    const uint32_t *b = (const uint32_t *)s->weights + ((int64_t)group * padded + p) * s->panel;
                    spot_t spot = {0, 0}, ahead = spot;
                    for (int64_t left = count * at.run[2]; left > 0;) {
                        int many = tile_rows(left, WORD_ROWS);
                        const uint32_t *a[WORD_ROWS];
                        for (int m = 0; m < many; m++, ahead = next_spot(&at, ahead))
                            a[m] = arena + s->in + ahead.n * s->in_size + ahead.t * at.run[3] * s->in_pixel +
                                   (int64_t)group * s->tap_words;
                        words_tile(bytes, many, panels, a, segments, found, b, s->panel, sums);
                        if (s->together && at.run[1] == 1 && spot.t + many <= at.run[2])
                            bad |= finish_together(&at, spot, many, sums, width, NULL, 0);
                        else
                            for (int m = 0; m < many; m++, spot = next_spot(&at, spot))
                                bad |= finish_sums(&at, spot, group, first, part, sums + m * width, NULL);
                        spot = ahead;
                        left -= many;
                    }
                }
        }
    return bad;
}

/* Sums of all outputs of a group for some rows, tile by tile. */
static int lut_outputs(const place_t *at, span_t tiles, spot_t spot, int many, int group, const int32_t *const *tables,
                       const segment_t *segments, int found, int most, int64_t *wide, int begins, int ends) {
    const ob_step *s = at->s;
    int padded = (s->outputs + LANES - 1) / LANES, bad = 0;
    int64_t stride = (int64_t)padded * LANES, groups = 0;
    int32_t sums[TILE_ROWS * TILE_OUTPUTS];
    for (int k = 0; k < found; k++) groups += segments[k].groups;
    int narrow = begins && ends && groups <= most;
    if (!narrow && begins) memset(wide, 0, (size_t)(many * stride) * sizeof *wide);
    for (int tile = tiles.begin; tile < tiles.end; tile++) {
        int p = tile * TILE_PANELS, panels = padded - p < TILE_PANELS ? padded - p : TILE_PANELS;
        int first = p * LANES, width = panels * LANES;
        int part = s->outputs - first < width ? s->outputs - first : width;
        const uint32_t *b = (const uint32_t *)s->weights + ((int64_t)group * padded + p) * s->panel;
        lut_tile(many, panels, tables, segments, found, b, s->panel, most, narrow ? NULL : wide + first, stride, sums);
        if (ends && s->together && at->run[1] == 1)
            bad |= finish_together(at, spot, many, sums, width, narrow ? NULL : wide, stride);
        else if (ends) {
            spot_t of_row = spot;
            for (int m = 0; m < many; m++, of_row = next_spot(at, of_row))
                bad |= finish_sums(at, of_row, group, first, part, sums + m * width,
                                   narrow ? NULL : wide + m * stride + first);
        }
    }
    return bad;
}

/* A dense layer, or a convolution of one pixel to one pixel: tables of a block of inputs for some images at once. */
static int lut_dense(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    int64_t stride = (int64_t)(s->outputs + LANES - 1) / LANES * LANES;
    int64_t *wide = (int64_t *)(arena + s->scratch + share->scratch);
    int32_t *room = (int32_t *)(wide + TILE_ROWS * stride);
    int block_units = DENSE_WORDS * LUT_GROUPS * TABLE, inputs = DENSE_WORDS * LUT_GROUPS * LUT_INPUTS, bad = 0;
    int rows = LUT_ROWS(stride / LANES);
    static const int32_t one[4] = {0, 1, 1, 0};
    work_t work = work_of(s, share, TILE_OUTPUTS);
    if (work.outputs.begin == work.outputs.end) return 0;
    place_t at = {s, arena, 0, one, 0};
    for (int group = 0; group < s->groups; group++)
        for (int64_t row = 0; row < count;) {
            int many = tile_rows(count - row, rows), most = safe_lookups(s, arena, row, many);
            const int32_t *tables[TILE_ROWS];
            for (int m = 0; m < many; m++) tables[m] = room + (int64_t)m * block_units;
            for (int from = 0; from < s->tap_channels; from += inputs) {
                int part = s->tap_channels - from < inputs ? s->tap_channels - from : inputs;
                int groups = (part + LUT_INPUTS - 1) / LUT_INPUTS;
                segment_t segment = {0, from / inputs * DENSE_WORDS, (groups + LUT_GROUPS - 1) / LUT_GROUPS, groups};
                for (int m = 0; m < many; m++) {
                    const int32_t *x = (const int32_t *)arena + s->in + (row + m) * s->in_size;
                    lut_tables(x + (int64_t)group * s->tap_channels + from, part, (int32_t *)tables[m]);
                }
                spot_t spot = {row, 0};
                bad |= lut_outputs(&at, work.outputs, spot, many, group, tables, &segment, 1, most, wide, from == 0,
                                   from + part == s->tap_channels);
            }
            row += many;
        }
    return bad;
}

/* A convolution: tables of the input rows that an output row sees, each made once. */
static int lut_conv(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    int64_t stride = (int64_t)(s->outputs + LANES - 1) / LANES * LANES;
    int groups = (s->tap_channels + LUT_INPUTS - 1) / LUT_INPUTS, rows = LUT_ROWS(stride / LANES), bad = 0;
    int64_t pixel_units = (int64_t)s->groups * groups * TABLE, row_units = s->table_width * pixel_units;
    int64_t *wide = (int64_t *)(arena + s->scratch + share->scratch);
    segment_t *segments = (segment_t *)(wide + TILE_ROWS * stride);
    /* 8 segments are 3 lines of the cache: a table that begins in the midst of one would be read in two pieces */
    int32_t *room = (int32_t *)(segments + ((int64_t)s->taps_down * s->taps_across + 7) / 8 * 8);
    int64_t right = s->left + s->in_width;
    work_t work = work_of(s, share, TILE_OUTPUTS);
    for (int row = 0; row < s->tall; row++) {
        memset(room + row * row_units, 0, (size_t)(s->left * pixel_units) * 4);
        memset(room + row * row_units + right * pixel_units, 0, (size_t)((s->table_width - right) * pixel_units) * 4);
    }
    for (int64_t n = 0; n < count; n++) {
        const int32_t *in = (const int32_t *)arena + s->in + n * s->in_size;
        int most = safe_lookups(s, arena, n, 1);
        int made = -1; /* the last input row whose tables are there */
        for (int i = work.rows.begin; i < work.rows.end; i++) {
            for (int a = 0; a < s->taps_down; a++) {
                int row = s->rows[i * s->taps_down + a];
                if (row <= made) continue;
                if (row - made > s->tall) made = row - s->tall;
                while (made < row) {
                    made++;
                    const int32_t *x = in + (int64_t)made * s->in_width * s->in_pixel;
                    int32_t *tables = room + made % s->tall * row_units + s->left * pixel_units;
                    for (int j = 0; j < s->in_width; j++, x += s->in_pixel)
                        for (int group = 0; group < s->groups; group++, tables += groups * TABLE)
                            lut_tables(x + (int64_t)group * s->tap_channels, s->tap_channels, tables);
                }
            }
            for (int r = 0; r < s->run_count; r++) {
                place_t at = {s, arena, i, s->runs + 4 * r, 0};
                int found = gather(s, i, at.run, row_units, pixel_units, s->tall, segments, &at.terms);
                for (int k = 0; k < found; k++) segments[k].groups = s->tap_lookups;
                for (int group = 0; group < s->groups; group++)
                    for (int t = 0; t < at.run[2];) {
                        int many = tile_rows(at.run[2] - t, rows);
                        const int32_t *tables[TILE_ROWS];
                        for (int m = 0; m < many; m++)
                            tables[m] = room + (int64_t)(t + m) * at.run[3] * pixel_units + (int64_t)group * groups * TABLE;
                        spot_t spot = {n, t};
                        bad |= lut_outputs(&at, work.outputs, spot, many, group, tables, segments, found, most, wide, 1, 1);
                        t += many;
                    }
            }
        }
    }
    return bad;
}

/* Real weights: panels of 16 float64 integers; 32 products of two of 24 bits add up in a double exactly. */
#define REAL_LANES 16
#define REAL_PANELS 2 /* together a multiple of 32 outputs, as bits are written */
#define EXACT_TERMS 32

static void real_sums(const ob_step *s, const int32_t *x, const segment_t *segments, int found, const double *b,
                      int64_t *wide) {
    for (int k = 0; k < found; k++)
        for (int from = 0; from < s->tap_channels; from += EXACT_TERMS) {
            int to = s->tap_channels - from < EXACT_TERMS ? s->tap_channels : from + EXACT_TERMS;
            double sums[REAL_LANES] = {0};
            for (int c = from; c < to; c++) {
                double value = x[segments[k].a + c];
                const double *w = b + (segments[k].b + c) * REAL_LANES;
                for (int l = 0; l < REAL_LANES; l++) sums[l] += value * w[l];
            }
            for (int l = 0; l < REAL_LANES; l++) wide[l] += (int64_t)sums[l];
        }
}

static int step_real(const ob_step *s, const share_t *share, int64_t count, uint32_t *arena) {
    segment_t *segments = (segment_t *)(arena + s->scratch + share->scratch);
    int64_t row_units = (int64_t)s->in_width * s->in_pixel;
    int padded = (s->outputs + REAL_LANES - 1) / REAL_LANES, bad = 0;
    work_t work = work_of(s, share, REAL_PANELS * REAL_LANES);
    for (int i = work.rows.begin; i < work.rows.end; i++)
        for (int r = 0; r < s->run_count; r++) {
            place_t at = {s, arena, i, s->runs + 4 * r, 0};
            int found = gather(s, i, at.run, row_units, s->in_pixel, 1 << 30, segments, &at.terms);
            for (int group = 0; group < s->groups; group++)
                for (int tile = work.outputs.begin; tile < work.outputs.end; tile++) {
                    int p = tile * REAL_PANELS, first = p * REAL_LANES, panels = padded - p < REAL_PANELS ? padded - p : REAL_PANELS;
                    int part = s->outputs - first < panels * REAL_LANES ? s->outputs - first : panels * REAL_LANES;
                    const double *b = (const double *)s->weights + ((int64_t)group * padded + p) * s->panel;
                    for (spot_t spot = {0, 0}; spot.n < count; spot = next_spot(&at, spot)) {
                        int64_t wide[REAL_PANELS * REAL_LANES] = {0};
                        const int32_t *x = (const int32_t *)arena + s->in + spot.n * s->in_size +
                                           spot.t * at.run[3] * s->in_pixel + (int64_t)group * s->tap_channels;
                        for (int q = 0; q < panels; q++)
                            real_sums(s, x, segments, found, b + q * s->panel, wide + q * REAL_LANES);
                        bad |= finish_sums(&at, spot, group, first, part, NULL, wide);
                    }
                }
        }
    return bad;
}
