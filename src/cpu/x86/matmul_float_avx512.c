/* matmul_float_avx512.c - products with matrices of halves and floats: a column of 16 rows is one vector, each token's
 * x is broadcast. Tile: 2 panels x 8 tokens, a chain of fused multiply-adds over rising columns per row and token.
 *
 * There is no form of it with vdpbf16ps. On Zen 4 that instruction peaks at 236 GFLOPS a core where this file's has 118
 * (bench/limit), but activations keep 16 bits only as two planes of bf16, which takes the factor of two back; one plane
 * keeps 8, and halves lose 3 of their 11. Nor is there a prefill to gain by it: the four models that `pleat fetch`
 * knows have vectors in floats, but no matrix in F16, BF16 or F32. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/panels_avx512.h"
#include "cpu/sweep.h"
#include <immintrin.h>

enum { TOKENS = 8, CHUNK = 256 }; /* columns: 2 panels' floats are 32 KB */

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
            acc[p][t] = first == 0
                            ? _mm512_setzero_ps()
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

SWEEP_COLUMNS(f16, PACK_F16, tile, 8, CHUNK)
SWEEP_COLUMNS(f32, PACK_F32, tile, 8, CHUNK)

void matmul_float_avx512_fill(cpu_kernels *k) {
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
#endif
