/* low_rank_avx512.c - products with a low-rank matrix.
 *
 * Up to eight rows go together; each 16 halves are made floats once for them. A row's product with a column is summed
 * up in 16 lanes, four rows' lanes are added up by one transposition. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/inline.h"
#include "cpu/x86/across_avx512.h"

enum { ROWS = 8, LANES = 16, VECTORS = 4 };

INLINE __m512 halves(const f16 *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

INLINE void dots(int n_rows, const low_rank_factor *w, const float *x, float *c) {
    for (int k = 0; k < w->rank; k++) {
        const f16 *column = w->x + k * w->n;
        float all[ROWS];
        __m512 sum[ROWS];
        for (int r = 0; r < ROWS; r++)
            sum[r] = _mm512_setzero_ps();
        for (int i = 0; i < w->n; i += LANES) {
            __m512 y = halves(column + i);
            for (int r = 0; r < n_rows; r++)
                sum[r] = _mm512_fmadd_ps(_mm512_loadu_ps(x + r * w->n + i), y, sum[r]);
        }
        for (int r = 0; r < n_rows; r += 4)
            _mm_storeu_ps(all + r, across_sum(sum + r));
        for (int r = 0; r < n_rows; r++)
            c[r * w->rank + k] = all[r];
    }
}

/* So many vectors of columns of out from t on. */
INLINE void columns(int n_rows, int n_vectors, const low_rank_factor *w, int t, const float *c, float *out) {
    __m512 sum[ROWS][VECTORS];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            sum[r][v] = _mm512_loadu_ps(out + r * w->n + t + LANES * v);
    for (int k = 0; k < w->rank; k++)
        for (int v = 0; v < n_vectors; v++) {
            __m512 y = halves(w->x + k * w->n + t + LANES * v);
            for (int r = 0; r < n_rows; r++)
                sum[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(c[r * w->rank + k]), y, sum[r][v]);
        }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            _mm512_storeu_ps(out + r * w->n + t + LANES * v, sum[r][v]);
}

#define ROWS_FUNCTION(n_rows, n_vectors)                                                                               \
    static void dots_##n_rows(const low_rank_factor *w, const float *x, float *c) {                                    \
        dots(n_rows, w, x, c);                                                                                         \
    }                                                                                                                  \
    static void add_##n_rows(const low_rank_factor *w, const float *c, float *out) {                                   \
        int t = 0;                                                                                                     \
        for (; t + LANES * n_vectors <= w->n; t += LANES * n_vectors)                                                  \
            columns(n_rows, n_vectors, w, t, c, out);                                                                  \
        for (; t < w->n; t += LANES)                                                                                   \
            columns(n_rows, 1, w, t, c, out);                                                                          \
    }

ROWS_FUNCTION(1, 4)
ROWS_FUNCTION(2, 4)
ROWS_FUNCTION(3, 4)
ROWS_FUNCTION(4, 4)
ROWS_FUNCTION(5, 2)
ROWS_FUNCTION(6, 2)
ROWS_FUNCTION(7, 2)
ROWS_FUNCTION(8, 2)

typedef void rows_function(const low_rank_factor *, const float *, float *);

static void low_rank_dots(const low_rank_factor *w, const float *x, int n_rows, float *c) {
    static rows_function *const rows[ROWS] = {dots_1, dots_2, dots_3, dots_4, dots_5, dots_6, dots_7, dots_8};
    for (; n_rows > 0; n_rows -= ROWS, x += ROWS * w->n, c += ROWS * w->rank)
        rows[n_rows < ROWS ? n_rows - 1 : ROWS - 1](w, x, c);
}

static void low_rank_add(const low_rank_factor *w, const float *c, int n_rows, float *out) {
    static rows_function *const rows[ROWS] = {add_1, add_2, add_3, add_4, add_5, add_6, add_7, add_8};
    for (; n_rows > 0; n_rows -= ROWS, c += ROWS * w->rank, out += ROWS * w->n)
        rows[n_rows < ROWS ? n_rows - 1 : ROWS - 1](w, c, out);
}

void low_rank_avx512_fill(cpu_kernels *k) {
    k->low_rank_dots = low_rank_dots;
    k->low_rank_add = low_rank_add;
}
#endif
