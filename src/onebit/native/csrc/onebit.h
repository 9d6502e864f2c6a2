/* Runs a packed net: a plan of steps over values in one arena, without allocating anything.
 *
 * The plan is made by onebit/native/plan.py, which has checked every shape; nothing here checks one again. All values
 * are units of 4 bytes, pixels in NHWC order: bits (32 channels a word, the first the lowest bit, 1 = +1, tail bits 0),
 * int32, or float32. What is computed is defined by onebit.runtime, bit for bit, on every instruction set.
 */
#ifndef ONEBIT_H
#define ONEBIT_H

#include <stddef.h>
#include <stdint.h>

/* What is done with a line of channels, one code after the other; p and q are arrays of channels and 15 numbers more. */
enum {
    OB_LINE_REAL = 1,     /* int32 -> float32 */
    OB_LINE_SCALE,        /* x * p */
    OB_LINE_CENTRE,       /* x + total * p */
    OB_LINE_AFFINE,       /* x * p + q in double, p and q too, of float32 */
    OB_LINE_AFFINE_INT,   /* the same, of int32 */
    OB_LINE_RELU,         /* max(x, 0), of float32 */
    OB_LINE_RELU_INT,
    OB_LINE_PRELU,        /* x > 0 ? x : x * p */
    OB_LINE_HARDTANH,     /* min(max(x, -1), 1), of float32 */
    OB_LINE_HARDTANH_INT,
    OB_LINE_THRESHOLD,    /* int32 -> 1 where (x ^ q) >= p, else 0; the last of its lines, as is the next */
    OB_LINE_SIGN          /* float32 -> 1 where x - p >= 0, else 0 */
};

typedef struct {
    int64_t code;
    const void *p, *q; /* NULL for 1 or 0 */
} ob_line;

/* Steps. `in`, `out`: see ob_step. */
enum {
    OB_STEP_LINES = 1,  /* `lines` on every pixel */
    OB_STEP_XNOR,       /* bits x bits -> sums, then `lines` */
    OB_STEP_BYTES,      /* uint8 x int8, 4 of them a unit -> sums, then `lines` */
    OB_STEP_LUT,        /* int32 x bits -> sums, then `lines` */
    OB_STEP_REAL,       /* int32 on a grid x real weights on theirs -> sums, then `lines` */
    OB_STEP_GRID,       /* float32 -> int32 on a grid; behind them the unit of the image and their largest magnitude */
    OB_STEP_EXPAND,     /* bits -> int32 of +1 and -1 */
    OB_STEP_ADD,        /* float32 + float32, then `lines` */
    OB_STEP_ADD_INT,
    OB_STEP_FILL,       /* `number` everywhere */
    OB_STEP_COPY,       /* a box of units, with strides on both sides */
    OB_STEP_MAX,        /* largest of a window, float32 */
    OB_STEP_MAX_INT,
    OB_STEP_MAX_BITS,   /* the same of signs */
    OB_STEP_SUM,        /* sums of windows in float32, row by row, then / divisor */
    OB_STEP_SUM_INT,    /* exact sums of windows */
    OB_STEP_AVERAGE     /* adaptive: sums in double, down and then across, / divisor */
};

typedef struct {
    int32_t step, groups;
    int64_t least, most;                /* of images in a batch: with others the step is left out */
    int64_t in, in2, out;               /* where the values of all images begin in the arena */
    int64_t in_size, in2_size, out_size; /* units of an image */
    int64_t scratch;                     /* further room in the arena */

    /* images */
    int32_t in_height, in_width, in_pixel;    /* pixel: units of a pixel */
    int32_t out_height, out_width, out_pixel;
    int32_t channels, tall;                   /* channels of a line; rows of tables that are kept */
    int32_t left, table_width;                /* tables of nothing before a row, where it is padded with 0; with those behind */

    /* windows: the input row (column) under tap k of output row (column) o is rows[o * taps + k], or -1 */
    const int32_t *rows, *columns;
    int32_t taps_down, taps_across;
    const int32_t *runs; /* of output columns with taps in equal places: (first, step, count, input columns a step) */
    int32_t run_count;
    int32_t number; /* a padding value, or what is filled in */

    /* products: rows of weights in panels of `lanes` outputs, one after the other for each group */
    const void *weights;
    int64_t panel;        /* units of a panel */
    int32_t outputs;      /* of a group */
    int32_t tap_channels; /* input channels of a group */
    int32_t tap_words;    /* units of a tap in a row of weights */
    int32_t tap_lookups;  /* lookups of a tap, of several pixels where their taps are one */
    int32_t real;         /* whether the input lies on a grid */
    int32_t centre;       /* whether the lines want sum(x) */
    int32_t together;     /* whether pixels of few channels are finished at once: parameters are repeated for them */
    const int64_t *tap_sums; /* [taps][outputs of all groups]: sums of the weights of a tap; NULL without padding value */
    const float *weight_units; /* of real weights */

    const ob_line *lines;
    int32_t line_count, bits; /* bits: the lines end in signs */
    const float *divisor;     /* of windows, [out_height][out_width] */

    /* boxes: counts, and strides in units of (channel, row, column) */
    int32_t box[3];
    int32_t from_stride[3], to_stride[3];
    int64_t from, to;
} ob_step;

typedef struct {
    const ob_step *steps;
    int64_t step_count;
    int32_t channels, height, width; /* of the image */
    int32_t byte_pixel;              /* bytes of a pixel of `bytes` */
    const float *mean, *std;         /* NULL for the coding 2x - 255 */
    int64_t input, output, output_size; /* where they lie, as in ob_step; input is -1 if no step wants it */
    int64_t bytes, bytes_size;       /* the image as it is, uint8 in NHWC order, each pixel filled up with 255; or -1 */
    int64_t arena_units, batch;      /* the arena has arena_units * 4 bytes, for `batch` images */
    int64_t scratch_units;           /* of these, what a thread needs for itself */
} ob_plan;

/* Where the threads that share a plan's steps wait for each other; all 0 before they begin. */
typedef struct {
    int32_t arrived, round;
    int32_t over; /* set where one of them will never come */
} ob_meeting;

typedef struct {
    const char *name;
    int32_t lanes;      /* outputs in a panel */
    int32_t lut_inputs; /* inputs that a lookup takes */
    int32_t lut_groups; /* lookups in a word */
    int32_t tile_rows, tile_outputs; /* the most of a tile */
    int32_t dense_words; /* words of a block of a dense layer's rows */
    int32_t bytes; /* images from which on a dense layer is faster with bytes than by lookups, INT32_MAX for none;
                      convolutions always are; 0: there is no step of bytes */
    /* One of `parts` threads that run the same images in the same arena, which is longer by scratch_units for each
     * further one. `meeting` is NULL for one. */
    int64_t (*run)(const ob_plan *plan, const uint8_t *images, int64_t count, uint32_t *arena, float *output, int32_t part,
                   int32_t parts, ob_meeting *meeting);
} ob_isa;

#if defined(_WIN32)
#define OB_PUBLIC __declspec(dllexport)
#else
#define OB_PUBLIC __attribute__((visibility("default")))
#endif

/* Bytes of a step, a plan, an instruction set: Python writes and reads them. */
OB_PUBLIC int ob_size(int which);
/* The instruction sets that were compiled in and that this processor has, the best last; NULL after them. */
OB_PUBLIC const ob_isa *ob_instruction_set(int index);
/* A multiplication and an addition, `steps` times, each of which waits for the one before: to measure the clock by. */
OB_PUBLIC uint64_t ob_chain(uint64_t x, uint64_t steps);

#endif
