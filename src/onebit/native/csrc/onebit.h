/* Runs a packed net: a plan of kernel calls on values in one arena. Nothing is allocated.
 *
 * onebit/native/plan.py makes the plan and checks every shape; this code does not check again. All values are
 * units of 4 bytes, with pixels in NHWC order: bits (32 channels per word, first channel in the lowest bit, 1
 * = +1, tail bits 0), int32, float32, or bytes: integers factor * byte - zero, without padding between
 * pixels. A value that is not an image is one row of pixels; its first axis are the channels. onebit.runtime
 * defines every result bit for bit, on every instruction set.
 */
#ifndef ONEBIT_H
#define ONEBIT_H

#include <stddef.h>
#include <stdint.h>

#include "../plain/numbers.h"

/* Epilogue operations: applied in order to a block of channels. p and q have one number per channel, plus 15
 * of padding. */
enum {
    OB_EPILOGUE_REAL = 1,   /* int32 -> float32 */
    OB_EPILOGUE_SCALE,      /* x * p */
    OB_EPILOGUE_SHIFT,      /* x + p */
    OB_EPILOGUE_CENTER,     /* x + total * p */
    OB_EPILOGUE_AFFINE,     /* x * p + q in double, p and q too, of float32 */
    OB_EPILOGUE_AFFINE_INT, /* the same, of int32 */
    OB_EPILOGUE_RELU,       /* max(x, 0), of float32 */
    OB_EPILOGUE_RELU_INT,
    OB_EPILOGUE_PRELU,    /* x > 0 ? x : x * p */
    OB_EPILOGUE_HARDTANH, /* min(max(x, -1), 1), of float32 */
    OB_EPILOGUE_HARDTANH_INT,
    OB_EPILOGUE_CLAMP,      /* x < p[0] ? p[0] : x > q[0] ? q[0] : x, of float32 */
    OB_EPILOGUE_THRESHOLD,  /* int32 -> 1 where (x ^ q) >= p, else 0; the last operation of its epilogue */
    OB_EPILOGUE_SIGN,       /* float32 -> 1 where x - p >= 0, else 0; also last */
    OB_EPILOGUE_REQUANTIZE, /* int32 -> floor(x * p[0] + more[0] * p[1] + ... + q), least to most; in double,
                               p and q too */
    OB_EPILOGUE_QUANTIZE,   /* float32 -> int32, ties to even, least to most */
#define CODE(NAME, of) OB_EPILOGUE_##NAME,
    ACTIVATIONS(CODE) /* of float32 */
#undef CODE
};

/* Another value that an epilogue reads, of the same shape as the one it makes. */
typedef struct {
    int64_t place, size, pixel; /* as in ob_call */
    int64_t bytes;              /* 0: int32 */
} ob_more;

typedef struct {
    int64_t code;
    const void *p, *q; /* NULL for 1 or 0 */
    const ob_more *more;
    int64_t more_count, stride; /* stride: from p[0] to p[1] */
    int32_t least, most;
} ob_epilogue_op;

/* Kernels: what runs one in the library, whether an epilogue may end it, and what it makes. Python reads this
 * table too. */
