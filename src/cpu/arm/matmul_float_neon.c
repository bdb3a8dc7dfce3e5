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

INLINE void tile(pack_type type, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    for (int p = panel; p < panel + n_panels; p++)
        one_panel(type, n_tokens, s, p, first, n, token);
}

SWEEP_COLUMNS(f16, PACK_F16, tile, 6, CHUNK)
SWEEP_COLUMNS(f32, PACK_F32, tile, 6, CHUNK)

void matmul_float_neon_fill(cpu_kernels *k) {
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
