/* ends_avx2.c - the smallest and largest elements of columns, eight of them side by side. Their c smallest and c
 * largest values stand in order, and a row that one of them keeps passes through the list by exchanges. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/inline.h"
#include <immintrin.h>
#include <math.h>

enum { LANES = 8 };

typedef struct lists { /* smallest and largest first */
    __m256 low[ENDS_MOST], high[ENDS_MOST];
} lists;

INLINE void enter_low(lists *l, int c, __m256 v) {
    for (int i = 0; i < c; i++) {
        __m256 kept = l->low[i];
        l->low[i] = _mm256_min_ps(v, kept);
        v = _mm256_max_ps(v, kept);
    }
}

INLINE void enter_high(lists *l, int c, __m256 v) {
    for (int i = 0; i < c; i++) {
        __m256 kept = l->high[i];
        l->high[i] = _mm256_max_ps(v, kept);
        v = _mm256_min_ps(v, kept);
    }
}

INLINE __m256d widen(__m256 v, int half) {
    return _mm256_cvtps_pd(half ? _mm256_extractf128_ps(v, 1) : _mm256_castps256_ps128(v));
}

static void column_ends(const float *x, int n, int n_columns, int c, float *low, float *high, float *mean) {
    lists l;
    for (int j = 0; j < n_columns; j += LANES) {
        __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()}, count = _mm256_set1_pd(n);
        for (int i = 0; i < c; i++)
            l.low[i] = _mm256_set1_ps(INFINITY), l.high[i] = _mm256_set1_ps(-INFINITY);
        for (int i = 0; i < n; i++) {
            __m256 v = _mm256_loadu_ps(x + i * n_columns + j);
            for (int half = 0; half < 2; half++)
                sum[half] = _mm256_add_pd(sum[half], widen(v, half));
            if (_mm256_movemask_ps(_mm256_cmp_ps(v, l.low[c - 1], _CMP_LT_OQ)))
                enter_low(&l, c, v);
            if (_mm256_movemask_ps(_mm256_cmp_ps(v, l.high[c - 1], _CMP_GT_OQ)))
                enter_high(&l, c, v);
        }
        for (int half = 0; half < 2; half++)
            _mm_storeu_ps(mean + j + 4 * half, _mm256_cvtpd_ps(_mm256_div_pd(sum[half], count)));
        _mm256_storeu_ps(low + j, l.low[c - 1]);
        _mm256_storeu_ps(high + j, l.high[c - 1]);
    }
}

static void mark_ends(const float *x, int n, int n_columns, const float *low, const float *high, uint32_t *mark) {
    for (int j = 0; j < n_columns; j += LANES) {
        __m256 least = _mm256_loadu_ps(low + j), most = _mm256_loadu_ps(high + j), marks = _mm256_setzero_ps();
        for (int i = 0; i < n; i++) {
            __m256 v = _mm256_loadu_ps(x + i * n_columns + j);
            __m256 at = _mm256_or_ps(_mm256_cmp_ps(v, least, _CMP_LE_OQ), _mm256_cmp_ps(v, most, _CMP_GE_OQ));
            __m256 bit = _mm256_castsi256_ps(_mm256_set1_epi32((int)(1u << i)));
            marks = _mm256_or_ps(marks, _mm256_and_ps(at, bit));
        }
        _mm256_storeu_si256((__m256i *)(mark + j), _mm256_castps_si256(marks));
    }
}

void ends_avx2_fill(cpu_kernels *k) {
    k->column_ends = column_ends;
    k->mark_ends = mark_ends;
}
#endif
