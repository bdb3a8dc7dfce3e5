/* softmax_neon.c - pages of the online softmax: 64 scores are sixteen vectors, their sum is taken pairwise, page after
 * page. */
#include "cpu/arm/exp_neon.h"
#include "cpu/arm/lanes_neon.h"
#include "cpu/fill.h"
#include <math.h>

enum { VECTORS = PAGE_TOKENS / 4 };

/* s: the row in the first page; its pages are `apart` floats apart. */
static float row(float *s, int n_pages, size_t apart, float *m, float *l) {
    float32x4_t most = vld1q_f32(s), sum = vdupq_n_f32(0);
    for (int page = 0; page < n_pages; page++)
        for (int i = 0; i < VECTORS; i++)
            most = vmaxq_f32(most, vld1q_f32(s + (size_t)page * apart + i * 4));
    float before = *m, top = vmaxvq_f32(most);
    top = top > before ? top : before;
    float from = top == -INFINITY ? 0 : top; /* nothing seen yet, nothing here: exp(-inf - 0) is 0 */
    for (int page = 0; page < n_pages; page++) {
        float32x4_t v[VECTORS];
        for (int i = 0; i < VECTORS; i++) {
            float *at = s + (size_t)page * apart + i * 4;
            v[i] = exp4(vsubq_f32(vld1q_f32(at), vdupq_n_f32(from)));
            vst1q_f32(at, v[i]);
        }
        for (int between = VECTORS / 2; between; between /= 2)
            for (int i = 0; i < between; i++)
                v[i] = vaddq_f32(v[i], v[i + between]);
        sum = vaddq_f32(sum, v[0]);
    }
    float c = top == -INFINITY ? 1 : vgetq_lane_f32(exp4(vdupq_n_f32(before - top)), 0);
    *m = top;
    *l = __builtin_fmaf(*l, c, vaddvq_f32(sum));
    return c;
}

static void softmax_pages(float *s, int n_pages, int n_rows, float *m, float *l, float *c) {
    for (int r = 0; r < n_rows; r++)
        c[r] = row(s + r * PAGE_TOKENS, n_pages, (size_t)n_rows * PAGE_TOKENS, &m[r], &l[r]);
}

void softmax_neon_fill(cpu_kernels *k) {
    k->softmax_pages = softmax_pages;
}
