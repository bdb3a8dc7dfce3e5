/* ends_avx512.c - the smallest and largest elements of columns, sixteen of them side by side. Their c smallest and c
 * largest values stand in order, and a row that one of them keeps passes through the list by exchanges. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/inline.h"
#include <immintrin.h>
#include <math.h>

enum { LANES = 16 };

typedef struct lists { /* smallest and largest first; 105 KB on the stack */
    __m512 low[ENDS_MOST], high[ENDS_MOST];
} lists;

INLINE __mmask16 lanes(int left) {
    return left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
}

INLINE void enter_low(lists *l, int c, __m512 v) {
    for (int i = 0; i < c; i++) {
        __m512 kept = l->low[i];
        l->low[i] = _mm512_min_ps(v, kept);
        v = _mm512_max_ps(v, kept);
    }
}

INLINE void enter_high(lists *l, int c, __m512 v) {
    for (int i = 0; i < c; i++) {
        __m512 kept = l->high[i];
        l->high[i] = _mm512_max_ps(v, kept);
        v = _mm512_min_ps(v, kept);
    }
}

INLINE __m512d widen(__m512 v, int half) {
    return _mm512_cvtps_pd(half ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v));
}

static void column_ends(const float *x, int n, int n_columns, int c, float *low, float *high, float *mean) {
    lists l;
    for (int j = 0; j < n_columns; j += LANES) {
        __mmask16 live = lanes(n_columns - j);
        __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()}, count = _mm512_set1_pd(n);
        for (int i = 0; i < c; i++)
            l.low[i] = _mm512_set1_ps(INFINITY), l.high[i] = _mm512_set1_ps(-INFINITY);
        for (int i = 0; i < n; i++) {
            __m512 v = _mm512_maskz_loadu_ps(live, x + i * n_columns + j);
            for (int half = 0; half < 2; half++)
                sum[half] = _mm512_add_pd(sum[half], widen(v, half));
            if (_mm512_mask_cmp_ps_mask(live, v, l.low[c - 1], _CMP_LT_OQ))
                enter_low(&l, c, v);
            if (_mm512_mask_cmp_ps_mask(live, v, l.high[c - 1], _CMP_GT_OQ))
                enter_high(&l, c, v);
        }
        for (int half = 0; half < 2 && j + 8 * half < n_columns; half++)
            _mm256_storeu_ps(mean + j + 8 * half, _mm512_cvtpd_ps(_mm512_div_pd(sum[half], count)));
        _mm512_mask_storeu_ps(low + j, live, l.low[c - 1]);
        _mm512_mask_storeu_ps(high + j, live, l.high[c - 1]);
    }
}

static void mark_ends(const float *x, int n, int n_columns, const float *low, const float *high, uint32_t *mark) {
    for (int j = 0; j < n_columns; j += LANES) {
        __mmask16 live = lanes(n_columns - j);
        __m512 least = _mm512_maskz_loadu_ps(live, low + j), most = _mm512_maskz_loadu_ps(live, high + j);
        __m512i marks = _mm512_setzero_si512();
        for (int i = 0; i < n; i++) {
            __m512 v = _mm512_maskz_loadu_ps(live, x + i * n_columns + j);
            __mmask16 at = _mm512_cmp_ps_mask(v, least, _CMP_LE_OQ) | _mm512_cmp_ps_mask(v, most, _CMP_GE_OQ);
            marks = _mm512_mask_or_epi32(marks, at, marks, _mm512_set1_epi32((int)(1u << i)));
        }
        _mm512_mask_storeu_epi32(mark + j, live, marks);
    }
}

void ends_avx512_fill(cpu_kernels *k) {
    k->column_ends = column_ends;
    k->mark_ends = mark_ends;
}
#endif
