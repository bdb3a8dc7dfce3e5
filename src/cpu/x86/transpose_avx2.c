/* transpose_avx2.c - the transposition of a matrix, by squares of 8; what stands beside the last whole ones goes one by
 * one.
 */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/inline.h"
#include <immintrin.h>

enum { SIDE = 8 };

/* Rows i and i + 4 as one vector of their four columns from x on, for i below 4: then each half is turned by itself. */
INLINE void square(const float *x, size_t ldx, float *y, size_t ldy) {
    for (int half = 0; half < 2; half++) {
        __m256 v[4];
        __m256d a[4];
        for (size_t i = 0; i < 4; i++) {
            __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(x + i * ldx + 4 * half));
            v[i] = _mm256_insertf128_ps(low, _mm_loadu_ps(x + (i + 4) * ldx + 4 * half), 1);
        }
        a[0] = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
        a[1] = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
        a[2] = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
        a[3] = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
        for (size_t j = 0; j < 2; j++) {
            float *to = y + (4 * (size_t)half + 2 * j) * ldy;
            _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_unpacklo_pd(a[j], a[j + 2])));
            _mm256_storeu_ps(to + ldy, _mm256_castpd_ps(_mm256_unpackhi_pd(a[j], a[j + 2])));
        }
    }
}

INLINE void singly(const float *x, size_t ldx, int row, int n_rows, int column, int n_columns, float *y, size_t ldy) {
    for (int i = row; i < n_rows; i++)
        for (int j = column; j < n_columns; j++)
            y[(size_t)j * ldy + (size_t)i] = x[(size_t)i * ldx + (size_t)j];
}

static void transpose(const float *x, size_t ldx, int n_rows, int n_columns, float *y, size_t ldy) {
    int whole_rows = n_rows / SIDE * SIDE, whole_columns = n_columns / SIDE * SIDE;
    for (int i = 0; i < whole_rows; i += SIDE)
        for (int j = 0; j < whole_columns; j += SIDE)
            square(x + (size_t)i * ldx + j, ldx, y + (size_t)j * ldy + i, ldy);
    singly(x, ldx, 0, whole_rows, whole_columns, n_columns, y, ldy);
    singly(x, ldx, whole_rows, n_rows, 0, n_columns, y, ldy);
}

void transpose_avx2_fill(cpu_kernels *k) {
    k->transpose = transpose;
}
#endif
