/* The instructions of AMX and AVX-VNNI that the kernels use, on a processor without them: it refuses each with SIGILL, and the
 * handler does its work, as the manual of the architecture defines it. The kernels are the very same machine code. Wrong use
 * of tiles ends the process with a message: shapes that do not fit, tiles that are not configured, a configuration that the
 * processor refuses. Each thread has its own tiles.
 *
 * Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TILESTORED, TILEZERO,
 * TILERELEASE, TDPB*D, VPDPBUSD, and VPDPWSSD, which clang makes of other sums; volume 1, 13.4, for the order of XSAVE.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "onebit.h"

#define TILES 8
#define TILE_ROWS 16
#define ROW_BYTES 64

typedef union {
    uint8_t u[ROW_BYTES];
    int8_t s[ROW_BYTES];
    int32_t i[ROW_BYTES / 4];
} row_t;

static _Thread_local struct {
    int configured, colsb[TILES], rows[TILES];
    row_t tile[TILES][TILE_ROWS];
} state;

static int products; /* done in all threads */
OB_PUBLIC int emulated_products(void) { return __atomic_load_n(&products, __ATOMIC_RELAXED); }
/* Whether the tiles of this thread are released, so that switching threads does not save them. */
OB_PUBLIC int amx_released(void) { return !state.configured; }

#define REQUIRE(condition)                                                             \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "AMX: line %d requires %s\n", __LINE__, #condition);       \
            abort();                                                                   \
        }                                                                              \
    } while (0)

static void load_configuration(const uint8_t *from) {
    memset(&state, 0, sizeof state);
    if (from[0] == 0) return; /* palette 0: as after TILERELEASE */
    REQUIRE(from[0] == 1 && from[1] == 0);
    for (int k = 2; k < 16; k++) REQUIRE(from[k] == 0);
    for (int k = 16 + 2 * TILES; k < 48; k++) REQUIRE(from[k] == 0);
    for (int k = 48 + TILES; k < 64; k++) REQUIRE(from[k] == 0);
    for (int t = 0; t < TILES; t++) {
        state.colsb[t] = from[16 + 2 * t] | from[17 + 2 * t] << 8;
        state.rows[t] = from[48 + t];
        REQUIRE(state.colsb[t] <= ROW_BYTES && state.rows[t] <= TILE_ROWS);
        REQUIRE((state.colsb[t] == 0) == (state.rows[t] == 0));
    }
    state.configured = 1;
}

/* A tile with a shape. */
static row_t *used(int t) {
    REQUIRE(state.configured && t < TILES && state.rows[t] > 0);
    return state.tile[t];
}

static void load_tile(int t, const uint8_t *from, int64_t stride) {
    row_t *tile = used(t);
    memset(tile, 0, sizeof state.tile[t]); /* rows and columns beyond the shape as well */
    for (int m = 0; m < state.rows[t]; m++) memcpy(tile[m].u, from + m * stride, (size_t)state.colsb[t]);
}

static void store_tile(int t, uint8_t *to, int64_t stride) {
    const row_t *tile = used(t);
    for (int m = 0; m < state.rows[t]; m++) memcpy(to + m * stride, tile[m].u, (size_t)state.colsb[t]);
}

/* sum[m][n] += the products of four bytes of a[m] with four of b[k][n], for each k. */
static void add_products(int to, int left, int right, int left_signed, int right_signed) {
    row_t *sum = used(to);
    const row_t *a = used(left), *b = used(right);
    REQUIRE(to != left && to != right && left != right);
    REQUIRE(state.colsb[to] % 4 == 0 && state.colsb[left] % 4 == 0);
    REQUIRE(state.rows[to] == state.rows[left] && state.colsb[to] == state.colsb[right]);
    REQUIRE(state.colsb[left] / 4 == state.rows[right]);
    int columns = state.colsb[to] / 4;
    for (int m = 0; m < TILE_ROWS; m++) {
        if (m >= state.rows[to]) memset(&sum[m], 0, sizeof sum[m]);
        for (int k = 0; m < state.rows[to] && k < state.colsb[left] / 4; k++)
            for (int n = 0; n < columns; n++) {
                uint32_t total = (uint32_t)sum[m].i[n]; /* wraps */
                for (int j = 0; j < 4; j++) {
                    int x = left_signed ? a[m].s[4 * k + j] : a[m].u[4 * k + j];
                    int y = right_signed ? b[k].s[4 * n + j] : b[k].u[4 * n + j];
                    total += (uint32_t)(x * y);
                }
                sum[m].i[n] = (int32_t)total;
            }
        for (int n = columns; n < ROW_BYTES / 4; n++) sum[m].i[n] = 0;
    }
    __atomic_add_fetch(&products, 1, __ATOMIC_RELAXED);
}

/* A register by its number in an instruction. */
static int64_t of_register(const ucontext_t *at, int number) {
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return at->uc_mcontext.gregs[order[number]];
}

/* A register of 32 bytes as the signal saved it: its lower half, and its upper one. */
static uint8_t *half_of(const ucontext_t *at, int number, int upper) {
    uint8_t *saved = (uint8_t *)at->uc_mcontext.fpregs; /* in the order of XSAVE */
    return saved + (upper ? 576 : 160) + 16 * number;
}

