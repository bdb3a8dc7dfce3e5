/* softmax_avx512.c - one page of the online softmax: 64 scores are four vectors, their sum is taken pairwise. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/exp_avx512.h"
#include <math.h>

static float softmax_page(float *s, float *m, float *l) {
    __m512 v[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm512_loadu_ps(s + i * 16);
    float before = *m;
    float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(v[0], v[1]), _mm512_max_ps(v[2], v[3])));
    top = top > before ? top : before;
    if (top == -INFINITY) { /* nothing seen yet, nothing here */
        for (int i = 0; i < 4; i++)
            _mm512_storeu_ps(s + i * 16, _mm512_setzero_ps());
        return 1;
    }
    for (int i = 0; i < 4; i++) {
        v[i] = exp16(_mm512_sub_ps(v[i], _mm512_set1_ps(top)));
        _mm512_storeu_ps(s + i * 16, v[i]);
    }
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])));
    float c = before == top ? 1 : _mm512_cvtss_f32(exp16(_mm512_set1_ps(before - top)));
    *m = top;
    *l = __builtin_fmaf(*l, c, sum);
    return c;
}

void softmax_avx512_fill(cpu_kernels *k) {
    k->softmax_page = softmax_page;
}
#endif
