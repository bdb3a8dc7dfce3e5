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

void matmul_float_avx2_fill(cpu_kernels *k) {
    k->matmul[PACK_F16] = matmul_f16;
    k->matmul[PACK_F32] = matmul_f32;
}
#endif
