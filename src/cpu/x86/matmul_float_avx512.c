/* matmul_float_avx512.c - products with matrices of halves and floats: a column of 16 rows is one vector, each token's x
 * is broadcast. Tile: 2 panels x 8 tokens, a chain of fused multiply-adds over rising columns per row and token.
 *
 * There is no form of it with vdpbf16ps. On Zen 4 that instruction peaks at 236 GFLOPS a core where this file's has 118
 * (bench/limit), but activations keep 16 bits only as two planes of bf16, which takes the factor of two back; one plane
 * keeps 8, and halves lose 3 of their 11. Nor is there a prefill to gain by it: the four models that `pleat fetch` knows
 * have vectors in floats, but no matrix in F16, BF16 or F32. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/panels_avx512.h"
#include "cpu/sweep.h"
#include <immintrin.h>

enum { TOKENS = 8, CHUNK = 256 }; /* columns: 2 panels' floats are 32 KB */

#define INLINE static inline __attribute__((always_inline))

INLINE __m512 column(pack_type type, const uint8_t *panel, size_t c) {
    if (type == PACK_F16)
        return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(panel + c * 32)));
    return _mm512_load_ps((const float *)(panel + c * 64));
}

INLINE void tile(pack_type type, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    size_t n_cols = (size_t)s->w->n_cols;
    const float *x = s->x->x + (size_t)token * n_cols;
    float *out = s->out + (size_t)token * s->ldo + (size_t)panel * PACK_ROWS;
    const uint8_t *data = s->w->data + (size_t)panel * s->w->panel_bytes;
    __m512 acc[2][TOKENS];
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            acc[p][t] = first == 0 ? _mm512_setzero_ps()
                                   : _mm512_maskz_loadu_ps(live_rows(s->w, panel + p), out + (size_t)t * s->ldo + p * 16);
    for (size_t c = (size_t)first; c < (size_t)first + (size_t)n; c++) {
        __m512 w[2];
        for (int p = 0; p < n_panels; p++)
            w[p] = column(type, data + (size_t)p * s->w->panel_bytes, c);
        for (int t = 0; t < n_tokens; t++) {
            __m512 v = _mm512_set1_ps(x[(size_t)t * n_cols + c]);
            for (int p = 0; p < n_panels; p++)
                acc[p][t] = _mm512_fmadd_ps(v, w[p], acc[p][t]);
        }
    }
    for (int p = 0; p < n_panels; p++)
        for (int t = 0; t < n_tokens; t++)
            _mm512_mask_storeu_ps(out + (size_t)t * s->ldo + p * 16, live_rows(s->w, panel + p), acc[p][t]);
}

#define TILE_FUNCTION(name, type, p, t)                                                                                \
    static void name##_##p##x##t(const sweep *s, int panel, int first, int n, int token) {                             \
        tile(type, p, t, s, panel, first, n, token);                                                                   \
    }
#define TILE_ROW(name, type, p)                                                                                        \
    TILE_FUNCTION(name, type, p, 1)                                                                                    \
    TILE_FUNCTION(name, type, p, 2)                                                                                    \
    TILE_FUNCTION(name, type, p, 3)                                                                                    \
    TILE_FUNCTION(name, type, p, 4)                                                                                    \
    TILE_FUNCTION(name, type, p, 5)                                                                                    \
    TILE_FUNCTION(name, type, p, 6)                                                                                    \
    TILE_FUNCTION(name, type, p, 7)                                                                                    \
    TILE_FUNCTION(name, type, p, 8)
#define KERNEL(name, type)                                                                                             \
    TILE_ROW(name, type, 1)                                                                                            \
    TILE_ROW(name, type, 2)                                                                                            \
    static void matmul_##name(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,    \
                              float *out, size_t ldo) {                                                                \
        static const sweep_tile tiles[2 * TOKENS] = {                                                                  \
            name##_1x1, name##_1x2, name##_1x3, name##_1x4, name##_1x5, name##_1x6, name##_1x7, name##_1x8,            \
            name##_2x1, name##_2x2, name##_2x3, name##_2x4, name##_2x5, name##_2x6, name##_2x7, name##_2x8};           \
        sweep s = {w, x, out, ldo};                                                                                    \
        sweep_run(&s, tiles, TOKENS, w->n_cols, CHUNK, sizeof(float), panel_first, n_panels, n_tokens);                \
    }

KERNEL(f16, PACK_F16)
KERNEL(f32, PACK_F32)

void matmul_float_avx512_fill(cpu_kernels *k) {
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
#endif
