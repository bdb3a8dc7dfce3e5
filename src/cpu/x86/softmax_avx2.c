/* softmax_avx2.c - one page of the online softmax: 64 scores are eight vectors, their sum is taken pairwise. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/exp_avx2.h"
#include "cpu/x86/lanes_avx2.h"
#include <math.h>

static float row(float *s, float *m, float *l) {
    __m256 v[8], most = _mm256_loadu_ps(s);
    for (int i = 0; i < 8; i++) {
        v[i] = _mm256_loadu_ps(s + i * 8);
        most = _mm256_max_ps(most, v[i]);
    }
    float before = *m, top = max8(most);
    top = top > before ? top : before;
    if (top == -INFINITY) { /* nothing seen yet, nothing here */
        for (int i = 0; i < 8; i++)
            _mm256_storeu_ps(s + i * 8, _mm256_setzero_ps());
        return 1;
    }
    for (int i = 0; i < 8; i++) {
        v[i] = exp8(_mm256_sub_ps(v[i], _mm256_set1_ps(top)));
        _mm256_storeu_ps(s + i * 8, v[i]);
    }
    for (int apart = 4; apart; apart /= 2)
        for (int i = 0; i < apart; i++)
            v[i] = _mm256_add_ps(v[i], v[i + apart]);
    float c = before == top ? 1 : _mm256_cvtss_f32(exp8(_mm256_set1_ps(before - top)));
    *m = top;
    *l = __builtin_fmaf(*l, c, sum8(v[0]));
    return c;
}

static void softmax_page(float *s, int n_rows, float *m, float *l, float *c) {
    for (int r = 0; r < n_rows; r++)
        c[r] = row(s + r * PAGE_TOKENS, &m[r], &l[r]);
}

void softmax_avx2_fill(cpu_kernels *k) {
    k->softmax_page = softmax_page;
}
#endif
