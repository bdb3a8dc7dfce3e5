/* matmul_float_avx2.c - products with matrices of halves and floats: a column of 16 rows is two vectors, each token's x
 * is broadcast. Tile: 1 panel x 6 tokens, a chain of fused multiply-adds over rising columns per row and token. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/lanes_avx2.h"
#include "cpu/sweep.h"

enum { TOKENS = 6, CHUNK = 256 }; /* columns: a panel's floats are 16 KB */

INLINE __m256 column(pack_type type, const uint8_t *panel, size_t c, int half) {
    if (type == PACK_F16)
        return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(panel + c * 32 + half * 16)));
    return _mm256_load_ps((const float *)(panel + c * 64) + half * 8);
}

INLINE void one_panel(pack_type type, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    size_t n_cols = (size_t)s->w->n_cols;
    const float *x = s->x->x + (size_t)token * n_cols;
    float *out = s->out + (size_t)token * s->ldo + (size_t)panel * PACK_ROWS;
    const uint8_t *data = s->w->data + (size_t)panel * s->w->panel_bytes;
    int left = s->w->n_rows - panel * PACK_ROWS;
    __m256 acc[TOKENS][2];
    for (int t = 0; t < n_tokens; t++) {
        acc[t][0] = first == 0 ? _mm256_setzero_ps() : load8(out + (size_t)t * s->ldo, left);
        acc[t][1] = first == 0 ? _mm256_setzero_ps() : load8(out + (size_t)t * s->ldo + 8, left - 8);
    }
    for (size_t c = (size_t)first; c < (size_t)first + (size_t)n; c++) {
        __m256 low = column(type, data, c, 0), high = column(type, data, c, 1);
        for (int t = 0; t < n_tokens; t++) {
            __m256 v = _mm256_set1_ps(x[(size_t)t * n_cols + c]);
            acc[t][0] = _mm256_fmadd_ps(v, low, acc[t][0]);
            acc[t][1] = _mm256_fmadd_ps(v, high, acc[t][1]);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        store8(out + (size_t)t * s->ldo, left, acc[t][0]);
        store8(out + (size_t)t * s->ldo + 8, left - 8, acc[t][1]);
    }
}

INLINE void tile(pack_type type, int n_panels, int n_tokens, const sweep *s, int panel, int first, int n, int token) {
    for (int p = panel; p < panel + n_panels; p++)
        one_panel(type, n_tokens, s, p, first, n, token);
}

SWEEP_COLUMNS(f16, PACK_F16, tile, 6, CHUNK)
SWEEP_COLUMNS(f32, PACK_F32, tile, 6, CHUNK)

void matmul_float_avx2_fill(cpu_kernels *k) {
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
#endif