#define OB_KERNELS(KERNEL)                                                                                  \
    KERNEL(POINTWISE, pointwise, 1) /* the epilogue on every pixel */                                       \
    KERNEL(ADD, pointwise, 1)       /* float32 + float32 */                                                 \
    KERNEL(ADD_INT, pointwise, 1)                                                                           \
    KERNEL(MULTIPLY, pointwise, 1)       /* float32 * float32 */                                            \
    KERNEL(XNOR, matmul_words, 1)        /* bits x bits -> sums */                                          \
    KERNEL(DOT, RUN_DOT, 1)              /* bytes x bits -> sums */                                         \
    KERNEL(DOT_LUT, RUN_DOT_LUT, 1)      /* the same by lookups of 16-bit sums */                           \
    KERNEL(LUT, RUN_LUT, 1)              /* int32 x bits -> sums */                                         \
    KERNEL(REAL, matmul_real, 1)         /* int32 x real weights, both on grids -> sums */                  \
    KERNEL(DEPTHWISE, depthwise, 1)      /* int32 x bits, each channel by itself -> sums */                 \
    KERNEL(DEPTHWISE_REAL, depthwise, 1) /* the same with real weights */                                   \
    KERNEL(GRID, to_grid, 0)       /* float32 -> int32 on a grid, then the image's grid unit and a bound */ \
    KERNEL(EXPAND, expand_bits, 0) /* bits -> int32 of +1 and -1 */                                         \
    KERNEL(LEVELS, levels_to_grid, 0) /* bits that mean `low` and `high` -> levels_t of moves.h */          \
    KERNEL(FILL, fill, 0)             /* `constant` everywhere */                                           \
    KERNEL(COPY, copy_box, 0)         /* a box of units, strides on both sides; one of 0 repeats them */    \
    KERNEL(MAX, pool, 0)              /* the largest value of each window, float32 */                       \
    KERNEL(MAX_INT, pool, 0)                                                                                \
    KERNEL(MAX_BITS, pool, 0) /* the same for signs */                                                      \
    KERNEL(MAX_BYTES, pool, 0)                                                                              \
    KERNEL(SUM, pool, 0)                   /* sums of windows in float32, row by row, then / divisor */     \
    KERNEL(SUM_INT, pool, 0)               /* exact sums of windows, of int32 or bytes */                   \
    KERNEL(AVERAGE, adaptive_average, 0)   /* adaptive: sums in double, down and then across, / divisor */  \
    KERNEL(NORMALIZE, normalize_groups, 1) /* (x - mean) / deviation of groups of channels */               \
    KERNEL(SOFTMAX, softmax, 0)            /* of the channels of each pixel */                              \
    KERNEL(PRODUCT, RUN_PRODUCT, 1)        /* pixels of a row times pixels of a row of in2, both on grids */
#define OB_KERNEL_ID(name, run, epilogue) OB_KERNEL_##name,
enum { OB_KERNEL_NONE, OB_KERNELS(OB_KERNEL_ID) };

#define OB_AXES 6

/* Sizes on which weights and scratch memory depend. Those of OB_KERNEL_DOT_LUT are explained in dot_lut.h,
 * and of tiles of bytes in amx.h. */
#define OB_BLOCK 256        /* most channels that an epilogue works on at once */
#define OB_VECTOR 16        /* it works on a multiple of this number */
#define OB_SEGMENT_UNITS 6  /* of scratch memory for a tap: a segment_t of matmul.h */
#define OB_REAL_LANES 16    /* outputs per panel of OB_KERNEL_REAL */
#define OB_PRODUCT_LANES 32 /* outputs and rows of a tile of OB_KERNEL_PRODUCT */
#define OB_PRODUCT_ROWS 4
#define OB_DOT_LUT_INPUTS 5
#define OB_DOT_LUT_GROUPS 3
#define OB_DOT_LUT_WORDS 17
#define OB_DOT_LUT_TABLE 32
#define OB_AMX_INPUTS 64
#define OB_AMX_ROWS 32
#define OB_AMX_BYTES 1024
#define OB_AMX_PLANES 4
#define OB_AMX_STEPS 8
#define OB_AMX_DENSE_ROWS 256
#define OB_AMX_OUTPUTS 128

