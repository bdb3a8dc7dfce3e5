/* softmax_avx512.c - pages of the online softmax: 64 scores are four vectors; four rows go together, so that their
 * maxima, sums and corrections are single vectors. A row meets the same operations in a block of 1 to 4 rows. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/inline.h"
#include "cpu/x86/across_avx512.h"
#include "cpu/x86/exp_avx512.h"
#include <math.h>

enum { ROWS = 4, VECTORS = PAGE_TOKENS / 16 };

/* apart: floats from a row in one page to the same in the next. */
INLINE void block(int n_rows, float *s, int n_pages, size_t apart, float *m, float *l, float *c) {
    const __m128 nothing = _mm_set1_ps(-INFINITY);
    __mmask8 live = (__mmask8)((1 << n_rows) - 1);
    __m512 most[ROWS], sum[ROWS];
    for (int r = 0; r < ROWS; r++)
        most[r] = _mm512_set1_ps(-INFINITY), sum[r] = _mm512_setzero_ps();
    for (int page = 0; page < n_pages; page++)
        for (int r = 0; r < n_rows; r++)
            for (int i = 0; i < VECTORS; i++)
                most[r] = _mm512_max_ps(most[r], _mm512_loadu_ps(s + (size_t)page * apart + r * PAGE_TOKENS + i * 16));
    __m128 before = _mm_maskz_loadu_ps(live, m), top = _mm_max_ps(before, across_max(most));
    /* Where nothing was ever seen, 0 stands for the maximum: exp(-inf - 0) is 0. */
    __mmask8 unseen = _mm_cmp_ps_mask(top, nothing, _CMP_EQ_OQ);
    __m128 from = _mm_mask_mov_ps(top, unseen, _mm_setzero_ps());
    _Alignas(16) float least[ROWS];
    _mm_store_ps(least, from);
    for (int page = 0; page < n_pages; page++)
        for (int r = 0; r < n_rows; r++) {
            float *at = s + (size_t)page * apart + r * PAGE_TOKENS;
            __m512 v[VECTORS];
            for (int i = 0; i < VECTORS; i++) {
                v[i] = exp16(_mm512_sub_ps(_mm512_loadu_ps(at + i * 16), _mm512_set1_ps(least[r])));
                _mm512_storeu_ps(at + i * 16, v[i]);
            }
            sum[r] = _mm512_add_ps(sum[r], _mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])));
        }
    __m128 keep = _mm512_castps512_ps128(exp16(_mm512_castps128_ps512(_mm_sub_ps(before, from))));
    keep = _mm_mask_mov_ps(keep, unseen, _mm_set1_ps(1));
    _mm_mask_storeu_ps(m, live, top);
    _mm_mask_storeu_ps(l, live, _mm_fmadd_ps(_mm_maskz_loadu_ps(live, l), keep, across_sum(sum)));
    _mm_mask_storeu_ps(c, live, keep);
}

static void softmax_pages(float *s, int n_pages, int n_rows, float *m, float *l, float *c) {
    size_t apart = (size_t)n_rows * PAGE_TOKENS;
    int r = 0;
    for (; r + ROWS <= n_rows; r += ROWS)
        block(ROWS, s + r * PAGE_TOKENS, n_pages, apart, m + r, l + r, c + r);
    if (n_rows - r == 3)
        block(3, s + r * PAGE_TOKENS, n_pages, apart, m + r, l + r, c + r);
    else if (n_rows - r == 2)
        block(2, s + r * PAGE_TOKENS, n_pages, apart, m + r, l + r, c + r);
    else if (n_rows - r == 1)
        block(1, s + r * PAGE_TOKENS, n_pages, apart, m + r, l + r, c + r);
}

void softmax_avx512_fill(cpu_kernels *k) {
    k->softmax_pages = softmax_pages;
}
#endif
