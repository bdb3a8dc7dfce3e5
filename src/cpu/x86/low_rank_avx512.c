/* low_rank_avx512.c - products with a low-rank matrix.
 *
 * Up to eight rows go together; each 16 halves of `left` and `right` are made floats once for them. A row's product
 * with a column of `left` is summed up in 16 lanes, four rows' lanes are added up by one transposition. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/across_avx512.h"

enum { ROWS = 8, LANES = 16, VECTORS = 4 };

#define INLINE static inline __attribute__((always_inline))

INLINE __m512 halves(const f16 *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

/* c[k][r] = row r . column k of `left` */
INLINE void dots(int n_rows, const low_rank_matrix *w, const float *x, float (*c)[ROWS]) {
    for (int k = 0; k < w->rank; k++) {
        const f16 *column = w->left + k * w->n;
        __m512 sum[ROWS];
        for (int r = 0; r < ROWS; r++)
            sum[r] = _mm512_setzero_ps();
        for (int i = 0; i < w->n; i += LANES) {
            __m512 y = halves(column + i);
            for (int r = 0; r < n_rows; r++)
                sum[r] = _mm512_fmadd_ps(_mm512_loadu_ps(x + r * w->n + i), y, sum[r]);
        }
        for (int r = 0; r < n_rows; r += 4)
            _mm_storeu_ps(c[k] + r, across_sum(sum + r));
    }
}

/* So many vectors of columns of out from t on. */
INLINE void columns(int n_rows, int n_vectors, const low_rank_matrix *w, int t, const float (*c)[ROWS], float *out) {
    __m512 sum[ROWS][VECTORS];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            sum[r][v] = _mm512_loadu_ps(out + r * w->m + t + LANES * v);
    for (int k = 0; k < w->rank; k++)
        for (int v = 0; v < n_vectors; v++) {
            __m512 y = halves(w->right + k * w->m + t + LANES * v);
            for (int r = 0; r < n_rows; r++)
                sum[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(c[k][r]), y, sum[r][v]);
        }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            _mm512_storeu_ps(out + r * w->m + t + LANES * v, sum[r][v]);
}

/* add_ROWS stands apart from dots, lest the compiler spread each number of c, used or not, over a vector of its own. */
#define ROWS_FUNCTION(n, vectors)                                                                                      \
    static __attribute__((noinline)) void add_##n(const low_rank_matrix *w, const float(*c)[ROWS], float *out) {       \
        int t = 0;                                                                                                     \
        for (; t + LANES * vectors <= w->m; t += LANES * vectors)                                                      \
            columns(n, vectors, w, t, c, out);                                                                         \
        for (; t < w->m; t += LANES)                                                                                   \
            columns(n, 1, w, t, c, out);                                                                               \
    }                                                                                                                  \
    static void rows_##n(const low_rank_matrix *w, const float *x, float *out) {                                       \
        float c[LOW_RANK_MOST][ROWS];                                                                                  \
        dots(n, w, x, c);                                                                                              \
        add_##n(w, (const float(*)[ROWS])c, out);                                                                      \
    }

ROWS_FUNCTION(1, 4)
ROWS_FUNCTION(2, 4)
ROWS_FUNCTION(3, 4)
ROWS_FUNCTION(4, 4)
ROWS_FUNCTION(5, 2)
ROWS_FUNCTION(6, 2)
ROWS_FUNCTION(7, 2)
ROWS_FUNCTION(8, 2)

static void low_rank(const low_rank_matrix *w, const float *x, int n_rows, float *out) {
    static void (*const rows[ROWS])(const low_rank_matrix *, const float *, float *) = {rows_1, rows_2, rows_3, rows_4,
                                                                                        rows_5, rows_6, rows_7, rows_8};
    for (; n_rows > 0; n_rows -= ROWS, x += ROWS * w->n, out += ROWS * w->m)
        rows[n_rows < ROWS ? n_rows - 1 : ROWS - 1](w, x, out);
}

void low_rank_avx512_fill(cpu_kernels *k) {
    k->low_rank = low_rank;
}
#endif