/* One kernel call. */
typedef struct {
    int32_t kernel, groups;
    int64_t in, in2, out;                /* where the values of all images begin in the arena */
    int64_t in_size, in2_size, out_size; /* units per image */
    int64_t scratch;                     /* where scratch memory begins in the arena */

    /* images */
    int32_t in_height, in_width, in_pixel; /* pixel: units per pixel, or bytes */
    int32_t out_height, out_width, out_pixel;
    int32_t in_factor, in_zero;  /* of bytes; in_factor is 0 for units */
    int32_t out_bytes, out_zero; /* whether the epilogue's integers become bytes, plus out_zero */
    int32_t channels;            /* of the output */
    int32_t table_rows; /* input rows that are kept: their lookup tables, or bytes with padding; or 0 */
    int32_t table_left, table_width; /* pixels of padding before a row that is kept; all of its pixels */
    int32_t table_byte;              /* the padding as a byte */
    int32_t block; /* tiles of outputs whose weights are bytes at the same time, or with `planes` images;
                      OB_KERNEL_NORMALIZE: pixels that are normalized together */

    /* windows: the input row (column) under tap k of output row (column) o is rows[o * taps + k], or -1 */
    const int32_t *rows, *columns;
    int32_t taps_down, taps_across;
    const int32_t
        *runs; /* output columns with the same taps inside the image: (first, stride, count, input stride) */
    int32_t run_count;
    int32_t constant; /* the padding value, or the value to fill with */
    float low, high;  /* OB_KERNEL_LEVELS; OB_KERNEL_NORMALIZE: low is added to the variance */

    /* matrix products: rows of weights in panels of `lanes` outputs, group by group; for OB_KERNEL_DEPTHWISE
     * -1 or 0 for each output, tap by tap, and for OB_KERNEL_DEPTHWISE_REAL doubles */
    const void *weights;
    int64_t panel;        /* units per panel; for OB_KERNEL_DOT bytes of 32 outputs, see dot.h */
    int32_t outputs;      /* per group */
    int32_t tap_channels; /* input channels per group */
    int32_t tap_words;    /* units per tap in a row of weights; for OB_KERNEL_DOT fours of bytes */
    int32_t tap_lookups;  /* lookups per tap; a tap may cover several neighboring pixels */
    int32_t tap_fours; /* OB_KERNEL_DOT: fours per tap in the memory of a call, with those that have weights
                          of 0 */
    int32_t real;      /* the input is on a grid (for OB_KERNEL_AVERAGE: is float32) */
    int32_t levels;    /* OB_KERNEL_XNOR: bits mean the levels in in2, and sums are real */
    int32_t center;    /* the epilogue needs sum(x); OB_KERNEL_NORMALIZE subtracts the mean */
    int32_t
        planes; /* OB_KERNEL_LUT, dense: fewest images of a batch that is multiplied byte by byte; 0: never */
    int32_t together; /* finish this number of pixels of few channels as one block: parameters are repeated
                         for them */
    int32_t scaled;   /* OB_KERNEL_LUT, dense: inputs that share a scale, a tap of the weights; or 0 */
    const int64_t *tap_sums; /* [taps][outputs of all groups]: sums of the weights of a tap; NULL if they are
                                not needed */
    const float *weight_units; /* grid units of real weights */
    const float *scales;       /* for each `scaled` inputs, in panels as the weights */

    const ob_epilogue_op *epilogue;
    int32_t epilogue_count,
        bits; /* bits: of a word of the signs in which the epilogue ends, 32, or fewer where each pixel has a
                 word and several pixels are finished together; 0: it does not end in signs */
    const float *divisor; /* per window, [out_height][out_width] */

    /* boxes: counts, and strides in units. The first axis is the innermost, the second the outermost: threads
     * share it. */
    int32_t box[OB_AXES];
    int32_t from_stride[OB_AXES], to_stride[OB_AXES];
    int64_t from, to;
} ob_call;

/* How the input becomes the first value. */
enum {
    OB_CODING_BYTES = 1, /* uint8, as they are */
    OB_CODING_MOMENTS,   /* uint8 -> (x - mean) / std */
    OB_CODING_REALS      /* float32, as they are */
};

typedef struct {
    int64_t place, size;             /* offset as in ob_call, and units per image */
    int32_t channels, height, width; /* of an image */
    int32_t coding;
    const float *mean, *std;
} ob_input;

typedef struct {
    int64_t place, size; /* as in ob_input */
} ob_output;

