/* softmax_avx2.c - pages of the online softmax: 64 scores are eight vectors, their sum is taken pairwise, page after
 * page. */
#include "cpu/fill.h"
#ifdef __x86_64__
#include "cpu/x86/exp_avx2.h"
#include "cpu/x86/lanes_avx2.h"
#include <math.h>

enum { VECTORS = PAGE_TOKENS / 8 };

/* s: the row in the first page; its pages are `apart` floats apart. */
static float row(float *s, int n_pages, size_t apart, float *m, float *l) {
    __m256 most = _mm256_loadu_ps(s), sum = _mm256_setzero_ps();
    for (int page = 0; page < n_pages; page++)
        for (int i = 0; i < VECTORS; i++)
            most = _mm256_max_ps(most, _mm256_loadu_ps(s + (size_t)page * apart + i * 8));
    float before = *m, top = max8(most);
    top = top > before ? top : before;
    float from = top == -INFINITY ? 0 : top; /* nothing seen yet, nothing here: exp(-inf - 0) is 0 */
    for (int page = 0; page < n_pages; page++) {
        __m256 v[VECTORS];
        for (int i = 0; i < VECTORS; i++) {
            float *at = s + (size_t)page * apart + i * 8;
            v[i] = exp8(_mm256_sub_ps(_mm256_loadu_ps(at), _mm256_set1_ps(from)));
            _mm256_storeu_ps(at, v[i]);
        }
        for (int between = VECTORS / 2; between; between /= 2)
            for (int i = 0; i < between; i++)
                v[i] = _mm256_add_ps(v[i], v[i + between]);
        sum = _mm256_add_ps(sum, v[0]);
    }
    float c = top == -INFINITY ? 1 : _mm256_cvtss_f32(exp8(_mm256_set1_ps(before - top)));
    *m = top;
    *l = __builtin_fmaf(*l, c, sum8(sum));
    return c;
}

static void softmax_pages(float *s, int n_pages, int n_rows, float *m, float *l, float *c) {
    for (int r = 0; r < n_rows; r++)
        c[r] = row(s + r * PAGE_TOKENS, n_pages, (size_t)n_rows * PAGE_TOKENS, &m[r], &l[r]);
}

void softmax_avx2_fill(cpu_kernels *k) {
    k->softmax_pages = softmax_pages;
}
#endif
