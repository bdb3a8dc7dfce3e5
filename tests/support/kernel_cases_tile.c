/* kernel_cases_tile.c - the cases of products over KV tiles. Gaps between rows are NaN: a kernel that reads one shows
 * it. */
#include "support/kernel_cases.h"
#include <math.h>

static const int tile_bytes[TILE_COUNT] = {[TILE_F16] = 64, [TILE_U2] = 8, [TILE_E4M3] = 32};

/* variant 1: rows of a and out lie apart, and the tile is prefetched. */
static size_t lda(const kernel_size *s) {
    return (size_t)s->n + (s->variant ? 3 : 0);
}

static size_t ldo(const kernel_size *s) {
    return TILE + (s->variant ? 5 : 0);
}

static void layout(const kernel_case *c, const kernel_size *s, kernel_buffer *b) {
    size_t below = (size_t)s->n_rows - 1;
    b[0] = (kernel_buffer){.element = KERNEL_F32, .n = below * lda(s) + (size_t)s->n, .align = 4};
    b[1] = (kernel_buffer){.element = c->type == TILE_F16 ? KERNEL_F16 : KERNEL_U8,
                           .n = (size_t)s->n * (size_t)tile_bytes[c->type] / (c->type == TILE_F16 ? 2 : 1),
                           .stream = true,
                           .align = 8};
    b[2] = (kernel_buffer){.element = KERNEL_F32, .n = below * ldo(s) + TILE, .out = true, .align = 4};
}

static void fill_matrix(float *x, int n_rows, size_t wide, size_t stride, uint64_t *state, bool magnitudes) {
    for (size_t r = 0; r < (size_t)n_rows; r++)
        for (size_t i = 0; i < stride && (r + 1 < (size_t)n_rows || i < wide); i++)
            x[r * stride + i] = i < wide ? kernel_draw_float(state, magnitudes) : NAN;
}

static void fill(const kernel_case *c, const kernel_size *s, uint64_t seed, bool magnitudes, void *const *buffer) {
    fill_matrix(buffer[0], s->n_rows, (size_t)s->n, lda(s), &seed, magnitudes);
    fill_matrix(buffer[2], s->n_rows, TILE, ldo(s), &seed, magnitudes);
    for (int i = 0; i < s->n * tile_bytes[c->type]; i++) {
        uint32_t u = kernel_draw(&seed);
        if (c->type == TILE_U2)
            ((uint8_t *)buffer[1])[i] = (uint8_t)u;
        else if (c->type == TILE_E4M3) /* all but the two NaNs */
            ((uint8_t *)buffer[1])[i] = (uint8_t)((u % 127) | (magnitudes ? 0 : u >> 31 << 7));
        else if (i % 2 == 0) /* any half below 2^3, subnormals among them */
            ((f16 *)buffer[1])[i / 2] = (f16)(u % 0x4800 | (magnitudes ? 0 : u >> 31 << 15));
    }
}

static void run(const cpu_kernels *k, const kernel_case *c, const kernel_size *s, int first, int n,
                void *const *buffer) {
    const float *a = (const float *)buffer[0] + (size_t)first * lda(s);
    float *out = (float *)buffer[2] + (size_t)first * ldo(s);
    k->tile[c->type](a, lda(s), n, buffer[1], s->n, out, ldo(s), s->variant ? buffer[1] : NULL);
}

static double ops(const kernel_case *c, const kernel_size *s) {
    (void)c;
    return 2.0 * s->n * s->n_rows * TILE;
}

#define TILE_CASE(id, text, tile)                                                                                      \
    static const kernel_case id = {                                                                                    \
        .name = text,                                                                                                  \
        .rule = KERNEL_SUM,                                                                                            \
        .step = {1, 1, 1, 0},                                                                                          \
        .most = {67, 19, 1, 2},                                                                                        \
        .bench = {128, 6, 1, 0},                                                                                       \
        .rows_apart = true,                                                                                            \
        .entry = ENTRY_TILE,                                                                                           \
        .type = tile,                                                                                                  \
        .layout = layout,                                                                                              \
        .fill = fill,                                                                                                  \
        .run = run,                                                                                                    \
        .ops = ops,                                                                                                    \
    }

TILE_CASE(f16_tile, "tile.f16", TILE_F16);
TILE_CASE(u2_tile, "tile.u2", TILE_U2);
TILE_CASE(e4m3_tile, "tile.e4m3", TILE_E4M3);

const kernel_case *const kernel_cases_tile[] = {&f16_tile, &u2_tile, &e4m3_tile, NULL};