typedef struct {
    const ob_call *calls;
    int64_t call_count;
    int32_t input_count, output_count;
    const ob_input *inputs;
    const ob_output *outputs;
    int64_t arena_units, batch; /* the arena has arena_units * 4 bytes, for `batch` images */
    int64_t scratch_units;      /* of these, scratch memory of one thread */
} ob_plan;

/* Barrier of the threads that share a plan's kernel calls; all 0 at first. */
typedef struct {
    int32_t arrived, generation;
    int32_t cancelled; /* set when some thread will never arrive */
} ob_barrier;

#define OB_PANEL_ROWS 32
#define OB_TURN_ROWS 128 /* that a call of run_turn holds at once */
#define OB_SEGMENT 256

/* A matrix of a language model: rows of weights in the order of its outputs, a multiple of 32 inputs.
 *
 * OB_MATRIX_Q1_0 has blocks of a float16 scale and 128 signs; its products have float32 inputs.
 * OB_MATRIX_PANELS has the same blocks as sign_tables.h turns them; its products have rounded inputs. */
typedef struct {
    const void *rows;
    const float *bias; /* NULL for none */
    int64_t outputs, inputs;
    int32_t kind, unused;
} ob_matrix;

enum { OB_MATRIX_F32 = 1, OB_MATRIX_F16, OB_MATRIX_BF16, OB_MATRIX_Q8_0, OB_MATRIX_Q1_0, OB_MATRIX_PANELS };

/* A decoder of a llama or a qwen3: `rows` tokens from `position` on. See decoder.h. */
typedef struct {
    int64_t width, inner, layers, heads, kv_heads, head_size, context;
    int32_t interleaved, kv_bytes; /* interleaved: rotates pairs of neighbors, not halves; kv_bytes: 2 for
                                      float16, 1 for int8 */
    double eps;
    const ob_matrix *matrices; /* embedding, head, then of each layer those of q, k, v, attention's output,
                                  gate, up, down */
    const void *norms; /* float32 pointers: the last one, then of each layer: attention, feed-forward, q, k;
                          NULL for none */
    const float *rotation; /* [context][head_size / 2]: cosine, sine */
    void *keys, *values;   /* [positions / OB_SEGMENT][layer][head], of OB_SEGMENT positions */
    float *kv_scales;      /* of int8: [positions / OB_SEGMENT][layer][head][key or value][OB_SEGMENT] */
    const int32_t *tokens;
    int64_t rows, position, row_limit; /* row_limit: the most rows of a call */
    float *logits;                     /* of the last row, or with `all` of every row; NULL for none */
    int64_t all;
    int32_t taken[3], parts; /* taken: 0 before a call; parts: threads */
    void *scratch;           /* aligned to 64 bytes */
} ob_decoder;

/* BatchNorm of a training step: y = normalized x + shortcut within bounds, and its gradients. Values are rows
 * of channels. */
typedef struct {
    int64_t rows;
    int32_t channels, bf16; /* bf16: values are bfloat16, not float32 */
    double eps, momentum;
    float least, most;                 /* bounds of y: 0 and NaN for a ReLU; NaN for none */
    const void *x, *shortcut;          /* shortcut: NULL for none */
    void *out;                         /* y; in a backward pass NULL where x tells what is at a bound */
    const float *weight, *bias;        /* NULL for 1 and 0 */
    float *running_mean, *running_var; /* NULL for none */
    float *statistics; /* mean, 1/deviation, and the factor and offset of y, each one per channel */
    const void *gradient, *second_gradient; /* to y; their sum, where the second is not NULL */
    void *kept;       /* the gradient before the bounds, NULL not to keep it; needed with two gradients */
    void *x_gradient; /* may be `kept` */
    float *weight_gradient, *bias_gradient; /* NULL where not needed */
    double *scratch;
} ob_norm;

/* The stages of a forward pass, and of a backward pass: all parts end one before the next begins. */
enum { OB_NORM_MOMENTS = 1, OB_NORM_NORMALIZE, OB_NORM_SUMS, OB_NORM_PROPAGATE };

#define OB_MAX_TAPS 49

