/* matmul_float_neon.c - products with matrices of halves and floats: a column of 16 rows is four vectors, each token's
 * x is broadcast. Tile: 1 panel x 6 tokens, a chain of fused multiply-adds over rising columns per row and token. */
#include "cpu/arm/panel_sums_neon.h"
#include "cpu/fill.h"

enum { TOKENS = 6, CHUNK = 256 }; /* columns: a panel's floats are 16 KB */

INLINE float32x4_t column(pack_type type, const uint8_t *panel, size_t c, int quarter) {
    if (type == PACK_F16)
        return load4_f16((const uint16_t *)panel + c * PACK_ROWS + quarter * 4, 4);
    return vld1q_f32((const float *)panel + c * PACK_ROWS + quarter * 4);
}

INLINE void one_panel(pack_type type, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    size_t n_cols = (size_t)s->w->n_cols;
    const float *x = s->x->x + (size_t)token * n_cols;
    const uint8_t *data = s->w->data + (size_t)panel * s->w->panel_bytes;
    panel_sums sums;
    panel_sums_open(&sums, s, panel, token, n_tokens, first == 0);
    float32x4_t acc[TOKENS][4];
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (int k = 0; k < 4; k++)
            acc[t][k] = first == 0 ? vdupq_n_f32(0) : vld1q_f32(sums.at + (size_t)t * sums.ld + k * 4);
    for (size_t c = (size_t)first; c < (size_t)first + (size_t)n; c++) {
        float32x4_t w[4];
#pragma GCC unroll 8
        for (int k = 0; k < 4; k++)
            w[k] = column(type, data, c, k);
#pragma GCC unroll 8
        for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
            for (int k = 0; k < 4; k++)
                acc[t][k] = vfmaq_n_f32(acc[t][k], w[k], x[(size_t)t * n_cols + c]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (int k = 0; k < 4; k++)
            vst1q_f32(sums.at + (size_t)t * sums.ld + k * 4, acc[t][k]);
    panel_sums_close(&sums);
}

#define TILE_FUNCTION(name, type, p, t)                                                                                \
    static void name##_##p##x##t(const sweep *s, int panel, int first, int n, int token) {                             \
        for (int i = 0; i < p; i++)                                                                                    \
            one_panel(type, t, s, panel + i, first, n, token);                                                         \
    }
#define TILE_ROW(name, type, p)                                                                                        \
    TILE_FUNCTION(name, type, p, 1)                                                                                    \
    TILE_FUNCTION(name, type, p, 2)                                                                                    \
    TILE_FUNCTION(name, type, p, 3)                                                                                    \
    TILE_FUNCTION(name, type, p, 4)                                                                                    \
    TILE_FUNCTION(name, type, p, 5)                                                                                    \
    TILE_FUNCTION(name, type, p, 6)
#define KERNEL(name, type)                                                                                             \
    TILE_ROW(name, type, 1)                                                                                            \
    TILE_ROW(name, type, 2)                                                                                            \
    static void matmul_##name(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,    \
                              float *out, size_t ldo) {                                                                \
        static const sweep_tile tiles[2 * TOKENS] = {name##_1x1, name##_1x2, name##_1x3, name##_1x4,                   \
                                                     name##_1x5, name##_1x6, name##_2x1, name##_2x2,                   \
                                                     name##_2x3, name##_2x4, name##_2x5, name##_2x6};                  \
        sweep s = {w, x, out, ldo};                                                                                    \
        sweep_run(&s, tiles, TOKENS, w->n_cols, CHUNK, sizeof(float), panel_first, n_panels, n_tokens);                \
    }

KERNEL(f16, PACK_F16)
KERNEL(f32, PACK_F32)

void matmul_float_neon_fill(cpu_kernels *k) {
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