/* VPDPBUSD, 32 bytes: to += the products of fours of x, without a sign, and of w. VPDPWSSD: of pairs in 16 bits, with a sign. */
static void add_lanes(const ucontext_t *at, int pairs, int to, int x, const uint8_t *const w[2]) {
    for (int half = 0; half < 2; half++) {
        union {
            uint8_t u[16];
            int8_t s[16];
            int16_t pair[8];
        } left, right;
        uint32_t sum[4]; /* wraps */
        memcpy(&left, half_of(at, x, half), 16);
        memcpy(&right, w[half], 16);
        memcpy(sum, half_of(at, to, half), 16);
        for (int k = 0; k < (pairs ? 8 : 16); k++)
            if (pairs)
                sum[k / 2] += (uint32_t)(left.pair[k] * right.pair[k]);
            else
                sum[k / 4] += (uint32_t)(left.u[k] * right.s[k]);
        memcpy(half_of(at, to, half), sum, 16);
    }
    *((uint8_t *)at->uc_mcontext.fpregs + 512) |= 6; /* both halves are restored */
    __atomic_add_fetch(&products, 1, __ATOMIC_RELAXED);
}

/* The address that an instruction names, and its index by itself. Returns the length of the instruction. */
static int address_of(const ucontext_t *at, const uint8_t *code, int64_t *address, int64_t *index) {
    int mode = code[4] >> 6, rm = code[4] & 7, length = 5;
    int index_extension = code[1] & 0x40 ? 0 : 8, base_extension = code[1] & 0x20 ? 0 : 8;
    *address = *index = 0;
    if (rm == 4) {
        int scale = code[5] >> 6, number = code[5] >> 3 & 7, base = code[5] & 7;
        length++;
        if (number + index_extension != 4) *index = of_register(at, number + index_extension) << scale;
        if (mode == 0 && base == 5)
            mode = 2;
        else
            *address = of_register(at, base + base_extension);
    } else if (mode == 0 && rm == 5)
        mode = 2, *address = (int64_t)(code + 9);
    else
        *address = of_register(at, rm + base_extension);
    if (mode == 1) *address += (int8_t)code[length], length += 1;
    if (mode == 2) {
        int32_t offset;
        memcpy(&offset, code + length, 4);
        *address += offset, length += 4;
    }
    return length;
}

/* Does the instruction at the program counter; returns its length, or 0 if it is not one of these. */
static int step(const ucontext_t *at) {
    const uint8_t *code = (const uint8_t *)at->uc_mcontext.gregs[REG_RIP];
    if (code[0] != 0xc4 || (code[1] & 31) != 2 || code[2] & 0x80) return 0; /* VEX.0F38.W0 */
    int prefix = code[2] & 3, opcode = code[3], mode = code[4] >> 6, reg = code[4] >> 3 & 7, rm = code[4] & 7;
    int other = ~code[2] >> 3 & 15, wide = code[2] & 4, length = 5;
    int64_t address = 0, index = 0;
    enum { NONE, P66, PF3, PF2 };
    if (mode != 3) length = address_of(at, code, &address, &index);
    if ((opcode == 0x50 || opcode == 0x52) && wide && prefix == P66) {
        const uint8_t *in_memory = (const uint8_t *)(address + index), *w[2] = {in_memory, in_memory + 16};
        int right = rm + (code[1] & 0x20 ? 0 : 8);
        if (mode == 3) w[0] = half_of(at, right, 0), w[1] = half_of(at, right, 1);
        add_lanes(at, opcode == 0x52, reg + (code[1] & 0x80 ? 0 : 8), other, w);
        return length;
    }
    if (wide) return 0;
    if (opcode == 0x5e && mode == 3)
        add_products(reg, rm, other, prefix == PF2 || prefix == PF3, prefix == P66 || prefix == PF2);
    else if (opcode == 0x49 && mode == 3 && prefix == NONE && code[4] == 0xc0)
        memset(&state, 0, sizeof state);
    else if (opcode == 0x49 && mode == 3 && prefix == PF2 && rm == 0)
        memset(used(reg), 0, sizeof state.tile[reg]);
    else if (opcode == 0x49 && mode != 3 && prefix == NONE && reg == 0)
        load_configuration((const uint8_t *)(address + index));
    else if (opcode == 0x4b && mode != 3 && rm == 4 && prefix == PF3)
        store_tile(reg, (uint8_t *)address, index);
    else if (opcode == 0x4b && mode != 3 && rm == 4 && prefix != NONE)
        load_tile(reg, (const uint8_t *)address, index);
    else
        return 0;
    return length;
}

static struct sigaction before;

static void refused(int signal, siginfo_t *info, void *context) {
    ucontext_t *at = context;
    int length = step(at);
    (void)info;
    if (length) {
        at->uc_mcontext.gregs[REG_RIP] += length;
        return;
    }
    sigaction(signal, &before, NULL); /* the instruction is refused again, and the handler before it is called */
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    action.sa_sigaction = refused;
    sigaction(SIGILL, &action, &before);
}