/* The gradient to the weights of a convolution with zero padding, without groups and dilation, from float32
 * or bfloat16 values in channels_last. Pairs are down and across. Values that are not finite may make others
 * NaN. */
typedef struct {
    int64_t images;
    int32_t channels, outputs, in_size[2], out_size[2], kernel[2], stride[2], padding[2], bf16;
    int32_t x_signs; /* take the signs of x; lookups always do */
    float x_middle;  /* of lookups: the sign of x is that of x - x_middle */
    const void *x, *gradient;
    float *to;
    int64_t to_stride[4]; /* of outputs, channels, and taps down and across */
    void *scratch;        /* aligned to 64 bytes */
} ob_convolution;

/* y = a convolution of x, or of its signs, with the signs of weights, without groups and dilation, in
 * channels_last. Pairs are down and across. In tiles, the products are exact, and their sums float32; with
 * lookups, values are rounded relative to the largest of their image. A value that is not finite may make its
 * neighbours, or its image, NaN. */
typedef struct {
    int64_t images;
    int32_t channels, outputs, in_size[2], out_size[2], kernel[2], stride[2];
    int32_t padding[2], spread[2]; /* before x; the distance of its pixels, with zeros between them */
    int32_t x_signs, bf16, turned; /* bf16: of x, y and `cut` */
    float bound;
    const void *x;
    const float
        *weight; /* in channels_last; turned: that of the convolution whose gradient to its input this is */
    const float *x_scale, *y_scale; /* per channel, without x_signs, and per output; NULL for 1 */
    const void *cut; /* of the shape of y: NULL, or y is 0 where its magnitude is at least `bound` */
    void *y;
    void *scratch; /* aligned to 64 bytes */
} ob_signed_convolution;

/* The stages: all parts end one before the next begins. */
enum { OB_CONVOLUTION_PACK = 1, OB_CONVOLUTION_SUMS };

/* The stages: all parts end one before the next begins. */
enum { OB_WEIGHT_SUMS = 1, OB_WEIGHT_TOTAL };

/* A surrogate gradient of the sign: gradient times a factor that depends on x. */
typedef struct {
    int32_t bf16, kind; /* bf16: values are bfloat16, not float32 */
    float steepness, height;
    const void *x, *gradient;
    void *to;
} ob_surrogate;

enum {
    OB_SURROGATE_TRIANGLE = 1, /* 2 - 2|x| where |x| < 1, else 0 */
    OB_SURROGATE_BELL          /* height * s(1 - s), s = sigmoid(steepness * x) */
};

/* The draw of a binary concrete weight at a low temperature, if there is noise, else its slope.
 *
 * Draw: `to` is +1 where u > p = sigmoid(-2 latent), else -1, with u = noise / 2^16 + 1/2 + 1/2^17; `near` is
 * at most 1e-6. Slope: `to` is gradient / (1 - tanh²(latent) + epsilon) * factor, where tanh is rounded to
 * float32. */
typedef struct {
    int32_t bf16; /* of ±1 and of the gradient: bfloat16, not float32 */
    float near, epsilon, factor;
    const float *latent;
    const int16_t *noise;
    const void *gradient;
    void *to;
} ob_concrete;

/* An activation of a training step with learned numbers, and its gradients: y = offset + f(x - shift), one of
 * each number per channel. Values are rows of channels. */
typedef struct {
    int64_t rows;
    int32_t channels, bf16, kind;                             /* bf16: values are bfloat16, not float32 */
    const void *x, *gradient;                                 /* gradient: to y; NULL in a forward pass */
    void *to;                                                 /* y, or the gradient to x */
    const float *shift, *scale, *offset;                      /* scale and offset may be NULL for 1 and 0 */
    float *shift_gradient, *scale_gradient, *offset_gradient; /* NULL where not needed */
    double *scratch;
} ob_activation;

