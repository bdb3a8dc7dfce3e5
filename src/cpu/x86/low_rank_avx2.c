/* low_rank_avx2.c - products with a low-rank matrix.
 *
 * Four rows go together; each half is made a float once for them. A row's product with a column is summed up in two
 * vectors of 8 lanes, four rows' lanes are added up by one transposition. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/lanes_avx2.h"

enum { ROWS = 4 };

INLINE __m256 halves(const f16 *x) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
}

/* Sums over the lanes of four vectors. */
INLINE __m128 across_sum(const __m256 v[ROWS]) {
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
}

/* The products of n_rows rows with a column [n]. */
INLINE __m128 dots(int n_rows, const float *x, const f16 *column, int n) {
    __m256 sum[ROWS][2], all[ROWS];
    for (int r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 16)
        for (int k = 0; k < 2; k++) {
            __m256 y = halves(column + i + 8 * k);
            for (int r = 0; r < n_rows; r++)
                sum[r][k] = _mm256_fmadd_ps(_mm256_loadu_ps(x + r * n + i + 8 * k), y, sum[r][k]);
        }
    for (int r = 0; r < ROWS; r++)
        all[r] = _mm256_add_ps(sum[r][0], sum[r][1]);
    return across_sum(all);
}

INLINE void dots_rows(int n_rows, const low_rank_factor *w, const float *x, float *c) {
    for (int k = 0; k < w->rank; k++) {
        float four[ROWS];
        _mm_storeu_ps(four, dots(n_rows, x, w->x + k * w->n, w->n));
        for (int r = 0; r < n_rows; r++)
            c[r * w->rank + k] = four[r];
    }
}

INLINE void add_rows(int n_rows, const low_rank_factor *w, const float *c, float *out) {
    for (int t = 0; t < w->n; t += 16) {
        __m256 sum[ROWS][2];
        for (int r = 0; r < n_rows; r++)
            for (int h = 0; h < 2; h++)
                sum[r][h] = _mm256_loadu_ps(out + r * w->n + t + 8 * h);
        for (int k = 0; k < w->rank; k++)
            for (int h = 0; h < 2; h++) {
                __m256 y = halves(w->x + k * w->n + t + 8 * h);
                for (int r = 0; r < n_rows; r++)
                    sum[r][h] = _mm256_fmadd_ps(_mm256_broadcast_ss(c + r * w->rank + k), y, sum[r][h]);
            }
        for (int r = 0; r < n_rows; r++)
            for (int h = 0; h < 2; h++)
                _mm256_storeu_ps(out + r * w->n + t + 8 * h, sum[r][h]);
    }
}

static void low_rank_dots(const low_rank_factor *w, const float *x, int n_rows, float *c) {
    for (; n_rows >= ROWS; n_rows -= ROWS, x += ROWS * w->n, c += ROWS * w->rank)
        dots_rows(ROWS, w, x, c);
    if (n_rows == 3)
        dots_rows(3, w, x, c);
    else if (n_rows == 2)
        dots_rows(2, w, x, c);
    else if (n_rows == 1)
        dots_rows(1, w, x, c);
}

static void low_rank_add(const low_rank_factor *w, const float *c, int n_rows, float *out) {
    for (; n_rows >= ROWS; n_rows -= ROWS, c += ROWS * w->rank, out += ROWS * w->n)
        add_rows(ROWS, w, c, out);
    if (n_rows == 3)
        add_rows(3, w, c, out);
    else if (n_rows == 2)
        add_rows(2, w, c, out);
    else if (n_rows == 1)
        add_rows(1, w, c, out);
}

void low_rank_avx2_fill(cpu_kernels *k) {
    k->low_rank_dots = low_rank_dots;
    k->low_rank_add = low_rank_add;
}
#endif