enum {
    OB_ACTIVATION_RPRELU = 1, /* f(d) = d where d > 0, else scale * d */
    OB_ACTIVATION_SIGN /* f(d) = -scale where d < 0, else scale; in place of its derivative, with z = d /
                          scale, 2 - 2|z| where |z| < 1, else 0 */
};

/* The stages, of which a forward pass has only the first: all parts end one before the next begins. */
enum { OB_STAGE_VALUES = 1, OB_STAGE_TOTAL };

/* The signs of rows of latents, as bits in panels: words of the inputs of one lookup after the other, for as
 * many rows as a register has lanes. `transposed` has those of the columns. */
typedef struct {
    int64_t rows, columns;
    int32_t bf16; /* latents are bfloat16, not float32 */
    int32_t seed[2], of_tanh;
    float steepness; /* 0: the sign; else +1 where x * steepness >= r, which is uniform in [-2^23, 2^23); x is
                        the latent, or with `of_tanh` its tanh */
    const void *x;
    uint32_t *panels, *transposed;
    float *most;   /* the largest magnitude of each block of rows */
    void *scratch; /* aligned to 64 bytes */
} ob_signs;

/* y = x * signs of `panels`, times `scale` per output; float32 sums. */
typedef struct {
    int64_t rows, inputs, outputs, most_count;
    int32_t x_bf16, y_bf16, stream; /* stream: y is larger than the caches */
    float bound;
    const void *x;
    void *y;
    const uint32_t *panels, *x_panels; /* x_panels: NULL, or the signs of x, which are all of it */
    const float *scale;                /* NULL for 1 */
    const float *latent,
        *most;         /* of the shape of y: NULL, or y is 0 where it is beyond +-bound; most: of ob_signs */
    const float *mean; /* NULL, or a number per row, added to y with the signs of the latents */
    const uint32_t *signs; /* these, as `transposed` of ob_signs has them */
    void *scratch;
} ob_product;

/* to[output][input] = sum over rows of gradient[row][output] * x[row][input], float32 sums. */
typedef struct {
    int64_t rows, inputs, outputs, most_count;
    int32_t x_bf16, gradient_bf16, pairs; /* pairs: products of bfloat16 where the processor has them */
    float bound;
    const void *x, *gradient;
    const float *latent, *most, *mean; /* as in ob_product */
    const uint32_t *signs;
    float *to;
    void *scratch;
} ob_dense_gradient;

/* The stages: all parts end one before the next begins. */
enum { OB_DENSE_PACK = 1, OB_DENSE_SUMS };

/* One step of an optimizer on float32 latents, then the clip to -clip ... clip.
 *
 * Adam: w *= kept; mean += (g - mean) * share; square = square * square_kept + g² * square_share;
 *       w -= rate * mean / (root(square) + epsilon).
 * Momentum: g += w * decay; mean = mean * kept + g * share; w -= rate * mean, or with `nesterov` rate * (g +
 * kept * mean). Flip: mean += (g - mean) * share; w becomes its sign, or the other where mean * sign >
 * threshold. */
typedef struct {
    int32_t kind, nesterov;
    float kept, share, square_kept, square_share, rate, epsilon, decay, threshold, clip;
    float *latent, *mean, *square; /* mean may be NULL for momentum */
    const float *gradient;
} ob_update;

enum { OB_UPDATE_ADAM = 1, OB_UPDATE_MOMENTUM, OB_UPDATE_FLIP };

typedef struct {
    const char *name;
    int32_t lanes;                   /* outputs per panel */
    int32_t lut_inputs;              /* inputs per lookup */
    int32_t lut_groups;              /* lookups per word */
    int32_t tile_rows, tile_outputs; /* largest tile */
    int32_t dense_words;             /* words per block of a dense layer's rows */
    int32_t row_units;               /* of scratch memory that lut_rows.h needs; 0: it is not used */
    int32_t dot_fours,
        dot_shift;      /* see dot.h; dot_fours is 0 without OB_KERNEL_DOT, whose layers use lookups */
    int32_t dot_lut;    /* outputs per panel of OB_KERNEL_DOT_LUT; 0: there is no such kernel */
    int32_t byte_tiles; /* 0, or with registers that hold tiles of bytes, the smallest batch for which a dense
                           layer of int32 is faster byte by byte than with lookups */
    /* Runs part number `part` of `parts`, one thread each, on the same images and arena. Each thread after
     * the first adds scratch_units to the arena. `barrier` is NULL for a single thread. `images` has the
     * first input of all images, then the second at the next multiple of 4 bytes, …; `answers` is filled with
     * the first output of all images, then the second, … */
    int64_t (*run)(const ob_plan *plan, const void *images, int64_t count, uint32_t *arena, float *answers,
                   int32_t part, int32_t parts, ob_barrier *barrier);
    /* Part number `part` of `parts` of a stage; returns the size of the scratch memory of all parts, in
     * numbers. If `scratch` is NULL, it does nothing else. NULL where the compiler has no vectors of GNU C.
     */
    int64_t (*run_norm)(const ob_norm *call, int32_t stage, int32_t part, int32_t parts);
    /* Values number `begin` to `end`; NULL as run_norm. */
    void (*run_surrogate)(const ob_surrogate *call, int64_t begin, int64_t end);
    /* As run_norm. */
    int64_t (*run_activation)(const ob_activation *call, int32_t stage, int32_t part, int32_t parts);
    /* Part number `part` of `parts` of a stage; returns the size of the scratch memory of all parts, in
     * bytes. If `scratch` is NULL, it does nothing else. NULL where there are no tiles of bfloat16. The
     * result is the same for any `parts`. */
    int64_t (*run_weight_gradient)(const ob_convolution *call, int32_t stage, int32_t part, int32_t parts);
    /* As run_weight_gradient. */
    int64_t (*run_convolution)(const ob_signed_convolution *call, int32_t stage, int32_t part, int32_t parts);
    /* Values number `begin` to `end`; returns 1 if any drawn |u - p| is not at least `near`, as with NaN,
     * else 0. NULL as run_norm. */
    int64_t (*run_concrete)(const ob_concrete *call, int64_t begin, int64_t end);
    /* As run_weight_gradient; NULL without lookups in registers. */
    int64_t (*run_signs)(const ob_signs *call, int32_t stage, int32_t part, int32_t parts);
    int64_t (*run_product)(const ob_product *call, int32_t stage, int32_t part, int32_t parts);
    int64_t (*run_dense_gradient)(const ob_dense_gradient *call, int32_t stage, int32_t part, int32_t parts);
    /* Values number `begin` to `end`; NULL as run_norm. */
    void (*run_update)(const ob_update *call, int64_t begin, int64_t end);
    /* Turns rows of OB_MATRIX_Q1_0 into panels; `to` may be the rows, if the outputs are a multiple of
     * OB_PANEL_ROWS. `scratch` has room for OB_TURN_ROWS rows. NULL as run_norm. */
    void (*run_turn)(const ob_matrix *rows, void *to, void *scratch);
    /* Part number `part` of `parts`, one thread each; returns the size of the scratch memory in bytes, and
     * does nothing else if `scratch` is NULL. The result is the same for any `parts`. */
    int64_t (*run_decoder)(ob_decoder *call, int32_t part, int32_t parts, ob_barrier *barrier);
} ob_isa;

#if defined(_WIN32)
#define OB_PUBLIC __declspec(dllexport)
#else
#define OB_PUBLIC __attribute__((visibility("default")))
#endif

/* The hash of this file: Python compares it with that of the file which its structures are made from. */
OB_PUBLIC const char *ob_abi(void);
/* The instruction sets that were compiled in, the best last; NULL after them. */
OB_PUBLIC const ob_isa *ob_instruction_set(int index);
/* Whether this processor supports that instruction set. */
OB_PUBLIC int ob_is_supported(int index);
/* Whether the processor looks up 16-bit sums as fast as it multiplies bytes. */
OB_PUBLIC int ob_looks_up_quickly(void);

#endif
